"Each variant of the block, alone and with others, wherever a GPT-2 works: decoders, int8, files."
import math
from dataclasses import replace
import pytest, torch
from torch.testing import assert_close
from slm_scratch import PRESETS, ModelConfig, SmallLanguageModel, Tokenizer
from slm_scratch.engine.changes import changed_parts
from slm_scratch.engine.fast import FastDecoder
from slm_scratch.engine.lens import record_calls
from slm_scratch.engine.modern import MODERN, RMSNorm, VariantAttention
from slm_scratch.engine.sizes import count_parameters, estimate_bytes, estimate_flops
from slm_scratch.generate import Decoder, choose_decoder

tok = Tokenizer({bytes([i]): i for i in range(256)})
odd = ModelConfig(vocab_size=257, d_model=24, n_heads=3, n_layers=3, max_seq_len=11, d_ff=50,
                  positions='rotary')
MIXERS = dict(x0_blend=True, value_embeddings=True, conv_width=3)
ALONE = dict(
    gpt2=dict(positions='learned'), rotary={}, rms=dict(norm='rms'),
    weightless=dict(norm='rms', norm_weight=False), layer_norm_alone=dict(norm_weight=False),
    embed_norm=dict(embed_norm=True), relu2=dict(activation='relu2'),
    swiglu=dict(activation='swiglu'), qk_norm=dict(qk_norm=True), grouped=dict(n_kv_heads=1),
    window=dict(sliding_window=3), alternate=dict(sliding_window=3, window_pattern='SL'),
    softcap=dict(logit_softcap=2.), zero_init=dict(zero_init=True), modern=MODERN,
    all=MODERN | dict(n_kv_heads=1, sliding_window=3, window_pattern='SL'),
    all_learned=MODERN | dict(n_kv_heads=1, sliding_window=3, positions='learned'),
    x0=dict(x0_blend=True), values=dict(value_embeddings=True), conv=dict(conv_width=3),
    mixers=MODERN | MIXERS, mixers_learned=MIXERS | dict(positions='learned'),
    mixers_all=MODERN | MIXERS | dict(n_kv_heads=1, sliding_window=3, window_pattern='SL'))
every = pytest.mark.parametrize('name', ALONE)

def random_model(name):
    "All weights random, and large enough to matter"
    torch.manual_seed(5)
    m = SmallLanguageModel(replace(odd, **ALONE[name]), tok).eval()
    with torch.no_grad():
        for p in m.parameters(): p.add_(torch.randn_like(p)*.2)
    return m

torch.manual_seed(0)
text = torch.randint(256, (2, 9))
row = text[0].tolist()

def decoded(decoder):
    "The logits after 5 … 8 tokens, the last three of them given one by one"
    return torch.cat([decoder.prefill()] + [decoder.step([t]) for t in row[5:8]])

@every
@torch.no_grad()
def test_fast_decoder(name):
    m = random_model(name)
    want = m(text)[0, 4:8]
    fast = choose_decoder(m, [row[:5]], 4)
    assert type(fast) is FastDecoder and changed_parts(m) == {}
    assert_close(decoded(fast), want, rtol=1e-4, atol=2e-5)
    few = FastDecoder(m, [row[:5]], 4, n_logits=3)
    few.prefill()
    for t, z in zip(row[5:8], want[1:]):
        best, ids = z.topk(3)
        assert_close(few.step([t])[0], best, rtol=1e-4, atol=2e-5)
        assert_close(z[few.token_ids], best, rtol=1e-4, atol=2e-5)

@every
@torch.no_grad()
def test_int8_and_files(name, tmp_path):
    m = random_model(name)
    q, exact = m.quantize(), m(text)
    assert (q(text) - exact).pow(2).mean().sqrt() < .1*exact.std()
    fast = choose_decoder(q, [row[:5]], 4)
    assert type(fast) is FastDecoder and changed_parts(q) == {}
    want = q(text[:1])[0, 4:8]
    assert (decoded(fast) - want).abs().max() < .1*want.std() # a last digit may flip
    for model in (m, q):
        model.save(tmp_path/'m.pth')
        back = SmallLanguageModel.load(tmp_path/'m.pth')
        assert torch.equal(back(text), model(text)) and back.config == model.config

@every
def test_generate_in_a_batch(name):
    "The window slides, rows are padded: the texts are those of the slow way, one by one"
    m = random_model(name)
    prompts = ['fox', 'a fox and ', 'x']
    options = dict(max_new_tokens=12, seed=3, temperature=.7)
    assert m.generate(prompts, **options) == [m.generate(p, **options) for p in prompts]

@every
def test_lens(name):
    m = random_model(name)
    ids = torch.tensor([[*b'fox']])
    maps, lens = m.attention_maps('fox', start=False)[1], m.logit_lens('fox', start=False)[1]
    assert_close(torch.cat(m.attention_weights(ids)), maps)
    assert_close(m(ids).softmax(-1)[0], lens[-1])

@every
def test_sizes(name):
    cfg = replace(odd, **ALONE[name])
    m = SmallLanguageModel(cfg)
    assert count_parameters(cfg)['total'] == sum(p.numel() for p in m.parameters())
    caches = m.make_kv_caches(2)
    assert sum(c.nbytes for c in caches) == estimate_bytes(cfg, 2)['kv_cache']

@pytest.mark.parametrize('name', ['rms', 'swiglu', 'grouped', 'alternate', 'softcap', 'all',
                                  'x0', 'values', 'conv', 'mixers', 'mixers_all'])
def test_onnx(name, tmp_path):
    "For any length, the window included"
    for package in ('onnx', 'onnxruntime'): pytest.importorskip(package)
    import onnxruntime
    m = random_model(name)
    m.save_onnx(tmp_path/'m.onnx')
    session = onnxruntime.InferenceSession(str(tmp_path/'m.onnx'))
    for ids in (text, text[:1, :7], text[:, :1]):
        logits, = session.run(None, {'ids': ids.numpy()})
        with torch.no_grad(): assert_close(torch.tensor(logits), m(ids), rtol=1e-3, atol=1e-4)

def test_another_variant_is_seen(monkeypatch):
    "A patched norm or activation does not reach the fast decoder unseen"
    m = random_model('modern')
    monkeypatch.setattr(RMSNorm, 'forward', lambda self, x: x)
    assert any('RMSNorm' in why for why in changed_parts(m).values())
    monkeypatch.undo()
    m.blocks[0].attn.window = 2
    assert changed_parts(m) == {'blocks.0.attn': 'has window=2'}

def test_wrong_weights_are_refused(tmp_path):
    "A file of one variant does not load into another"
    m = random_model('modern')
    m.save(tmp_path/'m.pth')
    plain = SmallLanguageModel(odd, tok)
    with pytest.raises(ValueError, match='another shape') as e:
        plain.load_state_dict(torch.load(tmp_path/'m.pth'))
    for field in ('norm', 'activation', 'qk_norm', 'logit_softcap'): assert field in str(e.value)
