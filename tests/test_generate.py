"""Generation beside independent references: the sampler's distribution, changed models, and
whatever surrounds a call."""
import contextlib, copy, inspect, io, math, random, sys, warnings
from dataclasses import fields
from pathlib import Path
import numpy as np, pytest, torch
from fastcore.basics import patch
from fastcore.docments import docments
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from slm_scratch import ModelConfig, SmallLanguageModel, Tokenizer
from slm_scratch import attention
from slm_scratch.attention import MultiHeadAttention
from slm_scratch.engine import changes, fast, kernels
import slm_scratch.engine.lens # gives the model two methods
from slm_scratch.engine.changes import changed_parts
from slm_scratch.engine.config import VARIANTS
from slm_scratch.engine.memorization import MemorizationIndex
from slm_scratch.engine.fast import FastDecoder, TopKHead, topk_head
from slm_scratch.engine.variants import POSITIONS, Rotary
from slm_scratch.generate import Decoder, GenerationConfig, Sampler, choose_decoder
from slm_scratch.generate import keep_min_p, keep_top_k, keep_top_p, penalize_repeats, sample
from slm_scratch.model import MLP, Block

TOK = Tokenizer.train('The little fox lost her lantern. She looked under the old oak. '*4, 297)
PROMPTS = ['The little', '', 'The mill and']

def model(seed=0, **changes):
    "A small model with large random weights: a different answer for each context"
    torch.manual_seed(seed)
    config = dict(vocab_size=TOK.vocab_size, d_model=24, n_heads=3, n_layers=2, max_seq_len=12,
                  positions='rotary')
    m = SmallLanguageModel(ModelConfig(**config | changes), TOK).eval()
    for p in m.parameters():
        if p.dim() == 2: nn.init.normal_(p, std=.3)
    return m

@torch.no_grad()
def log_probs_of(m, prompt, tokens):
    "Log-probabilities of `tokens` after `prompt`: one uncached pass of the model for each"
    ids, W, said = [TOK.eot] + TOK.encode(prompt), m.config.max_seq_len, []
    first = max(0, len(ids) - W)
    for t in tokens:
        if len(ids) - first > W: first = len(ids) - max(1, W//2)
        z = m(torch.tensor([ids[first:]]))[0, -1, :TOK.vocab_size]
        said.append(z.float().log_softmax(-1)[t].item())
        ids.append(t)
    return said

def agrees(m, n=18, tolerance=1e-3, **knobs):
    "One text, the same in a batch, streamed, and by the model itself; returns the texts"
    knobs = dict(max_new_tokens=n, temperature=1., seed=3, stop_at_eot=False) | knobs
    batch = m.generate(PROMPTS, log_probs=True, **knobs)
    for prompt, row in zip(PROMPTS, batch):
        alone = m.generate(prompt, log_probs=True, **knobs)
        assert alone.tokens == row.tokens and alone.text == row.text
        expected = log_probs_of(m, prompt, alone.tokens)
        np.testing.assert_allclose(alone.log_probs, expected, atol=tolerance)
        np.testing.assert_allclose(row.log_probs, expected, atol=tolerance)
    assert m.generate(prompt, **knobs) == alone.text == ''.join(m.stream(prompt, **knobs))
    return [g.text for g in batch]

# ---- the sampler ----

def distribution(z, s):
    "Probabilities after the knobs of `s`, from their definitions, in plain Python"
    p = [math.exp(x/s.temperature) for x in z]
    order = sorted(range(len(p)), key=lambda i: -p[i])[:s.top_k or len(p)]
    kept, total = [], sum(p[i] for i in order)
    for i in order:
        if sum(p[j] for j in kept) >= (s.top_p or 1)*total: break
        kept.append(i)
    kept = [i for i in kept if p[i] >= (s.min_p or 0)*p[order[0]]]
    return [p[i]/sum(p[j] for j in kept) if i in kept else 0. for i in range(len(p))]

KNOBS = dict(temperature=Sampler(1.), cold=Sampler(.4), hot=Sampler(2.5),
             top_k=Sampler(1., top_k=3), top_p=Sampler(1., top_p=.7), min_p=Sampler(1., min_p=.2),
             all=Sampler(1.3, 7, .9, .05))

@pytest.mark.parametrize('name', KNOBS)
def test_sampler_draws_from_the_distribution(name):
    "20,000 draws: each frequency within five standard errors of its probability, and not one alone"
    s, n, g = KNOBS[name], 20_000, torch.Generator().manual_seed(1)
    z = torch.tensor([1.5, .3, .7, 1.8, .6, .9, .8, .5, .4])
    p = torch.tensor(distribution(z.tolist(), s), dtype=torch.float64)
    u = torch.rand(n, generator=g, dtype=torch.float64)
    counts = s(z.expand(n, 9), u).bincount(minlength=9)
    assert ((counts/n - p).abs() <= 5*(p*(1 - p)/n).sqrt()).all()
    assert (counts > 0).sum() == (p > 0).sum() > 1

def test_generated_tokens_follow_the_model():
    "The first tokens of many seeds have the frequencies that the model says"
    m, n = model(), 3000
    z = m(torch.tensor([[TOK.eot] + TOK.encode('The')]))[0, -1]
    p = (z/.9).double().softmax(-1).detach()
    texts = m.generate('The', temperature=.9, seed=0, num_samples=n, max_new_tokens=1,
                       log_probs=True)
    first = [g.tokens[0] for g in texts]
    counts = torch.tensor(first).bincount(minlength=len(p))
    assert ((counts/n - p).abs() <= 5*(p*(1 - p)/n).sqrt() + 1/n).all()
    assert len(set(first)) > 20

def test_greedy_takes_the_best_and_penalty_moves_it():
    z = torch.tensor([[3., 2.5, -1.]])
    assert Sampler(0)(z).item() == 0
    assert Sampler(0, repetition_penalty=2.)(z, None, torch.tensor([[0, 0, 2]])).item() == 1
    spared = Sampler(0, repetition_penalty=2.)(z, None, torch.tensor([[0]]), 0)
    assert spared.item() == 0

KNOBS_IN_A_TEXT = [dict(temperature=0), dict(top_k=5), dict(top_p=.8), dict(min_p=.1),
                   dict(repetition_penalty=1.5)]

@pytest.mark.parametrize('knobs', KNOBS_IN_A_TEXT)
def test_knobs_in_a_text(knobs): agrees(model(), **knobs)

def test_topk_head_finds_the_best_exactly():
    g = torch.Generator().manual_seed(0)
    head = nn.Linear(17, 400, bias=False)
    for k in (1, 9, 400):
        h = torch.randn(17, generator=g)
        z, ids = TopKHead(head)(h, k)
        scores = (head.weight @ h).detach()
        torch.testing.assert_close(z, scores.topk(k).values)
        assert ids.tolist() == scores.topk(k).indices.tolist()

def test_topk_head_is_made_again_after_any_change():
    m = model()
    W, heads = m.lm_head.weight, [topk_head(m)]
    assert topk_head(m) is heads[0]
    for change in (lambda: W.mul_(-1), lambda: W.copy_(W.flip(0)), lambda: W.copy_(W.flip(1)),
                   lambda: W[3, 5].add_(1e-3)):
        with torch.no_grad(): change()
        heads.append(topk_head(m))
    assert len(set(map(id, heads))) == 5

# ---- the sampler beside transformers, and on random cases ----

def processors():
    "The module of transformers whose classes do what our knobs do"
    pytest.importorskip('transformers')
    from transformers.generation import logits_process
    return logits_process

same = lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0)

