"Checkpoint folders of others, our own files where theirs are wanted, and paths."
import json
from pathlib import Path
import pytest, torch
from slm_scratch import SmallLanguageModel, Tokenizer
from slm_scratch.engine.files import TMP
from slm_scratch.engine.hf_tokenizer import to_hf_tokenizer
from slm_scratch.engine.huggingface import read_safetensors, write_safetensors
from test_model import own, same, small, story # noqa: F401 (a fixture)

V = 320
prompt = 'The little fox'

@pytest.fixture
def folder(own, tmp_path):
    small(own).save_pretrained(tmp_path/'hf')
    return tmp_path/'hf'

def edit(path, change):
    content = json.loads(path.read_text(encoding='utf-8'))
    change(content)
    path.write_text(json.dumps(content), encoding='utf-8')

def add_rows(folder, n, value=5.):
    "Rows that would be drawn at once, if they could be"
    edit(folder/'config.json', lambda c: c.update(vocab_size=V + n))
    w = read_safetensors(folder/'model.safetensors')
    table = w['transformer.wte.weight']
    w['transformer.wte.weight'] = torch.cat([table, table.mean(0).expand(n, -1)*0 + value])
    write_safetensors(w, folder/'model.safetensors')

def old_layout(folder):
    for name in ('tokenizer.json', 'tokenizer_config.json'): (folder/name).unlink()

def drawn(m):
    knobs = dict(max_new_tokens=30, temperature=9., seed=1, stop_at_eot=False)
    return m.generate(prompt, log_probs=True, **knobs).tokens

# ---- rows and tokens ----

def test_padded_rows_are_kept_and_never_drawn(folder, own, tmp_path):
    add_rows(folder, 64)
    m = SmallLanguageModel.from_pretrained(folder)
    assert m.config.vocab_size == V + 64 == m.tokenizer.vocab_size
    assert m.tokenizer.encode(prompt) == own.encode(prompt)
    assert max(drawn(m)) < V
    m.save(tmp_path/'m.pth')
    m.save_pretrained(tmp_path/'again')
    copies = (SmallLanguageModel.load(tmp_path/'m.pth'),
              SmallLanguageModel.from_pretrained(tmp_path/'again'))
    for back in copies: assert same(back, m) and drawn(back) == drawn(m)

def test_padded_rows_in_transformers(folder, tmp_path):
    hf = pytest.importorskip('transformers')
    add_rows(folder, 8, .1)
    m = SmallLanguageModel.from_pretrained(folder)
    m.save_pretrained(tmp_path/'again')
    ids = torch.tensor([[1, 2, 300]])
    for place in (folder, tmp_path/'again'):
        theirs = hf.AutoModelForCausalLM.from_pretrained(place)
        with torch.no_grad(): torch.testing.assert_close(theirs(ids).logits, m(ids))

PLACES = ['tokenizer.json', 'added_tokens.json', 'added_tokens_decoder', 'vocab.json']

@pytest.mark.parametrize('files', PLACES)
def test_added_tokens_wherever_they_are(folder, own, files):
    add_rows(folder, 32)
    extra = dict(zip(('[PAD]', '<|user|>'), (V, V + 1)))
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    if files == 'tokenizer.json':
        added = [dict(id=i, content=k, **flags) for k, i in extra.items()]
        edit(folder/files, lambda t: t['added_tokens'].extend(added))
    else: old_layout(folder)
    if files == 'added_tokens.json':
        (folder/files).write_text(json.dumps(extra), encoding='utf-8')
    if files == 'added_tokens_decoder':
        decoder = {files: {str(i): dict(content=k, **flags) for k, i in extra.items()}}
        (folder/'tokenizer_config.json').write_text(json.dumps(decoder), encoding='utf-8')
    if files == 'vocab.json':
        edit(folder/files, lambda v: v.update(extra))
        roles = dict(pad_token='[PAD]', additional_special_tokens=[dict(content='<|user|>')])
        (folder/'special_tokens_map.json').write_text(json.dumps(roles), encoding='utf-8')
    m = SmallLanguageModel.from_pretrained(folder)
    assert m.tokenizer.special_tokens == own.special_tokens | extra
    assert m.tokenizer.encode(prompt) == own.encode(prompt)
    assert m.tokenizer.decode([V, V + 1]) == '[PAD]<|user|>'
    assert max(drawn(m)) < V + 2

def test_saved_folder_with_added_tokens_in_transformers(own, folder, tmp_path):
    hf = pytest.importorskip('transformers')
    add_rows(folder, 2, .1)
    def add_tokens(t):
        first = t['added_tokens'][0]
        t['added_tokens'] += [dict(first, id=V, content='[PAD]'),
                              dict(first, id=V + 1, content='lanternfly', special=False)]
    edit(folder/'tokenizer.json', add_tokens)
    m = SmallLanguageModel.from_pretrained(folder)
    m.save_pretrained(tmp_path/'again')
    theirs = hf.AutoTokenizer.from_pretrained(tmp_path/'again')
    for text in (prompt, 'a lanternfly!', '  two'):
        assert theirs(text)['input_ids'] == m.tokenizer.encode(text), text
    assert theirs('[PAD]')['input_ids'] == [V]
    assert SmallLanguageModel.from_pretrained(tmp_path/'again').tokenizer == m.tokenizer

