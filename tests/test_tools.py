"""The tools, if a mistake of theirs would stay unseen: skipped tests under CI, lower bounds,
pictures pasted into a notebook."""
import base64, json, os, struct, sys, zlib
import pytest
from conftest import cfg, copy_repo, root, run
import machines, versions

# ---- skipped tests ----

three = '''
import pytest
def test_card(): pytest.skip('no GPU here')
def test_npm(): pytest.skip('no npm here')
@pytest.fixture
def browser(): pytest.skip('no Chromium here')
def test_page(browser): pass
@pytest.mark.xfail
def test_known(): assert False
def test_lib(): pytest.importorskip('no_such_library')
'''

plain_pytest = [sys.executable, '-m', 'pytest', '-p', 'conftest', '-p', 'no:cacheprovider']

@pytest.mark.parametrize('ci,failed', [('true', ['test_lib', 'test_npm', 'test_page']), ('', [])])
def test_a_skip_under_ci_is_a_failure(ci, failed, tmp_path):
    "What CI could have run must run there; what no machine of CI has may be skipped"
    (tmp_path/'test_three.py').write_text(three, encoding='utf-8')
    env = os.environ | dict(CI=ci, PYTHONPATH=str(root/'tests'))
    said = run(*plain_pytest, '-rA', '--rootdir', tmp_path, tmp_path, env=env, cwd=tmp_path,
               ok=False).stdout
    lines = [l for l in said.splitlines() if l.startswith(('FAILED', 'ERROR '))]
    names = sorted(l.partition('::')[2].split(' ')[0] for l in lines)
    assert names == failed, said
    assert not ci or 'should be able to run it: ' in said

def test_a_module_skipped_under_ci_is_a_failure(tmp_path):
    module = "import pytest\npytest.importorskip('no_such_library')\n"
    (tmp_path/'test_all.py').write_text(module, encoding='utf-8')
    def exit_code(ci):
        env = os.environ | dict(PYTHONPATH=str(root/'tests'), CI=ci)
        cmd = [*plain_pytest, '--rootdir', tmp_path, tmp_path]
        return run(*cmd, env=env, cwd=tmp_path, ok=False).returncode
    assert exit_code('true') == 2
    assert exit_code('') == 5, 'no test was found, and that is all'

# ---- bounds ----

def test_lowest_is_the_bound_itself(monkeypatch):
    assert machines.lowest('torch>=2.4') == 'torch==2.4'
    assert machines.lowest('a-b>=0.1.5') == 'a-b==0.1.5'
    for bad in ('torch', 'torch>2.4', 'torch>=2.4,>=2.5'):
        with pytest.raises(SystemExit, match='lower bound'): machines.lowest(bad)
    lowest, newest = (versions.requirements(which) for which in ('lowest', 'newest'))
    assert [r.split('==')[0] for r in lowest] == newest and 'torch' in newest
    assert all('==' in r for r in lowest) and not any('==' in r for r in newest)

def test_the_interpreter_has_the_version(monkeypatch):
    here = '.'.join(map(str, sys.version_info[:2]))
    monkeypatch.setenv('PYTHON' + here.replace('.', '_'), sys.executable)
    assert versions.find_python(here) == sys.executable
    monkeypatch.setenv('PYTHON3_99', sys.executable)
    with pytest.raises(SystemExit, match='no Python 3.99 here'): versions.find_python('3.99')

# ---- runs ----

def test_table():
    ended = machines.Run(61.4, '', [])
    failed = machines.Run(5, 'it stopped', [])
    lines = machines.table({'bare': {'02_attention': ended, 'engine/files': failed}}).splitlines()
    assert [[c.strip() for c in l.strip('|').split('|')] for l in lines] == [
        ['notebook', 'bare'], ['---', '---:'], ['02_attention', '61'], ['engine/files', '5 FAILED']]

def test_background_runs_each_job_once():
    "In their order by the first thread, all by many; an error is kept for whoever asks"
    done = []
    def job(n):
        def f():
            done.append(n)
            return 1/n
        return f
    b = machines.Background({str(n): job(n) for n in (3, 0, 1, 2)})
    b.work_on(1)
    b.work_on(4)
    assert b.results['2'].result(60) == .5
    with pytest.raises(ZeroDivisionError): b.results['0'].result(60)
    for n in '31': b.results[n].result(60)
    assert sorted(done) == [0, 1, 2, 3]

