"""Live figures in a browser: the numbers on the screen are Python's, by mouse and by keyboard;
nothing fails, nothing is requested; without scripts there is the picture."""
import copy, json, math, re
from functools import cache
import pytest
import torch
from slm_scratch import SmallLanguageModel, Tokenizer
from slm_scratch.engine.figures_tokenizer import MergeSlider
from slm_scratch.engine.live_attention import attend, show_heads, show_query
from slm_scratch.engine.live_data import show_shift
from slm_scratch.engine.live_generate import cache_counts, show_cache, show_knobs
from slm_scratch.engine.live_model import part_outputs, show_parts
from slm_scratch.engine.live_train import descend, show_descent, show_training
from slm_scratch.engine.report import History
from slm_scratch.generate import keep_min_p, keep_top_k, keep_top_p

head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Figures</title>' \
       '<meta name="viewport" content="width=device-width">'
light, dark = 'background:#fff;color:#222', 'background:#111;color:#ddd;color-scheme:dark'

def write(path, *figures, style=light):
    "A page that shows figures as a notebook does"
    parts = '<hr>'.join(f._repr_html_() for f in figures)
    path.write_text(f'{head}<body style="margin:10px;{style}">{parts}</body>', encoding='utf-8')
    return path.as_uri()

@pytest.fixture
def show(page, tmp_path):
    "Open figures on a page of their own; at the end, nothing failed and nothing was requested"
    def open_page(*figures, style=light):
        page.goto(write(tmp_path/'figures.html', *figures, style=style))
        return page
    yield open_page
    assert page.errors == []
    assert [u for u in page.requests if not u.startswith(('file:', 'data:'))] == []

def texts(page, selector):
    "The text of each element that a selector finds"
    found = f'[...document.querySelectorAll({json.dumps(selector)})]'
    return page.js(f'{found}.map(e => e.textContent)')

def numbers(page, selector): return [float(t) for t in texts(page, selector)]

def words(page): return ' '.join(texts(page, '.live p')[0].split())

def move(page, label, value):
    "A slider, moved as a hand moves it"
    page.tab.get_by_label(label, exact=True).fill(str(value))

def press(page, label, key, times=1):
    "Keys, pressed on a slider"
    for _ in range(times): page.tab.get_by_label(label, exact=True).press(key)

def close(shown, expected, digits):
    "Equal but for the rounding of what is shown"
    shown, expected = torch.tensor(shown).double(), torch.as_tensor(expected).double()
    torch.testing.assert_close(shown, expected, rtol=0, atol=.51*10**-digits)

# ---- the figures ----

stream = 'eot The little fox lost her lantern . eot'.split()

@cache
def make_shift(): return show_shift(stream, T=4)

def test_shift(show):
    "Each column holds a token and the one after it, at whatever place"
    page = show(make_shift())
    for key, start in (('Home', 0), ('ArrowRight', 1), ('End', len(stream) - 5)):
        press(page, 'window starts at', key)
        rows = [texts(page, f'[data-inside][data-row={name}]') for name in 'xy']
        assert rows == [stream[start:start+4], stream[start+1:start+5]]
    move(page, 'position t', 2)
    assert words(page).endswith(f'has read {" ".join(stream[4:7])} and is asked for {stream[7]}.')
    page.tab.locator('[data-row=y][data-inside]').first.click()
    assert words(page).endswith(f'has read {stream[4]} and is asked for {stream[5]}.')

def test_text_is_text(show):
    "A token that looks like HTML is shown as it is, and none of it runs"
    tokens = ['<b>x</b>', '<img src=x onerror=nothing()>', '</script>', '&lt;', '<!--', '${1}']
    page = show(show_shift(tokens, T=5))
    assert texts(page, '[data-inside][data-row=x]') == tokens[:5]
    assert texts(page, '[data-inside][data-row=y]') == tokens[1:]
    assert page.js('document.images.length') == 0

names = 'The little fox lost her lantern'.split()
keys = torch.tensor([[0., 0], [0, 0], [3, 0], [0, 0], [1, 0], [0, 3]])
values = torch.tensor([[0., 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 1]])

@cache
def make_query():
    axes, features = ('creature', 'thing'), ('alive', 'small', 'shines')
    return show_query(names, keys, values, torch.tensor([2., 0.]), axes, features)

def check_query(page, query):
    "All numbers on the screen are those of this query"
    scores, weights, mixture = attend(torch.tensor(query), keys, values)
    close(numbers(page, '[data-score]'), scores, 2)
    close(numbers(page, '[data-weight]'), weights, 3)
    close(numbers(page, '[data-mixture]'), mixture, 3)

