"What the tests share: the wheel, a bare environment that holds it, the notebooks, and a browser."
import os, re, shutil, subprocess, sys
from configparser import ConfigParser
from importlib.metadata import distribution
from pathlib import Path
import pytest
from packaging.requirements import Requirement

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))

def read_settings():
    cfg = ConfigParser(delimiters=['='])
    cfg.read(root/'settings.ini', encoding='utf-8')
    return dict(cfg['DEFAULT'])
cfg = read_settings()
nbs = sorted((root/cfg['nbs_path']).glob('*.ipynb'))

def run(*cmd, ok=True, timeout=600, **kw):
    "Run a command; unless it succeeds, the test fails and shows what was printed"
    r = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, encoding='utf-8', timeout=timeout, stdin=subprocess.DEVNULL, **kw)
    r.stdout, r.stderr = (re.sub(r'\x1b\[[0-9;]*m', '', t) for t in (r.stdout, r.stderr)) # no colours
    if ok and r.returncode: pytest.fail(f"{' '.join(map(str, cmd))}\n{r.stdout[-3000:]}\n{r.stderr[-6000:]}", pytrace=False)
    return r

def copy_repo(to, *more):
    "What makes the package, copied to the folder `to`, so that no test writes into the repository"
    for p in ['settings.ini', 'setup.py', 'MANIFEST.in', 'README.md', 'LICENSE', cfg['lib_path'], *more]:
        if (root/p).is_dir(): shutil.copytree(root/p, to/p, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', 'kernel-ipc-*', 'runs'))
        elif (root/p).exists():
            (to/p).parent.mkdir(parents=True, exist_ok=True); shutil.copy(root/p, to/p)
    return to

@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    "The built wheel, by way of the source distribution, so that both are complete"
    d = copy_repo(tmp_path_factory.mktemp('build'))
    run(sys.executable, '-m', 'build', '--no-isolation', '-o', d/'dist', d, cwd=d)
    return next((d/'dist').glob('*.whl'))

# ---- an environment as a user has it ----

def closure(reqs):
    "Names of the installed distributions that `reqs` need, and what those need"
    names, todo, seen = set(), [Requirement(r) for r in reqs], set()
    while todo:
        r = todo.pop()
        if str(r) in seen: continue
        seen.add(str(r)); names.add(r.name)
        for s in distribution(r.name).requires or []:
            q = Requirement(s)
            if q.marker is None or any(q.marker.evaluate({'extra': e}) for e in ['', *r.extras]): todo.append(q)
    return sorted(names)

def link_distribution(name, site):
    "Make an installed distribution visible in the folder `site`"
    d = distribution(name)
    for top in {f.parts[0] for f in d.files or [] if f.parts[0] not in ('..', '__pycache__')}:
        if not (site/top).exists(): (site/top).symlink_to(Path(d.locate_file(top)).resolve())

no_network = '''"The world without a network: only this machine answers."
import socket
def here(host): return host in (None, '', 'localhost', '0.0.0.0', '::1') or str(host).startswith('127.')
def guard(f, host):
    def g(*args, **kw):
        if not here(host(args)): raise OSError(f'no network in this test: {host(args)} was asked for')
        return f(*args, **kw)
    return g
address = lambda a: a[1][0] if isinstance(a[1], tuple) else None
socket.socket.connect = guard(socket.socket.connect, address)
socket.socket.connect_ex = guard(socket.socket.connect_ex, address)
socket.getaddrinfo = guard(socket.getaddrinfo, lambda a: a[0])
'''

def make_env(d, reqs):
    "A virtual environment in `d` with no pip and no network, that holds what `reqs` need and nothing else; its Python and its site-packages"
    run(sys.executable, '-m', 'venv', '--without-pip', d)
    site = next(d.glob('lib/python3*/site-packages'))
    for name in closure(reqs): link_distribution(name, site)
    (site/'no_network.py').write_text(no_network, encoding='utf-8')
    (site/'no_network.pth').write_text('import no_network\n', encoding='utf-8')
    return d/'bin'/'python', site

class Bare:
    "An environment with the wheel, its `offline` extra and a kernel, and nothing of the developer's"
    def __init__(self, d, wheel):
        needs = cfg['requirements'] + ' ' + cfg['offline_requirements'] + ' ipykernel nbclient'
        self.python, self.site = make_env(d/'env', needs.split())
        run(sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', '--target', self.site, wheel)
        self.home = d/'home'; self.home.mkdir()
        (self.home/'tmp').mkdir()
        drop = ('PYTHON', 'VIRTUAL', 'JUPYTER', 'IPY', 'TIKTOKEN', 'DATA_GYM', 'HF_', 'SLM_', 'COV')
        self.env = {k: v for k,v in os.environ.items() if not k.startswith(drop)}
        self.env |= dict(HOME=str(self.home), TMPDIR=str(self.home/'tmp'), XDG_CACHE_HOME=str(self.home/'cache'), MPLCONFIGDIR=str(self.home/'mpl'),
                         MPLBACKEND='agg', OMP_NUM_THREADS='1', PYTHONUTF8='0', LC_ALL='C.UTF-8')
    def __call__(self, *args, **kw): return run(self.python, *args, env=self.env, **kw)

@pytest.fixture(scope='session')
def bare(tmp_path_factory, wheel): return Bare(tmp_path_factory.mktemp('bare'), wheel)

@pytest.fixture
def empty(tmp_path):
    "An empty folder"
    d = tmp_path/'empty'; d.mkdir()
    return d

# ---- browser ----

@pytest.fixture(scope='session')
def page():
    "A tab of a headless Chromium"
    import browser
    if not browser.find(): pytest.skip('no Chromium here (apt-get install chromium)')
    with browser.browser() as b: yield b
