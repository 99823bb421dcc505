"Training that can be left alone: killed, interrupted, given bad files or a full disk; each time it ends in the same bits."
import json, os, random, re, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest, torch
from conftest import root, run
from slm_scratch.engine.tales import tales
from slm_scratch.data import TokenDataset
from slm_scratch.engine.corpus import prepare
from slm_scratch.engine.files import safe_load
from slm_scratch.model import ModelConfig, SmallLanguageModel
from slm_scratch.tokenizer import Tokenizer
from slm_scratch.engine.cli import train_cli
from slm_scratch.train import LanguageModelTrainer

# ---- a small run in which everything can be lost: dropout, accumulation, averages of two optimizers, a scaler ----

KINDS = dict(muon=dict(optimizer='muon', precision='fp32'), fp16=dict(precision='fp16', schedule='wsd'))
STEPS = 64

class Ticking(LanguageModelTrainer):
    "Calls `tick(step)` after each step"
    tick = staticmethod(lambda step: None)
    def train_step(self):
        res = super().train_step()
        self.tick(self.step)
        return res

def small_run(desk, out, trainer=Ticking, **kw):
    "Train, or go on, as a fresh process would: nothing of an earlier life is used but the files"
    tok = Tokenizer.load(desk/'tok.json')
    torch.manual_seed(7)
    model = SmallLanguageModel(ModelConfig(vocab_size=tok.vocab_size, d_model=24, n_heads=2, n_layers=2, max_seq_len=16, dropout=.1), tok)
    usual = dict(batch_size=2, grad_accum=2, learning_rate=3e-3, max_steps=STEPS, eval_every=6, eval_tokens=64, log_every=1, checkpoint_every=2, verbose=False, device='cpu')
    trainer(model).train(desk/'story.txt', out_dir=out, **usual | kw)
    return model

def bare_run(path):
    "A checkpoint without its seconds, which are never the same twice"
    s = safe_load(path)
    rows = [{k: v for k, v in json.loads(l).items() if k not in ('seconds', 'tokens_per_second')} for l in s.pop('history').splitlines()]
    sums = {k: v for k, v in s['sums'].items() if k != 'seconds'}
    return s | dict(elapsed=0, evaluated=s['evaluated']['step'], sums=sums, rows=rows)

def differences(a, b, at=''):
    "Places where two nested values are not equal, bit for bit"
    if isinstance(a, torch.Tensor): return [] if isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b) else [at]
    if type(a) != type(b): return [at]
    if isinstance(a, dict): return [d for k in a.keys() | b.keys() for d in (differences(a[k], b[k], f'{at}.{k}') if k in a and k in b else [f'{at}.{k}'])]
    if isinstance(a, (list, tuple)): return [at] if len(a) != len(b) else [d for i, (x, y) in enumerate(zip(a, b)) for d in differences(x, y, f'{at}.{i}')]
    return [] if a == b else [at]

def same_end(one, two):
    "Both folders hold the same run, to the last bit"
    for name in ('last.pt', 'best.pt'): assert differences(bare_run(one/name), bare_run(two/name)) == [], name
    assert differences(safe_load(one/'model.pth'), safe_load(two/'model.pth')) == []
    lines = (two/'history.jsonl').read_text(encoding='utf-8')
    assert lines == safe_load(two/'last.pt')['history'], 'history.jsonl is the history'
    assert sorted(p.name for p in two.iterdir()) == ['best.pt', 'data', 'history.jsonl', 'last.pt', 'model.pth'], 'nothing is left over'

# ---- a nursery: Python and torch start once, each life is a fork of it, a process of its own that can be killed ----

def spawn(f):
    "Run `f(pipe)` in a process of its own; its id, and the pipe on which it speaks"
    r, w = os.pipe()
    if not (pid := os.fork()):
        os.close(r)
        code = 1
        try: f(w); code = 0
        finally: os._exit(code)
    os.close(w)
    return pid, r

def life(desk, out, tick=None, hang=None, **kw):
    "A life of the run, with a dot on the pipe after each step; when `hang` files have been written, it says w instead of renaming the next one, and waits"
    def f(pipe):
        left = [hang]
        def sync(fd, real=os.fsync):
            real(fd)
            if left[0] is None: return
            left[0] -= 1
            if left[0] < 0: os.write(pipe, b'w'); time.sleep(3600) # until it is killed
        os.fsync = sync
        def step(n):
            os.write(pipe, b'.')
            if tick: tick(n)
        Ticking.tick = staticmethod(step)
        small_run(desk, out, **kw)
    return f