def test_each_knob_is_that_of_transformers():
    "The same numbers, if there are no ties: there, theirs lets more than k through"
    hf, g = processors(), torch.Generator().manual_seed(2)
    x = torch.randn(6, 999, dtype=torch.float64, generator=g)
    used = torch.randint(0, 999, (6, 40), generator=g)
    for T in (.1, .8, 2.): same(x/T, hf.TemperatureLogitsWarper(T)(None, x))
    for k in (1, 7, 998, 5000): same(keep_top_k(x, k), hf.TopKLogitsWarper(k)(None, x))
    for p in (.01, .5, .9, .999): same(keep_top_p(x, p), hf.TopPLogitsWarper(p)(None, x))
    for p in (.01, .1, .7, 1.): same(keep_min_p(x, p), hf.MinPLogitsWarper(p)(None, x))
    for r in (.5, 1.2, 3.):
        same(penalize_repeats(x, used, r), hf.RepetitionPenaltyLogitsProcessor(r)(used, x))

def test_all_knobs_draw_from_the_distribution_of_transformers():
    "Their chain of five, and 100,000 needles at equal distances through ours"
    hf, N, V = processors(), 100_000, 300
    g = torch.Generator().manual_seed(3)
    x = torch.randn(1, V, dtype=torch.float64, generator=g)
    used = torch.randint(0, V, (1, 30), generator=g)
    z = x
    for step in (hf.RepetitionPenaltyLogitsProcessor(1.3), hf.TemperatureLogitsWarper(1.4),
                 hf.TopKLogitsWarper(40), hf.TopPLogitsWarper(.9), hf.MinPLogitsWarper(.02)):
        z = step(used, z)
    needles = (torch.arange(N) + .5)/N
    ids = Sampler(1.4, 40, .9, .02, 1.3)(x.expand(N, V), needles, used.expand(N, 30))
    expected = z[0].softmax(-1).float()
    torch.testing.assert_close(ids.bincount(minlength=V)/N, expected, atol=2/N, rtol=0)

def is_legal(z, i, s):
    "May `Sampler` `s` draw token `i` from logits `z` (V,)? From the definitions, up to rounding"
    if s.temperature == 0: return bool(z[i] == z.max())
    p = ((z.double() - z.max())/s.temperature).softmax(-1)
    k = min(s.top_k or len(z), len(z))
    p = torch.where(z >= z.sort(descending=True).values[k-1], p, 0.) # the top k, more with ties
    better = p[z > z[i]] # strictly better tokens
    nucleus = better.sum()/p.sort(descending=True).values[:k].sum() < (s.top_p or 1) + 1e-9
    above_min = p[i] >= (s.min_p or 0)*p.max()*(1 - 1e-6)
    return bool(z[i] > -math.inf and len(better) < k and nucleus and above_min)

def random_case(rng, g):
    "Logits (5, V) of any scale, some at -inf, some tied; any knobs"
    n = rng.choice([1, 2, 7, 50, 300])
    z = torch.randn(5, n, generator=g)*10**rng.uniform(-3, 3)
    if rng.random() < .3: z = z.round()
    dropped = torch.rand(5, n-1, generator=g) < rng.choice([0, .5])
    z[:, 1:] = z[:, 1:].masked_fill(dropped, -math.inf)
    maybe = lambda v: v if rng.random() < .5 else None
    return z, Sampler(rng.choice([0, .01, .8, 1, 30]), maybe(rng.randint(1, 2*n)),
                      maybe(rng.uniform(1e-6, 1)), maybe(rng.uniform(0, 1)))

def test_ten_thousand_random_choices_are_legal():
    rng, g = random.Random(5), torch.Generator().manual_seed(5)
    for _ in range(2000):
        z, s = random_case(rng, g)
        ids = s(z, torch.rand(5, generator=g, dtype=torch.float64)).tolist()
        assert all(is_legal(row, i, s) for row, i in zip(z, ids)), (s, z, ids)

