// Theme, menu, copy buttons, contents that follow the reading, progress, and search. No library, and no server: it works from a folder.
const $ = id => document.getElementById(id), all = (q, at = document) => [...at.querySelectorAll(q)], root = document.documentElement
const here = document.body.dataset.name
const isDark = () => root.dataset.theme ? root.dataset.theme == 'dark' : matchMedia('(prefers-color-scheme: dark)').matches

$('theme').onclick = () => {
  root.dataset.theme = isDark() ? 'light' : 'dark'
  try { localStorage.theme = root.dataset.theme } catch {}
}
function menu(open) {
  $('pages').classList.toggle('open', open)
  $('menu').setAttribute('aria-expanded', open)
  if (open) ($('pages').querySelector('[aria-current]') || $('pages').querySelector('a')).focus()
}
$('menu').onclick = () => menu(!$('pages').classList.contains('open'))
$('pages').querySelector('[aria-current]')?.scrollIntoView({block: 'nearest'})

// Copy buttons; a wide block can be scrolled from the keyboard
for (const pre of all('pre.code')) {
  const holder = document.createElement('div'), b = document.createElement('button')
  holder.className = 'holder'; b.className = 'copy'; b.textContent = 'copy'
  pre.replaceWith(holder); holder.append(pre, b)
  b.onclick = async () => {
    try { await navigator.clipboard.writeText(pre.innerText); b.textContent = 'copied' }
    catch { getSelection().selectAllChildren(pre); b.textContent = 'selected' }
    setTimeout(() => b.textContent = 'copy', 1500)
  }
}
const scrollable = 'article pre, article table, article figure, .math.block, div.math, .html'
const reach = () => all(scrollable).forEach(e => e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1 ? e.tabIndex = 0 : e.removeAttribute('tabindex'))
addEventListener('load', reach); addEventListener('resize', reach); document.addEventListener('toggle', reach, true)

