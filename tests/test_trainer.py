"""What the trainer measures, logs and says: its clock, MFU, TensorBoard, samples; and ten steps
beside an independent GPT-2."""
import json
import sys
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock
import pytest
import torch
from conftest import root
from torch import nn
from torch.nn import functional as F
from slm_scratch.data import get_batch
from slm_scratch.engine.device import Precision
from slm_scratch.engine.files import safe_load
from slm_scratch.engine.optim import parameter_groups
from slm_scratch.engine.prepare import prepare
from slm_scratch.engine.bands import known_bands
from slm_scratch.engine.progress import Progress
from slm_scratch.engine.report import mfu
from slm_scratch.engine.sizes import estimate_flops
from slm_scratch.engine.tales import tales
from slm_scratch.model import ModelConfig, SmallLanguageModel
from slm_scratch.tokenizer import Tokenizer
from slm_scratch.train import LanguageModelTrainer, TrainConfig, learning_rate

TEXTS = [t.text for t in tales(40)]
tok = Tokenizer.train(TEXTS, 400)
CONFIG = ModelConfig(vocab_size=tok.vocab_size, d_model=24, n_heads=2, n_layers=2, max_seq_len=48)

pytestmark = pytest.mark.usefixtures('single_thread')

@pytest.fixture(scope='module')
def pair(): return prepare(TEXTS, tok, progress=False)

def small_model(tokenizer=tok, **changes):
    torch.manual_seed(0)
    return SmallLanguageModel(replace(CONFIG, **changes), tokenizer)

@pytest.fixture
def train(pair, tmp_path):
    "A short run: its history"
    def go(name='run', trainer=LanguageModelTrainer, model=None, **kw):
        usual = dict(batch_size=2, block_size=33, learning_rate=3e-3, max_steps=12, eval_every=4,
                     eval_tokens=400, log_every=2, out_dir=tmp_path/name, verbose=False,
                     device='cpu', precision='fp32')
        return trainer(small_model() if model is None else model).train(pair, **usual | kw)
    return go

# ---- samples ----

TIMES = ('seconds', 'tokens_per_second')
def measured(history, but=()):
    return [{k: v for k, v in row.items() if k not in (*TIMES, *but)} for row in history]

def same(a, b):
    "Nested values, tensors bit for bit"
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same, a, b))
    return a == b

KINDS = [dict(), dict(optimizer='muon', checkpoint_activations=True)]

@pytest.mark.parametrize('kw', KINDS, ids=str)
def test_samples_change_nothing(kw, train, tmp_path):
    "Losses, weights and moments with and without samples are equal to the bit"
    runs = {}
    for name, every in (('silent', 0), ('none', None), ('speaks', 2)):
        model = small_model(dropout=.1)
        before = torch.get_rng_state()
        runs[name] = train(name, model=model, sample_every=every, **kw)
        assert torch.equal(torch.get_rng_state(), before), 'your random numbers go on as they were'
    spoken = runs['speaks']
    assert measured(runs['silent']) == measured(runs['none']) == measured(spoken, ['sample'])
    files = {name: safe_load(tmp_path/name/'last.pt') for name in runs}
    for part in ('model', 'optimizers', 'best'):
        assert same(files['silent'][part], files['speaks'][part]), part
    steps, texts = spoken.column('sample')
    assert steps == list(range(0, 13, 2)) and runs['silent'].column('sample') == ([], [])
    assert all(t.startswith('Once upon a time') for t in texts)

def test_sample_is_that_of_the_weights(train, tmp_path):
    "The last sample is what the saved weights say; it stands in history.jsonl and in the log"
    h = train(sample_every=100, sample_prompt='The fox', max_steps=5, eval_every=5)
    lines = (tmp_path/'run'/'history.jsonl').read_text(encoding='utf-8').splitlines()
    assert [json.loads(l).get('sample') for l in lines if 'sample' in json.loads(l)] == \
        h.column('sample')[1]
    assert h.column('sample')[0] == [0, 5], 'before the first step, and after the last'
    model = SmallLanguageModel.load(tmp_path/'run'/'model.pth')
    want = model.generate('The fox', max_new_tokens=40, temperature=.5, seed=0)
    assert h.column('sample')[1][-1] == want

