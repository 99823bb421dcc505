"""The programs and the owner's lines, run as a user runs them: from the wheel, in an empty folder,
without a network."""
import inspect, json, math, random, re, resource, signal, subprocess, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pytest
import slm_scratch.engine.demo # the fourth program
from slm_scratch.engine.options import help_text, options_of, read_words
from slm_scratch.engine.shell import PROGRAMS
from slm_scratch.engine.download import CORPORA

small = ('--d_model 32 --n_heads 2 --n_layers 1 --max_seq_len 32 --vocab 300 --batch_size 4 '
         '--device cpu').split()

def story(n, seed=0):
    "A text of `n` sentences, each of its words a word of ours"
    rng = random.Random(seed)
    parts = ('The fox|A girl|The old bear|Her cat', 'lost|found|kept|saw',
             'a lantern.|the red boat.|her book.|a small key.')
    choices = [part.split('|') for part in parts]
    return '\n'.join(' '.join(map(rng.choice, choices)) for _ in range(n)) + '\n'

@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    "A folder with texts, good and bad"
    d = tmp_path_factory.mktemp('workdir')
    (d/'story.txt').write_text(story(400), encoding='utf-8')
    (d/'short.txt').write_text('The fox.', encoding='utf-8')
    (d/'empty.txt').write_text('', encoding='utf-8')
    (d/'latin.txt').write_bytes('Le café est fermé. '.encode('latin-1') * 50)
    (d/'not_a_model.pth').write_bytes(b'this is not a checkpoint')
    (d/'parts').mkdir()
    for i in range(30): (d/'parts'/f'{i}.txt').write_text(story(20, i), encoding='utf-8')
    (d/'max_steps=3.txt').write_text('', encoding='utf-8')
    return d

# Python and torch are loaded once; each program then runs in a fork, as its own process, with its
# own output and exit code. (A fork is safe as long as there is one thread: `wheel_env` sets
# OMP_NUM_THREADS=1.)
fork_each = '''
import json, os, runpy, sys, tempfile, traceback
import slm_scratch, slm_scratch.engine.demo

def run(argv, out, err):
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.argv = argv
    code = 0
    try: runpy.run_path(argv[0], run_name='__main__')
    except SystemExit as e: code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

def content(f):
    f.seek(0)
    return f.read().decode()

results = []
for argv in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid: run(argv, out, err)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        results.append([code, content(out), content(err)])
print(json.dumps(results))
'''
@pytest.fixture(scope='module')
def cli(wheel_env, workdir):
    "Run programs, each given with its arguments; their exit codes and outputs"
    def f(*lines):
        todo = [[str(wheel_env.site/'bin'/name), *map(str, args)] for name,*args in lines]
        res = json.loads(wheel_env('-c', fork_each, json.dumps(todo), cwd=workdir).stdout)
        return [subprocess.CompletedProcess(a, *r) for a,r in zip(todo, res)]
    return f

@pytest.fixture(scope='module')
def trained(cli, workdir):
    "A small model, trained by `slm-train`"
    options = ['--out_dir', 'run', '--steps', 60, '--learning_rate', 1e-2, *small]
    r, = cli(['slm-train', 'story.txt', *options])
    assert r.returncode == 0, r.stderr
    return r

def one_line(r, *words):
    "The program failed with exit code 2 and one line, which holds `words`; warnings may precede it"
    lines = [l for l in re.split(r'[\r\n]', r.stderr) if l.strip()]
    said = [l for l in lines if not re.match(r'slm-\w+: warning: ', l)]
    assert r.returncode == 2, (r.returncode, r.stdout[-500:], r.stderr[-2000:])
    assert 'Traceback' not in r.stderr, r.stderr[-2000:]
    assert len(said) == 1 and re.match(r'slm-\w+: ', said[0]), r.stderr[-2000:]
    for w in words: assert re.search(w, said[0]), f'{w!r} not in {said[0]!r}'
    assert not re.search(r'\bNone\b', said[0]), f'the word of another language in {said[0]!r}'

