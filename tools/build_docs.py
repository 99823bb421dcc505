"""Build the site in `_docs/` and `README.md` from the notebooks. Formulas are set and pictures of
the first page are drawn here, so that no page asks anybody for anything."""
import argparse, html, json, os, re, shutil, subprocess, sys, tarfile, tempfile
from dataclasses import dataclass, field
from pathlib import Path
from lesson import Writer, blob, cfg, colab, notebooks, plain, reference, root, slug, text
from project import floor
from whole import front_page

here = Path(__file__).resolve().parent/'site' # the template, its look and its script
versions = {'katex': '0.19.1', 'axe-core': '4.14.1'} # from npm; axe-core is the tests'

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
README_ONLY, SITE_ONLY = '<!-- only in README.md -->\n', '<!-- only on the site -->\n'
def only(c):
    "A cell of the index may be for one of its two readers: 'readme', 'site', or ''"
    marks = {README_ONLY: 'readme', SITE_ONLY: 'site'}
    return next((k for mark,k in marks.items() if c.src.startswith(mark)), '')
def readme(nb):
    "The text of `README.md`, from the index"
    written = 'Written from {}/index.ipynb by tools/build_docs.py: edit the notebook.'
    out = [f'# {nb.title}', f"<!-- {written.format(cfg['nbs_path'])} -->", f'> {nb.promise}']
    for c in nb.cells:
        if c.attachments:
            sys.exit(f'{nb.address}: a picture is pasted into a cell ({", ".join(c.attachments)}); '
                     'save it in images/ and link to it: README.md cannot hold it')
        if only(c) == 'site': continue
        if c.kind == 'markdown': out.append(gfm(c.src.removeprefix(README_ONLY)))
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
            sys.exit('make docs needs npm, which comes with Node.js: it fetches KaTeX')
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
    links:list=field(default_factory=list) # (address, label) under its title
    shelf:str='' # lesson, guide, room or reference
    floor:str='' # of an engine room
    minutes:float=0 # to read it
    exercises:list=field(default_factory=list) # their names

    def sections(self, body):
        "The parts of the page for search: page, anchor, title, prose, words that only code has"
        first, *rest = re.split(r'<h[1-4][^>]* id="([^"]+)"[^>]*>(.*?)</h[1-4]>', body, flags=re.S)
        parts = [('', self.title, first), *zip(rest[::3], rest[1::3], rest[2::3])]
        return [[f'{self.name}.html', a, bare(t), *searched(s)] for a,t,s in parts]

    def neighbour(self, pages, i, rel, label):
        "A link to page `i`, if there is one"
        if not 0 <= i < len(pages): return '<span></span>'
        title = html.escape(pages[i].title)
        return f'<a rel="{rel}" href="{pages[i].name}.html"><small>{label}</small>{title}</a>'

    def entry(self, here):
        "Its line in the navigation of the page `here`"
        current = ' aria-current="page"' if self is here else ''
        if self.name == 'reference' and here.shelf == 'reference' and self is not here:
            current = ' aria-current="true"' # one of its parts
        kept = f' data-page="{self.name}"' if self.minutes else ''
        if self.exercises: kept += f' data-exercises="{len(self.exercises)}"'
        label = 'Start' if self.name == 'index' else html.escape(self.title)
        return f'<a href="{self.name}.html"{kept}{current}>{label}</a>'

    def facts(self):
        "How long it takes, and how many exercises it has"
        if not self.minutes: return ''
        said = f'<span data-minutes="{self.minutes:.1f}">{duration(self.minutes)}</span>'
        n = len(self.exercises)
        if n: said += f'<span id="solved" data-of="{n}">{n} exercises</span>'
        return f'<p class="facts">{said}</p>'

    def html(self, template, pages):
        "The whole page, between its neighbours"
        i, esc, site = pages.index(self), html.escape, cfg['title']
        is_first = self.name == 'index'
        full_title = f'{site}: {self.promise}' if is_first else f'{self.title} · {site}'
        entries = [f'<a class="h{l}" href="#{a}">{esc(t)}</a>' for l,a,t in self.toc]
        katex = '<link rel="stylesheet" href="assets/katex/katex.min.css">'
        links = ''.join(f'<a href="{u}">{t}</a>' for u,t in self.links)
        head = (f'<h1>{esc(self.title)}</h1>\n<p class="promise">{esc(self.promise)}</p>\n'
                f'{self.facts()}<p class="links">{links}</p>')
        fill = dict(name=self.name, shelf=self.shelf or self.name, promise=esc(self.promise),
                    body=self.body, site=esc(site), git=cfg['git_url'], year=cfg['copyright'],
                    full_title=esc(full_title), nav=navigation(self, pages), toc=''.join(entries),
                    head='' if is_first else head,
                    prev=self.neighbour(pages, i-1, 'prev', 'Before'),
                    next=self.neighbour(pages, i+1, 'next', 'Next'),
                    katex=katex if 'class="katex' in self.body else '')
        return filled(template, fill)

