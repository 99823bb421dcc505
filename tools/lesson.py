"""The parts of a page of the site: notebooks read into cells, cells turned into HTML, the reference
from docments."""
import ast, base64, html, importlib, inspect, posixpath, re, sys
from pathlib import Path
from urllib.parse import unquote
from fastcore.docments import docments
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Keyword, Name, Number, Operator, String
from pygments.util import ClassNotFound
from project import (cfg, is_guide, is_lesson, nbs_dir, notebook_paths, read_cells, read_head, root,
                     text)

blob = f"{cfg['git_url']}/blob/{cfg['branch']}"
google = 'https://colab.research.google.com'
colab = f"{google}/github/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}"
badge_svg = f'{google}/assets/colab-badge.svg'

# ---- notebooks ----

def plain(s):
    "Text as a terminal shows it: no colours, and of a line that was overwritten its last state"
    s = re.sub(r'\x1B(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])', '', s).replace('\r\n', '\n')
    return '\n'.join(l.rstrip('\r').rsplit('\r', 1)[-1] for l in s.split('\n'))

def mark(name, names):
    "The id of an exported name: in small letters, unless another of `names` has the same then"
    low = [n.lower() for n in names]
    return name.lower() if low.count(name.lower()) == 1 else name

def slug(s): return re.sub(r'[^\w]+', '-', s.lower()).strip('-')

def output_html(t):
    "Text that a cell printed; lines that are long are wrapped, and a story is set as a book is"
    if not t.strip(): return ''
    wrap = ' prose' if max(map(len, t.splitlines())) > 120 else ''
    if wrap and not re.search(r'[<>{}|=_/]|  ', t): wrap += ' told'
    return f'<pre class="out{wrap}">{html.escape(t)}</pre>'

class Cell:
    "A cell of a notebook: its source without directives, and the directives"
    def __init__(self, c):
        lines = text(c['source']).splitlines()
        self.kind, self.outputs = c['cell_type'], c.get('outputs', [])
        self.attachments = c.get('attachments') or {}
        is_dir = lambda l: self.kind == 'code' and l.startswith('#|')
        ds = [l[2:].strip() for l in lines if is_dir(l)]
        self.dirs = {k.rstrip(':'): v for k,_,v in (d.partition(' ') for d in ds)}
        self.src = '\n'.join(l for l in lines if not is_dir(l)).strip('\n')
        is_hidden = bool({'hide', 'default_exp'} & self.dirs.keys())
        self.hidden = is_hidden or self.dirs.get('include') == 'false'
        self.shown = 'exports' in self.dirs
        self.exported = self.shown or bool({'export', 'exporti'} & self.dirs.keys())

def code_lines(src):
    "Lines of code that are read: neither empty nor a comment"
    return [l for l in src.splitlines() if l.strip() and not l.lstrip().startswith('#')]

def reading_minutes(cells):
    "How long a notebook's cells take: 180 words or 10 lines of code a minute"
    of = lambda kind: [text(c['source']) for c in cells if c['cell_type'] == kind]
    words = sum(len(s.split()) for s in of('markdown'))
    return words/180 + sum(len(code_lines(s)) for s in of('code'))/10

exercise_call = re.compile(r"^exercise\('([\w.]+)'", re.M)

class Notebook:
    "A notebook to be a page: title and promise from its first cell, the module that it exports"
    def __init__(self, path):
        self.path, self.stem, self.is_lesson = path, path.stem, is_lesson(path)
        self.is_guide = is_guide(path)
        raw = read_cells(path)
        self.title, self.promise, rest = read_head(raw)
        cells = [Cell(c) for c in raw if text(c.get('source', '')).strip()]
        cells[0].src = rest # what else the first cell says
        modules = (c.dirs['default_exp'] for c in cells if 'default_exp' in c.dirs)
        self.module = next(modules, None)
        self.cells = [c for c in cells if c.src.strip() and (not c.hidden or c.exported)]
        # '.' for a lesson, 'engine' for an engine room
        self.folder = path.relative_to(nbs_dir).parent.as_posix()
        name = re.sub(r'^\d+[a-z]?_', '', self.stem) # 02_attention -> attention
        prefix = '' if self.is_lesson else self.folder.replace('/', '-') + '-'
        self.name = prefix + name # the name of its page
        self.symbols = [n for c in cells if c.exported for n in defined(c.src)]
        self.minutes = reading_minutes(raw)
        asked = [n for c in self.cells if c.kind == 'code' for n in exercise_call.findall(c.src)]
        self.exercises = list(dict.fromkeys(asked)) if self.is_lesson else []

    @property
    def address(self):
        "The notebook's path in the repository"
        return self.path.relative_to(root).as_posix()

    @property
    def module_path(self):
        "Its module's path in the repository"
        return f"{cfg['lib_path']}/{self.module.replace('.', '/')}.py"

