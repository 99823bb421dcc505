"Token files: whole, of the right vocabulary, and checked."
import numpy as np
import pytest
from slm_scratch.engine.tales import tales
from slm_scratch.data import get_batch, is_token_file, steps_per_epoch, TokenDataset, verify_tokens
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
