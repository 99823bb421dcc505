"Run every notebook on imitated machines, from the wheel, without a network: seconds as a table."
import argparse, atexit, contextlib, json, os, shutil, subprocess, sys, sysconfig, tempfile
import threading, time
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FuturesTimeout # another one before Python 3.11
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path
from packaging.requirements import Requirement
from project import cfg, nb_name, notebook_paths, root

HANGS = 1800 # seconds after which a notebook counts as hanging; nothing here fails for being slow
# no AVX-512, no VNNI, no bf16
avx2 = dict(ATEN_CPU_CAPABILITY='avx2', ONEDNN_MAX_CPU_ISA='AVX2', MKL_ENABLE_INSTRUCTIONS='AVX2')
one_thread = dict(OMP_NUM_THREADS='1')

@dataclass
class Setting:
    "A machine to imitate: the packages it has, and what its environment variables say"
    # dev: the developer's are visible; lowest: some of those as old as we promise them;
    # offline: the wheel with that extra; bare: the wheel alone
    packages:str
    about:str
    env:dict = field(default_factory=dict)

settings = {
    'as-it-is': Setting('dev', 'this machine'),
    'one-thread': Setting('dev', 'one thread', one_thread),
    'avx2': Setting('dev', 'AVX2 at most, one thread', avx2 | one_thread),
    'default': Setting('dev', 'no vector extension at all', dict(ATEN_CPU_CAPABILITY='default')),
    'offline': Setting('offline', "the wheel with its extra 'offline', nothing else installed"),
    'bare': Setting('bare', 'the wheel alone, nothing else installed')}

# ---- the wheel ----

def copy_repo(to, *more):
    "What makes the package, and `more`, copied to `to`: nothing is written into the repository"
    passing = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', 'kernel-ipc-*', 'runs')
    always = ['settings.ini', 'setup.py', 'MANIFEST.in', 'README.md', 'LICENSE', cfg['lib_path']]
    for p in [*always, *more]:
        if (root/p).is_dir(): shutil.copytree(root/p, to/p, ignore=passing)
        elif (root/p).exists():
            (to/p).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root/p, to/p)
    return to

def check(*cmd, **kw):
    "Run a command; raises RuntimeError with what it printed unless it succeeds"
    cmd = [str(c) for c in cmd]
    r = subprocess.run(cmd, capture_output=True, text=True, encoding='utf-8', errors='replace',
                       stdin=subprocess.DEVNULL, timeout=HANGS, **kw)
    if r.returncode: raise RuntimeError(f"{' '.join(cmd)}\n{r.stdout[-3000:]}\n{r.stderr[-6000:]}")
    return r

def build_wheel(d):
    "The wheel, built in the folder `d` from the source distribution, so that both are complete"
    copy_repo(d)
    check(sys.executable, '-m', 'build', '--no-isolation', '-o', d/'dist', d, cwd=d)
    return next((d/'dist').glob('*.whl'))

# ---- environments ----

def closure(reqs):
    "Names of the installed distributions that `reqs` need, and what those need"
    names, todo, seen = set(), [Requirement(r) for r in reqs], set()
    while todo:
        r = todo.pop()
        if str(r) in seen: continue
        seen.add(str(r))
        names.add(r.name)
        for s in distribution(r.name).requires or []:
            q, extras = Requirement(s), ['', *r.extras]
            wanted = q.marker is None or any(q.marker.evaluate({'extra': e}) for e in extras)
            if wanted: todo.append(q)
    return sorted(names)

def link_distribution(name, site):
    "Make an installed distribution visible in the folder `site`"
    d = distribution(name)
    for top in {f.parts[0] for f in d.files or [] if f.parts[0] not in ('..', '__pycache__')}:
        if not (site/top).exists(): (site/top).symlink_to(Path(d.locate_file(top)).resolve())

