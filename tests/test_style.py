"The habits that keep the notebooks, modules and tools alike."
import ast, inspect, io, json, re, tokenize
from importlib import import_module
import pytest
from conftest import cfg, nb_name, nbs, root
from project import is_guide, is_lesson, read_cells, text

lib = cfg['lib_path']
modules = sorted(p for p in (root/lib).rglob('*.py') if not p.name.startswith('_'))
lessons = [p for p in nbs if is_lesson(p)]
rooms = [p for p in nbs if not is_lesson(p) and not is_guide(p)]
numbered = [p for p in lessons if p.stem != 'index']
folders = ('tools', 'tests', 'bench')
scripts = sorted(p for d in folders for p in (root/d).glob('*.py'))
scripts += [root/'setup.py', root/lib/'__init__.py']

def dotted(p):
    "slm_scratch/engine/files.py -> engine.files"
    return '.'.join(p.relative_to(root/lib).with_suffix('').parts)
def relative(p): return p.relative_to(root).as_posix()

def cells(p, kind=None):
    "The cells of a notebook, of one kind or of all"
    return [c for c in read_cells(p) if kind in (None, c['cell_type'])]
def source(c): return text(c['source'])
def directives(c):
    "The words after #| of a cell: export, hide …"
    lines = [l[2:].split() for l in source(c).splitlines() if l.startswith('#|')]
    return [words[0] for words in lines if words]

# ---- text files are UTF-8, everywhere ----

readers = ('open', 'read_text', 'write_text', 'fdopen', 'NamedTemporaryFile')
# `tokenize.open` reads the encoding; the others are no text files, or methods of ours
exempt = ('self', 'source', 'tokenize', 'webbrowser', 'Image', 'os', 'tarfile', 'np')

def mode_position(name, owner, is_method):
    "Which positional argument of a call is the mode, or None"
    if name == 'open': return 0 if is_method and owner not in ('io', 'gzip') else 1
    return dict(fdopen=1, NamedTemporaryFile=0).get(name)

def mode_of(call, name, position):
    "The values that the mode of this call can have"
    default = 'w+b' if name == 'NamedTemporaryFile' else ''
    given = {k.arg: k.value for k in call.keywords}.get('mode')
    if given is None and position is not None and len(call.args) > position:
        given = call.args[position]
    if given is None: return [default]
    return [str(c.value) for c in ast.walk(given) if isinstance(c, ast.Constant)]

def locale_opens(src):
    "Lines of `src` that read or write text in whatever encoding the machine prefers"
    bad = []
    for n in ast.walk(ast.parse(src)):
        if not isinstance(n, ast.Call): continue
        is_method = isinstance(n.func, ast.Attribute)
        name = n.func.attr if is_method else getattr(n.func, 'id', '')
        owner = getattr(getattr(n.func, 'value', None), 'id', '')
        if name not in readers or name == 'open' and owner in exempt: continue
        modes = mode_of(n, name, mode_position(name, owner, is_method))
        keywords = {k.arg for k in n.keywords} # None stands for **kw
        if not all('b' in m for m in modes) and not {'encoding', None} & keywords:
            bad.append(f'line {n.lineno}: {ast.unparse(n)[:80]}')
    return bad

BAD_OPENS = '''
open('a')
Path('a').read_text()
p.open('w')
p.write_text(s)
open('a', 'w')
'''
GOOD_OPENS = '''
open('a', 'rb')
p.open('wb')
p.read_text(encoding='utf-8')
open('a', mode='rb')
gzip.open('a', 'rb')
open(f, **kw)
open('a', 'ab' if x else 'wb')
'''

def test_opens_without_an_encoding_are_seen():
    assert len(locale_opens(BAD_OPENS)) == 5
    assert not locale_opens(GOOD_OPENS)

@pytest.mark.parametrize('path', modules + scripts, ids=relative)
def test_encodings(path): assert locale_opens(path.read_text(encoding='utf-8')) == []