def test_any_choice_is_legal(tmp_path):
    "hypothesis looks for the nastiest case that fails, and shrinks it to a small one"
    hypothesis = pytest.importorskip('hypothesis')
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path) # it would leave a folder behind
    st = hypothesis.strategies
    score = st.floats(-1e4, 1e4, width=32) | st.just(-math.inf) | st.sampled_from([0., 1.])
    rows = st.lists(score, min_size=1, max_size=30).filter(lambda l: max(l) > -math.inf)
    knobs = st.floats(0, 1e3), st.none() | st.integers(1, 40), st.none() | st.floats(1e-9, 1)
    @hypothesis.settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @hypothesis.given(rows, st.floats(0, 1, exclude_max=True), *knobs, st.none() | st.floats(0, 1))
    def check(row, u, T, k, p, m):
        s, z = Sampler(T, k, p, m), torch.tensor([row])
        hypothesis.assume(not s.problems())
        assert is_legal(z[0], s(z, torch.tensor([u], dtype=torch.float64)).item(), s)
    check()

def test_numbers_of_knobs():
    for whole in (np.int64, np.uint8, torch.tensor, np.array):
        s = Sampler(np.float32(.5), whole(3), np.float64(.5), torch.tensor(.25), whole(2))
        assert s.problems() == [] and s == Sampler(.5, 3, .5, .25, 2)
    assert len(Sampler(True, True, True, True, True).problems()) == 5
    assert len(Sampler(10**400, 1.5, 'half', 1j, np.float32('nan')).problems()) == 5

def test_needles_at_the_ends_of_the_line():
    "The first and last word that can come; never behind the end, never on a forbidden one"
    never, almost = -torch.inf, 1 - 2**-53
    z = torch.tensor([never, 0., never, 0., never])
    ends = torch.tensor([0., almost], dtype=torch.float64)
    assert sample(z.expand(2, 5), ends).tolist() == [1, 3]
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 70, generator=g).index_fill(1, torch.arange(60, 70), never)
    assert sample(z, torch.full((2000,), almost, dtype=torch.float64)).max() == 59
    assert sample(torch.randn(2, 3, 7), torch.rand(2, 3)).shape == (2, 3)
    almost_greedy = Sampler(1e-300) # and no overflow
    assert almost_greedy(torch.tensor([[2.5, 2.]]), torch.tensor([.999])).item() == 0
    candidates = [s.n_candidates for s in (Sampler(0, 5), Sampler(1., 5), Sampler())]
    assert candidates == [1, 5, None]

def test_problems_of_knobs():
    for s in (Sampler(), Sampler(0), Sampler(0., 1, 1, 0, .5), Sampler(1.5, 10**9, 1e-9, 1.)):
        assert s.problems() == []
    for s in (Sampler(math.nan), Sampler(math.inf), Sampler(top_k=1.5), Sampler(top_p=0),
              Sampler(min_p=-.1), Sampler(None)):
        assert len(s.problems()) == 1

# ---- options ----

def test_config_and_options_say_the_same():
    m = model()
    config = GenerationConfig(max_new_tokens=9, temperature=1., seed=4, top_k=7)
    by_name = lambda **k: m.generate('The', **dict(max_new_tokens=9, temperature=1., top_k=7) | k)
    assert m.generate('The', config=config) == by_name(seed=4)
    assert m.generate('The', config=config, seed=5) == by_name(seed=5) != by_name(seed=4)
    assert ''.join(m.stream('The', config=config)) == by_name(seed=4)
    assert config == GenerationConfig(max_new_tokens=9, temperature=1., seed=4, top_k=7)
    n = len(m.tokenizer.encode('The')) + 3 # a limit by name goes before the config's other one
    assert m.generate('The', config=config, max_length=n) == by_name(seed=4, max_new_tokens=3)

def test_options_are_the_fields_of_the_config():
    names = [f.name for f in fields(GenerationConfig)]
    listed = inspect.signature(SmallLanguageModel.generate).parameters
    assert [*listed] == ['self', 'prompt', 'config', *names]
    streamed = inspect.signature(SmallLanguageModel.stream).parameters
    assert listed.keys() - streamed.keys() == {'num_samples', 'log_probs'}
    explained = docments(SmallLanguageModel.generate)
    assert all(explained[name] for name in names)

@pytest.mark.parametrize('ask', ['generate', 'stream'])
def test_options_that_do_not_exist(ask):
    call = getattr(model(), ask)
    with pytest.raises(TypeError, match='length'): call('The', length=5)
    with pytest.raises(TypeError, match='positional'): call('The', 50)
    with pytest.raises(TypeError, match='GenerationConfig'): call('The', config=dict(seed=1))
    if ask == 'stream':
        for k in (dict(num_samples=2), dict(log_probs=True)):
            with pytest.raises(TypeError, match='num_samples and log_probs'): call('The', **k)

def test_config_names_all_that_is_wrong():
    with pytest.raises(ValueError) as e: GenerationConfig(top_k=0, stop='', max_new_tokens=-1)
    assert '3 problem(s)' in str(e.value)
    with pytest.raises(ValueError, match='max_length=3 .* has 5 tokens'):
        GenerationConfig(max_length=3, prompt_tokens=5)

# ---- samples, seeds, ends ----

def test_samples_are_seeded_one_after_another():
    m, k = model(max_seq_len=40), dict(max_new_tokens=12, temperature=1.)
    three = m.generate('The fox', seed=10, num_samples=3, **k)
    assert three == [m.generate('The fox', seed=s, **k) for s in (10, 11, 12)]
    assert len(set(three)) == 3
    k = dict(max_new_tokens=30, temperature=1., stop=['e', 'o'])
    lists = m.generate(['oak', 'The'], seed=0, num_samples=5, **k)
    assert lists == [[m.generate(p, seed=s, **k) for s in range(5)] for p in ('oak', 'The')]
    pairs = m.generate(['a', 'b'], max_new_tokens=0, num_samples=2)
    assert pairs == [['a', 'a'], ['b', 'b']]

