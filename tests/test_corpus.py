"What counts as text: kinds of input, whatever the way in; downloads, restarts, surroundings."
import http.server, io, json, os, subprocess, sys, threading, warnings
from pathlib import Path
import numpy as np
import pytest
from slm_scratch.engine.tales import tales
from slm_scratch.data import TokenDataset
from slm_scratch.engine.encodings import guess_encoding
from slm_scratch.engine.download import CORPORA, corpus_file
from slm_scratch.engine import corpus, inputs
from slm_scratch.engine.corpus import data_name, read_texts, stored_tokenizer, text_fingerprint
from slm_scratch.engine.corpus import vocabulary_texts
from slm_scratch.engine import prepare as prepare_module
from slm_scratch.engine.prepare import prepare
from slm_scratch.tokenizer import EOT, Tokenizer

stories = [t.text for t in tales(60)]
prose = '\n'.join(stories[:20])

@pytest.fixture(scope='module')
def tok(): return Tokenizer.train(stories, 400)

@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    "Each test in a folder of its own"
    monkeypatch.chdir(tmp_path)
    return tmp_path

def with_warnings(f):
    "What `f` returns and what it warns of"
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        return f(), [str(x.message) for x in w]

# ---- files, by four ways in ----

GOOD = dict(crlf=prose.replace('\n', '\r\n').encode(), bom=prose.encode('utf-8-sig'),
            old_mac=prose.replace('\n', '\r').encode(),
            bom_inside=prose.replace('\n', '\n\ufeff').encode(), no_final_newline=prose.encode(),
            json_lines=json.dumps(dict(id=1, text=prose)).encode(),
            json_lines_long=json.dumps(dict(text=prose*9, n=1)).encode())
ODD = dict(csv=('id,story\n' + '1,"a"\n'*5, 'csv.DictReader'),
           html=('<html><p>a</p></html>', 'HTML'),
           xml=('<?xml version="1.0"?><a>b</a>', 'XML'), json=('[{"story": "a"}]', "row['story']"),
           json_rows=('{"story": "a"}\n'*3, "json.loads(line)['story']"),
           mojibake=('She didnâ€™t', 'mojibake'))
BAD = dict(gzip=(b'\x1f\x8b\x08\0\0\0', 'gzip'), pdf=(b'%PDF-1.7\n\xe2\xe3', 'PDF'),
           zstd=(b'(\xb5/\xfd\x04', 'zstandard'), parquet=(b'PAR1\x15\0', 'Parquet'),
           sqlite=(b'SQLite format 3\0', 'SQLite'), pickle=(b'\x80\x04\x95', 'pickle'),
           png=(b'\x89PNG\r\n\x1a\n', 'PNG'), npy=(b'\x93NUMPY\1\0', 'NumPy'),
           utf16=(prose.encode('utf-16'), "encoding='utf-16'"),
           utf16_no_mark=(prose.encode('utf-16-le'), "encoding='utf-16-le'"),
           utf32_no_mark=(prose.encode('utf-32-be'), "encoding='utf-32-be'"),
           nul=(b'a'*10 + b'\0'*7, '7 NUL characters, the first at byte 10'),
           noise=(bytes(range(256)), 'binary data'), cut=(('é'*9).encode()[:-1], 'cut off'),
           latin=('déjà vu, ça va'.encode('cp1252'), "encoding='cp1252'"), empty=(b'', 'is empty'),
           white_space=(b' \n\t\n', 'is empty'),
           hole=(prose.encode()[:500] + bytes(5000) + prose.encode()[500:], '5,000 NUL'),
           russian=('Жил-был старик со старухой.'.encode('cp1251')*9, "encoding='cp1251'"),
           chinese=('从前有一个小女孩，她叫小红帽。大家都喜欢她。'.encode('gb18030')*9,
                    "encoding='gb18030'"),
           greek=('Μια φορά κι έναν καιρό ήταν μια αλεπού.'.encode('cp1253')*9, 'is not UTF-8'))
WAYS = dict(file=lambda p: p, folder=lambda p: p.parent, names=lambda p: [str(p)],
             paths=lambda p: [p])

@pytest.fixture
def by_way(folder):
    "A function: bytes and a way in → the data_path"
    def put(data, way):
        path = folder/'books'/'t.txt'
        path.parent.mkdir()
        path.write_bytes(data)
        return WAYS[way](path)
    return put

