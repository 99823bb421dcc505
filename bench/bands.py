"""What a known recipe has at each step: the bands that `slm_scratch/assets/bands.json` keeps.

    python bench/bands.py                          # all recipes, four seeds
    python bench/bands.py --only slm-demo --jobs 2 --threads 1

Each recipe is run with some seeds, for each its own weights and text, and validated now and then
while the rate stands at its highest. The trainer compares later runs of it with these
(`nbs/engine/bands.ipynb`). To be run again when a recipe changes; a test says so."""
import argparse, json, sys, tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
import torch
from slm_scratch import LanguageModelTrainer, SmallLanguageModel
from slm_scratch.engine.bands import recipe_of
from slm_scratch.engine.cli import choose_vocabulary, SMALL_MODEL
from slm_scratch.engine.demo import DEMO_TRAINING, demo_model
from slm_scratch.engine.prepare import prepare
sys.path.insert(0, str(Path(__file__).parent))
import race

STEPS = (50, 100, 150, 200, 300, 400, 600, 800, 1000, 1200, 1400, 1600)

def demo(seed, **how):
    "What `slm-demo` trains, and how"
    model = demo_model(seed=seed)
    data = prepare('tales', model.tokenizer, tempfile.mkdtemp(), seed=seed, **how)
    return model, data, DEMO_TRAINING

def tales(seed, **how):
    "What `slm-train tales` trains, and how"
    tokenizer = choose_vocabulary('tales', '4096')
    torch.manual_seed(seed)
    config = replace(SMALL_MODEL, vocab_size=tokenizer.vocab_size)
    data = prepare('tales', tokenizer, tempfile.mkdtemp(), **how)
    return SmallLanguageModel(config, tokenizer), data, race.options()

RECIPES = {'slm-demo': demo, 'slm-train tales': tales}

def run(name, seed, n_steps, threads, n_tales=10_000):
    "The recipe of a run, steps well after its warm-up, and the losses there"
    torch.set_num_threads(threads)
    model, data, options = RECIPES[name](seed, n_tales=n_tales, progress=False)
    limits = dict(max_minutes=None, max_steps=10*n_steps, out_dir=tempfile.mkdtemp())
    first = 2*(options.get('warmup_steps') or 100)
    steps, losses = [s for s in STEPS if first <= s <= n_steps], []
    trainer = LanguageModelTrainer(model)
    with trainer.session(data, **options | limits | dict(seed=seed, verbose=False)):
        while trainer.step < n_steps:
            trainer.train_step()
            if trainer.step in steps: losses.append(round(trainer.validate(), 4))
        return recipe_of(trainer.run_config, data[1].bits), steps, losses

def parse_arguments():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--only', nargs='*', choices=[*RECIPES], default=[*RECIPES])
    ap.add_argument('--steps', type=int, default=STEPS[-1], help='how far')
    ap.add_argument('--seeds', type=int, default=4, help='runs of each recipe')
    ap.add_argument('--threads', type=int, default=2, help='of each run')
    ap.add_argument('--jobs', type=int, default=1, help='runs at once')
    ap.add_argument('--store', type=Path, default='bands.json', help='where bands are kept')
    return ap.parse_args()

def main():
    a = parse_arguments()
    bands = json.loads(a.store.read_text(encoding='utf-8')) if a.store.exists() else []
    for name in a.only:
        with ProcessPoolExecutor(a.jobs, get_context('spawn')) as pool:
            n = a.seeds
            runs = [*pool.map(run, [name]*n, range(n), [a.steps]*n, [a.threads]*n)]
        recipes, (steps, *_), losses = zip(*runs)
        assert len({*recipes}) == 1, 'seeds of a recipe are told apart'
        band = dict(name=name, recipe=recipes[0], steps=steps, runs=losses)
        bands = [b for b in bands if b['name'] != name] + [band]
        a.store.write_text(json.dumps(bands, indent=1) + '\n', encoding='utf-8')
        for step, *values in zip(steps, *losses):
            print(f'{name:16}{step:6}', *(f'{v:.3f}' for v in values), flush=True)

if __name__ == '__main__': main()