no_network = '''"The world without a network: only this machine answers."
import socket
ours = (None, '', 'localhost', '0.0.0.0', '::1')
def here(host): return host in ours or str(host).startswith('127.')
def guard(f, host):
    def g(*args, **kw):
        to = host(args)
        if not here(to): raise OSError(f'no network in this test: {to} was asked for')
        return f(*args, **kw)
    return g
address = lambda a: a[1][0] if isinstance(a[1], tuple) else None
socket.socket.connect = guard(socket.socket.connect, address)
socket.socket.connect_ex = guard(socket.socket.connect_ex, address)
socket.getaddrinfo = guard(socket.getaddrinfo, lambda a: a[0])
'''

def make_env(d, # the folder
             reqs, # what it must hold, with what that needs
             sight=False): # also show it whatever is installed here
    "Make an environment with no pip and no network; returns its Python and its site-packages"
    check(sys.executable, '-m', 'venv', '--without-pip', d)
    site = next(d.glob('lib/python3*/site-packages'))
    for name in closure(reqs): link_distribution(name, site)
    (site/'no_network.py').write_text(no_network, encoding='utf-8')
    (site/'no_network.pth').write_text('import no_network\n', encoding='utf-8')
    here = dict.fromkeys(sysconfig.get_path(k) for k in ('purelib', 'platlib'))
    # searched last: the wheel comes first
    if sight: (site/'zz_in_sight.pth').write_text('\n'.join(here) + '\n', encoding='utf-8')
    return d/'bin'/'python', site

def lowest(requirement):
    "The lower bound of a requirement, exactly: torch>=2.4 -> torch==2.4"
    r = Requirement(requirement)
    bounds = [s.version for s in r.specifier if s.operator == '>=']
    if len(bounds) != 1:
        raise SystemExit(f"settings.ini: {requirement}: needs one lower bound, with '>='")
    return f'{r.name}=={bounds[0]}'

# Requirements whose oldest version also suits the developer's packages. It does not exist for the
# newest Pythons: there the developer's versions are used.
lowered = 'numpy matplotlib fastcore tqdm'.split() if sys.version_info < (3, 13) else []

def install_lowest(site):
    "Put the oldest versions that we promise of what is `lowered` into the folder `site`"
    wanted = [r for r in cfg['requirements'].split() if Requirement(r).name in lowered]
    pip = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--only-binary', ':all:']
    if wanted: check(*pip, '--target', site, *map(lowest, wanted))

# of the developer's surroundings, what could change a run
drop = ('PYTHON', 'VIRTUAL', 'JUPYTER', 'IPY', 'TIKTOKEN', 'DATA_GYM', 'HF_', 'SLM_', 'COV', 'MPL',
        'OMP_', 'MKL_', 'ONEDNN_', 'ATEN_', 'GOMP_', 'KMP_')

def homes(d):
    "What makes the folder `d` the home of a program"
    ds = dict(HOME=d, TMPDIR=d/'tmp', XDG_CACHE_HOME=d/'cache', MPLCONFIGDIR=d/'mpl')
    return {k: str(v) for k,v in ds.items()}

class Env:
    "An environment with the wheel, a kernel and a home of its own; `packages` as in `Setting`"
    def __init__(self, d, wheel, packages='offline', **env):
        extra = cfg['offline_requirements'] if packages == 'offline' else ''
        needs = f"{cfg['requirements']} {extra} ipykernel nbclient".split()
        sight = packages in ('dev', 'lowest')
        self.python, self.site = make_env(d/'env', [] if sight else needs, sight)
        if packages == 'lowest': install_lowest(self.site)
        pip = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index']
        check(*pip, '--target', self.site, wheel)
        self.home = d/'home'
        (self.home/'tmp').mkdir(parents=True)
        kept = {k: v for k,v in os.environ.items() if not k.startswith(drop)}
        self.env = kept | homes(self.home) | dict(PYTHONUTF8='0', LC_ALL='C.UTF-8') | env