def is_patch(decorator):
    "Is it fastcore's `@patch`, or `@patch_to` and the like?"
    called = getattr(decorator, 'func', None)
    return getattr(decorator, 'id', getattr(called, 'id', '')).startswith('patch')

def full_name(o):
    "The name of a function or class, of a method added by `@patch` as `Class.name`"
    if isinstance(o, ast.ClassDef) or not any(map(is_patch, o.decorator_list)): return o.name
    owner = o.args.args[0].annotation
    return f'{owner.id}.{o.name}' if isinstance(owner, ast.Name) else o.name

def defined(src):
    "Public names of the functions and classes that `src` defines"
    try: body = ast.parse(src).body
    except SyntaxError: return []
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = [full_name(o) for o in body if isinstance(o, kinds)]
    return [n for n in names if not n.split('.')[-1].startswith('_')]

def notebooks(warn=True):
    """The project's notebooks, the index first; a scratch notebook is left out, and with `warn`
    named on stderr"""
    return [Notebook(p) for p in notebook_paths(warn)]

# ---- pages ----

# Kinds of tokens that have a colour of their own, and the letter of their class in `site.css`.
colours = {Comment: 'c', Keyword: 'k', Operator.Word: 'k', String: 's', Number: 'm',
           Name.Builtin: 'b', Name.Function: 'f', Name.Class: 'f', Name.Decorator: 'f'}

def colour(kind):
    "The class of a token, or '': most of a line needs none, and so no markup"
    return next((c for k,c in colours.items() if kind in k), '')

def code_html(src, lang='python'):
    "Highlighted code; the look is in `site.css`"
    try: lexer = get_lexer_by_name(lang or 'text', stripnl=False)
    except ClassNotFound: lexer = get_lexer_by_name('text')
    runs = [] # [class, text], neighbours of one class joined; space takes any
    for kind,t in lexer.get_tokens(src.rstrip()):
        c = runs[-1][0] if runs and not t.strip() else colour(kind)
        if runs and runs[-1][0] == c: runs[-1][1] += t
        else: runs.append([c, t])
    mark = lambda c, t: f'<i class={c}>{t}</i>' if c else t
    inside = ''.join(mark(c, html.escape(t, quote=False)) for c,t in runs).rstrip()
    return f'<pre class="code"><code>{inside}</code></pre>'

