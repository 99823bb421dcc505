"""Training that can be left alone: killed, interrupted, given bad files or a full disk; each time
it ends in the same bits."""
import json, os, random, re, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest, torch
from conftest import root, run
from slm_scratch.engine.tales import tales
from slm_scratch.data import TokenDataset
from slm_scratch.engine.prepare import prepare
from slm_scratch.engine.files import safe_load
from slm_scratch.model import ModelConfig, SmallLanguageModel
from slm_scratch.tokenizer import Tokenizer
from slm_scratch.engine.cli import train_cli
from slm_scratch.train import LanguageModelTrainer

# ---- a small run in which everything can be lost: dropout, accumulation, averages of two
# optimizers, a scaler ----

KINDS = dict(muon=dict(optimizer='muon', precision='fp32'),
             fp16=dict(precision='fp16', schedule='wsd'))
STEPS = 64

class CallbackTrainer(LanguageModelTrainer):
    "Calls `on_step(step)` after each step"
    on_step = staticmethod(lambda step: None)
    def train_step(self):
        res = super().train_step()
        self.on_step(self.step)
        return res

def small_run(workdir, out, trainer=CallbackTrainer, **kw):
    "Train, or go on, as a fresh process would: nothing of an earlier process is used but files"
    tok = Tokenizer.load(workdir/'tok.json')
    torch.manual_seed(7)
    config = ModelConfig(vocab_size=tok.vocab_size, d_model=24, n_heads=2, n_layers=2,
                         max_seq_len=16, dropout=.1)
    model = SmallLanguageModel(config, tok)
    usual = dict(batch_size=2, grad_accum=2, learning_rate=3e-3, max_steps=STEPS, eval_every=6,
                 eval_tokens=64, log_every=1, checkpoint_every=2, verbose=False, device='cpu')
    trainer(model).train(workdir/'story.txt', out_dir=out, **usual | kw)
    return model

def without_times(lines):
    "The rows of a history without their seconds, which are never the same twice"
    times = ('seconds', 'tokens_per_second')
    rows = map(json.loads, lines.splitlines())
    return [{k: v for k, v in row.items() if k not in times} for row in rows]

def checkpoint_without_times(path):
    s = safe_load(path)
    timed = ('seconds', 'tokens_per_second')
    rows = [{k: v for k, v in json.loads(l).items() if k not in timed}
            for l in s.pop('history').splitlines()]
    sums = {k: v for k, v in s['sums'].items() if k != 'seconds'}
    return s | dict(elapsed=0, evaluated=s['evaluated']['step'], sums=sums, rows=rows)

def differences(a, b, at=''):
    "Places where two nested values are not equal, bit for bit"
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and torch.equal(a, b)
    elif type(a) != type(b): same = False
    elif isinstance(a, dict):
        lacking = [f'{at}.{k}' for k in a.keys() ^ b.keys()]
        both = a.keys() & b.keys()
        return lacking + [d for k in both for d in differences(a[k], b[k], f'{at}.{k}')]
    elif isinstance(a, (list, tuple)) and len(a) == len(b):
        pairs = enumerate(zip(a, b))
        return [d for i, (x, y) in pairs for d in differences(x, y, f'{at}.{i}')]
    else: same = a == b
    return [] if same else [at]

def same_end(one, two):
    "Both folders hold the same run, to the last bit"
    for name in ('last.pt', 'best.pt'):
        first, second = (checkpoint_without_times(d/name) for d in (one, two))
        assert differences(first, second) == [], name
    assert differences(safe_load(one/'model.pth'), safe_load(two/'model.pth')) == []
    lines = (two/'history.jsonl').read_text(encoding='utf-8')
    assert lines == safe_load(two/'last.pt')['history'], 'history.jsonl is the history'
    files = ['best.pt', 'data', 'history.jsonl', 'last.pt', 'model.pth']
    assert sorted(p.name for p in two.iterdir()) == files, 'nothing is left over'

# ---- a fork server: Python and torch are loaded once; each training process is a fork of it, which
# can be killed ----

def spawn(f):
    "Run `f(pipe)` in a process of its own; its id, and the pipe to read from"
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(r)
        code = 1
        try:
            f(w)
            code = 0
        finally: os._exit(code)
    os.close(w)
    return pid, r

