"""The site: built from the notebooks alone, complete without a network, and every page walked in a
browser."""
import re, shutil, sys
from html import unescape
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlparse
import pytest
from conftest import cfg, nb_name, nbs, root, run
from project import floors, is_guide, is_lesson, read_cells, text

class Links(HTMLParser):
    "What a page loads, where it links to, and the ids that it has"
    loading = {'img': 'src', 'script': 'src', 'link': 'href', 'source': 'src', 'iframe': 'src',
               'video': 'src', 'image': 'href'}
    def __init__(self, html):
        super().__init__()
        self.loads, self.links = [], []
        self.ids, self.alts = [], []
        self.feed(html)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get(self.loading.get(tag)): self.loads.append(a[self.loading[tag]])
        if tag == 'a' and a.get('href'): self.links.append(a['href'])
        if tag == 'img': self.alts.append(a.get('alt'))
        if a.get('id'): self.ids.append(a['id'])

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    if not shutil.which('npm'): pytest.skip('no npm here, and KaTeX and Mermaid come from there')
    d = tmp_path_factory.mktemp('site')
    r = run(sys.executable, root/'tools'/'build_docs.py', '--out', d, '--no-readme', ok=False)
    if 'from npm' in r.stderr and 'could not' in r.stderr:
        pytest.skip('the npm registry cannot be reached')
    assert r.returncode == 0, r.stderr
    return d

@pytest.fixture(scope='session')
def parsed(site): return {p.name: Links(p.read_text(encoding='utf-8')) for p in site.glob('*.html')}

def page_name(nb): return re.sub(r'^\d+_', '', nb_name(nb)).replace('/', '-')

def test_pages(parsed):
    "A page for each notebook; the shelf of engine rooms, the reference in its parts, and the model"
    parts = {'reference-' + re.sub(r'\W+', '-', f.lower()) for f in floors.values()}
    pages = {*map(page_name, nbs), 'reference', 'engine', 'play'} | parts
    names = {f'{p}.html' for p in pages}
    assert set(parsed) == names
    for name,p in parsed.items():
        twice = {i for i in p.ids if p.ids.count(i) > 1}
        assert not twice, f'{name}: an id comes twice: {twice}'

remote_css = re.compile(r'url\(["\']?(?:https?:)?//|@import')

def test_nothing_remote_is_loaded(site, parsed):
    for name,p in parsed.items():
        assert [u for u in p.loads if urlparse(u).netloc] == [], name
        assert None not in p.alts, f'{name}: a picture without alt' # an empty one is for decoration
    for file in [*site.rglob('*.css'), *site.glob('*.html')]:
        shown = re.sub(r'<pre.*?</pre>', '', file.read_text(encoding='utf-8'), flags=re.S)
        assert not remote_css.search(shown), file # code on a page loads nothing

def test_internal_links(site, parsed):
    bad = []
    for name,p in parsed.items():
        for u in p.links + p.loads:
            at = urlparse(urljoin(f'site:///{name}', u)) if not urlparse(u).scheme else urlparse(u)
            if at.scheme in ('http', 'https', 'mailto', 'data'): continue
            to = unquote(urlparse(u).path) or name
            if not (site/to).is_file(): bad.append(f'{name}: {u}')
            elif to == 'play.html': continue # its fragment is a form of the page
            elif at.fragment and to in parsed and unquote(at.fragment) not in parsed[to].ids:
                bad.append(f'{name}: {u} (no such place)')
    assert bad == []

def test_links_into_the_repository(parsed):
    "What links to the repository on GitHub exists in it"
    top = f"{cfg['git_url']}/blob/{cfg['branch']}/"
    for name,p in parsed.items():
        for u in p.links:
            if not u.startswith(top): continue
            path = unquote(urlparse(u.removeprefix(top)).path)
            assert (root/path).exists(), f'{name}: {u}'

