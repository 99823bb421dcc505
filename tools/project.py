"What tools and tests know of the project: folder, settings, notebooks. Needs only Python."
import json, sys
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent

def read_settings():
    "The settings of the project, with its addresses"
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    return dict(config['DEFAULT'])
cfg = read_settings()
nbs_dir = root/cfg['nbs_path']

# The package's modules in the one order of their imports: each imports only from those before it.
# Lessons are slm_scratch.<name>, the others slm_scratch.engine.<name>; tests/test_package.py reads
# every import against it.
order = ('files', 'entries', 'guards', 'byte_order', 'pair_counts', 'tokenizer', 'gpt2',
         'encode', 'vocab', 'counting', 'grammar', 'tales', 'data', 'token_file', 'encodings',
         'texts', 'download', 'inputs', 'corpus', 'prepare', 'attention', 'config', 'model',
         'variants', 'modern', 'mixers', 'sizes', 'parts', 'weights', 'hf_tokenizer', 'layouts',
         'huggingface', 'formats', 'kernels', 'int8', 'box', 'changes', 'device', 'signatures',
         'streaming', 'limits', 'generate', 'fast', 'lens', 'web', 'loss', 'optim',
         'distributed', 'memorization', 'evaluate', 'scorecard', 'ablation', 'live',
         'figures_tokenizer', 'figures_attention', 'figures_model', 'figures_train',
         'figures_generate',
         'live_data', 'live_attention', 'live_model', 'live_train', 'live_generate', 'outputs',
         'run', 'bands', 'windows', 'progress', 'checks', 'report', 'trainer', 'train', 'exercises',
         'answers_tokenizer', 'answers_data', 'answers_attention', 'answers_model',
         'answers_train', 'answers_generate', 'options', 'shell', 'cli', 'demo')
lesson_modules = ('tokenizer', 'data', 'attention', 'model', 'generate', 'train')

# The floors of the engine house: each begins with the room named here, and ends before the next.
floors = dict(files='Files', guards='Tokens', grammar='Stories', token_file='Text and token files',
              config='Models', parts='Weights and formats', kernels='Devices and kernels',
              signatures='Generation', loss='Optimization', memorization='Evaluation',
              live='Figures', outputs='The run', exercises='Exercises',
              options='Programs')
guides = ('own_text', 'any_good', 'what_it_buys', 'machines', 'when_wrong',
          'five_minutes') # in this order

def text(s): return ''.join(s) if isinstance(s, list) else s

def read_cells(path):
    "The cells of the notebook at `path`; raises ValueError if it is not a notebook of format 4"
    try: return list(json.loads(path.read_text(encoding='utf-8'))['cells'])
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f'it is not a notebook of format 4 ({type(e).__name__})') from e

def read_head(cells):
    "Title, promise and other lines of the first cell; raises ValueError for a scratch notebook"
    first = next((c for c in cells if text(c.get('source', '')).strip()), None)
    if first is None: raise ValueError('it is empty')
    head, *lines = text(first['source']).strip().splitlines()
    is_title = first.get('cell_type') == 'markdown' and head.startswith('# ')
    if not is_title: raise ValueError("its first cell has no line '# Title'")
    promise = ' '.join(l[1:].strip() for l in lines if l.startswith('>'))
    if not promise: raise ValueError("its first cell has no line '> what it promises'")
    others = '\n'.join(l for l in lines if not l.startswith('>'))
    return head[2:].strip(), promise, others.strip('\n')

def notebook_files():
    "Every notebook below `nbs/` that is not hidden: index, lessons, guides, rooms in order"
    hidden = lambda p: any(part.startswith(('.', '_')) for part in p.relative_to(nbs_dir).parts)
    def place(p):
        names = guides if is_guide(p) else () if is_lesson(p) else order
        room = names.index(p.stem) if p.stem in names else len(names)
        depth = len(p.relative_to(nbs_dir).parts)
        return depth, p.stem != 'index', not is_guide(p), room, p.as_posix()
    return sorted((p for p in nbs_dir.rglob('*.ipynb') if p.is_file() and not hidden(p)), key=place)

def notebook_paths(warn=False):
    "The project's notebooks; a scratch notebook is left out, and with `warn` named on stderr"
    found = []
    for p in notebook_files():
        try: read_head(read_cells(p))
        except ValueError as e:
            if warn: print(f'left out: {p.relative_to(root)}: {e}', file=sys.stderr)
        else: found.append(p)
    return found

def is_lesson(path): return path.parent == nbs_dir
def is_guide(path): return path.parent == nbs_dir/'guides'
def floor(name):
    "The floor of the house on which the engine room `name` lies"
    at = order.index(name) if name in order else len(order)
    return [f for first,f in floors.items() if order.index(first) <= at][-1]
def nb_name(path):
    "A short name for the notebook at `path`: 02_attention, engine/files"
    return path.relative_to(nbs_dir).with_suffix('').as_posix()

def default_exp(path):
    "The module that the notebook at `path` exports, such as 'engine.files', or None"
    code = (text(c['source']) for c in read_cells(path) if c['cell_type'] == 'code')
    lines = (l for src in code for l in src.splitlines())
    return next((l.split()[-1] for l in lines if l.startswith('#| default_exp ')), None)
