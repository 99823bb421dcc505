"Every notebook runs, from its first cell to its last, in two worlds: in the repository, and alone beside the wheel."
import ast, os, re, shutil, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import nbformat, pytest
from conftest import copy_repo, nbs, root, run

limit = 180 # seconds for a notebook on two cores
slow_first = ['04_train', '05_generate', '01_data', '03_model', 'index', '00_tokenizer', '02_attention'] # the order keeps both cores busy
worlds = ['wheel', 'repo']

def solved(nb):
    "The notebook, with the printed solution of each exercise run after its untouched stub: the check must say that it is right"
    out, stub = [], None
    for c in nb.cells:
        out.append(c)
        for answer in re.findall(r'<details>.*?(?:```python\n(.*?)```|`(return .*?)`).*?</details>', c.source, re.S) if c.cell_type == 'markdown' else []:
            code, one = answer
            head = re.search(r'^(def .*:)\n', stub, re.M)
            check = ast.get_source_segment(stub, ast.parse(stub).body[-1])
            code = code or f'{head[1]} {one}'
            out.append(nbformat.v4.new_code_cell(f"""{code}
import contextlib as _c, io as _io
with _c.redirect_stdout(_io.StringIO()) as _said: _got = {check}
assert 'right' in f'{{_got}} {{_said.getvalue()}}'.lower(), f'{{_got}} {{_said.getvalue()}}'"""))
        if c.cell_type == 'code' and 'hide' not in c.source: stub = c.source
    nb.cells = out
    return nb

def test_every_solution_is_found():
    "As many solutions are run as are printed"
    for p in nbs:
        nb = nbformat.read(p, 4)
        printed = sum(c.source.count('<details>') for c in nb.cells if c.cell_type == 'markdown' and 'olution</summary>' in c.source)
        assert len(solved(nb).cells) - len(nbformat.read(p, 4).cells) == printed, p.name
        assert printed >= 3 or p.stem == 'index', p.name

@pytest.fixture(scope='module')
def started(request, bare, tmp_path_factory):
    "All wanted runs, two at a time with one thread each"
    wanted = {(i.callspec.params['nb'], i.callspec.params['world']) for i in request.session.items if getattr(i, 'callspec', None) and 'world' in i.callspec.params}
    top = tmp_path_factory.mktemp('notebooks')
    repo = copy_repo(top/'repo', 'nbs', 'images', 'tools')
    if (root.parent/'shared').exists(): (top/'shared').symlink_to(root.parent/'shared')
    bin = Path(sys.executable).parent

    def go(nb, world):
        t = time.time()
        if world == 'repo':
            r = run(bin/'nbdev_test', '--path', f'nbs/{nb}.ipynb', '--n_workers', 0, ok=False, cwd=repo, env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(repo)))
            return r, time.time()-t, []
        d = top/nb; (d/'empty').mkdir(parents=True)
        nbformat.write(solved(nbformat.read(root/'nbs'/f'{nb}.ipynb', 4)), d/f'{nb}.ipynb')
        shutil.copy(root/'tools'/'run_nbs.py', d)
        r = bare(d/'run_nbs.py', '--no-save', '--cwd', d/'empty', d/f'{nb}.ipynb', ok=False)
        return r, time.time()-t, [p.name for p in (d/'empty').iterdir()]

    order = lambda k: (slow_first.index(k[0]) if k[0] in slow_first else -1, k[1])
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        jobs = {k: pool.submit(go, *k) for k in sorted(wanted, key=order)}
        yield jobs
        for j in jobs.values(): j.cancel()

@pytest.mark.parametrize('world', worlds)
@pytest.mark.parametrize('nb', sorted((p.stem for p in nbs), key=lambda n: slow_first.index(n) if n in slow_first else -1))
def test_runs(nb, world, started, record_property):
    r, seconds, left = started[nb, world].result()
    record_property('seconds', round(seconds))
    assert r.returncode == 0, f'{r.stdout[-2000:]}\n{r.stderr[-6000:]}'
    assert seconds < limit, f'{nb} took {seconds:.0f} s, and {limit} s is the limit'
    assert not left, f'{nb} left {left} in the folder it ran in'

def test_the_lonely_world_is_lonely(bare, empty):
    "The environment for `wheel` can fail: no network, nothing of the developer's, and the package is the wheel's"
    out = bare('-c', 'import slm_scratch; print(slm_scratch.__file__)', cwd=empty).stdout
    assert str(bare.site) in out
    for name in ['transformers', 'tokenizers', 'hypothesis', 'pytest', 'nbdev']:
        assert 'ModuleNotFoundError' in bare('-c', f'import {name}', ok=False).stderr, name
    for ask in ['urllib.request.urlopen("https://pypi.org", timeout=5)', 'socket.create_connection(("192.0.2.1", 80), timeout=5)']:
        assert 'no network in this test' in bare('-c', f'import socket, urllib.request; {ask}', ok=False).stderr