def test_query(show):
    "Scores, weights and mixture: at first, by keyboard, and for wherever the arrow is dragged to"
    page = show(make_query())
    check_query(page, [2., 0.])
    press(page, 'query: creature', 'ArrowLeft', 2)
    press(page, 'query: thing', 'ArrowRight', 3)
    check_query(page, [1.8, .3])
    tip = page.tab.locator('[data-tip]')
    box = tip.bounding_box()
    x, y = box['x'] + box['width']/2, box['y'] + box['height']/2
    page.tab.mouse.move(x, y)
    page.tab.mouse.down()
    page.tab.mouse.move(x - 150, y - 31)
    page.tab.mouse.up()
    query = [float(t) for t in texts(page, '.live output')]
    assert query[0] < 0 and query[1] > .3
    check_query(page, query)

@pytest.fixture(scope='module')
def model(): return SmallLanguageModel.from_pretrained('tales-tiny')

prompt = 'The little fox lost her'

@torch.no_grad()
def next_logits(model):
    "The scores for what comes after the prompt"
    ids = [model.tokenizer.eot, *model.tokenizer.encode(prompt)]
    return model(torch.tensor([ids]))[0, -1]

@cache
def make_knobs(model): return show_knobs(model.tokenizer, next_logits(model))

knobs = {'temperature': 1, 'top-k': 0, 'top-p': 1, 'min-p': 0} # as the sliders have them

def filtered(z, temperature, k, p, m):
    "The distribution that our sampler draws from"
    z = z.double()/temperature
    if k: z = keep_top_k(z, k)
    return keep_min_p(keep_top_p(z, p), m).softmax(-1)

@pytest.mark.parametrize('turned', [{}, {'temperature': .3}, {'temperature': 2}, {'top-k': 5},
    {'top-p': .5}, {'min-p': .3}, {'temperature': 1.7, 'top-k': 40, 'top-p': .85, 'min-p': .2}])
def test_knobs(show, model, turned):
    "The distribution is the sampler's, and so is the number of tokens that are left"
    page = show(make_knobs(model))
    for name, value in turned.items(): move(page, name, value)
    z = torch.tensor(json.loads(make_knobs(model).data)['logits'])
    p = filtered(z, *(knobs | turned).values())
    close(numbers(page, '[data-p]'), p[:12], 4)
    n, share = (p > 0).sum(), z.softmax(-1)[p > 0].sum()
    assert words(page).startswith(f'{n:,} of {len(z):,} tokens')
    assert f'{share:.1%}'.replace('%', ' %') in words(page)

def test_knobs_by_keyboard(show, model):
    page = show(make_knobs(model))
    press(page, 'top-k', 'ArrowRight', 3)
    assert words(page).startswith('3 of')
    press(page, 'top-k', 'Home')
    press(page, 'top-p', 'ArrowLeft', 19)
    assert words(page).startswith('1 of')

text = 'The <b>fox</b> & the </script> box.'

@cache
def make_merges():
    tok = Tokenizer.train(['the fox and the box, the fox lost the box '*9], 270)
    return MergeSlider(text, tok.ranks)

def test_merges(show):
    "Each step's tokens are those of `merge_steps`, and a text is no markup"
    figure = make_merges()
    page = show(figure)
    last = len(figure.steps) - 1
    for key, i in (('Home', 0), ('ArrowRight', 1), ('End', last)):
        press(page, 'merges', key)
        tokens = [t.decode().replace(' ', '␣') for t in figure.steps[i][2]]
        assert texts(page, '[data-token]') == tokens
        assert words(page).endswith(f'{len(tokens)} tokens')
    assert f'rank {figure.steps[last][0]}:' in words(page)
    assert texts(page, 'b') == []

story = ('A little fox named Mia lived by the river. One windy Monday, Mia lost her lantern. It '
         'was a gift from her aunt. So')

@cache
def make_heads(model):
    names, maps = model.attention_maps(story)
    return show_heads(names, maps, layer=1, head=3)

def check_heads(page, model, layer, head, t):
    "What is said is the map's: the four largest weights of a token"
    names, maps = model.attention_maps(story)
    row = (1000*maps[layer, head, t].double()).round()/10
    names = [n.replace('<|endoftext|>', '·').strip() for n in names]
    said = words(page)
    assert said.startswith(f'Layer {layer}, head {head}: “{names[t]}” looks at ')
    shares = re.findall(r'(\S+) (\d+\.\d) %', said.split(' looks at ')[1])
    assert all(float(share) in row[[n == name for n in names]] for name, share in shares)
    assert [float(share) for _, share in shares] == sorted(row.tolist(), reverse=True)[:4]

