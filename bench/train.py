"""One training step, ours beside nanoGPT's model and transformers' GPT-2: weights of the same
shapes, the same batches, each in a process of its own.

    python bench/train.py --nanogpt PATH      # a checkout of karpathy/nanoGPT; default: git fetches
                                              # one into a temporary folder
    python bench/train.py --ours fp32 bf16    # the precisions of ours, instead of `auto`;
                                              # bf16-compile is with torch.compile

Tokens a second: the fastest of a few rounds, which are taken in turn, so that a busy minute slows
all alike. Memory: the peak of the process, less what it had after its imports. Peers run as they
come on a CPU: float32, AdamW as they make it. Nothing of theirs is part of this project."""
import argparse, importlib.util, json, math, os, resource, subprocess, sys, tempfile, time
from contextlib import ExitStack
from pathlib import Path

# the default model
SIZES = dict(vocab_size=50257, d_model=512, n_heads=8, n_layers=6, max_seq_len=1024)

def batches(B, T, seed=0):
    "Random tokens: what they say does not matter for speed"
    import torch
    g = torch.Generator().manual_seed(seed)
    while True:
        ids = torch.randint(SIZES['vocab_size'], (B, T + 1), generator=g)
        yield ids[:, :-1], ids[:, 1:].contiguous()

# ---- the steps: each function returns step(x, y) → loss ----

around = ExitStack() # what surrounds all steps of a worker

def random_tokens(n=10**6, seed=0):
    "A `TokenDataset` of one document of random tokens: what they say does not matter for speed"
    import numpy as np
    from slm_scratch.data import TokenDataset
    ids = np.random.default_rng(seed).integers(SIZES['vocab_size'], size=n, dtype=np.uint16)
    facts = np.array([0]), np.array([4*n]), np.array([np.nan])
    return TokenDataset(ids, *facts, dict(fingerprint='random'))

def ours(precision, B, T, *more):
    "The step of `LanguageModelTrainer`, batch and all; `more` may hold 'recompute' and 'compile'"
    from slm_scratch import LanguageModelTrainer, ModelConfig, SmallLanguageModel
    trainer = LanguageModelTrainer(SmallLanguageModel(ModelConfig(**SIZES)))
    options = dict(precision=precision, batch_size=B, block_size=T, max_steps=10**6,
                   device='cpu', verbose=False,
                   out_dir=around.enter_context(tempfile.TemporaryDirectory()),
                   compile='compile' in more, checkpoint_activations='recompute' in more)
    around.enter_context(trainer.session((random_tokens(), None), **options))
    return lambda x, y: trainer.train_step()[0] # it takes batches of its own, of the same shape

def nanogpt(path):
    "The step of nanoGPT's train.py, with gradient accumulation 1"
    import torch
    sys.path.insert(0, str(path))
    from model import GPT, GPTConfig
    c = SIZES
    config = GPTConfig(block_size=c['max_seq_len'], vocab_size=c['vocab_size'],
                       n_layer=c['n_layers'], n_head=c['n_heads'], n_embd=c['d_model'], bias=True)
    model = GPT(config)
    opt = model.configure_optimizers(.1, 6e-4, (.9, .95), 'cpu')
    return plain_step(model, opt, lambda x, y: model(x, y)[1])

def huggingface():
    "GPT-2 of transformers, with its own loss and PyTorch's AdamW"
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel
    c = SIZES
    config = GPT2Config(vocab_size=c['vocab_size'], n_positions=c['max_seq_len'],
                        n_embd=c['d_model'], n_head=c['n_heads'], n_layer=c['n_layers'],
                        resid_pdrop=0., embd_pdrop=0., attn_pdrop=0.,
                        bos_token_id=None, eos_token_id=None, use_cache=False)
    model = GPT2LMHeadModel(config)
    model.train()
    opt = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(.9, .95), weight_decay=.1)
    # its loss shifts the labels itself, so it gets the inputs and predicts one token fewer
    return plain_step(model, opt, lambda x, y: model(input_ids=x, labels=x).loss)

def plain_step(model, opt, loss_of):
    "Forward, backward, clip, step"
    import torch
    def step(x, y):
        loss = loss_of(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        opt.step()
        opt.zero_grad(set_to_none=True)
        return loss.item()
    return step

def make(name, path, B, T):
    "The step of that name"
    if name == 'nanogpt': return nanogpt(path)
    if name == 'transformers': return huggingface()
    _, precision, *more = name.split('-')
    return ours(precision, B, T, *more)

# ---- a worker: a process that makes one step after another, when it is told to ----

def imports(name):
    "What is loaded before memory is counted: it is nobody's step"
    import torch, torch._dynamo, torch.utils.checkpoint
    if name == 'transformers': import transformers.models.gpt2.modeling_gpt2
    if name.startswith('ours'): import slm_scratch.train

def worker(name, path, B, T):
    "For each line on stdin: the seconds of a step, its loss, and the peak of the memory so far"
    out, sys.stdout = sys.stdout, sys.stderr
    imports(name)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024
    before, data = peak(), batches(B, T)
    import torch
    torch.manual_seed(0)
    step = make(name, path, B, T)
    with around:
        for _ in sys.stdin:
            x, y = next(data)
            t = time.perf_counter()
            loss = step(x, y)
            measured = dict(seconds=time.perf_counter() - t, loss=float(loss), peak=peak() - before)
            print(json.dumps(measured), file=out, flush=True)

class Worker:
    "The other end of a `worker`"
    def __init__(self, name, args, B):
        cmd = [sys.executable, __file__, '--worker', name, '--nanogpt', str(args.nanogpt),
               '--batch', str(B), '--block', str(args.block)]
        errors = None if args.loud else subprocess.DEVNULL
        self.p = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=errors, text=True, encoding='utf-8')
    def step(self):
        self.p.stdin.write('\n')
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        if not line: raise SystemExit(f'{self.p.args[3]} failed; run again with --loud')
        return json.loads(line)
    def close(self):
        self.p.stdin.close()
        self.p.wait()

