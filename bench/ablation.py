"""What does each part buy? A ladder from GPT-2's block with AdamW upwards, one change at a time, at
equal time; then single changes of the ladder's last row, the ones that lose among them.

    python bench/ablation.py TEXT.txt                    # 30 seconds, three seeds, two threads
    python bench/ablation.py TEXT.txt --seconds 60 --only 'windows of 128' --store results.json

A shared machine is fast in one minute and slow in the next, and who raced in the slow minute loses.
So the time is not taken from a clock during the race. First the step of every row is timed, all
rows in turn, and each row is granted as many steps as fit into the time by the median of its steps.
Then each row is trained for so many steps, some seeds each, and scored as in `race.py`: bits per
byte of the last twentieth of the documents. The tokenizer, the same for all, is not counted.

What is found is kept in the file given with `--store` after each run, and what stands there is not
run again: an interrupted evening goes on where it ended. The guide `nbs/guides/what_it_buys.ipynb`
shows `slm_scratch/assets/ablation.json`."""
import argparse, json, sys, time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, median
import torch
from slm_scratch import SmallLanguageModel
from slm_scratch.data import get_batch
from slm_scratch.engine.cli import SMALL_MODEL
from slm_scratch.engine.kernels import machine_key
from slm_scratch.engine.loss import LossModule
from slm_scratch.engine.optim import make_optimizers
sys.path.insert(0, str(Path(__file__).parent))
import race

# For each row: fields of `ModelConfig`, options of `train`
COMMON = dict(batch_size=4, block_size=256)
CLASSIC = dict(positions='learned', mimetic_init=0.)
ROTARY = dict(positions='rotary', mimetic_init=0.)
LADDER = { # each row keeps what the rows above it changed
    "GPT-2's block, AdamW": (CLASSIC, dict(optimizer='adamw', learning_rate=1e-3,
                                           schedule='cosine')),
    'Muon': (CLASSIC, dict(learning_rate=6e-3, schedule='cosine')),
    'rotary positions': (ROTARY, dict(learning_rate=6e-3, schedule='cosine')),
    'stable, then decay': (ROTARY, dict(learning_rate=6e-3)),
    'a higher rate': (ROTARY, dict(learning_rate=1e-2)),
}
SHORT = dict(batch_size=8, block_size=128)
SINGLE = { # changes of the ladder's last row, each alone
    'attention starts as a copy': (dict(mimetic_init=.5), {}),
    'windows of 128': (dict(max_seq_len=128), SHORT),
    'embedding in every block': (dict(x0_blend=True), {}),
    'value embeddings': (dict(value_embeddings=True), {}),
    'convolved values': (dict(conv_width=4), {}),
    'sliding window of 64': (dict(sliding_window=64), {}),
    'two heads of keys and values': (dict(n_kv_heads=2), {}),
    'squared ReLU': (dict(activation='relu2'), {}),
    'RMS norm': (dict(norm='rms'), {}),
    'queries and keys normed': (dict(qk_norm=True), {}),
    'an output of its own': (dict(tie_weights=False), {}),
}
LAST = LADDER[[*LADDER][-1]]
ROWS = LADDER | {name: (LAST[0] | model, LAST[1] | training)
                 for name, (model, training) in SINGLE.items()}

def options(row):
    "Options of `train`"
    return COMMON | dict(optimizer='muon', schedule='wsd') | ROWS[row][1]

def one_step(row, tokenizer, data):
    "A function that takes a step and returns its seconds, data and optimizer included"
    config = replace(SMALL_MODEL, vocab_size=tokenizer.vocab_size, **ROWS[row][0])
    model, o = SmallLanguageModel(config, tokenizer).train(), options(row)
    optimizers = make_optimizers(model, o['optimizer'], o['learning_rate'])
    net = LossModule(model)
    def step(i):
        began = time.perf_counter()
        net(*get_batch(data, i, o['batch_size'], o['block_size'])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        for opt in optimizers:
            opt.step()
            opt.zero_grad(set_to_none=True)
        return time.perf_counter() - began
    return step

def step_seconds(rows, texts, turns=12):
    "row → seconds of a step: the rows take turns, and the median counts"
    tokenizer, data = race.vocabulary(texts)
    steps = {row: one_step(row, tokenizer, data) for row in rows}
    took = [{row: step(i) for row, step in steps.items()} for i in range(turns)]
    return {row: median(t[row] for t in took[2:]) for row in rows} # the first ones warm up

def recipe(a):
    "What `race.run` calls: a row, trained for so many steps; or counting"
    if a.run == 'counting': return race.counting
    training = options(a.run) | dict(max_steps=a.steps)
    return partial(race.ours, training=training, **ROWS[a.run][0])

def parse_arguments():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('text', help='a text file')
    ap.add_argument('--seconds', nargs=1, type=float, default=[30.])
    ap.add_argument('--seeds', type=int, default=3, help='runs of each row')
    ap.add_argument('--threads', type=int, default=2)
    ap.add_argument('--only', nargs='*', choices=[*ROWS], metavar='ROW',
                    help=f'of: {"; ".join(ROWS)}')
    ap.add_argument('--store', default='ablation.json', help='where results are kept')
    ap.add_argument('--run', help=argparse.SUPPRESS)
    ap.add_argument('--steps', type=int, help=argparse.SUPPRESS)
    ap.add_argument('--seed', type=int, default=0, help=argparse.SUPPRESS)
    return ap.parse_args()

def main():
    a = parse_arguments()
    torch.set_num_threads(a.threads)
    if a.run: return race.run(a, recipe(a))
    store, rows = Path(a.store), a.only or [*ROWS]
    found = json.loads(store.read_text(encoding='utf-8')) if store.exists() else []
    about = dict(text=Path(a.text).name, seconds=a.seconds[0], machine=machine_key())
    took = step_seconds(rows, race.split(a.text)[0])
    known = {r['row']: r['step'] for r in found if about.items() <= r.items() and r['step']}
    took |= known # rows that were timed in an earlier session keep their steps
    for seed in range(a.seeds): # seed by seed: an evening that is too short has fewer seeds
        for row in ['counting', *rows]:
            key = about | dict(row=row, seed=seed)
            if row == 'counting' and seed or any(key.items() <= r.items() for r in found): continue
            n = max(1, int(a.seconds[0]/took[row])) if row in took else 0
            result = race.start(a, row, a.seconds[0], seed, __file__, '--steps', str(n))
            if result is None: continue
            found.append(key | result | dict(step=took.get(row), steps=n))
            store.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
            print(f'seed {seed}  {row:32}{n:5} steps  {result["bits_per_byte"]:.4f}', flush=True)
    print()
    for row in ['counting', *rows]:
        bits = [r['bits_per_byte'] for r in found
                if about.items() <= r.items() and r['row'] == row]
        if bits: print(f'{row:32}{mean(bits):8.3f}  ({min(bits):.3f} … {max(bits):.3f})')

if __name__ == '__main__': main()
