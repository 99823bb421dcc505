"""The site: built from the notebooks alone, complete without a network, and every page walked in a
browser."""
import re, shutil, sys
from html import unescape
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlparse
import pytest
from conftest import cfg, nb_name, nbs, root, run

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

def test_pages(parsed):
    pages = {re.sub(r'^\d+_', '', nb_name(p)).replace('/', '-') for p in nbs} | {'reference'}
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
        assert not remote_css.search(file.read_text(encoding='utf-8')), file

def test_internal_links(site, parsed):
    bad = []
    for name,p in parsed.items():
        for u in p.links + p.loads:
            at = urlparse(urljoin(f'site:///{name}', u)) if not urlparse(u).scheme else urlparse(u)
            if at.scheme in ('http', 'https', 'mailto', 'data'): continue
            to = unquote(urlparse(u).path) or name
            if not (site/to).is_file(): bad.append(f'{name}: {u}')
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

def test_engine_rooms_have_their_group(site, parsed):
    """Lessons first, then the reference, then the engine rooms under a heading of their own; badge
    and sources lead to the notebook in its folder"""
    index = (site/'index.html').read_text(encoding='utf-8')
    pages = re.search(r'<nav id="pages".*?</nav>', index, re.S)[0]
    order = re.findall(r'href="([\w-]+)\.html"|<p class="group">(\w+)</p>', pages)
    names = [a or f'[{b}]' for a,b in order]
    first = names.index('[Engine]')
    assert names[0] == 'index' and names[first-1] == 'reference' and len(names) == len(parsed) + 1
    assert all(n.startswith('engine-') == (i > first) for i,n in enumerate(names) if i != first)
    top = f"{cfg['git_url']}/blob/{cfg['branch']}/"
    links = parsed['engine-files.html'].links
    notebook = '/nbs/engine/files.ipynb'
    assert any(u.startswith('https://colab') and u.endswith(notebook) for u in links)
    assert f'{top}nbs/engine/files.ipynb' in links and f'{top}slm_scratch/engine/files.py' in links

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
missing_pictures = """[...document.images]
    .filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"""
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

def pages_of(site): return sorted(p for p in site.glob('*.html'))

def test_walk(site, page):
    """Each page, light and dark, on a screen and on a phone: text and pictures are there,
    nothing fails, nothing is wider than the page"""
    for dark,width in [(False, 1280), (True, 380)]:
        page.view(width, phone=width < 600, dark=dark)
        for p in pages_of(site):
            page.goto(p.as_uri())
            here = f'{p.name} {"dark" if dark else "light"} {width}'
            assert page.errors == [], here
            assert [u for u in page.requests if not u.startswith(('file:', 'data:'))] == [], here
            assert len(page.js('document.querySelector("article").innerText')) > 500, here
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
