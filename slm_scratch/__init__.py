"A small language model, built, trained and explained from scratch in six notebooks."
__version__ = "0.1.0"
import os as _os, signal as _signal, sys as _sys

def _leave(*_): _os._exit(130)

def _start_program():
    """In our programs: Ctrl-C while PyTorch is imported ends without a traceback, and closed
    standard streams become empty ones"""
    programs = 'slm-train', 'slm-generate', 'slm-eval', 'slm-demo'
    started = _os.path.basename((getattr(_sys, 'argv', None) or [''])[0])
    if started == '-m': ours = 'slm_scratch' in _sys.orig_argv
    else: ours = started.split('.')[0].removesuffix('-script') in programs
    if not ours: return
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _leave)
    number = 0
    while number <= 2: # `open` takes the lowest number that is free
        number = _os.open(_os.devnull, _os.O_RDWR)
    _os.close(number)
_start_program()

# PyTorch's threads wait for each other in a busy loop. With other programs on the same cores, a
# long loop makes two threads several times slower than one; this shorter one costs nothing on a
# quiet machine. (Read by GNU's OpenMP, if torch is not imported yet.)
_os.environ.setdefault('GOMP_SPINCOUNT', '30000')
from .tokenizer import Tokenizer
from .engine import gpt2 as _gpt2, encode as _encode, vocab as _vocab
from .engine.grammar import TaleGrammar
from .engine.tales import check_tale
from .engine.corpus import read_texts
from .engine.prepare import prepare
from .model import ModelConfig, MODEL_CONFIG, PRESETS, SmallLanguageModel
# These give their methods to `Tokenizer` (above) and `SmallLanguageModel`.
from .engine import variants as _variants, weights as _weights, huggingface as _huggingface
from .engine import formats as _formats, int8 as _int8, box as _box
from .generate import GenerationConfig
from .engine import fast as _fast, lens as _lens, web as _web
from .engine.evaluate import evaluate
from .train import LanguageModelTrainer, TrainConfig
del _gpt2, _encode, _vocab, _variants, _weights, _huggingface, _formats, _int8, _box, _fast
del _lens, _web

__all__ = ['Tokenizer', 'ModelConfig', 'MODEL_CONFIG', 'PRESETS', 'SmallLanguageModel',
           'LanguageModelTrainer', 'TrainConfig', 'GenerationConfig', 'evaluate',
           'TaleGrammar', 'check_tale', 'read_texts', 'prepare']
