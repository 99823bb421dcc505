"What a user installs: complete, light to import, and free of caps."
import ast, email, importlib, inspect, re, shlex, sys, zipfile
import pytest
from packaging.requirements import Requirement
from conftest import cfg, root

def in_wheel(wheel, name):
    with zipfile.ZipFile(wheel) as z: return z.read(name).decode('utf-8')

def metadata(wheel):
    return email.message_from_string(in_wheel(wheel, next(n for n in zipfile.ZipFile(wheel).namelist() if n.endswith('.dist-info/METADATA'))))

def test_files(wheel):
    lib = cfg['lib_path']
    names = set(zipfile.ZipFile(wheel).namelist())
    want = {str(p.relative_to(root)) for p in (root/lib).rglob('*') if p.is_file() and '__pycache__' not in p.parts}
    assert {f'{lib}/assets/tales.json', f'{lib}/look.mplstyle', f'{lib}/train.py', f'{lib}/engine/files.py'} <= want, 'the repository holds them'
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
    assert readme.startswith('# ' + cfg['title']) and m.get_payload().strip().startswith('# ' + cfg['title'])
    assert cfg['author'] in (root/'LICENSE').read_text(encoding='utf-8')

optional = {'huggingface_hub', 'ipywidgets'} # what some functions need and nobody must have: exactly these

def runtime(wheel):
    rs = [Requirement(r) for r in metadata(wheel).get_all('Requires-Dist')]
    return [r for r in rs if r.marker is None or r.marker.evaluate({'extra': 'offline'})]

def test_no_caps(wheel):
    "A cap on torch or numpy swaps them under a running Colab kernel"
    rs = runtime(wheel)
    assert {'torch', 'numpy', 'tiktoken', 'tqdm', 'matplotlib'} <= {r.name for r in rs}
    assert [str(r) for r in rs for s in r.specifier if s.operator != '>='] == []

def imports(src):
    "What a module imports from elsewhere, and which of that with a guard: inside a function or a `try`"
    tree = ast.parse(src)
    names = lambda n: [a.name for a in n.names] if isinstance(n, ast.Import) else [n.module] if isinstance(n, ast.ImportFrom) and not n.level else []
    tops = lambda nodes: {m.split('.')[0] for n in nodes for m in names(n)}
    guards = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.Try))]
    guarded = {n for g in guards for n in ast.walk(g)}
    return tops(n for n in ast.walk(tree) if n not in guarded), tops(guarded)

def test_imports_are_seen():
    src = 'import a.b, c\nfrom d.e import f\nfrom .g import h\ntry: import i\nexcept ImportError: pass\ndef j():\n    if k: from l import m'
    assert imports(src) == ({'a', 'c', 'd'}, {'i', 'l'})

def test_requirements_are_used():
    "Each run-time requirement is imported by a module, and each import is required; what is not required is imported by a function that needs it, or in a `try`"
    need = {Requirement(r).name for r in shlex.split(cfg['requirements'])}
    found = [imports(p.read_text(encoding='utf-8')) for p in (root/cfg['lib_path']).rglob('*.py')]
    always, guarded = (set().union(*f) for f in zip(*found))
    assert need <= always | guarded, f'never imported: {need - always - guarded}'
    comes_along = {'regex'} # of tiktoken
    ours = sys.stdlib_module_names | need | comes_along | {cfg['lib_path']}
    assert always <= ours, f'imported at the top of a module but not required: {always - ours}'
    unused = optional - guarded
    assert guarded - ours == optional, f'imported but not listed: {guarded - ours - optional}; listed but not imported: {unused}'

def test_import_is_light(wheel_env, empty):
    "`import slm_scratch` needs neither a network nor the developer's packages, prints and writes nothing, and leaves random states alone"
    code = '''
import random, sys, torch, numpy as np
states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
import slm_scratch
from slm_scratch import Tokenizer, ModelConfig, MODEL_CONFIG, PRESETS, SmallLanguageModel, LanguageModelTrainer
import slm_scratch.engine.demo
assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1]) and (np.random.get_state()[1] == states[2]).all()
'''
    r = wheel_env('-W', 'error::DeprecationWarning:slm_scratch', '-c', code, cwd=empty)
    assert (r.stdout, r.stderr) == ('', '') and not list(empty.iterdir())

def test_public_names():
    import slm_scratch
    for n in slm_scratch.__all__: assert getattr(slm_scratch, n) is not None
    with pytest.raises(AttributeError, match='no attribute'): slm_scratch.nothing
    assert slm_scratch.__version__ == cfg['version']
    C = slm_scratch.MODEL_CONFIG
    assert (C.vocab_size, C.d_model, C.n_heads, C.n_layers, C.max_seq_len) == (50257, 512, 8, 6, 1024)
    sizes = {k: (c.d_model, c.n_heads, c.n_layers) for k,c in slm_scratch.PRESETS.items()}
    assert sizes['tiny'] == (256, 4, 4) and sizes['small'] == (512, 8, 6) and sizes['medium'] == (768, 12, 12)

scripts = [s.split('=') for s in shlex.split(cfg['console_scripts'])]
@pytest.mark.parametrize('name,target', scripts)
def test_help(name, target, wheel_env, empty):
    "Each program answers `--help`, off line, with every option, what it means and its default"
    out = ' '.join(wheel_env(wheel_env.site/'bin'/name, '--help', cwd=empty).stdout.split())
    mod, f = target.split(':')
    params = inspect.signature(inspect.unwrap(getattr(importlib.import_module(mod), f))).parameters.values()
    assert params
    for p in params:
        shown = p.name if p.default is p.empty else '--' + p.name
        assert re.search(rf'(^| ){re.escape(shown)}( \w+)? +\S', out), f'{name} --help does not explain {shown}'
        if shown.startswith('--'): assert '--' + p.name.replace('_', '-') in out, f'{name} --help does not show {shown} with hyphens'
        if p.default not in (p.empty, None, False, ''): assert f'(default: {p.default})' in out, f'{name} --help does not give the default of {shown}'
    assert not list(empty.iterdir())
