"""Models that are exported: transformers, ONNX and llama.cpp write the same story as we do; and
samplers that never pick an illegal token."""
import json, math, os, shutil, subprocess, sys
from pathlib import Path
import pytest, torch
from slm_scratch import ModelConfig, SmallLanguageModel, Tokenizer
from slm_scratch.engine.modern import MODERN
from slm_scratch.engine.variants import POSITIONS
from slm_scratch.generate import Sampler

odd_texts = ['The little fox lost her lantern.', '', ' ', '  two  spaces ',
             "\n\n\n  don't\t stop\r\n", '狐狸 丢了 灯笼',
             '\U0001f98a'*2 + ' \U0001f469\u200d\U0001f467', 'naïve Ａ１２３ x²≠½', '\u2028\xa0\xad',
             'A'*50, '<|end|>', "we'll 've 'S 3.14 a\n b  \n"]
prompt = 'The little fox lost her'

def random_model(tok, **changes):
    "A small model with large random weights: its logits differ clearly"
    torch.manual_seed(5)
    usual = dict(vocab_size=tok.vocab_size, d_model=48, n_heads=3, n_layers=3, max_seq_len=60,
                 d_ff=100)
    m = SmallLanguageModel(ModelConfig(**usual | changes), tok).eval()
    with torch.no_grad():
        for p in m.parameters(): p.add_(torch.randn_like(p)*.3)
    return m

@pytest.fixture(scope='module')
def own():
    text = ('The little fox lost her lantern. She looked under the old oak, and behind the mill. '
            '“Lantern!” she cried.\n\n  狐狸 “Why?” ')
    return Tokenizer.train(text*3, vocab_size=330)

def check_transformers(m, folder):
    hf = pytest.importorskip('transformers')
    m.save_pretrained(folder)
    theirs = hf.AutoModelForCausalLM.from_pretrained(folder)
    tok = hf.AutoTokenizer.from_pretrained(folder)
    eot = m.tokenizer.eot
    assert (tok.eos_token_id, tok.bos_token_id, len(tok)) == (eot, eot, m.tokenizer.vocab_size)
    for c in (theirs.config, theirs.generation_config):
        assert (c.eos_token_id, c.bos_token_id) == (eot, eot)
    for t in odd_texts: assert tok(t)['input_ids'] == m.tokenizer.encode(t), t
    ids = torch.tensor([[eot] + m.tokenizer.encode(prompt)])
    with torch.no_grad(): torch.testing.assert_close(theirs(ids).logits, m(ids))
    produced = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30,
                               do_sample=False, pad_token_id=eot)
    ours = m.generate(prompt, max_new_tokens=30, temperature=0, log_probs=True)
    assert produced[0, ids.shape[1]:].tolist() == ours.tokens
    theirs.save_pretrained(folder/'again')
    tok.save_pretrained(folder/'again')
    back = SmallLanguageModel.from_pretrained(folder/'again')
    assert back.tokenizer == m.tokenizer
    pairs = zip(m.named_parameters(), back.parameters(), strict=True)
    for (name, a), b in pairs: assert torch.equal(a, b), name

TRAVELLERS = [{}, dict(tie_weights=False, d_ff=None), dict(positions='rotary')]

@pytest.mark.parametrize('changes', TRAVELLERS, ids=str)
def test_transformers_own_vocabulary(own, tmp_path, changes):
    check_transformers(random_model(own, **changes), tmp_path)

def test_transformers_modern(own, tmp_path):
    "The block of the modern presets is a NanoChat"
    if not hasattr(pytest.importorskip('transformers'), 'NanoChatForCausalLM'):
        pytest.skip('this version of transformers has no NanoChat')
    check_transformers(random_model(own, **MODERN), tmp_path)

