"The programs and the owner's lines, run as a user runs them: from the wheel, in an empty folder, without a network."
import json, random, re, resource, signal, subprocess, time
import pytest

small = '--d_model 32 --n_heads 2 --n_layers 1 --max_seq_len 32 --vocab 300 --batch_size 4 --device cpu'.split()

def story(n, seed=0):
    "A text of `n` sentences, each of its words a word of ours"
    rng = random.Random(seed)
    who, did, what = 'The fox|A girl|The old bear|Her cat'.split('|'), 'lost|found|kept|saw'.split('|'), 'a lantern.|the red boat.|her book.|a small key.'.split('|')
    return '\n'.join(' '.join(map(rng.choice, (who, did, what))) for _ in range(n)) + '\n'

@pytest.fixture(scope='module')
def desk(tmp_path_factory):
    "A folder with texts, good and bad"
    d = tmp_path_factory.mktemp('desk')
    (d/'story.txt').write_text(story(400), encoding='utf-8')
    (d/'short.txt').write_text('The fox.', encoding='utf-8')
    (d/'empty.txt').write_text('', encoding='utf-8')
    (d/'latin.txt').write_bytes('Le café est fermé. '.encode('latin-1') * 50)
    (d/'not_a_model.pth').write_bytes(b'this is not a checkpoint')
    return d

# Python and torch start once; each program then runs in a fork, as its own process, with its own output and exit code.
many = '''
import json, os, runpy, sys, tempfile, traceback
import slm_scratch, slm_scratch.train, slm_scratch.generate, matplotlib.pyplot
res = []
for argv in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            os.dup2(out.fileno(), 1); os.dup2(err.fileno(), 2)
            sys.argv = argv
            try: runpy.run_path(argv[0], run_name='__main__'); code = 0
            except SystemExit as e: code = e.code if isinstance(e.code, int) else int(e.code is not None)
            except BaseException: traceback.print_exc(); code = 1
            sys.stdout.flush(); sys.stderr.flush(); os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0); err.seek(0)
        res.append([code, out.read().decode(), err.read().decode()])
print(json.dumps(res))
'''
@pytest.fixture(scope='module')
def cli(bare, desk):
    "Run programs, each given with its arguments; their exit codes and outputs"
    def f(*lines):
        todo = [[str(bare.site/'bin'/name), *map(str, args)] for name,*args in lines]
        res = json.loads(bare('-c', many, json.dumps(todo), cwd=desk).stdout)
        return [subprocess.CompletedProcess(a, *r) for a,r in zip(todo, res)]
    return f

@pytest.fixture(scope='module')
def trained(cli, desk):
    "A small model, trained by `slm-train`"
    r, = cli(['slm-train', 'story.txt', '--out_dir', 'run', '--steps', 60, '--learning_rate', 1e-2, *small])
    assert r.returncode == 0, r.stderr
    return r

def one_line(r, *words):
    "The program failed with exit code 2; its last line, and no other, is the error, and holds `words`"
    said = [l for l in re.split(r'[\r\n]', r.stderr) if l.strip()]
    assert r.returncode == 2, (r.returncode, r.stdout[-500:], r.stderr[-2000:])
    assert 'Traceback' not in r.stderr, r.stderr[-2000:]
    errors = [l for l in said if re.match(r'slm-\w+:', l)]
    assert errors == said[-1:] and all('Warning' in l or l.startswith('  ') for l in said[:-1]), r.stderr[-2000:]
    for w in words: assert re.search(w, errors[0]), f'{w!r} not in {errors[0]!r}'

# ---- slm-demo ----

def test_demo(bare, empty):
    "The main job, in seconds; then a second call, another seed, and options that make no sense"
    demo = lambda *more, ok=True: bare(bare.site/'bin'/'slm-demo', '--minutes', .05, '--stories', 2, '--out_dir', 'd', *more, cwd=empty, ok=ok)
    told = demo().stdout
    assert {p.name for p in (empty/'d').iterdir()} >= {'model.pth', 'loss.png', 'history.jsonl'}
    assert 'above this floor' in told and 'Of 2 that begin with' in told
    assert 'going on at step' in demo().stdout
    for options,words in {('--seed', 1): 'seed=0 .*--fresh', ('--stories', 0): '--stories 0: must be at least 1'}.items():
        r = demo(*options, ok=False)
        assert r.returncode == 2 and re.search(f'slm-demo: .*{words}', r.stderr.splitlines()[-1]), r.stderr[-2000:]

