"Attention beside PyTorch's own: odd sizes, caches, padding, and what surrounds a call."
import numpy as np, pytest, torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from slm_scratch.attention import (KVCache, MultiHeadAttention, causal_mask, padding_mask,
                                   rope_cos_sin, apply_rotary_emb, scaled_dot_product, softmax)

ODD = [(1, 1, 1, 1), (2, 3, 5, 7), (3, 1, 11, 2), (1, 5, 2, 13)] # B, H, T, hs

def qkv(B, H, T, hs, S=None, seed=0):
    "Random queries, keys and values"
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(B, H, n, hs, generator=g) for n in (T, S or T, S or T)]

@pytest.mark.parametrize('shape', ODD)
def test_causal_attention_is_that_of_torch(shape):
    q, k, v = qkv(*shape)
    ours, weights = scaled_dot_product(q, k, v, causal_mask(shape[2]))
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    torch.testing.assert_close(weights.sum(-1), torch.ones(shape[:3]))
    assert (weights.triu(1) == 0).all()

MODULES = [(*shape, False) for shape in ODD] + [(2, 3, 5, 8, True), (3, 1, 11, 2, True)]

@pytest.mark.parametrize('B,H,T,hs,turned', MODULES)
def test_module_is_that_of_torch(B, H, T, hs, turned):
    torch.manual_seed(0)
    C = H*hs
    m, x = MultiHeadAttention(C, H), torch.randn(B, T, C)
    cos_sin = rope_cos_sin(torch.arange(T), hs) if turned else None
    q, k, v = m.qkv(x).view(B, T, 3, H, hs).permute(2, 0, 3, 1, 4)
    if turned: # turn by complex numbers
        angle = torch.arange(T)[:, None]*10000.**(-torch.arange(0, hs, 2)/hs)
        circle = torch.polar(torch.ones_like(angle), angle)
        as_pairs = lambda t: torch.complex(*t.chunk(2, -1))*circle
        q, k = (torch.cat([as_pairs(t).real, as_pairs(t).imag], -1) for t in (q, k))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C)
    torch.testing.assert_close(m(x, cos_sin=cos_sin), m.proj(y))

@torch.no_grad()
@pytest.mark.parametrize('cos_sin', [None, rope_cos_sin(torch.arange(9), 4)])
def test_weights_are_those_of_the_forward_pass(cos_sin):
    "At once and step by step with a cache: the weighted values, projected, are the output"
    m, x = MultiHeadAttention(12, 3), torch.randn(2, 9, 12)
    output, weights = m(x, cos_sin=cos_sin), m.attention_weights(x, cos_sin=cos_sin)
    v = m.project_qkv(x)[2]
    torch.testing.assert_close(m.proj((weights @ v).transpose(1, 2).reshape(x.shape)), output)
    cache = KVCache(2, 3, 9, 4)
    for t in range(9):
        now = cos_sin and tuple(part[t:t+1] for part in cos_sin)
        step = m.attention_weights(x[:, t:t+1], cache, cos_sin=now)
        torch.testing.assert_close(step, weights[:, :, t:t+1, :t+1])
    assert cache.length == 9

def test_module_is_that_of_torchs_module():
    "Outputs, weights and gradients of `nn.MultiheadAttention`; its mask is True where ours is not"
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    pairs = {'qkv.weight': 'in_proj_weight', 'qkv.bias': 'in_proj_bias',
             'proj.weight': 'out_proj.weight', 'proj.bias': 'out_proj.bias'}
    ours = MultiHeadAttention(12, 3)
    ours.load_state_dict({a: theirs.state_dict()[b] for a, b in pairs.items()})
    xs = [torch.randn(2, 5, 12).requires_grad_()]
    xs.append(xs[0].detach().clone().requires_grad_())
    y, (want, weights) = ours(xs[0]), theirs(xs[1], xs[1], xs[1], attn_mask=~causal_mask(5))
    torch.testing.assert_close(y, want)
    torch.testing.assert_close(ours.attention_weights(xs[0]).mean(1), weights)
    for out in (y, want): out.square().sum().backward()
    torch.testing.assert_close(xs[0].grad, xs[1].grad)
    for a, b in pairs.items():
        torch.testing.assert_close(ours.get_parameter(a).grad, theirs.get_parameter(b).grad)

@torch.no_grad()
def test_dropout_keeps_the_expected_output():
    torch.manual_seed(0)
    m, x = MultiHeadAttention(12, 3, dropout=.5), torch.randn(1, 5, 12)
    draws, plain = m.train()(x.expand(5000, 5, 12)), m.eval()(x)
    assert draws.std(0).max() > .01 and torch.equal(m(x), plain)
    torch.testing.assert_close(draws.mean(0), plain[0], atol=.03, rtol=0)

@pytest.mark.parametrize('args,said', [((12, 5), r'\[1, 2, 3, 4, 6, 12\]'), ((12, 0), 'n_heads=0'),
                                       ((12, 3, 1.), 'below 1')])
def test_impossible_modules_are_refused(args, said):
    with pytest.raises(ValueError, match=said): MultiHeadAttention(*args)

def flops(f):
    "Operations by PyTorch's counter, which knows plain matrix products"
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad(): f()
    return counter.get_total_flops()

def test_work_is_that_of_the_formula():
    "8TC² + 4TSC, without a cache and with one: the formula of the lesson"
    m, C = MultiHeadAttention(12, 3), 12
    for T in (5, 64, 300):
        assert flops(lambda: m(torch.randn(1, T, C))) == 8*T*C*C + 4*T*T*C
    cache = KVCache(1, 3, 32, 4)
    for S in range(1, 33):
        assert flops(lambda: m(torch.randn(1, 1, C), cache)) == 8*C*C + 4*S*C