def test_shelves(site, parsed):
    """Lessons first, then guides, reference and engine rooms, each floor folded but the one that is
    read; badge and sources of a room lead to the notebook in its folder"""
    room = (site/'engine-files.html').read_text(encoding='utf-8')
    pages = re.search(r'<nav id="pages".*?</nav>', room, re.S)[0]
    names = [n for n in re.findall(r'href="([\w-]+)\.html"', pages)]
    lessons = [page_name(p) for p in nbs if is_lesson(p)]
    guides = [page_name(p) for p in nbs if is_guide(p)]
    assert guides and names[:len(lessons)] == lessons
    rest = names[len(lessons):]
    assert rest[:len(guides) + 2] == [*guides, 'reference', 'engine']
    assert rest[len(guides)+2:] == [page_name(p) for p in nbs if page_name(p).startswith('engine-')]
    shown = re.findall(r'<details( open)?><summary>(.*?)</summary>', pages)
    assert [name for _,name in shown] == list(floors.values())
    assert [name for is_open,name in shown if is_open] == [floors['files']]
    top = f"{cfg['git_url']}/blob/{cfg['branch']}/"
    links = parsed['engine-files.html'].links
    notebook = '/nbs/engine/files.ipynb'
    assert any(u.startswith('https://colab') and u.endswith(notebook) for u in links)
    assert f'{top}nbs/engine/files.ipynb' in links and f'{top}slm_scratch/engine/files.py' in links

def counted_minutes(nb):
    "As the style guide counts: 180 words or 10 lines of code a minute"
    words = lines = 0
    for c in read_cells(nb):
        if c['cell_type'] == 'markdown': words += len(text(c['source']).split())
        if c['cell_type'] != 'code': continue
        rows = [l.strip() for l in text(c['source']).splitlines()]
        lines += len([l for l in rows if l and l[0] != '#'])
    return words/180 + lines/10

def test_reading_times_and_exercises(site):
    "What the head of a page says is what its notebook has"
    for nb in nbs:
        if nb.stem == 'index': continue
        page = (site/f'{page_name(nb)}.html').read_text(encoding='utf-8')
        facts = re.search(r'data-minutes="([\d.]+)">(?:(\d+) h )?(\d+) min<', page)
        exact, hours, minutes = (float(x or 0) for x in facts.groups())
        assert abs(exact - counted_minutes(nb)) < .06, nb.name
        assert abs(60*hours + minutes - max(5, exact)) <= 2.6, nb.name
        source = '\n'.join(text(c['source']) for c in read_cells(nb))
        calls = re.findall(r"^exercise\('([\w.]+)'", source, re.M)
        boxes = re.findall(r'data-exercise="([\w.]+)"', page)
        assert boxes == (calls if is_lesson(nb) else []), nb.name
        assert all(b.startswith(page_name(nb) + '.') for b in boxes), nb.name
        assert not boxes or f'data-of="{len(boxes)}"' in page, nb.name

# What a page may weigh in bytes of HTML: a lesson has up to two figures that react, each with its
# picture, its numbers and its script (23,000 to 63,000); with a tag around each token of code
# lessons had 345,000 without them. 04 is the heaviest: it holds a loop of the reader's own and the
# trainer's
heaviest = 340_000

def test_weights(site):
    for p in site.glob('*.html'):
        if p.name != 'play.html': assert p.stat().st_size < heaviest, p.name
    assert (site/'play.html').stat().st_size < 1_500_000
    assert (site/'assets'/'search.js').stat().st_size < 1_200_000

def test_reference_entries(site):
    "An entry has its call, its parameters, the errors it raises, and the lines of its source"
    page = (site/'reference.html').read_text(encoding='utf-8')
    entries = re.findall(r'<section class="entry">.*?</section>', page, re.S)
    entry = next(e for e in entries if 'id="causal_mask"' in e)
    for part in ['class="params"', '>explained<', r'attention\.py#L\d+-L\d+', r'\(.*T.*\)']:
        assert re.search(part, entry), part
    assert 'class="raises"' in page
    lines = re.search(r'attention\.py#L(\d+)-L(\d+)', entry)
    source = (root/'slm_scratch'/'attention.py').read_text(encoding='utf-8').splitlines()
    assert source[int(lines[1])-1].startswith('def causal_mask(')

def test_a_version_everywhere():
    "What is cited and what is built are one version"
    cited = (root/'CITATION.cff').read_text(encoding='utf-8')
    assert f"\nversion: {cfg['version']}\n" in cited
    assert cfg['git_url'] in cited and f"license: {cfg['license'].upper()}" in cited

