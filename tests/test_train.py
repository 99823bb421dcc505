"""What `train` does with inputs of every kind that people have: one test a kind, found by its name
(`pytest -k foreign`)."""
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from unittest import mock
import numpy as np
import pytest
import torch
from torch import nn
from slm_scratch.engine.tales import tales
from slm_scratch.data import get_batch, TokenDataset
from slm_scratch.engine import outputs
from slm_scratch.engine.prepare import prepare
from slm_scratch.engine.files import TMP, safe_load
from slm_scratch.model import ModelConfig, SmallLanguageModel
from slm_scratch.tokenizer import Tokenizer
from slm_scratch.engine.loss import activation_checkpointing, language_model_loss
from slm_scratch.engine.evaluate import evaluate
from slm_scratch.engine.checks import bare_model
from slm_scratch.engine.windows import aligned_batch, windows_from
from slm_scratch.train import check_arguments, LanguageModelTrainer, TrainConfig

TEXTS = [t.text for t in tales(16)]
EOT = '\n<|endoftext|>\n'

pytestmark = pytest.mark.usefixtures('single_thread')

@pytest.fixture(scope='module')
def tok(): return Tokenizer.train(TEXTS, 300)

@pytest.fixture(scope='module')
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp('text')/'stories.txt'
    path.write_text(EOT.join(TEXTS), encoding='utf-8')
    return path

@pytest.fixture(scope='module')
def pair(tok): return prepare(TEXTS, tok, progress=False)

@pytest.fixture(scope='module')
def short(tok):
    "A text of some thirty windows, so that epochs are soon over"
    return prepare([TEXTS[0][:500], TEXTS[1][:500]], tok, progress=False)

@pytest.fixture
def model(tok):
    "A function that makes the same small model each time"
    def make(**changes):
        torch.manual_seed(3)
        usual = dict(vocab_size=tok.vocab_size, d_model=16, n_heads=2, n_layers=2, max_seq_len=16)
        return SmallLanguageModel(ModelConfig(**usual | changes), tok)
    return make

@pytest.fixture
def train(model, pair, tmp_path):
    "A short run"
    def go(net=None, data=pair, **kw):
        usual = dict(batch_size=2, block_size=16, max_steps=6, learning_rate=3e-3, eval_every=3,
                     eval_tokens=64, log_every=1, precision='fp32', verbose=False, device='cpu',
                     out_dir=tmp_path/'run')
        return LanguageModelTrainer(model() if net is None else net).train(data, **usual | kw)
    return go

def weights(folder): return safe_load(folder/'last.pt')['model']
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
def losses(history): return history.column('loss')[1]

# ---- files of others ----

def write_foreign(folder):
    "A file of somebody else's under every name that a run uses: their bytes by path"
    (folder/'data').mkdir(parents=True, exist_ok=True)
    torch.save(dict(epoch=4, state_dict=dict(w=torch.ones(3)), optimizer={}), folder/'last.pt')
    torch.save(dict(ema=torch.zeros(3)), folder/'best.pt')
    torch.save(dict(step=2, model=dict(w=torch.ones(2))), folder/'step-2.pt')
    torch.save(dict(w=torch.ones(2)), folder/'model.pth')
    (folder/'history.jsonl').write_text('{"step": 0, "epoch": 0, "loss": 2.5}\n', encoding='utf-8')
    for name in ('train.tokens', 'valid.tokens', 'prepared.json'):
        (folder/'data'/name).write_text('{"a": 1}', encoding='utf-8')
    (folder/'tensorboard').write_text('a list of boards', encoding='utf-8')
    return contents(folder)

def contents(folder):
    "Each path below the folder, with its bytes"
    return {p: p.read_bytes() if p.is_file() else 'folder' for p in sorted(folder.rglob('*'))}

ALL = ['last.pt', 'best.pt', 'step-2.pt', 'model.pth', 'history.jsonl', 'data/train.tokens',
       'data/valid.tokens', 'data/prepared.json', 'tensorboard']

@pytest.mark.parametrize('resume', [True, False, 'changed'])
def test_foreign_files_stop_a_run(resume, train, text, tmp_path):
    "One error names all of them and the ways out, in every mode; nothing is written"
    before = write_foreign(tmp_path/'run')
    with pytest.raises(ValueError, match='Choose another out_dir, or move') as e:
        train(data=text, resume=resume, keep_every=2, tensorboard=True)
    for name in ALL: assert str(tmp_path/'run'/name) in str(e.value)
    assert contents(tmp_path/'run') == before

