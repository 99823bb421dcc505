"""Configs as people write them, models that their owner changed, and checkpoint folders as people
have them."""
import copy, math
from dataclasses import asdict, replace
from enum import IntEnum
from fractions import Fraction
import numpy as np
import pytest, torch
from torch import nn
from torch.nn import functional as F
from slm_scratch import MODEL_CONFIG, PRESETS, ModelConfig, SmallLanguageModel, Tokenizer
from slm_scratch.engine.variants import POSITIONS
from slm_scratch.engine.weights import replaced_parts
from slm_scratch.engine.huggingface import read_safetensors, write_safetensors
from slm_scratch.tokenizer import EOT

story = ('The little fox lost her lantern. She looked under the old oak, and behind the mill. '
         '“Lantern!” she cried.\n\n Why? ')
V = 320

@pytest.fixture(scope='module')
def own(): return Tokenizer.train([story]*3, V)

def small(tok, **changes):
    "A model whose logits differ clearly"
    torch.manual_seed(0)
    usual = dict(vocab_size=tok.vocab_size, d_model=24, n_heads=3, n_layers=2, max_seq_len=32,
                 d_ff=40)
    m = SmallLanguageModel(ModelConfig(**usual | changes), tok).eval()
    with torch.no_grad():
        for p in m.parameters(): p.add_(torch.randn_like(p)*.2)
    return m

ids = torch.tensor([[5, 260, 7, 301, 9]])
def same(a, b):
    "Equal logits, up to rounding: sums of several threads depend on where a matrix is in memory"
    return torch.allclose(a(ids), b(ids), rtol=0, atol=1e-5)

# ---- a config as a dict ----

def test_config_reads_like_a_dict():
    c = MODEL_CONFIG
    assert c['d_model'] == 512 and dict(c) == asdict(c) == {**c} and ModelConfig(**c) == c
    assert len(c) == len([*c]) == len(c.items())
    assert 'n_heads' in c and 'n_head' not in c and c.get('n_head', 3) == 3
    narrow = dict(d_model=64)
    assert {**c, 'd_model': 64} == dict(c | narrow) == c.copy() | narrow
    assert {**c, 'd_model': 64} == {**(narrow | c), 'd_model': 64}
    assert hash(ModelConfig()) == hash(c) and ModelConfig() == c and bool(c)
    assert c != replace(c, d_model=64)

ASSIGNMENTS = [lambda c: c.__setitem__('d_model', 256), lambda c: c.update(d_model=256),
               lambda c: c.update({'d_model': 256})]

@pytest.mark.parametrize('change', ASSIGNMENTS)
def test_config_dict_assignment(change):
    advice = r'dataclasses.replace\(config, d_model=256\)'
    with pytest.raises(TypeError, match=advice): change(MODEL_CONFIG)

def test_config_dict_unknown_key():
    with pytest.raises(KeyError, match='the fields are vocab_size'): MODEL_CONFIG['n_embd']
    with pytest.raises(ValueError, match="no field 'n_embd'.*d_model"):
        SmallLanguageModel(dict(n_embd=64))
    for wrong in (5, ['d_model'], 'tiny'):
        with pytest.raises(TypeError): SmallLanguageModel(wrong)

def test_model_from_dict(own):
    want = small(own).config
    for given in (dict(want), {**want}, want.copy()):
        m = SmallLanguageModel(given, own)
        assert m.config == want and type(m.config) is ModelConfig

# ---- numbers ----

class Size(IntEnum): heads = 3
odd_numbers = dict(vocab_size=np.int64(V), d_model=np.uint8(24), n_heads=Size.heads,
                   n_layers=torch.tensor(2), max_seq_len=np.array(32), d_ff=np.int32(40),
                   dropout=np.float32(.25), bias=np.bool_(True), tie_weights=np.True_,
                   positions=np.str_('learned'), mimetic_init=Fraction(1, 2),
                   norm=np.str_('rms'), norm_weight=np.False_, embed_norm=np.True_,
                   activation=np.str_('relu2'), qk_norm=np.True_, n_kv_heads=np.int16(3),
                   sliding_window=torch.tensor(4), window_pattern=np.str_('SL'),
                   logit_softcap=np.int64(15), zero_init=np.False_, x0_blend=np.True_,
                   value_embeddings=np.bool_(True), conv_width=np.int8(3))

def test_numbers_of_numpy_and_torch(own, tmp_path):
    "Each becomes Python's own, so that a file with it can be loaded"
    c = ModelConfig(**odd_numbers)
    kinds = [int]*6 + [float, bool, bool, str, float, str, bool, bool, str, bool]
    assert [type(v) for v in c.values()] == kinds + [int, int, str, float, bool, bool, bool, int]
    SmallLanguageModel(c, own).save(tmp_path/'m.pth')
    assert SmallLanguageModel.load(tmp_path/'m.pth').config == c

REFUSED = [('d_model', 24.), ('d_model', True), ('n_layers', np.float64(2)), ('dropout', np.nan),
           ('dropout', True), ('dropout', np.inf), ('vocab_size', '320'),
           ('vocab_size', np.array([1, 2])), ('bias', 1), ('positions', None)]

