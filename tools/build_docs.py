"""Build the site in `_docs/` and `README.md` from the notebooks. KaTeX sets the formulas here;
Mermaid draws the diagrams in the reader's browser."""
import argparse, html, json, os, re, shutil, subprocess, sys, tarfile, tempfile
from dataclasses import dataclass
from pathlib import Path
from lesson import Writer, blob, cfg, colab, notebooks, plain, reference, root, text

here = Path(__file__).resolve().parent/'site' # the template, its look and its script
versions = dict(katex='0.19.1') # from npm

# ---- modules ----

def export():
    "Clean the notebooks and write the modules, as nbdev's programs do, but leave scratch ones"
    from nbdev.clean import nbdev_clean
    from nbdev.doclinks import _build_modidx, add_init
    from nbdev.export import nb_export
    os.chdir(root) # nbdev looks for settings.ini here
    for nb in sorted(notebooks(warn=False), key=lambda nb: nb.path.name): # nbdev's order
        nbdev_clean.__wrapped__(str(nb.path))
        nb_export(nb.path)
    add_init(root/cfg['lib_path'])
    _build_modidx()

# ---- README.md ----

def gfm(s):
    "Links as they are from the top of the repository"
    s = re.sub(r'(\]\(|src="|href=")\.\./', r'\1', s)
    return re.sub(r'(\]\(|href=")((?:[\w-]+/)*[\w-]+\.ipynb)', rf'\1{cfg["nbs_path"]}/\2', s)
def readme_output(o):
    "An output for `README.md`; the notebook itself writes its pictures into images/"
    d = o.get('data', {})
    if 'text/markdown' in d: return gfm(text(d['text/markdown']))
    if any(k.startswith('image/') for k in d): return ''
    t = plain(text(o.get('text', d.get('text/plain', '')))).strip('\n')
    return f'```\n{t}\n```' if t.strip() else ''
def readme(nb):
    "The text of `README.md`, from the index"
    written = 'Written from {}/index.ipynb by tools/build_docs.py: edit the notebook.'
    out = [f'# {nb.title}', f"<!-- {written.format(cfg['nbs_path'])} -->", f'> {nb.promise}']
    for c in nb.cells:
        if c.attachments:
            sys.exit(f'{nb.address}: a picture is pasted into a cell ({", ".join(c.attachments)}); '
                     'save it in images/ and link to it: README.md cannot hold it')
        if c.kind == 'markdown': out.append(gfm(c.src))
        if c.kind != 'code' or c.hidden: continue
        is_shown = c.shown or not c.exported
        if is_shown and c.dirs.get('echo') != 'false': out.append(f'```python\n{c.src}\n```')
        out += filter(None, map(readme_output, c.outputs))
    return '\n\n'.join(o.strip('\n') for o in out if o.strip()) + '\n'

# ---- from npm ----

def npm(name, want):
    "Files of a package whose names match `want`, fetched once into `build/npm`"
    cache = root/'build'/'npm'
    cache.mkdir(parents=True, exist_ok=True)
    package = f'{name}@{versions[name]}'
    tgz = cache/f'{name}-{versions[name]}.tgz'
    if not tgz.exists():
        if not shutil.which('npm'):
            sys.exit('make docs needs npm, which comes with Node.js: it fetches KaTeX and Mermaid')
        cmd = ['npm', 'pack', '--silent', package]
        r = subprocess.run(cmd, cwd=cache, capture_output=True, text=True, encoding='utf-8')
        if r.returncode: sys.exit(f'could not fetch {name} {versions[name]} from npm:\n{r.stderr}')
    with tarfile.open(tgz) as t:
        members = [m for m in t if re.fullmatch('package/' + want, m.name)]
        return {m.name.removeprefix('package/'): t.extractfile(m).read() for m in members}

katex_js = '''
const katex = require(process.argv[1]);
const todo = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const one = ([tex, displayMode]) => {
    try { return katex.renderToString(tex, {displayMode, throwOnError: true, strict: 'ignore'}) }
    catch (e) { return {error: `${e.message}\\n    in: ${tex}`} }
};
console.log(JSON.stringify(todo.map(one)));'''
not_woff2 = re.compile(rb',url\([^)]*\.(?:woff|ttf)\) format\("[^"]*"\)')

class Maths:
    "Formulas, put aside while pages are made, then set in one run of KaTeX; a wrong one stops it"
    def __init__(self): self.todo = {}
    def __call__(self, tex, display):
        i = self.todo.setdefault((tex.strip(), display), len(self.todo))
        return f'\0{i}\0'

    def fill(self, page, done):
        "The page with formula `i` replaced by `done[i]`"
        return re.sub(r'\0(\d+)\0', lambda m: done[int(m[1])], page)

    def as_tex(self, page): return self.fill(page, [html.escape(tex) for tex,_ in self.todo])

    def set(self, pages, to):
        "The pages with their formulas set; what they need goes into the folder `to`"
        if not self.todo: return pages
        files = npm('katex', r'(dist/katex\.min\.(js|css)|dist/fonts/.*\.woff2|LICENSE)')
        program = files.pop('dist/katex.min.js')
        for name,data in files.items():
            if name.endswith('.css'): data = not_woff2.sub(b'', data)
            write(to/name.removeprefix('dist/'), data)
        with tempfile.TemporaryDirectory() as d:
            write(Path(d)/'katex.js', program)
            cmd = ['node', '-e', katex_js, str(Path(d)/'katex.js')]
            res = subprocess.run(cmd, input=json.dumps(list(self.todo)), text=True,
                                 encoding='utf-8', capture_output=True, check=True)
        done = json.loads(res.stdout)
        bad = [o['error'] for o in done if isinstance(o, dict)]
        if bad: sys.exit('KaTeX cannot set these formulas:\n' + '\n'.join(bad))
        return [self.fill(p, done) for p in pages]