def training_job(workdir, out, on_step=None, hang=None, **kw):
    """A function for `spawn` that trains, and writes a dot to the pipe after each step; when `hang`
    files have been written, it writes w instead of renaming the next one, and waits"""
    def f(pipe):
        left = [hang]
        def sync(fd, real=os.fsync):
            real(fd)
            if left[0] is None: return
            left[0] -= 1
            if left[0] < 0:
                os.write(pipe, b'w')
                time.sleep(3600) # until it is killed
        os.fsync = sync
        def step(n):
            os.write(pipe, b'.')
            if on_step: on_step(n)
        CallbackTrainer.on_step = staticmethod(step)
        small_run(workdir, out, **kw)
    return f

def kill_again_and_again(workdir, out, kills, rng, **kw):
    """Kill the run `kills` times, by turns: after some steps and a part of another, and while a
    file is being written; what each kill left"""
    kills_done = []
    while len(kills_done) < kills:
        writing = len(kills_done) % 2 == 0
        hang = rng.randrange(4) if writing else None
        pid, pipe = spawn(training_job(workdir, out, hang=hang, **kw))
        if writing:
            said = b'.'
            while said == b'.': said = os.read(pipe, 1)
            assert said == b'w', 'the run ended before it was killed'
        else:
            for _ in range(rng.randrange(4)): assert os.read(pipe, 1) == b'.'
            time.sleep(rng.random()*.01)
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        os.close(pipe)
        assert os.WIFSIGNALED(status), 'the run ended before it was killed'
        try: at = safe_load(out/'last.pt')['step']
        except FileNotFoundError: at = 0
        kills_done.append(dict(writing=bool(list(out.glob('*.tmp'))), saved=at))
    return kills_done

def fork_server(job):
    "The answer to a job, in a process of its own: 20 kills, or a signal in the middle of a step"
    workdir, out, kw = Path(job['workdir']), Path(job['out']), job['kw']
    # what PyTorch loads late is loaded before the first fork
    small_run(workdir, out.parent/'warm', **kw | dict(max_steps=4))
    if job['do'] == 'kill':
        rng = random.Random(job['seed'])
        return kill_again_and_again(workdir, out, job['kills'], rng, **kw)
    wait, go = os.pipe()
    def pause(step):
        if step == job['steps']: os.read(wait, 1) # the signal comes while the step waits here
    pid, pipe = spawn(training_job(workdir, out, on_step=pause, **kw))
    for _ in range(job['steps']): os.read(pipe, 1)
    os.kill(pid, getattr(signal, job['do']))
    os.write(go, b'!')
    later = sum(iter(lambda: len(os.read(pipe, 1)), 0))
    return dict(later=later, code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

environment = os.environ | dict(
    PYTHONPATH=os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]), OMP_NUM_THREADS='1')

def run_fork_server(workdir, out, **job):
    "The answer of a fork server to a job"
    job |= dict(workdir=str(workdir), out=str(out))
    r = run(sys.executable, __file__, json.dumps(job), env=environment, timeout=900)
    return json.loads(r.stdout.splitlines()[-1])

@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    "A text, its vocabulary, and a run of each kind that nobody disturbed"
    d = tmp_path_factory.mktemp('workdir')
    texts = [t.text for t in tales(12)]
    (d/'story.txt').write_text('\n<|endoftext|>\n'.join(texts), encoding='utf-8')
    Tokenizer.train(texts, 300).save(d/'tok.json')
    threads = torch.get_num_threads()
    torch.set_num_threads(1) # as in a fork server: the order of sums must be the same
    for kind, kw in KINDS.items(): small_run(d, d/kind, **kw)
    yield d
    torch.set_num_threads(threads)

# ---- killed ----

@pytest.mark.parametrize('kind', KINDS)
def test_killed_twenty_times(kind, workdir, tmp_path):
    """SIGKILL at 20 random moments, many of them while a file is being written: the end is the
    same, bit for bit"""
    out = tmp_path/'run'
    kills_done = run_fork_server(workdir, out, do='kill', kills=20, seed=len(kind), kw=KINDS[kind])
    assert sum(d['writing'] for d in kills_done) >= 10, kills_done
    saved = [d['saved'] for d in kills_done]
    assert saved == sorted(saved), 'never back behind a checkpoint'
    assert kills_done[-1]['saved'] < STEPS, kills_done
    small_run(workdir, out, **KINDS[kind])
    same_end(workdir/kind, out)