@pytest.mark.parametrize('name, value', REFUSED)
def test_numbers_refused(name, value):
    with pytest.raises(ValueError, match=f'{name}='):
        ModelConfig(**odd_numbers | {name: value})

# ---- changed models: saved as they are ----

def untied(m): m.lm_head = nn.Linear(24, V, bias=False)
def half(m): m.half()
def bfloat(m): m.bfloat16()
def double(m): m.double()
def frozen(m): m.blocks[0].requires_grad_(False)
def mixed(m): m.blocks.to(torch.float64)
def hooked(m): m.blocks[0].register_forward_hook(lambda *a: None)
def identity(m): m.drop = nn.Identity()
class Compiled(nn.Module):
    "A wrapper as torch.compile makes it"
    def __init__(self, m):
        super().__init__()
        self._orig_mod = m
def wrapped(m): m.blocks[0] = Compiled(m.blocks[0])

UNUSUAL = [untied, half, bfloat, double, frozen, mixed, hooked, identity, wrapped]

@pytest.mark.parametrize('change', UNUSUAL)
def test_changed_is_saved_as_it_is(own, tmp_path, change):
    m = small(own)
    change(m)
    m.save(tmp_path/'m.pth')
    back = SmallLanguageModel.load(tmp_path/'m.pth')
    want = {k.replace('_orig_mod.', ''): v for k, v in m.state_dict().items()}
    got = back.state_dict()
    for k, v in want.items(): assert got[k].dtype == v.dtype and torch.equal(got[k], v), k
    assert back.config.tie_weights == (change is not untied)

def test_untied_head_everywhere(own, tmp_path):
    "The file, Hugging Face's folder, GGUF and the weights themselves"
    m = small(own)
    untied(m)
    m.save_pretrained(tmp_path/'hf')
    back = SmallLanguageModel.from_pretrained(tmp_path/'hf')
    assert same(back, m) and not same(m, small(own)) and not back.config.tie_weights
    twin = small(own)
    untied(twin)
    twin.load_state_dict(m.state_dict())
    assert same(twin, m)
    gguf = pytest.importorskip('gguf')
    m.save_gguf(tmp_path/'m.gguf')
    tensors = {t.name: torch.tensor(t.data) for t in gguf.GGUFReader(tmp_path/'m.gguf').tensors}
    assert torch.equal(tensors['output.weight'], m.lm_head.weight)

def test_tied_by_its_owner(own, tmp_path):
    m = small(own, tie_weights=False)
    m.lm_head.weight = m.token_embedding.weight
    m.save(tmp_path/'m.pth')
    back = SmallLanguageModel.load(tmp_path/'m.pth')
    assert back.config.tie_weights and same(back, m)

# ---- or refused by name ----

class Wide(nn.LayerNorm): pass
class Exact(nn.Module):
    "An MLP with the exact GELU"
    def __init__(self, mlp):
        super().__init__()
        self.fc, self.proj = mlp.fc, mlp.proj
    def forward(self, x): return self.proj(F.gelu(self.fc(x)))
class Cosine(SmallLanguageModel):
    def forward(self, ids, *args, **kw):
        return self.lm_head(F.normalize(self.features(ids), dim=-1))
class Embedding8(nn.Embedding): pass

def changed(m, path, part):
    owner, _, name = path.rpartition('.')
    setattr(m.get_submodule(owner), name, part)

changes = {
    'lm_head.bias': lambda m: changed(m, 'lm_head', nn.Linear(24, V)),
    'final_norm.eps is 1e-06': lambda m: setattr(m.final_norm, 'eps', 1e-6),
    'blocks.1.norm2: RMSNorm instead of LayerNorm':
        lambda m: changed(m, 'blocks.1.norm2', nn.RMSNorm(24)),
    'blocks.0.norm1: Wide instead of LayerNorm': lambda m: changed(m, 'blocks.0.norm1', Wide(24)),
    'blocks.0.mlp: Exact instead of MLP':
        lambda m: changed(m, 'blocks.0.mlp', Exact(m.blocks[0].mlp)),
    'blocks.0.mlp.forward was replaced': lambda m: setattr(m.blocks[0].mlp, 'forward', lambda x: x),
    'token_embedding.num_embeddings is 340':
        lambda m: changed(m, 'token_embedding', nn.Embedding(340, 24)),
    'position_embedding': lambda m: changed(m, 'position_embedding', nn.Embedding(64, 24)),
    'adapter: an additional Linear': lambda m: m.add_module('adapter', nn.Linear(2, 2)),
    'scale: (1,)': lambda m: m.register_buffer('scale', torch.ones(1)),
    'gate: (3,)': lambda m: m.register_parameter('gate', nn.Parameter(torch.ones(3))),
    'blocks.0.mlp.fc: ParametrizedLinear':
        lambda m: nn.utils.parametrizations.weight_norm(m.blocks[0].mlp.fc),
    'blocks.1.attn.n_heads is 6': lambda m: setattr(m.blocks[1].attn, 'n_heads', 6),
    'blocks.2: an additional Block': lambda m: m.blocks.append(copy.deepcopy(m.blocks[0])),
    'blocks.1: is missing': lambda m: m.blocks.__delitem__(1),
    'Cosine instead of SmallLanguageModel': lambda m: setattr(m, '__class__', Cosine),
    "device 'meta'": lambda m: m.to('meta'),
    'token_embedding: Embedding8 instead of Embedding':
        lambda m: changed(m, 'token_embedding', Embedding8(V, 24)),
}