@pytest.mark.parametrize('name', ALL)
def test_foreign_file_alone(name, train, text, tmp_path):
    "Each of them is enough, in an empty folder and in that of a run of ours, with resume=False too"
    strange = write_foreign(tmp_path/'strange')[tmp_path/'strange'/name]
    kw = dict(data=text, keep_every=2, tensorboard=name == 'tensorboard', max_steps=4)
    for begun in (False, True):
        out = tmp_path/f'run-{begun}'
        if begun: train(**kw | dict(tensorboard=False), out_dir=out)
        (out/name).parent.mkdir(parents=True, exist_ok=True)
        (out/name).write_bytes(strange)
        before = contents(out)
        for resume in (True, False, 'changed'):
            with pytest.raises(ValueError, match='did not write'):
                train(**kw, out_dir=out, resume=resume)
            assert contents(out) == before

DIVERGES = dict(warmup_steps=0, grad_clip=None, max_steps=20)

def test_foreign_files_below_and_beside(train, text, tmp_path):
    """Our names in folders below, a second run below, *.tmp files and folders: several runs, some
    of which fail, leave each byte for byte"""
    out = tmp_path/'runs'
    write_foreign(out/'other')
    train(out_dir=out/'demo')
    (out/'cache.tmp').mkdir()
    (out/'cache.tmp'/'last.pt').write_text('mine', encoding='utf-8')
    (out/'demo'/f'last.pt.999999999{TMP}').write_text('being written', encoding='utf-8')
    (out/'data').mkdir()
    names = ('draft.tmp', 'last.pt.tmp', f'notes.txt.999999999{TMP}', 'best.pth', 'step-one.pt',
             'step-7.pt', 'loss.png', 'data/x.tmp', 'data/notes.txt')
    for name in names:
        (out/name).write_text(f'my {name}', encoding='utf-8')
    before = contents(out)
    kw = dict(data=text, out_dir=out)
    train(**kw)
    with pytest.raises(FloatingPointError):
        train(**kw | DIVERGES, learning_rate=1e25, resume='changed')
    train(**kw, max_steps=9)
    train(**kw, resume=False, keep_every=2)
    with pytest.raises(FloatingPointError):
        train(**kw | DIVERGES, learning_rate=1e30, resume=False)
    after = contents(out)
    assert {p: after.get(p) for p in before} == before
    assert not (out/'step-2.pt').exists(), 'ours are removed'

@pytest.mark.parametrize('name', ['last.pt', 'model.pth', 'history.jsonl', 'data/train.tokens'])
def test_foreign_links_and_folders(name, train, text, tmp_path):
    "A link, even to a file of ours, and a folder under one of the names are named, not followed"
    train(data=text, out_dir=tmp_path/'first')
    good = (tmp_path/'first'/name).read_bytes()
    for kind in ('link', 'dangling', 'folder'):
        path = tmp_path/kind/name
        path.parent.mkdir(parents=True)
        if kind == 'folder': path.mkdir()
        else: path.symlink_to(tmp_path/'first'/name if kind == 'link' else tmp_path/'nowhere')
        said = 'a folder' if kind == 'folder' else 'a link to'
        for resume in (True, False):
            with pytest.raises(ValueError, match=said):
                train(data=text, out_dir=tmp_path/kind, resume=resume)
        assert os.path.lexists(path) and path.is_symlink() == (kind != 'folder')
    assert (tmp_path/'first'/name).read_bytes() == good
    assert not (tmp_path/'nowhere').exists()

def test_foreign_unreadable(train, tmp_path):
    "A file that cannot be read is nobody's to replace"
    train()
    real = outputs.is_blank
    def closed(path):
        if path.name == 'best.pt': raise PermissionError(13, 'Permission denied')
        return real(path)
    with mock.patch.object(outputs, 'is_blank', closed):
        with pytest.raises(ValueError, match='best.pt: a file that cannot be read'):
            train(resume=False)