# ---- slm-train ----

def test_train(trained, desk):
    "What a run leaves, and that it learnt"
    assert {p.name for p in (desk/'run').iterdir() if p.is_file()} >= {'last.pt', 'best.pt', 'model.pth', 'history.jsonl'}
    rows = [json.loads(l) for l in (desk/'run'/'history.jsonl').read_text(encoding='utf-8').splitlines()]
    losses = [r['val_loss'] for r in rows if r.get('val_loss') is not None]
    assert losses[-1] < losses[0] - 1 or losses[-1] < 2.5, losses
    assert 'slm-generate' in trained.stdout

bad_train = {
    'missing file': (['nowhere.txt'], ['nowhere.txt']),
    'empty file': (['empty.txt'], ['empty.txt', 'empty|no text']),
    'not UTF-8': (['latin.txt'], ['latin.txt', 'UTF-8', r'\b6\b']), # the offset of é
    'shorter than a block': (['short.txt', '--block_size', 32], ['token', '32']),
    'block longer than the text': (['story.txt', '--max_seq_len', 8192, '--block_size', 8000], ['token', 'block']),
    'heads': (['story.txt', '--d_model', 30, '--n_heads', 4], ['30', '4']),
    'preset': (['story.txt', '--preset', 'huge'], ['huge', 'tiny']),
    'vocab': (['story.txt', '--vocab', 5], ['257']),
    'batch': (['story.txt', '--batch_size', 0], ['batch_size', '0']),
    'rate': (['story.txt', '--learning_rate', -1], ['learning_rate', '-1']),
    'optimizer': (['story.txt', '--optimizer', 'sgd'], ['sgd', 'adamw']),
    'schedule': (['story.txt', '--schedule', 'zigzag'], ['zigzag', 'cosine']),
    'precision': (['story.txt', '--precision', 'int4'], ['int4', 'bf16']),
    'device': (['story.txt', '--device', 'toaster'], ['toaster']),
}
@pytest.fixture(scope='module')
def refused(cli):
    "All bad cases of `slm-train`, in one go"
    def line(case):
        args = bad_train[case][0]
        usual = [a for k,v in zip(small[::2], small[1::2]) if k not in args for a in (k, v)]
        return ['slm-train', *args, '--out_dir', f'bad/{case}', '--steps', 2, *usual]
    return dict(zip(bad_train, cli(*map(line, bad_train))))

@pytest.mark.parametrize('case', bad_train)
def test_bad_train(case, refused, desk):
    one_line(refused[case], *bad_train[case][1])
    assert not list(desk.glob(f'bad/{case}/*.p*')), 'no checkpoint of a run that never began'

def test_other_options_for_a_run(cli, trained, desk):
    "A run is not continued with another model, and it survives the attempt"
    before = (desk/'run'/'last.pt').read_bytes()
    r, = cli(['slm-train', 'story.txt', '--out_dir', 'run', '--steps', 80, *small, '--d_model', 64])
    one_line(r, 'd_model', '--fresh')
    assert (desk/'run'/'last.pt').read_bytes() == before

def test_full_disk(bare, desk):
    "A file that cannot be written whole: one line that says so, and no half file with a good name"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    r = bare(bare.site/'bin'/'slm-train', 'story.txt', '--out_dir', 'full', '--steps', 5, *small, cwd=desk, ok=False, preexec_fn=limit)
    assert r.returncode == 2 and 'Traceback' not in r.stderr, r.stderr[-2000:]
    assert re.match('slm-train: .*(large|space|disk)', r.stderr.strip().splitlines()[-1]), r.stderr[-2000:]
    assert not [p.name for p in desk.glob('full/*') if p.suffix in ('.pt', '.pth')]