@pytest.mark.parametrize('says', changes)
def test_changed_is_refused_by_name(own, tmp_path, says):
    m = small(own)
    (tmp_path/'m.pth').write_bytes(b'older')
    changes[says](m)
    for write in (m.save, m.save_pretrained) + ((m.save_gguf,) if gguf_here() else ()):
        with pytest.raises(ValueError) as e: write(tmp_path/'m.pth')
        assert says in str(e.value), str(e.value)
    assert (tmp_path/'m.pth').read_bytes() == b'older'
    assert len([*tmp_path.iterdir()]) == 1

def gguf_here():
    try: import gguf
    except ImportError: return False
    return True

def test_unchanged(own):
    "Nothing of what training and generation do counts as a change"
    m = small(own, dropout=.1)
    others = [small(own, positions=positions) for positions in POSITIONS]
    others.append(small(own, tie_weights=False, bias=False))
    for variant in (m, m.train(), *others, m.quantize(), copy.deepcopy(m)):
        assert replaced_parts(variant) == []
    from functools import partial
    b = m.blocks[0]
    b.forward = partial(torch.utils.checkpoint.checkpoint, partial(type(b).forward, b),
                        use_reentrant=False)
    assert replaced_parts(m) == []
    class Mine(SmallLanguageModel):
        def say(self): return 'hello'
    m.__class__ = Mine
    assert replaced_parts(m) == []

def test_nan_weights_are_reported(own, tmp_path):
    m = small(own)
    m.blocks[0].mlp.fc.weight.data[0, 0] = float('nan')
    for write in (m.save, m.save_pretrained):
        warns = pytest.warns(UserWarning, match='NaN.*blocks.0.mlp.fc.weight')
        with warns: write(tmp_path/'x')
        tmp_path = tmp_path/'more'
    with pytest.warns(UserWarning, match='NaN'):
        SmallLanguageModel.from_pretrained(tmp_path.parent/'x')

# ---- ONNX ----

def onnx_logits(m, path):
    ort = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    m.save_onnx(path)
    session = ort.InferenceSession(path, providers=['CPUExecutionProvider'])
    return torch.tensor(session.run(None, {'ids': ids.numpy()})[0])

def other_eps(m): m.final_norm.eps = .1
def exact_gelu(m): changed(m, 'blocks.0.mlp', Exact(m.blocks[0].mlp))
ONNX_CHANGES = [half, bfloat, double, mixed, untied, other_eps, exact_gelu]

@pytest.mark.parametrize('change', ONNX_CHANGES, ids=lambda f: f.__name__)
def test_onnx_is_the_model_as_it_is(own, tmp_path, change):
    m = small(own)
    change(m)
    modes = [p.training for p in m.train().modules()]
    before = {k: v.clone() for k, v in m.state_dict().items()}
    got = onnx_logits(m, tmp_path/'m.onnx')
    assert [p.training for p in m.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())
    want = copy.deepcopy(m).float().eval()(ids).detach()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)

def test_onnx_refuses_int8_and_meta(own, tmp_path):
    pytest.importorskip('onnx')
    for m, says in ((small(own).quantize(), 'int8'), (small(own).to('meta'), 'meta')):
        with pytest.raises(ValueError, match=says): m.save_onnx(tmp_path/'m.onnx')

def test_dropout_is_noise_in_training_only(own):
    noisy, x = small(own, dropout=.5), torch.randint(own.vocab_size, (2, 7))
    noisy.train()
    assert not torch.allclose(noisy(x), noisy(x))
    noisy.eval()
    assert torch.equal(noisy(x), noisy(x))

def test_first_weights():
    "0.02 for an ordinary matrix, less for those that write to the stream, biases 0"
    torch.manual_seed(0)
    model = SmallLanguageModel(ModelConfig(vocab_size=3000, d_model=192, n_heads=6, n_layers=6))
    scaled = .02/math.sqrt(2*6)
    for name, p in model.named_parameters():
        if name.endswith('bias'): assert p.abs().max() == 0, name
        if p.ndim < 2: continue
        want = scaled if name.endswith('proj.weight') else .02
        assert abs(p.std().item() - want) < .02*want, name

def test_presets(own):
    tiny = SmallLanguageModel.preset('tiny', own)
    assert tiny.config == replace(PRESETS['tiny'], vocab_size=own.vocab_size)
    with pytest.raises(ValueError, match='tiny, small, medium'): SmallLanguageModel.preset('huge')