@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('kind', GOOD)
def test_read_properly(kind, way, by_way):
    docs, warned = with_warnings(lambda: list(read_texts(by_way(GOOD[kind], way))))
    assert docs == [prose*9 if 'long' in kind else prose] and not warned

@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('kind', ODD)
def test_one_warning(kind, way, by_way):
    text, words = ODD[kind]
    docs, warned = with_warnings(lambda: list(read_texts(by_way(text.encode(), way))))
    assert ''.join(docs) == text.strip('\n') and len(warned) == 1
    assert words in warned[0] and 't.txt' in warned[0]

@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('kind', BAD)
def test_one_error(kind, way, by_way):
    data, words = BAD[kind]
    path = by_way(data, way)
    with pytest.raises(ValueError) as e: list(read_texts(path))
    assert words in str(e.value) and 't.txt' in str(e.value)
    assert 'encoding=' in words or 'encoding=' not in str(e.value)

LEGACY = {'cp1252': 'Où était l’élève ? À côté de la forêt, peut-être.',
          'cp1250': 'Żyła raz mała dziewczynka, która śpiewała.',
          'cp1251': 'Однажды лиса потеряла свой фонарь.',
          'koi8-r': 'Однажды лиса потеряла свой фонарь.',
          'gb18030': '很久以前，森林里住着一只狐狸。', 'big5': '很久以前，森林裡住著一隻狐狸，他的家在這裡。',
          'shift_jis': 'きつねは森でちいさなランプを見つけました。', 'euc_kr': '옛날에 작은 여우가 숲에 살았습니다.',
          'cp1253': 'Μια φορά κι έναν καιρό.', 'cp1255': 'פעם אחת היה שועל קטן.',
          'cp437': 'Mädchen für größere'}

@pytest.mark.parametrize('encoding', LEGACY)
def test_advice_is_true(encoding, folder):
    "Advised is what gives the text back, or nothing"
    data = (LEGACY[encoding]*60).encode(encoding)
    (folder/'t.txt').write_bytes(data)
    guess = guess_encoding('t.txt')
    assert guess is None or data.decode(guess) == LEGACY[encoding]*60
    assert guess or encoding in ('cp1253', 'cp1255', 'cp437')

# ---- lists and other objects ----

class Frame:
    "What a table of pandas looks like from outside"
    columns, iloc = ['story'], None
    def __iter__(self): return iter(self.columns)

class Column:
    "A column of a table: its entries can be gone through, and that is all"
    def __init__(self, entries): self.entries = entries
    def __iter__(self): return iter(self.entries)

OBJECTS = dict(nan=([*stories, float('nan')], 'data_path[60] is a float'),
               none=([None], 'data_path[0] is a NoneType'),
               rows=([dict(text='a')], "row['text']"), bytes=([b'a'], "decode('utf-8')"),
               nested=([stories], 'data_path[0] is a list'),
               numbers=(np.arange(3), 'data_path[0] is a int'),
               frame=(Frame(), "table['story']"), mapping=(dict(a='b'), 'a dict'),
               unordered=({'a'}, 'a set'),
               number=(7, 'data_path=7'), nothing=(None, 'NoneType'),
               open_file=(io.StringIO('a'), 'an open file'),
               in_bytes=(b'a', 'bytes'), empty=([], 'empty'),
               blank=(['', ' '], 'none of its 2 texts'),
               name_in_list=(['tales'], "'tales'"), missing=(['a.txt', 'b.txt'], 'a.txt'),
               text=(prose, '[text]'), pattern=('*.txt', 'glob'), url=('https://a.b/c', 'download'),
               unknown=('tinystory', "'tinystories'"))

@pytest.mark.parametrize('way', ['read', 'vocabulary', 'prepare'])
@pytest.mark.parametrize('kind', OBJECTS)
def test_objects_that_are_no_texts(kind, way, tok):
    value, words = OBJECTS[kind]
    call = dict(read=lambda: list(read_texts(value)),
                vocabulary=lambda: list(vocabulary_texts(value)),
                prepare=lambda: prepare(value, tok))[way]
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match='data_path|folder') as e:
        call()
    assert words in str(e.value)

@pytest.mark.parametrize('make', [list, tuple, np.array, iter, Column, lambda s: (t for t in s)])
def test_objects_that_are_texts(make): assert list(read_texts(make(stories))) == stories

