"""The installed package at work, in whatever versions are installed beside it: needs pytest, and
nothing else of the developer's. `make test-versions` runs this."""
import json, os, signal, subprocess, sys, sysconfig, time
from pathlib import Path
import pytest

text = ('The little fox lost her lantern. She looked under the old oak, and behind the mill.\n'
        'A girl found the red boat. “Is it yours?” she asked the bear, and he said: no.\n')*60
shape = dict(d_model=32, n_heads=2, n_layers=1, max_seq_len=32)

@pytest.fixture
def workdir(tmp_path, monkeypatch):
    "An empty folder with a text in it, in which we stand"
    (tmp_path/'your_text_data.txt').write_text(text, encoding='utf-8')
    monkeypatch.chdir(tmp_path)
    return tmp_path

def python(*args, **kw):
    "Run this Python with one thread"
    pipe = subprocess.PIPE
    cmd = [sys.executable, *map(str, args)]
    env = os.environ | dict(OMP_NUM_THREADS='1')
    return subprocess.Popen(cmd, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe,
                            text=True, encoding='utf-8', **kw)

def call(*args, code=0):
    "What this Python prints, run with `args`"
    p = python(*args)
    out, err = p.communicate(timeout=1800)
    assert p.returncode == code, f'{args}: {p.returncode}\n{out[-2000:]}\n{err[-4000:]}'
    return out + err

def script(name): return Path(sysconfig.get_path('scripts'))/f'slm-{name}'
def program(name, *args, **kw): return call(script(name), *args, **kw)

def test_it_is_the_wheel():
    "In an environment of `make test-versions`: no checkout, the package lies in this environment"
    import slm_scratch
    if os.environ.get('SLM_INSTALLED'): assert Path(slm_scratch.__file__).is_relative_to(sys.prefix)

def test_every_module_imports():
    code = '''
import importlib, pkgutil, slm_scratch
for m in pkgutil.walk_packages(slm_scratch.__path__, 'slm_scratch.'):
    if not m.name.split('.')[-1].startswith('_'): importlib.import_module(m.name)
for n in slm_scratch.__all__: assert getattr(slm_scratch, n) is not None'''
    call('-W', 'error::DeprecationWarning:slm_scratch', '-c', code)

def test_owners_lines(workdir):
    "The lines of the README: model, training, saving, loading, text"
    code = f'''
import torch
from slm_scratch import (Tokenizer, ModelConfig, MODEL_CONFIG, PRESETS, SmallLanguageModel,
                         LanguageModelTrainer, evaluate)
assert SmallLanguageModel.preset('tiny').config.d_model == 256
tok = Tokenizer.train(open('your_text_data.txt', encoding='utf-8').read(), vocab_size=300)
model = SmallLanguageModel(ModelConfig(vocab_size=tok.vocab_size, **{shape}), tok)
trainer = LanguageModelTrainer(model)
history = trainer.train(data_path='your_text_data.txt', batch_size=4, learning_rate=1e-2, epochs=2,
                        device='cpu')
assert history.val_loss if hasattr(history, 'val_loss') else history
history.plot()
model.save('model.pth')
again = SmallLanguageModel.load('model.pth')
again.load_state_dict(torch.load('model.pth'))
for kw in [dict(max_length=30, temperature=.8), dict(temperature=1.2, top_k=50, max_new_tokens=9),
           dict(top_p=.9, max_new_tokens=9)]:
    text = again.generate('The little fox', seed=1, **kw)
    assert isinstance(text, str) and text.startswith('The little fox')
    assert text == model.eval().generate('The little fox', seed=1, **kw)
kw = dict(max_new_tokens=9, seed=1)
assert ''.join(again.stream('The little fox', **kw)) in again.generate('The little fox', **kw)
many = again.generate(['The', 'A girl'], max_new_tokens=5, seed=1)
assert [t[:3] for t in many] == ['The', 'A g']
assert evaluate(again, 'your_text_data.txt')
eight = again.quantize()
assert eight.generate('The', max_new_tokens=5, seed=1).startswith('The')
'''
    call('-c', code)

training = ('--d_model 32 --n-heads 2 --n_layers 1 --max-seq-len 32 --vocab 300 --batch_size 4 '
            '--device cpu --checkpoint-every 20').split()

def test_a_killed_run_goes_on(workdir):
    "SIGKILL in the middle of a run; the same line then ends it, with the weights of a whole run"
    def line(out, steps):
        options = ['--out-dir', out, '--steps', steps, *training]
        return [script('train'), 'your_text_data.txt', *options]
    call(*line('whole', 400))
    p = python(*line('killed', 400))
    end = time.time() + 1800
    last = workdir/'killed'/'last.pt'
    while not last.exists() and p.poll() is None and time.time() < end: time.sleep(.01)
    p.send_signal(getattr(signal, 'SIGKILL', signal.SIGTERM))
    p.communicate()
    assert p.returncode not in (0, 1, 2), 'it was killed while it ran'
    assert 'going on' in call(*line('killed', 400))
    same = '''
import torch
a, b = (torch.load(f'{n}/model.pth', weights_only=True) for n in ('whole', 'killed'))
pairs = [(a[k], b[k]) for k in a if torch.is_tensor(a[k])]
assert len(pairs) > 5 and all(torch.equal(*p) for p in pairs)'''
    call('-c', same)
    history = (workdir/'killed'/'history.jsonl').read_text(encoding='utf-8')
    rows = [json.loads(l) for l in history.splitlines()]
    assert rows[-1]['step'] == 400

def test_programs(workdir):
    "Options with - and with _, in all four programs"
    program('train', 'your_text_data.txt', '--out_dir', 'run', '--steps', 3, *training)
    spellings = (['--max_new_tokens', 5, '--top_k', 3], ['--max-new-tokens', 5, '--top-k', 3])
    for options in spellings:
        text = program('generate', 'The little fox', '--model', 'run/model.pth', '--seed', 1,
                       *options)
        assert text.startswith('The little fox')
    assert 'bits per byte' in program('eval', 'run/model.pth', '--data', 'your_text_data.txt')
    demo = ['demo', '--minutes', .02, '--stories', 2]
    assert 'Of 2 that begin with' in program(*demo, '--out_dir', 'demo')
    assert 'going on' in program(*demo, '--out-dir', 'demo')
    assert 'no_such_option' in program('train', 'x.txt', '--no_such_option', code=2)

helped = dict(train='--out-dir', generate='--top-k', eval='--device', demo='--minutes')

@pytest.mark.parametrize('name', helped)
def test_help(name, workdir):
    "`python -m slm_scratch` knows the four programs, and each explains its options"
    assert helped[name] in call('-m', 'slm_scratch', name, '--help')
