"""The page where a model writes (engine/web), in a headless Chromium: its numbers are Python's, and
text stays text."""
import base64, json, re, shutil, time, warnings
import pytest, torch
from slm_scratch import ModelConfig, SmallLanguageModel, Tokenizer, check_tale
from slm_scratch.attention import softmax
from slm_scratch.engine.tales import tales
from slm_scratch.engine.web import packed_model, verdict_lines, web_page
from slm_scratch.generate import GenerationConfig, Sampler, keep_min_p, keep_top_k, keep_top_p

GREEDY = dict(temperature=0, top_k=None, top_p=None, min_p=None, repetition_penalty=1,
              max_new_tokens=40, seed=0)
ready = "document.getElementById('status').textContent === 'Ready.'"

# ---- models and their pages, each written once ----

def random_model(tok, **changes):
    "Odd sizes: three heads, learned positions, two matrices, no biases, ids without a token"
    torch.manual_seed(0)
    V = tok.vocab_size + 3
    shape = dict(vocab_size=V, d_model=21, n_heads=3, n_layers=3, max_seq_len=17, d_ff=37,
                 bias=False, tie_weights=False)
    model = SmallLanguageModel(ModelConfig(**shape | changes), tok.padded(V))
    with torch.no_grad():
        for p in model.parameters(): p.mul_(6)
    return model.eval()

EVIL = ['<script>', '</script>', '<script>document.title="bad"</script>', '<!--', '{{model}}',
        '<img src=x onerror=document.title="bad">', '"><b id=bad>', '&lt;b&gt;', "'", '`${1}`']

@pytest.fixture(scope='module')
def models(single_thread):
    "By name, with the weights that the page has"
    tok = Tokenizer.train([t.text for t in tales(50)], 300)
    ranks = {t: i for i, t in enumerate(dict.fromkeys([*tok.ranks, *map(str.encode, EVIL)]))}
    hostile = Tokenizer(ranks, name='</script>')
    odd, evil = random_model(tok), random_model(hostile, bias=True, max_seq_len=64)
    found = dict(box=SmallLanguageModel.from_pretrained('tales-tiny'), odd=odd, evil=evil)
    return {name: packed_model(m)[1] for name, m in found.items()}

@pytest.fixture(scope='module')
def pages(models, tmp_path_factory):
    d = tmp_path_factory.mktemp('web')
    models['box'].save_web(d/'box.html', home='index.html', name='tales-tiny')
    models['odd'].save_web(d/'odd.html', prompt='a b', name='odd')
    models['evil'].save_web(d/'evil.html', prompt=EVIL[2], name=EVIL[2])
    return d

@pytest.fixture
def at(page, pages):
    "Open a page unless it is open, and give its tab"
    def go(name, end='', wait=ready):
        uri = (pages/f'{name}.html').as_uri() + end
        if page.tab.url != uri: open_page(page, uri, wait)
        return page
    return go

def until(tab, condition):
    "Wait until a JavaScript expression holds (playwright's own waiting is what the policy forbids)"
    end = time.monotonic() + 100
    while not tab.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(.02)

def open_page(page, uri, condition=ready):
    "Open an address and wait until the model is read"
    page.goto('about:blank') # another fragment alone would load nothing
    page.goto(uri)
    until(page.tab, condition)

def call(tab, code, *args):
    "The value of a JavaScript function; lone surrogates reach it, too"
    return tab.js(f'({code})({", ".join(map(json.dumps, args))})')

WRITE = """(prompt, knobs) => {
    const s = new Story(model, prompt, knobs);
    for (const _ of s.write());
    return {text: s.text, ids: s.ids, first: s.first, ended: s.ended, warning: s.warning,
            log_probs: s.probs.slice(s.first).map(Math.log), froms: s.froms};
}"""

def near(numbers, there):
    "The page's numbers are Python's, to a ten-thousandth"
    torch.testing.assert_close(torch.tensor(numbers), there, rtol=0, atol=1e-4)

def written(tab, prompt, **knobs): return call(tab, WRITE, prompt, GREEDY | knobs)

