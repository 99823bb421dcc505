"""Seconds of each notebook in a plain kernel, one after another:
`python bench/notebooks.py 02_attention`."""
import argparse, os, platform, statistics, sys, tempfile
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'tools'))
from machines import Env, avx2, build_wheel, chosen, run_notebook

def processor():
    "The name of the processor, if the system tells it"
    info = Path('/proc/cpuinfo')
    lines = info.read_text(encoding='utf-8').splitlines() if info.exists() else []
    names = [l.partition(':')[2].strip() for l in lines if l.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    add, cores = ap.add_argument, min(2, os.cpu_count() or 1)
    add('nbs', nargs='*', help='such as 02_attention or engine/files (default: all)')
    add('--threads', type=int, default=cores, help='threads of PyTorch (default: 2)')
    add('--native', action='store_true',
        help='all that this processor can do; default: AVX2 at most')
    add('--packages', default='dev', choices=['dev', 'offline', 'bare'],
        help="installed beside the wheel (default: dev, the developer's)")
    add('--repeat', type=int, default=1, help='runs of each; the median is shown (default: 1)')
    args = ap.parse_args()
    env = dict(OMP_NUM_THREADS=str(args.threads)) | ({} if args.native else avx2)
    limit = 'all instructions' if args.native else 'AVX2 at most'
    print(f'{processor()}, {args.threads} threads, {limit}, packages: {args.packages}\n')
    print('| notebook         | seconds |\n| ---              |    ---: |', flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as d:
        top = Path(d)
        for name in ('build', 'env'): (top/name).mkdir()
        env = Env(top/'env', build_wheel(top/'build'), args.packages, **env)
        for name,path in chosen(args.nbs).items():
            folders = [top/f'{path.stem}-{i}' for i in range(args.repeat)]
            runs = [run_notebook(path, d, env.python, env.env) for d in folders]
            stopped = next((r.error.splitlines()[0] for r in runs if r.error), '')
            seconds = statistics.median(r.seconds for r in runs)
            print(f'| {name:16} | {seconds:7.0f} | {stopped}'.rstrip(), flush=True)

if __name__ == '__main__': main()