def test_seeds_and_the_global_generator():
    m, state = model(max_seq_len=40), torch.get_rng_state()
    fox = lambda n, **k: m.generate('fox', max_new_tokens=n, temperature=1., **k)
    long = fox(60, seed=2)
    assert long.startswith(fox(20, seed=2).rstrip('\ufffd')) and fox(60, seed=2) == long
    assert torch.equal(state, torch.get_rng_state())
    assert fox(30) != fox(30)
    texts = []
    for _ in range(2):
        torch.manual_seed(9)
        texts.append(fox(30))
    assert texts[0] == texts[1]

def test_end_of_text_ends_a_text():
    m, bias = model(), torch.zeros(TOK.vocab_size)
    bias[TOK.eot] = 1e3
    m.lm_head.register_forward_hook(lambda mod, x, z: z + bias)
    assert m.generate('fox') == 'fox' and m.generate('fox', log_probs=True).ended == 'end'
    twice = m.generate('fox', max_new_tokens=2, stop_at_eot=False)
    assert twice == 'fox' + '<|endoftext|>'*2

def test_next_tokens_are_those_of_the_model():
    m = model()
    p = m(torch.tensor([[TOK.eot] + TOK.encode('The')]))[0, -1].softmax(-1).detach()
    found = m.next_tokens('The', 8)
    torch.testing.assert_close(torch.tensor([x for _, x in found]), p.topk(8).values)
    assert m.generate('The', max_new_tokens=1, temperature=0) == 'The' + found[0][0]
    assert abs(sum(x for _, x in m.next_tokens('', 10**6)) - 1) < 1e-4

@pytest.mark.parametrize('k', [None, 5])
@pytest.mark.parametrize('T', [0, .8])
def test_broken_weights_are_named_and_modes_restored(T, k):
    m = model().train()
    with torch.no_grad(): m.final_norm.weight.fill_(math.nan)
    with pytest.raises(ValueError, match='the weights are broken'):
        m.generate('fox', temperature=T, top_k=k)
    assert all(part.training for part in m.modules())

def test_a_k_above_the_vocabulary_keeps_all():
    m, k = model(), dict(seed=0, max_new_tokens=20)
    assert m.generate('a', top_k=10**6, **k) == m.generate('a', top_k=TOK.vocab_size, **k)

# ---- the top-k head in a text, and a look inside ----

@pytest.mark.parametrize('int8_weights', [False, True])
@pytest.mark.parametrize('knobs', [dict(temperature=0), dict(temperature=1.5, top_k=9),
                                   dict(top_k=30, top_p=.9, min_p=.01)])
def test_texts_with_the_topk_head(monkeypatch, knobs, int8_weights):
    "The head that scores few tokens exactly gives the text that all logits give"
    m = model()
    if int8_weights: m = m.quantize()
    k = dict(max_new_tokens=30, seed=5, stop_at_eot=False, **knobs)
    plain = [m.generate(p, **k) for p in PROMPTS]
    monkeypatch.setattr(fast, 'topk_head_pays', lambda model: True)
    assert choose_decoder(m, [[1]], 5, 9).head is not None
    assert [m.generate(p, **k) for p in PROMPTS] == plain

def test_maps_and_lens_of_a_changed_model():
    "They read the forward pass itself: a patched block is in them at once, and no hook stays"
    m = model()
    with patched(Block, 'forward', parallel):
        _, probs = m.logit_lens('The little')
        z = m(torch.tensor([[TOK.eot] + TOK.encode('The little')]))
        torch.testing.assert_close(probs[-1], z[0].softmax(-1).detach())
        _, maps = m.attention_maps('The little')
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))
    assert not any(p._forward_hooks for p in m.modules()) and not changed_parts(m)

def test_ids_without_text_are_never_drawn():
    ranks = {bytes([b]): b for b in range(256)}
    special = {'<|endoftext|>': 319}
    padded = Tokenizer(ranks, '.', special, name='padded')
    m = SmallLanguageModel(ModelConfig(vocab_size=320, d_model=24, n_heads=3, n_layers=1,
                                       max_seq_len=9), padded)
    best = torch.arange(256, 319)
    m.lm_head.register_forward_hook(lambda mod, x, z: z.index_fill(-1, best, 99.))
    for k in (None, 50):
        tokens = m.generate('a', max_new_tokens=300, temperature=2., top_k=k, log_probs=True,
                            seed=0).tokens
        assert all(i < 256 or i == 319 for i in tokens)

# ---- models that their owner changed ----

@contextlib.contextmanager
def patched(owner, name, value):
    "An attribute replaced, as an owner would, and put back"
    old = getattr(owner, name)
    setattr(owner, name, value)
    try: yield
    finally: setattr(owner, name, old)

def relu_squared(self, x): return self.proj(F.relu(self.fc(x)).square())
def parallel(self, x, cache=None, mask=None, cos_sin=None):
    return x + self.mlp(self.norm2(x)) + self.attn(self.norm1(x), cache, mask, cos_sin)
def no_attention(self, x, cache=None, mask=None, cos_sin=None): return x + self.mlp(self.norm2(x))
def shifted(self, x, cache=None, mask=None, cos_sin=None):
    x = x + F.pad(x, (0, 0, 1, 0))[:, :-1] # sees its neighbour past the cache
    return x + self.attn(self.norm1(x), cache, mask, cos_sin)
