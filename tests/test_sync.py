"The notebooks are the source: cleaning, exporting and writing README.md change nothing."
import shutil, sys
from pathlib import Path
from conftest import copy_repo, root, run

made = ['nbs', 'slm_scratch', 'README.md']

def files(top):
    ps = [p for m in made for p in ([top/m] if (top/m).is_file() else (top/m).rglob('*'))]
    passing = {'__pycache__', '.ipynb_checkpoints', 'runs'} # what git ignores there
    return {str(p.relative_to(top)): p.read_bytes() for p in ps if p.is_file() and not passing & set(p.relative_to(top).parts)}

def generate(d):
    bin = Path(sys.executable).parent
    run(bin/'nbdev_clean', cwd=d)
    run(bin/'nbdev_export', cwd=d)
    run(sys.executable, d/'tools'/'build_docs.py', '--readme', cwd=d)
    return files(d)

def different(old, new): return sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))

def test_nothing_changes(tmp_path):
    d = copy_repo(tmp_path, 'nbs', 'tools', 'images')
    old = files(root)
    assert different(old, generate(d)) == [], 'run: make export'

def test_a_change_is_seen(tmp_path):
    "An edit in a module, an output with an execution count, a module that was never committed"
    d = copy_repo(tmp_path, 'nbs', 'tools', 'images')
    old = files(d)
    with (d/'slm_scratch'/'attention.py').open('a', encoding='utf-8') as f: f.write('\nx = 1\n')
    (d/'slm_scratch'/'model.py').unlink()
    nb = d/'nbs'/'02_attention.ipynb'
    nb.write_text(nb.read_text(encoding='utf-8').replace('"execution_count": null', '"execution_count": 7'), encoding='utf-8')
    assert different(old, files(d)) == ['nbs/02_attention.ipynb', 'slm_scratch/attention.py', 'slm_scratch/model.py']
    assert different(old, generate(d)) == [], 'and the tools mend it'
