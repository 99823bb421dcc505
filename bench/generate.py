"""Tokens a second of this package beside other engines: one text (or a batch), the default model,
top-k 50. Also the time to the first token (with `--prompt 512` that is a long prompt's pass), and
the memory that writing takes beyond the loaded model: caches, and copies of weights in the order
of a kernel.

All engines have the same weights and take turns, so that a busy moment of a shared machine slows
all of them alike; the table gives the median of their turns. Each has a process of its own, since
the waiting threads of one engine would slow down another. What is not installed is skipped with one
line. nanoGPT is read from a checkout, or fetched into a temporary folder.

usage: python bench/generate.py [--batch 32] [--tokens 64] [--rounds 5] [--threads 2]
                                [--nanogpt CHECKOUT] [--only NAME ...]
"""
import argparse, importlib.util, json, os, subprocess, sys, tempfile, time, urllib.request, warnings
from functools import partial
from pathlib import Path
from statistics import median
import torch
from slm_scratch import PRESETS, SmallLanguageModel
from slm_scratch.generate import Decoder, Sampler

warnings.filterwarnings('ignore')
NANOGPT = 'https://raw.githubusercontent.com/karpathy/nanoGPT/master/model.py'

def clock(f):
    "Seconds that `f` takes"
    t = time.perf_counter()
    f()
    return time.perf_counter() - t

def memory(field='VmRSS'):
    "Bytes of memory of this process, as Linux counts them: now, or with 'VmHWM' at most; or NaN"
    status = Path('/proc/self/status')
    lines = status.read_text(encoding='utf-8').splitlines() if status.exists() else []
    kilobytes = next((l.split()[1] for l in lines if l.startswith(field + ':')), 'nan')
    return 1024*float(kilobytes)

def reset_peak():
    "What `memory('VmHWM')` says begins anew. Returns whether the system can do that"
    try: Path('/proc/self/clear_refs').write_text('5', encoding='utf-8')
    except OSError: return False
    return True

# ---- the engines: each takes the folder, the prompts (lists of ids) and the arguments, and returns
# a function that draws n tokens ----

def load(folder, int8=False):
    return SmallLanguageModel.load(folder.parent/('model8.pth' if int8 else 'model.pth'))

def ours(folder, prompts, a, int8=False):
    model = load(folder, int8)
    texts = [model.tokenizer.decode(p) for p in prompts]
    knobs = dict(temperature=1., top_k=a.top_k, stop_at_eot=False)
    return lambda n: model.generate(texts, max_new_tokens=n, **knobs)

def readable(folder, prompts, a):
    "The plain decoder and the plain sampler, as the lesson builds them first"
    model, sampler = load(folder), Sampler(1., a.top_k)
    @torch.inference_mode()
    def run(n):
        d = Decoder(model, prompts, n)
        z = d.prefill()
        for i in range(n):
            ids = sampler(z, torch.rand(len(z))).tolist()
            if i < n - 1: z = d.step(ids)
    return run

def transformers(folder, prompts, a, dtype=torch.float32):
    import transformers
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    ids = torch.tensor(prompts)
    knobs = dict(attention_mask=torch.ones_like(ids), do_sample=True, top_k=a.top_k,
                 temperature=1., pad_token_id=0)
    return lambda n: model.generate(ids, max_new_tokens=n, min_new_tokens=n, **knobs)

def ctranslate2(folder, prompts, a, kind='float32'):
    import ctranslate2
    from ctranslate2.converters import TransformersConverter
    out = tempfile.mkdtemp()
    TransformersConverter(str(folder)).convert(out, quantization=kind, force=True)
    engine = ctranslate2.Generator(out, compute_type=kind, intra_threads=a.threads, inter_threads=1)
    vocab = json.loads((folder/'vocab.json').read_text(encoding='utf-8'))
    names = {i: t for t, i in vocab.items()}
    words = [[names[i] for i in p] for p in prompts]
    knobs = dict(sampling_topk=a.top_k, sampling_temperature=1., include_prompt_in_result=False)
    return lambda n: engine.generate_batch(words, max_length=n, min_length=n, end_token=[], **knobs)

def nanogpt(folder, prompts, a):
    path = Path(a.nanogpt)/'model.py' if a.nanogpt else Path(tempfile.mkdtemp())/'nanogpt_model.py'
    if not a.nanogpt: urllib.request.urlretrieve(NANOGPT, path)
    spec = importlib.util.spec_from_file_location('nanogpt_model', path)
    mod = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mod)
    c, ids = load(folder).config, torch.tensor(prompts)
    config = mod.GPTConfig(block_size=c.max_seq_len, vocab_size=c.vocab_size, n_layer=c.n_layers,
                           n_head=c.n_heads, n_embd=c.d_model)
    net = mod.GPT(config).eval()
    return lambda n: net.generate(ids, n, temperature=1., top_k=a.top_k)

ENGINES = {
    'ours, readable': readable,
    'ours': ours,
    'ours, int8': partial(ours, int8=True),
    'transformers': transformers,
    'transformers, bf16': partial(transformers, dtype=torch.bfloat16),
    'CTranslate2': ctranslate2,
    'CTranslate2, int8': partial(ctranslate2, kind='int8'),
    'nanoGPT': nanogpt,
}

def here():
    "The engines without those that this processor could only emulate: bf16 takes minutes then"
    from slm_scratch.engine.device import device_info
    native = device_info('cpu')['bf16']
    if not native: print('transformers, bf16: skipped (no bf16 in this processor; --only names it)')
    return [name for name in ENGINES if native or 'bf16' not in name]

# ---- each in a process of its own: a line in, a line out ----

