"""What slm-train chooses, beside GPT-2's block with AdamW:
python bench/defaults.py TEXT [MINUTES of each, 1 if not given]."""
import os, subprocess, sys, tempfile
from pathlib import Path
from slm_scratch.engine.report import History

text = os.path.abspath(sys.argv[1])
minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 1.
gpt2 = ('--d_model 256 --n_heads 4 --n_layers 4 --positions learned --mimetic_init 0 '
        '--optimizer adamw --schedule cosine --batch_size 8 --beta2 .95')
sides = {'defaults of slm-train': '', "GPT-2's block, AdamW": gpt2}
print(f'{Path(text).name}, {minutes:g} minute(s) each')
with tempfile.TemporaryDirectory() as tmp:
    for i,(name,options) in enumerate(sides.items()):
        out = Path(tmp)/str(i)
        words = [text, '--minutes', str(minutes), '--out_dir', str(out), *options.split()]
        cmd = [sys.executable, '-m', 'slm_scratch', 'train', *words]
        subprocess.run(cmd, check=True, stdout=subprocess.DEVNULL)
        rows = History.loads((out/'history.jsonl').read_text(encoding='utf-8'))
        best = min(r['bits_per_byte'] for r in rows if 'bits_per_byte' in r)
        row = rows[-1]
        print(f"{name:24}{best:8.3f} bits per byte   {row['tokens']:>10,} tokens   "
              f"{row['step']:>6,} steps")