def kill_again_and_again(desk, out, kills, rng, **kw):
    "Kill the run `kills` times, by turns: after some steps and a part of another, and while a file is being written; what each death left"
    deaths = []
    while len(deaths) < kills:
        writing = len(deaths) % 2 == 0
        pid, pipe = spawn(life(desk, out, hang=rng.randrange(4) if writing else None, **kw))
        if writing:
            while (said := os.read(pipe, 1)) == b'.': pass
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
        deaths.append(dict(writing=bool(list(out.glob('*.tmp'))), saved=at))
    return deaths

def nursery(job):
    "What a nursery is asked for, in its own process"
    desk, out, kw = Path(job['desk']), Path(job['out']), job['kw']
    small_run(desk, out.parent/'warm', **kw | dict(max_steps=4))   # what PyTorch loads late is loaded before the first fork
    if job['do'] == 'kill': return kill_again_and_again(desk, out, job['kills'], random.Random(job['seed']), **kw)
    wait, go = os.pipe()                                           # 'stop': a signal in the middle of a step, and what came of it
    def pause(step):
        if step == job['steps']: os.read(wait, 1)                  # the signal comes while the step waits here
    pid, pipe = spawn(life(desk, out, tick=pause, **kw))
    for _ in range(job['steps']): os.read(pipe, 1)
    os.kill(pid, getattr(signal, job['do']))
    os.write(go, b'!')
    later = sum(iter(lambda: len(os.read(pipe, 1)), 0))
    return dict(later=later, code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

def ask(desk, out, **job):
    "A nursery's answer"
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]), OMP_NUM_THREADS='1')
    job |= dict(desk=str(desk), out=str(out))
    return json.loads(run(sys.executable, __file__, json.dumps(job), env=env, timeout=900).stdout.splitlines()[-1])

@pytest.fixture(scope='module')
def desk(tmp_path_factory):
    "A text, its vocabulary, and a run of each kind that nobody disturbed"
    d = tmp_path_factory.mktemp('desk')
    texts = [t.text for t in tales(12)]
    (d/'story.txt').write_text('\n<|endoftext|>\n'.join(texts), encoding='utf-8')
    Tokenizer.train(texts, 300).save(d/'tok.json')
    threads = torch.get_num_threads()
    torch.set_num_threads(1) # as in a nursery: sums come out the same only in the same order
    for kind, kw in KINDS.items(): small_run(d, d/kind, **kw)
    yield d
    torch.set_num_threads(threads)

# ---- killed ----

@pytest.mark.parametrize('kind', KINDS)
def test_killed_twenty_times(kind, desk, tmp_path):
    "SIGKILL at 20 random moments, many of them while a file is being written: the end is the same, bit for bit"
    out = tmp_path/'run'
    deaths = ask(desk, out, do='kill', kills=20, seed=len(kind), kw=KINDS[kind])
    assert sum(d['writing'] for d in deaths) >= 10, deaths
    assert all(a['saved'] <= b['saved'] for a, b in zip(deaths, deaths[1:])), 'never back behind a checkpoint'
    assert deaths[-1]['saved'] < STEPS, deaths
    small_run(desk, out, **KINDS[kind])
    same_end(desk/kind, out)

# ---- stopped ----

@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM'])
def test_stopped(name, desk, tmp_path):
    "A signal to a real process: the step is finished and saved, and the run goes on from there"
    out = tmp_path/'run'
    res = ask(desk, out, do=name, steps=9, kw=KINDS['muon'])
    assert res == dict(code=0, later=0), 'the step is finished, and no other is begun'
    assert safe_load(out/'last.pt')['step'] == 9, 'every step that was made is saved'
    small_run(desk, out, **KINDS['muon'])
    same_end(desk/'muon', out)

def stopped_at(step, desk, out, kind='muon', signal_=signal.SIGINT):
    "A run that was stopped after `step`"
    class Stopped(Ticking):
        def tick(self, at):
            if at == step: signal.raise_signal(signal_)
    small_run(desk, out, Stopped, **KINDS[kind])
    assert safe_load(out/'last.pt')['step'] == step

# ---- bad files ----

class Evil:
    "A pickle can call any function while it is opened carelessly: this one would leave a file behind"
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)