@pytest.mark.parametrize('nb', nbs, ids=nb_name)
def test_encodings_in_notebooks(nb):
    for c in cells(nb, 'code'): assert locale_opens(source(c)) == [], source(c)

# ---- the skeleton of a notebook ----

colab = 'https://colab.research.google.com'
blob = f"{colab}/github/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}"
badge = f'[![Open in Colab]({colab}/assets/colab-badge.svg)]({blob}/{{}})'
wanted = f"{cfg['lib_name']}[offline] @ git+{cfg['git_url']}"
install = f'''#| hide
# On Colab only: install the package, leaving the torch and numpy that are already there untouched.
import importlib.util, sys
if 'google.colab' in sys.modules and importlib.util.find_spec('{lib}') is None:
    wanted = '{wanted}'
    get_ipython().run_line_magic('pip', f'install -q "{{wanted}}"')'''

@pytest.mark.parametrize('nb', nbs, ids=nb_name)
def test_head(nb):
    """Title and promise, badge, install, module: in this order, before any other import; the index
    and the guides export nothing"""
    c = cells(nb)
    title, _, promise = source(c[0]).partition('\n\n')
    assert c[0]['cell_type'] == 'markdown'
    assert promise.startswith('> ') and '\n' not in promise.strip()
    assert source(c[1]) == badge.format(nb.relative_to(root).as_posix())
    assert source(c[2]) == install
    exports = [source(x).split()[-1] for x in cells(nb, 'code') if 'default_exp' in directives(x)]
    if nb in numbered:
        number, name = nb.stem.split('_', 1)
        assert title.startswith(f'# {number} · ') and exports == [name]
    elif nb in rooms:
        assert re.fullmatch(r'# [^\d\n].*', title), 'an engine room has no number'
        assert re.fullmatch('[a-z][a-z0-9_]*', nb.stem), 'an engine room has no number'
        assert exports == [nb_name(nb).replace('/', '.')]
    else: assert exports == []
    if exports: assert source(c[3]) == f'#| default_exp {exports[0]}'

@pytest.mark.parametrize('nb', rooms, ids=nb_name)
def test_why_a_room(nb):
    "An engine room says next why no lesson holds it, in a short paragraph"
    why = cells(nb)[4]
    assert why['cell_type'] == 'markdown' and not source(why).startswith('#')
    assert 10 <= len(source(why).split()) <= 150

@pytest.mark.parametrize('nb', nbs, ids=nb_name)
def test_no_cell_counts_on_being_skipped(nb):
    "A reader's Jupyter knows no tags: a cell says itself, in a line, that what it needs is missing"
    for c in cells(nb, 'code'):
        assert not {'slow', 'gpu', 'eval:'} & set(directives(c)), source(c)[:300]

@pytest.mark.parametrize('nb', numbered, ids=nb_name)
def test_parts(nb):
    "What you will build … what can go wrong, summary, exercises, and the link to the next"
    lines = [l for c in cells(nb, 'markdown') for l in source(c).splitlines()]
    heads = [l.lstrip('# ').strip() for l in lines if l.startswith('## ')]
    parts = ['What you will build', 'What can go wrong', 'Summary', 'Exercises']
    assert [h for h in heads if h in parts] == parts, heads
    last = source(cells(nb)[-1])
    i = numbered.index(nb)
    nxt = numbered[i+1].name if i+1 < len(numbered) else 'index.ipynb'
    assert f']({nxt})' in last, f'the last cell links to {nxt}'

def exported(nb):
    return [source(c) for c in cells(nb, 'code') if {'export', 'exports'} & set(directives(c))]

@pytest.mark.parametrize('nb', nbs, ids=nb_name)
def test_imports_stand_alone(nb):
    "Imports of the module in a cell of their own, not between functions"
    for src in exported(nb):
        kinds = {type(o) for o in ast.parse(src).body}
        has_import = {ast.Import, ast.ImportFrom} & kinds
        assert not (has_import and {ast.FunctionDef, ast.ClassDef} & kinds), src[:300]

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

