"The tools, where a mistake of theirs would stay unseen: skipped tests under CI, lower bounds, pictures pasted into a notebook."
import base64, json, os, struct, sys, zlib
import pytest
from conftest import copy_repo, root, run
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

@pytest.mark.parametrize('ci,failed', [('true', ['test_lib', 'test_npm', 'test_page']), ('', [])])
def test_a_skip_under_ci_is_a_failure(ci, failed, tmp_path):
    "What CI could have run must run there; what no machine of CI has may be skipped"
    (tmp_path/'test_three.py').write_text(three, encoding='utf-8')
    env = os.environ | dict(CI=ci, PYTHONPATH=str(root/'tests'))
    said = run(sys.executable, '-m', 'pytest', '-p', 'conftest', '-p', 'no:cacheprovider', '-rA', '--rootdir', tmp_path, tmp_path, env=env, cwd=tmp_path, ok=False).stdout
    names = sorted(l.partition('::')[2].split(' ')[0] for l in said.splitlines() if l.startswith(('FAILED', 'ERROR ')))
    assert names == failed, said
    assert not ci or 'should be able to run it: ' in said

def test_a_module_skipped_under_ci_is_a_failure(tmp_path):
    (tmp_path/'test_all.py').write_text("import pytest\npytest.importorskip('no_such_library')\n", encoding='utf-8')
    cmd = [sys.executable, '-m', 'pytest', '-p', 'conftest', '-p', 'no:cacheprovider', '--rootdir', tmp_path, tmp_path]
    env = os.environ | dict(PYTHONPATH=str(root/'tests'))
    assert run(*cmd, env=env | dict(CI='true'), cwd=tmp_path, ok=False).returncode == 2
    assert run(*cmd, env=env | dict(CI=''), cwd=tmp_path, ok=False).returncode == 5, 'no test was found, and that is all'

# ---- bounds ----

def test_lowest_is_the_bound_itself(monkeypatch):
    assert versions.lowest('torch>=2.4') == 'torch==2.4' and versions.lowest('a-b>=0.1.5') == 'a-b==0.1.5'
    for bad in ('torch', 'torch>2.4', 'torch>=2.4,>=2.5'):
        with pytest.raises(SystemExit, match='lower bound'): versions.lowest(bad)
    names = lambda which: [r.split('==')[0] for r in versions.requirements(which)]
    assert names('lowest') == names('newest') and 'torch' in names('newest')
    assert all('==' in r for r in versions.requirements('lowest')) and not any('==' in r for r in versions.requirements('newest'))

def test_the_interpreter_has_the_version(monkeypatch):
    here = '.'.join(map(str, sys.version_info[:2]))
    monkeypatch.setenv('PYTHON' + here.replace('.', '_'), sys.executable)
    assert versions.find_python(here) == sys.executable
    monkeypatch.setenv('PYTHON3_99', sys.executable)
    with pytest.raises(SystemExit, match='no Python 3.99 here'): versions.find_python('3.99')

# ---- runs ----

def test_table():
    r = {'bare': {'02_attention': machines.Run(61.4, '', []), 'engine/files': machines.Run(5, 'it stopped', [])}}
    rows = machines.table(r).splitlines()
    assert [[c.strip() for c in l.strip('|').split('|')] for l in rows] == [
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

def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
def png(grey): # a picture of one pixel
    head = chunk(b'IHDR', struct.pack('>2I5B', 1, 1, 8, 0, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + head + chunk(b'IDAT', zlib.compress(bytes([0, grey]))) + chunk(b'IEND', b'')

def page(d, cells):
    "The body of the page of a notebook with these Markdown cells, each a source and its attachments; the project is copied to `d`"
    copy_repo(d, 'tools', 'nbs')
    as_cell = lambda src, att: dict(cell_type='markdown', source=src, metadata={}, attachments={k: {m: v} for k,(m,v) in att.items()})
    nb = dict(cells=[as_cell('# T\n\n> p', {}), *[as_cell(*c) for c in cells]], metadata={}, nbformat=4, nbformat_minor=5)
    (d/'nbs'/'engine'/'pasted.ipynb').write_text(json.dumps(nb), encoding='utf-8')
    code = f"""
from pathlib import Path
from lesson import notebooks, Writer
nbs = notebooks()
print(Writer(nbs, lambda tex, display: '', Path({str(d)!r})/'site').body(next(n for n in nbs if n.name == 'engine-pasted')))"""
    return run(sys.executable, '-c', code, cwd=d/'tools', ok=False)

def test_pasted_pictures(tmp_path):
    "Two pictures of one name, a name with a space, HTML, an SVG: each is a file of the site"
    b64 = lambda b: base64.b64encode(b).decode()
    svg = '<svg xmlns="http://www.w3.org/2000/svg"/>'
    cells = [('![a](attachment:image.png)', {'image.png': ('image/png', b64(png(1)))}),
             ('![b](attachment:image.png) ![c](attachment:my%20board.png)', {'image.png': ('image/png', b64(png(2))), 'my board.png': ('image/png', b64(png(3)))}),
             ('<img alt="d" src="attachment:x.png">', {'x.png': ('image/png', [b64(png(4))])}),
             ('![e](attachment:drawing.svg)', {'drawing.svg': ('image/svg+xml', svg)})]
    r = page(tmp_path, cells)
    assert r.returncode == 0, r.stderr
    srcs = [p.split('"')[0] for p in r.stdout.split('src="')[1:]]
    assert [(tmp_path/'site'/s).read_bytes() for s in srcs] == [png(1), png(2), png(3), png(4), svg.encode()]

def test_a_missing_attachment_is_named(tmp_path):
    "Though the cell above holds one of that name"
    above = ('![a](attachment:gone.png)', {'gone.png': ('image/png', base64.b64encode(png(1)).decode())})
    r = page(tmp_path, [above, ('![b](attachment:gone.png)', {})])
    assert r.returncode == 1 and "nbs/engine/pasted.ipynb: a cell shows the attachment 'gone.png'" in r.stderr.splitlines()[-1]

def test_links_between_folders(tmp_path):
    "From an engine room to a lesson, a sister, a picture and a file of the repository"
    (tmp_path/'images').mkdir()
    r = page(tmp_path, [('[a](../02_attention.ipynb#heads) [b](files.ipynb) [c](../../settings.ini) [d](https://e.org/x.ipynb) ![f](../../images/g.png) [h](#i)', {})])
    assert [p.split('"')[0] for p in r.stdout.replace('src=', 'href=').split('href="')[1:]] == [
        'attention.html#heads', 'engine-files.html', machines.cfg['git_url'] + '/blob/main/settings.ini', 'https://e.org/x.ipynb', 'images/g.png', '#i']