# ---- the same numbers ----

PROMPTS = ['', 'Once upon a time', 'A little girl went to the woods', 'A', ' ', '\n', 'the the the',
           'Leo', 'Mia was', '“Oh!”', 'One sunny day,', 'Long ago, a brave', 'xyzzy 123',
           'naïve café', '火', '🙂', 'A little boy named Tom', 'Then', 'He lost his', 'THE END.']

@pytest.mark.filterwarnings('ignore:the prompt has')
@pytest.mark.parametrize('name', ['box', 'odd'])
def test_greedy_text_and_probabilities(name, at, models):
    tab = at(name)
    for prompt in PROMPTS:
        page, here = written(tab, prompt), models[name]
        there = here.generate(prompt, temperature=0, max_new_tokens=40, log_probs=True)
        assert page['text'] == there.text, prompt
        assert (page['ended'], page['ids'][page['first']:]) == (there.ended, there.tokens)
        near(page['log_probs'], torch.tensor(there.log_probs))

HARD = ['', ' ', '  ', '   a', 'a   ', '\r\n', 'a\r\n\r\n  b\r\n', '\t\tx', ' \n \n a', 'a'*3000,
        ' '*3000 + 'x', '0'*500, '123 456,789', "I'll we've don't they'RE it's d's 's", "''''ll",
        'e\u0301a\u0308\u0323', '👩‍👩‍👧‍👦 🇩🇪 👍🏽', 'a\u00a0b\u2003c\u3000d\u2028e\u0085f',
        'f\ufeffg\u200bh\u180ei', '\ufeffx', '\x00\x1c\x1f\x7f', '日本語のテキスト',
        'العربية עברית', 'हिन्दी', '<|endoftext|>', '½ ² Ⅷ ٣', 'ǅ ª ﬁ', '_a_b__', '…—“”',
        '\ud800', 'a\udc00b\ud83d', '\ud83d\ude00\ud83d', '\ud800\ud800', 'x\ufffdy',
        '</script>']

@pytest.mark.parametrize('name', ['box', 'odd'])
def test_tokenizer_on_hard_text(name, at, models):
    tab, tok = at(name), models[name].tokenizer
    for text in HARD + [''.join(HARD)]:
        assert call(tab, 'text => model.tokenizer.encode(text)', text) == tok.encode(text), text
    ids = [*range(tok.vocab_size)]
    assert call(tab, 'ids => ids.map(i => model.tokenizer.text(i))', ids) == [
        tok.decode([i]) for i in ids]