def test_token_without_a_row(folder):
    "Left out with a warning if no text needs it, refused otherwise"
    content = json.loads((folder/'tokenizer.json').read_text(encoding='utf-8'))
    pad = dict(content['added_tokens'][0], id=V, content='[PAD]')
    edit(folder/'tokenizer.json', lambda t: t['added_tokens'].append(pad))
    with pytest.warns(UserWarning, match=r"'\[PAD\]' left out"):
        assert SmallLanguageModel.from_pretrained(folder).tokenizer.vocab_size == V
    edit(folder/'tokenizer.json', lambda t: t['added_tokens'][1].update(special=False))
    with pytest.raises(ValueError, match='only 320 rows'):
        SmallLanguageModel.from_pretrained(folder)

# ---- how files are written ----

def test_byte_order_marks_and_windows_line_ends(folder, own):
    old_layout(folder)
    for name in ('vocab.json', 'merges.txt', 'config.json'):
        data = (folder/name).read_bytes().replace(b'\n', b'\r\n')
        (folder/name).write_bytes(b'\xef\xbb\xbf' + data + b'\r\n')
    assert SmallLanguageModel.from_pretrained(folder).tokenizer == own

def test_names_of_openai(folder, own):
    old_layout(folder)
    (folder/'vocab.json').rename(folder/'encoder.json')
    (folder/'merges.txt').rename(folder/'vocab.bpe')
    assert SmallLanguageModel.from_pretrained(folder).tokenizer == own

FILES = ['config.json', 'tokenizer.json', 'vocab.json', 'merges.txt', 'model.safetensors']

@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('part', [.5, 0])
def test_cut_off_files(folder, name, part):
    if name in ('vocab.json', 'merges.txt'): old_layout(folder)
    data = (folder/name).read_bytes()
    (folder/name).write_bytes(data[:int(len(data)*part)])
    with pytest.raises(ValueError, match='whole|merges'): SmallLanguageModel.from_pretrained(folder)

def test_half_of_a_vocabulary(folder):
    old_layout(folder)
    (folder/'merges.txt').unlink()
    with pytest.raises(FileNotFoundError, match='vocab.json and merges.txt'):
        SmallLanguageModel.from_pretrained(folder)

@pytest.mark.parametrize('option', ['add_bos_token', 'add_prefix_space'])
def test_options_of_an_old_tokenizer(folder, option):
    old_layout(folder)
    (folder/'tokenizer_config.json').write_text(json.dumps({option: True}), encoding='utf-8')
    with pytest.raises(ValueError, match='bos_token|add_prefix_space'):
        SmallLanguageModel.from_pretrained(folder)

def shard(folder, index):
    w = read_safetensors(folder/'model.safetensors')
    (folder/'model.safetensors').unlink()
    names, where = list(w), {}
    for i in range(3):
        name = f'model-{i+1:05}-of-00003.safetensors'
        part = {k: w[k] for k in names[i::3]}
        write_safetensors(part, folder/name)
        where |= dict.fromkeys(part, name)
    if not index: return
    content = json.dumps(dict(metadata={}, weight_map=where))
    (folder/'model.safetensors.index.json').write_text(content, encoding='utf-8')