def test_names_of_files_are_read(folder):
    for i, s in enumerate(stories[:5]):
        (folder/f'chapter {i}, Лиса.txt').write_text(s, encoding='utf-8')
    names = sorted(str(p) for p in folder.iterdir())
    for entries in (names, list(map(Path, names)), [n + '\n' for n in names]):
        assert list(read_texts(entries)) == stories[:5]
    with pytest.raises(ValueError, match='give files or texts, not both'):
        read_texts([names[0], 'a text'])

# ---- folders ----

def test_folder_leaves_out(folder):
    for name in ('a.txt', 'b/c.TXT', '.git/d.txt', '.ipynb_checkpoints/e.txt', '.f.txt',
                 'run/g.txt', 'h.md'):
        path = folder/'books'/name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding='utf-8')
    for name in ('last.pt', 'history.jsonl'): (folder/'books/run'/name).touch()
    docs, warned = with_warnings(lambda: list(read_texts('books')))
    assert docs == ['a.txt', 'b/c.TXT'] and '1 .md' in warned[0]

@pytest.mark.skipif(os.name != 'posix', reason='symbolic links')
def test_symlink_loop(folder):
    (folder/'books').mkdir()
    (folder/'books/a.txt').write_text('a', encoding='utf-8')
    os.symlink('.', 'books/loop')
    os.symlink('gone', 'books/gone.txt')
    os.symlink('loop.txt', 'books/loop.txt')
    assert list(read_texts('books')) == ['a']

def test_tilde(folder, monkeypatch, tok):
    monkeypatch.setenv('HOME', str(folder/'home'))
    monkeypatch.setenv('USERPROFILE', str(folder/'home'))
    (folder/'home').mkdir()
    (folder/'home/t.txt').write_text(prose, encoding='utf-8')
    assert list(read_texts('~/t.txt')) == list(read_texts(['~/t.txt'])) == [prose]
    prepare('~/t.txt', tok, '~/x')
    assert (folder/'home/x/train.tokens').exists() and not Path('~').exists()

# ---- names ----

class Server(http.server.BaseHTTPRequestHandler):
    "Sends a text, or less of it than it announced"
    limit = None
    def do_HEAD(self):
        self.send_response(200)
        self.send_header('Content-Length', len(prose.encode()))
        self.end_headers()
    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(prose.encode()[:Server.limit])
    def log_message(self, *args): pass

@pytest.fixture
def url(monkeypatch):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    yield f'http://127.0.0.1:{server.server_port}/x.txt'
    server.shutdown()
    server.server_close()

def test_download(url, folder, monkeypatch):
    monkeypatch.setenv('SLM_SCRATCH_CACHE', str(folder/'cache'))
    monkeypatch.setenv('SLM_SCRATCH_TINYSTORIES_VALID_URL', url)
    monkeypatch.setattr(Server, 'limit', 99)
    with pytest.raises(ConnectionError, match='99 bytes came.*SLM_SCRATCH_TINYSTORIES_VALID_URL'):
        read_texts('tinystories-valid')
    assert list((folder/'cache').iterdir()) == []
    monkeypatch.setattr(Server, 'limit', None)
    assert list(read_texts('tinystories-valid')) == [prose]
    here = corpus_file('tinystories-valid', url='http://127.0.0.1:9/no') # not asked
    assert here.name == 'tinystories-valid.txt'

def test_names():
    assert {'tales', 'python', 'shakespeare', 'tinystories', 'tinystories-valid'} <= set(CORPORA)
    names = [data_name(d) for d in ('python', 'a/b.txt', '~/c.d.txt', stories)]
    assert names == ['python', 'b', 'c.d', 'data']
    few = list(vocabulary_texts('python', 30_000))
    assert few == list(vocabulary_texts('python', 30_000)) and 'import' in ''.join(few)

# ---- prepared once ----

def test_restart_hashes_nothing(folder, tok, monkeypatch):
    "Size and time decide; a file with another time is hashed once"
    (folder/'t.txt').write_text(f'\n{EOT}\n'.join(stories), encoding='utf-8')
    os.utime('t.txt', (10**9, 10**9))
    read = []
    for module, name in ((inputs, '_hash_file'), (prepare_module, 'verify_tokens'),
                         (corpus, 'file_documents')):
        f = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=f, name=name: (read.append(name), f(*a))[1])
    monkeypatch.setattr(corpus.TextFiles.__init__, '__defaults__',
                        (*corpus.TextFiles.__init__.__defaults__[:-1], corpus.file_documents))
    counts = []
    def start():
        read.clear()
        prepare('t.txt', tok, 'x')
        counts.append(sorted(read))
    start()
    start()
    os.utime('t.txt', (2*10**9 - 10**9, 10**9 + 5))
    start()
    start()
    assert counts == [['_hash_file', 'file_documents'], [], ['_hash_file'], []]
    data = Path('x/train.tokens').read_bytes()
    Path('x/train.tokens').write_bytes(data[:-3] + b'\1' + data[-2:])
    start()
    assert 'verify_tokens' in counts[-1] and 'file_documents' in counts[-1]
    assert Path('x/train.tokens').read_bytes()[-3:] == data[-3:]

