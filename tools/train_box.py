"""Make the model in the box: train `tales-tiny`, score it, write it and its card.

Took 68 minutes with one thread beside other work (2 cores with AVX2). An interrupted run goes on
when it is started again."""
import argparse, json, platform, sys, time
from pathlib import Path
import torch
from project import cfg, root
from slm_scratch.engine.box import load_packed
from slm_scratch.engine.demo import DEMO_PROMPT, DEMO_TRAINING, demo_model
from slm_scratch.engine.evaluate import evaluate
from slm_scratch.engine.files import atomic_write
from slm_scratch.engine.prepare import prepare
from slm_scratch.engine.sizes import count_parameters
from slm_scratch.engine.tales import score_stories, tales
from slm_scratch.model import SmallLanguageModel
from slm_scratch.train import LanguageModelTrainer

# wider than the demo's, windows from anywhere in the stream, a rate that falls to 0, and the usual
# averages of both optimizers
shape = dict(d_model=128, n_heads=4, max_seq_len=512)
training = DEMO_TRAINING | dict(
    batch_size=4, block_size=512, aligned=False, min_lr=0., warmup_steps=50, beta2=.95,
    momentum=.95, eval_every=1000, sample_every=500, checkpoint_every=500)
temperature = .5

def train(steps, seed, n_tales, out):
    "Train for so many steps; the folder holds the run"
    model = demo_model(seed=seed, config=shape)
    data = prepare('tales', model.tokenizer, out/'data', n_tales=n_tales)
    LanguageModelTrainer(model).train(data, out_dir=out, seed=seed, max_steps=steps, **training)
    return SmallLanguageModel.load(out)

def score(model, n_stories):
    "What the card says of a model; a story starts as the demo's do"
    unseen = [t.text for t in tales(1000, seed=1, split='valid')]
    e = evaluate(model, unseen)
    floor = sum(t.bits for t in tales(1000, seed=1, split='valid'))
    floor /= sum(len(t.encode('utf-8')) for t in unseen)
    written = model.generate(DEMO_PROMPT, max_new_tokens=400, temperature=temperature,
                             num_samples=n_stories, seed=0)
    return dict(bits_per_byte=e.bits_per_byte, floor=floor, above=e.bits_per_byte/floor - 1,
                **score_stories(written))

def card(s, model, steps, seed, n_tales):
    "The card, in Markdown"
    tokens = steps*training['batch_size']*training['block_size']
    n = s['stories']
    return f"""# tales-tiny

The model in the box of {cfg['repo']}: `SmallLanguageModel.from_pretrained('tales-tiny')`.

- **Shape**: {count_parameters(model.config)['total']:,} parameters, {model.config.n_layers} \
layers of {model.config.n_heads} heads, {model.config.d_model} channels, a window of \
{model.config.max_seq_len} tokens, rotary positions, {model.config.vocab_size:,} tokens of its own.
- **Data**: {n_tales:,} stories that the package's grammar writes (`tales`, seed 0). No text of a \
person is among them, but for the grammar's sentences.
- **Recipe**: `tools/train_box.py`: Muon and AdamW, {steps:,} steps of \
{training['batch_size']*training['block_size']:,} tokens, {tokens/1e6:.0f} million in all, \
learning rate {training['learning_rate']:g} falling to 0 over the last part, seed {seed}, in \
float32. Then one byte a weight.
- **Scores**, of the packed weights: {s['bits_per_byte']:.4f} bits per byte on 1,000 stories that \
it never saw; the grammar's entropy there is {s['floor']:.4f}, so it is {s["above"]:.1%} above \
what is possible. Of {n:,} stories that begin with “{DEMO_PROMPT}” (temperature {temperature:g}), \
{s['grammatical']:,} are grammatical throughout, {s['keeps']:,} keep the hero's name and pronoun, \
{s['ended']:,} come to their end.
- **Use**: to learn from. It knows these stories and nothing else.
- **Licence**: {cfg['license'].upper()}, as the package.
"""

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('--steps', type=int, default=8000)
    ap.add_argument('--seed', type=int, default=0, help='of the weights and the order of the text')
    ap.add_argument('--tales', type=int, default=100_000, help='stories to train on')
    ap.add_argument('--stories', type=int, default=1000, help='stories to write and to check')
    ap.add_argument('--out', type=Path, default=root/'build'/'box', help='folder of the run')
    ap.add_argument('--install', action='store_true', help="write into the package's assets")
    args = ap.parse_args()
    began = time.time()
    model = train(args.steps, args.seed, args.tales, args.out)
    folder = root/cfg['lib_path']/'assets' if args.install else args.out
    path = folder/'tales-tiny.safetensors'
    model.save_packed(path, dict(title='tales-tiny', license=cfg['license']))
    packed = load_packed(path)
    scores = score(packed, args.stories)
    with atomic_write(path.with_suffix('.md')) as f:
        f.write(card(scores, packed, args.steps, args.seed, args.tales).encode('utf-8'))
    seconds = time.time() - began
    print(json.dumps(scores | dict(
        seconds=round(seconds), threads=torch.get_num_threads(), torch=torch.__version__,
        machine=platform.machine(), python=platform.python_version(), size=path.stat().st_size)))
    return 0

if __name__ == '__main__': sys.exit(main())