drawn = re.compile(r'\btorch\.(randn?|randint|randperm|normal|multinomial|randn?_like|bernoulli)\('
                   r'|\.(normal|uniform|random|bernoulli)_\(')

def unseeded(cells_):
    "Lines that draw from torch's generator before any cell has seeded it"
    bad = []
    for src in cells_:
        for line in src.splitlines():
            if 'manual_seed(' in line and 'Generator()' not in line: return bad
            if drawn.search(line) and 'generator=' not in line: bad.append(line)
    return bad

def test_unseeded_numbers_are_seen():
    draws = 'g = torch.Generator().manual_seed(0)', 'x = torch.randn(3)', 'x.normal_()'
    assert unseeded(draws) == [*draws[1:]]
    assert not unseeded(['torch.rand(3, generator=g)', 'torch.manual_seed(0)\nx = torch.rand(3)'])

@pytest.mark.parametrize('nb', nbs, ids=nb_name)
def test_tests_are_seeded(nb):
    "A test of random numbers that fails once in three hundred runs stops a reader's notebook"
    tests = [source(c) for c in cells(nb, 'code') if not {'export', 'exports'} & {*directives(c)}]
    assert unseeded(tests) == []

@pytest.mark.parametrize('nb', nbs, ids=nb_name)
def test_outputs(nb):
    """A notebook holds its outputs: text and pictures, no error, no warning, no path of the machine
    that ran it"""
    outs = [o for c in cells(nb, 'code') for o in c['outputs']]
    assert outs or nb in rooms, 'no outputs: run it with tools/run_nbs.py'
    for o in outs:
        assert o['output_type'] != 'error', o.get('evalue')
        rich = [text(v) for k,v in o.get('data', {}).items() if k.startswith('text/')]
        said = text(o.get('text', '')) + ''.join(rich)
        assert not machine.search(said), said[:500]
    pictures = [o for o in outs if 'image/png' in o.get('data', {})]
    for o in pictures: # ink so light that JupyterLab puts black behind it, on a white page, too
        assert o['metadata'].get('image/png', o['metadata']).get('needs_background') != 'dark'
    assert nb not in numbered or pictures, 'no picture'

values = (ast.Name, ast.BinOp, ast.Tuple, ast.List, ast.Dict, ast.Subscript, ast.JoinedStr)

def ends_in_a_value(src):
    "Does Jupyter show something below a cell with this source?"
    if src.rstrip().endswith(';'): return False
    body = ast.parse(src).body
    return bool(body) and isinstance(body[-1], ast.Expr) and isinstance(body[-1].value, values)

def test_values_are_shown():
    "A cell that ends in a value shows it: the notebook was run, to the end"
    silent = {'hide', 'export', 'exports', 'default_exp'}
    for nb in nbs:
        for c in cells(nb, 'code'):
            if silent & set(directives(c)) or not ends_in_a_value(source(c)): continue
            assert c['outputs'], f'{nb.name}:\n{source(c)}'

# ---- exported names ----

def is_ours(f): return inspect.isfunction(f) and f.__module__.startswith(lib)

def public_members(cls):
    "The public methods and properties of a class that are ours: name, function, is it a property?"
    for name,v in vars(cls).items():
        f = getattr(v, '__func__', getattr(v, 'fget', v))
        if is_ours(f) and not name.startswith('_'): yield name, f, isinstance(v, property)

def names():
    "Exported functions and classes, and the public members of the classes: name, object, property?"
    for p in modules:
        m = import_module(f'{lib}.{dotted(p)}')
        for n in getattr(m, '__all__', []):
            o = inspect.getattr_static(m, n.split('.')[0])
            if '.' in n or not (inspect.isclass(o) or inspect.isfunction(o)): continue
            yield f'{dotted(p)}:{n}', o, False
            if not inspect.isclass(o): continue
            for k, f, is_property in public_members(o): yield f'{dotted(p)}:{n}.{k}', f, is_property

