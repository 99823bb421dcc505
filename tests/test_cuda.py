"What only a CUDA card can show: precisions, resuming, compiling, writing; skipped without one."
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from conftest import root
from slm_scratch.engine.files import safe_load
from slm_scratch.model import ModelConfig, SmallLanguageModel
from slm_scratch.tokenizer import Tokenizer
from slm_scratch.engine.evaluate import evaluate
from slm_scratch.train import LanguageModelTrainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA card here')

story = ('The little fox lost her lantern. She looked under the old oak, and behind the mill.\n'
         'A girl found the red boat. “Is it yours?” she asked, and he said: no.\n') * 60
# what a child process imports
package = os.pathsep.join(filter(None, [str(root), os.environ.get('PYTHONPATH')]))
short = dict(batch_size=4, learning_rate=1e-2, max_steps=60, eval_every=20, verbose=False)

@pytest.fixture
def file(tmp_path):
    "A text to train on"
    path = tmp_path/'story.txt'
    path.write_text(story, encoding='utf-8')
    return path

def small(positions='learned', **kw):
    "A model of odd sizes, the same each time"
    tok = Tokenizer.train(story, vocab_size=300)
    torch.manual_seed(7)
    shape = dict(d_model=48, n_heads=3, n_layers=2, max_seq_len=32, positions=positions)
    return SmallLanguageModel(ModelConfig(vocab_size=tok.vocab_size, **shape | kw), tok)

def trained(file, out=None, model=None, **kw):
    "A trained model and its history"
    model = model or small()
    out = out or file.parent/'run'
    return model, LanguageModelTrainer(model).train(file, out_dir=out, **short | kw)

def command(*args, **env):
    "Run this Python; what it printed"
    cmd = [sys.executable, *map(str, args)]
    env = os.environ | dict(PYTHONPATH=package) | env
    r = subprocess.run(cmd, env=env, capture_output=True, text=True, encoding='utf-8', timeout=900)
    assert r.returncode == 0, f'{cmd}\n{r.stdout[-2000:]}\n{r.stderr[-6000:]}'
    return r.stdout + r.stderr

# ---- training ----

@pytest.mark.parametrize('positions', ['learned', 'rotary'])
@pytest.mark.parametrize('optimizer', ['adamw', 'muon'])
@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16', 'auto'])
def test_precisions_learn_as_a_cpu_does(file, precision, optimizer, positions):
    "The same batches and weights: the card's losses are the processor's, but for rounding"
    kw = dict(precision=precision, optimizer=optimizer, grad_accum=2, log_every=1)
    model, there = trained(file, model=small(positions), device='cuda', **kw)
    _, here = trained(file, file.parent/'cpu', model=small(positions), device='cpu',
                      **kw | dict(precision='fp32'))
    a, b = there.column('loss')[1], here.column('loss')[1]
    assert len(a) == len(b) == 60
    rtol = 1e-3 if precision == 'fp32' else .03
    # in fp16 the scaler may first skip a few steps, until it has found its scale
    first = torch.tensor(a[:10]), torch.tensor(b[:10])
    if precision != 'fp16': torch.testing.assert_close(*first, rtol=rtol, atol=0)
    assert a[-1] < a[0] - 1 and abs(a[-1] - b[-1]) < .3
    assert next(model.parameters()).device.type == 'cuda'
    assert all(p.dtype == torch.float32 for p in model.parameters()), 'weights stay in float32'

def test_auto_takes_what_the_card_has(file):
    model = small()
    trainer = LanguageModelTrainer(model)
    trainer.train(file, out_dir=file.parent/'run', **short)
    assert trainer.device.type == 'cuda', 'the best there is'
    wanted = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    assert trainer.plan.precision.dtype == wanted
    assert trainer.plan.precision.scaler == (wanted == torch.float16)

@pytest.mark.parametrize('kw', [dict(precision='fp16', schedule='wsd'), dict(precision='bf16'),
                                dict(optimizer='muon', checkpoint_activations=True)], ids=str)
def test_a_run_goes_on(file, kw):
    "Half a run and the other half are a whole run: dropout, accumulation, averages, scaler"
    kw |= dict(device='cuda', grad_accum=2, checkpoint_every=10, eval_every=10)
    whole, _ = trained(file, file.parent/'whole', small(dropout=.1), **kw)
    model = small(dropout=.1)
    class Stops(LanguageModelTrainer):
        def train_step(self):
            if self.step == 30: raise KeyboardInterrupt
            return super().train_step()
    out = file.parent/'halves'
    try: Stops(model).train(file, out_dir=out, **short | kw)
    except KeyboardInterrupt: pass
    assert safe_load(out/'last.pt')['step'] == 30
    again, _ = trained(file, out, small(dropout=.1), **kw)
    for (n, p), q in zip(whole.named_parameters(), again.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=lambda m: f'{n}: {m}')

def test_a_files_weights_go_both_ways(file):
    "Trained on the card, loaded on the processor, and trained on there"
    model, _ = trained(file, device='cuda')
    run = file.parent/'run'
    here = SmallLanguageModel.load(run/'model.pth')
    assert next(here.parameters()).device.type == 'cpu'
    state = torch.load(run/'model.pth', map_location='cpu')
    here.load_state_dict(state)
    last = safe_load(run/'last.pt')
    assert last['step'] == 60
    _, rows = trained(file, run, small(), device='cpu', max_steps=70)
    assert rows[-1]['step'] == 70
    _, rows = trained(file, run, small(), device='cuda', max_steps=80)
    assert rows[-1]['step'] == 80

