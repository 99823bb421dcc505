"""Every notebook runs as a reader runs it: every cell in a plain kernel, from the wheel, alone in
an empty folder, without a network, on a machine with one thread and AVX2 at most. Some packages are
as old there as we promise (`lowered`); all other tests run with what is installed."""
import ast, os, re, sys
from pathlib import Path
import nbformat, pytest
from conftest import cfg, nb_name, nbs, root, run
from machines import by_length, lowered, lowest, run_notebook
from project import default_exp, is_lesson
from run_nbs import execute

answers = re.compile(r'<details>.*?(?:```python\n(.*?)```|`(return .*?)`).*?</details>', re.S)

def solution_cell(stub, code, one_line):
    "A cell that runs a printed solution, and then the check of its stub, which must say: right"
    head = re.search(r'^(def .*:)\n', stub, re.M)
    check = ast.get_source_segment(stub, ast.parse(stub).body[-1])
    return nbformat.v4.new_code_cell(f"""{code or f'{head[1]} {one_line}'}
import contextlib as _c, io as _io
with _c.redirect_stdout(_io.StringIO()) as _said: _got = {check}
assert 'right' in f'{{_got}} {{_said.getvalue()}}'.lower(), f'{{_got}} {{_said.getvalue()}}'""")

def solved(nb):
    "The notebook, with the printed solution of each exercise run after its untouched stub"
    out, stub = [], None
    for c in nb.cells:
        out.append(c)
        if c.cell_type == 'markdown':
            out += [solution_cell(stub, *answer) for answer in answers.findall(c.source)]
        if c.cell_type == 'code' and 'hide' not in c.source: stub = c.source
    nb.cells = out
    return nb

def prepared(path, d):
    "The notebook at `path` with its solutions, written into the new folder `d`"
    d.mkdir(parents=True)
    nbformat.write(solved(nbformat.read(path, 4)), d/path.name)
    return d/path.name

def test_every_solution_is_found():
    "As many solutions are run as are printed"
    for p in nbs:
        nb = nbformat.read(p, 4)
        folded = [c.source for c in nb.cells
                  if c.cell_type == 'markdown' and 'olution</summary>' in c.source]
        printed = sum(src.count('olution</summary>') for src in folded)
        assert len(solved(nb).cells) - len(nbformat.read(p, 4).cells) == printed, p.name
        assert printed >= 3 or p.stem == 'index' or not is_lesson(p), p.name

def test_every_module_has_its_notebook():
    "Each module is written by one of the notebooks that are run: none of them is left out"
    lib = root/cfg['lib_path']
    paths = [p.relative_to(lib) for p in lib.rglob('*.py') if not p.name.startswith('_')]
    modules = {'.'.join(p.with_suffix('').parts) for p in paths}
    assert modules == {default_exp(p) for p in nbs} - {None}
    silent = [p.name for p in nbs if is_lesson(p) and not default_exp(p)]
    assert silent in ([], ['index.ipynb']), 'only the index exports nothing'

@pytest.mark.parametrize('nb', sorted(map(nb_name, nbs), key=by_length))
def test_runs(nb, notebook_runs, record_property):
    notebook_runs.work_on(os.cpu_count() or 1) # nothing else is left to do
    r = notebook_runs.results[nb].result()
    record_property('notebook seconds', round(r.seconds))
    if r.error: pytest.fail(r.error, pytrace=False)
    kept = ['runs'] if nb == 'guides/five_minutes' else [] # the demo's run, as the page says
    assert r.left in ([], kept), f'{nb} left {r.left} in the folder it ran in'

def test_a_failure_names_its_cell(avx2_env, tmp_path):
    """Whatever its directives say a cell is run, and one that fails is named by its heading and its
    first line"""
    v = nbformat.v4
    cells = [v.new_markdown_cell('# A\n\n> b'), v.new_markdown_cell('## Second part'),
             v.new_code_cell('#| gpu\n\nx = 1\nassert x == 2, "not two"')]
    nbformat.write(v.new_notebook(cells=cells), tmp_path/'a.ipynb')
    r = run_notebook(tmp_path/'a.ipynb', tmp_path/'run', avx2_env.python, avx2_env.env)
    place = 'a.ipynb stopped in cell 2, under "Second part":\n    x = 1\n'
    assert r.error.startswith(f'{place}AssertionError: not two\n')
    cells[-1].source = '#| slow\n#| eval: false\nopen("left.txt", "w", encoding="utf-8").close()'
    nbformat.write(v.new_notebook(cells=cells), tmp_path/'a.ipynb')
    r = run_notebook(tmp_path/'a.ipynb', tmp_path/'again', avx2_env.python, avx2_env.env)
    assert (r.error, r.left) == ('', ['left.txt'])
    cells[-1].source = 'import time\ntime.sleep(600)'
    nbformat.write(v.new_notebook(cells=cells), tmp_path/'a.ipynb')
    r = run_notebook(tmp_path/'a.ipynb', tmp_path/'hangs', avx2_env.python, avx2_env.env, limit=3)
    assert 'timed out' in r.error

