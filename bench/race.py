"""Quality for a given time: from raw text to a model in N seconds, tokenizer included, and then its
bits per byte on text that it has not seen.

    python bench/race.py TEXT.txt                       # 60 seconds, three seeds, two threads
    python bench/race.py TEXT.txt --seconds 30 240 --only counting ours 'ours, modern'
    python bench/race.py TEXT.txt --nanogpt CHECKOUT    # karpathy/nanoGPT beside it
    python bench/race.py TEXT.txt --recipe mine.py:race # a recipe of yours
    python bench/race.py TEXT.txt --store board.json    # keep the runs; none is run twice

The protocol: the last twentieth of the documents is held out; all of it is scored, with the model
as it is at the end. Each run is a process of its own, one after another. The clock starts when a
recipe is called, after its imports, and stops when it returns; scoring is not counted. A recipe
that takes more than its time is marked.

A recipe is a function: `recipe(texts, seconds, seed)` gets the training documents and returns a
function `bits(documents)`, the surprise in bits of held-out documents, all together, each followed
by an end of text. Counting is a row of every table: a model that has not passed it has learned
less than a table holds."""
import argparse, importlib.util, json, math, os, subprocess, sys, tempfile, time
from pathlib import Path
from statistics import median

# ---- recipes ----

def vocabulary(texts, size=4096):
    "A tokenizer of these texts, and their tokens"
    from slm_scratch import Tokenizer
    from slm_scratch.data import TokenDataset
    tokenizer = Tokenizer.train(texts, size)
    return tokenizer, TokenDataset.from_texts(texts, tokenizer)

def counting(texts, seconds, seed):
    "Interpolated Kneser-Ney over 4-grams, the same for every seed"
    from slm_scratch.data import NGram, TokenDataset
    tokenizer, data = vocabulary(texts)
    table = NGram.train(data.tokens, tokenizer.vocab_size, order=4)
    def bits(documents):
        valid = TokenDataset.from_texts(documents, tokenizer)
        return table.bits_per_byte(valid)*valid.n_bytes
    return bits

def options(**changes):
    "What `slm-train` gives `train`, with `changes`"
    from slm_scratch.engine.cli import TRAINING, training_arguments
    usual = {name: how['default'] for name, how in TRAINING.items() if 'default' in how}
    limits = dict.fromkeys(('max_steps', 'epochs', 'out_dir'))
    return training_arguments(limits | usual | dict(max_minutes=1., seed=0) | changes)

def train(tokenizer, data, seed, limit, training={}, trainer=None, model=None, **changes):
    """A model trained as `slm-train` does it, and its history. `limit` is `max_minutes` or
    `max_steps`; `changes` are fields of `ModelConfig`, `training` options of `train`"""
    import torch
    from dataclasses import replace
    from slm_scratch import LanguageModelTrainer, SmallLanguageModel
    from slm_scratch.engine.cli import SMALL_MODEL
    torch.manual_seed(seed)
    config = replace(SMALL_MODEL, vocab_size=tokenizer.vocab_size, **changes)
    model = (model or SmallLanguageModel)(config, tokenizer)
    arguments = options(seed=seed, **training)
    with tempfile.TemporaryDirectory() as out:
        arguments |= dict(max_minutes=None) | limit | dict(out_dir=out, verbose=False)
        history = (trainer or LanguageModelTrainer)(model).train((data, None), **arguments)
    return model, history

def ours(texts, seconds, seed, **changes):
    "What `slm-train` does; for `changes` see `train`"
    from slm_scratch import evaluate
    began = time.perf_counter()
    tokenizer, data = vocabulary(texts)
    left = seconds - (time.perf_counter() - began) - .5 # the last step, and saving
    model, history = train(tokenizer, data, seed, dict(max_minutes=left/60), **changes)
    def bits(documents):
        e = evaluate(model, documents)
        return e.bits_per_byte*e.n_bytes
    bits.tokens, bits.train_loss = history[-1]['tokens'], history[-1]['loss']
    return bits

def modern(texts, seconds, seed):
    "The same with the modern block"
    from slm_scratch.engine.modern import MODERN
    return ours(texts, seconds, seed, **MODERN | dict(mimetic_init=0.))

def classic(texts, seconds, seed):
    "GPT-2's block with AdamW and a cosine: the first row of `ablation.py`"
    training = dict(optimizer='adamw', learning_rate=1e-3, schedule='cosine', batch_size=4,
                    beta2=.95)
    return ours(texts, seconds, seed, positions='learned', mimetic_init=0., training=training)