# ---- stopped ----

@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM'])
def test_stopped(name, workdir, tmp_path):
    "A signal to a real process: the step is finished and saved, and the run goes on from there"
    out = tmp_path/'run'
    res = run_fork_server(workdir, out, do=name, steps=9, kw=KINDS['muon'])
    assert res == dict(code=0, later=0), 'the step is finished, and no other is begun'
    assert safe_load(out/'last.pt')['step'] == 9, 'every step that was made is saved'
    small_run(workdir, out, **KINDS['muon'])
    same_end(workdir/'muon', out)

def stopped_at(step, workdir, out, kind='muon', signal_=signal.SIGINT):
    "A run that was stopped after `step`"
    class Stopped(CallbackTrainer):
        def on_step(self, at):
            if at == step: signal.raise_signal(signal_)
    small_run(workdir, out, Stopped, **KINDS[kind])
    assert safe_load(out/'last.pt')['step'] == step

# ---- bad files ----

class HostilePickle:
    "A pickle can call any function when it is loaded without care: this one would make a folder"
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)

def cut(path): path.write_bytes(path.read_bytes()[:path.stat().st_size//2])
def empty(path): path.write_bytes(b'')
def flip_bit(path):
    b = bytearray(path.read_bytes())
    b[len(b)//2] ^= 16
    path.write_bytes(b)
def hostile(path):
    pickle = HostilePickle(path.parent.parent/'harm')
    torch.save(safe_load(path) | dict(step=pickle), path)

damage = dict(cut=cut, empty=empty, bit=flip_bit, hostile=hostile)
REASONS = dict(cut='cut off|damaged|cannot', empty='cannot', bit='checksum|damaged',
               hostile='might run code')

@pytest.fixture(scope='module')
def halfway(workdir):
    "A run that was stopped after step 33"
    stopped_at(33, workdir, workdir/'halfway')
    return workdir/'halfway'

def files(folder): return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}

@pytest.mark.parametrize('resume', [True, False, 'changed'])
@pytest.mark.parametrize('name', ['last.pt', 'best.pt', 'model.pth'])
def test_foreign_file(name, resume, halfway, workdir, tmp_path):
    """A good file of another program under one of our names is not ours to replace: the run stops
    with its name, and touches nothing"""
    out = copy_of(halfway, tmp_path)
    torch.save(dict(weights=torch.ones(3)), out/name)
    before = files(out)
    with pytest.raises(ValueError, match=rf'(?s)did not write.*{name}.*Choose another out_dir'):
        small_run(workdir, out, resume=resume, **KINDS['muon'])
    assert before == files(out)

def copy_of(run, tmp_path): return Path(shutil.copytree(run, tmp_path/'run'))

def test_hostile_file_does_harm(tmp_path):
    "The hostile file of these tests runs its code if it is loaded without care"
    torch.save(dict(step=HostilePickle(tmp_path/'harm')), tmp_path/'x.pt')
    torch.load(tmp_path/'x.pt', weights_only=False)
    assert (tmp_path/'harm').exists()

@pytest.mark.parametrize('how', REASONS)
def test_bad_last(how, halfway, workdir, tmp_path, capsys):
    "A bad last.pt is refused with its reason; best.pt takes over, and the end is the same"
    out = copy_of(halfway, tmp_path)
    damage[how](out/'last.pt')
    small_run(workdir, out, **KINDS['muon'])
    said = ''.join(capsys.readouterr())
    assert re.search(rf'refused: .*last\.pt.*({REASONS[how]})', said), said
    assert not (tmp_path/'harm').exists()
    same_end(workdir/'muon', out)

@pytest.mark.parametrize('how', REASONS)
def test_bad_best(how, halfway, workdir, tmp_path):
    "A bad best.pt does no harm as long as last.pt is good: the next best model replaces it"
    out = copy_of(halfway, tmp_path)
    damage[how](out/'best.pt')
    small_run(workdir, out, **KINDS['muon'])
    assert not (tmp_path/'harm').exists()
    same_end(workdir/'muon', out)

@pytest.mark.parametrize('how', REASONS)
def test_nothing_to_trust(how, halfway, workdir, tmp_path):
    "If no checkpoint is good, the run stops with the reasons and touches nothing"
    out = copy_of(halfway, tmp_path)
    for name in ('last.pt', 'best.pt'): damage[how](out/name)
    before = {p.name: p.read_bytes() for p in out.glob('*.*')}
    why = REASONS[how]
    said = rf'(?s)last\.pt.*({why}).*best\.pt.*({why}).*resume=False'
    with pytest.raises(ValueError, match=said):
        small_run(workdir, out, **KINDS['muon'])
    assert before == {p.name: p.read_bytes() for p in out.glob('*.*')}
    assert not (tmp_path/'harm').exists()

@pytest.mark.parametrize('how', REASONS)
def test_bad_model(how, workdir, tmp_path):
    """A bad model.pth is refused with its reason; the finished run, called again, writes it again
    from best.pt"""
    out = copy_of(workdir/'muon', tmp_path)
    damage[how](out/'model.pth')
    with pytest.raises(ValueError, match=rf'model\.pth.*({REASONS[how]})'):
        SmallLanguageModel.load(out/'model.pth')
    small_run(workdir, out, **KINDS['muon'])
    assert not (tmp_path/'harm').exists()
    same_end(workdir/'muon', out)

@pytest.mark.parametrize('how', ['cut', 'empty', 'bit'])
@pytest.mark.parametrize('side', ['train', 'valid'])
def test_bad_data(side, how, halfway, workdir, tmp_path):
    """Damaged tokens are refused if they are opened by name, and made again from the text if it is
    there"""
    out = copy_of(halfway, tmp_path)
    path, tok = out/'data'/f'{side}.tokens', Tokenizer.load(workdir/'tok.json')
    damage[how](path)
    said = rf'{side}\.tokens is (truncated|damaged|not a token file)'
    with pytest.raises(ValueError, match=said):
        if how == 'empty': TokenDataset.load(path)
        else: prepare(out/'data', tok)
    small_run(workdir, out, **KINDS['muon'])
    same_end(workdir/'muon', out)

# ---- a full disk ----

@pytest.fixture
def small_disk(tmp_path):
    "A file system of its own, and a function that changes its size"
    d = tmp_path/'disk'
    d.mkdir()
    def mount(options):
        cmd = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(d)]
        return subprocess.run(cmd, capture_output=True, text=True)
    def resize(size): return mount(f'remount,size={size}')
    try: r = mount('size=64m')
    except OSError as e: pytest.skip(f'no file system can be mounted here: {e}')
    if r.returncode: pytest.skip(f'no file system can be mounted here: {r.stderr.strip()}')
    yield d, resize
    subprocess.run(['umount', '-l', str(d)], check=True)

def test_full_disk(small_disk, workdir, capsys):
    """A disk that fills up: the old checkpoint stays good, training says so and ends in the same
    weights; with room again, all is saved"""
    disk, resize = small_disk
    out = disk/'run'
    stopped_at(33, workdir, out)
    used = sum(p.stat().st_size for p in out.rglob('*') if p.is_file())
    assert not resize(used + 150_000).returncode
    model = small_run(workdir, out, verbose=True, **KINDS['muon'])
    said = ''.join(capsys.readouterr())
    assert re.search(r'step \d+ is not saved: .*[Nn]o space left', said), said
    assert 'The weights are in memory' in said and not list(out.glob('*.tmp'))
    assert safe_load(out/'last.pt')['step'] == 33
    end = safe_load(workdir/'muon'/'last.pt')['model']
    assert differences(dict(model.state_dict()), dict(end)) == [], 'the model in memory'
    assert not resize('64m').returncode
    small_run(workdir, out, **KINDS['muon'])
    same_end(workdir/'muon', out)

# ---- more than one process ----

OPTIONS = dict(d_model=24, n_heads=2, n_layers=2, max_seq_len=16, vocab='300', batch_size=2,
               device='cpu', dropout=.1, steps=20, eval_every=5, keep_every=10, precision='fp32',
               learning_rate=2e-3)

two_processes = [sys.executable, '-m', 'torch.distributed.run', '--standalone',
                 '--nproc_per_node=2']

def command(workdir, out, **options):
    "The command of a run by two processes on this machine"
    options = dict(OPTIONS, out_dir=out, grad_accum=2, **options)
    words = [w for k, v in options.items() for w in (f'--{k}', str(v))]
    return [*two_processes, '-m', 'slm_scratch', 'train', str(workdir/'story.txt'), *words]

def run_command(cmd, workdir): return run(*cmd, env=environment, cwd=workdir, timeout=900)

def alone(workdir, out):
    "The same run by one process"
    train_cli(str(workdir/'story.txt'), out_dir=str(out), grad_accum=4, **OPTIONS)

def curve(out):
    "What a run wrote down, without its seconds"
    return without_times((out/'history.jsonl').read_text(encoding='utf-8'))

def same_curve(a, b):
    a, b = curve(a), curve(b)
    assert len(a) == len(b) > 4
    for x, y in zip(a, b): # weights that differ in their last bits may write another text
        assert ('sample' in x) == ('sample' in y)
        x, y = ({k: v for k, v in row.items() if k != 'sample'} for row in (x, y))
        assert x == {k: pytest.approx(v, rel=1e-4) for k, v in y.items()}

@pytest.fixture(scope='module')
def parallel_runs(workdir):
    "The same run by one process, and by two of which each has half of the batches"
    if not torch.distributed.is_available(): pytest.skip('this PyTorch has no torch.distributed')
    alone(workdir, workdir/'one')
    r = run_command(command(workdir, workdir/'two'), workdir)
    return workdir/'one', workdir/'two', r

def test_two_processes(parallel_runs):
    "The loss curve of one process with twice the accumulation; one of them prints and writes"
    one, two, r = parallel_runs
    same_curve(one, two)
    for line in ('vocabulary: ', 'plan: 20 steps', 'to hear it: '):
        assert r.stdout.count(line) == 1, r.stdout
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())
    a, b = (SmallLanguageModel.load(d/'model.pth').state_dict() for d in (one, two))
    for k in a: torch.testing.assert_close(a[k], b[k], rtol=1e-3, atol=1e-4)