def cut(path): path.write_bytes(path.read_bytes()[:path.stat().st_size//2])
def empty(path): path.write_bytes(b'')
def bit(path):
    b = bytearray(path.read_bytes())
    b[len(b)//2] ^= 16
    path.write_bytes(b)
def poison(path): torch.save(safe_load(path) | dict(step=Evil(path.parent.parent/'harm')), path)
DAMAGE = dict(cut='cut off|damaged|cannot', empty='cannot', bit='checksum|damaged', poison='might run code')

@pytest.fixture(scope='module')
def halfway(desk):
    "A run that was stopped after step 33"
    stopped_at(33, desk, desk/'halfway')
    return desk/'halfway'

@pytest.mark.parametrize('resume', [True, False, 'changed'])
@pytest.mark.parametrize('name', ['last.pt', 'best.pt', 'model.pth'])
def test_stranger(name, resume, halfway, desk, tmp_path):
    "A good file of another program under one of our names is not ours to replace: the run stops with its name, and touches nothing"
    out = copy_of(halfway, tmp_path)
    torch.save(dict(weights=torch.ones(3)), out/name)
    before = {p: p.read_bytes() for p in out.rglob('*') if p.is_file()}
    with pytest.raises(ValueError, match=rf'(?s)did not write.*{name}.*Choose another out_dir'): small_run(desk, out, resume=resume, **KINDS['muon'])
    assert before == {p: p.read_bytes() for p in out.rglob('*') if p.is_file()}

def copy_of(run, tmp_path): return Path(shutil.copytree(run, tmp_path/'run'))

def test_poison_is_poison(tmp_path):
    "The hostile file of these tests does harm where it is opened carelessly"
    torch.save(dict(step=Evil(tmp_path/'harm')), tmp_path/'x.pt')
    torch.load(tmp_path/'x.pt', weights_only=False)
    assert (tmp_path/'harm').exists()

@pytest.mark.parametrize('how', DAMAGE)
def test_bad_last(how, halfway, desk, tmp_path, capsys):
    "A bad last.pt is refused with its reason; best.pt takes over, and the end is the same"
    out = copy_of(halfway, tmp_path)
    globals()[how](out/'last.pt')
    small_run(desk, out, **KINDS['muon'])
    said = ''.join(capsys.readouterr())
    assert re.search(rf'refused: .*last\.pt.*({DAMAGE[how]})', said), said
    assert not (tmp_path/'harm').exists()
    same_end(desk/'muon', out)

@pytest.mark.parametrize('how', DAMAGE)
def test_bad_best(how, halfway, desk, tmp_path):
    "A bad best.pt does no harm as long as last.pt is good: the next best model replaces it"
    out = copy_of(halfway, tmp_path)
    globals()[how](out/'best.pt')
    small_run(desk, out, **KINDS['muon'])
    assert not (tmp_path/'harm').exists()
    same_end(desk/'muon', out)

@pytest.mark.parametrize('how', DAMAGE)
def test_nothing_to_trust(how, halfway, desk, tmp_path):
    "Where no checkpoint is good, the run stops with the reasons and touches nothing"
    out = copy_of(halfway, tmp_path)
    for name in ('last.pt', 'best.pt'): globals()[how](out/name)
    before = {p.name: p.read_bytes() for p in out.glob('*.*')}
    with pytest.raises(ValueError, match=rf'(?s)last\.pt.*({DAMAGE[how]}).*best\.pt.*({DAMAGE[how]}).*resume=False'): small_run(desk, out, **KINDS['muon'])
    assert before == {p.name: p.read_bytes() for p in out.glob('*.*')} and not (tmp_path/'harm').exists()

@pytest.mark.parametrize('how', DAMAGE)
def test_bad_model(how, desk, tmp_path):
    "A bad model.pth is refused with its reason; the finished run, called again, writes it anew from best.pt"
    out = copy_of(desk/'muon', tmp_path)
    globals()[how](out/'model.pth')
    with pytest.raises(ValueError, match=rf'model\.pth.*({DAMAGE[how]})'): SmallLanguageModel.load(out/'model.pth')
    small_run(desk, out, **KINDS['muon'])
    assert not (tmp_path/'harm').exists()
    same_end(desk/'muon', out)

@pytest.mark.parametrize('how', ['cut', 'empty', 'bit'])
@pytest.mark.parametrize('side', ['train', 'valid'])
def test_bad_data(side, how, halfway, desk, tmp_path):
    "Damaged tokens are refused where they are opened by name, and made again from the text where it is there"
    out = copy_of(halfway, tmp_path)
    globals()[how](out/'data'/f'{side}.tokens')
    path, tok = out/'data'/f'{side}.tokens', Tokenizer.load(desk/'tok.json')
    def refuse(): TokenDataset.load(path) if how == 'empty' else prepare(out/'data', tok)
    with pytest.raises(ValueError, match=rf'{side}\.tokens is (truncated|damaged|not a token file)'): refuse()
    small_run(desk, out, **KINDS['muon'])
    same_end(desk/'muon', out)

# ---- a full disk ----

@pytest.fixture
def small_disk(tmp_path):
    "A file system of its own, and a function that changes its size"
    d = tmp_path/'disk'; d.mkdir()
    def resize(size, how='remount,'): return subprocess.run(['mount', '-t', 'tmpfs', '-o', f'{how}size={size}', 'tmpfs', str(d)], capture_output=True, text=True)
    try: r = resize('64m', '')
    except OSError as e: pytest.skip(f'no file system can be mounted here: {e}')
    if r.returncode: pytest.skip(f'no file system can be mounted here: {r.stderr.strip()}')
    yield d, resize
    subprocess.run(['umount', '-l', str(d)], check=True)

def test_full_disk(small_disk, desk, capsys):
    "A disk that fills up: the old checkpoint stays good, training tells and ends in the same weights; with room again, all is saved"
    disk, resize = small_disk
    out = disk/'run'
    stopped_at(33, desk, out)
    used = sum(p.stat().st_size for p in out.rglob('*') if p.is_file())
    assert not resize(used + 150_000).returncode
    model = small_run(desk, out, verbose=True, **KINDS['muon'])
    said = ''.join(capsys.readouterr())
    assert re.search(r'step \d+ is not saved: .*[Nn]o space left', said), said
    assert 'The weights are in memory' in said and not list(out.glob('*.tmp'))
    assert safe_load(out/'last.pt')['step'] == 33
    end = safe_load(desk/'muon'/'last.pt')['model']
    assert differences(dict(model.state_dict()), dict(end)) == [], 'the model in memory'
    assert not resize('64m').returncode
    small_run(desk, out, **KINDS['muon'])
    same_end(desk/'muon', out)

# ---- more than one process ----

OPTIONS = dict(d_model=24, n_heads=2, n_layers=2, max_seq_len=16, vocab='300', batch_size=2, device='cpu', dropout=.1, steps=20, eval_every=5, keep_every=10,
               precision='fp32', learning_rate=2e-3)

def command(desk, out, **options):
    "Two processes on this machine"
    options = dict(OPTIONS, out_dir=out, grad_accum=2, **options)
    words = [w for k, v in options.items() for w in (f'--{k}', str(v))]
    return [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', '-m', 'slm_scratch', 'train', str(desk/'story.txt'), *words]

environment = os.environ | dict(PYTHONPATH=os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]), OMP_NUM_THREADS='1')

def alone(desk, out): train_cli(str(desk/'story.txt'), out_dir=str(out), grad_accum=4, **OPTIONS)

def curve(out):
    "What a run wrote down, without its seconds"
    rows = map(json.loads, (out/'history.jsonl').read_text(encoding='utf-8').splitlines())
    return [{k: v for k, v in r.items() if k not in ('seconds', 'tokens_per_second')} for r in rows]

def same_curve(a, b):
    a, b = curve(a), curve(b)
    assert len(a) == len(b) > 4
    for x, y in zip(a, b): assert x == {k: pytest.approx(v, rel=1e-4) for k, v in y.items()}

@pytest.fixture(scope='module')
def worlds(desk):
    "The same run by one process, and by two of which each has half of the batches"
    if not torch.distributed.is_available(): pytest.skip('this PyTorch has no torch.distributed')
    alone(desk, desk/'one')
    return desk/'one', desk/'two', run(*command(desk, desk/'two'), env=environment, cwd=desk, timeout=900)

def test_two_processes(worlds):
    "The loss curve of one process with twice the accumulation; one of them prints and writes"
    one, two, r = worlds
    same_curve(one, two)
    assert r.stdout.count('vocabulary: ') == r.stdout.count('plan: 20 steps') == r.stdout.count('to hear it: ') == 1, r.stdout
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())
    a, b = (SmallLanguageModel.load(d/'model.pth').state_dict() for d in (one, two))
    for k in a: torch.testing.assert_close(a[k], b[k], rtol=1e-3, atol=1e-4)

def test_other_number_of_processes(worlds, desk, tmp_path):
    "A run that two began and one ends, and the other way round"
    one, two, _ = worlds
    for d in (tmp_path/'to one', tmp_path/'to two'): d.mkdir()
    shutil.copy(two/'step-10.pt', tmp_path/'to one'/'last.pt')
    shutil.copy(one/'step-10.pt', tmp_path/'to two'/'last.pt')
    alone(desk, tmp_path/'to one')
    r = run(*command(desk, tmp_path/'to two'), env=environment, cwd=desk, timeout=900)
    assert r.stdout.count('going on at step 10') == 1
    same_curve(one, tmp_path/'to one')
    same_curve(one, tmp_path/'to two')

# ---- spread over the processes ----

SPREAD = dict(max_steps=12, precision='fp32', checkpoint_every=4)

def local(t): return t.to_local().numel() if hasattr(t, 'to_local') else t.numel()

class Weighing(Ticking):
    "Notes how many numbers of weights, gradients and moments this process holds, and where it was"
    def set_up(self, data_path):
        super().set_up(data_path)
        self.optimizers[0].register_step_pre_hook(self.weigh) # after `backward`, before the step
        Weighing.last = self
    def weigh(self, *_):
        params = list(self.model.parameters())
        moments = [v for o in self.optimizers for s in o.state.values() for v in s.values() if v.dim()]
        Weighing.held = [sum(map(local, ts)) for ts in (params, [p.grad for p in params], moments)]

class Hasty(Weighing):
    "The second process has another clock, and another opinion about bf16"
    def __init__(self, model):
        super().__init__(model)
        if os.environ['RANK'] == '1': self.clock = lambda: 1e9*time.perf_counter()

def spread(job):
    "What each of the processes does: some runs, one after the other, and what it has in its hands after each"
    from unittest import mock
    from slm_scratch.engine import device, run
    rank, desk, out = int(os.environ['RANK']), Path(job['desk']), Path(job['out'])
    def full(obj, path): raise OSError(28, 'No space left on device')
    def facts(device): return dict(type='cpu', name='CPU', capability=None, bf16=.5 if rank else 2.)
    def life(name, trainer=Weighing, **kw):
        model, error = None, ''
        class Kept(trainer):
            def __init__(self, given): nonlocal model; model = given; super().__init__(given)
        try: small_run(desk, out/name, Kept, **SPREAD | dict(shard=True) | kw)
        except FloatingPointError as e: error = str(e)
        if rank: model(torch.zeros(1, 3, dtype=torch.long)) # alone: nothing of it may be elsewhere
        torch.save(dict(held=Weighing.held, saved=not Weighing.last.run.unsaved, precision=Weighing.last.plan.name, error=error, training=model.training,
                        model=dict(model.state_dict()), kind=[type(model).__name__, Weighing.last.model is model]), out/f'{name}-{rank}.note')
    life('adamw', checkpoint_activations=True)
    life('fp16', precision='fp16')
    with mock.patch.object(run, 'atomic_save', full): life('full disk')
    with mock.patch.object(device, 'device_info', facts): life('hasty', Hasty, precision='auto', checkpoint_every=None, max_steps=3)
    life('wild', learning_rate=1e18, warmup_steps=0, grad_clip=None)
    train_cli(str(desk/'story.txt'), out_dir=str(out/'from one'), grad_accum=2, shard=True, **OPTIONS)

@pytest.fixture(scope='module')
def spreads(worlds, desk):
    "Runs that are spread over two processes; one of them goes on where a single process was at step 10"
    out = desk/'spread'
    (out/'from one').mkdir(parents=True)
    shutil.copy(worlds[0]/'step-10.pt', out/'from one'/'last.pt')
    start = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    run(*start, __file__, json.dumps(dict(desk=str(desk), out=str(out))), env=environment, cwd=desk, timeout=900)
    run(*command(desk, out/'muon'), '--shard', env=environment, cwd=desk, timeout=900)
    return out

def notes(out, name): return [safe_load(out/f'{name}-{rank}.note') for rank in (0, 1)]

def test_spread_muon(spreads, worlds, tmp_path):
    "Muon: the curve of one process; one process ends what was begun spread, and the other way round"
    same_curve(worlds[0], spreads/'muon')
    shutil.copy(spreads/'muon'/'step-10.pt', tmp_path/'last.pt')
    alone(desk=spreads.parent, out=tmp_path)
    same_curve(worlds[0], tmp_path)
    same_curve(worlds[0], spreads/'from one')

@pytest.mark.parametrize('name, kw', [('adamw', dict()), ('fp16', dict(precision='fp16'))])
def test_spread_adamw(name, kw, spreads, desk, tmp_path):
    "AdamW with dropout: the curve of one process with twice the accumulation, and files that a single process could have written"
    model = small_run(desk, tmp_path/'run', **SPREAD | dict(grad_accum=4) | kw)
    same_curve(tmp_path/'run', spreads/name)
    for file in ('last.pt', 'best.pt', 'model.pth'):
        a, b = safe_load(tmp_path/'run'/file), safe_load(spreads/name/file)
        shapes = lambda x: {k: shapes(v) for k, v in x.items()} if isinstance(x, dict) else list(map(shapes, x)) if isinstance(x, (list, tuple)) \
                           else (type(x), x.shape, x.device) if isinstance(x, torch.Tensor) else type(x)
        assert shapes({k: v for k, v in a.items() if k != 'history'}) == shapes({k: v for k, v in b.items() if k != 'history'}), file
        assert (a := (tmp_path/'run'/file).stat().st_size) == pytest.approx((spreads/name/file).stat().st_size, rel=.02), 'the tied matrix is stored once'
    for note in notes(spreads, name):
        for k, v in model.state_dict().items(): # the true gradient of the keys' bias is zero, so AdamW makes full steps of rounding noise there
            if 'qkv.bias' not in k: torch.testing.assert_close(note['model'][k], v, rtol=1e-2, atol=2e-4)

def test_spread_halves(spreads):
    "Each process holds half of the weights, of the gradients and of the averages"
    one, two = notes(spreads, 'adamw')
    total = sum(v.numel() for k, v in one['model'].items() if k != 'lm_head.weight')
    for a, b, whole in zip(one['held'], two['held'], (total, total, 2*total)):
        assert a + b == whole and max(a, b) < .55*whole, (one['held'], two['held'], total)

def test_spread_comes_back(spreads):
    "In every process the caller's model is whole again, with the best weights, in evaluation mode"
    best = safe_load(spreads/'adamw'/'model.pth')
    for note in notes(spreads, 'adamw'):
        assert note['kind'] == ['SmallLanguageModel', True] and not note['training']
        assert all(torch.equal(v, best[k]) for k, v in note['model'].items())

def test_spread_troubles(spreads):
    "A full disk, clocks and processors that differ, a loss that is not finite: no process waits for the other, and the model comes back"
    last = safe_load(spreads/'adamw'/'last.pt')['model']
    for note in notes(spreads, 'full disk'):
        assert not note['saved'] and note['kind'][1]
        for k, v in note['model'].items(): torch.testing.assert_close(v, last[k], rtol=1e-4, atol=1e-5)
    assert not [p for p in (spreads/'full disk').iterdir() if p.suffix in ('.pt', '.pth')]
    assert [n['precision'] for n in notes(spreads, 'hasty')] == ['bf16']*2
    one, two = notes(spreads, 'wild')
    assert 'The weights of the step before are in memory' in one['error'] == two['error']
    assert all(torch.equal(v, two['model'][k]) for k, v in one['model'].items()) and max(v.abs().max() for v in one['model'].values()) > 1e3

@pytest.mark.skipif(not {'SLM_SLOW', 'CI'} & set(os.environ), reason='a minute more: set SLM_SLOW=1')
@pytest.mark.parametrize('how', [[], ['--shard']], ids=['copies', 'spread'])
def test_two_processes_stopped(how, desk, tmp_path):
    "SIGTERM to torchrun: both processes finish the step, the first one saves"
    out = tmp_path/'run'
    with subprocess.Popen(command(desk, out) + ['--steps', '1000000', *how], env=environment, cwd=desk, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        end = time.time() + 600 # ends what hangs
        while time.time() < end and p.poll() is None and not ((out/'history.jsonl').exists() and len((out/'history.jsonl').read_text(encoding='utf-8').splitlines()) > 3): time.sleep(.05)
        p.send_signal(signal.SIGTERM)
        said = p.communicate(timeout=600)[0]
    assert re.search(r'stopped at step \d+, saved in', said), said
    rows = curve(out)
    assert safe_load(out/'last.pt')['step'] >= rows[-1]['step'] > 0 and not list(out.glob('*.tmp'))

if __name__ == '__main__':
    job = json.loads(sys.argv[1])
    spread(job) if 'RANK' in os.environ else print(json.dumps(nursery(job)))