def test_ctrl_c(bare, desk):
    "Ctrl-C finishes the step, saves, says how to go on, and that line goes on"
    cmd = [bare.python, bare.site/'bin'/'slm-train', 'story.txt', '--out_dir', 'stopped', '--steps', '100000', '--eval_every', '1000000', *small]
    with subprocess.Popen(list(map(str, cmd)), cwd=desk, env=bare.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding='utf-8') as p:
        end = time.time() + 60
        while time.time() < end and not (desk/'stopped'/'history.jsonl').exists() and p.poll() is None: time.sleep(.1)
        time.sleep(3)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
    assert p.returncode == 130, (p.returncode, out[-1000:], err[-2000:])
    assert 'Traceback' not in err and (desk/'stopped'/'last.pt').exists()
    assert 'slm-train story.txt --out_dir stopped' in out + err
    r = bare('-c', "import torch; print(torch.load('stopped/last.pt', weights_only=True)['step'])", cwd=desk)
    at = int(r.stdout)
    assert at > 0
    again = bare(bare.site/'bin'/'slm-train', 'story.txt', '--out_dir', 'stopped', '--steps', 100000, '--eval_every', 1000000, *small, '--minutes', .02, cwd=desk, ok=False)
    assert again.returncode == 0, again.stderr[-2000:]
    assert re.search(rf'\b{at:,}\b|\b{at}\b', again.stdout + again.stderr), 'it says where it goes on'

# ---- slm-generate ----

def test_generate(cli, trained):
    line = ['slm-generate', 'The fox', '--model', 'run/model.pth', '--max_length', 30, '--seed']
    a, b, c = cli([*line, 3], [*line, 3], [*line, 4])
    assert a.returncode == 0 and a.stdout.startswith('The fox') and len(a.stdout) > 12, a.stderr
    assert a.stdout == b.stdout, 'a seed gives the same text again'
    assert a.stdout != c.stdout

bad_generate = {
    'no model': (['--model', 'nowhere.pth'], ['nowhere.pth']),
    'not a model': (['--model', 'not_a_model.pth'], ['not_a_model.pth']),
    'temperature': (['--temperature', -1], ['temperature', '-1']),
    'top_k': (['--top_k', 0], ['top_k', '0']),
    'top_p': (['--top_p', 1.5], ['top_p', '1.5']),
    'max_length': (['--max_length', 1], ['max_length', '1']),
}
@pytest.fixture(scope='module')
def refused_too(cli, trained):
    model = lambda args: [] if '--model' in args else ['--model', 'run/model.pth']
    return dict(zip(bad_generate, cli(*(['slm-generate', 'The old bear found a lantern', *model(a), *a] for a,_ in bad_generate.values()))))

@pytest.mark.parametrize('case', bad_generate)
def test_bad_generate(case, refused_too): one_line(refused_too[case], *bad_generate[case][1])

# ---- the owner's lines ----

owner = '''
import torch
from slm_scratch import SmallLanguageModel, LanguageModelTrainer, ModelConfig, MODEL_CONFIG
{model}
trainer = LanguageModelTrainer(model)
history = trainer.train(data_path="your_text_data.txt", batch_size=16, learning_rate=3e-4, epochs=5)
import os; os.chdir(trainer.out_dir)

{model}
model.load_state_dict(torch.load('model.pth'))
prompt = "A little girl went to the woods"
a = model.generate(prompt, max_length=50, temperature=0.8)
b = model.generate(prompt, temperature=1.2, top_k=50)
same = SmallLanguageModel.load("model.pth").generate(prompt, max_length=50, temperature=0.8, seed=1)
assert same == model.generate(prompt, max_length=50, temperature=0.8, seed=1)
for piece in model.stream("Once upon a time", max_length=12): assert isinstance(piece, str)
assert a.startswith(prompt) and b.startswith(prompt) and len(a) > len(prompt)
g = model.generate(prompt, max_length=50, temperature=0.8, log_probs=True)
assert len(model.tokenizer.encode(prompt)) + len(g.tokens) <= 50
print(model.config.d_model, len(history))
'''
@pytest.mark.parametrize('model', ['model = SmallLanguageModel()', 'model = SmallLanguageModel(ModelConfig(d_model=64, n_heads=4, n_layers=2))'], ids=['default', 'small'])
def test_owners_lines(model, bare, empty):
    "Verbatim, on a short text of one's own: the default model learns a few lines in a minute, a smaller one more of them"
    (empty/'your_text_data.txt').write_text(story(60 if model.endswith('()') else 600), encoding='utf-8')
    r = bare('-c', owner.format(model=model), cwd=empty)
    assert r.stdout.split()[-2] == ('512' if model.endswith('()') else '64')