def test_transformers_gpt2_vocabulary(tmp_path):
    "All 50,257 tokens, each of them the token of the same text on both sides"
    hf = pytest.importorskip('transformers')
    m = random_model(Tokenizer.gpt2(), d_model=12, n_layers=1)
    check_transformers(m, tmp_path)
    tok = hf.AutoTokenizer.from_pretrained(tmp_path)
    for i in [*range(0, 50256, 97), 50255]: assert tok.decode([i]) == m.tokenizer.decode([i]), i

def test_onnx(own, tmp_path):
    pytest.importorskip('onnx')
    ort = pytest.importorskip('onnxruntime')
    for m in (random_model(own, positions=positions) for positions in POSITIONS):
        m.save_onnx(tmp_path/'m.onnx')
        engine = ort.InferenceSession(tmp_path/'m.onnx')
        for shape in ((1, 1), (2, 7), (3, 60)):
            x = torch.randint(m.config.vocab_size, shape)
            theirs = torch.tensor(engine.run(None, dict(ids=x.numpy()))[0])
            with torch.no_grad(): torch.testing.assert_close(theirs, m(x), rtol=1e-4, atol=1e-3)

def test_int8_file(own, tmp_path):
    m8 = random_model(own, d_model=96).quantize()
    m8.save(tmp_path/'m8.pth')
    back = SmallLanguageModel.load(tmp_path/'m8.pth')
    few = dict(seed=1, max_new_tokens=30)
    assert back.generate(prompt, top_k=20, **few) == m8.generate(prompt, top_k=20, **few)
    alone = m8.generate(prompt, **few)
    assert m8.generate([prompt, 'a'], **few)[0] == alone, 'integers do not depend on the batch'

@pytest.mark.parametrize('positions, arch', [('learned', 'GPT2'), ('rotary', 'GPTNEOX')])
def test_gguf_names(own, tmp_path, positions, arch):
    "The names are those that the package gguf, and so llama.cpp, has for the architecture"
    gguf = pytest.importorskip('gguf')
    random_model(own, tie_weights=False, positions=positions).save_gguf(tmp_path/'m.gguf')
    tensors = gguf.MODEL_TENSORS[gguf.MODEL_ARCH[arch]]
    known = {gguf.TENSOR_NAMES[t].format(bid=i) for t in tensors for i in range(3)}
    names = {t.name.rpartition('.')[0] for t in gguf.GGUFReader(tmp_path/'m.gguf').tensors}
    assert names == known

def test_half_precision(own):
    """Models of 16 bits generate, and so do their int8 copies: each token of a greedy text is the
    best one, up to rounding, of a forward pass over all before it"""
    first = [own.eot] + own.encode(prompt)
    for m in (random_model(own).bfloat16(), random_model(own).bfloat16().quantize()):
        produced = m.generate(prompt, max_new_tokens=9, temperature=0, log_probs=True,
                              stop_at_eot=False).tokens
        assert len(produced) == 9
        with torch.no_grad(): logits = m(torch.tensor([first + produced]))
        z = logits[0, len(first)-1:-1].float() # (9, V)
        chosen = z.gather(1, torch.tensor(produced)[:, None])[:, 0]
        best, worst = z.max(-1).values, z.min(-1).values
        assert (chosen >= best - .03*(best - worst)).all(), (best - chosen)/(best - worst)

# ---- a real llama.cpp, from npm's node-llama-cpp: `make llama` fetches it; SLM_NODE_LLAMA names
# another folder in which it was installed ----

SCRIPT = '''
import {getLlama} from "node-llama-cpp";
const [file, prompt, n] = process.argv.slice(2);
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: file});
const texts = JSON.parse(prompt), ids = texts.map(t => model.tokenize(t, false));
const context = await model.createContext({contextSize: 60});
const said = [];
const start = [model.tokens.bos, ...ids[0]];
for await (const t of context.getSequence().evaluate(start, {temperature: 0})) {
    said.push(t);
    if (said.length >= +n) break;
}
console.log(JSON.stringify({ids, said}));
process.exit(0);
'''

