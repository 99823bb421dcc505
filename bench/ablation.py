"""What does each part buy? A ladder from GPT-2's block with AdamW upwards, one change at a time, at
equal time; then single changes of the ladder's last row, the ones that lose among them.

    python bench/ablation.py TEXT.txt                    # 60 seconds, three seeds, two threads
    python bench/ablation.py TEXT.txt --seconds 240 --only 'windows of 128' --store results.json

A shared machine is fast in one minute and slow in the next, and who raced in the slow minute loses.
So the time is not taken from a clock during the race. First the step of every row is timed, all
rows in turn, and each row is granted as many steps as fit into the time by the median of its steps.
Then each row is trained for so many steps, some seeds each, and scored as in `race.py`: bits per
byte of the last twentieth of the documents. The tokenizer, the same for all, is not counted.

Timing steps and making them are two things. With `--pace MACHINE` rows get the steps that they were
granted on that machine, as it is called in the store, wherever they are trained; then several can
be trained at once (`--jobs 8`), and on a card, too (`--device cuda`). What is found is kept in the
file given with `--store` after each run, and what stands there is not run again: an interrupted
evening goes on where it ended. The guide `nbs/guides/what_it_buys.ipynb` shows
`slm_scratch/assets/ablation.json`.

Rows there that begin with `winner: ` or `tuned: ` were mostly made by another program: a loop of
the same steps, each step one CUDA graph on a GPU. On a CPU, 30 of its steps gave the same losses as
the trainer's to six digits. `AdamW beta2 0.995` and the `tuned: ` rows are its runs on a CPU, kept
with four digits. With `--only` this program repeats any of them."""
import argparse, json, sys, time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
import torch
from slm_scratch import SmallLanguageModel, evaluate
from slm_scratch.data import get_batch
from slm_scratch.engine.cli import SMALL_MODEL
from slm_scratch.engine.kernels import machine_key
from slm_scratch.engine.loss import LossModule
from slm_scratch.engine.optim import Muon, make_optimizers
sys.path.insert(0, str(Path(__file__).parent))
import race, tricks