def test_sampler_is_pythons(at):
    "The same logits, the same uniform number: the same token, whatever the knobs"
    tab, rng = at('box'), torch.Generator().manual_seed(0)
    for i in range(200):
        logits = 3*torch.randn(1, 50, generator=rng)
        u, seen = torch.rand(1, generator=rng, dtype=torch.float64), [i % 50, 7, 9]
        knobs = dict(temperature=[0, .3, 1, 2][i % 4], top_k=[None, 1, 5, 99][i//4 % 4],
                     top_p=[None, .5, .9, 1][i//2 % 4], min_p=[None, 0, .1, .5][i//3 % 4],
                     repetition_penalty=[1, 1.5, .7][i % 3])
        there = Sampler(**knobs)(logits, u, torch.tensor([seen]), 7).item()
        code = '(z, knobs, u, seen) => choose(new Float32Array(z), knobs, u, new Set(seen), 7).id'
        assert call(tab, code, logits[0].tolist(), knobs, u.item(), seen) == there, knobs

def test_ties_let_no_more_through(at):
    code = '(z, knobs) => choose(new Float32Array(z), knobs, .5).kept()'
    knobs = GREEDY | dict(temperature=1)
    assert call(at('box'), code, [1, 1, 1, 1], knobs | dict(top_k=2)) == [0, 1]
    assert call(at('box'), code, [0, 1, 1, 1], knobs | dict(top_p=.4)) == [1, 2]
    assert call(at('box'), code, [1, 1, 1, 1], knobs | dict(top_p=.5)) == [0, 1]

def test_drawn_tokens_obey_the_knobs(at, models):
    tab, model = at('box'), models['box']
    limits = [(dict(top_k=3), lambda z: keep_top_k(z, 3)),
              (dict(top_p=.6), lambda z: keep_top_p(z, .6)),
              (dict(min_p=.2), lambda z: keep_min_p(z, .2))]
    for knobs, keep in limits:
        page = written(tab, 'Once upon a time', temperature=1, max_new_tokens=40, seed=1, **knobs)
        ids = torch.tensor(page['ids'])
        with torch.no_grad(): kept = keep(model(ids[None])[0, :-1]).isfinite()
        drawn = ids[page['first']:]
        assert kept[page['first']-1:].gather(1, drawn[:, None]).all(), knobs
        assert (kept.sum(-1) > 1).any() # there was something to choose

def test_a_seed_promises_a_text(at):
    tab, text_of = at('box'), lambda seed: written(at('box'), 'A', temperature=1, seed=seed)['text']
    assert text_of(3) == text_of(3) and len({text_of(s) for s in range(5)}) == 5
    numbers = tab.js("(() => { const r = randomNumbers(5); return [...Array(4000)].map(r); })()")
    assert all(0 <= u < 1 for u in numbers) and len(set(numbers)) == 4000
    assert abs(sum(numbers)/4000 - .5) < .03

def test_a_full_window_slides(at, models):
    "More tokens than the window holds: the older half goes, and the rest is read again"
    page = written(at('odd'), 'Once upon', max_new_tokens=80)
    there = models['odd'].generate('Once upon', temperature=0, max_new_tokens=80)
    assert page['text'] == there and len({*page['froms']}) > 5

def test_a_prompt_beyond_the_window(at, models):
    "The same crop, the same warning"
    prompt = 'Once upon a time there was a cat. '*4
    page = written(at('odd'), prompt, max_new_tokens=30)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        there = models['odd'].generate(prompt, temperature=0, max_new_tokens=30)
    assert page['text'] == there
    assert page['warning'] == str(said[0].message)

def test_look(at, models):
    "The weights of each head, and the logits, for any token, whether its window is still cached"
    for name, n in [('box', 60), ('odd', 60)]:
        code = """(prompt, knobs) => {
            const s = new Story(model, prompt, knobs);
            for (const _ of s.write());
            return [2, 9, s.first, s.ids.length - 1].map(i => {
                const {logits, looks, from} = s.look(i);
                return {seen: s.ids.slice(from, i), looks: looks.map(w => [...w]),
                        probs: [...softmax(new Float64Array(logits))]};
            });
        }"""
        for look in call(at(name), code, 'Once upon a time', GREEDY | dict(max_new_tokens=n)):
            ids = torch.tensor([look['seen']])
            with torch.no_grad():
                maps = torch.cat(models[name].attention_weights(ids))[:, :, -1].flatten(0, 1)
                logits = models[name](ids)[0, -1]
            logits[models[name].tokenizer.encoding.n_vocab:] = -torch.inf
            near(look['looks'], maps)
            near(look['probs'], softmax(logits))

def test_the_checker_is_pythons(at):
    stories = [t.text for t in tales(20, seed=5)]
    names = {n for s in stories for n in re.findall(r'named (\w+)', s)}
    name = sorted(names)[0]
    wrong = [stories[0].replace(' he ', ' she ').replace(' she ', ' he ', 1), stories[1][:200],
             stories[2].replace('.', '', 1), 'Call me Ishmael.', '', 'An owl. A owl.',
             *(re.sub(r'\b(His|Her|his|her)\b', 'their', s, count=1) for s in stories[3:6]),
             *(s[:300] + s[300:].replace(' he ', ' she ') for s in stories[6:12]),
             *(s[:250] + re.sub(r'\b[A-Z]\w+(?= (said|was|had))', name, s[250:])
               for s in stories[12:18])]
    fields = ('hero', 'keeps_name', 'keeps_pronoun', 'object_returns', 'ends', 'sentences',
              'grammatical')
    for text in stories + wrong:
        page, there = call(at('box'), 'text => checker.check(text)', text), check_tale(text)
        assert {f: page[f] for f in fields} == {f: getattr(there, f) for f in fields}, text
        assert [tuple(p) for p in page['problems']] == [*there.problems], text
        lines = call(at('box'), 'text => checker.verdict(checker.check(text))', text)
        assert [tuple(l) for l in lines] == verdict_lines(there)
    assert sum(not check_tale(t).ok for t in wrong) > 10 # there was something to find

# ---- the same sentences ----

WRONG = [dict(temperature=-1), dict(top_k=0), dict(top_k=1.5), dict(top_p=0), dict(top_p=2),
         dict(min_p=-.5), dict(repetition_penalty=0), dict(max_new_tokens=-3),
         dict(max_new_tokens=.5), dict(seed=1.5),
         dict(temperature=None), dict(temperature=-1, top_k=0, seed=.5)]

@pytest.mark.parametrize('knobs', WRONG, ids=str)
def test_knobs_out_of_range(knobs, at):
    with pytest.raises(ValueError) as e: GenerationConfig(**knobs)
    page = call(at('box'), 'knobs => knobProblems(knobs, data.limits)', GREEDY | knobs)
    assert page == str(e.value)

def test_every_limit_is_used(at):
    assert call(at('box'), '() => knobProblems(readKnobs(), data.limits)') == ''
    assert set(at('box').js('Object.keys(readKnobs())')) == set(GREEDY)

def test_sentences_on_the_page(at):
    tab = at('box').tab
    tab.fill('#top_k', '0')
    tab.click('#write')
    with pytest.raises(ValueError) as e: GenerationConfig(top_k=0)
    assert tab.inner_text('#problem') == str(e.value)
    tab.fill('#top_k', '')

def broken(models, pages, name, change):
    "A page with other model data"
    page = (pages/'odd.html').read_text(encoding='utf-8')
    old = re.search(r'type="text/plain">([^<]*)<', page)[1]
    new = change(base64.b64decode(old))
    if isinstance(new, bytes): new = base64.b64encode(new).decode()
    (pages/f'{name}.html').write_text(page.replace(old, new), encoding='utf-8')

DAMAGE = dict(empty=lambda b: b'', short=lambda b: b[:4], header=lambda b: b[:50],
              cut=lambda b: b[:-9], json=lambda b: b.replace(b'{', b'(', 1), text=lambda b: '!!!')

@pytest.mark.parametrize('name', DAMAGE)
def test_damaged_model(name, page, pages, models, tmp_path):
    "Python's sentence, and the worked example stays"
    broken(models, pages, name, DAMAGE[name])
    open_page(page, (pages/f'{name}.html').as_uri(), "!!$('problem').textContent")
    said = page.tab.inner_text('#problem')
    assert re.fullmatch(r'the model in this page is not a whole safetensors file \(.+\): '
                        r'copy or download it again', said)
    assert page.tab.is_disabled('#write') and len(page.tab.inner_text('#story')) > 10
    assert page.errors == []

def test_the_sentence_for_damage_is_pythons(tmp_path):
    from slm_scratch.engine.huggingface import read_safetensors
    (tmp_path/'x.safetensors').write_bytes(b'1234')
    said = r'is not a whole safetensors file \(.+\): copy or download it again'
    with pytest.raises(ValueError, match=said):
        read_safetensors(tmp_path/'x.safetensors')

def test_broken_weights(at):
    code = """z => {
        try { choose(new Float32Array(z.map(Number)), {temperature: 1}, .5); }
        catch (e) { return e.message; }
    }"""
    for bad in ['NaN', 'Infinity', '-Infinity']:
        logits = torch.tensor([[float(bad)]*2])
        with pytest.raises(ValueError) as e: Sampler()(logits, torch.tensor([.5]))
        assert call(at('box'), code, [bad, bad]) == str(e.value)

# ---- text is always text ----

def test_hostile_vocabulary_and_prompt(at, models, pages):
    tab = at('evil')
    elements = """document.scripts.length + ' '
        + document.querySelectorAll('img, #bad, iframe').length"""
    before = tab.js(elements)
    assert before == '3 0'
    tab.tab.select_option('#pace', '')
    tab.tab.fill('#max_new_tokens', '100')
    tab.tab.fill('#seed', '1')
    tab.tab.fill('#prompt', ''.join(EVIL))
    tab.tab.click('#write')
    until(tab.tab, "!running && story.prompt.length > 20 && story.ended")
    ids = [models['evil'].tokenizer.ranks[t.encode()] for t in EVIL]
    call(tab, """ids => {
        for (const id of ids) story.add(id, .5, story.ids.length - 5);
        showStory();
    }""", ids)
    assert tab.js("$('story').textContent").endswith(''.join(EVIL))
    for i in tab.js('[...story.ids.keys()].slice(-10)'): call(tab, 'i => openToken(i)', i)
    assert tab.js(elements) == before
    assert tab.js('document.title').startswith(EVIL[2]) and tab.errors == []

def test_the_policy_stops_what_slips_through(at):
    "Even a script that gets into the page does not run, and nothing is asked for"
    tab = at('evil')
    tab.js("""(() => {
        const s = document.createElement('script');
        s.textContent = 'window.bad = 1';
        document.body.append(s);
        new Image().src = 'https://192.0.2.1/x.png';
    })()""")
    tab.js('new Promise(done => setTimeout(done, 50))')
    assert tab.js('window.bad') is None
    said = ' '.join(tab.errors)
    assert 'inline script' in said and 'csp (image)' in said # refused before it left the machine
    tab.errors.clear()

def test_the_program_sets_no_html(pages):
    page = (pages/'box.html').read_text(encoding='utf-8')
    program = re.findall(r'<script>(.*?)</script>', page, re.S)
    assert len(program) == 1 and len(re.findall('</script', page)) == 3
    ways = (r'innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|fetch\(|XMLHttp'
            r'|import\(|localStorage')
    assert not re.search(ways, program[0])

def test_a_home_that_runs_a_program(models):
    with pytest.raises(ValueError, match='must be the address of a page'):
        web_page(models['odd'], home='javascript:alert(1)')

# ---- what a reader sees and does ----

def test_worked_example_without_scripts(page, pages):
    context = page.chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((pages/'box.html').as_uri())
    assert tab.is_visible('#story') and tab.inner_text('#story').startswith('Once upon a time')
    assert 'Scripts are off' in tab.inner_text('main')
    assert tab.locator('#alternatives tr').count() >= 10 and tab.locator('.head').count() == 8
    assert 'grammatical' in tab.inner_text('#verdict')
    context.close()

def test_worked_example_is_taken_over(page, pages):
    "The page's program computes what Python wrote: text, colours, candidates and heads"
    context = page.chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((pages/'box.html').as_uri())
    places = '#story', '#alternatives', '#heads', '#detail-title'
    seen = [tab.inner_text(place) for place in places]
    colours = re.findall(r'<span class="(given|s\d)">', tab.content().split('id="story"')[1])
    context.close()
    open_page(page, (pages/'box.html').as_uri())
    assert [page.tab.inner_text(place) for place in places] == seen
    names = "[...document.querySelectorAll('#story .t > span')].map(e => e.className)"
    assert page.js(names) == colours
    assert page.errors == []

def test_write_and_stop(at):
    tab = at('box').tab
    tab.fill('#prompt', 'A little girl went to the woods')
    tab.fill('#seed', '1')
    tab.select_option('#pace', '30')
    tab.click('#write')
    until(tab, 'story.ids.length > story.first + 3')
    assert tab.is_disabled('#write')
    tab.click('#stop')
    until(tab, '!running')
    assert 'stopped' in tab.inner_text('#status') and tab.is_enabled('#write')
    n = tab.evaluate('story.ids.length')
    tab.select_option('#pace', '')
    tab.click('#write')
    until(tab, "!running && story.ended === 'end'")
    assert tab.evaluate('story.ids.length') > n
    assert 'the model ended the text' in tab.inner_text('#status')
    assert 'grammatical' in tab.inner_text('#verdict')
    assert tab.evaluate("$('story').textContent") == tab.evaluate('story.text')
    assert tab.evaluate("$('said').textContent") # what a screen reader says last
    assert tab.evaluate("story.text.endsWith($('said').textContent)")

def test_nothing_typed(at):
    tab = at('box').tab
    tab.fill('#prompt', '')
    tab.click('#write')
    until(tab, "!running && story.prompt === '' && story.ended")
    assert len(tab.evaluate('story.text')) > 50

def test_keyboard_alone(at):
    tab = at('box').tab
    tab.focus('#prompt')
    tab.keyboard.press('Tab')
    assert tab.evaluate('document.activeElement.id') == 'write'
    tab.keyboard.press('Enter')
    until(tab, "!running && story.ended")
    for _ in range(40):
        tab.keyboard.press('Tab')
        if tab.evaluate("document.activeElement.closest('#story') !== null"): break
    for _ in range(4): tab.keyboard.press('ArrowRight')
    tab.keyboard.press('Enter')
    here = tab.evaluate('[chosen.i, Number(document.activeElement.dataset.i)]')
    assert here[0] == here[1] > 2 and tab.is_visible('#detail')
    for _ in range(5):
        tab.keyboard.press('Tab')
        if tab.evaluate("document.activeElement.name === 'head'"): break
    tab.keyboard.press('Space')
    assert tab.evaluate("$('story').classList.contains('by-head')")
    shown = tab.evaluate("[...$('story').querySelectorAll('[data-i]')].map(e => e.dataset.w)")
    assert any(shown)
    tab.focus('#story [tabindex="0"]')
    tab.keyboard.press('Escape')
    assert tab.is_hidden('#detail') and not tab.evaluate("$('story').classList.contains('by-head')")

def test_small_form(page, pages):
    for end in ('#small', '?small'):
        open_page(page, (pages/'box.html').as_uri() + end)
        assert page.tab.is_visible('#prompt') and page.tab.is_visible('#write')
        assert page.tab.is_visible('#story') and page.tab.is_visible('#legend')
        assert page.tab.is_hidden('#temperature') and page.tab.is_hidden('header')
        assert page.tab.is_hidden('#detail')
    page.tab.select_option('#pace', '', force=True)

def test_nothing_failed_and_nothing_was_asked_for(at):
    tab = at('box')
    assert tab.errors == [] and all(u.startswith('file:') for u in tab.requests)
    assert len(tab.requests) == 1

# ---- axe-core: names, roles, contrast ----

@pytest.fixture(scope='module')
def axe():
    import build_docs
    if not shutil.which('npm'): pytest.skip('no npm here, and axe-core comes from there')
    build_docs.versions.setdefault('axe-core', '4.10.3')
    try: return build_docs.npm('axe-core', r'axe\.min\.js')['axe.min.js'].decode('utf-8')
    except SystemExit: pytest.skip('the npm registry cannot be reached')

def findings(page, where='html'):
    "What axe finds in a part of the page"
    return page.js(f"""axe.run('{where}').then(r => (
        r.violations.map(v => [v.id, v.impact, v.nodes[0].html])))""")

@pytest.mark.parametrize('width', [380, 1280])
@pytest.mark.parametrize('dark', [False, True], ids=['light', 'dark'])
def test_axe(width, dark, page, pages, axe):
    page.view(width, phone=width < 600, dark=dark)
    open_page(page, (pages/'box.html').as_uri())
    page.js("document.querySelector('details').open = true")
    assert page.js('document.documentElement.scrollWidth') <= width
    # axe looks at every token, and fifty show all that it can find
    page.js("[...document.querySelectorAll('#story [data-i]')].slice(50).forEach(e => e.remove())")
    page.js(axe + ';0')
    assert findings(page) == []
    if dark == (width < 600): # shaded by a head's weights
        page.js("document.querySelector('#heads input').click()")
        assert page.js("$('story').classList.contains('by-head')")
        assert findings(page, '#story') == []
    else:
        page.js("document.body.classList.add('small')")
        assert findings(page) == []
