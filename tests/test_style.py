"The habits that keep the notebooks, modules and tools alike."
import ast, inspect, json, re, sys
from importlib import import_module
from pathlib import Path
import pytest
from conftest import cfg, nb_name, nbs, root
from project import is_lesson

lib = cfg['lib_path']
modules = sorted(p for p in (root/lib).rglob('*.py') if not p.name.startswith('_'))
lessons, rooms = [p for p in nbs if is_lesson(p)], [p for p in nbs if not is_lesson(p)]
numbered = [p for p in lessons if p.stem != 'index']
scripts = sorted(p for d in ('tools', 'tests', 'bench') for p in (root/d).glob('*.py')) + [root/'setup.py', root/lib/'__init__.py']
def dotted(p): return '.'.join(p.relative_to(root/lib).with_suffix('').parts) # slm_scratch/engine/files.py -> engine.files

def text(s): return ''.join(s) if isinstance(s, list) else s
def cells(p, kind=None): return [c for c in json.loads(p.read_text(encoding='utf-8'))['cells'] if kind in (None, c['cell_type'])]
def source(c): return text(c['source'])
def directives(c): return [l[2:].split()[0] for l in source(c).splitlines() if l.startswith('#|') and l[2:].split()]

# ---- text files are UTF-8, everywhere ----

def bare_opens(src):
    "Lines of `src` that read or write text in whatever encoding the machine prefers"
    bad = []
    for n in ast.walk(ast.parse(src)):
        if not isinstance(n, ast.Call): continue
        f = n.func.attr if isinstance(n.func, ast.Attribute) else getattr(n.func, 'id', '')
        if f not in ('open', 'read_text', 'write_text', 'fdopen', 'NamedTemporaryFile'): continue
        owner = getattr(getattr(n.func, 'value', None), 'id', '')
        if f == 'open' and owner in ('self', 'source', 'tokenize'): continue # methods of ours; tokenize.open reads the encoding
        if f == 'open' and owner in ('webbrowser', 'Image', 'os', 'tarfile', 'np'): continue
        kw = {k.arg: k.value for k in n.keywords}
        at = {'open': 0 if isinstance(n.func, ast.Attribute) and owner not in ('io', 'gzip') else 1, 'fdopen': 1, 'NamedTemporaryFile': 0}.get(f)
        mode = kw.get('mode') or (n.args[at] if at is not None and len(n.args) > at else None)
        modes = [str(c.value) for c in ast.walk(mode) if isinstance(c, ast.Constant)] if mode else ['w+b' if f == 'NamedTemporaryFile' else '']
        if not all('b' in m for m in modes) and 'encoding' not in kw and None not in kw: bad.append(f'line {n.lineno}: {ast.unparse(n)[:80]}')
    return bad

def test_bare_opens_are_seen():
    assert len(bare_opens("open('a')\nPath('a').read_text()\np.open('w')\np.write_text(s)\nopen('a', 'w')")) == 5
    assert not bare_opens("open('a', 'rb')\np.open('wb')\np.read_text(encoding='utf-8')\nopen('a', mode='rb')\ngzip.open('a', 'rb')\nopen(f, **kw)\nopen('a', 'ab' if x else 'wb')")

@pytest.mark.parametrize('path', modules + scripts, ids=lambda p: str(p.relative_to(root)))
def test_encodings(path): assert bare_opens(path.read_text(encoding='utf-8')) == []

@pytest.mark.parametrize('nb', nbs, ids=nb_name)
def test_encodings_in_notebooks(nb):
    for c in cells(nb, 'code'): assert bare_opens(source(c)) == [], source(c)

# ---- the skeleton of a notebook ----

badge = ('[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]'
         f"(https://colab.research.google.com/github/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/{{}})")
install = f'''#| hide
# On Colab only: install the package, leaving the torch and numpy that are already there untouched.
import importlib.util, sys
if 'google.colab' in sys.modules and importlib.util.find_spec('{lib}') is None:
    get_ipython().run_line_magic('pip', 'install -q "{cfg['lib_name']}[offline] @ git+{cfg['git_url']}"')'''

