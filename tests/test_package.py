"What a user installs: complete, light to import, and free of caps."
import ast, email, importlib, inspect, re, shlex, sys, zipfile
import pytest
from packaging.requirements import Requirement
from conftest import cfg, root
from project import lesson_modules, order

def in_wheel(wheel, name):
    with zipfile.ZipFile(wheel) as z: return z.read(name).decode('utf-8')

def metadata(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    name = next(n for n in names if n.endswith('.dist-info/METADATA'))
    return email.message_from_string(in_wheel(wheel, name))

def test_files(wheel):
    lib = cfg['lib_path']
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [p for p in (root/lib).rglob('*') if p.is_file() and '__pycache__' not in p.parts]
    want = {str(p.relative_to(root)) for p in files}
    some = ['assets/tales.json', 'look.mplstyle', 'train.py', 'engine/files.py']
    assert {f'{lib}/{name}' for name in some} <= want, 'the repository holds them'
    assert want <= names
    others = {n for n in names - want if '.dist-info/' not in n}
    assert not others, f'the wheel also holds {others}'
    assert any(n.endswith('LICENSE') for n in names)

def test_metadata(wheel):
    m = metadata(wheel)
    assert (m['Name'], m['Version']) == (cfg['lib_name'], cfg['version'])
    assert m['Requires-Python'] == '>=' + cfg['min_python']
    assert m['Description-Content-Type'] == 'text/markdown'
    readme = (root/'README.md').read_text(encoding='utf-8')
    title = '# ' + cfg['title']
    assert readme.startswith(title) and m.get_payload().strip().startswith(title)
    assert cfg['author'] in (root/'LICENSE').read_text(encoding='utf-8')

# what some functions need and nobody must have: exactly these
optional = {'huggingface_hub'}

def runtime(wheel):
    rs = [Requirement(r) for r in metadata(wheel).get_all('Requires-Dist')]
    return [r for r in rs if r.marker is None or r.marker.evaluate({'extra': 'offline'})]

def test_no_caps(wheel):
    "A cap on torch or numpy swaps them under a running Colab kernel"
    rs = runtime(wheel)
    assert {'torch', 'numpy', 'tiktoken', 'tqdm', 'matplotlib'} <= {r.name for r in rs}
    assert [str(r) for r in rs for s in r.specifier if s.operator != '>='] == []

def top_names(node):
    "The packages that an `import` or an absolute `from … import` names"
    if isinstance(node, ast.Import): names = [a.name for a in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level: names = [node.module]
    else: names = []
    return {n.split('.')[0] for n in names}

def imports(src):
    "What a module imports from elsewhere: always, and with a guard (in a function or a `try`)"
    tree = ast.parse(src)
    guards = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.Try))]
    guarded = {n for g in guards for n in ast.walk(g)}
    always = [n for n in ast.walk(tree) if n not in guarded]
    return set().union(*map(top_names, always)), set().union(*map(top_names, guarded))

def test_imports_are_seen():
    src = ('import a.b, c\nfrom d.e import f\nfrom .g import h\n'
           'try: import i\nexcept ImportError: pass\ndef j():\n    if k: from l import m')
    assert imports(src) == ({'a', 'c', 'd'}, {'i', 'l'})

def test_requirements_are_used():
    """Each run-time requirement is imported by a module, and each import is required; what is not
    required is imported by a function that needs it, or in a `try`"""
    need = {Requirement(r).name for r in shlex.split(cfg['requirements'])}
    found = [imports(p.read_text(encoding='utf-8')) for p in (root/cfg['lib_path']).rglob('*.py')]
    always, guarded = (set().union(*f) for f in zip(*found))
    assert need <= always | guarded, f'never imported: {need - always - guarded}'
    comes_along = {'regex'} # of tiktoken
    ours = sys.stdlib_module_names | need | comes_along | {cfg['lib_path']}
    assert always <= ours, f'imported at the top of a module but not required: {always - ours}'
    other = guarded - ours
    assert other == optional, (f'imported but not listed: {other - optional}; '
                               f'listed but not imported: {optional - guarded}')

# ---- one order of modules ----

lib = cfg['lib_path']
known = [n if n in lesson_modules else f'engine.{n}' for n in order] # in their order
imports_all = {'__init__', '__main__', '_modidx', 'engine', 'engine.__init__'}

# Imports against the order that exist today: (module, what it imports). Whoever mends one takes it
# out; a new one fails.
allowed_for_now = {('engine.shell', '')} # `import slm_scratch`, for its version and its notes

def dotted(path):
    "slm_scratch/engine/files.py -> engine.files"
    return '.'.join(path.relative_to(root/lib).with_suffix('').parts)

