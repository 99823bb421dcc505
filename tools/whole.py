"""The first page's picture of the whole: six steps from a text to a story, drawn with the numbers
of the model in the box, each the door to its lesson."""
import html, math, re
from project import cfg, nbs_dir, read_cells, text

sentence = 'The little fox lost her'
esc = html.escape

def svg(w, h, inside, label):
    "A drawing in the colours of the page"
    return (f'<svg viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
            f'aria-label="{esc(label)}">{inside}</svg>')

def letters(x, y, s, kind='', anchor='start'):
    "A line of text at (x, y)"
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{esc(s)}</text>'

def chips(pieces, ids):
    "Text in its tokens, with the number of each below"
    out, x, y = [], 4, 22
    for piece,i in zip(pieces, ids):
        w = max(8*len(piece) + 8, 9*len(str(i)) + 4)
        if x + w > 212: x, y = 4, y + 46
        out.append(f'<rect x="{x}" y="{y-15}" width="{w}" height="21" rx="4" class="chip"/>')
        out.append(letters(x + w/2, y, piece.replace(' ', '␣'), 'mono', 'middle'))
        out.append(letters(x + w/2, y + 20, str(i), 'small mono', 'middle'))
        x += w + 4
    return svg(216, 124, ''.join(out), 'A sentence cut into tokens, and the number of each')

def shifted(pieces):
    "The stream and itself, shifted by one: what stands below is to be predicted"
    out = []
    for i,(x,y) in enumerate(zip(pieces[-5:], pieces[-4:] + ['?'])):
        at = 22 + 43*i
        out.append(letters(at, 34, x.strip(), 'mono tight', 'middle'))
        out.append(f'<path d="M{at} 42v34m-4-5l4 5l4-5" class="arrow"/>')
        out.append(letters(at, 94, y.strip(), 'mono tight strong', 'middle'))
    out.append(letters(108, 12, 'what it reads', 'small', 'middle'))
    out.append(letters(108, 116, 'what it should say', 'small', 'middle'))
    return svg(216, 124, ''.join(out), 'Each token predicts the one after it')

def triangle(weights, names):
    "Who looks at whom: a row for each token, darker where it looks more"
    n, out = len(names), []
    side = 108//n
    for i in range(n):
        out.append(letters(76, 16 + side*i + side/2, names[i].strip(), 'small mono', 'end'))
        for j in range(i + 1):
            shade = .08 + .92*float(weights[i][j])
            out.append(f'<rect x="{82+side*j}" y="{8+side*i}" width="{side-2}" '
                       f'height="{side-2}" rx="2" class="cell" opacity="{shade:.2f}"/>')
    return svg(216, 124, ''.join(out), 'Each token looks at those before it: weights of one head')

def tower(config, n_parameters):
    "The blocks on the stream, and what the model weighs"
    out = ['<path d="M60 120V4m-4 5l4-5l4 5" class="stream"/>']
    for i in range(config.n_layers):
        y = 86 - 40*i
        out.append(f'<rect x="20" y="{y}" width="80" height="28" rx="5" class="block"/>')
        out.append(letters(60, y + 18, f'block {i+1}', 'small', 'middle'))
    facts = [f'{n_parameters:,}', 'weights', f'{config.n_heads} heads a block',
             f'{config.d_model} channels']
    out += [letters(114, 34 + 19*i, s, 'strong' if not i else 'small') for i,s in enumerate(facts)]
    return svg(216, 124, ''.join(out), f'{config.n_layers} blocks, {n_parameters:,} weights')

def curve(points):
    "The loss of the run that the guide shows: (step, loss) as it printed them"
    last = points[-1][0]
    at = [(28 + 176*step/last, 104 - 88*loss/points[0][1]) for step,loss in points]
    line = ' '.join(f'{x:.1f},{y:.1f}' for x,y in at)
    out = ['<path d="M28 8V104H208" class="axis"/>', f'<polyline points="{line}" class="curve"/>']
    out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="dot"/>' for x,y in at]
    x, y = at[-1]
    out.append(letters(x, y - 10, f'{points[-1][1]:.2f}', 'small', 'end'))
    out.append(letters(36, 18, f'loss {points[0][1]:.1f}', 'small'))
    out.append(letters(208, 120, f'{last:,} steps', 'small', 'end'))
    return svg(216, 124, ''.join(out), 'The loss falls while the model learns')