# ---- slm-train ----

def test_train(trained, workdir):
    "What a run leaves, and that it learnt"
    files = {p.name for p in (workdir/'run').iterdir() if p.is_file()}
    assert files >= {'last.pt', 'best.pt', 'model.pth', 'history.jsonl'}
    history = (workdir/'run'/'history.jsonl').read_text(encoding='utf-8')
    rows = [json.loads(l) for l in history.splitlines()]
    losses = [r['val_loss'] for r in rows if r.get('val_loss') is not None]
    assert losses[-1] < losses[0] - 1, losses
    assert 'slm-generate' in trained.stdout

bad_train = {
    'missing file': (['nowhere.txt'], ['nowhere.txt']),
    'misspelt corpus': (['tinystorys'], ["did you mean 'tinystories'"]),
    'no data': ([], ['DATA is missing']),
    'empty name': ([''], ['--data']),
    'empty file': (['empty.txt'], ['empty.txt', 'empty|no text']),
    'a name like an option': (['max_steps=3.txt'], ['max_steps=3.txt']),
    'not UTF-8': (['latin.txt'], ['latin.txt', 'UTF-8', r'\b6\b']), # the offset of é
    'shorter than a block': (['short.txt', '--block_size', 32], ['token', '32']),
    'block longer than the text': (['story.txt', '--max_seq_len', 8192, '--block_size', 8000],
                                   ['token', '--block_size']),
    'heads': (['story.txt', '--d_model', 30, '--n_heads', 4], ['--d_model 30', '--n_heads 4']),
    'preset': (['story.txt', '--preset', 'huge'], ['--preset huge', 'tiny']),
    'vocab': (['story.txt', '--vocab', 5], ['--vocab 5', '257']),
    'vocab in words': (['story.txt', '--vocab', 'many'], ['--vocab many', '257']),
    'batch': (['story.txt', '--batch-size', 0], ['--batch_size 0']),
    'rate': (['story.txt', '--learning_rate', -1], ['--learning_rate -1']),
    'rate in words': (['story.txt', '--learning_rate', 'fast'], ['--learning_rate fast', 'number']),
    'no number': (['story.txt', '--min_lr', 'nan'], ['--min_lr nan', 'number']),
    'without end': (['story.txt', '--minutes', 'inf'], ['--minutes inf']),
    'no minutes': (['story.txt', '--minutes', 0], ['--minutes 0', 'above 0']),
    'no steps': (['story.txt', '--steps', 0], ['--steps 0', 'at least 1']),
    'no epochs': (['story.txt', '--epochs', 0], ['--epochs 0', 'above 0']),
    'half a step': (['story.txt', '--steps', 1.5], ['--steps 1.5', 'whole number']),
    'negative seed': (['story.txt', '--seed', -1], ['--seed -1']),
    'large seed': (['story.txt', '--seed', 2**64], [f'--seed {2**64}', 'too large']),
    'optimizer': (['story.txt', '--optimizer', 'sgd'], ['--optimizer .?sgd', 'adamw']),
    'schedule': (['story.txt', '--schedule', 'zigzag'], ['--schedule .?zigzag', 'cosine']),
    'precision': (['story.txt', '--precision', 'int4'], ['--precision .?int4', 'bf16']),
    'device': (['story.txt', '--device', 'toaster'], ['--device .?toaster']),
    'one process': (['story.txt', '--shard'], ['--shard: ', 'torchrun']),
    'two wishes': (['story.txt', '--fresh', '--changed'], ['--fresh', '--changed']),
    'a switch with a value': (['story.txt', '--fresh=no'], ['--fresh', 'no value']),
    'no value': (['story.txt', '--minutes'], ['--minutes needs a value']),
    'an option for a value': (['story.txt', '--schedule', '--fresh'], ['--schedule needs a value']),
    'an abbreviation': (['story.txt', '--minute', 1], ["'--minute'", 'did you mean --minutes']),
    "Python's name": (['story.txt', '--max_steps', 1], ["'--max_steps'", '--steps']),
    'a file for a folder': (['story.txt', '--out_dir', 'story.txt'],
                            ['--out_dir .?story.txt', 'file']),
    'two mistakes': (['story.txt', '--batch_size', 0, '--grad_accum', 0],
                     ['--batch_size 0.*--grad_accum 0']),
}
@pytest.fixture(scope='module')
def refused(cli):
    "All bad cases of `slm-train`, in one go"
    def line(case):
        args = bad_train[case][0]
        # of two options of one name, the last counts
        return ['slm-train', '--out_dir', f'bad/{case}', '--steps', 2, *small, *args]
    return dict(zip(bad_train, cli(*map(line, bad_train))))