# For each row: changes of `ModelConfig`, options of `train`, and what else `race.train` takes
CLASSIC = dict(positions='learned', mimetic_init=0.)
ROTARY = dict(positions='rotary', mimetic_init=0.)
LADDER = { # each row keeps what the rows above it changed
    "GPT-2's block, AdamW": (CLASSIC, dict(optimizer='adamw', learning_rate=1e-3,
                                           schedule='cosine')),
    'Muon': (CLASSIC, dict(learning_rate=6e-3, schedule='cosine')),
    'rotary positions': (ROTARY, dict(learning_rate=6e-3, schedule='cosine')),
    'WSD schedule': (ROTARY, dict(learning_rate=6e-3)),
    'learning rate 0.01': (ROTARY, dict(learning_rate=1e-2)),
}
GPT2 = LADDER["GPT-2's block, AdamW"][1] | dict(beta2=.99)
ASIDE = { # from the ladder's first row, and from its row `WSD schedule` to what `slm-train` does
    'AdamW beta2 0.99': (CLASSIC, GPT2),
    'AdamW beta2 0.99, learning rate 0.002': (CLASSIC, GPT2 | dict(learning_rate=2e-3)),
    'AdamW beta2 0.99, learning rate 0.004': (CLASSIC, GPT2 | dict(learning_rate=4e-3)),
    'AdamW beta2 0.99, learning rate 0.008': (CLASSIC, GPT2 | dict(learning_rate=8e-3)),
    'AdamW learning rate 0.004': (CLASSIC, GPT2 | dict(learning_rate=4e-3, beta2=.95)),
    'WSD schedule, batch size 8': (ROTARY, dict(learning_rate=6e-3, batch_size=8)),
    'slm-train': (ROTARY, dict(learning_rate=6e-3, batch_size=8, beta2=.99, momentum=.9)),
}
SINGLE = { # changes of the ladder's last row, each alone
    'mimetic initialization': (dict(mimetic_init=.5), {}),
    'windows of 128': (dict(max_seq_len=128), dict(batch_size=8, block_size=128)),
    'sliding-window attention, 64': (dict(sliding_window=64), {}),
    'x0 blend': (dict(x0_blend=True), {}),
    'value embeddings': (dict(value_embeddings=True), {}),
    'convolution of values': (dict(conv_width=4), {}),
    'convolution, no attention': (dict(conv_width=8, sliding_window=1), {}),
    'grouped-query attention': (dict(n_kv_heads=2), {}),
    'squared ReLU': (dict(activation='relu2'), {}),
    'RMSNorm': (dict(norm='rms'), {}),
    'QK norm': (dict(qk_norm=True), {}),
    'untied output': (dict(tie_weights=False), {}),
    'dropout 0.1': (dict(dropout=.1), {}),
    'hashed bigram embedding': ({}, {}, dict(model=tricks.TokenPairs)),
    'width 96': (dict(d_model=96, n_heads=3), {}),
    'width 160': (dict(d_model=160, n_heads=5), {}),
    'two blocks': (dict(n_layers=2), {}),
    'four blocks': (dict(n_layers=4), {}),
    'vocabulary of 2,048': ({}, {}, dict(vocabulary=2048)),
    'vocabulary of 8,192': ({}, {}, dict(vocabulary=8192)),
    'aligned windows': ({}, dict(aligned=True)),
    'decay to zero': ({}, dict(min_lr=0.)),
    'batch size 2': ({}, dict(batch_size=2)),
    'batch size 8': ({}, dict(batch_size=8)),
    'batch size 2, then 4': ({}, {}, dict(trainer=tricks.Growing)),
    'weight averaging': ({}, {}, dict(trainer=tricks.Averaging)),
    'cautious weight decay': ({}, {}, dict(muon=tricks.CautiousMuon)),
    'NorMuon': ({}, {}, dict(muon=tricks.RowScaledMuon)),
    'momentum warm-up': ({}, {}, dict(muon=tricks.WarmMuon)),
}
VALUES = dict(value_embeddings=True)
SHORT = VALUES | dict(max_seq_len=128), dict(batch_size=16, block_size=128)
NARROW = SHORT[0] | dict(d_model=96, n_heads=3)
OPTIMIZERS = dict(beta2=.99, momentum=.9, learning_rate=.012, min_lr=0.)
ON_TOP = { # of the ladder and batches of 8; each row keeps what the rows above it changed
    '+ value embeddings': (VALUES, dict(batch_size=8)),
    '+ windows of 128': SHORT,
    '+ width 96': (NARROW, SHORT[1]),
    '+ two blocks': (NARROW | dict(n_layers=2), SHORT[1]),
    '+ one block': (NARROW | dict(n_layers=1), SHORT[1]),
    '+ tuned optimizers': (NARROW | dict(n_layers=1), SHORT[1] | OPTIMIZERS),
    '+ 4-gram counts': (NARROW | dict(n_layers=1), SHORT[1] | OPTIMIZERS,
                             dict(recipe=race.with_counts)),
}
WINNER = SHORT[0], SHORT[1] | dict(min_lr=0.) # as good as any after four minutes, till tuned
CHANGES = { # of that, each alone; in the store their names begin with `winner: `, and their steps
    # were timed anew, beside each other
    'as it is': ({}, {}),
    'batch size 8': ({}, dict(batch_size=8)),
    'batch size 12': ({}, dict(batch_size=12)),
    'batch size 24': ({}, dict(batch_size=24)),
    'batch size 32': ({}, dict(batch_size=32)),
    'windows of 64': (dict(max_seq_len=64), dict(batch_size=32, block_size=64)),
    'windows of 96': (dict(max_seq_len=96), dict(batch_size=21, block_size=96)),
    'windows of 192': (dict(max_seq_len=192), dict(batch_size=11, block_size=192)),
    'windows of 256': (dict(max_seq_len=256), dict(batch_size=8, block_size=256)),
    'width 96': (dict(d_model=96, n_heads=3), {}),
    'width 112': (dict(d_model=112), {}),
    'width 144': (dict(d_model=144), {}),
    'width 160': (dict(d_model=160, n_heads=5), {}),
    'two blocks': (dict(n_layers=2), {}),
    'four blocks': (dict(n_layers=4), {}),
    'four blocks of width 96': (dict(n_layers=4, d_model=96, n_heads=3), {}),
    'five blocks of width 96': (dict(n_layers=5, d_model=96, n_heads=3), {}),
    'two blocks of width 160': (dict(n_layers=2, d_model=160, n_heads=5), {}),
    'two heads': (dict(n_heads=2), {}),
    'eight heads': (dict(n_heads=8), {}),
    'MLP of 256': (dict(d_ff=256), {}),
    'MLP of 384': (dict(d_ff=384), {}),
    'MLP of 768': (dict(d_ff=768), {}),
    'vocabulary of 2,048': ({}, {}, dict(vocabulary=2048)),
    'vocabulary of 3,072': ({}, {}, dict(vocabulary=3072)),
    'vocabulary of 6,144': ({}, {}, dict(vocabulary=6144)),
    'no value embeddings': (dict(value_embeddings=False), {}),
    'x0 blend': (dict(x0_blend=True), {}),
    'QK norm': (dict(qk_norm=True), {}),
    'embedding norm': (dict(embed_norm=True), {}),
    'logit soft cap 30': (dict(logit_softcap=30.), {}),
    'no biases': (dict(bias=False), {}),
    'untied output': (dict(tie_weights=False), {}),
    'squared ReLU': (dict(activation='relu2'), {}),
    'grouped-query attention': (dict(n_kv_heads=2), {}),
    'learning rate 0.006': ({}, dict(learning_rate=.006)),
    'learning rate 0.014': ({}, dict(learning_rate=.014)),
    'learning rate 0.02': ({}, dict(learning_rate=.02)),
    'warm-up of 10': ({}, dict(warmup_steps=10)),
    'warm-up of 200': ({}, dict(warmup_steps=200)),
    'cosine schedule': ({}, dict(schedule='cosine')),
    'no weight decay': ({}, dict(weight_decay=0.)),
    'weight decay 0.3': ({}, dict(weight_decay=.3)),
    'weight decay 1': ({}, dict(weight_decay=1.)),
    'gradient clipping at 0.3': ({}, dict(grad_clip=.3)),
    'no gradient clipping': ({}, dict(grad_clip=None)),
    'AdamW beta2 0.99': ({}, dict(beta2=.99)),
    'AdamW beta2 0.995': ({}, dict(beta2=.995)),
    'Muon momentum 0.85': ({}, dict(momentum=.85)),
    'Muon momentum 0.9': ({}, dict(momentum=.9)),
    'Muon momentum 0.98': ({}, dict(momentum=.98)),
}
AROUND = {f'winner: {name}': (WINNER[0] | model, WINNER[1] | training, *more)
          for name, (model, training, *more) in CHANGES.items()}