def test_change_within_a_tick(folder, tok, monkeypatch):
    "A text whose time was fresh when it was hashed is hashed again, since it may have changed"
    still = 10**18
    def put(text):
        (folder/'t.txt').write_text(text, encoding='utf-8')
        os.utime('t.txt', ns=(still, still))
    put(prose)
    with monkeypatch.context() as m:
        m.setattr(inputs.time, 'time_ns', lambda: still + 10)
        was = prepare('t.txt', tok, 'x')[0].fingerprint
    put(prose.swapcase())
    assert prepare('t.txt', tok, 'x')[0].fingerprint != was

@pytest.mark.parametrize('name', ['train.tokens', 'valid.tokens', 'prepared.json'])
def test_foreign_files_stay(name, folder, tok):
    (folder/'x').mkdir()
    (folder/'x'/name).write_bytes(b'mine')
    with pytest.raises(FileExistsError, match=name): prepare(stories, tok, 'x')
    assert (folder/'x'/name).read_bytes() == b'mine' and len(os.listdir('x')) == 1

def test_read_only_text(folder, tok):
    (folder/'in').mkdir()
    (folder/'in/t.txt').write_text(f'\n{EOT}\n'.join(stories), encoding='utf-8')
    os.chmod('in', 0o555)
    try: prepare('in', tok, 'out')
    finally: os.chmod('in', 0o755)
    assert os.listdir('in') == ['t.txt']

def test_prepared_folders_are_data(folder, tok):
    pair = prepare(stories, tok, 'run/data')
    for path in ('run', 'run/data', 'run/data/train.tokens', list(pair)):
        assert [d.fingerprint for d in prepare(path, tok)] == [d.fingerprint for d in pair]
    assert sorted(read_texts('run/data')) == sorted(stories) and stored_tokenizer('run/data') == tok
    assert text_fingerprint('run/data') != text_fingerprint(stories)
    assert sum(d.n_documents for d in prepare('run/data/valid.tokens', tok, valid_fraction=.5)) == 3

# ---- the split ----

@pytest.mark.parametrize('docs', [lambda k: ['poem %d' % i for i in range(20)] + [prose + str(k)],
                                  lambda k: [s + str(k) for s in stories[:10]] + [f'Page {k}.']*300,
                                  lambda k: [stories[0] + str(k)]*25 + stories[1:4],
                                  lambda k: [f'{i} {k} ' + 'word '*i**2 for i in range(60)]])
def test_validation_is_the_smaller_part(docs, tok):
    for k in range(12):
        (train, valid), _ = with_warnings(lambda: prepare(docs(k), tok))
        assert 0 < valid.n_bytes < train.n_bytes

def test_copies_are_told(tok):
    _, warned = with_warnings(lambda: prepare([stories[0]]*30 + stories[1:10], tok))
    assert any('copies' in w for w in warned)

# ---- surroundings ----

SURROUNDINGS = '''
import sys, torch
torch.set_default_dtype(torch.float64)
from slm_scratch.engine.corpus import read_texts
from slm_scratch.engine.prepare import prepare
from slm_scratch import Tokenizer
docs = list(read_texts(sys.argv[1]))
tok = Tokenizer.train(docs, 300)
train, valid = prepare(sys.argv[1], tok, 'out')
prepare(sys.argv[1], tok, 'out')
assert train.n_bytes and '\\u041b' in docs[0]
'''

def test_ascii_locale(folder):
    "LC_ALL=C without UTF-8 mode, another default dtype, a name that is not ASCII"
    (folder/'Лиса.txt').write_text('Лиса. ' + prose, encoding='utf-8')
    env = os.environ | dict(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0',
                            OMP_NUM_THREADS='1')
    r = subprocess.run([sys.executable, '-c', SURROUNDINGS, 'Лиса.txt'], env=env,
                       capture_output=True)
    assert not r.returncode, r.stderr.decode(errors='replace')