def filled(template, values): return re.sub(r'\{\{(\w+)\}\}', lambda m: values[m[1]], template)

def duration(minutes):
    "97 -> '1 h 40 min': to five minutes, since nobody reads to the minute"
    five = max(5, 5*round(minutes/5))
    return f'{five//60} h {five%60:02} min' if five >= 60 else f'{five} min'

def bare(s): return ' '.join(html.unescape(re.sub(r'<[^>]+>', ' ', s)).split())

def searched(s):
    "Of a part of a page, its prose, and the names that occur only in its code"
    s = re.sub(r'<(script|style|svg)\b.*?</\1>', ' ', s, flags=re.S)
    code = re.compile(r'<pre class="code">.*?</pre>', re.S)
    prose, source = bare(code.sub(' ', s)), bare(' '.join(code.findall(s)))
    names = re.findall(r'[A-Za-z_]\w{2,}', source)
    return prose, ' '.join(n for n in dict.fromkeys(names) if n not in prose)

# ---- the navigation: four shelves ----

def navigation(here, pages):
    "Links to all pages, each shelf under its heading, the engine rooms folded by floor"
    on = lambda shelf: [p for p in pages if p.shelf == shelf]
    group = lambda title, ps: f'<p class="group">{title}</p>' + ''.join(p.entry(here) for p in ps)
    rooms, first = on('room'), [p for p in pages if p.name == 'engine']
    out = [pages[0].entry(here), group('Lessons', on('lesson')), group('Guides', on('guide'))]
    out.append(group('Reference', on('reference')[:1]))
    out.append(group('Engine room', first))
    for name in dict.fromkeys(p.floor for p in rooms):
        inside = [p for p in rooms if p.floor == name]
        is_open = ' open' if here in inside else ''
        links = ''.join(p.entry(here) for p in inside)
        out.append(f'<details{is_open}><summary>{html.escape(name)}</summary>{links}</details>')
    return ''.join(out)

def lesson_page(nb, writer):
    button = '<img src="assets/colab.svg" width="117" height="20" alt="Open in Colab">'
    links = [(f'{colab}/{nb.address}', button),
             (f'{blob}/{nb.address}', 'Notebook')]
    if nb.module: links.append((f'{blob}/{nb.module_path}', 'Module'))
    if nb.name == 'index': nb.cells = [c for c in nb.cells if only(c) != 'readme']
    page = Page(nb.name, nb.title, nb.promise, writer.body(nb), writer.toc, links)
    if nb.name == 'index': return page
    page.shelf = 'lesson' if nb.is_lesson else 'guide' if nb.is_guide else 'room'
    if page.shelf == 'room': page.floor = floor(nb.stem)
    page.minutes, page.exercises = nb.minutes, nb.exercises
    return page

