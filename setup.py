"Build `slm-scratch` from `settings.ini`: edit the settings there, not here."
from configparser import ConfigParser
from pathlib import Path
import shlex
from setuptools import find_packages, setup

root = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(root/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
licenses = {'apache2': 'Apache-2.0', 'mit': 'MIT', 'bsd3': 'BSD-3-Clause'}
stages = ['', 'Planning', 'Pre-Alpha', 'Alpha', 'Beta', 'Production/Stable']
extras = {k.removesuffix('_requirements'): shlex.split(v) for k,v in cfg.items() if k.endswith('_requirements')}

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(root/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    license=licenses.get(cfg['license'], cfg['license']),
    keywords=cfg['keywords'].split(),
    packages=find_packages(include=[cfg['lib_path'], cfg['lib_path']+'.*']),
    package_data={cfg['lib_path']: ['*.mplstyle', 'py.typed', 'assets/*']},
    classifiers=[
        f"Development Status :: {cfg['status']} - {stages[int(cfg['status'])]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        'Programming Language :: Python :: 3',
    ],
    python_requires='>=' + cfg['min_python'],
    install_requires=shlex.split(cfg['requirements']),
    extras_require=extras,
    entry_points={
        'console_scripts': shlex.split(cfg['console_scripts']),
        'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