def test_other_number_of_processes(parallel_runs, workdir, tmp_path):
    "A run that two began and one ends, and the other way round"
    one, two, _ = parallel_runs
    for d in (tmp_path/'to one', tmp_path/'to two'): d.mkdir()
    shutil.copy(two/'step-10.pt', tmp_path/'to one'/'last.pt')
    shutil.copy(one/'step-10.pt', tmp_path/'to two'/'last.pt')
    alone(workdir, tmp_path/'to one')
    r = run_command(command(workdir, tmp_path/'to two'), workdir)
    assert r.stdout.count('going on at step 10') == 1
    same_curve(one, tmp_path/'to one')
    same_curve(one, tmp_path/'to two')

# ---- sharded over the processes ----

SHARDED = dict(max_steps=12, precision='fp32', checkpoint_every=4)

def local(tensors):
    "How many numbers of these tensors this process holds"
    return sum((t.to_local() if hasattr(t, 'to_local') else t).numel() for t in tensors)

class MemoryTrainer(CallbackTrainer):
    "Notes how many numbers of weights, gradients and moments this process holds, and where it was"
    def set_up(self, data_path):
        super().set_up(data_path)
        self.optimizers[0].register_step_pre_hook(self.measure) # after `backward`, before the step
        MemoryTrainer.last = self
    def measure(self, *_):
        params = list(self.model.parameters())
        states = [s for o in self.optimizers for s in o.state.values()]
        moments = [v for s in states for v in s.values() if v.dim()]
        gradients = [p.grad for p in params]
        MemoryTrainer.held = [local(params), local(gradients), local(moments)]
        MemoryTrainer.as_torch = as_torch(self.placed)

