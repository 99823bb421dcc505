"""Tokens a second of this package beside other engines: one text (or a batch), the default model, top-k 50.

All contenders have the same weights and take turns, so that each of them sees the same weather on a shared machine; the table gives the median of
their turns. Each lives in a process of its own, since the waiting threads of one engine would slow down another. What is not installed is skipped with
one line. nanoGPT is read from a checkout, or fetched into a temporary folder and forgotten.

usage: python bench/generate.py [--batch 32] [--tokens 64] [--rounds 5] [--threads 2] [--nanogpt CHECKOUT] [--only NAME ...]
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
    t = time.perf_counter(); f()
    return time.perf_counter() - t

# ---- the contenders: each takes the folder, the prompts (lists of ids), and the arguments, and returns a function that draws n tokens ----

def load(folder, int8=False): return SmallLanguageModel.load(folder.parent/('model8.pth' if int8 else 'model.pth'))

def ours(folder, prompts, a, int8=False):
    model = load(folder, int8)
    texts = [model.tokenizer.decode(p) for p in prompts]
    return lambda n: model.generate(texts, max_new_tokens=n, temperature=1., top_k=a.top_k, stop_at_eot=False)

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
    transformers.logging.set_verbosity_error(); transformers.logging.disable_progress_bar()
    model, ids = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval(), torch.tensor(prompts)
    knobs = dict(attention_mask=torch.ones_like(ids), do_sample=True, top_k=a.top_k, temperature=1., pad_token_id=0)
    return lambda n: model.generate(ids, max_new_tokens=n, min_new_tokens=n, **knobs)

def ctranslate2(folder, prompts, a, kind='float32'):
    import ctranslate2
    from ctranslate2.converters import TransformersConverter
    TransformersConverter(str(folder)).convert(out := tempfile.mkdtemp(), quantization=kind, force=True)
    engine = ctranslate2.Generator(out, compute_type=kind, intra_threads=a.threads, inter_threads=1)
    letters = {i: t for t, i in json.loads((folder/'vocab.json').read_text(encoding='utf-8')).items()}
    words, knobs = [[letters[i] for i in p] for p in prompts], dict(sampling_topk=a.top_k, sampling_temperature=1., include_prompt_in_result=False)
    return lambda n: engine.generate_batch(words, max_length=n, min_length=n, end_token=[], **knobs)

def nanogpt(folder, prompts, a):
    path = Path(a.nanogpt)/'model.py' if a.nanogpt else Path(tempfile.mkdtemp())/'nanogpt_model.py'
    if not a.nanogpt: urllib.request.urlretrieve(NANOGPT, path)
    spec = importlib.util.spec_from_file_location('nanogpt_model', path); mod = importlib.util.module_from_spec(spec); spec.loader.exec_module(mod)
    c, ids = load(folder).config, torch.tensor(prompts)
    net = mod.GPT(mod.GPTConfig(block_size=c.max_seq_len, vocab_size=c.vocab_size, n_layer=c.n_layers, n_head=c.n_heads, n_embd=c.d_model)).eval()
    return lambda n: net.generate(ids, n, temperature=1., top_k=a.top_k)

CONTENDERS = {'ours, readable': readable, 'ours': ours, 'ours, int8': partial(ours, int8=True), 'transformers': transformers,
              'transformers, bf16': partial(transformers, dtype=torch.bfloat16), 'CTranslate2': ctranslate2,
              'CTranslate2, int8': partial(ctranslate2, kind='int8'), 'nanoGPT': nanogpt}

def here():
    "The contenders without those that this processor could only emulate: bf16 takes minutes then"
    from slm_scratch.engine.device import device_info
    native = device_info('cpu')['bf16']
    if not native: print('transformers, bf16: skipped (this processor has no bf16; --only names it)')
    return [name for name in CONTENDERS if native or 'bf16' not in name]

# ---- each in a process of its own: a line in, a line out ----

def work(a):
    "The life of a contender: get ready, then draw tokens whenever told to, and say how long it took"
    say = os.fdopen(os.dup(1), 'w', encoding='utf-8', buffering=1); os.dup2(2, 1) # what libraries print goes elsewhere
    folder = Path(a.folder)
    try: run = CONTENDERS[a.work](folder, json.loads((folder.parent/'prompts.json').read_text(encoding='utf-8')), a); run(4)
    except Exception as e: say.write(f'{type(e).__name__}: {" ".join(str(e).split())[:90]}\n'); return
    say.write('ready\n')
    for line in sys.stdin: say.write(f'{clock(lambda: run(int(line)))}\n')

class Worker:
    def __init__(self, name, folder, argv):
        self.p = subprocess.Popen([sys.executable, __file__, *argv, '--work', name, '--folder', str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True, encoding='utf-8')
        self.state, self.took = self.p.stdout.readline().strip(), []
    def turn(self, n):
        self.p.stdin.write(f'{n}\n'); self.p.stdin.flush()
        self.took.append(float(self.p.stdout.readline()))
        time.sleep(.3)                                         # its threads spin for a while before they sleep
    def end(self): self.p.stdin.close(); self.p.wait()

# ---- the limit: every byte of the weights must come from memory once a token ----

def bus_speed(size=256*2**20):
    "Bytes a second, the best of some sums over more than any cache holds"
    t = torch.ones(size//4)
    return size/min(clock(t.sum) for _ in range(5))

def weight_bytes(model):
    "Bytes that a token reads: all weights but the tables that are only looked up"
    return sum({t.data_ptr(): t.nbytes for n, t in model.state_dict().items() if 'position' not in n}.values())

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--preset', default='small'); ap.add_argument('--batch', type=int, default=1)
    ap.add_argument('--prompt', type=int, default=16, help='tokens of the prompt'); ap.add_argument('--tokens', type=int, default=64, help='tokens to draw')
    ap.add_argument('--top-k', type=int, default=50); ap.add_argument('--rounds', type=int, default=5)
    ap.add_argument('--threads', type=int, default=os.cpu_count()); ap.add_argument('--only', nargs='*', help='names of contenders')
    ap.add_argument('--nanogpt', default='', help='a checkout of karpathy/nanoGPT'); ap.add_argument('--work', help=argparse.SUPPRESS); ap.add_argument('--folder', help=argparse.SUPPRESS)
    a = ap.parse_args()
    torch.set_num_threads(a.threads); torch.manual_seed(0)
    if a.work: return work(a)
    model, folder = SmallLanguageModel(PRESETS[a.preset]).eval(), Path(tempfile.mkdtemp())/'model'
    model8 = model.quantize()
    model.save_pretrained(folder); model.save(folder.parent/'model.pth'); model8.save(folder.parent/'model8.pth')
    (folder.parent/'prompts.json').write_text(json.dumps(torch.randint(1000, 9000, (a.batch, a.prompt)).tolist()), encoding='utf-8')
    workers, argv = {}, [x for k in ('preset', 'top_k', 'threads', 'nanogpt') for x in (f'--{k.replace("_", "-")}', str(getattr(a, k)))]
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
    print(f'\n{a.preset}: {sum(p.numel() for p in model.parameters())/1e6:.1f}M parameters, {a.batch} text(s), {a.tokens} tokens after {a.prompt}, top-k {a.top_k}, '
          f'{a.threads} threads, torch {torch.__version__}; median of {a.rounds} turns')
    print(f'{"":28}{"tok/s":>9}{"ratio":>8}   slowest … fastest turn')
    for name, v in sorted(speed.items(), key=lambda o: o[1]):
        print(f'{name:28}{v:9.1f}{v/base:8.2f}   {a.batch*a.tokens/max(took[name]):.1f} … {a.batch*a.tokens/min(took[name]):.1f}')
    for name, m in (('limit of the bus, float32', model), ('limit of the bus, int8', model8)):
        v = a.batch*median(bus)/weight_bytes(m)
        print(f'{name:28}{v:9.1f}{v/base:8.2f}   {weight_bytes(m)/1e6:.0f} MB a token at {median(bus)/1e9:.1f} GB/s')

if __name__ == '__main__': main()