def work(a):
    "A worker process: get ready, then draw as many tokens as each line asks, and print the seconds"
    say = os.fdopen(os.dup(1), 'w', encoding='utf-8', buffering=1)
    os.dup2(2, 1) # what libraries print goes elsewhere
    folder = Path(a.folder)
    prompts = json.loads((folder.parent/'prompts.json').read_text(encoding='utf-8'))
    try:
        run = ENGINES[a.work](folder, prompts, a)
        loaded = memory() if reset_peak() else float('nan')
        run(4)
    except Exception as e:
        say.write(f'{type(e).__name__}: {" ".join(str(e).split())[:90]}\n')
        return
    say.write('ready\n')
    for line in sys.stdin:
        took = clock(lambda: run(int(line)))
        say.write(f'{took} {memory("VmHWM") - loaded}\n')

class Worker:
    "The other end of `work`"
    def __init__(self, name, folder, argv):
        cmd = [sys.executable, __file__, *argv, '--work', name, '--folder', str(folder)]
        self.p = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True, encoding='utf-8')
        self.state = self.p.stdout.readline().strip()
        self.took, self.first, self.extra = [], [], None # seconds, seconds, bytes
    def ask(self, n):
        "Draw n tokens: seconds"
        self.p.stdin.write(f'{n}\n')
        self.p.stdin.flush()
        took, self.extra = map(float, self.p.stdout.readline().split())
        return took
    def turn(self, n):
        self.first.append(self.ask(1))
        self.took.append(self.ask(n))
        time.sleep(.3) # its threads spin for a while before they sleep
    def end(self):
        self.p.stdin.close()
        self.p.wait()

# ---- the limit: every byte of the weights must come from memory once a token ----

def bus_speed(size=256*2**20):
    "Bytes a second, the best of some sums over more than any cache holds"
    t = torch.ones(size//4)
    return size/min(clock(t.sum) for _ in range(5))

def weight_bytes(model):
    "Bytes that a token reads: all weights but the tables that are only looked up"
    read = {t.data_ptr(): t.nbytes for n, t in model.state_dict().items() if 'position' not in n}
    return sum(read.values())

def parse_arguments():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--preset', default='small')
    ap.add_argument('--batch', type=int, default=1)
    ap.add_argument('--prompt', type=int, default=16, help='tokens of the prompt')
    ap.add_argument('--tokens', type=int, default=64, help='tokens to draw')
    ap.add_argument('--top-k', type=int, default=50)
    ap.add_argument('--rounds', type=int, default=5)
    ap.add_argument('--threads', type=int, default=os.cpu_count())
    ap.add_argument('--only', nargs='*', help='names of engines')
    ap.add_argument('--nanogpt', default='', help='a checkout of karpathy/nanoGPT')
    ap.add_argument('--work', help=argparse.SUPPRESS)
    ap.add_argument('--folder', help=argparse.SUPPRESS)
    return ap.parse_args()

def write_models(a, folder):
    "The model in each engine's form, and the prompts; the model and its int8 copy"
    model = SmallLanguageModel(PRESETS[a.preset]).eval()
    model8 = model.quantize()
    model.save_pretrained(folder)
    model.save(folder.parent/'model.pth')
    model8.save(folder.parent/'model8.pth')
    prompts = torch.randint(1000, 9000, (a.batch, a.prompt)).tolist()
    (folder.parent/'prompts.json').write_text(json.dumps(prompts), encoding='utf-8')
    return model, model8

def main():
    a = parse_arguments()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    if a.work: return work(a)
    folder = Path(tempfile.mkdtemp())/'model'
    model, model8 = write_models(a, folder)
    argv = []
    for k in ('preset', 'top_k', 'threads', 'nanogpt'):
        argv += ['--' + k.replace('_', '-'), str(getattr(a, k))]
    workers = {}
    for name in a.only or here():
        w = Worker(name, folder, argv)
        if w.state == 'ready': workers[name] = w
        else: print(f'{name}: skipped ({w.state})')
    bus = []
    for _ in range(a.rounds):
        for w in workers.values(): w.turn(a.tokens)
        bus.append(bus_speed())
    for w in workers.values(): w.end()
    took = {name: w.took for name, w in workers.items()}
    speed = {name: a.batch*a.tokens/median(t) for name, t in took.items()}
    base = speed.get('transformers', next(iter(speed.values())))
    millions = sum(p.numel() for p in model.parameters())/1e6
    print(f'\n{a.preset}: {millions:.1f}M parameters, {a.batch} text(s), {a.tokens} tokens after '
          f'{a.prompt}, top-k {a.top_k}, {a.threads} threads, torch {torch.__version__}; '
          f'median of {a.rounds} turns')
    print(f'{"":28}{"tok/s":>9}{"ratio":>8}{"first ms":>10}{"extra MB":>10}   slowest … fastest')
    for name, v in sorted(speed.items(), key=lambda o: o[1]):
        slowest, fastest = (a.batch*a.tokens/f(took[name]) for f in (max, min))
        first, extra = 1e3*median(workers[name].first), workers[name].extra/1e6
        print(f'{name:28}{v:9.1f}{v/base:8.2f}{first:10.1f}{extra:10.1f}'
              f'   {slowest:.1f} … {fastest:.1f}')
    for name, m in (('limit of the bus, float32', model), ('limit of the bus, int8', model8)):
        v = a.batch*median(bus)/weight_bytes(m)
        megabytes = weight_bytes(m)/1e6
        print(f'{name:28}{v:9.1f}{v/base:8.2f}   {megabytes:.0f} MB a token '
              f'at {median(bus)/1e9:.1f} GB/s')

if __name__ == '__main__': main()