def as_torch(placed):
    "Are the gathered weights what PyTorch's own API gathers, and the parts cut from them ours?"
    from torch.distributed.checkpoint import state_dict as dcp
    from slm_scratch.engine.distributed import distribute_like, distribute_state_dict
    from slm_scratch.engine.distributed import find_fully_shard
    odd = torch.nn.Linear(3, 7) # seven rows for two processes
    odd.weight.data = torch.arange(21.).view(7, 3) # the same in both
    rows = odd.weight.detach().clone()
    find_fully_shard()(odd, mesh=torch.distributed.device_mesh.init_device_mesh('cpu', (2,)))
    part = distribute_like(rows, odd.weight).to_local()
    options = dcp.StateDictOptions(full_state_dict=True)
    reference = dcp.get_model_state_dict(placed.model, options=options)
    full, mine = placed.full_state_dict(everywhere=True), placed.model.state_dict()
    parts = distribute_state_dict(reference, mine)
    gathered = list(full) == list(reference) and all(full[k].equal(v) for k, v in reference.items())
    cut = all(v.to_local().equal(mine[k].to_local()) for k, v in parts.items())
    return gathered and cut and part.equal(odd.weight.to_local())

class SkewedTrainer(MemoryTrainer):
    "The second process has another clock, and `facts` give it another speed of bf16"
    def __init__(self, model):
        super().__init__(model)
        if os.environ['RANK'] == '1': self.clock = lambda: 1e9*time.perf_counter()