def owner(name):
    "The class of a method: engine.files:Thing.save -> engine.files:Thing"
    module, _, member = name.partition(':')
    return f"{module}:{member.split('.')[0]}"

def comments(o):
    "The parameters, and the result, with their comments"
    from fastcore.docments import docments
    ds = docments(o, full=True, returns=not inspect.isclass(o))
    inherited = {} # a dataclass has its base's fields
    for base in o.__mro__[1:-1] if inspect.isclass(o) else ():
        inherited |= {k: v for k,v in comments(base).items() if v}
    skipped = ('self', 'cls', 'args', 'kwargs')
    said = {k: v.docment or inherited.get(k) for k,v in ds.items() if k not in skipped}
    plain = (inspect.Parameter.empty, None, bool) # results that the docstring says enough about
    return {k: v for k,v in said.items() if not (k == 'return' and ds[k].anno in plain)}

def test_every_name_is_explained():
    """A docstring for each exported name; a comment for each parameter, there or in a method beside
    it, or its name in the docstring if it is the only one without"""
    missing, beside = [], {}
    found = [(n, o, {} if is_property else comments(o)) for n, o, is_property in names()]
    for n,_,ks in found:
        beside.setdefault(owner(n), set()).update(k for k,v in ks.items() if v)
    for n,o,ks in found:
        doc = inspect.getdoc(o) or ''
        if not doc: missing.append(f'{n}: no docstring')
        unexplained = [k for k,v in ks.items() if not v]
        if owner(n) != n: # a method
            unexplained = [k for k in unexplained if k not in beside[owner(n)]]
            if len(unexplained) == 1 and f'`{unexplained[0]}`' in doc: unexplained = []
        missing += [f'{n}: {k} has no comment' for k in unexplained]
    assert not missing, '\n' + '\n'.join(missing)

# ---- prose ----

LIMIT = 100 # columns: what GitHub and Colab show

@pytest.mark.parametrize('nb', nbs, ids=nb_name)
def test_prose(nb):
    """No emoji, no remote picture but the badge, no tab, no line of code too long to read, nothing
    that a reader's Jupyter shows as raw text (callouts of colons, Mermaid)"""
    for c in cells(nb):
        s = source(c)
        assert not re.search('[\U0001F300-\U0001FAFF\u2600-\u26FF\u2728\u274C\u2705]', s), s[:300]
        assert '\t' not in s, s[:300]
        if c['cell_type'] == 'markdown':
            pictures = re.findall(r'!\[[^\]]*\]\((http[^)]*)\)|<img[^>]*src="(http[^"]*)"', s)
            assert all('colab-badge.svg' in ''.join(p) for p in pictures), pictures
            assert not re.search('^:::|^```mermaid', s, re.M), s[:300]
        else: assert max(map(len, s.splitlines() or [''])) <= LIMIT, max(s.splitlines(), key=len)

# ---- lines of code ----

def generated_lines(src):
    "Numbers of the lines that nbdev writes into a module: promise, header, cell marks, `__all__`"
    marks = ('# AUTOGENERATED', '# %%')
    found = {i for i,l in enumerate(src.splitlines(), 1) if l.startswith(marks)}
    if '# AUTOGENERATED' in src: found.add(1)
    for node in ast.parse(src).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__':
            found |= set(range(node.lineno, node.end_lineno + 1))
    return found

def long_lines(src):
    "Lines that pass the limit, but for those that nbdev writes"
    skipped = generated_lines(src)
    lines = [(i, len(l)) for i,l in enumerate(src.splitlines(), 1) if i not in skipped]
    return [f'line {i} has {n} columns' for i,n in lines if n > LIMIT]

def tokens(src): return tokenize.generate_tokens(io.StringIO(src).readline)

def joined_statements(src):
    "Lines with a `;` between statements"
    lines = {t.start[0] for t in tokens(src) if t.type == tokenize.OP and t.string == ';'}
    return [f'line {i} has a ;' for i in sorted(lines)]

def untidy_lines(path):
    src = path.read_text(encoding='utf-8')
    return long_lines(src) + joined_statements(src)