@pytest.mark.parametrize('case', bad_train)
def test_bad_train(case, refused, workdir):
    one_line(refused[case], *bad_train[case][1])
    assert not list(workdir.glob(f'bad/{case}/*.p*')), 'no checkpoint of a run that never began'

def test_other_options_for_a_run(cli, trained, workdir):
    "A run is not continued with another model, and it survives the attempt"
    before = (workdir/'run'/'last.pt').read_bytes()
    r, = cli(['slm-train', 'story.txt', '--out_dir', 'run', '--steps', 80, *small, '--d_model', 64])
    one_line(r, '--d_model', '--fresh')
    assert (workdir/'run'/'last.pt').read_bytes() == before

def test_another_text_for_a_run(cli, trained, workdir):
    "It is refused before a token of the run is replaced, and so is another vocabulary"
    def contents(): return {p: p.read_bytes() for p in (workdir/'run').rglob('*') if p.is_file()}
    line, before = ['--out_dir', 'run', '--steps', 80, *small], contents()
    other, fewer = cli(['slm-train', 'parts', *line], ['slm-train', 'story.txt', *line,
                                                       '--vocab', 290, '--changed'])
    one_line(other, 'run holds another run', 'the vocabulary|the data', '--fresh')
    one_line(fewer, 'the vocabulary is another one', "--changed can't change these")
    assert contents() == before

def test_full_disk(wheel_env, workdir):
    "A file that cannot be written whole: one line that says so, and no half file with a good name"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    program = wheel_env.site/'bin'/'slm-train'
    r = wheel_env(program, 'story.txt', '--out_dir', 'full', '--steps', 5, *small,
                  cwd=workdir, ok=False, preexec_fn=limit)
    assert r.returncode == 2 and 'Traceback' not in r.stderr, r.stderr[-2000:]
    last = r.stderr.strip().splitlines()[-1]
    assert re.match('slm-train: .*(large|space|disk)', last), r.stderr[-2000:]
    assert not [p.name for p in workdir.glob('full/*') if p.suffix in ('.pt', '.pth')]