def sharded_note(model, error):
    "What a process has after a sharded run"
    trainer = MemoryTrainer.last
    return dict(held=MemoryTrainer.held, as_torch=MemoryTrainer.as_torch,
                saved=not trainer.run.unsaved, error=error,
                precision=trainer.plan.name, training=model.training,
                model=dict(model.state_dict()),
                kind=[type(model).__name__, trainer.model is model])

def sharded_job(job):
    "What each of the processes does: some runs, one after the other, with a note after each"
    from unittest import mock
    from slm_scratch.engine import device, run
    rank, workdir, out = int(os.environ['RANK']), Path(job['workdir']), Path(job['out'])
    def full(obj, path): raise OSError(28, 'No space left on device')
    def facts(device): return dict(type='cpu', name='CPU', capability=None, bf16=.5 if rank else 2.)
    def sharded_run(name, trainer=MemoryTrainer, **kw):
        models, error = [], ''
        class Kept(trainer):
            def __init__(self, model):
                models.append(model)
                super().__init__(model)
        try: small_run(workdir, out/name, Kept, **SHARDED | dict(shard=True) | kw)
        except FloatingPointError as e: error = str(e)
        model, = models
        if rank: model(torch.zeros(1, 3, dtype=torch.long)) # alone: nothing of it may be elsewhere
        torch.save(sharded_note(model, error), out/f'{name}-{rank}.note')
    sharded_run('adamw', checkpoint_activations=True)
    sharded_run('fp16', precision='fp16')
    with mock.patch.object(run, 'atomic_save', full): sharded_run('full disk')
    options = dict(precision='auto', checkpoint_every=None, max_steps=3)
    with mock.patch.object(device, 'device_info', facts):
        sharded_run('skewed', SkewedTrainer, **options)
    sharded_run('diverging', learning_rate=1e18, warmup_steps=0, grad_clip=None)
    train_cli(str(workdir/'story.txt'), out_dir=str(out/'from one'), grad_accum=2, shard=True,
              **OPTIONS)

@pytest.fixture(scope='module')
def sharded_runs(parallel_runs, workdir):
    """Runs that are sharded over two processes; one of them goes on where a single process was at
    step 10"""
    out = workdir/'sharded'
    (out/'from one').mkdir(parents=True)
    shutil.copy(parallel_runs[0]/'step-10.pt', out/'from one'/'last.pt')
    job = json.dumps(dict(workdir=str(workdir), out=str(out)))
    run_command([*two_processes, __file__, job], workdir)
    run_command([*command(workdir, out/'muon'), '--shard'], workdir)
    return out

def notes(out, name): return [safe_load(out/f'{name}-{rank}.note') for rank in (0, 1)]

def test_sharded_muon(sharded_runs, parallel_runs, tmp_path):
    "Muon: the curve of one process; one process ends what was begun sharded, and the other way"
    same_curve(parallel_runs[0], sharded_runs/'muon')
    shutil.copy(sharded_runs/'muon'/'step-10.pt', tmp_path/'last.pt')
    alone(workdir=sharded_runs.parent, out=tmp_path)
    same_curve(parallel_runs[0], tmp_path)
    same_curve(parallel_runs[0], sharded_runs/'from one')

def shapes(x):
    "A nested value with the kind, shape and device of each tensor, and the type of all else"
    if isinstance(x, dict): return {k: shapes(v) for k, v in x.items() if k != 'history'}
    if isinstance(x, (list, tuple)): return list(map(shapes, x))
    return (type(x), x.shape, x.device) if isinstance(x, torch.Tensor) else type(x)