def engine_page(rooms):
    "The second shelf: each room with its promise, floor by floor"
    about = 'What makes the lessons last a night, leave the house and run fast, one subject a room.'
    out = ['<p>The lessons hold what a learner reads; each of these notebooks holds one subject '
           'that you may want to know or change. A room imports only from rooms above it.</p>']
    toc = []
    for name in dict.fromkeys(p.floor for p in rooms):
        toc.append((2, slug(name), name))
        out.append(f'<h2 id="{slug(name)}">{html.escape(name)}</h2><dl class="rooms">')
        line = '<div><dt><a href="{}.html">{}</a></dt><dd>{}</dd></div>'
        out += [line.format(p.name, html.escape(p.title), html.escape(p.promise))
                for p in rooms if p.floor == name]
        out.append('</dl>')
    return Page('engine', 'The engine room', about, '\n'.join(out), toc)

def reference_pages(nbs, new_writer):
    "The public names: of the lessons on the first page, of each floor of the house on its own"
    parts = {'': [nb for nb in nbs if nb.is_lesson and nb.module]}
    for nb in nbs:
        if nb.module and not nb.is_lesson: parts.setdefault(floor(nb.stem), []).append(nb)
    line = '<li><a href="reference-{}.html">{}</a>: {}</li>'
    modules = lambda rooms: ', '.join(f'<code>{nb.module}</code>' for nb in rooms)
    shelf = ''.join(line.format(slug(f), html.escape(f), modules(r)) for f,r in parts.items() if f)
    first = ('<p>Each public name with its call, its parameters and their shapes, the errors it '
             'raises, its source, and the place that explains it. Below are the modules of the '
             f'lessons. Those of the engine room have a page for each floor:</p><ul>{shelf}</ul>')
    pages, names = [], []
    for name,part in parts.items():
        w = new_writer()
        title = f'Reference: {name}' if name else 'Reference'
        page = Page(f'reference-{slug(name)}' if name else 'reference', title,
                    'Every public name: its call, shapes, errors and source.',
                    ('' if name else first) + reference(w, part), w.toc, shelf='reference')
        names += [[to, n, bare(about)] for n,to,about in w.names]
        pages.append(page)
    return pages, names

# ---- the page where the model writes ----

def write_play(site):
    "The page that runs the model in the box"
    from slm_scratch import SmallLanguageModel
    from slm_scratch.engine.web import web_page
    model = SmallLanguageModel.from_pretrained('tales-tiny')
    write(site/'play.html', web_page(model, home='index.html'))

def build(site):
    "Build the site in the folder `site`; the number of its pages"
    shutil.rmtree(site, ignore_errors=True)
    templates = ('page.html', 'first.html')
    shutil.copytree(here, site/'assets', ignore=shutil.ignore_patterns(*templates))
    if (root/'images').exists(): shutil.copytree(root/'images', site/'images')
    write(site/'.nojekyll', '')
    write_play(site)
    nbs, maths, pictures = notebooks(), Maths(), {}
    new_writer = lambda: Writer(nbs, maths, site, pictures)
    pages = [lesson_page(nb, new_writer()) for nb in nbs]
    rooms = [p for p in pages if p.shelf == 'room']
    references, names = reference_pages(nbs, new_writer)
    pages = [*(p for p in pages if p not in rooms), engine_page(rooms), *rooms, *references]
    first = (here/'first.html').read_text(encoding='utf-8')
    pages[0].body = filled(first, front_page(pages)) + pages[0].body

    found = [row for p in pages if p.shelf != 'reference'
             for row in p.sections(maths.as_tex(p.body))]
    index = json.dumps([names, found], ensure_ascii=False, separators=(',', ':'))
    write(site/'assets'/'search.js', f'window.SEARCH = {index}\n')
    bodies = maths.set([p.body for p in pages], site/'assets'/'katex')
    for p,body in zip(pages, bodies, strict=True): p.body = body
    template = (here/'page.html').read_text(encoding='utf-8')
    for p in pages: write(site/f'{p.name}.html', p.html(template, pages))
    return len(pages) + 1

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