@pytest.mark.parametrize('nb', nbs, ids=nb_name)
def test_head(nb):
    "Title and promise, badge, install, module: in this order, before any other import; the index exports nothing"
    c = cells(nb)
    title, _, promise = source(c[0]).partition('\n\n')
    assert c[0]['cell_type'] == 'markdown' and promise.startswith('> ') and '\n' not in promise.strip()
    assert source(c[1]) == badge.format(nb.relative_to(root).as_posix())
    assert source(c[2]) == install
    exports = [source(x).split()[-1] for x in cells(nb, 'code') if 'default_exp' in directives(x)]
    if nb in numbered:
        number, name = nb.stem.split('_', 1)
        assert title.startswith(f'# {number} · ') and exports == [name]
    elif nb in rooms:
        assert re.fullmatch(r'# [^\d\n].*', title) and re.fullmatch('[a-z_]+', nb.stem), 'an engine room has no number'
        assert exports == [nb_name(nb).replace('/', '.')]
    else: assert exports == []
    if exports: assert source(c[3]) == f'#| default_exp {exports[0]}'

@pytest.mark.parametrize('nb', rooms, ids=nb_name)
def test_why_a_room(nb):
    "An engine room says next why no lesson holds it, in a short paragraph"
    why = cells(nb)[4]
    assert why['cell_type'] == 'markdown' and not source(why).startswith('#') and 10 <= len(source(why).split()) <= 150

@pytest.mark.parametrize('nb', nbs, ids=nb_name)
def test_no_cell_counts_on_being_skipped(nb):
    "A reader's Jupyter knows no tags: a cell says itself, in a line, that what it needs is not there"
    for c in cells(nb, 'code'): assert not {'slow', 'gpu', 'eval:'} & set(directives(c)), source(c)[:300]
    for c in cells(nb): assert not c['metadata'].get('tags'), source(c)[:300]

@pytest.mark.parametrize('nb', numbered, ids=nb_name)
def test_parts(nb):
    "What you will build … what can go wrong, summary, exercises, and the link to the next"
    heads = [l.lstrip('# ').strip() for c in cells(nb, 'markdown') for l in source(c).splitlines() if re.match(r'## ', l)]
    parts = ['What you will build', 'What can go wrong', 'Summary', 'Exercises']
    assert [h for h in heads if h in parts] == parts, heads
    last = source(cells(nb)[-1])
    i = numbered.index(nb)
    nxt = numbered[i+1].name if i+1 < len(numbered) else 'index.ipynb'
    assert f']({nxt})' in last, f'the last cell links to {nxt}'

def exported(nb): return [source(c) for c in cells(nb, 'code') if {'export', 'exports'} & set(directives(c))]

@pytest.mark.parametrize('nb', nbs, ids=nb_name)
def test_imports_stand_alone(nb):
    "Imports of the module in a cell of their own, not between functions"
    for src in exported(nb):
        kinds = [type(o) for o in ast.parse(src).body]
        assert not ({ast.Import, ast.ImportFrom} & set(kinds) and {ast.FunctionDef, ast.ClassDef} & set(kinds)), src[:300]

@pytest.mark.parametrize('nb', nbs, ids=nb_name)
def test_cells_are_plain(nb):
    "An id for each cell, no magics, no execution counts or trailing metadata"
    d = json.loads(nb.read_text(encoding='utf-8'))
    assert (d['nbformat'], d['nbformat_minor']) == (4, 5)
    ids = [c['id'] for c in d['cells']]
    assert len(set(ids)) == len(ids)
    for c in cells(nb, 'code'):
        assert c['execution_count'] is None
        assert not re.search(r'^\s*[%!]', source(c), re.M), source(c)
        if 'eval:' not in directives(c): ast.parse(source(c))

# ---- outputs ----

machine = re.compile(r'/(?:work|root|home|Users|tmp|opt|var/folders)/|site-packages|[A-Z]:\\\\')

@pytest.mark.parametrize('nb', nbs, ids=nb_name)
def test_outputs(nb):
    "A notebook holds its outputs: text and pictures, no error, no warning, no path of the machine that ran it"
    outs = [o for c in cells(nb, 'code') for o in c['outputs']]
    assert outs or nb in rooms, 'no outputs: run it with tools/run_nbs.py'
    for o in outs:
        assert o['output_type'] != 'error', o.get('evalue')
        said = text(o.get('text', '')) + ''.join(text(v) for k,v in o.get('data', {}).items() if k.startswith('text/'))
        assert not machine.search(said), said[:500]
    assert nb not in numbered or any('image/png' in o.get('data', {}) for o in outs), 'no picture'