def sees_four(self, x, cache=None, mask=None, cos_sin=None):
    "Local attention that knows nothing of caches"
    q, k, v = self.project_qkv(x)
    T = x.shape[1]
    near = torch.ones(T, T, dtype=torch.bool).tril().triu(-3)
    return self.proj(F.scaled_dot_product_attention(q, k, v, near).transpose(1, 2).reshape(x.shape))
def soft_capped(self, ids, caches=None, positions=None, mask=None):
    return 5*torch.tanh(self.lm_head(self.hidden_states(ids, caches, positions, mask))/5)
def scaled_heads(self, x):
    B, T, _ = x.shape
    q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, self.head_dim).transpose(1, 3).unbind(2)
    return 3*q, k, v
def scaled_embed(self, ids, positions): return 4*self.token_embedding(ids)
def stretched(self, cfg, positions):
    "Angles that depend on the length of the row, so that no cached key stays right"
    return attention.rope_cos_sin(positions*(9/(1 + positions.max())), cfg.head_dim)
def exact_gelu(x, approximate='none'): return F.elu(x)
def rounded(self, x): return F.linear(x, self.weight, self.bias).round(decimals=1)

FUNCTIONS = {
    'MLP.forward': (MLP, 'forward', relu_squared),
    'Block.forward, parallel': (Block, 'forward', parallel),
    'Block.forward, no attention': (Block, 'forward', no_attention),
    'Block.forward, shifted': (Block, 'forward', shifted),
    'attention.forward, local': (MultiHeadAttention, 'forward', sees_four),
    'attention.project_qkv': (MultiHeadAttention, 'project_qkv', scaled_heads),
    'model.forward': (SmallLanguageModel, 'forward', soft_capped),
    'model.embed': (SmallLanguageModel, 'embed', scaled_embed),
    'nn.Linear.forward': (nn.Linear, 'forward', rounded),
    'nn.LayerNorm.forward': (nn.LayerNorm, 'forward', lambda self, x: x*self.weight),
    'Rotary.cos_sin': (Rotary, 'cos_sin', stretched),
    'a global, apply_rotary_emb': (attention, 'apply_rotary_emb', lambda x, cos_sin: x.roll(1, -1)),
    'a global, gelu': (F, 'gelu', exact_gelu),
}

@pytest.mark.parametrize('what', FUNCTIONS)
def test_patched_functions(what):
    m, before = model(), agrees(model(), 12)
    with patched(*FUNCTIONS[what]):
        assert changed_parts(m)
        assert agrees(m) != before
    assert not changed_parts(m) and agrees(m, 12) == before

def test_patched_by_fastcore_and_by_code():
    m, old = model(), MLP.forward
    before, code = agrees(m, 12), old.__code__
    @patch
    def forward(self:MLP, x): return self.proj(torch.sigmoid(self.fc(x)))
    try: assert agrees(m, 12) != before
    finally: MLP.forward = old
    old.__code__ = relu_squared.__code__ # what IPython's autoreload does
    try: assert changed_parts(m) and agrees(m, 12) != before
    finally: old.__code__ = code
    assert agrees(m, 12) == before

class Stretched(Rotary):
    cos_sin = stretched

@pytest.mark.parametrize('change', ['entry', 'attribute'])
def test_replaced_variants(monkeypatch, change):
    "The model reads `VARIANTS` at each pass: another entry is seen, and tried with caches"
    m, before = model(), agrees(model(), 12)
    if change == 'entry': monkeypatch.setitem(VARIANTS, 'positions', Stretched('positions'))
    else:
        own = VARIANTS['positions']
        monkeypatch.setattr(own, 'cos_sin', lambda *args: stretched(own, *args), raising=False)
    assert [*changed_parts(m)] == [''] and "VARIANTS['positions']" in changed_parts(m)['']
    assert agrees(m, 12) != before
    assert type(choose_decoder(m, [[1, 2]], 5)) is changes.UncachedDecoder
    monkeypatch.undo()
    assert not changed_parts(m) and agrees(m, 12) == before

class NoCaches(SmallLanguageModel):
    def forward(self, ids): return super().forward(ids).flip(-1)

class Scaled(SmallLanguageModel):
    def hidden_states(self, ids, caches=None, positions=None, mask=None):
        return 2*super().hidden_states(ids, caches, positions, mask)

class FewerHeads(nn.Module):
    "Multi-query attention: three query heads, one key head"
    def __init__(self, C=24):
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(C, C), nn.Linear(C, 16), nn.Linear(C, C)
    def forward(self, x, cache=None, mask=None, cos_sin=None):
        B, T, C = x.shape
        q = self.q(x).view(B, T, 3, 8).transpose(1, 2)
        k, v = self.kv(x).view(B, T, 1, 16).transpose(1, 2).chunk(2, -1)
        if cache is not None: k, v = cache.update(k, v)
        k, v = (t.expand(-1, 3, -1, -1) for t in (k, v))
        if mask is None: mask = attention.causal_mask(T, k.shape[2])
        y = F.scaled_dot_product_attention(q, k, v, mask)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))

class Half(nn.Module):
    "A part that works in half precision inside"
    def __init__(self, part):
        super().__init__()
        self.part = part.bfloat16()
    def forward(self, x, *args): return self.part(x.bfloat16(), *args).float()

class Factorised(nn.Module):
    def __init__(self, V, C):
        super().__init__()
        self.small, self.up = nn.Embedding(V, 5), nn.Linear(5, C)
    def forward(self, ids): return self.up(self.small(ids))

def swap_head(m): m.lm_head = nn.Linear(24, TOK.vocab_size)
def wide_head(m): m.lm_head = nn.Linear(24, TOK.vocab_size + 13)
def rms(m):
    for b in m.blocks: b.norm1, b.norm2 = nn.RMSNorm(24), nn.RMSNorm(24)
    m.final_norm = nn.Identity()