@pytest.mark.parametrize('name, kw', [('adamw', dict()), ('fp16', dict(precision='fp16'))])
def test_sharded_adamw(name, kw, sharded_runs, workdir, tmp_path):
    """AdamW with dropout: the curve of one process with twice the accumulation, and files that a
    single process could have written"""
    one, two = tmp_path/'run', sharded_runs/name
    model = small_run(workdir, one, **SHARDED | dict(grad_accum=4) | kw)
    same_curve(one, two)
    for file in ('last.pt', 'best.pt', 'model.pth'):
        assert shapes(safe_load(one/file)) == shapes(safe_load(two/file)), file
        sizes = [(d/file).stat().st_size for d in (one, two)]
        assert sizes[0] == pytest.approx(sizes[1], rel=.02), 'the tied matrix is stored once'
    for note in notes(sharded_runs, name):
        for k, v in model.state_dict().items():
            # the true gradient of the keys' bias is zero: AdamW makes steps of rounding noise there
            if 'qkv.bias' in k: continue
            torch.testing.assert_close(note['model'][k], v, rtol=1e-2, atol=2e-4)

def test_sharded_halves(sharded_runs):
    "Each process holds half of the weights, of the gradients and of the averages"
    one, two = notes(sharded_runs, 'adamw')
    total = sum(v.numel() for k, v in one['model'].items() if k != 'lm_head.weight')
    for a, b, whole in zip(one['held'], two['held'], (total, total, 2*total)):
        assert a + b == whole and max(a, b) < .55*whole, (one['held'], two['held'], total)

def test_sharded_as_torch(sharded_runs):
    "Gathered and cut as `torch.distributed.checkpoint.state_dict` and FSDP2 do it"
    assert all(n['as_torch'] for name in ('adamw', 'fp16') for n in notes(sharded_runs, name))

def test_sharded_comes_back(sharded_runs):
    "In every process the caller's model is whole again, with the best weights, in evaluation mode"
    best = safe_load(sharded_runs/'adamw'/'model.pth')
    for note in notes(sharded_runs, 'adamw'):
        assert note['kind'] == ['SmallLanguageModel', True] and not note['training']
        assert all(torch.equal(v, best[k]) for k, v in note['model'].items())

def test_sharded_troubles(sharded_runs):
    """A full disk, clocks and processors that differ, a loss that is not finite: no process waits
    for the other, and the model is restored"""
    last = safe_load(sharded_runs/'adamw'/'last.pt')['model']
    for note in notes(sharded_runs, 'full disk'):
        assert not note['saved'] and note['kind'][1]
        for k, v in note['model'].items():
            torch.testing.assert_close(v, last[k], rtol=1e-4, atol=1e-5)
    assert not [p for p in (sharded_runs/'full disk').iterdir() if p.suffix in ('.pt', '.pth')]
    assert [n['precision'] for n in notes(sharded_runs, 'skewed')] == ['bf16']*2
    one, two = notes(sharded_runs, 'diverging')
    assert 'The weights of the step before are in memory' in one['error'] == two['error']
    for k, v in one['model'].items(): assert torch.equal(v, two['model'][k]), k
    assert max(v.abs().max() for v in one['model'].values()) > 1e3

slow = not {'SLM_SLOW', 'CI'} & set(os.environ)

@pytest.mark.skipif(slow, reason='a minute more: set SLM_SLOW=1')
@pytest.mark.parametrize('how', [[], ['--shard']], ids=['copies', 'sharded'])
def test_two_processes_stopped(how, workdir, tmp_path):
    "SIGTERM to torchrun: both processes finish the step, the first one saves"
    out = tmp_path/'run'
    log = out/'history.jsonl'
    def begun(): return log.exists() and log.read_text(encoding='utf-8').count('\n') > 3
    cmd = [*command(workdir, out), '--steps', '1000000', *how]
    with subprocess.Popen(cmd, env=environment, cwd=workdir, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as p:
        end = time.time() + 600 # ends what hangs
        while time.time() < end and p.poll() is None and not begun(): time.sleep(.05)
        p.send_signal(signal.SIGTERM)
        said = p.communicate(timeout=600)[0]
    assert re.search(r'stopped at step \d+, saved in', said), said
    rows = curve(out)
    assert safe_load(out/'last.pt')['step'] >= rows[-1]['step'] > 0 and not list(out.glob('*.tmp'))

if __name__ == '__main__':
    job = json.loads(sys.argv[1])
    if 'RANK' in os.environ: sharded_job(job)
    else: print(json.dumps(fork_server(job)))