no_network = ['urllib.request.urlopen("https://pypi.org", timeout=5)',
              'socket.create_connection(("192.0.2.1", 80), timeout=5)']

def check_no_network(env):
    for call in no_network:
        code = f'import socket, urllib.request\n{call}'
        assert 'no network in this test' in env('-c', code, ok=False).stderr

def test_the_wheel_environment_holds_nothing_else(wheel_env, empty):
    "It can fail: no network, nothing of the developer's, and the package is the wheel's"
    code = 'import slm_scratch\nprint(slm_scratch.__file__)'
    assert str(wheel_env.site) in wheel_env('-c', code, cwd=empty).stdout
    for name in ['transformers', 'tokenizers', 'hypothesis', 'pytest', 'nbdev']:
        assert 'ModuleNotFoundError' in wheel_env('-c', f'import {name}', ok=False).stderr, name
    check_no_network(wheel_env)

def test_the_imitated_machine_has_no_more(avx2_env, empty):
    """It can fail: the package is the wheel's, the developer's packages are there, no network, one
    thread, no vector extension beyond AVX2, and the oldest of what is `lowered`"""
    code = '''
import importlib.metadata, importlib.util, torch, slm_scratch
print(slm_scratch.__file__, torch.get_num_threads(), torch.backends.cpu.get_cpu_capability())
names = ('transformers', 'tokenizers', 'hypothesis', 'onnx', 'gguf', 'matplotlib')
print([n for n in names if not importlib.util.find_spec(n)])
for n in %r: print(n + '==' + importlib.metadata.version(n))''' % lowered
    where, missing, *old = avx2_env('-c', code, cwd=empty).stdout.splitlines()
    file, threads, capability = where.rsplit(' ', 2)
    assert Path(file).is_relative_to(avx2_env.site)
    assert threads == '1' and 'AVX512' not in capability
    assert missing == '[]'
    promised = {lowest(r) for r in cfg['requirements'].split()}
    assert all(any(o == p or o.startswith(p + '.') for p in promised) for o in old), old
    check_no_network(avx2_env)

def test_machines_can_be_chosen(tmp_path):
    "`make test-machines ARGS=…` runs what is asked for, and refuses what is not there"
    tool = root/'tools'/'machines.py'
    def refused(*args): return run(sys.executable, tool, *args, ok=False).stderr
    assert 'no such setting: abacus' in refused('--settings', 'abacus')
    assert 'no such notebook: 99_magic' in refused('99_magic', '--settings', 'bare')

# lines that draw the first picture of a kernel
FIRST_PICTURES = {
    'plot_surprise': """
from slm_scratch import SmallLanguageModel
from slm_scratch.engine.lens import plot_surprise
model = SmallLanguageModel.from_pretrained('tales-tiny')
plot_surprise(model, 'A', {'a': model.generate('A', max_new_tokens=2, seed=0, log_probs=True)});""",
    'History.plot': """
from slm_scratch.engine.report import History
History([dict(step=i, loss=1., learning_rate=.1, grad_norm=1.) for i in (1, 2)]).plot()"""}

@pytest.mark.parametrize('name', FIRST_PICTURES)
def test_pictures_are_shown_after_the_first_one(name, tmp_path):
    "A backend that begins inside a style ends with it, and no later picture of the kernel is shown"
    v = nbformat.v4
    lines = FIRST_PICTURES[name], 'import matplotlib.pyplot as plt\nplt.plot([1, 2]);'
    nbformat.write(v.new_notebook(cells=[v.new_code_cell(l) for l in lines]), tmp_path/'a.ipynb')
    shown, _ = execute(tmp_path/'a.ipynb')
    kinds = [[k for o in c.outputs for k in o.get('data', {})] for c in shown.cells]
    assert all('image/png' in k for k in kinds), kinds