class Writer:
    "Turns the cells of one notebook into HTML, and gathers its headings and the text for search"
    def __init__(self, nbs, # all notebooks, for the links between them
                 maths, # called with a formula and whether it stands alone, gives its HTML
                 site, # folder for pictures
                 pictures=None, # data → address, of those written before; it grows
                ):
        self.maths, self.site = maths, site
        self.pictures = {} if pictures is None else pictures
        self.toc, self.ids, self.n_img = [], set(), 0
        self.names = [] # of the reference: (name, where it is explained, what it does)
        self.pages = {nb.address: nb.name for nb in nbs}
        # of the notebook at work: its folder, and the pictures pasted into its cells
        self.folder, self.attached = cfg['nbs_path'], {}
        # where each exported name is explained
        self.symbols = {n: f'{nb.name}.html#{mark(n, nb.symbols)}'
                        for nb in nbs for n in nb.symbols}
        exporting = [nb for nb in nbs if nb.module]
        self.symbols |= {f"{cfg['lib_path']}.{nb.module}": f'{nb.name}.html' for nb in exporting}
        self.md, self.text_md = self.parser(html=True), self.parser(html=False)

    def parser(self, html):
        "Markdown with formulas and highlighted code; with `html`, tags are tags"
        def formula(tex, options): return self.maths(tex, options['display_mode'])
        md = MarkdownIt('commonmark', {'html': html}).enable(['table', 'strikethrough'])
        md.use(dollarmath_plugin, allow_space=False, allow_digits=False, double_inline=True,
               renderer=formula)
        md.add_render_rule('fence', lambda _, ts, i, *a: self.fence(ts[i]))
        return md

    def fence(self, t):
        lang = t.info.strip().split(' ')[0].strip('{}')
        return code_html(t.content, lang or 'text')

    def anchor(self, s):
        a = base = slug(s) or 'section'
        n = 1
        while a in self.ids:
            n += 1
            a = f'{base}-{n}'
        self.ids.add(a)
        return a

    def href(self, h):
        "A link as the site needs it: to its own pages and pictures by their names here"
        if h.startswith('attachment:'):
            return self.attachment(unquote(h.removeprefix('attachment:')))
        path, _, place = h.partition('#')
        if not path or re.match(r'[a-zA-Z][\w+.-]*:|/', path): return h
        to = posixpath.normpath(posixpath.join(self.folder, unquote(path)))
        place = f'#{place}' if place else ''
        if to in self.pages: return f'{self.pages[to]}.html{place}'
        if to.startswith('images/'): return to
        return h if to.startswith(cfg['nbs_path'] + '/') else f'{blob}/{to}{place}'

    def attachment(self, name):
        "A picture pasted into the cell at work, as a file of the site; `name` is the cell's for it"
        if name not in self.attached:
            sys.exit(f"{self.nb.address}: a cell shows the attachment '{name}', but does not hold "
                     'it; save the picture in images/ and link to it')
        mime, data = next(iter(self.attached[name].items()))
        data = text(data)
        is_svg = data.lstrip().startswith('<') # which may be there as text
        raw = data.encode('utf-8') if is_svg else base64.b64decode(data)
        return self.picture(raw, Path(name).suffix or '.' + re.split(r'[/+]', mime)[1])

    def picture(self, data, suffix):
        "The address of a picture: a new one, or that of a page before which shows the same"
        self.n_img += 1
        if data in self.pictures: return self.pictures[data]
        name = f'images/{self.nb.name}-{self.n_img}{suffix}'
        (self.site/'images').mkdir(parents=True, exist_ok=True)
        (self.site/name).write_bytes(data)
        self.pictures[data] = name
        return name

    def markdown(self, src, md=None):
        "Markdown to HTML: anchors on headings, links to our pages, our names in backticks linked"
        md = md or self.md
        tokens = md.parse(src)
        for i,t in enumerate(tokens):
            if t.type == 'heading_open':
                label = tokens[i+1].content
                t.attrSet('id', self.anchor(re.sub(r'[`*$\\]', '', label)))
                if t.tag in ('h2', 'h3'):
                    self.toc.append((int(t.tag[1]), t.attrGet('id'), re.sub(r'[`*$]', '', label)))
            if t.children: self.inline(t)
            if t.type == 'html_block': t.content = self.raw(t.content)
        return md.renderer.render(tokens, md.options, {})

    def comment(self, src):
        "A docstring or comment to HTML: a tag in it is what it speaks of"
        return self.markdown(src, self.text_md)

    def inline(self, t):
        "Mend links and pictures in a line of text, and link names of ours"
        depth = 0
        for k in t.children:
            if k.type == 'link_open':
                depth += 1
                k.attrSet('href', self.href(k.attrGet('href')))
            elif k.type == 'link_close': depth -= 1
            elif k.type == 'image':
                src = k.attrGet('src')
                k.attrSet('src', 'assets/colab.svg' if src == badge_svg else self.href(src))
            elif k.type == 'html_inline': k.content = self.raw(k.content)
            elif k.type == 'code_inline' and not depth:
                to = self.symbols.get(k.content.strip('()'))
                if not to: continue
                k.type = 'html_inline'
                k.content = f'<a class="sym" href="{to}"><code>{html.escape(k.content)}</code></a>'

    def raw(self, s):
        "Mend links and pictures in HTML that the author wrote"
        s = s.replace(badge_svg, 'assets/colab.svg')
        return re.sub(r'(src|href)="([^"]+)"', lambda m: f'{m[1]}="{self.href(m[2])}"', s)

    def code(self, c):
        "A code cell: shown if it is read, folded if it is a detail; its names can be linked to"
        names = list(dict.fromkeys(defined(c.src))) if c.exported else []
        new = [n for n in names if n not in self.marked]
        marks = ''.join(f'<a class="mark" id="{mark(n, self.nb.symbols)}"></a>' for n in new)
        self.marked |= set(names)
        if c.hidden or c.dirs.get('echo') == 'false': return marks
        if not c.exported: return code_html(c.src)
        where = self.nb.module_path
        if c.shown:
            link = f'<a class="where" href="{blob}/{where}">{where}</a>'
            return f'<div class="export">{marks}{link}{code_html(c.src)}</div>'
        about = ', '.join(f'<code>{n}</code>' for n in names) or 'imports and constants'
        summary = f'<summary>{where}: {about}</summary>'
        return f'{marks}<details class="export">{summary}{code_html(c.src)}</details>'

    def figure(self, data, c):
        "A picture in PNG, with its size, its alternative text and its caption"
        src = self.picture(data, '.png')
        w, h = (int.from_bytes(data[i:i+4], 'big') for i in (16, 20))
        caption = c.dirs.get('fig-cap')
        alt = c.dirs.get('fig-alt') or caption or f'Figure {self.n_img}: drawn by the cell above'
        below = f'<figcaption>{html.escape(caption)}</figcaption>' if caption is not None else ''
        late = 'loading="lazy" decoding="async"'
        img = f'<img src="{src}" width="{w}" height="{h}" {late} alt="{html.escape(alt)}">'
        return f'<figure>{img}{below}</figure>'

    def output(self, o, c):
        "One output of a cell"
        d = o.get('data', {})
        if c.hidden or c.dirs.get('output') == 'false': return ''
        if o['output_type'] == 'error':
            traceback = plain('\n'.join(o['traceback']))
            return f'<pre class="out error">{html.escape(traceback)}</pre>'
        if 'text' in o:
            t = plain(text(o['text'])).strip('\n')
            return output_html(t)
        if 'image/svg+xml' in d: return f'<figure>{text(d["image/svg+xml"])}</figure>'
        if 'image/png' in d: return self.figure(base64.b64decode(text(d['image/png'])), c)
        if 'text/markdown' in d: return self.markdown(text(d['text/markdown']))
        if 'text/html' in d: return f'<div class="html">{text(d["text/html"])}</div>'
        t = plain(text(d.get('text/plain', '')))
        return output_html(t)

    def ticks(self, c):
        "A box to tick for each exercise of a cell; the browser keeps it"
        names = [n for n in exercise_call.findall(c.src) if n in self.nb.exercises]
        box = '<label class="tick"><input type="checkbox" data-exercise="{}">Solved</label>'
        return ''.join(map(box.format, names))

    def body(self, nb):
        "The page of a notebook, below its title"
        self.nb, self.marked = nb, set()
        self.ids, out = {mark(n, nb.symbols) for n in nb.symbols}, []
        self.folder = posixpath.dirname(nb.address)
        for c in nb.cells:
            self.attached = c.attachments
            if c.kind == 'markdown':
                if badge_svg in c.src and len(c.src) < 400: continue # the page's head has its own
                out.append(self.markdown(c.src))
            elif c.kind == 'code':
                outs = ''.join(self.output(o, c) for o in c.outputs)
                out.append(f'<div class="cell">{self.code(c)}{outs}{self.ticks(c)}</div>')
        return '\n'.join(out)

