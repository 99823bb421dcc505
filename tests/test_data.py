"The story grammar and its checker; token files: whole, of the right vocabulary, and checked."
import io
import numpy as np
import pytest
from slm_scratch.engine.entries import replace_surrogates
from slm_scratch.engine.grammar import TaleGrammar
from slm_scratch.engine.tales import check_tale, is_validation, tale_grammar, tales
from slm_scratch.data import NGram, TokenDataset, counting_baseline, get_batch, steps_per_epoch
from slm_scratch.data import token_dtype
from slm_scratch.engine.token_file import encode_to_file, is_token_file, verify_tokens
from slm_scratch.tokenizer import Tokenizer

stories = [t.text for t in tales(40)]

@pytest.fixture(scope='module')
def tok(): return Tokenizer.train(stories, 400)

@pytest.fixture
def saved(tok, tmp_path):
    "A set of tokens and its file"
    data = TokenDataset.from_texts(stories, tok)
    return data, data.save(tmp_path/'x.tokens')

def test_round_trip(saved, tok):
    data, path = saved
    for limit in (0, 1 << 28):
        back = TokenDataset.load(str(path), tok, ram_limit=limit)
        assert (back.tokens == data.tokens).all() and back.fingerprint == data.fingerprint
        assert tok.decode(back.document(3).tolist()) == stories[3]
        back.close()

@pytest.mark.parametrize('at', [100, 400, 1000, -1])
def test_changed_bit(at, saved):
    data, path = saved
    b = bytearray(path.read_bytes())
    b[at] ^= 4
    path.write_bytes(b)
    with pytest.raises(ValueError, match='damaged|not a token file'): verify_tokens(path)

def test_cut_off(saved):
    path = saved[1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match='truncated'): TokenDataset.load(path)
    assert is_token_file(path)

def test_other_vocabulary(saved):
    with pytest.raises(ValueError, match='400 tokens.*300 tokens'):
        TokenDataset.load(saved[1], Tokenizer.train(stories, 300))