# ---- pictures pasted into a notebook ----

def chunk(kind, data):
    checksum = struct.pack('>I', zlib.crc32(kind + data))
    return struct.pack('>I', len(data)) + kind + data + checksum

def png(grey):
    "A picture of one pixel"
    head = chunk(b'IHDR', struct.pack('>2I5B', 1, 1, 8, 0, 0, 0, 0))
    data = chunk(b'IDAT', zlib.compress(bytes([0, grey])))
    return b'\x89PNG\r\n\x1a\n' + head + data + chunk(b'IEND', b'')

def as_cell(source, attachments):
    "A Markdown cell; attachments: name → (type, content)"
    attached = {name: {mime: content} for name,(mime,content) in attachments.items()}
    return dict(cell_type='markdown', source=source, metadata={}, attachments=attached)

def page(d, cells):
    """The body of the page of a notebook with these Markdown cells, each a source and its
    attachments; the project is copied to `d`"""
    copy_repo(d, 'tools', 'nbs')
    cells = [as_cell(*c) for c in [('# T\n\n> p', {}), *cells]]
    nb = dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)
    (d/'nbs'/'engine'/'pasted.ipynb').write_text(json.dumps(nb), encoding='utf-8')
    code = f"""
from pathlib import Path
from lesson import notebooks, Writer
nbs = notebooks()
writer = Writer(nbs, lambda tex, display: '', Path({str(d)!r})/'site')
print(writer.body(next(n for n in nbs if n.name == 'engine-pasted')))"""
    return run(sys.executable, '-c', code, cwd=d/'tools', ok=False)

def test_pasted_pictures(tmp_path):
    "Two pictures of one name, a name with a space, HTML, an SVG: each is a file of the site"
    def encoded(grey): return base64.b64encode(png(grey)).decode()
    svg = '<svg xmlns="http://www.w3.org/2000/svg"/>'
    two = {'image.png': ('image/png', encoded(2)), 'my board.png': ('image/png', encoded(3))}
    cells = [('![a](attachment:image.png)', {'image.png': ('image/png', encoded(1))}),
             ('![b](attachment:image.png) ![c](attachment:my%20board.png)', two),
             ('<img alt="d" src="attachment:x.png">', {'x.png': ('image/png', [encoded(4)])}),
             ('![e](attachment:drawing.svg)', {'drawing.svg': ('image/svg+xml', svg)})]
    r = page(tmp_path, cells)
    assert r.returncode == 0, r.stderr
    srcs = [p.split('"')[0] for p in r.stdout.split('src="')[1:]]
    pictures = [(tmp_path/'site'/s).read_bytes() for s in srcs]
    assert pictures == [png(1), png(2), png(3), png(4), svg.encode()]

def test_a_missing_attachment_is_named(tmp_path):
    "Though the cell above holds one of that name"
    picture = ('image/png', base64.b64encode(png(1)).decode())
    above = ('![a](attachment:gone.png)', {'gone.png': picture})
    r = page(tmp_path, [above, ('![b](attachment:gone.png)', {})])
    said = "nbs/engine/pasted.ipynb: a cell shows the attachment 'gone.png'"
    assert r.returncode == 1 and said in r.stderr.splitlines()[-1]

def test_links_between_folders(tmp_path):
    "From an engine room to a lesson, a sister, a picture and a file of the repository"
    (tmp_path/'images').mkdir()
    links = ['[a](../02_attention.ipynb#heads)', '[b](files.ipynb)', '[c](../../settings.ini)',
             '[d](https://e.org/x.ipynb)', '![f](../../images/g.png)', '[h](#i)']
    body = page(tmp_path, [(' '.join(links), {})]).stdout
    assert [p.split('"')[0] for p in body.replace('src=', 'href=').split('href="')[1:]] == [
        'attention.html#heads', 'engine-files.html', cfg['git_url'] + '/blob/main/settings.ini',
        'https://e.org/x.ipynb', 'images/g.png', '#i']