def test_samples_are_printed(train, capsys):
    train(sample_every=6, verbose=True)
    said = capsys.readouterr()
    lines = [l for l in (said.out + said.err).splitlines() if ': Once upon a time' in l]
    assert [l.split(':')[0] for l in lines] == ['step 0', 'step 6', 'step 12']

def test_samples_and_resume(train):
    "A run that is continued speaks as one that was never stopped"
    whole = train('whole', sample_every=3)
    class Stopping(LanguageModelTrainer):
        def after_step(self):
            super().after_step()
            if self.step == 7: self.stop_request.signal = 'SIGINT'
    assert train('cut', Stopping, sample_every=3).stopped
    assert measured(train('cut', sample_every=3)) == measured(whole)

def test_model_without_a_tokenizer(train):
    "Refused by name, with samples and without"
    for every in (0, 2):
        with pytest.raises(ValueError, match='what do the 400 tokens mean'):
            train(model=small_model(None), sample_every=every)

def test_tokens_of_another_vocabulary(train):
    "A pair of sets, too, must have been made with the model's vocabulary"
    with pytest.raises(ValueError, match='was written with the vocabulary'):
        train(model=small_model(Tokenizer.train(TEXTS, 300).padded(400)))

def test_texts_of_a_generator(tmp_path):
    "They are read twice if the run resumes"
    steps = []
    for n in (2, 4):
        trainer = LanguageModelTrainer(small_model())
        steps.append(trainer.train((t for t in TEXTS), out_dir=tmp_path, max_steps=n, batch_size=2,
                                   verbose=False, device='cpu')[-1]['step'])
    assert steps == [2, 4]

def test_named_limit_wins(pair, tmp_path):
    "`epochs` by name goes before the `max_steps` of a config"
    trainer, config = LanguageModelTrainer(small_model()), TrainConfig(max_steps=3, verbose=False)
    with trainer.session(pair, config, epochs=2, out_dir=tmp_path, device='cpu'):
        assert (trainer.config.epochs, trainer.config.max_steps) == (2, None)

def test_a_sample_that_fails_ends_no_run(train):
    with mock.patch.object(SmallLanguageModel, 'generate', side_effect=MemoryError('too much')):
        h = train(sample_every=6)
    assert h[-1]['step'] == 12
    assert h.column('sample')[1] == ['[no sample: MemoryError: too much]']*3

# ---- rates, accumulation ----

def test_rate_of_a_step():
    "Warm-up and cosine by the number of the step"
    rates = [learning_rate(TrainConfig(warmup_steps=2), Progress(1, 1, 1, step=i, max_steps=10))
             for i in (0, 1, 9, 10)]
    assert rates == pytest.approx([1.5e-4, 3e-4, 4.03e-5, 3e-5], rel=1e-2)

def test_accumulation(train):
    "Three times two windows are the same training as once six"
    a = train('six', batch_size=6)
    b = train('three times two', batch_size=2, grad_accum=3)
    for name in ('loss', 'val_loss', 'learning_rate', 'tokens'):
        assert a.column(name)[1] == pytest.approx(b.column(name)[1], rel=1e-4)

# ---- the clock ----

class Timed(LanguageModelTrainer):
    "A clock of its own: a step takes half a second, and looking takes ages"
    def __init__(self, model):
        super().__init__(model)
        self.now = 0.
        self.clock = lambda: self.now
    def train_step(self):
        self.now += .5
        return super().train_step()
    def validate(self):
        self.now += 100.
        return super().validate()

def test_tokens_per_second(train):
    "Time spent on looking does not count"
    h = train(trainer=Timed, max_steps=6, log_every=3, eval_every=3, sample_every=0)
    assert h.column('tokens_per_second')[1] == [2*33/.5]*2
    assert h[-1]['seconds'] == 6*.5 + 3*100.

class Board:
    "What TensorBoard's writer looks like from here"
    def __init__(self, folder, **kw):
        self.seen, self.closed = [], 0
        Board.last = self
    def add_scalar(self, name, value, step): self.seen.append((name, value, step))
    def close(self): self.closed += 1