def absolute(name, node):
    "What a `from … import` in the module `name` (engine.files) names before `import`, absolutely"
    if not node.level: return node.module
    parents = [lib, *name.split('.')][:-node.level]
    return '.'.join([*parents, *filter(None, [node.module])])

def imported_modules(src, name):
    "Our modules that the source of module `name` imports, wherever in it; '' is the package itself"
    found = set()
    for node in ast.walk(ast.parse(src)):
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = absolute(name, node)
            below = {f'{base}.{a.name}' for a in node.names}
            modules = below & {f'{lib}.{m}' for m in [*known, 'engine']}
            found |= modules
            if len(modules) < len(below): found.add(base) # a name that is no module
    ours = {n for n in found if n == lib or n.startswith(f'{lib}.')}
    return {n.removeprefix(lib).removeprefix('.') for n in ours}

def against_the_order(src, name):
    "The imports of module `name` that do not stand before it in the order"
    earlier = known[:known.index(name)] if name in known else known
    return imported_modules(src, name) - {*earlier, name}

def test_imports_against_the_order_are_seen():
    src = """
from .model import (ModelConfig,
                    SmallLanguageModel)
from .engine.files import TMP
from .engine import (corpus, demo)
import torch, slm_scratch.train as t
if TYPE_CHECKING: from slm_scratch.generate import Decoder
def late():
    from . import attention
    from slm_scratch import SmallLanguageModel
"""
    found = {'model', 'engine.files', 'engine.corpus', 'engine.demo', 'train', 'generate',
             'attention', ''}
    assert imported_modules(src, 'data') == found
    assert against_the_order(src, 'data') == found - {'engine.files'}
    assert imported_modules('from ..model import x\nfrom .run import y\nfrom . import cli',
                            'engine.demo') == {'model', 'engine.run', 'engine.cli'}

def test_modules_import_from_those_before_them():
    "Every import of the package, in functions too, against `order` in tools/project.py"
    paths = {dotted(p): p for p in (root/lib).rglob('*.py')}
    modules = paths.keys() - imports_all
    assert modules <= set(known), 'a new module needs its place in tools/project.py'
    bad = {(name, other) for name in modules
           for other in against_the_order(paths[name].read_text(encoding='utf-8'), name)}
    assert bad <= allowed_for_now

def test_import_is_light(wheel_env, empty):
    """`import slm_scratch` needs neither a network nor the developer's packages, prints and writes
    nothing, and leaves random states alone"""
    code = '''
import random, sys, torch, numpy as np
states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
import slm_scratch
from slm_scratch import Tokenizer, ModelConfig, MODEL_CONFIG, PRESETS
from slm_scratch import SmallLanguageModel, LanguageModelTrainer
import slm_scratch.engine.demo
assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
assert (np.random.get_state()[1] == states[2]).all()
'''
    r = wheel_env('-W', 'error::DeprecationWarning:slm_scratch', '-c', code, cwd=empty)
    assert (r.stdout, r.stderr) == ('', '') and not list(empty.iterdir())

def test_public_names():
    import slm_scratch
    for n in slm_scratch.__all__: assert getattr(slm_scratch, n) is not None
    with pytest.raises(AttributeError, match='no attribute'): slm_scratch.nothing
    assert slm_scratch.__version__ == cfg['version']
    C = slm_scratch.MODEL_CONFIG
    sizes = (C.d_model, C.n_heads, C.n_layers)
    assert (C.vocab_size, C.max_seq_len) == (50257, 1024) and sizes == (512, 8, 6)
    sizes = {k: (c.d_model, c.n_heads, c.n_layers) for k,c in slm_scratch.PRESETS.items()}
    assert sizes['tiny'] == (256, 4, 4) and sizes['small'] == (512, 8, 6)
    assert sizes['medium'] == (768, 12, 12)

scripts = [s.split('=') for s in shlex.split(cfg['console_scripts'])]
@pytest.mark.parametrize('name,target', scripts)
def test_help(name, target, wheel_env, empty):
    "Each program answers `--help`, off line, with every option, what it means and its default"
    out = ' '.join(wheel_env(wheel_env.site/'bin'/name, '--help', cwd=empty).stdout.split())
    module, function = target.split(':')
    from slm_scratch.engine.options import options_of
    params = options_of(getattr(importlib.import_module(module), function)).values()
    assert params
    for p in params:
        option = '--' + p.name
        shown = p.name if p.is_place else option
        about = rf'(^| ){re.escape(shown)}( \w+)? +\S'
        assert re.search(about, out), f'{name} --help does not explain {shown}'
        if shown == option:
            assert option.replace('_', '-') in out, f'{name} --help: no {option} with hyphens'
        if not p.is_place and p.default not in (None, False, ''):
            assert f'(default: {p.default})' in out, f'{name} --help: no default of {shown}'
    assert not list(empty.iterdir())
