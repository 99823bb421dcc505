"Execute notebooks, each in a fresh kernel, and save their outputs in place (skipped cells keep theirs)."
import argparse, re, tempfile, time
from pathlib import Path
import nbformat
from nbclient import NotebookClient

class Client(NotebookClient):
    "Run every cell but those tagged with one of the directives in `skip`"
    skip = re.compile('$^')
    async def async_execute_cell(self, cell, *args, **kwargs):
        if cell.cell_type == 'code' and self.skip.search(cell.source): return cell
        return await super().async_execute_cell(cell, *args, **kwargs)

def execute(path, # the notebook
            cwd=None, # the folder that it runs in: its own, unless told
            skip='slow gpu', # directives whose cells are not run
            timeout=600): # seconds for each cell
    "The notebook at `path`, executed; an error in a cell raises"
    Client.skip = re.compile(r'^\s*#\|\s*(?:eval:\s*false|' + '|'.join(skip.split()) + r')\s*$', re.M)
    nb = nbformat.read(path, as_version=4)
    Client(nb, timeout=timeout, kernel_name='python3', record_timing=False, extra_arguments=['--log-level=ERROR'],
           resources={'metadata': {'path': str(cwd or Path(path).parent)}}).execute()
    return nb

def settle(outputs):
    "Neighbouring pieces of a stream become one, and a progress bar its last state, as a terminal would leave them"
    kept = []
    for out in outputs:
        if kept and out.output_type == 'stream' == kept[-1].output_type and out.name == kept[-1].name: kept[-1].text += out.text
        else: kept.append(out)
    for out in kept:
        if out.output_type == 'stream': out.text = re.sub(r'[^\n]*\r(?!\n)', '', out.text)
    return [o for o in kept if o.output_type != 'stream' or o.text.strip()]

def scrub(nb):
    "Take the names of temporary folders out of the outputs: they differ each time"
    tmp = re.compile(re.escape(tempfile.gettempdir()) + r'/tmp\w+/?')
    for cell in nb.cells:
        if 'outputs' in cell: cell.outputs = settle(cell.outputs)
        for out in cell.get('outputs', []):
            if 'text' in out: out['text'] = tmp.sub('', out['text'])
            data = out.get('data', {})
            if 'text/plain' in data: data['text/plain'] = tmp.sub('', data['text/plain'])
    return nb

if __name__ == '__main__':
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('nbs', nargs='+', type=Path)
    ap.add_argument('--skip', default='slow gpu', help='directives whose cells are not run')
    ap.add_argument('--cwd', help='folder to run in')
    ap.add_argument('--timeout', type=int, default=600, help='seconds for each cell')
    ap.add_argument('--no-save', action='store_true')
    args = ap.parse_args()
    for p in args.nbs:
        t = time.time()
        nb = execute(p, args.cwd, args.skip, args.timeout)
        if not args.no_save: nbformat.write(scrub(nb), p)
        print(f'{p}: {time.time()-t:.1f} s', flush=True)