TUNED = { # of that with beta2 0.99; each row keeps what the rows above it changed
    'tuned: + Muon momentum 0.9': (WINNER[0], WINNER[1] | dict(beta2=.99, momentum=.9)),
    'tuned: + width 96, learning rate 0.012': (NARROW, SHORT[1] | OPTIMIZERS),
}
BASE = [*LADDER][-1]
ROWS = LADDER | ASIDE | {name: (LADDER[BASE][0] | model, LADDER[BASE][1] | training, *more)
                 for name, (model, training, *more) in (SINGLE | ON_TOP | AROUND | TUNED).items()}

def row(name):
    "model, training, more: what makes a row"
    model, training, *more = ROWS[name]
    usual = dict(batch_size=4, block_size=256, optimizer='muon', schedule='wsd', beta2=.95,
                 momentum=.95)
    return model, usual | training, more[0] if more else {}

@cache
def prepared(path, size):
    "A tokenizer of the training part and its tokens; the documents held out"
    train, held_out = race.split(path)
    return *race.vocabulary(train, size), held_out

# ---- how many steps a row is granted ----

def one_step(path, name, batch_size=None):
    "A function that takes a step and returns its seconds, data and optimizer included"
    changes, o, more = row(name)
    tokenizer, data, _ = prepared(path, more.get('vocabulary', 4096))
    config = replace(SMALL_MODEL, vocab_size=tokenizer.vocab_size, **changes)
    model = more.get('model', SmallLanguageModel)(config, tokenizer).train()
    muon = more.get('muon', Muon)
    optimizers = make_optimizers(model, o['optimizer'], o['learning_rate'], muon=muon)
    net = LossModule(model)
    def step(i):
        began = time.perf_counter()
        net(*get_batch(data, i, batch_size or o['batch_size'], o['block_size'])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        for opt in optimizers:
            opt.step()
            opt.zero_grad(set_to_none=True)
        return time.perf_counter() - began
    return step

def computation(name):
    "What the time of a step depends on: rows that agree in it are timed together"
    changes, o, more = row(name)
    free = tricks.Averaging, tricks.WarmMuon, race.with_counts
    costs = [(k, o[k]) for k in ('batch_size', 'block_size', 'optimizer')] # the rest is free
    return repr([changes | dict(mimetic_init=0), costs,
                 {k: v for k, v in more.items() if v not in free}])

def step_seconds(path, names, known=None, turns=48):
    """name → seconds of a step. The rows take turns; a step is compared with the mean of its turn,
    so that slow minutes cancel, and the median over the turns counts. How long that mean is, the
    first row tells, by its `known` seconds or else by steps of it alone: in turns each model finds
    the caches full of the others"""
    steps = {(name, None): one_step(path, name) for name in names}
    for name in names: # half of its steps are small ones
        if row(name)[2].get('trainer') is tricks.Growing: steps[name, 2] = one_step(path, name, 2)
    took = [{key: step(i) for key, step in steps.items()} for i in range(turns)][2:] # warm by then
    share = {}
    for name, batch in steps:
        share.setdefault((computation(name), batch), []).extend(
            t[name, batch]/mean(t.values()) for t in took)
    share = {name: mean(median(s) for (kind, _), s in share.items() if kind == computation(name))
             for name in names}
    alone = known or median(steps[names[0], None](i) for i in range(turns))
    return {name: alone*share[name]/share[names[0]] for name in names}

# ---- a run ----

def score(path, recipe, seed=0):
    "What a recipe of `race.py` reaches, but without a clock"
    train, held_out = race.split(path)
    n_bytes = sum(len(t.encode('utf-8')) for t in held_out)
    bits = recipe(train, None, seed)
    return dict(tokens=getattr(bits, 'tokens', None), bits_per_byte=bits(held_out)/n_bytes)

def train_row(path, name, steps, seed, device, threads):
    "Train a row for so many steps, and score it"
    torch.set_num_threads(threads)
    changes, training, more = row(name)
    if 'recipe' in more:
        changes |= dict(training=training, limit=dict(max_steps=steps))
        return score(path, partial(more['recipe'], **changes), seed)
    tokenizer, data, held_out = prepared(path, more.get('vocabulary', 4096))
    trainer = tricks.with_muon(more['muon']) if 'muon' in more else more.get('trainer')
    training = training | dict(device=device, precision='fp32')
    model, history = race.train(tokenizer, data, seed, dict(max_steps=steps), training, trainer,
                                more.get('model'), **changes)
    return dict(tokens=history[-1]['tokens'], train_loss=history[-1]['loss'],
                bits_per_byte=evaluate(model, held_out).bits_per_byte)

# ---- the evening ----

def load_store(path):
    "What was found so far: for each machine the seconds of a step of each row, and all runs"
    if not path.exists(): return dict(steps={}, runs=[])
    return json.loads(path.read_text(encoding='utf-8'))

def parse_arguments():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('text', help='a text file')
    ap.add_argument('--seconds', type=float, default=60.)
    ap.add_argument('--seeds', type=int, default=3, help='runs of each row')
    ap.add_argument('--threads', type=int, default=2)
    ap.add_argument('--only', nargs='*', choices=[*ROWS], metavar='ROW', default=[*ROWS],
                    help=f'of: {"; ".join(ROWS)}')
    ap.add_argument('--store', type=Path, default='ablation.json', help='where results are kept')
    ap.add_argument('--pace', help='grant the steps of this machine, as the store names it')
    ap.add_argument('--jobs', type=int, default=1, help='runs at once; the clock does not mind')
    ap.add_argument('--device', default='cpu', help='where to train')
    return ap.parse_args()

def show(runs, names):
    "The table"
    for name in ['counting', *names]:
        bits = [r['bits_per_byte'] for r in runs if r['row'] == name]
        if bits: print(f'{name:32}{mean(bits):8.3f}  ({min(bits):.3f} … {max(bits):.3f})')

def main():
    a = parse_arguments()
    torch.set_num_threads(a.threads)
    store, pace = load_store(a.store), a.pace or machine_key()
    def save(): a.store.write_text(json.dumps(store, indent=1) + '\n', encoding='utf-8')
    granted = store['steps'].setdefault(pace, {})
    kinds = {computation(name): seconds for name, seconds in granted.items() if name in ROWS}
    granted |= {n: kinds[computation(n)] for n in a.only if computation(n) in kinds} | granted
    if new := [n for n in a.only if n not in granted]: # else as in an earlier session
        if a.pace: sys.exit(f'{a.store} has no step of {pace!r} for: {"; ".join(new)}')
        first = next(iter(granted), None) # of an earlier session: so that all are comparable
        named = [first, *new] if first else new
        granted |= step_seconds(a.text, named, granted.get(first))
        save()
    store['train_tokens'] = len(prepared(a.text, 4096)[1].tokens)
    about = dict(text=Path(a.text).name, seconds=a.seconds, machine=pace)
    here = machine_key() if a.device == 'cpu' else torch.cuda.get_device_name()
    def runs(): return [r for r in store['runs'] if about.items() <= r.items()]
    done = {(r['row'], r['seed']) for r in runs()}
    if ('counting', 0) not in done:
        store['runs'].append(about | dict(row='counting', seed=0, steps=None) |
                             score(a.text, race.counting))
    with ProcessPoolExecutor(a.jobs, get_context('spawn')) as pool:
        todo = {}
        for seed in range(a.seeds): # an evening that is too short has fewer seeds
            for name in a.only:
                if (name, seed) in done: continue
                steps = max(1, int(a.seconds/granted[name]))
                job = pool.submit(train_row, a.text, name, steps, seed, a.device, a.threads)
                todo[job] = dict(row=name, seed=seed, steps=steps, trained_on=here)
        for job in as_completed(todo):
            store['runs'].append(about | todo[job] | job.result())
            save()
            print('{seed}  {row:32}{steps:5} steps  {bits_per_byte:.4f}'
                  .format(**store['runs'][-1]), flush=True)
    show(runs(), a.only)

if __name__ == '__main__': main()