# ---- the reference ----

def type_name(a):
    "A type as one would write it, without its module"
    if a is inspect.Parameter.empty or a is None: return ''
    if isinstance(a, str): s = a
    elif isinstance(a, type) and not hasattr(a, '__args__'): s = a.__name__
    else: s = str(a)
    return re.sub(r'\b(?:\w+\.)+(\w+)', r'\1', s)

def default(d):
    "A default value, if it is short enough to read"
    s = d.__name__ if callable(d) and hasattr(d, '__name__') else repr(d)
    return s if len(s) < 40 and ' at 0x' not in s else '…'

def parameter(p):
    "A parameter as it stands in a signature"
    stars = {p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '')
    value = '' if p.default is p.empty else f'={default(p.default)}'
    return stars + p.name + value

def signature(name, f):
    "The call, over several lines if one would be too long"
    try: found = inspect.signature(f).parameters
    except (ValueError, TypeError): return name
    ps = [parameter(p) for n,p in found.items() if n not in ('self', 'cls')]
    s = f"{name}({', '.join(ps)})"
    return s if len(s) <= 88 else f'{name}(\n    ' + ',\n    '.join(ps) + ')'

def table(w, f):
    "What each parameter means, and the result: from docments"
    try: ds = docments(f, full=True, returns=True)
    except Exception: return ''
    def inline(s):
        if not s: return ''
        return w.comment(' '.join(s.split())).strip().removeprefix('<p>').removesuffix('</p>')
    def row(n, d):
        name = '<em>result</em>' if n == 'return' else f'<code>{n}</code>'
        kind = html.escape(type_name(d.get('anno')))
        return f"<tr><td>{name}</td><td>{kind}</td><td>{inline(d.get('docment'))}</td></tr>"
    shown = {n: d for n,d in ds.items()
             if n not in ('self', 'cls') and (d.get('docment') or n != 'return')}
    if not any(d.get('docment') for d in shown.values()): return ''
    return f'<table class="params">{"".join(row(n, d) for n,d in shown.items())}</table>'