def start(wheel_env, workdir, *words):
    "A program, running"
    cmd = [str(wheel_env.python), '-m', 'slm_scratch', *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(cmd, cwd=workdir, env=wheel_env.env, stdin=subprocess.DEVNULL,
                            stdout=pipe, stderr=pipe, text=True, encoding='utf-8')

def end_of(p, number):
    "Send it a signal; its exit code and what it printed"
    p.send_signal(number)
    try: out, err = p.communicate(timeout=300)
    finally: p.kill()
    return p.returncode, out + err

endless = ['train', 'story.txt', '--steps', 100000, '--eval_every', 1000000, *small]

@pytest.mark.parametrize('number,code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_run(number, code, wheel_env, workdir):
    """A signal finishes the step, saves, says how to go on, and that line goes on; meanwhile no
    other run may use the folder"""
    out_dir, log = f'stopped-{code}', workdir/f'stopped-{code}'/'history.jsonl'
    p = start(wheel_env, workdir, *endless, '--fresh', '--out_dir', out_dir)
    end = time.monotonic() + 300
    def begun(): return log.exists() and log.read_text(encoding='utf-8').count('\n') > 2
    while time.monotonic() < end and p.poll() is None and not begun(): time.sleep(.05)
    second = wheel_env('-m', 'slm_scratch', *endless, '--out_dir', out_dir, cwd=workdir, ok=False)
    one_line(second, f'--out_dir .?{out_dir}', 'another run is training there')
    returncode, said = end_of(p, number)
    assert returncode == code and 'Traceback' not in said, (returncode, said[-2000:])
    assert f'slm-train story.txt --steps 100000' in said and (workdir/out_dir/'last.pt').exists()
    assert '--fresh' not in said.partition('To go on: ')[2]
    code = f"import torch\nprint(torch.load('{out_dir}/last.pt', weights_only=True)['step'])"
    r = wheel_env('-c', code, cwd=workdir)
    at = int(r.stdout)
    assert at > 0
    options = ['--out_dir', out_dir, '--steps', at + 2]
    again = wheel_env('-m', 'slm_scratch', *endless, *options, cwd=workdir)
    assert f'going on at step {at}' in again.stdout

def wait_for_torch(p):
    "Wait until a program loads PyTorch (where no /proc tells: half a second)"
    maps = Path(f'/proc/{p.pid}/maps')
    if not maps.exists(): return time.sleep(.5)
    while p.poll() is None and 'libtorch' not in maps.read_text(encoding='utf-8'): time.sleep(.01)

@pytest.mark.parametrize('seconds', [0, 1, 2])
def test_ctrl_c_early(seconds, wheel_env, workdir):
    "While PyTorch or the text is loaded: no traceback, wherever it comes"
    p = start(wheel_env, workdir, *endless, '--out_dir', f'early-{seconds}')
    wait_for_torch(p) # before, Python itself is loading
    time.sleep(seconds)
    code, said = end_of(p, signal.SIGINT)
    assert 'Traceback' not in said and code == 130, (code, said)

def test_ctrl_c_in_exec(wheel_env, tmp_path):
    "`python -m` ends with 130, too, if Ctrl-C came while a string ran, as when a dataclass is made"
    code = """
from slm_scratch.engine.shell import run_cli
def job(): exec('raise KeyboardInterrupt')
run_cli(job, 'slm-x')
"""
    (tmp_path/'interrupted.py').write_text(code, encoding='utf-8')
    r = wheel_env('-m', 'interrupted', cwd=tmp_path, ok=False)
    assert (r.returncode, r.stdout, r.stderr) == (130, '', 'slm-x: stopped by Ctrl-C\n')

# ---- slm-generate ----

def test_generate(cli, trained):
    line = ['slm-generate', 'The fox', '--model', 'run/model.pth', '--max_length', 30, '--seed']
    a, b, c = cli([*line, 3], [*line, 3], [*line, 4])
    assert a.returncode == 0 and a.stdout.startswith('The fox') and len(a.stdout) > 12, a.stderr
    assert a.stdout == b.stdout, 'a seed gives the same text again'
    assert a.stdout != c.stdout

def test_prompts(cli, wheel_env, trained, workdir):
    "Whatever a text may hold, at any place; a dash in front needs --"
    line = ['slm-generate', '--model', 'run', '--max-new-tokens', 0]
    texts = ['', ' ', '-', '-5', '- said she', '-Hello there', '"quoted"', "it's", 'two\nlines',
             '\ttab', 'ё – 本 🦊', '$HOME `x` \\', '*']
    def check(texts, lines):
        for text, r in zip(texts, cli(*lines), strict=True):
            assert (r.returncode, r.stdout) == (0, text + '\n'), (text, r.stderr)
    check(texts, [[*line, t] for t in texts])
    check(texts[:4], [['slm-generate', t, *line[1:]] for t in texts[:4]])
    dashed = ['-Hello', '--', '--help', '--seed', '-h', '--model=x']
    check(dashed, [[*line, '--', t] for t in dashed])
    r, = cli([*line, '-Hello'])
    one_line(r, '-Hello', '-- -Hello')
    cmd = [wheel_env.python, wheel_env.site/'bin'/'slm-generate', b'caf\xe9', *map(str, line[1:])]
    r = subprocess.run(cmd, cwd=workdir, env=wheel_env.env, capture_output=True, timeout=300)
    assert (r.returncode, r.stderr) == (0, b'') and r.stdout.startswith(b'caf'), r.stderr

def test_generate_as_in_python(cli, wheel_env, trained, workdir):
    "A seed gives the text that it gives in Python; `--copied` takes what training takes"
    code = '''
import json
from slm_scratch import SmallLanguageModel
model = SmallLanguageModel.load('run/model.pth')
print(json.dumps([model.generate('The', max_new_tokens=9, seed=s) for s in (4, 5)]))'''
    want = json.loads(wheel_env('-c', code, cwd=workdir).stdout)
    line = ['slm-generate', 'The', '--model', 'run/model.pth', '--max_new_tokens', 9]
    sources = (['story.txt'], ['parts'], ['parts/1.txt', 'parts/2.txt'], ['run/data'])
    copied = [[*line, '--seed', 4, '--copied', *data] for data in sources]
    a, b, *copied = cli([*line, '--seed', 4, '--num_samples', 2], [*line, '--seed=5'], *copied)
    assert a.stdout == want[0] + '\n' + want[1] + '\n' and b.stdout == want[1] + '\n'
    for r in copied:
        assert r.returncode == 0 and r.stdout.startswith(want[0] + '\n[copied: '), r.stderr

bad_generate = {
    'no prompt': (['--model', 'run'], ['PROMPT is missing']),
    'two prompts': (['two', 'words', '--model', 'run'], ['words', 'quotation marks']),
    'no model': (['x', '--model', 'nowhere.pth'], ['nowhere.pth']),
    'empty model': (['x', '--model', ''], ['--model']),
    'a folder': (['x', '--model', 'parts'], ['parts', 'model.pth']),
    'not a model': (['x', '--model', 'not_a_model.pth'], ['not_a_model.pth']),
    'temperature': (['x', '--model', 'run', '--temperature', -1], ['--temperature -1']),
    'top_k': (['x', '--model', 'run', '--top-k', 0], ['--top_k 0']),
    'top_p': (['x', '--model', 'run', '--top_p', 1.5], ['--top_p 1.5']),
    'two': (['x', '--model', 'run', '--top_p', 1.5, '--top_k', 0], ['--top_k 0.*--top_p 1.5']),
    'max_length': (['The old bear found a lantern', '--model', 'run', '--max_length', 1],
                   ['--max_length 1']),
    'no text': (['x', '--model', 'run', '--num_samples', 0], ['--num_samples 0']),
    'negative length': (['x', '--model', 'run', '--max_new_tokens', -1], ['--max_new_tokens -1']),
    'empty stop': (['x', '--model', 'run', '--stop', ''], ['--stop']),
    'seed': (['x', '--model', 'run', '--seed', 2**64], ['--seed', 'too large']),
    'fraction of a seed': (['x', '--model', 'run', '--seed', 1.5], ['--seed 1.5', 'whole']),
    'device': (['x', '--model', 'run', '--device', 'toaster'], ['--device toaster']),
    'device without numbers': (['x', '--model', 'run', '--device', 'meta'], ['--device meta']),
    'copied': (['x', '--model', 'run', '--copied', 'nowhere.txt'], ['nowhere.txt']),
    'copied from nothing': (['x', '--model', 'run', '--copied', ''], ['--copied']),
    'unknown': (['x', '--model', 'run', '--tempature', 1], ['did you mean --temperature']),
}
bad_eval = {
    'no model': ([], ['MODEL is missing']),
    'missing model': (['nowhere.pth'], ['nowhere.pth']),
    'not a model': (['not_a_model.pth'], ['not_a_model.pth']),
    'missing data': (['run', '--data', 'nowhere.txt'], ['nowhere.txt']),
    'empty data': (['run', '--data', 'empty.txt', '--whole'], ['empty.txt']),
    'no data': (['run', '--data', ''], ['--data']),
    'misspelt corpus': (['run', '--data', 'tinystory'], ['tinystories']),
    'no documents': (['run', '--data', 'parts', '--documents', 0], ['--documents 0']),
    'no block': (['run', '--data', 'parts', '--block_size', 0], ['--block_size 0']),
    'device': (['run', '--data', 'parts', '--device', 'toaster'], ['--device toaster']),
    'two models': (['run', 'run', '--data', 'parts'], ['run', 'one word too many']),
}
bad = [('slm-generate', c, *v) for c, v in bad_generate.items()]
bad += [('slm-eval', c, *v) for c, v in bad_eval.items()]

@pytest.fixture(scope='module')
def refused_too(cli, trained):
    "All bad cases of the other two programs, in one go"
    results = cli(*([name, *args] for name, _, args, _ in bad))
    return {(name, case): r for (name, case, *_), r in zip(bad, results, strict=True)}

@pytest.mark.parametrize('name,case,args,words', bad, ids=[f'{n} {c}' for n, c, *_ in bad])
def test_bad_words(name, case, args, words, refused_too):
    r = refused_too[name, case]
    one_line(r, *words)
    assert not r.stdout, 'nothing is printed before the error'

# ---- slm-eval ----

def scores(r):
    "What `slm-eval` says in words and in JSON"
    assert r.returncode == 0, r.stderr
    words, numbers = r.stdout.splitlines()[-2:]
    return words, json.loads(numbers)

def test_eval(cli, trained, workdir):
    """What training takes can be scored: a file, folders, several paths, prepared tokens; held out
    or whole"""
    data = [['story.txt'], ['parts'], ['parts', '--whole'],
            ['parts/1.txt', 'parts/2.txt', '--whole'],
            ['parts/1.txt', '--data', 'parts/2.txt', '--whole'],
            ['run/data'], ['parts', '--whole', '--documents', 5]]
    res = [scores(r) for r in cli(*(['slm-eval', 'run', '--data', *d] for d in data))]
    assert [n['n_documents'] for _, n in res] == [1, 2, 30, 2, 2, 1, 5]
    assert res[3] == res[4] and res[0][1] == res[5][1]
    for words, n in res:
        assert f'{n["loss"]:.4f}' in words and n['loss'] < math.log(300)
        if n['n_documents'] > 1: assert n['stderr'] > 0 and f'± {n["stderr"]:.4f}' in words
        else:
            assert n['stderr'] is None and 'nan' not in words
            assert 'one document gives no error bar' in words

def test_eval_tales(cli, trained):
    "The default corpus has a known entropy"
    r, = cli(['slm-eval', 'run/model.pth', '--documents', 3])
    words, numbers = scores(r)
    assert numbers['floor'] > 0 and f'the entropy is {numbers["floor"]:.4f}' in words

# ---- options ----

def words_for(p):
    "An option with a value that its type takes"
    return {bool: (), int: ('7',), float: ('-1e-3',), str: ('-a b',), list: ('-a b',)}[p.kind]

@pytest.mark.parametrize('name', PROGRAMS)
def test_spellings(name):
    """Each option with _ and with -, after a blank and after =, means the same; help gives both,
    and a default"""
    job = inspect.unwrap(PROGRAMS[name])
    params, printed = options_of(job), ' '.join(help_text(job, f'slm-{name}').split())
    places = [w for p in params.values() if p.is_place for w in ('--' + p.name, 'x')]
    for p in params.values():
        value = words_for(p)
        seen = []
        for spelt in ('--' + p.name, '--' + p.name.replace('_', '-')):
            lines = [[spelt, *value]] + [[f'{spelt}={v}'] for v in value]
            seen += [read_words([*places, *line], job)[p.name] for line in lines]
            assert re.search(rf'(^| ){spelt}\b', printed) or p.is_place
        seen = [s[-1] if isinstance(s, list) else s for s in seen]
        assert len(set(seen)) == 1 and isinstance(seen[0], str if p.kind is list else p.kind), seen
    assert printed.count('(default: ') == sum(not p.is_place for p in params.values())
    if name == 'train': assert all(c in printed for c in CORPORA)

def test_one_name_for_all(wheel_env, empty):
    "python -m slm_scratch: the programs, what they do, and a hint for a name that is wrong"
    run = lambda *words: wheel_env('-m', 'slm_scratch', *words, cwd=empty, ok=False)
    r = run()
    assert r.returncode == 0 and not r.stderr
    assert all(re.search(rf'^  {n} ', r.stdout, re.M) for n in PROGRAMS)
    r = run('evaluate')
    assert r.returncode == 2 and not r.stdout
    assert r.stderr.count('\n') == 1 and 'did you mean eval' in r.stderr
    r = run('train', '--help')
    assert r.returncode == 0 and r.stdout.startswith('usage: slm-train DATA... [options]')

# ---- what surrounds a program ----

def in_shell(wheel_env, workdir, line, env):
    "A line of bash; its exit code is that of the first program in a pipe"
    line = line.replace('python ', f'{wheel_env.python} ')
    scripts = f'{wheel_env.python} {wheel_env.site}/bin/'
    line = re.sub(r'slm-\w+', lambda m: scripts + m[0], line)
    cmd = ['bash', '-c', f'{line}; exit ${{PIPESTATUS[0]}}']
    r = subprocess.run(cmd, cwd=workdir, env=wheel_env.env | env, timeout=300,
                       capture_output=True, stdin=subprocess.DEVNULL)
    return r.returncode, r.stdout.decode('utf-8', 'replace'), r.stderr.decode('utf-8', 'replace')

ascii_only = dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', PYTHONIOENCODING='ascii')
train_line = 'slm-train story.txt --steps 2 ' + ' '.join(small)
no_home = dict(HOME='/proc/nowhere', XDG_CACHE_HOME='/proc/nowhere', MPLCONFIGDIR='/proc/nowhere')
surroundings = { # line, environment, exit code, words on standard output, words on standard error
    'no output': ('slm-generate x --model run >&-', {}, 0, '^$', '^$'),
    'no error': ('slm-generate x --model nowhere 2>&-', {}, 2, '^$', '^$'),
    'nothing open': (f'{train_line} --out_dir nothing <&- >&- 2>&- && test -s nothing/model.pth',
                     {}, 0, '^$', '^$'),
    'closed pipe': ('slm-generate x --model run --num_samples 999999 | head -c 3', {}, 141,
                    '^x', '^$'),
    'closed pipe of help': ('slm-train --help | true', {}, 141, '^$', '^$'),
    'full disk': ('slm-eval run --data parts >/dev/full', {}, 2, '^$',
                  'standard output cannot be written'),
    'ASCII, training': (f'{train_line} --out_dir рассказы', ascii_only, 0, 'plan', ''),
    'ASCII, scores': ('slm-eval run --data parts', ascii_only, 0, '[?] 0[.]', '^$'),
    'ASCII, a story': ('slm-generate "ё" --model run --max_new_tokens 0', ascii_only, 0,
                       r'^\?+\n$', '^$'),
    'ASCII, an error': ('slm-generate x --model рассказ', ascii_only, 2, '^$',
                        '^slm-generate: .*u0440|^slm-generate: .*udcd1'),
    'no environment': ('env -i slm-generate x --model run --max_new_tokens 1', {}, 0, '^x', '^$'),
    'home that is not there': (f'{train_line} --out_dir homeless', no_home, 0, 'plan', ''),
    'a home in the name': (f'{train_line} --out_dir=~/x && test -s $HOME/x/model.pth -a ! -e "~"',
                           {}, 0, 'plan', ''),
    'read-only folder': (f'{train_line} --out_dir /proc/x', {}, 2, '',
                         '^slm-train: [^\n]*/proc/x[^\n]*$'),
    'optimized': ('python -OO -m slm_scratch eval run --data parts', {}, 0, '± 0[.]', '^$'),
    'warnings are errors': (
        f'python -W error -m slm_scratch train {train_line[10:]} --out_dir strict',
        {}, 0, 'plan', ''),
}
@pytest.fixture(scope='module')
def surrounded(wheel_env, trained, workdir):
    "All of them, two at a time: case → exit code, standard output, standard error"
    def run(case): return in_shell(wheel_env, workdir, *case[:2])
    with ThreadPoolExecutor(2) as pool: results = list(pool.map(run, surroundings.values()))
    return dict(zip(surroundings, results, strict=True))

@pytest.mark.parametrize('case', surroundings)
def test_surroundings(case, surrounded):
    *_, code, out, err = surroundings[case]
    got = surrounded[case]
    assert got[0] == code and re.search(out, got[1]) and re.search(err, got[2]), got
    assert 'Traceback' not in got[2] and 'Exception ignored' not in got[2], got[2]

def test_bug(wheel_env, trained, workdir):
    "An exception that no check raised is a bug of ours: a traceback, and the request to report it"
    code = """
import sys
from slm_scratch.engine import cli
cli.evaluate = lambda *a, **kw: {}['gone']
sys.argv = ['slm-eval', 'run', '--data', 'parts']
cli.eval_cli()"""
    r = wheel_env('-c', code, cwd=workdir, ok=False)
    assert r.returncode == 1 and 'Traceback' in r.stderr and "KeyError: 'gone'" in r.stderr
    last = r.stderr.splitlines()[-1]
    assert re.match('slm-eval: .*bug of slm-scratch.*https?://.*/issues$', last)

def test_several_processes_say_it_once(wheel_env, workdir):
    "An error that all processes meet is one line"
    r = wheel_env('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
                  '-m', 'slm_scratch', 'train', 'nowhere.txt', cwd=workdir, ok=False)
    assert r.returncode and 'is a bug' not in r.stderr, r.stderr[-3000:]
    assert len(re.findall('slm-train: .*nowhere.txt', r.stderr)) == 1, r.stderr[-3000:]

def test_no_run(wheel_env, empty):
    "Right after the installation the model in the box writes, and the program says so"
    words = 'generate', 'Once upon a time', '--seed', 0, '--max_new_tokens', 20
    r = wheel_env('-m', 'slm_scratch', *words, cwd=empty)
    assert r.stdout.startswith('Once upon a time ') and len(r.stdout.split()) > 12
    said, *measured = r.stderr.splitlines()
    assert 'no run under runs/ yet: tales-tiny writes' in said
    assert all(line.startswith('measured once on this machine: ') for line in measured)

# ---- the owner's lines ----

owner = '''
import torch
from slm_scratch import SmallLanguageModel, LanguageModelTrainer, ModelConfig, MODEL_CONFIG
{model}
trainer = LanguageModelTrainer(model)
history = trainer.train(data_path="your_text_data.txt", batch_size=16, learning_rate=3e-4, epochs=5)
import os
os.chdir(trainer.out_dir)

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
# the line that makes the model, sentences of the text, d_model
MODELS = {
    'default': ('SmallLanguageModel()', 20, '512'),
    'small': ('SmallLanguageModel(ModelConfig(d_model=64, n_heads=4, n_layers=2))', 600, '64'),
}

@pytest.mark.parametrize('name', MODELS)
def test_owners_lines(name, wheel_env, empty):
    "Verbatim, on a short text of one's own: the default model gets fewer sentences"
    model, n_sentences, d_model = MODELS[name]
    (empty/'your_text_data.txt').write_text(story(n_sentences), encoding='utf-8')
    r = wheel_env('-c', owner.format(model=f'model = {model}'), cwd=empty)
    assert r.stdout.split()[-2] == d_model