def test_compiled_steps(file):
    "torch.compile: the same losses, and a file that a plain model reads"
    kw = dict(device='cuda', precision='fp32', log_every=1)
    _, plain = trained(file, file.parent/'plain', **kw)
    _, compiled = trained(file, file.parent/'compiled', compile=True, **kw)
    a, b = (torch.tensor(h.column('loss')[1][:10]) for h in (plain, compiled))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=0)
    SmallLanguageModel.load(file.parent/'compiled'/'model.pth')

@pytest.mark.parametrize('more', ['', '--shard --optimizer adamw', '--shard --optimizer muon'])
def test_a_process_group_of_this_card(file, more):
    "torchrun with nccl, one process: a run, resumed"
    out = file.parent/'group'
    line = ['-m', 'torch.distributed.run', '--nproc-per-node', 1 + bool(more),
            '-m', 'slm_scratch', 'train', file, '--out-dir', out, '--vocab', 300,
            '--d-model', 48, '--n-heads', 3, '--n-layers', 2,
            '--batch-size', 4, '--device', 'cuda']
    if more and torch.cuda.device_count() < 2: pytest.skip('sharding needs two GPUs')
    command(*line, '--steps', 20, *more.split())
    command(*line, '--steps', 40, *more.split())
    lines = (out/'history.jsonl').read_text(encoding='utf-8').splitlines()
    assert json.loads(lines[-1])['step'] == 40

def test_no_memory_is_one_sentence(file):
    "A step that does not fit says so, names what to change, and leaves the card usable"
    model = small(d_model=768, n_heads=12, n_layers=12, max_seq_len=2048)
    file.write_text(story*40, encoding='utf-8')
    card = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1., 6e9/card))
    try:
        with pytest.raises(MemoryError, match='batch_size=64'):
            trained(file, file.parent/'big', model, batch_size=64)
    finally: torch.cuda.set_per_process_memory_fraction(1.)
    torch.cuda.empty_cache()
    trained(file, device='cuda', max_steps=20)

# ---- a trained model at work ----

@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    "The same trained model on the processor and on the card"
    file = tmp_path_factory.mktemp('pair')/'story.txt'
    file.write_text(story, encoding='utf-8')
    trained(file, device='cuda', max_steps=150)
    path = file.parent/'run'/'model.pth'
    return SmallLanguageModel.load(path), SmallLanguageModel.load(path, 'cuda')

def test_both_write_the_same(pair):
    here, there = pair
    for kw in (dict(temperature=0), dict(temperature=.8, top_k=20), dict(top_p=.9, min_p=.02),
               dict(repetition_penalty=1.2)):
        kw |= dict(max_new_tokens=60, seed=3, stop=None)
        assert there.generate('The little fox', **kw) == here.generate('The little fox', **kw), kw
    prompts = ['The', 'A girl found', 'She looked under the old oak']
    kw = dict(max_new_tokens=20, seed=1)
    assert there.generate(prompts, **kw) == here.generate(prompts, **kw)
    one = there.generate('The little fox', max_new_tokens=30, seed=2)
    assert ''.join(there.stream('The little fox', max_new_tokens=30, seed=2)) == one

def test_both_are_as_good(pair, tmp_path):
    (tmp_path/'text.txt').write_text(story, encoding='utf-8')
    a, b = (evaluate(m, tmp_path/'text.txt') for m in pair)
    assert math.isclose(a.bits_per_byte, b.bits_per_byte, rel_tol=1e-3)

def test_lenses_on_the_card(pair):
    "What looks inside gives what it gives on a processor"
    for f in ('attention_maps', 'logit_lens'):
        (names, x), (others, y) = (getattr(m, f)('The little fox lost her lantern.') for m in pair)
        assert names == others
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_writes(pair, dtype):
    import copy
    model = copy.deepcopy(pair[1]).to(dtype)
    text = model.generate('The little fox', max_new_tokens=40, temperature=0)
    assert text.startswith('The little fox lost her lantern'), text

def test_int8_on_the_card(pair):
    here, there = (m.quantize() for m in pair)
    texts = [m.generate('The little fox', max_new_tokens=40, temperature=0) for m in (here, there)]
    assert all(t.startswith('The little fox lost her lantern') for t in texts), texts

# ---- the programs ----

def test_a_killed_run_goes_on_from_a_shell(file):
    "SIGKILL in the middle; the same line ends the run, and the text can be written on the card"
    import signal
    import time
    out = file.parent/'shell'
    options = f'--out-dir {out} --steps 600 --vocab 300 --d-model 48 --n-heads 3 --n-layers 2'
    line = [sys.executable, '-m', 'slm_scratch', 'train', str(file), *options.split(),
            '--checkpoint-every', '10']
    env = os.environ | dict(PYTHONPATH=package)
    p = subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.time() + 300
    while not (out/'last.pt').exists() and p.poll() is None and time.time() < end: time.sleep(.01)
    p.send_signal(signal.SIGKILL)
    _, said = p.communicate()
    assert (out/'last.pt').exists(), said
    step = safe_load(out/'last.pt')['step']
    assert 0 < step < 600
    said = command(*line[1:])
    lines = (out/'history.jsonl').read_text(encoding='utf-8').splitlines()
    assert json.loads(lines[-1])['step'] == 600, said
    said = command('-m', 'slm_scratch', 'generate', 'The little fox', '--model', out/'model.pth',
                   '--device', 'cuda', '--max-new-tokens', 20)
    assert 'The little fox' in said
