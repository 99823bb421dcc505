"""The demo, run as a user runs it: from the wheel, in an empty folder, without a network, on a
terminal that knows only ASCII."""
import re

ASCII = '''
import os, sys
os.environ.update(LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', PYTHONIOENCODING='ascii')
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
'''

def test_demo(wheel_env, empty):
    """The main job, in seconds; a second call goes straight to the stories; another seed, and
    options that make no sense, are refused"""
    def demo(*more, ok=True, start=()):
        options = ['--minutes', .05, '--stories', 2, '--out-dir', 'd', *more]
        return wheel_env(*start, '-m', 'slm_scratch', 'demo', *options, cwd=empty, ok=ok)
    first = demo().stdout
    assert {p.name for p in (empty/'d').iterdir()} >= {'model.pth', 'loss.png', 'history.jsonl'}
    assert 'above this floor' in first and 'Of 2 that begin with' in first and ' ± ' in first
    again = demo(start=['-c', ASCII]).stdout
    assert 'going on at step' in again and again.isascii() and ' ? ' in again
    refused = {('--seed', 1): '--seed 0 .*--fresh',
               ('--stories', 0): '--stories 0: must be at least 1',
               ('--seed', 2**64): '--seed .*too large'}
    for options, words in refused.items():
        r = demo(*options, ok=False)
        errors = [l for l in r.stderr.splitlines() if l.startswith('slm-demo: ')]
        assert r.returncode == 2 and len(errors) == 1, r.stderr[-2000:]
        assert re.search(words, errors[0]), r.stderr[-2000:]
        assert 'Traceback' not in r.stderr, r.stderr[-2000:]