def test_untidy_lines_are_seen():
    long = '#'*(LIMIT + 1)
    assert long_lines(f'x = 1\n{long}\n__all__ = [1, # {long}\n  2] # {long}\n# %% {long}') == [
        f'line 2 has {LIMIT + 1} columns']
    assert joined_statements("x = ';' # ;\ny = 1; z = 2\nif x: y = 3") == ['line 2 has a ;']

@pytest.mark.parametrize('path', [p for p in scripts if p.parent.name in folders], ids=relative)
def test_lines_of_scripts(path): assert untidy_lines(path) == []

@pytest.mark.parametrize('path', modules, ids=dotted)
def test_lines_of_modules(path): assert untidy_lines(path) == []

# ---- imports ----

def offered(tree):
    "The names in `__all__`"
    lists = [n.value for n in tree.body if isinstance(n, ast.Assign)
             and getattr(n.targets[0], 'id', '') == '__all__']
    return {name for names in lists for name in ast.literal_eval(names)}

def is_run_only(node, line):
    "Is it `import a.b # why`, which runs a module for what it registers?"
    return isinstance(node, ast.Import) and bool(re.match(r'import \w+\.[\w.]+ +# \w', line))

def unused_imports(src):
    "Names that a module imports, and neither uses nor offers"
    tree, lines = ast.parse(src), src.splitlines()
    nodes, found = [*ast.walk(tree)], []
    used = {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Store)}
    used |= offered(tree)
    for n in nodes:
        if not isinstance(n, (ast.Import, ast.ImportFrom)): continue
        if is_run_only(n, lines[n.lineno - 1]): continue
        names = [a.asname or a.name for a in n.names]
        found += [f'line {n.lineno}: {k}' for k in names if k.split('.')[0] not in used]
    return found

UNUSED_IMPORTS = '''
import os, a.b
import c.d # and why
from e import f as g, h
def i():
    from j import k
    h = os.name
'''
USED_IMPORTS = '''
import a.b # it adds itself to a table
import c.d, e as f
from g import h, i
__all__ = ['i']
def j(k:h): return c.d.l(f)
'''

def test_unused_imports_are_seen():
    assert unused_imports(UNUSED_IMPORTS) == [
        'line 2: a.b', 'line 4: g', 'line 4: h', 'line 6: k']
    assert unused_imports(USED_IMPORTS) == []

@pytest.mark.parametrize('path', sorted((root/lib).rglob('*.py')), ids=relative)
def test_imports_are_used(path): assert unused_imports(path.read_text(encoding='utf-8')) == []

# ---- names ----