def mfu_of_card(cfg, block_size, rate, plan, world):
    "As if the run's device were a T4"
    card = SimpleNamespace(device=torch.device('cuda'),
                           precision=Precision(torch.float16, True, ''))
    return mfu(cfg, block_size, rate, card, world)

def test_mfu_and_tensorboard(train):
    "Half a second a step is a number of operations a second; each number reaches TensorBoard"
    board = {'torch.utils.tensorboard': SimpleNamespace(SummaryWriter=Board)}
    t4 = dict(type='cuda', name='Tesla T4')
    with mock.patch.dict(sys.modules, board), \
         mock.patch('slm_scratch.engine.trainer.mfu', mfu_of_card), \
         mock.patch('slm_scratch.engine.report.device_info', lambda d: t4):
        h = train(trainer=Timed, max_steps=6, log_every=3, eval_every=3, tensorboard=True)
    flops = estimate_flops(CONFIG, 33)['training']
    assert h.column('mfu')[1] == pytest.approx([2*33/.5*flops/65e12]*2)
    assert [v for name, v, _ in Board.last.seen if name == 'loss'] == h.column('loss')[1]
    assert Board.last.closed == 1 and h.column('sample')[0] == [0, 6]
    assert {type(v) for _, v, _ in Board.last.seen} <= {int, float}

def test_no_tensorboard(train):
    "Not installed: no harm"
    with mock.patch.dict(sys.modules, {'torch.utils.tensorboard': None}):
        assert train(max_steps=1, tensorboard=True)[-1]['step'] == 1

class Killed(LanguageModelTrainer):
    "Killed after a step of which no checkpoint was written, and whose row is lost with it"
    def train_step(self):
        if self.step == 8:
            self.writer.flush()
            raise InterruptedError
        return super().train_step()

def test_real_tensorboard(train, tmp_path):
    "Its own reader finds every row once, of a run that was killed and went on"
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    kw = dict(log_every=1, checkpoint_every=3, tensorboard=True)
    with pytest.raises(InterruptedError): train('board', Killed, **kw)
    h = train('board', **kw)
    seen = EventAccumulator(str(tmp_path/'board'/'tensorboard')).Reload()
    for name in ('loss', 'val_loss', 'learning_rate', 'grad_norm'):
        rows = [(e.step, e.value) for e in seen.Scalars(name)]
        assert [step for step, _ in rows] == h.column(name)[0]
        assert [value for _, value in rows] == pytest.approx(h.column(name)[1], rel=1e-5)

# ---- an independent model ----

def losses_of_transformers(model, batches, rates):
    "Losses of Hugging Face's GPT-2 with PyTorch's AdamW, started from our weights"
    transformers = pytest.importorskip('transformers')
    from slm_scratch.engine.huggingface import gpt2_config, to_gpt2
    config = gpt2_config(model.config) | dict(bos_token_id=None, eos_token_id=None)
    other = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config))
    other.load_state_dict(to_gpt2(model.state_dict()), strict=False)
    opt = torch.optim.AdamW(parameter_groups(other, .1), betas=(.9, .95), eps=1e-8)
    losses = []
    for (x, y), lr in zip(batches, rates):
        for g in opt.param_groups: g['lr'] = lr
        loss = F.cross_entropy(other(x).logits.flatten(0, 1), y.flatten())
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(other.parameters(), 1.)
        opt.step()
        losses.append(loss.item())
    return losses

def test_ten_steps_beside_transformers(train, pair):
    start = small_model()
    h = train(max_steps=10, log_every=1)
    batches = [get_batch(pair[0], i, 2, 33) for i in range(10)]
    theirs = losses_of_transformers(start, batches, h.column('learning_rate')[1])
    assert h.column('loss')[1] == pytest.approx(theirs, abs=2e-4)
    assert theirs[-1] < theirs[0] - .1, 'and they did learn'

# ---- recipes that were run before ----

def test_known_recipes(monkeypatch):
    "What `bench/bands.py` ran is what the programs run today; else its bands are to be made again"
    monkeypatch.syspath_prepend(root/'bench')
    import bands
    known = {band.recipe: band.name for band in known_bands().values()}
    for name in bands.RECIPES:
        recipe, _, _ = bands.run(name, seed=7, n_steps=3, threads=1, n_tales=50)
        assert known.get(recipe) == name