# ---- runs ----

@dataclass
class Run:
    "How a notebook ended: seconds, what it said if it failed, what it left in the folder it ran in"
    seconds:float
    error:str
    left:list

class Runner:
    "A process of an environment's Python that runs notebooks, each in a fresh kernel"
    def __init__(self, python, env):
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        d = Path(self.folder.name)
        shutil.copy(root/'tools'/'run_nbs.py', d) # alone: of our files only the wheel's are seen
        self.said = (d/'said').open('w+', encoding='utf-8', errors='replace')
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([str(python), str(d/'run_nbs.py'), '--serve'], cwd=d,
                                        env=env, stdin=pipe, stdout=pipe, stderr=self.said,
                                        encoding='utf-8')

    def ask(self, path, cwd, limit):
        "What stopped the notebook, '' if it came to its end; TimeoutError, or EOFError with why"
        job = dict(path=str(path), cwd=str(cwd), timeout=limit)
        answer = Future()
        def wait():
            try:
                print(json.dumps(job), file=self.process.stdin, flush=True)
                answer.set_result(self.process.stdout.readline())
            except (OSError, ValueError) as e: answer.set_exception(EOFError(str(e)))
        threading.Thread(target=wait, daemon=True).start()
        line = answer.result(limit + 60)
        if line: return json.loads(line)
        code = self.process.wait()
        self.said.seek(0)
        raise EOFError(self.said.read().strip()[-3000:] or f'exit code {code}')

    def end(self):
        "End the process, and with it the kernel"
        self.process.kill()
        self.process.wait()
        self.said.close()
        self.folder.cleanup()

idle, running = [], set() # (environment, runner): those that wait, and those at work

@contextlib.contextmanager
def lend_runner(python, env):
    "A runner of this environment; one that fails is ended, any other waits for the next notebook"
    key = str(python), tuple(sorted(env.items()))
    found = next((r for r in idle if r[0] == key), None)
    if found: idle.remove(found)
    key, runner = found or (key, Runner(python, env))
    running.add(runner)
    try: yield runner
    except BaseException:
        runner.end()
        raise
    else: idle.append((key, runner))
    finally: running.discard(runner)

@atexit.register
def end_runners():
    "End every runner, also those at work"
    while idle: idle.pop()[1].end()
    for r in list(running): r.process.kill()

def run_notebook(path, # the notebook
                 d, # a folder for this run, which is made
                 python, # of the environment
                 env, # environment variables
                 limit=HANGS): # seconds after which it counts as hanging
    "Run a notebook in a plain kernel, alone in an empty folder"
    (d/'empty').mkdir(parents=True)
    t = time.time()
    try:
        with lend_runner(python, env) as runner: error = runner.ask(path, d/'empty', limit)
    except (TimeoutError, FuturesTimeout): error = f'{path.name} hangs: no end after {limit} s'
    except EOFError as e: error = f'{path.name}: {e}'
    return Run(time.time()-t, error, sorted(p.name for p in (d/'empty').iterdir()))

class Background:
    "Jobs for threads: a test session lends them one core first, and all of them later"
    def __init__(self, jobs): # name -> function without arguments
        self.jobs, self.threads = deque(jobs.items()), []
        self.results = {name: Future() for name in jobs}

    def work_on(self, n):
        "Let `n` threads work, at least"
        while len(self.threads) < n:
            self.threads.append(threading.Thread(target=self.work, daemon=True))
            self.threads[-1].start()

    def work(self):
        while self.jobs:
            try: name, job = self.jobs.popleft()
            except IndexError: return # another thread was faster
            try: self.results[name].set_result(job())
            except BaseException as e: self.results[name].set_exception(e)

    def stop(self):
        "Start no further job, and end the notebooks at work"
        self.jobs.clear()
        end_runners()