# ---- the site ----

def write(path, data):
    "Write bytes or text, with the folders that it needs"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode('utf-8') if isinstance(data, str) else data)

@dataclass
class Page:
    "One page of the site"
    name:str
    title:str
    promise:str
    body:str
    toc:list # (level, anchor, label) of its headings
    links:list # (address, label) under its title
    group:str='' # the heading above it in the navigation

    def sections(self, body):
        "The parts of the page for search: page, anchor, title, text"
        clean = lambda s: ' '.join(html.unescape(re.sub(r'<[^>]+>', ' ', s)).split())
        first, *rest = re.split(r'<h[1-4][^>]* id="([^"]+)"[^>]*>(.*?)</h[1-4]>', body, flags=re.S)
        parts = [('', self.title, first), *zip(rest[::3], rest[1::3], rest[2::3])]
        return [[f'{self.name}.html', a, clean(t), clean(s)] for a,t,s in parts]

    def neighbour(self, pages, i, rel, text):
        "A link to page `i`, if there is one"
        if not 0 <= i < len(pages): return '<span></span>'
        label = text.format(html.escape(pages[i].title))
        return f'<a rel="{rel}" href="{pages[i].name}.html">{label}</a>'

    def navigation(self, pages):
        "Links to all pages, each group under its heading"
        out, before = [], ''
        for p in pages:
            if p.group and p.group != before:
                out.append(f'<p class="group">{html.escape(p.group)}</p>')
            current = ' aria-current=page' if p is self else ''
            label = 'Start' if p.name == 'index' else html.escape(p.title)
            out.append(f'<a href="{p.name}.html"{current}>{label}</a>')
            before = p.group
        return ''.join(out)

    def html(self, template, pages):
        "The whole page, between its neighbours"
        i, esc, site = pages.index(self), html.escape, cfg['title']
        full_title = self.title if self.name == 'index' else f'{self.title} · {site}'
        entries = [f'<a class="h{l}" href="#{a}">{esc(t)}</a>' for l,a,t in self.toc]
        katex = '<link rel="stylesheet" href="assets/katex/katex.min.css">'
        fill = dict(name=self.name, title=esc(self.title), promise=esc(self.promise),
                    body=self.body, site=esc(site), git=cfg['git_url'], year=cfg['copyright'],
                    full_title=esc(full_title), nav=self.navigation(pages), toc=''.join(entries),
                    links=''.join(f'<a href="{u}">{t}</a>' for u,t in self.links),
                    prev=self.neighbour(pages, i-1, 'prev', '← {}'),
                    next=self.neighbour(pages, i+1, 'next', '{} →'),
                    katex=katex if 'class="katex' in self.body else '')
        return re.sub(r'\{\{(\w+)\}\}', lambda m: fill[m[1]], template)

def lesson_page(nb, writer):
    button = '<img src="assets/colab.svg" width="117" height="20" alt="Open in Colab">'
    links = [(f'{colab}/{nb.address}', button),
             (f'{blob}/{nb.address}', 'Notebook')]
    if nb.module: links.append((f'{blob}/{nb.module_path}', 'Module'))
    group = '' if nb.is_lesson else nb.folder.capitalize()
    return Page(nb.name, nb.title, nb.promise, writer.body(nb), writer.toc, links, group)

def build(site):
    "Build the site in the folder `site`; the number of its pages"
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(here, site/'assets', ignore=shutil.ignore_patterns('page.html'))
    if (root/'images').exists(): shutil.copytree(root/'images', site/'images')
    write(site/'.nojekyll', '')
    nbs, maths = notebooks(), Maths()
    new_writer = lambda: Writer(nbs, maths, site)
    pages = [lesson_page(nb, new_writer()) for nb in nbs]
    w = new_writer()
    n_lessons = sum(nb.is_lesson for nb in nbs)
    about = 'The whole package on one page.'
    pages.insert(n_lessons, Page('reference', 'Reference', about, reference(w, nbs), w.toc, []))

    found = [row for p in pages for row in p.sections(maths.as_tex(p.body))]
    index = json.dumps(found, ensure_ascii=False, separators=(',', ':'))
    write(site/'assets'/'search.js', f'window.SEARCH = {index}\n')
    bodies = maths.set([p.body for p in pages], site/'assets'/'katex')
    for p,body in zip(pages, bodies, strict=True): p.body = body
    template = (here/'page.html').read_text(encoding='utf-8')
    for p in pages: write(site/f'{p.name}.html', p.html(template, pages))
    return len(pages)

if __name__ == '__main__':
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('--readme', action='store_true', help='only write README.md')
    ap.add_argument('--no-readme', action='store_true', help='leave README.md as it is')
    ap.add_argument('--export', action='store_true',
                    help='before that, clean the notebooks and write the modules')
    ap.add_argument('--out', type=Path, default=root/cfg['doc_path'], help='folder of the site')
    args = ap.parse_args()
    if args.export: export()
    nbs, index = notebooks(warn=args.readme), f"{cfg['nbs_path']}/index.ipynb"
    index = next((nb for nb in nbs if nb.address == index), None)
    if index and not args.no_readme:
        (root/'README.md').write_text(readme(index), encoding='utf-8')
    if not args.readme: print(f'{build(args.out)} pages in {args.out}')