@pytest.mark.parametrize('positions', POSITIONS)
def test_llama_cpp(own, tmp_path, positions):
    pytest.importorskip('gguf')
    modules = Path(os.environ.get('SLM_NODE_LLAMA') or Path(sys.prefix)/'node')/'node_modules'
    if not (shutil.which('node') and (modules/'node-llama-cpp').exists()):
        pytest.skip('needs Node.js and llama.cpp from npm: make llama')
    m = random_model(own, positions=positions)
    m.save_gguf(tmp_path/'m.gguf')
    (tmp_path/'node_modules').symlink_to(modules.resolve())
    (tmp_path/'check.mjs').write_text(SCRIPT, encoding='utf-8')
    texts = [prompt] + [t for t in odd_texts if t]
    cmd = ['node', '--preserve-symlinks', 'check.mjs', 'm.gguf', json.dumps(texts), '25']
    r = subprocess.run(cmd, cwd=tmp_path, capture_output=True, text=True, encoding='utf-8',
                       timeout=1800)
    assert r.returncode == 0, r.stderr[-2000:]
    said = json.loads(r.stdout.strip().splitlines()[-1])
    assert said['ids'] == [own.encode(t) for t in texts]
    ours = m.generate(prompt, max_new_tokens=25, temperature=0, log_probs=True, stop_at_eot=False)
    assert said['said'] == ours.tokens

# ---- samplers ----

def legal(z, i, s):
    "May `s` draw token `i` from logits `z` (V,)? By the definitions, with a tolerance for rounding"
    if s.temperature == 0: return z[i] == z.max()
    k = min(s.top_k or len(z), len(z))
    p = ((z.double() - z.max())/s.temperature).softmax(-1)
    p = torch.where(z >= z.sort(descending=True).values[k-1], p, 0.)
    better = z > z[i]
    mass = p[p > p[i]].sum()/p.sort(descending=True).values[:k].sum()
    in_top_k = z[i] > -math.inf and better.sum() < k
    in_top_p = mass < (s.top_p or 1) + 1e-9
    above_min_p = p[i] >= (s.min_p or 0)*p.max()*(1 - 1e-6)
    return in_top_k and in_top_p and above_min_p

def test_samplers_never_pick_an_illegal_token():
    hypothesis = pytest.importorskip('hypothesis')
    st = hypothesis.strategies
    score = st.floats(-1e4, 1e4, width=32) | st.just(-math.inf) | st.sampled_from([0., 1.])
    scores = st.lists(score, min_size=1, max_size=30).filter(lambda l: max(l) > -math.inf)
    knobs = (st.none() | st.integers(1, 40), st.none() | st.floats(1e-9, 1),
             st.none() | st.floats(0, 1))
    @hypothesis.settings(max_examples=1_000, deadline=None, database=None)
    @hypothesis.given(scores, st.floats(0, 1, exclude_max=True), st.floats(0, 1e3), *knobs)
    def run(row, u, T, k, p, m):
        s, z = Sampler(T, k, p, m), torch.tensor([row])
        assert legal(z[0], s(z, torch.tensor([u], dtype=torch.float64)).item(), s)
    run()

KNOBS = [(1., None, None, None), (.7, 5, None, None), (1.3, None, .8, None), (1., None, None, .2),
         (.9, 7, .9, .05)]

@pytest.mark.parametrize('T,k,p,m', KNOBS)
def test_samplers_draw_what_the_definitions_say(T, k, p, m):
    """Of 20,000 evenly spaced draws each token gets its share: its probability among those that may
    be drawn"""
    torch.manual_seed(1)
    z, n, s = torch.randn(12)*2, 20_000, Sampler(T, k, p, m)
    may = torch.tensor([bool(legal(z, i, s)) for i in range(len(z))])
    want = torch.where(may, (z.double()/T).softmax(-1), 0.)
    want = want/want.sum()
    u = (torch.arange(n, dtype=torch.float64) + .5)/n
    share = s(z.expand(n, -1), u).bincount(minlength=len(z))/n
    torch.testing.assert_close(share.double(), want, rtol=0, atol=1.5/n)
