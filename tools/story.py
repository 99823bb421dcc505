"""Draw `images/story.svg`: the model in the box writes, token by token; the color of a token is its
surprise, and beside it stands what might have come instead. It moves without a script."""
import argparse, html, math
from dataclasses import dataclass
from pathlib import Path
from project import root

prompt, options = 'Once upon a time', dict(temperature=.8, seed=6, max_new_tokens=75)
letter, line_height, columns = 9.6, 30, 61 # of the story, in pixels; letters a line
step = .28 # seconds a token

@dataclass
class Token:
    "A token as it was written"
    text:str
    bits:float # its surprise; the prompt has none
    others:list # what might have come: (text, probability), the likeliest first

def written(model):
    "The prompt, then each token up to the last full sentence"
    said = model.generate(prompt, log_probs=True, **options)
    tokens, so_far = [], prompt
    for i,p in zip(said.tokens, said.log_probs):
        piece = model.tokenizer.decode([i])
        tokens.append(Token(piece, -p/math.log(2), model.next_tokens(so_far, 5)))
        so_far += piece
    ends = [i for i,t in enumerate(tokens) if t.text == '.']
    return [Token(prompt, 0., []), *tokens[:ends[-1] + 1]]

def words(tokens):
    "The places of the tokens in lists, a list for each word: a word is not broken between lines"
    out = []
    for i,t in enumerate(tokens):
        if out and not t.text[:1].isspace(): out[-1].append(i)
        else: out.append([i])
    return out

def places(tokens):
    "Column and line of each token"
    out, x, y = [], 0, 0
    for word in words(tokens):
        length = len(''.join(tokens[i].text for i in word).rstrip())
        if x + length > columns or tokens[word[0]].text.startswith('\n'): x, y = 0, y + 1
        for i in word:
            out.append((x, y))
            shown = tokens[i].text.lstrip() if x == 0 else tokens[i].text
            x += len(shown.strip('\n'))
    return out

def drawn(t, i, x, y):
    "A token: its letters upon its color"
    shown = t.text.lstrip() if x == 0 else t.text
    lead = len(shown) - len(shown.lstrip())
    shown = shown.strip()
    left, width = 26 + letter*(x + lead), letter*len(shown)
    glow = min(t.bits/6, 1)
    return (f'<g class="t" style="--i:{i}" data-bits="{t.bits:.2f}">'
            f'<rect x="{left-1:.1f}" y="{46+line_height*y-17}" width="{width+2:.1f}" height="24" '
            f'rx="4" opacity="{glow:.2f}"/><text x="{left:.1f}" y="{46+line_height*y}" '
            f'textLength="{width:.1f}">{html.escape(shown)}</text></g>')

def panel(t, i, is_last, below):
    "What might have come in the place of token `i`, drawn from the height `below` on"
    rows = list(t.others)
    if t.text not in [s for s,_ in rows]: rows[-1] = (t.text, 2**-t.bits)
    top, out = max(p for _,p in rows), []
    for k,(s,p) in enumerate(rows):
        y, kind = below + 25*k, ' class="chosen"' if s == t.text else ''
        label = html.escape(s.strip() or '¶')
        out.append(f'<text x="176" y="{y+13}" text-anchor="end"{kind}>{label}</text>'
                   f'<rect x="186" y="{y}" width="{max(2, 340*p/top):.0f}" height="17" '
                   f'rx="3"{kind}/>'
                   f'<text x="{194+340*p/top:.0f}" y="{y+13}" class="s">{100*p:.0f}%</text>')
    last = ' last' if is_last else ''
    return f'<g class="p{last}" style="--i:{i}">{"".join(out)}</g>'

look = '''
svg{--page:#fffdf6;--ink:#23262d;--soft:#5d6470;--glow:#ffb84d;--bar:#a9c6de;--chosen:#c2600c}
@media(prefers-color-scheme:dark){svg{--page:#191c22;--ink:#e3e5ea;--soft:#a2a9b4;--glow:#8a5510;
--bar:#3c5f7d;--chosen:#f0a35a}}
.card{fill:var(--page);stroke:#8884}text{fill:var(--ink);font:16px ui-monospace,
SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}.t rect{fill:var(--glow)}
.p{opacity:0}.p.last{opacity:1}
.p rect{fill:var(--bar)}.p rect.chosen{fill:var(--chosen)}.p text.chosen{fill:var(--chosen);
font-weight:600}.p text,.s{font-size:14px}.s{fill:var(--soft)}.key rect{fill:var(--glow)}
@media(prefers-reduced-motion:no-preference){
.t{animation:in .1s calc(var(--i)*STEPs) both}.p{animation:at STEPs calc(var(--i)*STEPs)}
.p.last{animation:in .1s calc(var(--i)*STEPs) both}}
@keyframes in{from{opacity:0}to{opacity:1}}@keyframes at{from,to{opacity:1}}'''

def picture(tokens):
    "The whole drawing"
    at = places(tokens)
    below = 46 + line_height*at[-1][1] + 74 # the story
    height = below + 5*25 + 20
    body = ''.join(drawn(t, i, *xy) for i,(t,xy) in enumerate(zip(tokens, at)))
    last = len(tokens) - 1
    body += ''.join(panel(t, i, i == last, below) for i,t in enumerate(tokens) if i)
    key = ''.join(f'<rect x="{388+14*k}" y="{below-39}" width="13" height="13" rx="2" '
                  f'opacity="{k/6:.2f}"/>' for k in range(7))
    words = f'{prompt}: {len(tokens) - 1} tokens by the model in the box, with their surprise'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" width="640" '
            f'height="{height}" role="img" aria-label="{html.escape(words)}">'
            f'<style>{look.replace("STEP", f"{step:g}")}</style>'
            f'<rect class="card" x=".5" y=".5" width="639" height="{height-1}" rx="10"/>'
            f'<path d="M24 {below-52}H616" stroke="#8884"/>'
            f'<text x="26" y="{below-28}" class="s">what might come next</text>{body}'
            f'<g class="key"><text x="288" y="{below-28}" class="s">surprise: 0</text>{key}'
            f'<text x="492" y="{below-28}" class="s">6 bits or more</text></g></svg>\n')

def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('--out', type=Path, default=root/'images'/'story.svg')
    args = ap.parse_args()
    from slm_scratch import SmallLanguageModel
    model = SmallLanguageModel.from_pretrained('tales-tiny')
    args.out.write_text(picture(written(model)), encoding='utf-8')
    print(args.out)

if __name__ == '__main__': main()
