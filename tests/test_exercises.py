"The exercises of the lessons: each answer is accepted, each mistake gets its sentence."
import importlib, re, sys
from pathlib import Path
import pytest
root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
from project import is_lesson, lesson_modules, notebook_paths, read_cells, text
from slm_scratch.engine.exercises import ANSWERS, NOT_TRIED, exercise

rooms = sorted(p.stem for p in (root/'slm_scratch'/'engine').glob('answers_*.py'))
modules = {r.removeprefix('answers_'): importlib.import_module(f'slm_scratch.engine.{r}')
           for r in rooms}
answers = {n: a for n, a in ANSWERS.items() if n.partition('.')[0] in modules}

call = re.compile(r"^exercise\('([\w.]+)', (\w+)\)", re.M)

def asked():
    "Each exercise in a lesson: (notebook, exercise, what it checks, the markdown that follows)"
    for p in filter(is_lesson, notebook_paths()):
        cells = read_cells(p)
        for i, c in enumerate(cells):
            if c['cell_type'] != 'code': continue
            follow = []
            for d in cells[i + 1:]:
                if d['cell_type'] != 'markdown': break
                follow.append(text(d['source']))
            for name, given in call.findall(text(c['source'])):
                yield p.stem, name, given, '\n'.join(follow)

questions = {name: (stem, given, follow) for stem, name, given, follow in asked()}

def test_every_lesson_has_answers(): assert sorted(modules) == sorted(lesson_modules)

def test_questions_and_answers_belong_together(): assert sorted(questions) == sorted(answers)

@pytest.mark.parametrize('name', sorted(answers))
def test_answer_is_accepted(name): assert exercise(name, answers[name].right).right, name

@pytest.mark.parametrize('name', sorted(answers))
def test_each_mistake_gets_its_sentence(name):
    said = {sentence: exercise(name, wrong) for sentence, wrong in answers[name].mistakes.items()}
    for sentence, verdict in said.items():
        assert verdict.right is False and sentence in verdict.message, (sentence, verdict)

@pytest.mark.parametrize('name', sorted(answers))
def test_a_stub_is_not_tried(name):
    stub = (lambda *args: None) if callable(answers[name].right) else ...
    assert exercise(name, stub) == NOT_TRIED

@pytest.mark.parametrize('name', sorted(questions))
def test_a_hint_comes_before_the_solution(name):
    "Both are folded; tests/test_notebooks.py runs the solution in its lesson"
    stem, given, follow = questions[name]
    folds = re.findall(r'<details><summary>(\w+)</summary>(.*?)</details>', follow, re.S)
    assert [title for title, _ in folds] == ['Hint', 'Solution'], stem
    assert re.search(rf'```python\n(.*\n)*?(def )?{given}\b', folds[1][1]), stem