# Names that were coined here, and what the field calls the thing.
coined = {
    # tokenizer
    'split_text': 'pre_tokenize', 'PairTable': 'PairCounts',
    '_is_desert': 'has_long_whitespace', 'BYTES': 'GPT2_BYTE_ORDER', 'from_state': 'from_dict',
    # data
    'Judge': 'StoryParser', 'tale_judge': 'StoryParser', 'readings': 'parses', 'weigh': 'conflicts',
    '_circle': 'find_cycle', '_settle': 'bind', '_flat': 'terminals', 'faults': 'validate',
    'hold_out': 'validation_split', 'cut_tail': 'split_tail', 'TokenSet': 'TokenDataset',
    'RAM_LIMIT': 'MMAP_THRESHOLD', '_pour': 'write_split', 'spool': 'tempfile',
    '_ahead': 'map_ordered', 'bead': 'offset', 'bad_utf8': 'first_invalid_utf8',
    # attention
    'rotary_turn': 'rope_cos_sin', 'rotate': 'apply_rotary_emb',
    # model
    'copy_init': 'mimetic_init', 'init_copying': 'mimetic_init', 'new_caches': 'make_kv_caches',
    'LETTERS': 'bytes_to_unicode', 'to_letters': 'bytes_to_unicode', 'N_PLAIN': 'bytes_to_unicode',
    'OLD_HEAD': 'LEGACY_MAGIC', 'file_damage': 'verify_file', 'plain_keys': 'unwrap_state_dict',
    'guess_config': 'infer_config', 'SAFE_TYPES': 'SAFETENSORS_DTYPES',
    'all_weights': 'gpt2_state_dict', 'GPT2_MUST': 'REQUIRED_GPT2_CONFIG',
    '_Recorded': 'OnnxWrapper', '_need': 'import_optional', '_flip': 'transpose_conv1d',
    'predict_parameters': 'count_parameters', 'predict_flops': 'estimate_flops',
    'predict_memory': 'estimate_memory', 'predict_bytes': 'estimate_bytes',
    # train
    'HandAdamW': 'AdamWReference', 'look_ahead': 'nesterov_momentum',
    'ChunkedLoss': 'ChunkedCrossEntropy',
    'forgetful': 'activation_checkpointing', 'kept_memory': 'retain_malloc',
    'Objective': 'LossModule', 'several_processes': 'process_group', '_meet': 'init_process_group',
    '_MEETINGS': 'init_process_group', 'first_process_first': 'main_process_first',
    'first_says': 'broadcast_from_main', 'share_gradients': 'no_sync',
    'average_over_processes': 'all_reduce_mean', 'sum_over_processes': 'all_reduce_sum',
    'SpreadMuon': 'ShardedMuon', '_is_spread': 'is_dtensor', 'predict_spread': 'estimate_sharded',
    'spread_averages': 'shard_optimizer_state', 'part_of': 'distribute_tensor',
    'parts_of': 'distribute_state_dict', '_twin': 'shallow_clone',
    'model_comes_back': 'restore_model', 'take_back': 'restore_model',
    'whole_model': 'full_state_dict', 'landmarks': 'reference_losses',
    '_own_randomness': 'fork_rng', 'closing_words': 'summary', 'call_again': 'resume_command',
    'resume_line': 'resume_command', 'explain_memory': 'explain_oom', 'take_best': 'load_best',
    'PEAKS': 'PEAK_FLOPS', 'device_facts': 'device_info', '_IN_SHELL': 'option names',
    # generate
    'TextOut': 'TextStreamer', 'textless': 'unused_token_mask', 'tell': 'decode_loop',
    '_complaints': 'validate', '_pieces': 'stream_pieces', '_inside': 'hidden_states',
    'int8_product': 'int8_matmul', 'QuickHead': 'TopKHead', 'quick_head': 'top_k_head',
    'QUICK_FROM': 'MIN_VOCAB_FOR_TOPK_HEAD', 'can_hurry': 'supports_fast_path',
    '_on_vector': 'compile_linear', 'Copies': 'MemorizationIndex', 'Copied': 'Match',
    'sort_endings': 'suffix_array', 'share_covered': 'coverage', 'yardstick': 'baseline',
    # demo, tests, tools
    'judge': 'score_stories', 'told': 'printed', 'desk': 'workdir', 'nursery': 'fork_server',
    'life': 'training_job', 'poison': 'hostile', 'stranger': 'foreign_file',
    'worlds': 'parallel_runs', 'Hasty': 'SkewedTrainer', 'Weighing': 'MemoryTrainer',
    'settle': 'collapse_streams', 'scrub': 'strip_paths',
}
# None of these names comes back.
banned = coined.keys()

def identifiers(src):
    "The names in Python source, but for methods of others such as `f.tell()`"
    before, found = '', set()
    for t in tokens(src):
        if t.type == tokenize.NAME and not (before == '.' and t.string == 'tell'):
            found.add(t.string)
        before = t.string
    return found

def test_coined_names_are_seen():
    assert identifiers("look_ahead = f.tell() # forgetful\n'told'") == {'look_ahead', 'f'}

@pytest.mark.parametrize('path', modules + scripts, ids=relative)
def test_no_coined_names(path):
    back = {n: coined[n] for n in banned & identifiers(path.read_text(encoding='utf-8'))}
    assert back == {}, 'these names have a better one'
