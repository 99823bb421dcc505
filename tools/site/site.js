// Theme, menu, copy buttons, the table of contents' place, and search. No library, and no server: it works from a folder.
const $ = id => document.getElementById(id), root = document.documentElement
const isDark = () => root.dataset.theme ? root.dataset.theme == 'dark' : matchMedia('(prefers-color-scheme: dark)').matches

$('theme').onclick = () => {
  root.dataset.theme = isDark() ? 'light' : 'dark'
  try { localStorage.theme = root.dataset.theme } catch {}
}
$('menu').onclick = () => $('menu').setAttribute('aria-expanded', $('pages').classList.toggle('open'))

// Copy buttons
for (const pre of document.querySelectorAll('pre.code')) {
  const holder = document.createElement('div'), b = document.createElement('button')
  holder.className = 'holder'; b.className = 'copy'; b.textContent = 'copy'
  pre.replaceWith(holder); holder.append(pre, b)
  b.onclick = async () => {
    try { await navigator.clipboard.writeText(pre.innerText); b.textContent = 'copied' }
    catch { getSelection().selectAllChildren(pre); b.textContent = 'selected' }
    setTimeout(() => b.textContent = 'copy', 1500)
  }
}

// A figure opens in full: on a phone its letters are too small
for (const img of document.querySelectorAll('article figure > img')) {
  const a = document.createElement('a')
  a.href = img.src; a.title = 'Open in full size'
  img.replaceWith(a); a.append(img)
}

// A link into a folded part opens it
function unfold() {
  const to = location.hash && $(decodeURIComponent(location.hash.slice(1)))
  const fold = to && (to.closest('details') || to.nextElementSibling)
  if (fold && fold.tagName == 'DETAILS') { fold.open = true; to.scrollIntoView() }
}
addEventListener('hashchange', unfold); unfold()

// The table of contents shows where you are
const entries = [...document.querySelectorAll('#toc a')].map(a => [a, $(decodeURIComponent(a.hash.slice(1)))]).filter(e => e[1])
function place() {
  let at = null
  for (const [a, h] of entries) if (h.getBoundingClientRect().top < 120) at = a
  for (const [a] of entries) a.classList.toggle('on', a == at)
}
addEventListener('scroll', place, {passive: true}); place()

// Search: a script holds the text of all pages, so that it is found over file:// too
const esc = s => s.replace(/[&<>"]/g, c => `&#${c.charCodeAt()};`)
let index = null
function load() {
  index ||= new Promise(done => { const s = document.createElement('script'); s.src = 'assets/search.js'; s.onload = () => done(window.SEARCH); document.head.append(s) })
  return index
}
function score([page, anchor, title, text], words) {
  const t = title.toLowerCase(), b = text.toLowerCase()
  let n = 0
  for (const w of words) {
    if (!t.includes(w) && !b.includes(w)) return 0
    if (!anchor && t.includes(w)) n += 8 // the page itself
    n += (t == w ? 20 : t.startsWith(w) ? 10 : t.includes(w) ? 6 : 0) + Math.min(b.split(w).length - 1, 5) / 2
  }
  return page == 'reference.html' ? .7 * n : page.startsWith('engine-') ? .85 * n : n // lessons first
}
function row([page, anchor, title, text], words) {
  const at = Math.max(0, text.toLowerCase().indexOf(words[0]) - 50)
  const cut = (at ? '…' : '') + text.slice(at, at + 150)
  const re = RegExp('(' + words.map(w => esc(w).replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|') + ')', 'gi')
  const pageTitle = document.querySelector(`#pages a[href="${page}"]`)?.textContent || page
  return `<a href="${page}${anchor && '#' + anchor}"><b>${esc(title)}</b>${esc(pageTitle) == esc(title) ? '' : esc(pageTitle) + ' — '}${esc(cut).replace(re, '<mark>$1</mark>')}</a>`
}
async function search() {
  const words = $('q').value.toLowerCase().split(/\s+/).filter(Boolean), box = $('found')
  box.hidden = !words.length
  if (!words.length) return
  const hits = (await load()).map(s => [score(s, words), s]).filter(h => h[0]).sort((a, b) => b[0] - a[0]).slice(0, 12)
  box.innerHTML = hits.map(h => row(h[1], words)).join('') || '<p>Nothing found.</p>'
}
$('q').oninput = search
$('q').onkeydown = e => {
  const rows = [...$('found').querySelectorAll('a')], at = rows.findIndex(r => r.classList.contains('on'))
  if (e.key == 'Escape') { $('q').value = ''; search() }
  if (e.key == 'Enter' && rows.length) location.href = (rows[at] || rows[0]).href
  if (e.key == 'ArrowDown' || e.key == 'ArrowUp') {
    e.preventDefault()
    rows[at]?.classList.remove('on')
    const to = rows[Math.max(0, Math.min(rows.length - 1, at + (e.key == 'ArrowDown' ? 1 : -1)))]
    to?.classList.add('on'); to?.scrollIntoView({block: 'nearest'})
  }
}
addEventListener('keydown', e => { if (e.key == '/' && !/INPUT|TEXTAREA/.test(e.target.tagName)) { e.preventDefault(); $('q').focus() } })
addEventListener('click', e => { if (!e.target.closest('.search')) $('found').hidden = true; if (!e.target.closest('#pages, #menu')) $('pages').classList.remove('open') })