@pytest.mark.parametrize('index', [True, False])
def test_shards(folder, own, index):
    shard(folder, index)
    assert same(SmallLanguageModel.from_pretrained(folder), small(own))
    (folder/'model-00002-of-00003.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='model-00002-of-00003.safetensors'):
        SmallLanguageModel.from_pretrained(folder)

def test_prefixes(folder, own):
    w = read_safetensors(folder/'model.safetensors')
    for change in (lambda k: k.removeprefix('transformer.'), lambda k: f'_orig_mod.{k}',
                   lambda k: f'module.{k}'):
        write_safetensors({change(k): v for k, v in w.items()}, folder/'model.safetensors')
        assert same(SmallLanguageModel.from_pretrained(folder), small(own))

def test_two_matrices_for_one(folder):
    w = read_safetensors(folder/'model.safetensors')
    table = w['transformer.wte.weight']
    write_safetensors(w | {'lm_head.weight': table.clone()}, folder/'model.safetensors')
    SmallLanguageModel.from_pretrained(folder)
    write_safetensors(w | {'lm_head.weight': table + 1}, folder/'model.safetensors')
    with pytest.raises(ValueError, match='tie_word_embeddings'):
        SmallLanguageModel.from_pretrained(folder)

FIELDS = [dict(quantization_config=dict(bits=4)), dict(pruned_heads={'0': [1]}),
          dict(layer_norm_epsilon=1e-6), dict(model_type='gptj')]

@pytest.mark.parametrize('field', FIELDS, ids=str)
def test_other_configs(folder, field):
    edit(folder/'config.json', lambda c: c.update(field))
    with pytest.raises(ValueError, match=f'{[*field][0]}='):
        SmallLanguageModel.from_pretrained(folder)

def test_types_that_are_no_weights(folder):
    w = read_safetensors(folder/'model.safetensors')
    name = 'transformer.wpe.weight'
    write_safetensors(w | {name: w[name].to(torch.int8)}, folder/'model.safetensors')
    with pytest.raises(ValueError, match='position_embedding.weight: torch.int8'):
        SmallLanguageModel.from_pretrained(folder)
    data = (folder/'model.safetensors').read_bytes().replace(b'"dtype":"I8"', b'"dtype":"F8"')
    (folder/'model.safetensors').write_bytes(data)
    with pytest.raises(ValueError, match='as F8'): SmallLanguageModel.from_pretrained(folder)

# ---- ours where theirs are wanted, and the other way round ----

@pytest.fixture
def run(own, tmp_path):
    "What a run leaves behind"
    m, folder = small(own), tmp_path/'run'
    m.save(folder/'model.pth')
    saved = torch.load(folder/'model.pth')
    meta = saved.pop('slm_scratch')
    last = dict(format=1, step=3, slm_scratch=meta, model=saved, optimizers=[])
    torch.save(last, folder/'last.pt')
    return folder

@pytest.mark.parametrize('name', ['', 'model.pth', 'last.pt'])
def test_own_checkpoint_is_taken_everywhere(run, own, name):
    for read in (SmallLanguageModel.load, SmallLanguageModel.from_pretrained):
        m = read(run/name)
        assert same(m, small(own)) and m.tokenizer == own
    if name:
        m = small(own, mimetic_init=.1)
        m.load_state_dict(torch.load(run/name))
        assert same(m, small(own))

def test_checkpoint_of_others_in_load(folder, own, tmp_path):
    for path in (folder, folder/'model.safetensors'):
        with pytest.raises(ValueError, match='from_pretrained'): SmallLanguageModel.load(path)
    torch.save(read_safetensors(folder/'model.safetensors'), tmp_path/'pytorch_model.bin')
    with pytest.raises(ValueError, match='from_pretrained'):
        SmallLanguageModel.load(tmp_path/'pytorch_model.bin')
    torch.save([1, 2], tmp_path/'list.pt')
    with pytest.raises(ValueError, match='no config'): SmallLanguageModel.load(tmp_path/'list.pt')

def test_own_checkpoint_with_another_tokenizer(run):
    other = Tokenizer.train('other words '*9, 270)
    with pytest.raises(ValueError, match='trained with the vocabulary'):
        SmallLanguageModel.from_pretrained(run, tokenizer=other)

# ---- paths ----

@pytest.fixture
def home(tmp_path, monkeypatch):
    for k in ('HOME', 'USERPROFILE'): monkeypatch.setenv(k, str(tmp_path/'home'))
    (tmp_path/'home').mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path/'home'

def test_tilde_at_every_door(own, home):
    m = small(own)
    m.save('~/a/model.pth')
    m.save_pretrained('~/hf')
    write_safetensors({'x': torch.ones(2)}, '~/x.safetensors')
    for back in (SmallLanguageModel.load('~/a/model.pth'), SmallLanguageModel.load('~/a'),
                 SmallLanguageModel.from_pretrained('~/hf')): assert same(back, m)
    assert torch.equal(read_safetensors('~/x.safetensors')['x'], torch.ones(2))
    for package, save in (('onnx', m.save_onnx), ('gguf', m.save_gguf)):
        try: __import__(package)
        except ImportError: continue
        save(f'~/b/m.{package}')
        assert (home/'b'/f'm.{package}').stat().st_size > 1000
    assert not Path('~').exists()
    assert sorted(p.name for p in home.iterdir())[:2] == ['a', 'b']
    assert not [*home.rglob(f'*{TMP}')]

PATHS = [('', ValueError), (None, TypeError), (3, TypeError), ('a\0b', ValueError),
         ('~nobody-of-this-name/m.pth', ValueError)]

@pytest.mark.parametrize('path, kind', PATHS)
def test_impossible_paths(own, path, kind):
    m = small(own)
    for f in (m.save, m.save_pretrained, SmallLanguageModel.load,
              SmallLanguageModel.from_pretrained, own.save, Tokenizer.load, read_safetensors):
        with pytest.raises(kind): f(path)

def test_other_files_of_a_folder_stay(own, tmp_path):
    names = ('README.md', 'model.tmp', 'best.pt', 'model.gguf.1.tmp')
    for name in names: (tmp_path/name).write_text('mine', encoding='utf-8')
    small(own).save_pretrained(tmp_path)
    small(own).save(tmp_path/'model.pth')
    for name in names: assert (tmp_path/name).read_text(encoding='utf-8') == 'mine'

def test_failed_gguf_leaves_the_older_file(own, tmp_path, monkeypatch):
    gguf = pytest.importorskip('gguf')
    (tmp_path/'m.gguf').write_bytes(b'older')
    def full(self): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(gguf.GGUFWriter, 'write_tensors_to_file', full)
    with pytest.raises(OSError): small(own).save_gguf(tmp_path/'m.gguf')
    assert [p.name for p in tmp_path.iterdir()] == ['m.gguf']
    assert (tmp_path/'m.gguf').read_bytes() == b'older'
