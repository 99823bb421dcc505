"Install the wheel beside the oldest and the newest of what it needs, and run what a user runs."
import argparse, os, shutil, subprocess, sys, tempfile
from pathlib import Path
from packaging.requirements import Requirement
from machines import Background, avx2, build_wheel, chosen, drop, homes, lowest, one_thread
from machines import run_notebook
from project import cfg, root
from setup_venv import torch_args

needed_here = 'pytest nbclient ipykernel'.split() # by the tests
pythons = dict(lowest=cfg['min_python'], newest='3.13')

def requirements(which):
    "What is installed beside the wheel: each lower bound, or the newest of each"
    rs = f"{cfg['requirements']} {cfg['offline_requirements']}".split()
    return [lowest(r) if which == 'lowest' else Requirement(r).name for r in rs]

def find_python(version):
    "An interpreter of this version: PYTHON3_10 or the like names one, else the PATH is searched"
    variable = 'PYTHON' + version.replace('.', '_')
    search = ['python' + version, *pyenvs(version), sys.executable, 'python3']
    candidates = [os.environ[variable]] if variable in os.environ else map(shutil.which, search)
    ask = 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")'
    for c in filter(None, candidates):
        try: said = subprocess.run([c, '-c', ask], capture_output=True, text=True)
        except OSError: continue
        if said.stdout.strip() == version: return c
    raise SystemExit(f'no Python {version} here: put python{version} on the PATH, '
                     f'or let {variable} name it')

def pyenvs(version):
    "Interpreters that pyenv knows, the newest first"
    if not shutil.which('pyenv'): return []
    top = subprocess.run(['pyenv', 'root'], capture_output=True, text=True).stdout.strip()
    return sorted(map(str, Path(top).glob(f'versions/{version}.*/bin/python')), reverse=True)

def install(which, d, wheel):
    "The Python of the environment in `d`, made if it is not there, with the wheel in it"
    py = d/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    if not py.exists(): subprocess.run([find_python(pythons[which]), '-m', 'venv', d], check=True)
    def pip(*args):
        cmd = [py, '-m', 'pip', 'install', '-q', '--progress-bar', 'off',
               '--disable-pip-version-check']
        subprocess.run([str(a) for a in (*cmd, *args)], check=True)
    wanted = requirements(which)
    torch = [r for r in wanted if Requirement(r).name == 'torch']
    newest = ['--upgrade', '--upgrade-strategy', 'eager'] if which == 'newest' else []
    pip(*newest, *torch, *torch_args())
    pip(*newest, *wanted, *needed_here)
    pip('--force-reinstall', '--no-deps', wheel)
    subprocess.run([py, '-m', 'pip', 'check'], check=True) # all bounds hold together
    return py

def show_versions(py):
    "What is installed, in a line"
    names = [Requirement(r).name for r in requirements('newest')]
    code = f"""
import importlib.metadata, platform
versions = [f'{{n}} {{importlib.metadata.version(n)}}' for n in {names!r}]
print('Python', platform.python_version(), *versions)"""
    r = subprocess.run([py, '-c', code], capture_output=True, text=True, check=True)
    return r.stdout.strip()

def check(py, nbs, top):
    "What failed: the tests of the installed package, and the notebooks in a plain kernel"
    home = top/'home'
    (home/'tmp').mkdir(parents=True)
    kept = {k: v for k,v in os.environ.items() if not k.startswith(drop)}
    env = kept | homes(home) | dict(SLM_INSTALLED='1') | one_thread
    shutil.copy(root/'tests'/'installed.py', top) # alone: only the wheel can be imported
    cmd = [py, '-m', 'pytest', '-q', '-ra', '-p', 'no:cacheprovider', 'installed.py']
    r = subprocess.run(cmd, cwd=top, env=env | dict(MPLBACKEND='agg'))
    bad = ['tests/installed.py'] if r.returncode else []
    def job(name, path):
        return lambda: run_notebook(path, top/name.replace('/', '-'), py, env | avx2)
    todo = Background({name: job(name, path) for name,path in nbs.items()})
    todo.work_on(os.cpu_count() or 1)
    for name,f in todo.results.items():
        run = f.result()
        print(f"{name:16} {run.seconds:6.0f} s  {run.error or 'ok'}", flush=True)
        if run.error: bad.append(name)
    return bad

def main():
    ap = argparse.ArgumentParser(
        description=__doc__,
        epilog="TORCH_INDEX says where torch comes from: an index, or 'pypi'.")
    ap.add_argument('which', nargs='*', help='lowest, newest (default: both)')
    ap.add_argument('--nbs', default='all', help="notebooks, with commas, or 'none' (default: all)")
    ap.add_argument('--wheel', type=Path, help='a built wheel (default: built from this checkout)')
    ap.add_argument('--envs', type=Path, default=root/'build'/'versions',
                    help='folder that keeps the environments (default: build/versions)')
    args = ap.parse_args()
    unknown = [w for w in args.which if w not in pythons]
    if unknown: ap.error(f"no such environment: {', '.join(unknown)}; there are lowest and newest")
    nbs = {} if args.nbs == 'none' else chosen([] if args.nbs == 'all' else args.nbs.split(','))
    failed = {}
    for which in args.which or pythons:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as d:
            (Path(d)/'build').mkdir()
            wheel = args.wheel.resolve() if args.wheel else build_wheel(Path(d)/'build')
            py = install(which, args.envs.resolve()/which, wheel)
            print(f'\n{which}: {show_versions(py)}', flush=True)
            failed[which] = check(py, nbs, Path(d))
    print()
    for which,bad in failed.items():
        print(f"{which}: {'failed: ' + ', '.join(bad) if bad else 'all passed'}")
    sys.exit(any(failed.values()))

if __name__ == '__main__': main()