def test_heads(show, model):
    "Layer, head and token are chosen with mouse and keyboard; an arc for each larger weight"
    page = show(make_heads(model))
    last = len(model.attention_maps(story)[0]) - 1
    check_heads(page, model, 1, 3, last)
    page.tab.get_by_label('layer 0', exact=True).check()
    page.tab.get_by_label('head 3', exact=True).press('ArrowLeft')
    press(page, 'token that looks', 'ArrowLeft', 2)
    check_heads(page, model, 0, 2, last - 2)
    page.tab.locator('[data-story] span').nth(9).hover()
    check_heads(page, model, 0, 2, 9)
    row = model.attention_maps(story)[1][0, 2, 9]
    arcs = page.js('document.querySelectorAll("[data-story] path").length')
    assert arcs == ((1000*row).round()[:9] >= 30).sum()

sentence = 'The little fox lost her lantern.'

@cache
def make_parts(model): return show_parts(model, sentence)

def test_parts(show, model):
    "For every part its code, and the lengths of what it gave; at the end the next tokens"
    page = show(make_parts(model))
    outputs = part_outputs(model, [model.tokenizer.eot, *model.tokenizer.encode(sentence)])
    radios = page.tab.locator('input[type=radio]')
    assert radios.count() == len(outputs)
    radios.first.check()
    for i, (name, block, y) in enumerate(outputs):
        if i: radios.nth(i - 1).press('ArrowDown')
        where = name if block is None else f'blocks[{block}]: {name}'
        assert words(page).startswith(where)
        assert texts(page, 'pre')[0].lstrip('@patch\n').startswith('def ')
        if name != 'lm_head': close(numbers(page, '[data-norm]'), y.norm(dim=-1), 2)
    expected = [f'{t} {p:.1%}'.replace('%', ' %') for t, p in model.next_tokens(sentence, 3)]
    assert texts(page, '[data-next]')[-1] == ', '.join(expected)

@cache
def make_descent(): return show_descent()

@pytest.mark.parametrize('rate', [.002, .03, .0395])
def test_descent(show, rate):
    "Factors and distance are those of gradient descent; beyond 2/60 the page says so"
    page = show(make_descent())
    move(page, 'learning rate', rate)
    *factors, distance = map(float, re.findall(r'-?\d+\.\d+(?:e\+\d+)?', words(page)))
    close(factors, [1 - rate, 1 - 60*rate], 3)
    expected = math.hypot(*descend((1, 60), (-4, 1), 40, rate)[-1])
    assert distance == pytest.approx(expected, rel=.005, abs=.0005)
    assert ('diverges' in words(page)) == (rate > 2/60)

def test_descent_by_keyboard(show):
    page = show(make_descent())
    press(page, 'learning rate', 'End')
    assert 'diverges' in words(page)
    press(page, 'learning rate', 'Home')
    assert f'distance to the bottom is {math.hypot(4, 1):.3f}' in words(page)

@pytest.fixture(scope='module')
def history():
    rows = [dict(step=0, val_loss=8.2, baseline=8.006, floor=1.1, sample='&<i>'),
            *(dict(step=s, loss=8 - s/10, learning_rate=.1) for s in range(5, 50, 5)),
            dict(step=50, loss=2.25, val_loss=2.5, sample='The fox\n</script>')]
    return History(rows)

def test_training(show, history):
    "At each step the last losses and the last text, by keyboard and by a click on the chart"
    page = show(show_training(history))
    assert words(page) == 'Step 0: training loss –, validation loss 8.200. Written at step 0:'
    assert texts(page, '[data-sample]') == ['&<i>']
    press(page, 'step', 'ArrowRight', 3)
    assert words(page) == 'Step 15: training loss 6.500, validation loss 8.200. Written at step 0:'
    chart = page.tab.locator('svg').bounding_box()
    page.tab.mouse.click(chart['x'] + .97*chart['width'], chart['y'] + chart['height']/2)
    assert words(page) == 'Step 50: training loss 2.250, validation loss 2.500. Written at step 50:'
    assert texts(page, '[data-sample]') == ['The fox\n</script>']

read = 'start The little fox lost her lantern . It was a gift'.split()

@cache
def make_cache(): return show_cache(read, 6, 2)