# the order keeps all cores busy
longest_first = ['04_train', '05_generate', 'guides/five_minutes', '01_data', '03_model',
                 'engine/memorization', '00_tokenizer', '02_attention']
def by_length(name): return [*longest_first, name].index(name)

def chosen(names):
    "The notebooks that `names` name (02_attention, engine/files, files, a path); all without names"
    known = {nb_name(p): p for p in notebook_paths()}
    known = {n: known[n] for n in sorted(known, key=by_length)}
    if not names: return known
    short = lambda n: n.removesuffix('.ipynb').removeprefix(cfg['nbs_path'] + '/')
    found = {k: p for k,p in known.items() for n in names if short(n) in (k, k.split('/')[-1])}
    unknown = [n for n in names if not any(short(n) in (k, k.split('/')[-1]) for k in found)]
    there = ', '.join(known)
    if unknown: raise SystemExit(f"no such notebook: {', '.join(unknown)}; there are {there}")
    return found

def run_setting(setting, nbs, top, wheel, limit, show):
    "Run the notebooks in one setting: name -> Run. With one thread each, they run side by side"
    (top/'env').mkdir(parents=True)
    env = Env(top/'env', wheel, setting.packages, **setting.env)
    def job(name, path):
        def run():
            r = run_notebook(path, top/name.replace('/', '-'), env.python, env.env, limit)
            show(name, r)
            return r
        return run
    todo = Background({name: job(name, path) for name,path in nbs.items()})
    side_by_side = setting.env.get('OMP_NUM_THREADS') == '1'
    todo.work_on((os.cpu_count() or 1) if side_by_side else 1)
    return {name: f.result() for name,f in todo.results.items()}

def table(results):
    "A table notebook × setting -> seconds, in Markdown"
    names = dict.fromkeys(n for runs in results.values() for n in runs)
    rows = [['notebook', *results], ['---', *['---:']*len(results)]]
    cell = lambda r: f"{r.seconds:.0f}{' FAILED' if r.error else ''}"
    for n in names: rows.append([n, *[cell(runs[n]) for runs in results.values()]])
    wide = [max(map(len, column)) for column in zip(*rows)]
    def line(name, *cs): return ' | '.join([name.ljust(wide[0]), *map(str.rjust, cs, wide[1:])])
    return '\n'.join(f'| {line(*r)} |' for r in rows)

def main(argv=None):
    about = '; '.join(f'{k} ({s.about})' for k,s in settings.items())
    ap = argparse.ArgumentParser(description=__doc__, epilog=f'settings: {about}')
    ap.add_argument('nbs', nargs='*', help='such as 02_attention or engine/files (default: all)')
    ap.add_argument('--settings', default=','.join(settings), help='with commas (default: all)')
    ap.add_argument('--limit', type=int, default=HANGS,
                    help=f'seconds after which a notebook counts as hanging (default: {HANGS})')
    args = ap.parse_args(argv)
    wanted = [s for s in args.settings.split(',') if s]
    unknown = [s for s in wanted if s not in settings]
    there = ', '.join(settings)
    if unknown or not wanted: ap.error(f"no such setting: {', '.join(unknown)}; there are {there}")
    nbs, results = chosen(args.nbs), {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as d:
        top = Path(d)
        (top/'build').mkdir()
        wheel = build_wheel(top/'build')
        for name in wanted:
            def show(nb, r):
                end = r.error.splitlines()[0] if r.error else 'ok'
                print(f'{name:10}  {nb:16} {r.seconds:6.0f} s  {end}', flush=True)
            results[name] = run_setting(settings[name], nbs, top/name, wheel, args.limit, show)
    print(f'\n{table(results)}')
    ends = [(nb, name, r.error) for name,runs in results.items() for nb,r in runs.items()]
    bad = [f'\n== {nb}, {name}\n{error}' for nb,name,error in ends if error]
    if bad: sys.exit('\n'.join(bad))

if __name__ == '__main__': main()