def test_the_story_is_the_models():
    "The picture of the README shows what the model in the box writes, and its surprise"
    import story
    from slm_scratch import SmallLanguageModel
    tokens = story.written(SmallLanguageModel.from_pretrained('tales-tiny'))
    svg = (root/'images'/'story.svg').read_text(encoding='utf-8')
    drawn = re.findall(r'data-bits="([\d.]+)">.*?<text[^>]*>(.*?)</text>', svg)
    assert [unescape(s) for _,s in drawn] == [t.text.strip() for t in tokens]
    for (bits,_),t in zip(drawn, tokens): assert abs(float(bits) - t.bits) < .05
    assert '<script' not in svg and 'http' not in svg.replace('http://www.w3.org/2000/svg', '')

def test_nothing_is_left_raw(site):
    "No callout, formula or directive that nobody turned into HTML"
    for p in site.glob('*.html'):
        page = p.read_text(encoding='utf-8')
        body = re.sub(r'<(pre|code|script|annotation)\b.*?</\1>', '', page, flags=re.S)
        words = unescape(re.sub(r'<[^>]+>', ' ', body))
        for raw in [r':::', r'#\|', r'\{\.callout', r'\$\$', r'\\frac', r'\x00', r'\{\{']:
            assert not re.search(raw, words), f'{p.name}: {raw}'

def test_formulas_are_checked(tmp_path, monkeypatch):
    "A formula that cannot be set stops the build and is named"
    if not shutil.which('npm'): pytest.skip('no npm here')
    import build_docs
    m = build_docs.Maths()
    page = m(r'\sqrt{d}', False) + m(r'\frac{1', True)
    with pytest.raises(SystemExit, match=r'\\frac\{1'): m.set([page], tmp_path)

# ---- in the browser ----

wide = """(() => {
    if (document.documentElement.scrollWidth <= innerWidth) return null;
    const over = e => e.getBoundingClientRect().right > innerWidth + 1;
    const found = [...document.querySelectorAll('article *')].filter(over);
    return found.map(e => e.outerHTML.slice(0, 80)).slice(0, 3);
})()"""
luminance = """getComputedStyle(document.body).backgroundColor
    .match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)/765"""
missing_pictures = """(async () => {
    const pictures = [...document.images];
    for (const i of pictures) i.loading = 'eager';
    const loaded = i => i.complete || new Promise(done => i.onload = i.onerror = done);
    await Promise.all(pictures.map(loaded));
    return pictures.filter(i => !i.naturalWidth).map(i => i.src);
})()"""
search_for = """(async () => {
    const q = document.getElementById('q');
    document.getElementById('found').innerHTML = '';
    q.value = %r;
    q.dispatchEvent(new Event('input'));
    const found = () => document.querySelector('#found > *');
    for (let i = 0; i < 6000 && !found(); i++) await new Promise(r => setTimeout(r, 50));
    return [...document.querySelectorAll('#found > a')].map(a => a.getAttribute('href'));
})()"""
copy_buttons = """(() => {
    const cells = [...document.querySelectorAll('pre.code')];
    return cells.length > 5 && cells.every(p => p.nextElementSibling?.className == 'copy');
})()"""
covered_code = """(() => {
    const box = (h, what) => h.querySelector(what).getBoundingClientRect();
    const covers = h => h.offsetHeight && box(h, '.copy').bottom > box(h, 'code').top + 4;
    return [...document.querySelectorAll('.holder')].filter(covers).length;
})()"""
figure_links = """[...document.querySelectorAll('article figure img')]
    .map(i => [i.src, i.closest('a')?.href])"""

own = ('file:', 'data:', 'blob:', 'about:') # addresses that leave nothing of the machine
def pages_of(site): return sorted(p for p in site.glob('*.html'))

def test_walk(site, page):
    """Each page on a screen, light; of the engine rooms every third on a phone, dark: text and
    pictures are there, nothing fails, nothing is wider than the page"""
    for dark,width in [(False, 1280), (True, 380)]:
        page.view(width, phone=width < 600, dark=dark)
        pages = pages_of(site)
        rooms = [p for p in pages if p.name.startswith('engine-')]
        if width < 600: pages = [p for p in pages if p not in rooms or rooms.index(p) % 3 == 0]
        for p in pages:
            page.goto(p.as_uri())
            here = f'{p.name} {"dark" if dark else "light"} {width}'
            assert page.errors == [], here
            assert [u for u in page.requests if not u.startswith(own)] == [], here
            main = 'document.querySelector("article") || document.body'
            assert len(page.js(f'({main}).innerText')) > 500, here
            assert page.js(missing_pictures) == [], here
            assert page.js(wide) is None, here
            assert (page.js(luminance) < .3) == dark, here