def winner(seconds):
    """What won `ablation.py` for so much time: changes of what `slm-train` does. A table of values
    for each token, short windows, a narrow model, a higher rate that falls to 0"""
    training = dict(batch_size=16, block_size=128, learning_rate=.012, min_lr=0.)
    shape = dict(d_model=96, n_heads=3, n_layers=1 if seconds < 120 else 3)
    return dict(value_embeddings=True, max_seq_len=128, training=training) | shape

def for_the_time(texts, seconds, seed):
    "The winner for so much time; no other program can read its model"
    return ours(texts, seconds, seed, **winner(seconds))

def log_probs(model, ids):
    "The log of the probability of each token but the first"
    import torch
    from slm_scratch.engine.evaluate import sliding_windows
    found = []
    with torch.inference_mode():
        for x, y in sliding_windows(ids, model.config.max_seq_len):
            logits = model(torch.from_numpy(x)[None])[0].log_softmax(-1)    # (T, V)
            y = torch.from_numpy(y)                                         # −100: scored before
            found.append(logits.gather(1, y.clamp_min(0)[:, None])[y >= 0, 0])
    return torch.cat(found).double()

def with_counts(texts, seconds, seed, limit=None, **changes):
    """A model and the table of 4-grams together: the mean of their probabilities, with the weight
    that suits a fortieth of the training documents, from which neither learns. The model is the
    winner for so much time; or, given a `limit`, it is trained as `train` says"""
    import numpy as np, torch
    from slm_scratch.data import NGram
    began, n = time.perf_counter(), max(1, len(texts)//40)
    tokenizer, data = vocabulary(texts[:-n])
    table = NGram.train(data.tokens, tokenizer.vocab_size, order=4)
    if limit is None:
        changes = winner(seconds)
        spent = time.perf_counter() - began + 1.5 # the weight, too
        limit = dict(max_minutes=(seconds - spent)/60)
    model, history = train(tokenizer, data, seed, limit, **changes)
    def both(documents): # log of the probability by the model, and by the table
        ids = [np.array([tokenizer.eot, *tokenizer.encode(t), tokenizer.eot]) for t in documents]
        return (torch.cat([log_probs(model, i) for i in ids]),
                torch.cat([torch.from_numpy(table.probs(i)[1:]).log() for i in ids]))
    def mixed(p, q, weight): return torch.logaddexp(p + math.log(weight), q + math.log(1 - weight))
    p, q = both(texts[-n:])
    weight = max((w/20 for w in range(1, 20)), key=lambda w: mixed(p, q, w).sum())
    def bits(documents): return -mixed(*both(documents), weight).sum().item()/math.log(2)
    bits.tokens = history[-1]['tokens']
    return bits

def nanogpt(texts, seconds, seed):
    """nanoGPT's model and optimizer with GPT-2's vocabulary: 256 wide, 4 layers, 8 rows of 256
    tokens, AdamW at 1e-3, warm-up, and a cosine that ends with the time"""
    import numpy as np, torch
    from slm_scratch import Tokenizer
    sys.path.insert(0, os.environ['RACE_NANOGPT'])
    from model import GPT, GPTConfig
    began = time.perf_counter()
    torch.manual_seed(seed)
    gpt2 = Tokenizer.gpt2()
    ids = torch.tensor(np.concatenate([[*gpt2.encode(t), gpt2.eot] for t in texts]))
    net = GPT(GPTConfig(block_size=256, vocab_size=50257, n_layer=4, n_head=4, n_embd=256,
                        dropout=0., bias=True))
    opt = net.configure_optimizers(.1, 1e-3, (.9, .95), 'cpu')
    start = time.perf_counter()
    whole, step = seconds - (start - began) - .5, 0
    while (spent := (time.perf_counter() - start)/whole) < 1:
        for group in opt.param_groups:
            group['lr'] = 1e-3*min(1, spent/.03)*max(.1, .5*(1 + math.cos(math.pi*spent)))
        at = torch.randint(len(ids) - 257, (8, 1)) + torch.arange(257)
        opt.zero_grad(set_to_none=True)
        net(ids[at][:, :-1], ids[at][:, 1:].contiguous())[1].backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.)
        opt.step()
        step += 1
    net.eval()
    def bits(documents):
        from slm_scratch.engine.evaluate import sliding_windows
        total, eot = 0., gpt2.eot
        with torch.no_grad():
            for text in documents:
                for x, y in sliding_windows([eot, *gpt2.encode(text), eot], 256):
                    x, y = torch.from_numpy(x)[None], torch.from_numpy(y)[None]
                    logits = net(x, y.clamp_min(0))[0][0] # targets: so all positions
                    total += torch.nn.functional.cross_entropy(
                        logits, y[0], ignore_index=-100, reduction='sum').item()
        return total/math.log(2)
    return bits