def test_foreign_file_that_comes_during_the_run(train, model, tmp_path, capsys):
    "What somebody puts there while we train is not replaced either; the run goes on and says so"
    out = tmp_path/'run'
    class Visited(LanguageModelTrainer):
        def train_step(self):
            if self.step == 4: torch.save(dict(mine=1), out/'best.pt')
            return super().train_step()
        def validate(self): return -float(self.step)
    net = model()
    with mock.patch.dict(globals(), LanguageModelTrainer=Visited): train(net)
    assert safe_load(out/'best.pt') == dict(mine=1)
    assert 'not a checkpoint' in ''.join(capsys.readouterr())

def test_foreign_model_saved_by_hand(train, model, tmp_path):
    "A model.pth with no run beside it may be somebody's only copy"
    (tmp_path/'run').mkdir()
    model().save(tmp_path/'run'/'model.pth')
    before = contents(tmp_path/'run')
    with pytest.raises(ValueError, match='saved yourself'): train()
    assert contents(tmp_path/'run') == before
    train(resume=False)

def test_model_whose_checkpoints_were_removed(train, text, tmp_path):
    "It is not replaced by a run that begins anew"
    out = tmp_path/'run'
    train(data=text)
    for name in ('last.pt', 'best.pt'): (out/name).unlink()
    before = contents(out)
    with pytest.raises(ValueError, match='no checkpoint beside it'): train(data=text)
    assert contents(out) == before
    train(data=text, resume=False)

def test_leftovers_of_killed_runs_are_removed(train, text, tmp_path):
    "Ours alone, in the run's folder and in data/"
    out = tmp_path/'run'
    (out/'data').mkdir(parents=True)
    mine = [out/f'{n}.999999999{TMP}' for n in ('last.pt', 'step-40.pt', 'data/train.tokens')]
    for p in mine: p.write_bytes(b'half')
    train(data=text)
    assert not any(p.exists() for p in mine)