def eps(m): m.blocks[1].norm2.eps = .3
def embedding(m):
    m.token_embedding = Factorised(TOK.vocab_size, 24)
    m.lm_head = nn.Linear(24, TOK.vocab_size)
def swish(m): m.blocks[0].mlp = nn.Sequential(nn.Linear(24, 30), nn.SiLU(), nn.Linear(30, 24))
def no_caches(m): m.__class__ = NoCaches
def scaled_class(m): m.__class__ = Scaled
def assigned(m): m.blocks[0].mlp.forward = lambda x: x.sin()
def weight_norm(m):
    layer = m.blocks[0].mlp.fc
    nn.utils.parametrizations.weight_norm(layer)
    layer.parametrizations.weight.original0.data.mul_(2)
def pruned(m): prune.l1_unstructured(m.blocks[0].attn.qkv, 'weight', .5)
def hook(m): m.blocks[0].register_forward_hook(lambda mod, x, y: y*1.5)
def pre_hook(m): m.lm_head.register_forward_pre_hook(lambda mod, x: (x[0]*2,))
def model_hook(m): m.register_forward_hook(lambda mod, x, y: y*2)
def dropped_block(m):
    m.blocks[0] = nn.Identity()
    m.blocks[0].forward = lambda x, *args: x
def fewer_heads(m): m.blocks[1].attn = FewerHeads()
def other_heads(m): m.blocks[0].attn = MultiHeadAttention(24, 2)
def half_block(m): m.blocks[0].mlp = Half(m.blocks[0].mlp)
def half_attention(m): m.blocks[0].attn = Half(m.blocks[0].attn)
def one_more_block(m): m.blocks.append(Block(m.config))
def shared_block(m): m.blocks[0] = m.blocks[1]
def plain_norm(m): m.blocks[0].norm1 = nn.LayerNorm(24, elementwise_affine=False)

CHANGES = [swap_head, wide_head, rms, eps, embedding, swish, no_caches, scaled_class, assigned,
           weight_norm, pruned, hook, pre_hook, model_hook, dropped_block, fewer_heads, other_heads,
           half_block, half_attention, one_more_block, shared_block, plain_norm]

@pytest.mark.parametrize('change', CHANGES, ids=lambda f: f.__name__)
def test_patched_parts(change):
    torch.manual_seed(5)
    m = model(positions='learned' if change is other_heads else 'rotary')
    change(m)
    if change is one_more_block: # as many caches as blocks: nothing else to do
        assert len(m.make_kv_caches(1)) == 3
    rough = change in (half_block, half_attention)
    if rough: # a batch may round otherwise: compare the log-probabilities alone
        one, two = (m.generate(p, max_new_tokens=9, seed=1, log_probs=True) for p in PROMPTS[:2])
        for g, p in ((one, PROMPTS[0]), (two, PROMPTS[1])):
            np.testing.assert_allclose(g.log_probs, log_probs_of(m, p, g.tokens), atol=.2)
    else: agrees(m)
    assert bool(changed_parts(m)) == (change is not shared_block)

def test_patched_weights_between_calls():
    m = model()
    texts = {agrees(m, 12)[0]}
    for change in (lambda p: p.mul_(-1), lambda p: p.copy_(p.flip(0)), lambda p: p.add_(.3),
                   lambda p: p.zero_()):
        with torch.no_grad(): change(m.blocks[0].mlp.fc.weight)
        texts.add(agrees(m, 12)[0])
    m.lm_head.weight.data = m.lm_head.weight.data.flip(0)
    texts.add(agrees(m, 12)[0])
    assert len(texts) > 3

@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
def test_half_and_double_weights(dtype):
    tolerance = .3 if dtype.itemsize == 2 else 1e-4
    for positions in POSITIONS:
        m = model(positions=positions).to(dtype)
        for p in PROMPTS:
            g = m.generate(p, max_new_tokens=14, seed=0, log_probs=True)
            np.testing.assert_allclose(g.log_probs, log_probs_of(m, p, g.tokens), atol=tolerance)

@pytest.mark.parametrize('positions', POSITIONS)
def test_positions_with_caches_and_in_a_batch(positions):
    m = model(positions=positions)
    assert agrees(m, 8) != agrees(model(1, positions=positions), 8) # also beyond the window

def test_unchanged_models_take_the_fast_lane():
    for m in (model(), model(positions='learned'), model(bias=False, tie_weights=False),
              model().double(), model().quantize(), copy.deepcopy(model()).train()):
        assert not changed_parts(m)
        assert type(choose_decoder(m, [[1, 2]], 5)) is FastDecoder
    assert type(choose_decoder(model(), [[1, 2], [3]], 5)) is Decoder

def test_looking_for_changes_leaves_no_trace():
    changes._own_parts.cache_clear()
    m, state = model(), torch.get_rng_state()
    assert not changed_parts(m) and torch.equal(torch.get_rng_state(), state)

def test_int8_weights_are_widened_once_a_text(monkeypatch):
    monkeypatch.setenv(kernels.VARIABLE, 'int8=wide')
    m = model(d_model=48, n_heads=2).quantize()
    copies, seen = [], type(m.lm_head).forward
    def spy(self, x):
        copies.append(self.wide)
        return seen(self, x)
    with patched(type(m.lm_head), 'forward', spy):
        m.generate('The', max_new_tokens=8, seed=0, stop_at_eot=False)
    assert None not in copies and len({id(c) for c in copies}) < len(copies)/4
    assert m.lm_head.wide is None

# ---- whatever surrounds a call ----

