"Installing the package on Colab changes neither the torch nor the numpy that a running kernel holds."
import json, subprocess, sys
from pathlib import Path
import pytest
from conftest import cfg, link_distribution, make_env, run

needs = (cfg['requirements'] + ' ' + cfg['offline_requirements']).split()

def pretend(site, name, version):
    "Let pip believe that `version` of a distribution is installed"
    for p in site.glob(f'{name}-*.dist-info'): p.unlink() # a link
    d = site/f'{name}-{version}.dist-info'; d.mkdir()
    (d/'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n', encoding='utf-8')
    (d/'INSTALLER').write_text('pip\n', encoding='utf-8'); (d/'RECORD').write_text('', encoding='utf-8')

def would_install(tmp_path, wheel, extra='[offline]', **pretended):
    "What `pip install` would add to or change in an environment with other versions of torch and numpy"
    python, site = make_env(tmp_path/'env', needs)
    for name,version in pretended.items(): pretend(site, name, version)
    import pip
    (tmp_path/'pip').mkdir(); (tmp_path/'pip'/'pip').symlink_to(Path(pip.__file__).parent)
    r = subprocess.run([python, '-m', 'pip', 'install', '--dry-run', '-q', '--no-index', '--report', tmp_path/'report.json', f'{wheel}{extra}'],
                       env=dict(PYTHONPATH=str(tmp_path/'pip'), PATH='/usr/bin:/bin', PIP_CONFIG_FILE='/dev/null'), capture_output=True, text=True)
    if 'no such option' in r.stderr: pytest.skip("this pip is too old for --report")
    if r.returncode: return r.stderr
    return [i['metadata']['name'] for i in json.loads((tmp_path/'report.json').read_text(encoding='utf-8'))['install']]

@pytest.mark.parametrize('torch,numpy', [('2.4.0', '1.26.4'), ('2.13.0+cu130', '2.0.2'), ('99.0.0', '2.99.0')])
def test_torch_and_numpy_stay(torch, numpy, wheel, tmp_path):
    assert would_install(tmp_path, wheel, torch=torch, numpy=numpy) == [cfg['lib_name']]

def test_a_swap_is_seen(wheel, tmp_path):
    "Below our lower bound pip would have to replace torch, and the check says so"
    assert 'torch' in would_install(tmp_path, wheel, torch='1.13.0', numpy='1.26.4')