states = "[...document.querySelectorAll('[data-state]')].map(e => e.dataset.state)"

def test_cache(show):
    "Counts of every step, with a cache and without, and the cells that say the same"
    page = show(make_cache())
    press(page, 'step', 'Home')
    for step in range(len(read) - 6):
        if step: press(page, 'step', 'ArrowRight')
        counts = [cache_counts(6, step, cached) for cached in (True, False)]
        assert numbers(page, '[data-now]') == [2*c[-1][0] for c in counts]
        assert numbers(page, '[data-sum]') == [2*sum(n for n, _ in c) for c in counts]
        assert numbers(page, '[data-scores]') == [2*sum(n for _, n in c) for c in counts]
        for label, c in zip(('with a cache', 'without'), counts):
            page.tab.get_by_label(label, exact=True).check()
            cells = page.js(states)
            assert sum(s in ('computed', 'again') for s in cells) == 2*c[-1][0]
            assert cells.count('empty') == 2*(len(read) - 6 - step)
        assert f'“{read[6 + step]}”' in words(page)

# ---- all of them, on one page ----

# Texts whose contrast with what is behind them is below 4.5 (WCAG AA)
faint = """(() => {
    const rgba = c => [...c.match(/[\\d.]+/g).map(Number), 1].slice(0, 4);
    const over = (a, b, k) => [0, 1, 2].map(i => k*a[i] + (1 - k)*b[i]);
    const luminance = c => c.map(x => (x /= 255) <= .04045 ? x/12.92 : ((x + .055)/1.055)**2.4)
        .reduce((sum, x, i) => sum + x*[.2126, .7152, .0722][i], 0);
    function contrast(e) {
        const chain = [];
        for (let p = e; p; p = p.parentElement) chain.unshift(getComputedStyle(p));
        let ground = [255, 255, 255], opacity = 1;
        for (const style of chain) {
            opacity *= style.opacity;
            const colour = rgba(style.backgroundColor);
            ground = over(colour, ground, colour[3]*opacity);
        }
        const style = chain.pop(), svg = e.namespaceURI.endsWith('svg');
        const ink = over(rgba(svg ? style.fill : style.color), ground, opacity);
        const [a, b] = [luminance(ink), luminance(ground)].sort();
        return (Math.max(a, b) + .05)/(Math.min(a, b) + .05);
    }
    const shows = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())
        && getComputedStyle(e).visibility === 'visible' && e.getClientRects().length;
    return [...document.querySelectorAll('.live *')].filter(e => shows(e) && contrast(e) < 4.5)
        .map(e => `${e.textContent} ${contrast(e)}`);
})()"""

@pytest.fixture(scope='module')
def figures(model, history):
    return [make_merges(), make_shift(), make_query(), make_heads(model), make_parts(model),
            make_descent(), show_training(history), make_knobs(model), make_cache()]

def test_without_scripts(figures, page, tmp_path):
    "A viewer that runs no scripts shows each picture, with its description"
    context = page.chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(write(tmp_path/'still.html', *figures))
    pictures = tab.locator('img')
    assert pictures.count() == len(figures)
    for i, figure in enumerate(figures):
        assert pictures.nth(i).get_attribute('alt') == figure.alt
        assert pictures.nth(i).bounding_box()['height'] > 50
    context.close()

@pytest.mark.parametrize('width', [380, 1280])
@pytest.mark.parametrize('style', [light, dark], ids=['light', 'dark'])
def test_together(figures, show, page, width, style):
    "All on one page, twice: each takes its own place, fits, is named, and can be read"
    page.view(width, phone=width < 600)
    show(*figures, *figures, style=style)
    assert page.js('document.images.length') == 0
    assert page.js('document.querySelectorAll(".live").length') == 2*len(figures)
    assert page.js('document.documentElement.scrollWidth <= innerWidth')
    labels = page.js('[...document.querySelectorAll(".live")].map(e => e.ariaLabel)')
    assert labels == [f.alt for f in figures]*2
    assert page.js(faint) == []

def test_the_tests_can_fail(show, page, tmp_path):
    "Faint text is seen; and a script that fails leaves the picture, and is an error"
    page = show(make_cache())
    page.js("document.querySelector('.live p').style.opacity = .3")
    assert len(page.js(faint)) == 1
    broken = copy.copy(make_cache())
    broken.script = 'function figure() { throw Error("no") }'
    page.goto(write(tmp_path/'broken.html', broken))
    assert page.js('document.images.length') == 1 and 'no' in page.errors[0]
    page.errors.clear()