def race(names, args):
    "name → tokens a second of its fastest step, first loss"
    runners = {n: Worker(n, args, args.batch) for n in names}
    first = {n: w.step()['loss'] for n, w in runners.items()} # warm-up
    best = dict.fromkeys(names, math.inf)
    for _ in range(args.rounds):
        for n, w in runners.items(): best[n] = min(best[n], w.step()['seconds'])
    for w in runners.values(): w.close()
    return {n: args.batch*args.block/s for n, s in best.items()}, first

def peaks(names, args):
    "name → bytes, the peak of two steps (the second has the optimizer's averages)"
    res = {}
    for n in names if args.memory_batch else ():
        w = Worker(n, args, args.memory_batch)
        w.step()
        res[n] = w.step()['peak']
        w.close()
    return res

def fetch_nanogpt(folder):
    "nanoGPT, into a temporary folder; None, with one line, if it cannot be fetched"
    cmd = ['git', 'clone', '-q', '--depth', '1', 'https://github.com/karpathy/nanoGPT', str(folder)]
    try: subprocess.run(cmd, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as e:
        print(f'nanogpt: skipped ({type(e).__name__}; --nanogpt names a checkout)')
        return None
    return folder

def available_peers(args):
    "The names of the peers that are here"
    found = ['nanogpt'] if args.nanogpt else []
    if importlib.util.find_spec('transformers'): return [*found, 'transformers']
    print('transformers: skipped (not installed)')
    return found

def table(speed, memory, first, names):
    "Markdown, with ratios to each peer"
    peers = [n for n in ('nanogpt', 'transformers') if n in names]
    head = ['step', 'tokens a second', *(f'x {p}' for p in peers), 'peak memory',
            *(f'of {p}' for p in peers), 'first loss']
    rows = [head, ['---', *['---:']*(len(head) - 1)]]
    for n in names:
        m = memory.get(n, math.nan)
        times = [f'{speed[n]/speed[p]:.2f}' for p in peers]
        parts = [f'{m/memory.get(p, math.nan):.0%}' for p in peers]
        rows.append([n, f'{speed[n]:,.0f}', *times, f'{m/1e9:.2f} GB', *parts, f'{first[n]:.3f}'])
    return '\n'.join(f"| {' | '.join(row)} |" for row in rows)

if __name__ == '__main__':
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--nanogpt', type=Path, help='a checkout of karpathy/nanoGPT')
    ap.add_argument('--ours', nargs='*', default=['auto'], help='precisions of ours')
    ap.add_argument('--batch', type=int, default=4)
    ap.add_argument('--block', type=int, default=256)
    ap.add_argument('--memory_batch', type=int, default=16,
                    help='windows in a batch for the measurement of memory; 0: none')
    ap.add_argument('--rounds', type=int, default=5)
    ap.add_argument('--json', type=Path, help='write the numbers there too')
    ap.add_argument('--loud', action='store_true', help='show what the workers print')
    ap.add_argument('--worker', help=argparse.SUPPRESS)
    args = ap.parse_args()
    if args.worker: sys.exit(worker(args.worker, args.nanogpt, args.batch, args.block))
    with tempfile.TemporaryDirectory() as tmp:
        if args.nanogpt is None: args.nanogpt = fetch_nanogpt(Path(tmp)/'nanoGPT')
        import torch
        names = [*available_peers(args), *(f'ours-{p}' for p in args.ours)]
        speed, first = race(names, args)
        more = [*names, f'ours-{args.ours[0]}-recompute']
        memory = peaks(more, args)
    threads = os.environ.get('OMP_NUM_THREADS', torch.get_num_threads())
    print(f'{args.batch} x {args.block} tokens a step, {args.rounds} rounds; memory at '
          f'{args.memory_batch} x {args.block}; torch {torch.__version__}, {threads} thread(s)\n')
    print(table(speed, memory, first, names))
    if memory:
        recomputed = memory[more[-1]]
        part = f", {recomputed/memory['nanogpt']:.0%} of nanogpt" if 'nanogpt' in memory else ''
        print(f'\nwith checkpoint_activations: {recomputed/1e9:.2f} GB{part}')
    if args.json:
        content = json.dumps(dict(speed=speed, memory=memory, first=first))
        args.json.write_text(content, encoding='utf-8')