def test_tilde(saved, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    assert saved[0].save('~/y.tokens') == tmp_path/'y.tokens'
    assert TokenDataset.load('~/y.tokens').fingerprint == saved[0].fingerprint

@pytest.mark.parametrize('B, T', [(1, 7), (3, 32), (8, 61)])
def test_every_token_is_a_target(B, T, saved):
    data = saved[0]
    n = steps_per_epoch(data, B, T)
    y = np.concatenate([get_batch(data, i, B, T)[1].flatten().numpy() for i in range(n)])
    most = np.bincount(y, minlength=400)
    assert (most >= np.bincount(data.tokens[1:], minlength=400)).all()

# ---- counting ----

def test_counting_baseline(tok):
    "One row for each table, each better than the one before, and the floor below all"
    pair = [TokenDataset.from_texts([t.text for t in some], tok, [t.bits for t in some])
            for some in (tales(60), tales(20, split='valid'))]
    rows = counting_baseline(*pair, orders=(1, 2, 3))
    assert list(rows) == ['uniform', '1-gram', '2-gram', '3-gram', 'floor']
    assert list(rows.values()) == sorted(rows.values(), reverse=True)
    unknown = [TokenDataset.from_texts(stories[i::2], tok) for i in range(2)]
    assert list(counting_baseline(*unknown, orders=(1,))) == ['uniform', '1-gram']

@pytest.mark.parametrize('order', [1, 2, 4])
def test_ngram_is_a_distribution(order, saved):
    "The probabilities after any context, seen or not, add up to 1; scoring and writing agree"
    ids = saved[0].tokens
    model = NGram.train(ids, 400, order)
    for context in ([], ids[:1], ids[500:510], [399, 0, 399, 0]):
        p = model.next_probs(context)
        assert p.shape == (400,) and p.min() > 0 and abs(p.sum() - 1) < 1e-9
        assert abs(model.probs([*context, 7])[-1] - p[7]) < 1e-12
    assert model.probs([]).shape == (0,)

def test_ngram_writes(saved, tok):
    model = NGram.train(saved[0].tokens, 400, 3)
    begin = tok.encode('Once upon')
    text = model.sample(begin, 30, seed=3)
    assert text == model.sample(begin, 30, seed=3) != model.sample(begin, 30, seed=4)
    assert text[:len(begin)] == begin and len(text) == len(begin) + 30
    stop = text[len(begin) + 5]
    assert model.sample(begin, 30, stop=stop, seed=3)[-1] == stop

@pytest.mark.parametrize('change, message', [
    (dict(ids=[0, 5]), 'another vocabulary'), (dict(ids=[0, -1]), 'another vocabulary'),
    (dict(order=0), 'order=0'), (dict(order=9), 'order=9'), (dict(discount=0), 'discount=0'),
    (dict(discount=1.5), 'discount=1.5')])
def test_ngram_refuses(change, message):
    args = dict(ids=[0, 1, 2, 1], vocab_size=5, order=2) | change
    with pytest.raises(ValueError, match=message): NGram.train(**args)

# ---- the corpus that has a floor ----

def test_a_tale_has_one_derivation():
    "What the grammar writes it reads back, with the same bits and facts"
    for tale in tales(5, seed=1):
        found, = tale_grammar().parse(tale.text)
        assert found.text == tale.text and found.facts == tale.facts
        assert abs(found.bits - tale.bits) < 1e-9

def test_tales_and_validation_are_apart():
    train, valid = tales(40), tales(20, seed=5, split='valid')
    assert not any(is_validation(t.text) for t in train)
    assert all(is_validation(t.text) for t in valid)
    assert tales(3) == train[:3] and tales(1, seed=1) != train[:1]

@pytest.mark.parametrize('damage, verdict', [
    (lambda t: t.text, lambda r: r.ok and r.parses and r.ends and not r.problems),
    (lambda t: t.text[:len(t.text)//2], lambda r: not r.ends and not r.parses),
    (lambda t: t.text.replace(t.facts['hero'], 'Zenobia', 2), lambda r: not r.ok),
    (lambda t: ' '.join(t.text.split()[::-1]), lambda r: not r.ok and r.parsed < 1)])
def test_checker(damage, verdict):
    assert all(verdict(check_tale(damage(t))) for t in tales(8))

@pytest.mark.parametrize('change, message', [
    (dict(words=dict(thing='kite, kite')), "'kite' 2 times"),
    (dict(steps=dict(end=['Then {end}'])), 'end → end'),
    (dict(facts=dict(his='his.{nobody}')), 'asks for {nobody}')])
def test_problems_of_a_grammar(change, message):
    source = dict(facts={}, plots=dict(p='{end}'), steps=dict(end=['A {thing}.']),
                  words=dict(thing='kite'))
    for part, new in change.items(): source[part] = source[part] | new
    with pytest.raises(ValueError, match=message.replace('{', r'\{')): TaleGrammar(source)

tricky = ['A fox.', 'Not <|endoftext|> here.', ' <|endof', 'text|> ', 'x', '\n\nZoë!\n\nZoë!']

@pytest.mark.parametrize('texts', [
    tricky, tricky[2:], ['fox \ud83e!', 'her'], ['fox' + '\n'*500_000 + 'her', 'x'], []],
    ids=['end-of-text', 'from its middle', 'half a character', 'line breaks', 'nothing'])
def test_encoding_is_that_of_one_document_after_the_other(texts, tok):
    encoded = [[*tok.encode(text), tok.eot] for text in texts]
    stream = io.BytesIO()
    rows = encode_to_file(texts, tok, stream)
    ids = np.frombuffer(stream.getvalue(), token_dtype(tok.vocab_size)).tolist()
    assert ids == [tok.eot] + [i for document in encoded for i in document]
    assert rows['tokens'].tolist() == [len(document) for document in encoded]
    sizes = [len(replace_surrogates(text).encode('utf-8')) for text in texts]
    assert rows['bytes'].tolist() == sizes

def test_a_closed_set_says_so(saved, tok):
    mapped = TokenDataset.load(saved[1], tok, ram_limit=0)
    mapped.close()
    with pytest.raises(ValueError, match='closed'): len(mapped)