def bars(candidates):
    "The likeliest next tokens"
    out, top = [], candidates[0][1]
    for i,(piece,p) in enumerate(candidates):
        y = 10 + 23*i
        out.append(letters(90, y + 11, piece.strip(), 'mono', 'end'))
        out.append(f'<rect x="96" y="{y}" width="{80*p/top:.1f}" height="14" rx="3" '
                   f'class="{"bar first" if not i else "bar"}"/>')
        out.append(letters(100 + 80*p/top, y + 11, f'{100*p:.0f}%', 'small'))
    return svg(216, 124, ''.join(out), f'What may follow “{sentence}”')

def printed_losses():
    "(step, loss) that the run of the guide *five minutes* printed, begun where guessing is"
    cells = read_cells(nbs_dir/'guides'/'five_minutes.ipynb')
    said = '\n'.join(text(o.get('text', '')) for c in cells for o in c.get('outputs', []))
    found = re.findall(r'(\d+)/\d+ \[.*?loss ([\d.]+)', said)
    vocabulary = int(re.search(r'vocabulary of ([\d,]+) tokens', said)[1].replace(',', ''))
    return [(0, math.log(vocabulary)), *((int(a), float(b)) for a,b in found)]

def clearest_head(maps):
    "Of the heads (L, H, T, T), the one whose last token looks most at one other than the first"
    last = maps[:, :, -1, 1:-1].amax(-1)
    layer, head = divmod(int(last.argmax()), maps.shape[1])
    return maps[layer, head]

def drawings():
    "A drawing for each lesson, by the name of its page"
    from slm_scratch import SmallLanguageModel
    from slm_scratch.engine.sizes import count_parameters
    model = SmallLanguageModel.from_pretrained('tales-tiny')
    tok, ids = model.tokenizer, model.tokenizer.encode(sentence)
    pieces = [tok.decode([i]) for i in ids]
    names, maps = model.attention_maps(sentence, start=False)
    n = count_parameters(model.config)['total']
    return dict(tokenizer=chips(pieces, ids), data=shifted(pieces),
                attention=triangle(clearest_head(maps).tolist(), names),
                model=tower(model.config, n), train=curve(printed_losses()),
                generate=bars(model.next_tokens(sentence, 5)))

steps = dict(tokenizer='Text becomes tokens', data='Tokens become examples',
             attention='Tokens look at each other', model='Blocks make a model',
             train='The model learns', generate='The model speaks')

def card(page, drawing):
    "The door to a lesson"
    n = len(page.exercises)
    facts = f'{round(page.minutes/5)*5} min · {n} exercises'
    return (f'<li><a href="{page.name}.html" data-page="{page.name}" data-exercises="{n}">'
            f'<span class="step">{steps[page.name]}</span>{drawing}'
            f'<b>{esc(page.title)}</b><small>{esc(page.promise)}</small>'
            f'<small class="facts">{facts}</small></a></li>')

def guide(page):
    return (f'<li><a href="{page.name}.html" data-page="{page.name}"><b>{esc(page.title)}</b>'
            f'<small>{esc(page.promise)}</small></a></li>')

def front_page(pages):
    "What fills the template of the first page"
    by_name, pictures = {p.name: p for p in pages}, drawings()
    colab = 'https://colab.research.google.com/github'
    index = f"{colab}/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}"
    minutes = sum(p.minutes for p in pages if p.shelf == 'lesson')
    return dict(
        promise=esc(pages[0].promise),
        colab=f"{index}/{cfg['nbs_path']}/00_tokenizer.ipynb",
        hours=f'{minutes/60:.0f}',
        exercises=str(sum(len(p.exercises) for p in pages)),
        rooms=str(sum(p.shelf == 'room' for p in pages)),
        steps=''.join(card(by_name[n], pictures[n]) for n in steps),
        guides=''.join(guide(p) for p in pages if p.shelf == 'guide'))