def test_values_are_shown():
    "A cell that ends in a value shows it: the notebook was run, to the end"
    for nb in nbs:
        for c in cells(nb, 'code'):
            if not source(c).strip() or {'hide', 'export', 'exports', 'default_exp'} & set(directives(c)): continue
            body = ast.parse(source(c)).body
            last = body[-1] if body else None
            shows = isinstance(last, ast.Expr) and isinstance(last.value, (ast.Name, ast.BinOp, ast.Tuple, ast.List, ast.Dict, ast.Subscript, ast.JoinedStr))
            if shows and not source(c).rstrip().endswith(';'): assert c['outputs'], f'{nb.name}:\n{source(c)}'

# ---- exported names ----

def names():
    "Exported functions and classes, and the public methods and properties of the classes: name, object, whether it is a property"
    for p in modules:
        m = import_module(f'{lib}.{dotted(p)}')
        for n in getattr(m, '__all__', []):
            o = inspect.getattr_static(m, n.split('.')[0])
            if '.' in n or not (inspect.isclass(o) or inspect.isfunction(o)): continue
            yield f'{dotted(p)}:{n}', o, False
            for k,v in vars(o).items() if inspect.isclass(o) else ():
                f = getattr(v, '__func__', getattr(v, 'fget', v))
                if inspect.isfunction(f) and not k.startswith('_') and f.__module__.startswith(lib): yield f'{dotted(p)}:{n}.{k}', f, isinstance(v, property)

def owner(name):
    "The class of a method: engine.files:Thing.save -> engine.files:Thing"
    module, _, member = name.partition(':')
    return f"{module}:{member.split('.')[0]}"

def comments(o):
    "The parameters, and the result, with their comments"
    from fastcore.docments import docments
    ds = docments(o, full=True, returns=not inspect.isclass(o))
    inherited = {k: v for base in o.__mro__[1:-1] for k,v in comments(base).items() if v} if inspect.isclass(o) else {} # a dataclass has its base's fields
    said = {k: v.docment or inherited.get(k) for k,v in ds.items() if k not in ('self', 'cls', 'args', 'kwargs')}
    plain = (inspect.Parameter.empty, None, bool) # results that the docstring says enough about
    return {k: v for k,v in said.items() if not (k == 'return' and ds[k].anno in plain)}

def test_every_name_is_explained():
    "A docstring for each exported name; a comment for each parameter, there or in a method beside it, or its name in the docstring where it is alone"
    missing, beside = [], {}
    found = [(n, o, {} if prop else comments(o)) for n,o,prop in names()]
    for n,_,ks in found: beside.setdefault(owner(n), set()).update(k for k,v in ks.items() if v)
    for n,o,ks in found:
        doc = inspect.getdoc(o) or ''
        if not doc: missing.append(f'{n}: no docstring')
        bare = [k for k,v in ks.items() if not v]
        if owner(n) != n: # a method
            bare = [k for k in bare if k not in beside[owner(n)]]
            if len(bare) == 1 and f'`{bare[0]}`' in doc: bare = []
        missing += [f'{n}: {k} has no comment' for k in bare]
    assert not missing, '\n' + '\n'.join(missing)

# ---- prose ----

@pytest.mark.parametrize('nb', nbs, ids=nb_name)
def test_prose(nb):
    "No emoji, no remote picture but the badge, no tab, no line of code too long to read"
    for c in cells(nb):
        s = source(c)
        assert not re.search('[\U0001F300-\U0001FAFF\u2600-\u26FF\u2728\u274C\u2705]', s), s[:300]
        assert '\t' not in s, s[:300]
        if c['cell_type'] == 'markdown':
            pictures = re.findall(r'!\[[^\]]*\]\((http[^)]*)\)|<img[^>]*src="(http[^"]*)"', s)
            assert all('colab-badge.svg' in ''.join(p) for p in pictures), pictures
        else: assert max(map(len, s.splitlines() or [''])) <= 180, max(s.splitlines(), key=len)
