"Execute notebooks as a reader's Jupyter does, each in a fresh kernel, and save their outputs."
import argparse, json, os, re, sys, tempfile, time
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

colours = re.compile(r'\x1b\[[0-9;]*m')

class Stopped(Exception): "A notebook that did not reach its end; the message names the cell"

def heading(nb, i):
    "The last heading at or above cell `i` of the notebook"
    above = '\n'.join(c.source for c in nb.cells[:i+1] if c.cell_type == 'markdown')
    heads = re.findall(r'^#+ +(.+)', above, re.M)
    return heads[-1] if heads else 'no heading'

def first_line(source):
    "The first line of a cell that is neither empty nor a directive"
    return next((l for l in source.splitlines() if l.strip() and not l.startswith('#|')), '')

def complaint(nb, i, error, name):
    "The cell that failed: its place, its first line, the error, and the lines that led to it"
    lines = colours.sub('', getattr(error, 'traceback', '') or '').strip().splitlines()
    rule = '-'*75 # above the traceback itself
    if rule in lines: lines = lines[lines.index(rule)+1:]
    what = f'{type(error).__name__}: {error}'
    if isinstance(error, CellExecutionError):
        what = colours.sub('', f'{error.ename}: {error.evalue}')
    steps = '\n'.join(lines[-30:])
    place = f'{name} stopped in cell {i}, under "{heading(nb, i)}"'
    return f'{place}:\n    {first_line(nb.cells[i].source)}\n{what}\n\n{steps}'.strip()

def execute(path, # the notebook
            cwd=None, # the folder that it runs in; default: its own
            timeout=1800): # seconds after which a cell counts as hanging
    "The notebook, executed, and the seconds of each cell; raises Stopped if a cell fails"
    nb = nbformat.read(path, as_version=4)
    seconds, at, began = {}, [0], [0.]
    def start(cell, cell_index): at[0], began[0] = cell_index, time.perf_counter()
    def end(cell, cell_index, **kwargs): seconds[cell_index] = time.perf_counter() - began[0]
    where = {'metadata': {'path': str(cwd or Path(path).parent)}}
    client = NotebookClient(nb, timeout=timeout, kernel_name='python3', record_timing=False,
                            resources=where, skip_cells_with_tag='',
                            extra_arguments=['--log-level=ERROR'],
                            on_cell_start=start, on_cell_executed=end)
    try: client.execute()
    except Exception as e: raise Stopped(complaint(nb, at[0], e, Path(path).name)) from e
    return nb, seconds

def collapse_streams(outputs):
    "Outputs as a terminal shows them: pieces of a stream joined, of a progress bar its last state"
    kept = []
    for out in outputs:
        goes_on = kept and out.output_type == 'stream' == kept[-1].output_type
        if goes_on and out.name == kept[-1].name: kept[-1].text += out.text
        else: kept.append(out)
    for out in kept:
        if out.output_type == 'stream': out.text = re.sub(r'[^\n]*\r(?!\n)', '', out.text)
    return [o for o in kept if o.output_type != 'stream' or o.text.strip()]

def strip_paths(nb):
    "Take the names of temporary folders out of the outputs: they differ each time"
    tmp = re.compile(re.escape(tempfile.gettempdir()) + r'/tmp\w+/?')
    for cell in nb.cells:
        if 'outputs' in cell: cell.outputs = collapse_streams(cell.outputs)
        for out in cell.get('outputs', []):
            if 'text' in out: out['text'] = tmp.sub('', out['text'])
            data = out.get('data', {})
            if 'text/plain' in data: data['text/plain'] = tmp.sub('', data['text/plain'])
    return nb

def serve():
    """Run notebooks one after another, each in a fresh kernel: a line of JSON asks for one, with
    path, cwd and timeout; the answer is a line with what stopped it"""
    answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1) # what else is printed goes to standard error
    for line in sys.stdin:
        job, error = json.loads(line), ''
        try: execute(Path(job['path']), job['cwd'], job['timeout'])
        except Stopped as e: error = str(e)
        print(json.dumps(error), file=answers, flush=True)

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('nbs', nargs='+', type=Path)
    ap.add_argument('--cwd', help='folder to run in; default: the one of the notebook')
    ap.add_argument('--timeout', type=int, default=1800,
                    help='seconds after which a cell counts as hanging (default: 1800)')
    ap.add_argument('--slowest', type=int, default=0, metavar='N',
                    help='also show the N slowest cells')
    ap.add_argument('--no-save', action='store_true', help='leave the file as it is')
    args = ap.parse_args()
    for p in args.nbs:
        t = time.time()
        try: nb, seconds = execute(p, args.cwd, args.timeout)
        except Stopped as e: sys.exit(str(e))
        if not args.no_save: nbformat.write(strip_paths(nb), p)
        print(f'{p}: {time.time()-t:.1f} s', flush=True)
        for i in sorted(seconds, key=seconds.get, reverse=True)[:args.slowest]:
            line = first_line(nb.cells[i].source)[:80]
            print(f'  {seconds[i]:6.1f} s  cell {i}, {heading(nb, i)}: {line}')

if __name__ == '__main__': serve() if sys.argv[1:] == ['--serve'] else main()