// A figure opens in full: on a phone its letters are too small
for (const img of all('article figure > img')) {
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

// The contents: beside the text they show where you are, on a narrow screen they are folded above it
const toc = $('toc')
if (toc.children.length && here != 'index') {
  const small = document.createElement('details')
  small.id = 'small-toc'
  small.innerHTML = `<summary>On this page</summary>${toc.innerHTML}`
  small.onclick = e => { if (e.target.tagName == 'A') small.open = false }
  document.querySelector('article .links').after(small)
}
const entries = all('#toc a').map(a => [a, $(decodeURIComponent(a.hash.slice(1)))]).filter(e => e[1])
let last = null
function place() {
  let at = null
  for (const [a, h] of entries) if (h.getBoundingClientRect().top < 120) at = a
  if (at == last) return
  last?.classList.remove('on'); last?.removeAttribute('aria-current')
  at?.classList.add('on'); at?.setAttribute('aria-current', 'location')
  last = at
  if (at && toc.scrollHeight > toc.clientHeight) toc.scrollTop = at.offsetTop - toc.clientHeight/2
}
addEventListener('scroll', place, {passive: true}); place()

// What you have read and solved, kept in this browser alone
const kept = name => { try { return JSON.parse(localStorage[name] || '{}') } catch { return {} } }
function keep(name, key, on) {
  const now = kept(name)
  if (on) now[key] = 1; else delete now[key]
  try { localStorage[name] = JSON.stringify(now) } catch {}
  show()
}
const solvedOf = page => Object.keys(kept('slm-solved')).filter(k => k.startsWith(page + '.')).length
function show() {
  const read = kept('slm-read')
  for (const a of all('[data-page]')) {
    const page = a.dataset.page, of = +a.dataset.exercises || 0, n = of && solvedOf(page)
    const said = [n ? `${n}/${of}` : '', read[page] ? '✓' : ''].filter(Boolean).join(' ')
    let i = a.querySelector('i')
    if (!i && said) { i = document.createElement('i'); a.append(i) }
    if (i) { i.textContent = said; i.title = said && [n ? `${n} of ${of} exercises solved` : '', read[page] ? 'read' : ''].filter(Boolean).join(', ') }
  }
  for (const box of all('[data-exercise]')) box.checked = !!kept('slm-solved')[box.dataset.exercise]
  const solved = $('solved'), n = solvedOf(here)
  if (solved) { solved.textContent = n ? `${n} of ${solved.dataset.of} exercises solved` : `${solved.dataset.of} exercises`; solved.classList.toggle('all', n >= +solved.dataset.of) }
  if ($('read')) $('read').querySelector('input').checked = !!read[here]
}
for (const box of all('[data-exercise]')) box.onchange = () => keep('slm-solved', box.dataset.exercise, box.checked)
if (document.querySelector('#pages [aria-current][data-page]')) {
  $('read').hidden = false
  let began = false // who comes to the end by reading has read the page; who only opened it has not
  $('read').querySelector('input').onchange = e => { began = true; keep('slm-read', here, e.target.checked) }
  addEventListener('scroll', () => {
    if (!began && document.querySelector('footer').getBoundingClientRect().top < innerHeight) { began = true; if (!kept('slm-read')[here]) keep('slm-read', here, true) }
  }, {passive: true})
}
show()
addEventListener('storage', show)

// Search: a script holds the names and the text of all pages, so that it is found over file:// too
const esc = s => s.replace(/[&<>"]/g, c => `&#${c.charCodeAt()};`)
let index = null
function load() {
  index ||= new Promise(done => { const s = document.createElement('script'); s.src = 'assets/search.js'; s.onload = () => done(rows(window.SEARCH)); document.head.append(s) })
  return index
}
const rows = ([names, parts]) => [
  ...names.map(([to, title, text]) => ({to, title, text, words: '', isName: true})),
  ...parts.map(([page, anchor, title, text, words]) => ({to: page + (anchor && '#' + anchor), title, text, words, isPage: !anchor}))]
// First what is called so, then what has it in its title, then what says it; lessons before rooms
function score(row, words, query) {
  const t = row.title.toLowerCase(), own = t.replace(/^\d+ · /, ''), b = row.text.toLowerCase(), c = row.words.toLowerCase()
  if (!words.every(w => t.includes(w) || b.includes(w) || c.includes(w))) return 0
  let n = own == query || own == query.replace(/\s+/g, '_') || own.split('.').pop() == query ? 3000 : own.startsWith(query) ? 2200 : words.every(w => t.includes(w)) ? 2000 : words.some(w => t.includes(w)) ? 1000 : 0
  n += (row.isPage ? 300 : row.isName ? 200 : 0)*(n >= 2000)
  if (n) n -= Math.min(own.length, 80)
  for (const w of words) n += Math.min(b.split(w).length - 1, 6)
  return n + (/^(engine|reference)/.test(row.to) ? 1 : 60)
}
function row({to, title, text, isName}, words) {
  const at = Math.max(0, text.toLowerCase().indexOf(words[0]) - 50)
  const cut = (at ? '…' : '') + text.slice(at, at + 150)
  const re = RegExp('(' + words.map(w => esc(w).replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|') + ')', 'gi')
  const page = to.split('#')[0], link = all('#pages a').find(a => a.getAttribute('href') == page)
  const where = link ? link.firstChild.textContent : 'Reference'
  return `<a href="${to}"><b${isName ? ' class="name"' : ''}>${esc(title)}</b>${where == title ? '' : `<small>${esc(where)}</small>`}<span>${esc(cut).replace(re, '<mark>$1</mark>')}</span></a>`
}
async function search() {
  const query = $('q').value.toLowerCase().trim(), words = query.split(/\s+/).filter(Boolean), box = $('found')
  box.hidden = !words.length
  if (!words.length) return
  const found = (await load()).map(r => [score(r, words, query), r]).filter(h => h[0]).sort((a, b) => b[0] - a[0])
  const seen = new Set(), hits = found.filter(([, r]) => !seen.has(r.to + r.title) && seen.add(r.to + r.title)).slice(0, 12)
  box.innerHTML = hits.map(h => row(h[1], words)).join('') || '<p>Nothing found.</p>'
}
$('q').oninput = search
$('q').onkeydown = e => {
  const rows = all('a', $('found')), at = rows.findIndex(r => r.classList.contains('on'))
  if (e.key == 'Escape') { $('q').value = ''; search() }
  if (e.key == 'Enter' && rows.length) location.href = (rows[at] || rows[0]).href
  if (e.key == 'ArrowDown' || e.key == 'ArrowUp') {
    e.preventDefault()
    rows[at]?.classList.remove('on')
    const to = rows[Math.max(0, Math.min(rows.length - 1, at + (e.key == 'ArrowDown' ? 1 : -1)))]
    to?.classList.add('on'); to?.scrollIntoView({block: 'nearest'})
  }
}
addEventListener('keydown', e => {
  if (e.key == '/' && !/INPUT|TEXTAREA|SELECT/.test(e.target.tagName)) { e.preventDefault(); $('q').focus() }
  if (e.key == 'Escape' && $('pages').classList.contains('open')) { menu(false); $('menu').focus() }
})
addEventListener('click', e => { if (!e.target.closest('.search')) $('found').hidden = true; if (!e.target.closest('#pages, #menu')) menu(false) })