def source_link(f):
    "The address of its lines in the module on GitHub, or '' for what has none"
    try: lines, first = inspect.getsourcelines(inspect.unwrap(f))
    except (TypeError, OSError): return ''
    file = Path(inspect.getsourcefile(inspect.unwrap(f)))
    if not file.is_relative_to(root): return ''
    return f'{blob}/{file.relative_to(root).as_posix()}#L{first}-L{first + len(lines) - 1}'

def split_raises(doc):
    "What a docstring says, and which errors it promises"
    said = re.split(r'(?:^|[.;]\s+)[Rr]aises[ ,]+', doc, maxsplit=1)
    return said[0], said[1].rstrip('.') if len(said) > 1 else ''

def entry(w, name, obj, lesson):
    "One name of the reference; `lesson` is where it is explained"
    # what is in a classmethod, staticmethod or property
    f = getattr(obj, '__func__', getattr(obj, 'fget', obj))
    is_property, a, level = isinstance(obj, property), w.anchor(name), 4 if '.' in name else 3
    if level == 3: w.toc.append((level, a, name))
    kind = 'class ' if inspect.isclass(obj) else ''
    sig = name if is_property else kind + signature(name, f)
    head = f'<h{level} id="{a}">{html.escape(name)}</h{level}>'
    params = '' if is_property else table(w, f)
    about, raises = split_raises(inspect.getdoc(f) or '')
    w.names.append((name, lesson, about))
    if raises: raises = f'<div class="raises"><b>Raises</b> {w.comment(raises)}</div>'
    source = source_link(f)
    links = f'<a href="{lesson}">explained</a>'
    if source: links += f'<a href="{source}">source</a>'
    return (f'<section class="entry"><p class="lesson">{links}</p>{head}'
            f'{code_html(sig)}{w.comment(about)}{params}{raises}</section>')

def members(cls):
    "The public methods and properties that a class itself defines, and explains"
    for k,v in vars(cls).items():
        f = getattr(v, '__func__', getattr(v, 'fget', v))
        if not k.startswith('_') and inspect.isfunction(f) and f.__doc__: yield k, v

def reference(w, nbs):
    "The exported names of some notebooks: signature, parameters, errors, source, and the lesson"
    out = []
    sys.path.insert(0, str(root))
    for nb in (nb for nb in nbs if nb.module):
        mod = importlib.import_module(f'{cfg["lib_path"]}.{nb.module}')
        w.folder = posixpath.dirname(nb.address)
        out.append(w.markdown(f'## {mod.__name__}\n\n{nb.promise.rstrip(".")}.'))
        out.append(f'<p>Explained in <a href="{nb.name}.html">{html.escape(nb.title)}</a>.</p>')
        for name in nb.symbols:
            owner, _, member = name.partition('.')
            obj = getattr(mod, owner)
            if member: obj = inspect.getattr_static(obj, member)
            out.append(entry(w, name, obj, w.symbols[name]))
            if not inspect.isclass(obj): continue
            own = {f'{name}.{k}': v for k,v in members(obj)}
            out += [entry(w, n, v, w.symbols[name]) for n,v in own.items() if n not in w.symbols]
    return '\n'.join(out)