def test_theme_and_menu(site, page):
    page.view(380, 800, phone=True)
    page.goto((site/'attention.html').as_uri())
    before = page.js(luminance)
    page.js("document.getElementById('theme').click()")
    assert page.js(luminance) < before - .5
    assert page.js("getComputedStyle(document.getElementById('pages')).display") == 'none'
    page.js("document.getElementById('menu').click()")
    assert page.js("getComputedStyle(document.getElementById('pages')).display") != 'none'
    page.js("localStorage.clear()")

def test_search(site, page):
    "Search finds a word of a lesson over file://, and its row leads there"
    page.view()
    page.goto((site/'index.html').as_uri())
    assert page.js(search_for % 'causal mask')[0].startswith('attention.html#')
    assert page.js(search_for % 'zzxyzzy') == []
    assert page.js(search_for % 'tokenizer')[0] == 'tokenizer.html'
    assert page.js(search_for % 'merge_pair')[0] == 'tokenizer.html#merge_pair'
    assert page.js(search_for % 'KVCache')[0] == 'attention.html#kvcache'
    titles = page.js("""[...document.querySelectorAll('#found b')].map(b => b.textContent)""")
    found = [('kvcache' in s.lower()) for s in titles]
    assert found == sorted(found, reverse=True), titles # names and headings before prose
    for h in page.js(search_for % 'tokenizer'):
        name, _, anchor = h.partition('#')
        assert (site/name).is_file()
        assert not anchor or f'id="{anchor}"' in (site/name).read_text(encoding='utf-8')

def test_copy_buttons(site, page):
    page.view()
    page.goto((site/'attention.html').as_uri())
    assert page.js(copy_buttons)

def test_fingers(site, page):
    "Where there is no mouse, the copy button covers no code, and a figure opens in full"
    page.view(390, 800, phone=True)
    page.goto((site/'attention.html').as_uri())
    assert page.js("matchMedia('(hover: none)').matches")
    assert page.js(covered_code) == 0
    figures = page.js(figure_links)
    assert figures and all(src == to for src,to in figures)

def test_the_walk_can_fail(tmp_path, page):
    "The browser's reports are real: an exception, a missing picture, a request to elsewhere"
    p = tmp_path/'bad.html'
    p.write_text('<body><article><img src="gone.png"></article>'
                 '<script src="https://192.0.2.1/x.js" async></script><script>nothing()</script>',
                 encoding='utf-8')
    page.view()
    page.goto(p.as_uri(), "document.images[0].complete")
    assert any('nothing is not defined' in e for e in page.errors)
    assert any('ERR_FILE_NOT_FOUND' in e for e in page.errors)
    assert any('192.0.2.1' in u for u in page.requests)

# ---- what the browser keeps, and hands without a mouse ----

def test_progress_is_kept(site, page):
    "A ticked exercise and a read page are counted, and still are after a reload; on each page"
    page.view()
    url = (site/'generate.html').as_uri()
    page.goto(url)
    boxes = page.tab.locator('[data-exercise]')
    n = boxes.count()
    assert n >= 6 and page.js("document.getElementById('solved').textContent") == f'{n} exercises'
    boxes.first.check()
    page.goto(url)
    assert boxes.first.is_checked() and not boxes.nth(1).is_checked()
    assert page.js("document.getElementById('solved').textContent") == f'1 of {n} exercises solved'
    mark = """document.querySelector('#pages [data-page=generate] i')?.textContent"""
    assert page.js(mark) == f'1/{n}'
    page.js("scrollTo(0, document.body.scrollHeight)")
    page.tab.wait_for_function(f"{mark}.includes('✓')")
    page.goto((site/'index.html').as_uri())
    assert page.js(mark) == f'1/{n} ✓'
    card = """document.querySelector('.steps [data-page=generate] i')?.textContent"""
    assert page.js(card) == f'1/{n} ✓'
    page.goto(url)
    boxes.first.uncheck()
    page.tab.locator('#read input').uncheck()
    page.goto(url)
    assert not page.js(mark) and not boxes.first.is_checked()