RECIPES = {'counting': counting, "GPT-2's block": classic, 'ours': ours, 'ours, modern': modern,
           'ours, for the time': for_the_time, 'ours, with counts': with_counts, 'nanoGPT': nanogpt}

def find_recipe(name):
    "A function of this file by its name in the table, or FILE.py:FUNCTION"
    if name in RECIPES: return RECIPES[name]
    file, _, function = name.rpartition(':')
    spec = importlib.util.spec_from_file_location('recipe', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)

# ---- the protocol ----

def split(path):
    "Training documents, and the last twentieth"
    from slm_scratch.engine.corpus import read_texts
    texts = list(read_texts(str(path), None))
    n = max(1, len(texts)//20)
    return texts[:-n], texts[-n:]

def run(a, recipe):
    "One run, in this process: prints a line of JSON"
    import torch
    torch.set_num_threads(a.threads)
    train, held_out = split(a.text)
    began = time.perf_counter()
    bits = recipe(train, a.seconds[0], a.seed)
    took = time.perf_counter() - began
    n_bytes = sum(len(t.encode('utf-8')) for t in held_out)
    print(json.dumps(dict(took=took, bits_per_byte=bits(held_out)/n_bytes,
                          tokens=getattr(bits, 'tokens', None),
                          train_loss=getattr(bits, 'train_loss', None))))

def start(a, name, seconds, seed, script=__file__, *more):
    "One run, in a process of its own: what it printed, or None"
    command = [sys.executable, script, a.text, '--run', name, '--seconds', str(seconds),
               '--seed', str(seed), '--threads', str(a.threads), *more]
    nanogpt = vars(a).get('nanogpt') or ''
    env = dict(os.environ, RACE_NANOGPT=nanogpt, OMP_NUM_THREADS=str(a.threads))
    done = subprocess.run(command, env=env, capture_output=True, text=True, encoding='utf-8')
    if done.returncode == 0: return json.loads(done.stdout.splitlines()[-1])
    print(f'{name}, seed {seed}: {done.stderr.strip().splitlines()[-1][:200]}', file=sys.stderr)

def parse_arguments():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('text', help='a text file')
    ap.add_argument('--seconds', nargs='+', type=float, default=[60.])
    ap.add_argument('--seeds', type=int, default=3, help='runs of each recipe')
    ap.add_argument('--threads', type=int, default=2)
    ap.add_argument('--only', nargs='*', help=f'of {", ".join(RECIPES)}')
    ap.add_argument('--nanogpt', help='a checkout of karpathy/nanoGPT')
    ap.add_argument('--recipe', action='append', default=[], help='FILE.py:FUNCTION')
    ap.add_argument('--store', type=Path, help='a board: gets each run; none is run twice')
    ap.add_argument('--run', help=argparse.SUPPRESS)
    ap.add_argument('--seed', type=int, default=0, help=argparse.SUPPRESS)
    return ap.parse_args()

def read_board(path):
    "The runs of a board; none if there is no such file"
    return json.loads(path.read_text(encoding='utf-8')) if path and path.exists() else []

def keep(path, run):
    "Add a run to the board"
    path.write_text(json.dumps([*read_board(path), run], indent=1) + '\n', encoding='utf-8')

def main():
    a = parse_arguments()
    if a.run: return run(a, find_recipe(a.run))
    import torch
    from slm_scratch.engine.kernels import machine_key
    torch.set_num_threads(a.threads)
    names = a.only or [n for n in RECIPES if n != 'nanoGPT' or a.nanogpt]
    about = dict(text=Path(a.text).name, machine=machine_key())
    print(f'{about["text"]}, {about["machine"]}; '
          f'bits per byte, median of {a.seeds} seeds (lowest … highest)', flush=True)
    for seconds in a.seconds:
        for name in [*names, *a.recipe]:
            runs = []
            for seed in range(1 if name == 'counting' else a.seeds):
                this = about | dict(recipe=name, seconds=seconds, seed=seed)
                if known := [r for r in read_board(a.store) if this.items() <= r.items()]:
                    runs.append(known[0])
                    continue
                if not (r := start(a, name, seconds, seed)): continue
                runs.append(r)
                if a.store: keep(a.store, this | r)
            if not runs: continue
            found, slow = [r['bits_per_byte'] for r in runs], max(r['took'] for r in runs)
            late = f'   took {slow:.0f} s' if slow > 1.05*seconds + 1 else ''
            took = f'{median(r["took"] for r in runs):.1f} s'
            print(f'{seconds:6.0f} s  {name:24}{median(found):8.3f}  '
                  f'({min(found):.3f} … {max(found):.3f})  {took:>8}{late}', flush=True)

if __name__ == '__main__': main()
