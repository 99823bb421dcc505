"The notebooks are the source: cleaning, exporting and writing README.md change nothing."
import json, sys
from pathlib import Path
from conftest import copy_repo, root, run

def files(top):
    passing = {'__pycache__', '.ipynb_checkpoints', 'runs'} # what git ignores there
    found = {}
    for p in [top/'README.md', *(top/'nbs').rglob('*'), *(top/'slm_scratch').rglob('*')]:
        path = p.relative_to(top)
        if p.is_file() and not passing & set(path.parts): found[str(path)] = p.read_bytes()
    return found

def make_export(d):
    "What `make export` runs, in the copy `d`"
    return run(sys.executable, d/'tools'/'build_docs.py', '--export', '--readme', cwd=d)

def nbdev(d):
    "What nbdev's own programs do, which a contributor may call"
    bin = Path(sys.executable).parent
    run(bin/'nbdev_clean', cwd=d)
    run(bin/'nbdev_export', cwd=d)

def different(old, new):
    return sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))

def test_nothing_changes(tmp_path):
    d = copy_repo(tmp_path, 'nbs', 'tools', 'images')
    old = files(root)
    make_export(d)
    assert different(old, files(d)) == [], 'run: make export'
    nbdev(d)
    assert different(old, files(d)) == [], 'nbdev_export and make export write the same'

def test_a_change_is_seen(tmp_path):
    "An edit in a module, an output with an execution count, a module that was never committed"
    d = copy_repo(tmp_path, 'nbs', 'tools', 'images')
    make_export(d)
    old = files(d)
    with (d/'slm_scratch'/'attention.py').open('a', encoding='utf-8') as f: f.write('\nx = 1\n')
    (d/'slm_scratch'/'model.py').unlink()
    nb = d/'nbs'/'02_attention.ipynb'
    run_once = nb.read_text(encoding='utf-8').replace('"execution_count": null',
                                                      '"execution_count": 7')
    nb.write_text(run_once, encoding='utf-8')
    (d/'slm_scratch'/'engine'/'files.py').unlink()
    assert different(old, files(d)) == ['nbs/02_attention.ipynb', 'slm_scratch/attention.py',
                                        'slm_scratch/engine/files.py', 'slm_scratch/model.py']
    make_export(d)
    assert different(old, files(d)) == [], 'and the tools mend it'

def notebook(*cells):
    return json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5))
def markdown(source): return dict(cell_type='markdown', source=source, metadata={})

code = dict(cell_type='code', source='1+1', metadata={}, outputs=[], execution_count=3)

def test_scratch_notebooks_are_left_alone(tmp_path):
    """What somebody tries out beside the notebooks is named, not exported and not changed, and
    stops nothing; Jupyter's checkpoints are not even named"""
    d = copy_repo(tmp_path, 'nbs', 'tools', 'images')
    make_export(d)
    old = files(d)
    scratch = {'nbs/Untitled.ipynb': '',
               'nbs/thoughts.ipynb': notebook(markdown('# My thoughts')),
               'nbs/empty.ipynb': notebook(),
               'nbs/engine/Untitled1.ipynb': notebook(code),
               'nbs/a b.ipynb': notebook(markdown('some thoughts')),
               'nbs/new/list.ipynb': '[]'}
    seen = (d/'nbs'/'02_attention.ipynb').read_text(encoding='utf-8')
    checkpoints = ['nbs/.ipynb_checkpoints/02_attention-checkpoint.ipynb',
                   'nbs/engine/.ipynb_checkpoints/files-checkpoint.ipynb']
    hidden = dict.fromkeys(checkpoints, seen)
    for name,s in (scratch | hidden).items():
        (d/name).parent.mkdir(exist_ok=True)
        (d/name).write_text(s, encoding='utf-8')
    said = make_export(d).stderr
    lines = [l for l in said.splitlines() if l.startswith('left out: ')]
    assert {l.split(': ')[1] for l in lines} == set(scratch)
    assert different(old, files(d)) == sorted(scratch)
    for name,s in (scratch | hidden).items(): assert (d/name).read_text(encoding='utf-8') == s