class Record(TorchDispatchMode):
    "Write down the name of every operation"
    def __init__(self):
        super().__init__()
        self.names = []
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func.overloadpacket).split('.')[-1])
        return func(*args, **(kwargs or {}))

def test_one_more_token_does_no_needless_work():
    "No mask is built, nothing of the past is copied: the new key and value are all that is written"
    m, cache = MultiHeadAttention(12, 3), KVCache(1, 3, 32, 4)
    cache.length = 7
    with torch.no_grad(), Record() as record: m(torch.randn(1, 1, 12), cache)
    needless = {'ones', 'tril', 'cat', 'clone', 'masked_fill', 'arange'}
    assert not needless & {*record.names} and record.names.count('copy_') == 2

def test_bytes_of_a_cache():
    for args, dtype in (((1, 8, 64, 16), torch.float32), ((2, 3, 5, 4), torch.bfloat16)):
        cache = KVCache(*args, dtype=dtype)
        assert cache.nbytes == KVCache.estimate_bytes(*args, dtype=dtype)
        new = torch.randn(args[0], args[1], 3, args[3]).to(dtype)
        keys, values = cache.update(new, new)
        assert (keys.data_ptr(), values.data_ptr()) == (cache.k.data_ptr(), cache.v.data_ptr())

def test_future_tokens_change_nothing():
    m, x = MultiHeadAttention(15, 3), torch.randn(2, 7, 15)
    y = m(x)
    x[:, 4:] = torch.randn(2, 3, 15)
    torch.testing.assert_close(m(x)[:, :4], y[:, :4])
    assert not torch.allclose(m(x)[:, 4:], y[:, 4:])

def test_causal_mask_of_new_queries_is_aligned_to_the_end():
    for T, S in [(1, 1), (1, 5), (3, 5), (5, 5)]:
        rows = [[j <= S - T + i for j in range(S)] for i in range(T)]
        assert causal_mask(T, S).tolist() == rows
    with pytest.raises(ValueError, match='S must be at least 4'): causal_mask(4, 3)

@torch.no_grad()
@pytest.mark.parametrize('chunks', [[1]*9, [9], [4, 1, 3, 1], [2, 7]])
def test_cache_gives_what_one_pass_gives(chunks):
    m, x = MultiHeadAttention(15, 3), torch.randn(2, 9, 15)
    cache = KVCache(2, 3, 9, 5)
    torch.testing.assert_close(torch.cat([m(part, cache) for part in x.split(chunks, 1)], 1), m(x))

@torch.no_grad()
def test_cache_adapts_to_keys_of_another_shape_or_type():
    cache = KVCache(2, 3, 4, 5)
    k, v = torch.randn(2, 1, 3, 7).double(), torch.randn(2, 1, 3, 4).double()
    keys, values = cache.update(k, v)
    assert torch.equal(keys, k) and torch.equal(values, v) and keys.dtype == torch.float64
    k, v = cache.update(torch.ones(2, 1, 1, 7), torch.ones(2, 1, 1, 4))
    assert k.dtype == v.dtype == torch.float32 and k.shape == (2, 1, 4, 7)

def test_cache_that_is_full_or_of_another_batch_says_so():
    cache = KVCache(2, 3, 4, 5)
    new = torch.randn(2, 3, 5, 5)
    with pytest.raises(ValueError, match='max_len=4'): cache.update(new, new)
    with pytest.raises(ValueError, match='batch=1'): cache.update(new[:1, :, :2], new[:1, :, :2])
    assert cache.length == 0 and not cache.k.any()

@torch.no_grad()
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_cache_under_autocast(dtype):
    m, x = MultiHeadAttention(16, 2), torch.randn(2, 5, 16)
    cache, expected = KVCache(2, 2, 5, 8), m(x)
    with torch.autocast('cpu', dtype):
        steps = torch.cat([m(x[:, t:t+1], cache) for t in range(5)], 1)
    torch.testing.assert_close(steps.float(), expected, rtol=.1, atol=.05)

@torch.no_grad()
def test_padded_rows_are_what_each_is_alone():
    m, x, pad = MultiHeadAttention(15, 3), torch.randn(3, 6, 15), [0, 4, 2]
    y = m(x, mask=padding_mask(torch.tensor(pad), 6))
    assert y.isfinite().all()
    for row, n in enumerate(pad): torch.testing.assert_close(y[row, n:], m(x[row:row+1, n:])[0])

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_rotary_angles_ignore_the_default_type(dtype):
    usual = rope_cos_sin(torch.arange(50), 6)
    torch.set_default_dtype(dtype)
    try: other = rope_cos_sin(torch.arange(50), 6)
    finally: torch.set_default_dtype(torch.float32)
    for a, b in zip(usual, other): torch.testing.assert_close(a, b, rtol=0, atol=0)
    angle = np.arange(50)[:, None]*10000.**(-np.arange(0, 6, 2)/6)
    want = torch.tensor(np.cos(angle), dtype=torch.float32)
    torch.testing.assert_close(usual[0], want, rtol=0, atol=1e-5)

def test_rotated_scores_depend_on_the_distance_alone():
    q, k, _ = qkv(1, 2, 1, 6)
    turned = lambda x, i: apply_rotary_emb(x, rope_cos_sin(torch.tensor([i]), 6))
    score = lambda i, j: (turned(q, i)*turned(k, j)).sum(-1)
    torch.testing.assert_close(score(3, 1), score(40, 38), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(score(3, 1), score(3, 2))

def test_softmax_of_large_and_forbidden_scores():
    x = torch.tensor([[1e4, -1e4, 0.], [-torch.inf, 2., 2.]])
    torch.testing.assert_close(softmax(x), torch.softmax(x, -1))
