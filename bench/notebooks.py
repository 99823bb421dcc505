"Seconds of each notebook in a plain kernel, one after another: `python bench/notebooks.py [NOTEBOOK …] [--setting avx2] [--threads 2]`."
import argparse, os, platform, statistics, sys, tempfile
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'tools'))
from machines import Env, avx2, build_wheel, chosen, run_notebook

def processor():
    "The name of the processor, if the system tells it"
    info = Path('/proc/cpuinfo')
    names = [l.partition(':')[2].strip() for l in info.read_text(encoding='utf-8').splitlines() if l.startswith('model name')] if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('nbs', nargs='*', help='notebooks, such as 02_attention or engine/files (default: all)')
    ap.add_argument('--threads', type=int, default=min(2, os.cpu_count() or 1), help='threads of PyTorch (default: 2)')
    ap.add_argument('--native', action='store_true', help='use all that this processor can do; default: no more than AVX2')
    ap.add_argument('--packages', default='dev', choices=['dev', 'offline', 'bare'], help="installed beside the wheel (default: dev, the developer's)")
    ap.add_argument('--repeat', type=int, default=1, help='runs of each, of which the median is shown (default: 1)')
    args = ap.parse_args()
    env = dict(OMP_NUM_THREADS=str(args.threads)) | ({} if args.native else avx2)
    print(f'{processor()}, {args.threads} threads, {"all instructions" if args.native else "AVX2 at most"}, packages: {args.packages}\n', flush=True)
    print('| notebook         | seconds |\n| ---              |    ---: |', flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as d:
        top = Path(d)
        for name in ('build', 'env'): (top/name).mkdir()
        env = Env(top/'env', build_wheel(top/'build'), args.packages, **env)
        for name,path in chosen(args.nbs).items():
            runs = [run_notebook(path, top/f'{path.stem}-{i}', env.python, env.env) for i in range(args.repeat)]
            failed = next((r.error for r in runs if r.error), '')
            print(f'| {name:16} | {statistics.median(r.seconds for r in runs):7.0f} |{"  stopped: " + failed.splitlines()[0] if failed else ""}', flush=True)

if __name__ == '__main__': main()
