"Installing the package on Colab leaves the torch and the numpy of a running kernel as they are."
import json, subprocess
from pathlib import Path
import pytest
from conftest import cfg, make_env

needs = (cfg['requirements'] + ' ' + cfg['offline_requirements']).split()

def pretend(site, name, version):
    "Let pip believe that `version` of a distribution is installed"
    for p in site.glob(f'{name}-*.dist-info'): p.unlink() # a link
    d = site/f'{name}-{version}.dist-info'
    d.mkdir()
    metadata = f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
    (d/'METADATA').write_text(metadata, encoding='utf-8')
    (d/'INSTALLER').write_text('pip\n', encoding='utf-8')
    (d/'RECORD').write_text('', encoding='utf-8')

def would_install(tmp_path, wheel, extra='[offline]', **pretended):
    "What `pip install` would add or change beside other versions of torch and numpy"
    python, site = make_env(tmp_path/'env', needs)
    for name,version in pretended.items(): pretend(site, name, version)
    import pip
    (tmp_path/'pip').mkdir()
    (tmp_path/'pip'/'pip').symlink_to(Path(pip.__file__).parent)
    report = tmp_path/'report.json'
    cmd = [python, '-m', 'pip', 'install', '--dry-run', '-q', '--no-index', '--report', report]
    env = dict(PYTHONPATH=str(tmp_path/'pip'), PATH='/usr/bin:/bin', PIP_CONFIG_FILE='/dev/null')
    r = subprocess.run([*cmd, f'{wheel}{extra}'], env=env, capture_output=True, text=True)
    if 'no such option' in r.stderr: pytest.skip("this pip is too old for --report")
    if r.returncode: return r.stderr
    installed = json.loads(report.read_text(encoding='utf-8'))['install']
    return [i['metadata']['name'] for i in installed]

VERSIONS = [('2.4.0', '1.26.4'), ('2.13.0+cu130', '2.0.2'), ('99.0.0', '2.99.0')]

@pytest.mark.parametrize('torch,numpy', VERSIONS)
def test_torch_and_numpy_stay(torch, numpy, wheel, tmp_path):
    assert would_install(tmp_path, wheel, torch=torch, numpy=numpy) == [cfg['lib_name']]

def test_a_swap_is_seen(wheel, tmp_path):
    "Below our lower bound pip would have to replace torch, and the check says so"
    assert 'torch' in would_install(tmp_path, wheel, torch='1.13.0', numpy='1.26.4')