@pytest.mark.parametrize('how', ['cut', 'zeros', 'empty', 'head'])
def test_damaged_files_of_ours_are_ours(how, train, text, tmp_path):
    "resume=False starts over; without it nothing is touched"
    out = tmp_path/'run'
    train(data=text, keep_every=2)
    names = ['last.pt', 'best.pt', 'model.pth', 'step-2.pt']
    for name in names:
        b = (out/name).read_bytes()
        damaged = dict(cut=b[:len(b)//3], zeros=bytes(len(b)), empty=b'', head=b'\0\0' + b[2:])
        (out/name).write_bytes(damaged[how])
    before = contents(out)
    with pytest.raises(ValueError, match='resume=False'): train(data=text)
    assert contents(out) == before
    train(data=text, resume=False)
    assert not (out/'step-2.pt').exists() and SmallLanguageModel.load(out/'model.pth')

# ---- numbers ----

NUMBERS = dict(batch_size=2, learning_rate=3e-3, epochs=2, max_steps=4, max_minutes=9,
               block_size=16, grad_accum=1, warmup_steps=1, min_lr=1e-4, weight_decay=.1,
               beta2=.98, momentum=.9, grad_clip=1., eval_every=3, eval_tokens=64,
               checkpoint_every=2, keep_every=4, log_every=1, seed=5)

def wrapped(v, kind):
    "A number as numpy or PyTorch has it"
    is_float = isinstance(v, float)
    if kind == 'tensor': return torch.tensor(v, dtype=torch.float64 if is_float else None)
    return np.longdouble(v) if kind == 'float32' and is_float else np.asarray(v)[()]

@pytest.mark.parametrize('kind', ['numpy', 'tensor', 'float32'])
def test_numbers_of_numpy_and_torch(kind, train, tmp_path):
    """Every number of `train` from numpy or a tensor is the run of Python's numbers; its files hold
    plain values, and it goes on"""
    def wrap(numbers): return {k: wrapped(v, kind) for k, v in numbers.items()}
    other = dict(resume=np.bool_(True), tensorboard=np.bool_(False), optimizer=np.str_('adamw'))
    train(**NUMBERS, out_dir=tmp_path/'plain')
    train(**wrap(NUMBERS), **other, out_dir=tmp_path/'theirs')
    assert same(weights(tmp_path/'plain'), weights(tmp_path/'theirs'))
    theirs = torch.load(tmp_path/'theirs'/'last.pt', weights_only=True)
    assert theirs['run_config'] == safe_load(tmp_path/'plain'/'last.pt')['run_config']
    h = train(**wrap(NUMBERS | dict(max_steps=6)), out_dir=tmp_path/'plain')
    assert h[-1]['step'] == 6

@pytest.mark.parametrize('name', NUMBERS)
def test_numbers_refused(name, train, model, tmp_path):
    "Zero is not None, True is not 1: refused by name, before anything is made"
    config = model().config
    wrong = [True, '4', float('nan'), float('inf'), -1, 1+1j, np.array([2, 3])]
    may_be_zero = 'seed', 'warmup_steps', 'min_lr', 'weight_decay', 'beta2', 'momentum'
    if name not in may_be_zero: wrong.append(0)
    if name in ('beta2', 'momentum'): wrong.append(1.)
    for value in wrong:
        with pytest.raises(ValueError, match=f'- {name}='): check_arguments({name: value}, config)
    with pytest.raises(ValueError, match=f'- {name}='): train(**{name: np.float64(-1)})
    assert not (tmp_path/'run').exists()

WORDS = [dict(resume=0), dict(resume=1), dict(resume='yes'), dict(resume=None), dict(compile='no'),
         dict(shard=1), dict(optimizer=None), dict(precision=16)]

@pytest.mark.parametrize('kw', WORDS, ids=str)
def test_words_refused(kw, train):
    with pytest.raises(ValueError, match=next(iter(kw)) + '='): train(**kw)

def test_numbers_fraction_becomes_float(train, tmp_path):
    train(learning_rate=Fraction(1, 400), max_steps=2)
    assert safe_load(tmp_path/'run'/'last.pt')['run_config']['arguments']['learning_rate'] == 1/400

# ---- paths ----

def test_tilde(train, text, tmp_path, monkeypatch):
    "~ is the home folder in out_dir and in data_path; no folder of that name is made"
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    shutil.copy(text, tmp_path/'mine.txt')
    (tmp_path/'here').mkdir()
    monkeypatch.chdir(tmp_path/'here')
    train(data='~/mine.txt', out_dir='~/runs/a')
    train(data=Path('~/mine.txt'), out_dir=None)
    assert (tmp_path/'runs'/'a'/'model.pth').exists()
    assert (tmp_path/'here'/'runs'/'mine'/'model.pth').exists()
    assert not (tmp_path/'here'/'~').exists()

NO_FOLDERS = ['file', 'file/run', 'closed/run', '', 'x'*300, b'bytes', 7, '\0']

@pytest.mark.parametrize('out', NO_FOLDERS, ids=repr)
def test_out_dir_that_cannot_be(out, train, tmp_path, monkeypatch):
    "A file, inside a file, a folder that cannot be written, no path: a ValueError before training"
    monkeypatch.chdir(tmp_path)
    Path('file').write_text('mine', encoding='utf-8')
    mkdir = Path.mkdir
    def closed(self, *args, **kw):
        if 'closed' in str(self): raise PermissionError(13, 'Permission denied')
        mkdir(self, *args, **kw)
    monkeypatch.setattr(Path, 'mkdir', closed)
    with pytest.raises(ValueError, match='out_dir='): train(out_dir=out)
    assert [p.name for p in tmp_path.iterdir()] == ['file']
    assert Path('file').read_text(encoding='utf-8') == 'mine'

# ---- models that their owner changed ----

HOW = [dict(), dict(optimizer='muon'), dict(precision='fp16'), dict(precision='bf16')]

@pytest.mark.parametrize('kw', HOW, ids=str)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_model(dtype, kw, train, model, tmp_path, capsys):
    "Trained in float32, which is said; as well as the same model from the start in float32"
    net = model().to(dtype)
    got = train(net, verbose=True, **kw)
    assert 'are float32 from now on' in ''.join(capsys.readouterr())
    want = train(out_dir=tmp_path/'full', **kw)
    assert losses(got) == pytest.approx(losses(want), rel=.01)
    assert losses(got)[-1] < losses(got)[0]
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert {v.dtype for v in weights(tmp_path/'run').values()} == {torch.float32}
    assert train(model().to(dtype), **kw | dict(max_steps=8))[-1]['step'] == 8

def test_half_head_only(train, model):
    net = model(tie_weights=False)
    net.lm_head.half()
    assert losses(train(net))[-1] < 5.8 and net.lm_head.weight.dtype == torch.float32

def test_double_model(train, model, tmp_path):
    train(model().double())
    assert {v.dtype for v in weights(tmp_path/'run').values()} == {torch.float64}

def test_head_replaced(train, model, tok, tmp_path):
    """A head that the config does not describe is refused, before anything is written; an untied
    one is trained and saved"""
    V = tok.vocab_size
    for n, word in ((V, 'tie_weights'), (V + 7, 'vocab_size'), (V - 7, 'vocab_size')):
        net = model()
        net.lm_head = nn.Linear(16, n, bias=False)
        with pytest.raises(ValueError, match=f'(?s)lm_head.*{word}'): train(net)
    assert not (tmp_path/'run').exists()
    net = model(tie_weights=False)
    net.lm_head = nn.Linear(16, tok.vocab_size, bias=False)
    start = net.lm_head.weight.detach().clone()
    train(net)
    assert not torch.equal(net.lm_head.weight, start)
    saved = SmallLanguageModel.load(tmp_path/'run'/'model.pth').lm_head.weight
    best = safe_load(tmp_path/'run'/'best.pt')['model']['lm_head.weight']
    assert torch.equal(saved, net.lm_head.weight) and torch.equal(best, net.lm_head.weight)

def test_head_untied_by_its_config(train, model, tok, tmp_path):
    "The way out that the error names works: a new head, and a config that says so"
    net = model()
    net.lm_head = nn.Linear(16, tok.vocab_size, bias=False)
    net.config = replace(net.config, tie_weights=False)
    train(net)
    saved = SmallLanguageModel.load(tmp_path/'run'/'model.pth').lm_head.weight
    assert torch.equal(saved, net.lm_head.weight)

def test_head_with_bias_or_hook(model, tok, pair):
    "The loss is that of the model's own logits, whatever makes them"
    x, y = (torch.randint(tok.vocab_size, (2, 5)) for _ in range(2))
    hooked, patched = model(), model()
    biased, weighted = model(tie_weights=False), model(tie_weights=False)
    biased.lm_head = nn.Linear(16, tok.vocab_size)
    hooked.lm_head.register_forward_hook(lambda m, args, z: 2*z)
    patched.forward = lambda ids, **kw: 3*SmallLanguageModel.forward(patched, ids, **kw)
    nn.utils.parametrizations.weight_norm(weighted.lm_head)
    for net in (model(), biased, hooked, patched, weighted):
        want = nn.functional.cross_entropy(net(x).flatten(0, 1), y.flatten())
        torch.testing.assert_close(language_model_loss(net, x, y), want)

def test_frozen(train, model, tmp_path):
    """Frozen parts stay, the others learn, with both optimizers; a run cannot go on with other
    parts frozen"""
    for optimizer in ('adamw', 'muon'):
        net = model()
        net.blocks[0].requires_grad_(False)
        start = {k: v.clone() for k, v in net.state_dict().items()}
        train(net, optimizer=optimizer, out_dir=tmp_path/optimizer)
        for k, v in net.state_dict().items():
            assert torch.equal(v, start[k]) == k.startswith('blocks.0.'), k
    with pytest.raises(ValueError, match='frozen'): train(out_dir=tmp_path/'adamw', max_steps=9)

def quantized_by_torch(m): return torch.ao.quantization.quantize_dynamic(m, {nn.Linear})

BROKEN = dict(frozen=('requires_grad', lambda m: m.requires_grad_(False)),
              int8=('int8', lambda m: m.quantize()), meta=('meta', lambda m: m.to('meta')),
              dynamic=('int8', quantized_by_torch))

@pytest.mark.parametrize('kind', BROKEN)
@pytest.mark.filterwarnings('ignore')
def test_model_that_cannot_be_trained(kind, train, model, tmp_path):
    word, change = BROKEN[kind]
    with pytest.raises(ValueError, match=word): train(change(model()))
    assert not (tmp_path/'run').exists()

def test_model_made_in_inference_mode(train, model):
    with torch.inference_mode(): net = model()
    with pytest.raises(ValueError, match='inference_mode'): train(net)

class Lora(nn.Module):
    "A matrix that is frozen, and two thin ones that learn"
    def __init__(self, inner):
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.a = nn.Parameter(.1*torch.ones(2, inner.in_features))
        self.b = nn.Parameter(torch.zeros(inner.out_features, 2))
        self.register_buffer('scale', torch.tensor(.5))
    def forward(self, x): return self.inner(x) + self.scale*(x @ self.a.T @ self.b.T)

@pytest.mark.parametrize('optimizer', ['adamw', 'muon'])
def test_added_parameters_are_saved_and_resumed(optimizer, train, model, tmp_path):
    "As LoRA adds them: a stopped run ends in the same bits, buffers too"
    def make():
        net = model().requires_grad_(False)
        for block in net.blocks: block.mlp.fc = Lora(block.mlp.fc)
        return net
    net = make()
    # the same rate in each step, however long the run
    steady = dict(optimizer=optimizer, warmup_steps=1, min_lr=3e-3)
    # whether such a model can be one file is not the trainer's business
    with mock.patch.object(SmallLanguageModel, 'save'):
        train(net, **steady, out_dir=tmp_path/'one')
        train(make(), **steady, out_dir=tmp_path/'two', max_steps=3)
        train(make(), **steady, out_dir=tmp_path/'two')
    assert same(weights(tmp_path/'one'), weights(tmp_path/'two'))
    assert 'blocks.1.mlp.fc.scale' in weights(tmp_path/'one')
    assert net.blocks[0].mlp.fc.b.abs().sum() > 0

def test_model_that_cannot_be_one_file(train, tmp_path, capsys):
    "If model.save refuses, the run goes on, best.pt holds the weights, and the end says so"
    refuses = mock.patch.object(SmallLanguageModel, 'save', side_effect=ValueError('its own head'))
    with refuses: train(verbose=True)
    said = ''.join(capsys.readouterr())
    assert said.count('model.pth is not written: its own head') == 1 and 'best.pt beside it' in said
    out = tmp_path/'run'
    assert (out/'best.pt').exists() and not (out/'model.pth').exists()

def test_wrapped_model(train, model, tmp_path):
    "DataParallel and a compiled wrapper are taken off; the model inside is trained"
    want = model()
    train(want)
    class Compiled(nn.Module):
        "A wrapper as torch.compile makes it (the compiler itself takes seconds to import)"
        def __init__(self, inner):
            super().__init__()
            self._orig_mod = inner
    for i, wrap in enumerate((nn.DataParallel, Compiled, lambda m: Compiled(nn.DataParallel(m)))):
        net = model()
        train(wrap(net), out_dir=tmp_path/str(i))
        assert same(net.state_dict(), want.state_dict())

NO_MODELS = ['model.pth', None, nn.Linear(2, 2), SmallLanguageModel, {}]

@pytest.mark.parametrize('what', NO_MODELS, ids=lambda w: type(w).__name__)
def test_no_model(what):
    with pytest.raises(TypeError, match='SmallLanguageModel'): bare_model(what)

def test_patched_block_keeps_its_forward(model, tok):
    "Activation checkpointing runs the block as its owner patched it, and leaves the patch there"
    net, ids = model(), torch.randint(tok.vocab_size, (1, 5))
    own = net.blocks[0].forward
    net.blocks[0].forward = patched = lambda *args, **kw: 2*own(*args, **kw)
    want = net(ids)
    with activation_checkpointing(net): torch.testing.assert_close(net(ids), want)
    assert net.blocks[0].forward is patched and 'forward' not in vars(net.blocks[1])

# ---- surroundings ----

@contextmanager
def default_dtype(dtype):
    old = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try: yield
    finally: torch.set_default_dtype(old)

AROUND = dict(no_grad=torch.no_grad,
              inference_mode=torch.inference_mode,
              grad_off=lambda: torch.set_grad_enabled(False),
              autocast_bf16=lambda: torch.autocast('cpu', torch.bfloat16),
              autocast_fp16=lambda: torch.autocast('cpu', torch.float16),
              meta=lambda: torch.device('meta'),
              float64=lambda: default_dtype(torch.float64),
              float16=lambda: default_dtype(torch.float16))

@pytest.mark.parametrize('name', AROUND)
def test_surroundings(name, train, model, tmp_path):
    """Gradients off, autocast, other default types and devices around the call: the same bits; a
    resumed run too"""
    kw = {}
    if 'autocast' in name: kw = dict(precision='bf16', grad_accum=2)
    elif 'float' in name: kw = dict(precision='fp16', optimizer='muon')
    one, two = model(), model()
    with AROUND[name](): train(one, max_steps=3, warmup_steps=1, out_dir=tmp_path/'around', **kw)
    train(out_dir=tmp_path/'plain', max_steps=3, warmup_steps=1, resume=False, **kw)
    assert same(weights(tmp_path/'plain'), weights(tmp_path/'around'))
    with AROUND[name](): train(two, warmup_steps=1, out_dir=tmp_path/'around', **kw)
    train(out_dir=tmp_path/'plain', warmup_steps=1, **kw)
    assert same(weights(tmp_path/'plain'), weights(tmp_path/'around'))

@pytest.mark.parametrize('name', AROUND)
def test_evaluate_in_surroundings(name, model, pair):
    net = model()
    want = evaluate(net, pair[1])
    with AROUND[name](): got = evaluate(net, pair[1])
    assert got == want

@pytest.mark.parametrize('name', ['max_documents', 'block_size', 'batch_tokens'])
def test_evaluate_refuses_zero(name, model, pair):
    for value in (0, -1, True, 2.5):
        with pytest.raises(ValueError, match=f'{name}='):
            evaluate(model(), pair[1], **{name: value})

# ---- runs that go on ----

CHANGES = [dict(batch_size=3), dict(batch_size=1), dict(grad_accum=3),
           dict(block_size=7, batch_size=5), dict(seed=4)]

@pytest.mark.parametrize('change', CHANGES, ids=str)
def test_changed_run_keeps_its_place(change, train, short):
    "Text is counted in tokens: the epoch goes on from where it was to its new end, no count falls"
    windows = -(-(len(short[0]) - 1)//16)
    first = train(data=short, max_steps=None, epochs=.3)
    h = train(data=short, max_steps=None, epochs=.8, resume='changed', **change)
    for name in ('epoch', 'tokens', 'step'): assert h.column(name)[1] == sorted(h.column(name)[1])
    assert h[:len(first)] == first and h[-1]['step'] > first[-1]['step']
    assert .8 <= h[-1]['epoch'] < .8 + 21/windows + .02
    assert h[-1]['tokens']/(len(short[0]) - 1) == pytest.approx(h[-1]['epoch'], abs=.05)
    assert train(data=short, max_steps=None, epochs=.8, **change) == h, 'and then it is that run'

@pytest.mark.parametrize(['optimizer', 'name'], [('adamw', 'beta2'), ('muon', 'beta2'),
                                                 ('muon', 'momentum')])
def test_memory_of_an_optimizer(optimizer, name, train, short, tmp_path):
    "It makes another run; and a run that goes on with another one uses that, not what was saved"
    def run(steps, out, value=.95, **kw):
        train(data=short, optimizer=optimizer, out_dir=tmp_path/out, max_steps=steps,
              **{name: value}, **kw)
        return weights(tmp_path/out)
    assert not same(run(3, 'a'), run(3, 'b', .5))
    with pytest.raises(ValueError, match=f'{name}=0.95 there, 0.5 here'): run(5, 'a', .5)
    shutil.copytree(tmp_path/'a', tmp_path/'c')
    assert not same(run(5, 'a', .5, resume='changed'), run(5, 'c'))

def test_changed_alignment_keeps_its_place(train, short):
    "From anywhere to the starts of documents and back: the share of the epoch stays what it was"
    first = train(data=short, max_steps=4)
    for steps, aligned in ((6, True), (8, False)):
        with pytest.raises(ValueError, match=f'aligned={not aligned} there, {aligned} here'):
            train(data=short, max_steps=steps, aligned=aligned)
        h = train(data=short, max_steps=steps, aligned=aligned, resume='changed')
        assert [r['step'] for r in h if 'val_loss' in r] and h[:len(first)] == first
        made, two_steps = h[-1]['epoch'] - first[-1]['epoch'], first[-1]['epoch']/2
        assert .5*two_steps < made < 1.5*two_steps
        first = h

@pytest.mark.parametrize('aligned', [False, True])
def test_windows_that_it_trains_and_validates_on(aligned, train, short):
    "Those of `aligned_batch`, or of `get_batch`; the two differ"
    seen = []
    class Noting(LanguageModelTrainer):
        def micro_batch(self, first):
            x, y = super().micro_batch(first)
            seen.append(x)
            return x, y
    with mock.patch.dict(globals(), LanguageModelTrainer=Noting), \
         mock.patch('slm_scratch.train.windows_from', wraps=windows_from) as validating:
        train(data=short, max_steps=2, aligned=aligned, seed=3)
    B = len(seen[0])
    batches = [f(short[0], 0, B, 16, 3) for f in (get_batch, aligned_batch)]
    assert seen[0].equal(batches[aligned][0]) and not seen[0].equal(batches[not aligned][0])
    assert {call.kwargs['aligned'] for call in validating.call_args_list} == {aligned}

def test_changed_batch_size_sees_each_window_once(train, short, model):
    "The windows of an epoch are seen once, whatever the batch size was on the way"
    seen = []
    class Noting(LanguageModelTrainer):
        def micro_batch(self, first):
            x, y = super().micro_batch(first)
            seen.extend(map(tuple, y.tolist()))
            return x, y
    with mock.patch.dict(globals(), LanguageModelTrainer=Noting):
        train(data=short, max_steps=3)
        train(data=short, max_steps=5, batch_size=3, resume='changed')
        train(data=short, max_steps=None, epochs=1, batch_size=4, resume='changed')
    windows = -(-(len(short[0]) - 1)//16)
    rows = windows_from(short[0], 0, windows, 16)[1] # of the first epoch
    every = [tuple(row) for row in rows.tolist()]
    assert len(seen) - windows < 4 and sorted(seen[:windows]) == sorted(every)

def test_nothing_left_is_said(train, capsys):
    """A run that makes no step says so, with what was made and what was asked; a higher number goes
    on"""
    first = train()
    capsys.readouterr()
    asked = [(dict(), 'the limit is 6 steps'), (dict(max_steps=3), 'the limit is 3 steps'),
             (dict(max_steps=None, epochs=.01), '0.01 epochs'),
             (dict(max_steps=None, max_minutes=1e-5), '1e-05 minutes')]
    for kw, word in asked:
        assert train(**kw) == first
        said = ''.join(capsys.readouterr())
        assert 'nothing left to do' in said and word in said and '6 steps' in said, said
    assert train(max_steps=7)[-1]['step'] == 7
    assert 'nothing left' not in ''.join(capsys.readouterr())

def test_epochs_are_text_seen(train, short):
    "A batch that does not divide the text: five epochs are five times the text"
    windows = -(-(len(short[0]) - 1)//16)
    h = train(data=short, max_steps=None, epochs=.25, batch_size=7)
    assert h[-1]['step'] == -(-windows//4)//7 + 1
    assert h[-1]['epoch'] == pytest.approx(7*h[-1]['step']/windows)

def test_checkpoint_of_another_format(train, tmp_path):
    train()
    for name in ('last.pt', 'best.pt'):
        path = tmp_path/'run'/name
        torch.save(safe_load(path) | dict(format=1), path)
    with pytest.raises(ValueError, match='another version'): train()

def test_token_sets_by_threes(train, pair):
    assert isinstance(pair[0], TokenDataset)
    with pytest.raises(ValueError, match='a pair'): train(data=(*pair, pair[1]))

def test_history_of_a_run_is_known(train, tmp_path):
    "As a killed run leaves it, and not when a row is somebody else's"
    train()
    path = tmp_path/'run'/'history.jsonl'
    whole = path.read_bytes()
    step_alone = json.dumps(dict(step=1)).encode()
    for ours, data in ((True, whole), (True, whole[:-20]), (True, whole[:25]),
                       (False, whole + b'{"loss": 1}\n'), (False, b'[1]\n'), (False, step_alone)):
        path.write_bytes(data)
        assert outputs.is_history(path) == ours, data[-60:]

# ---- evaluate ----

def test_evaluate_takes_texts_and_files(model, tmp_path):
    "A list of texts or of files, an array; and what is no text is named"
    (tmp_path/'one.txt').write_text(TEXTS[0], encoding='utf-8')
    model = model()
    want = evaluate(model, TEXTS[:1]).loss
    file = tmp_path/'one.txt'
    for data in ([str(file)], [file], np.array(TEXTS[:1]), iter(TEXTS[:1])):
        assert evaluate(model, data).loss == want
    entry = r'data_path\[0\]'
    wrong = [([None], entry), ([dict(text='a')], entry), (5, 'data_path=5'), ([], 'empty')]
    for data, said in wrong:
        with pytest.raises((TypeError, ValueError), match=said): evaluate(model, data)