def test_contents_follow_the_reading(site, page):
    page.view()
    page.goto((site/'attention.html').as_uri())
    current = """document.querySelector('#toc [aria-current]')?.getAttribute('href')"""
    for place in page.js("[...document.querySelectorAll('#toc a')].map(a => a.hash)")[2:5]:
        page.js(f"document.querySelector('{place}').scrollIntoView()")
        page.tab.wait_for_function(f"{current} == '{place}'")
    page.view(380, 800, phone=True)
    page.goto((site/'attention.html').as_uri())
    page.tab.locator('#small-toc summary').click()
    assert page.tab.locator('#small-toc a').first.is_visible()

def test_keyboard_alone(site, page):
    """The first key skips to the text; the menu opens and closes; search is a slash, arrows and
    enter"""
    keys = page.view() or page.tab.keyboard
    page.goto((site/'index.html').as_uri())
    keys.press('Tab')
    assert page.js("document.activeElement.className") == 'skip'
    keys.press('Enter')
    page.tab.wait_for_function("location.hash == '#page-main'")
    keys.press('/')
    assert page.js("document.activeElement.id") == 'q'
    keys.type('causal_mask')
    page.tab.wait_for_selector('#found a')
    keys.press('ArrowDown')
    keys.press('Enter')
    page.tab.wait_for_url('**/attention.html#causal_mask')
    page.view(380, 800, phone=True)
    keys = page.tab.keyboard
    page.goto((site/'attention.html').as_uri())
    page.js("document.getElementById('menu').focus()")
    keys.press('Enter')
    assert page.tab.locator('#pages').is_visible()
    assert page.js("document.activeElement.getAttribute('aria-current')") == 'page'
    keys.press('Tab')
    assert page.js("!!document.activeElement.closest('#pages')")
    keys.press('Escape')
    assert not page.tab.locator('#pages').is_visible()
    assert page.js("document.activeElement.id") == 'menu'

def test_a_live_figure_passes_through(site, page):
    "The scripts of a cell's HTML run on the site: the slider of lesson 00 moves"
    page.view()
    page.goto((site/'tokenizer.html').as_uri())
    slider = page.tab.locator('article .html input[type=range]').first
    shown = """document.querySelector('article .html').innerText"""
    before = page.js(shown)
    slider.focus()
    page.tab.keyboard.press('ArrowRight')
    assert page.js(shown) != before

# ---- accessibility ----

sample = ['index', 'generate', 'engine-files', 'engine', 'reference-files', 'guides-own_text']
axe_run = """axe.run(document, {resultTypes: ['violations'], iframes: false}).then(r => r.violations
    .filter(v => ['serious', 'critical'].includes(v.impact))
    .map(v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 120)).join(' | ')))"""

@pytest.fixture(scope='session')
def axe(site): # the site was built, so npm is there
    import build_docs
    return build_docs.npm('axe-core', r'axe\.min\.js')['axe.min.js'].decode('utf-8')

def accessibility_faults(page, axe):
    page.tab.add_script_tag(content=axe)
    return page.js(axe_run)

def test_axe(site, page, axe):
    "No serious finding on a page of each kind, light and dark, on a screen and on a phone"
    bad = []
    for dark,width in [(False, 1280), (True, 1280), (True, 380)]:
        page.view(width, phone=width < 600, dark=dark)
        for name in sample:
            page.goto((site/f'{name}.html').as_uri())
            said = accessibility_faults(page, axe)
            bad += [f'{name} {"dark" if dark else "light"} {width}: {s}' for s in said]
    assert bad == [], '\n'.join(bad)

def test_axe_can_fail(tmp_path, page, axe):
    p = tmp_path/'bad.html'
    pale = '<p style="color:#bbb;background:#fff">pale</p>'
    p.write_text(f'{pale}<img src="data:,">', encoding='utf-8')
    page.view()
    page.goto(p.as_uri())
    said = ' '.join(accessibility_faults(page, axe))
    assert 'color-contrast' in said and 'image-alt' in said
