"A small language model, built, trained and explained from scratch in six notebooks."
__version__ = "0.1.0"
import os as _os
# Threads of PyTorch wait for each other by spinning. Where other programs want the same cores, they spin away their own time, and two threads become
# many times slower than one; a tenth of the usual patience costs nothing on a quiet machine. (Read by OpenMP of GNU, if torch is not imported yet.)
_os.environ.setdefault('GOMP_SPINCOUNT', '30000')
from importlib import import_module as _import
from .tokenizer import Tokenizer
from .model import ModelConfig, MODEL_CONFIG, PRESETS, SmallLanguageModel
from . import generate as _generate # gives `SmallLanguageModel` its `generate` and `stream`
del _generate

# The training half comes when it is asked for, so that `python -m slm_scratch.train` imports it once.
_later = dict(LanguageModelTrainer='train', evaluate='train', TaleGrammar='data', check_tale='data', read_texts='engine.corpus')
__all__ = ['Tokenizer', 'ModelConfig', 'MODEL_CONFIG', 'PRESETS', 'SmallLanguageModel', *_later]

def __getattr__(name):
    if name in _later: return getattr(_import(f'.{_later[name]}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