@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try: yield
    finally: torch.set_default_dtype(torch.float32)

@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try: yield
    finally: torch.use_deterministic_algorithms(False)

@contextlib.contextmanager
def threads(n):
    old = torch.get_num_threads()
    torch.set_num_threads(n)
    try: yield
    finally: torch.set_num_threads(old)

SURROUNDINGS = {
    'autocast bfloat16': lambda: torch.autocast('cpu', torch.bfloat16),
    'autocast float16': lambda: torch.autocast('cpu', torch.float16),
    'inference_mode': torch.inference_mode,
    'no_grad': torch.no_grad,
    'enable_grad': torch.enable_grad,
    'default float64': lambda: default_dtype(torch.float64),
    'default float16': lambda: default_dtype(torch.float16),
    'default device meta': lambda: torch.device('meta'),
    'deterministic': deterministic,
    'three threads': lambda: threads(3),
    'anomaly detection': torch.autograd.detect_anomaly,
}

@pytest.mark.filterwarnings('ignore:Anomaly')
@pytest.mark.parametrize('name', SURROUNDINGS)
@pytest.mark.parametrize('kind', ['rotary', 'learned', 'int8', 'changed'])
def test_surroundings_change_no_text(name, kind):
    m = model(positions='learned' if kind == 'learned' else 'rotary')
    if kind == 'int8': m = m.quantize()
    if kind == 'changed': eps(m)
    k = dict(max_new_tokens=14, seed=2, temperature=1., top_k=40, repetition_penalty=1.1)
    def all_ways():
        changes._own_parts.cache_clear()
        streamed, candidates = ''.join(m.stream(PROMPTS[2], **k)), m.next_tokens('The', 3)
        names = [t for t, _ in candidates]
        return m.generate(PROMPTS[0], **k), m.generate(PROMPTS, **k), streamed, names
    quiet = all_ways()
    with SURROUNDINGS[name](): assert all_ways() == quiet

def test_autocast_may_hold_weights_of_several_types_together():
    m = model()
    m.blocks[0].mlp.bfloat16()
    with torch.autocast('cpu', torch.bfloat16): text = m.generate('The', max_new_tokens=5, seed=0)
    assert text.startswith('The')

def test_inference_mode_leaves_a_changed_part_fit_for_training():
    class Keeps(nn.Module):
        "Makes a table when it is first used"
        table = None
        def forward(self, x):
            if self.table is None: self.table = torch.ones(24)*2
            return x*self.table
    m = model()
    m.blocks[0].mlp = Keeps()
    m.generate('The', max_new_tokens=3, seed=0)
    m(torch.tensor([[1, 2, 3]])).sum().backward()

