"""Make the project's own `.venv` and install into it: `python3 tools/setup_venv.py demo` or
`... dev`. Needs only Python."""
import os, platform, subprocess, sys
from pathlib import Path
from urllib.request import Request, urlopen

root = Path(__file__).resolve().parent.parent
cpu_index = 'https://download.pytorch.org/whl/cpu' # PyTorch without the gigabytes of CUDA

def stop(msg): sys.exit(f'\n{msg}\n')

def make(venv):
    "The Python of the environment in the folder `venv`, made if it is not there"
    py = venv/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    def works():
        cmd = [py, '-m', 'pip', '--version']
        return py.exists() and subprocess.run(cmd, stdout=-3, stderr=-3).returncode == 0
    if works(): return py
    print(f'making {venv}', flush=True)
    made = subprocess.run([sys.executable, '-m', 'venv', venv], capture_output=True, text=True)
    if not works():
        stop(f'Python {platform.python_version()} at {sys.executable} could not make a virtual '
             f'environment:\n{made.stdout}{made.stderr}\n'
             'On Debian and Ubuntu: sudo apt install python3-venv\n'
             'Or name another Python: make demo PYTHON=/path/to/python3.12')
    return py

def pip(py, *args):
    "Run `pip install`, always under the constraints"
    cmd = [py, '-m', 'pip', 'install', '-qq', '--no-compile', '--disable-pip-version-check',
           '-c', root/'constraints.txt', *args]
    if subprocess.run(cmd, cwd=root).returncode:
        stop('The install failed; the lines above say why. Run the same command again to go on.')

def torch_args():
    """Where to take torch from: on Linux its CPU build if that can be reached; TORCH_INDEX names
    another index, or 'pypi'"""
    index = os.environ.get('TORCH_INDEX') or (cpu_index if sys.platform == 'linux' else 'pypi')
    if index == 'pypi': return []
    try: urlopen(Request(index + '/torch/', method='HEAD'), timeout=5).close()
    except OSError: return [] # closed networks: pip's own settings decide
    return ['--index-url', index]

def main():
    what, venv = sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else root/'.venv')
    if sys.version_info < (3, 10):
        version = platform.python_version()
        stop(f'slm-scratch needs Python 3.10 or newer; {sys.executable} is {version}.\n'
             'Name a newer one: make demo PYTHON=python3.12')
    py = make(venv)
    if subprocess.run([py, '-c', 'import torch'], stderr=-3).returncode:
        print('installing PyTorch (once, some 200 MB)', flush=True)
        pip(py, 'torch', *torch_args())
    more = '' if what == 'demo' else ' and the tools to develop it'
    print(f'installing slm-scratch{more}', flush=True)
    pip(py, '-e', '.' if what == 'demo' else '.[offline,dev]')

if __name__ == '__main__': main()
