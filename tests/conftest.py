"What the tests share: the wheel, environments that hold it, running notebooks, and a browser."
import os, re, subprocess, sys, warnings
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
from machines import HANGS, Background, Env, avx2, build_wheel, by_length, copy_repo
from machines import link_distribution, make_env, one_thread, run_notebook
from project import cfg, nb_name, notebook_paths
nbs = notebook_paths()

def in_ci():
    "Does a machine of CI run this?"
    return os.environ.get('CI', '').lower() in ('1', 'true')

def run(*cmd, ok=True, timeout=HANGS, **kw):
    "Run a command, ended only if it hangs; unless it succeeds, the test fails and shows its output"
    cmd = [str(c) for c in cmd]
    r = subprocess.run(cmd, capture_output=True, text=True, encoding='utf-8', timeout=timeout,
                       stdin=subprocess.DEVNULL, **kw)
    plain = lambda t: re.sub(r'\x1b\[[0-9;]*m', '', t) # no colours
    r.stdout, r.stderr = plain(r.stdout), plain(r.stderr)
    said = f"{' '.join(cmd)}\n{r.stdout[-3000:]}\n{r.stderr[-6000:]}"
    if ok and r.returncode: pytest.fail(said, pytrace=False)
    return r

# ---- the wheel, and environments as a user has them ----

@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    "The built wheel, by way of the source distribution, so that both are complete"
    return build_wheel(tmp_path_factory.mktemp('build'))

class CallableEnv(Env):
    "An environment; called with arguments, it runs its Python"
    def __call__(self, *args, **kw): return run(self.python, *args, env=self.env, **kw)

@pytest.fixture(scope='session')
def wheel_env(tmp_path_factory, wheel):
    "The wheel, its `offline` extra and a kernel, and nothing of the developer's"
    d = tmp_path_factory.mktemp('wheel_env')
    return CallableEnv(d, wheel, 'offline', MPLBACKEND='agg', **one_thread)

@pytest.fixture(scope='session')
def avx2_env(tmp_path_factory, wheel):
    """The wheel, one thread and AVX2 at most; of the developer's packages, which hold the oracles,
    those that are `lowered` as old as we promise them"""
    settings = avx2 | one_thread
    try: return CallableEnv(tmp_path_factory.mktemp('avx2_env'), wheel, 'lowest', **settings)
    except RuntimeError as e:
        if in_ci(): raise
        warnings.warn(f'notebooks run with what is installed here, not with the oldest: {e}')
        return CallableEnv(tmp_path_factory.mktemp('avx2_env'), wheel, 'dev', **settings)

@pytest.fixture
def empty(tmp_path):
    "An empty folder"
    d = tmp_path/'empty'
    d.mkdir()
    return d

@pytest.fixture(autouse=True)
def seeded():
    "Numbers drawn by chance are the same in each run of a test"
    import torch
    torch.manual_seed(0)

@pytest.fixture(scope='module')
def single_thread():
    "Torch uses one thread: sums come out the same only in the same order"
    import torch
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

# ---- notebooks: started with the session on one core; at the end they get all cores ----

def pytest_collection_modifyitems(items):
    "The notebooks come last: they have been running since the session began"
    items.sort(key=lambda i: i.path.name == 'test_notebooks.py')

@pytest.fixture(scope='session', autouse=True)
def notebook_runs(request, tmp_path_factory):
    "The wanted notebooks at work: `results` has a Future of a Run for each"
    items = [i for i in request.session.items if getattr(i, 'originalname', '') == 'test_runs']
    wanted = {i.callspec.params['nb'] for i in items}
    if not wanted:
        yield None
        return
    from test_notebooks import prepared
    avx2_env = request.getfixturevalue('avx2_env')
    top = tmp_path_factory.mktemp('notebooks')
    def job(path):
        d = top/nb_name(path).replace('/', '-')
        return lambda: run_notebook(prepared(path, d), d/'run', avx2_env.python, avx2_env.env)
    paths = sorted((p for p in nbs if nb_name(p) in wanted), key=lambda p: by_length(nb_name(p)))
    runs = Background({nb_name(p): job(p) for p in paths})
    runs.work_on(1)
    yield runs
    runs.stop()

# ---- what the report says ----

# Reasons that a machine of CI cannot help; under CI=true a test skipped for any other is a failure.
cannot = [r'no GPU', r'no CUDA', r'needs? \S*GPUs?\b', r'no file system can be mounted here',
          r'only on (Windows|macOS|Linux)', r'not on (Windows|macOS|Linux)']

def fail_if_skipped(report):
    "Under CI=true: a skipped test that CI could have run counts as failed"
    if not in_ci() or not report.skipped or hasattr(report, 'wasxfail'): return
    reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if any(re.search(c, reason) for c in cannot): return
    report.outcome = 'failed'
    report.longrepr = (f'{report.nodeid}: skipped under CI=true, which should be able to run it: '
                       f'{reason}')

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    fail_if_skipped(report)
    return report

@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    report = yield
    fail_if_skipped(report)
    return report

def pytest_terminal_summary(terminalreporter):
    "The seconds that each notebook took; nothing depends on them"
    reports = [r for rs in terminalreporter.stats.values() for r in rs]
    called = [r for r in reports if getattr(r, 'when', '') == 'call']
    properties = [(r.nodeid.partition('[')[2].rstrip(']'), *p)
                  for r in called for p in r.user_properties]
    took = {name: seconds for name,key,seconds in properties if key == 'notebook seconds'}
    if not took: return
    terminalreporter.section('seconds of the notebooks, one thread each')
    for name in sorted(took, key=took.get, reverse=True):
        terminalreporter.write_line(f'{took[name]:6d} s  {name}')

# ---- browser ----

@pytest.fixture(scope='module')
def page():
    "A tab of a headless Chromium (playwright's event loop runs as long as it is open)"
    import browser
    if not browser.find(): pytest.skip('no Chromium here (apt-get install chromium)')
    with browser.browser() as b: yield b