def test_modes_and_random_states_are_left_alone():
    m = model(dropout=.3).train()
    m.blocks[0].eval()
    modes = [x.training for x in m.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    text = m.generate('The', max_new_tokens=20, seed=0)
    stream = m.stream('The', max_new_tokens=20, seed=0)
    first = next(stream)
    assert m.training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert first + ''.join(stream) == text == m.generate('The', max_new_tokens=20, seed=0)
    assert [x.training for x in m.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1] and np.random.get_state()[1].tolist() == states[2]

def test_model_without_numbers_says_so():
    with torch.device('meta'): m = SmallLanguageModel(model().config, TOK)
    for ask in (m.generate, m.stream, m.next_tokens):
        with pytest.raises(ValueError, match="device 'meta'"): ask('The')

def test_streams_of_the_program_may_be_closed_or_ascii(monkeypatch):
    m, closed, prompt = model(), io.StringIO(), '狐 '*50
    closed.close()
    def show(message, *args): print(message, file=sys.stderr)
    for out in (None, closed):
        monkeypatch.setattr(sys, 'stdout', out)
        monkeypatch.setattr(sys, 'stderr', out)
        with warnings.catch_warnings():
            warnings.simplefilter('always')
            monkeypatch.setattr(warnings, 'showwarning', show)
            text = m.generate(prompt, max_new_tokens=5, seed=0)
            assert text.startswith(prompt)
            assert ''.join(m.stream(prompt, max_new_tokens=5, seed=0)) == text

# ---- numbers ----

NUMBERS = [('temperature', .75), ('top_k', 5), ('top_p', .5), ('min_p', .25),
           ('repetition_penalty', 1.5), ('max_new_tokens', 6), ('max_length', 12), ('seed', 11),
           ('num_samples', 2)]

@pytest.mark.parametrize('name,value', NUMBERS)
def test_numbers_of_numpy_and_tensors(name, value):
    m, k = model(), dict(max_new_tokens=9, seed=1) | {name: value}
    if name == 'max_length': del k['max_new_tokens']
    expected = m.generate('The', **k)
    floats, ints = [np.float64, np.float32, np.float16], [np.int64, np.int32, np.uint8]
    kinds = floats if isinstance(value, float) else ints
    for kind in (*kinds, np.array, torch.tensor):
        assert m.generate('The', **k | {name: kind(value)}) == expected, kind

SEEDS = [0, -1, 2**31, 2**63, 2**64 - 1, -2**63, np.uint64(2**64 - 1), np.int64(-5)]
BAD_SEEDS = [(2**64, {}), (-2**63 - 1, {}), (10**40, {}), (2**64 - 2, dict(num_samples=3)),
             (1.5, {}), ('one', {}), (True, {})]

@pytest.mark.parametrize('seed', SEEDS)
def test_seeds_of_any_size(seed):
    m = model()
    text = m.generate('The', seed=seed, max_new_tokens=9)
    assert text == m.generate('The', seed=int(seed), max_new_tokens=9) != 'The'

@pytest.mark.parametrize('seed,more', BAD_SEEDS)
def test_seeds_beyond_are_refused_by_name(seed, more):
    with pytest.raises(ValueError, match='seed='): model().generate('The', seed=seed, **more)
    if not more:
        with pytest.raises(ValueError, match='seed='): model().stream('The', seed=seed)

def test_bad_numbers_are_named_together():
    bad = dict(temperature=math.nan, top_k=0, top_p=2, min_p=-.1, repetition_penalty='much',
               max_new_tokens=2.5, seed=2**64, num_samples=0, stop=['', b'x'])
    with pytest.raises(ValueError) as e: model().generate('The', **bad)
    assert '9 problem(s)' in str(e.value) and all(f'{name}=' in str(e.value) for name in bad)
    for name,_ in NUMBERS:
        huge = 10**400 if name == 'temperature' else -10**400
        for value in (True, 'x', 1j, np.float32('inf'), [3], huge):
            with pytest.raises(ValueError, match=f'{name}='):
                model().generate('The', **{name: value})

def test_lengths():
    m = model()
    n = len(TOK.encode('She looked'))
    kw = dict(stop_at_eot=False, log_probs=True, seed=0)
    count = lambda **k: len(m.generate('She looked', **kw, **k).tokens)
    assert [count(max_length=n + 3), count(max_length=n), count(max_new_tokens=0)] == [3, 0, 0]
    assert [count(max_length=1, max_new_tokens=4), count()] == [4, 200]
    too_short = f'max_length={n - 1} counts prompt and output'
    with pytest.raises(ValueError, match=too_short): count(max_length=n - 1)
    # no memory is reserved for so many tokens
    stream = m.stream('She', max_new_tokens=10**15, seed=0, stop_at_eot=False)
    assert next(stream) == 'She' and next(stream)

def test_penalty_and_many_tokens():
    m = model(max_seq_len=8)
    kw = dict(seed=0, stop_at_eot=False)
    text = m.generate('She', max_new_tokens=150, repetition_penalty=1.2, **kw)
    assert text.startswith('She')
    tokens = lambda n: m.generate('She', max_new_tokens=n, log_probs=True, **kw).tokens
    assert len(tokens(150)) == 150 and tokens(150)[:100] == tokens(100)

# ---- prompts ----

ODD_PROMPTS = ['', ' ', '   \n\t  ', 'a\0b', '\0', '<|endoftext|>', 'The <|endoftext|> fox',
               '狐狸', '🦊', '-x', '"\'', '\ufeffThe', 'The'*3000]

@pytest.mark.parametrize('prompt', ODD_PROMPTS)
@pytest.mark.filterwarnings('ignore:the prompt has')
def test_prompts_stand_at_the_beginning(prompt):
    m = model()
    k = dict(max_new_tokens=5, seed=0)
    text = m.generate(prompt, **k)
    assert text.startswith(prompt) and text == ''.join(m.stream(prompt, **k))
    assert text == m.generate([prompt, 'fox'], **k)[0]
    assert m.generate(prompt, max_new_tokens=0) == prompt

def test_prompt_with_half_a_character():
    m = model()
    text = m.generate('fox \ud83e', max_new_tokens=5, seed=0)
    assert text.encode('utf-8').decode('utf-8').startswith('fox \ufffd')
    assert m.generate('\ud83e\udd8a', max_new_tokens=0) == '🦊'

def test_prompts_in_any_collection():
    m, words, k = model(), ['The', 'fox', ''], dict(max_new_tokens=5, seed=0)
    expected = [m.generate(w, **k) for w in words]
    for many in (words, tuple(words), np.array(words), np.array(words, dtype=object), iter(words),
                 (w for w in words), dict.fromkeys(words).keys()):
        assert m.generate(many, **k) == expected
    assert m.generate(np.array('fox'), **k) == m.generate(np.str_('fox'), **k) == expected[1]
    assert m.generate([], **k) == m.generate(iter(()), **k) == []
    assert m.generate(np.array(words), num_samples=np.int64(2), **k)[1][0] == expected[1]

NO_TEXTS = [(None, "''"), (b'The', 'decode'), (Path('p.txt'), 'read_text'), (5, 'decode ids'),
            (torch.tensor([1, 2]), 'decode ids'), (['The', None], "''"), ([b'x'], 'decode'),
            ({'a': 1}, 'str'), ({'a'}, 'str'), ([['The']], 'list'), (np.float32(2), 'str')]

@pytest.mark.parametrize('prompt,hint', NO_TEXTS)
def test_prompt_that_is_no_text(prompt, hint):
    for ask in (model().generate, model().stream, model().next_tokens):
        with pytest.raises(TypeError, match='must be a str') as e: ask(prompt)
        if ask.__name__ == 'generate': assert hint in str(e.value)

@pytest.mark.parametrize('stop', ['', ['ok', ''], b'x', [None], 5, ['a', 3]])
def test_stop_that_is_no_text(stop):
    with pytest.raises(ValueError, match='stop='): model().generate('The', stop=stop)

def test_stop_in_any_collection():
    m = model()
    k = dict(max_new_tokens=60, seed=0, temperature=1.)
    text = m.generate('The', **k)
    word = text[6]
    cut = 'The' + text[3:text.index(word, 3)]
    for stop in (word, [word], (word,), np.array([word, 'never']), {word}, iter([word])):
        assert m.generate('The', stop=stop, **k) == cut
    assert m.generate('The', stop=[], **k) == m.generate('The', stop=None, **k) == text

# ---- copies ----

def test_copies_find_the_longest_shared_run():
    c = MemorizationIndex(['one two three four', 'three four five six seven'])
    found = c.longest('zero three four five eight')
    assert (found.words, found.run, found.document, found.at) == (3, 'three four five', 1, 0)
    assert c.share('three four x y', np.int64(2)) == .5
