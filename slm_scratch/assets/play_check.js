// The checker of the tales: it reads a story back, sentence by sentence, with the grammar that
// Python wrote into the page, and keeps account of names and pronouns (engine/tales does the same).
'use strict';

const BORDER = /(?<=[\p{L}\p{N}_])(?![\p{L}\p{N}_])|(?<![\p{L}\p{N}_])(?=[\p{L}\p{N}_])/u;
const AN = /(?<![\p{L}\p{N}_])([Aa])n (?=[aeiouAEIOU{])/gu;
const A = /(?<![\p{L}\p{N}_])([Aa]) (?=[aeiouAEIOU])/gu;
const capital = s => s.slice(0, 1).toUpperCase() + s.slice(1);
const stripArticles = s => s.replace(/[“”]/g, '"').replace(AN, '$1 ');
const fixArticles = s => s.replace(A, '$1n ');
const SWAP = {he: ['she'], she: ['he'], him: ['her'], his: ['her'], her: ['his', 'him']};

function sentences(text) { // → its finished sentences, and what is left over
  const parts = text.trim().split(/(?<=[.!?])\s+|(?<=[.!?]")\s+/), last = parts[parts.length - 1];
  return /[.!?]"?$/.test(last) ? [parts, ''] : [parts.slice(0, -1), last];
}

class Checker {
  constructor({rules, values, implied, units}) {
    Object.assign(this, {rules, values, units}); // in templates a slot is [name, capital?]
    this.implied = new Map(implied.map(([name, value, facts]) => [`${name}=${value}`, facts]));
  }

  * beginnings([name, upper], seen) { // each way to fill a slot: text, what follows, facts named
    const facts = this.values[name];
    const option = o => typeof o[0] === 'string' ? [o[0], o.slice(1), seen] : ['', o, seen];
    const ways = facts ? facts.map(v => [v, [], [...seen, [name, v]]])
      : this.rules[name].map(option);
    for (const [text, [next, ...rest], named] of ways) {
      if (upper && !text) yield ['', [[next[0], true], ...rest], named]; // goes to the first slot
      else {
        const more = next === undefined ? [] : [next, ...rest];
        yield [upper ? capital(text) : text, more, named];
      }
    }
  }

  * match(parts, text, at, seen) { // each way to read the template from text[at:]
    if (!parts.length) { yield [at, seen]; return; }
    const [first, ...rest] = parts;
    const ways = typeof first === 'string' ? [[first, [], seen]] : this.beginnings(first, seen);
    for (const [literal, more, named] of ways) {
      if (!text.startsWith(literal, at)) continue;
      yield* this.match([...more, ...rest], text, at + literal.length, named);
    }
  }

  parses(sentence) { // each way in which the grammar can write it, with any facts
    const raw = stripArticles(sentence), found = [];
    if (fixArticles(raw) !== sentence) return found;
    for (const [step, parts] of this.units) {
      if (!inOrder(raw, parts)) continue;
      for (const [at, seen] of this.match(parts, raw, 0, [])) {
        if (at === raw.length) found.push({seen, step});
      }
    }
    return found;
  }

  conflicts(known, seen) { // → [[what, how many conclusions disagree]], facts known afterwards
    const found = [];
    known = {...known};
    for (const [name, value] of seen) {
      const facts = this.implied.get(`${name}=${value}`);
      const wrong = Object.keys(facts).filter(k => k in known && known[k] !== facts[k]);
      const who = wrong.includes('pronoun') || wrong.includes('other') ? 'pronoun' : name;
      if (!wrong.length) Object.assign(known, facts);
      else found.push([name === 'hero' || name === 'friend' ? 'name' : who, wrong.length]);
    }
    return [found, known];
  }

  bestParse(known, sentence) { // the one that agrees best with what is known
    const cost = p => this.conflicts(known, p.seen)[0].reduce((sum, [, n]) => sum + n, 0);
    const order = (a, b) => cost(a) - cost(b) || comparePairs(a.seen, b.seen)
      || (a.step < b.step ? -1 : 1);
    return this.parses(sentence).sort(order)[0];
  }

  diagnose(known, sentence) { // what may be wrong with a sentence that the grammar cannot write
    const words = sentence.split(BORDER), found = [];
    const stranger = w => this.values.hero.includes(w) && w !== known.hero && w !== known.friend;
    if ('friend' in known && words.some(stranger)) found.push(['name', sentence]);
    const swapped = words.flatMap((w, i) => (SWAP[w.toLowerCase()] || []).map(other => (
      words.with(i, w[0] === w[0].toLowerCase() ? other : capital(other)).join(''))));
    const fits = p => p && !this.conflicts(known, p.seen)[0].length;
    if (swapped.some(s => fits(this.bestParse(known, s)))) found.push(['pronoun', sentence]);
    return found;
  }

  check(text) { // → the verdict
    const [done, rest] = sentences(text), problems = [];
    let facts = {}, parsed = 0, objects = 0, last = null;
    for (const s of done) {
      const parse = this.bestParse(facts, s);
      last = parse ? parse.step : null;
      if (!parse) { problems.push(['sentence', s], ...this.diagnose(facts, s)); continue; }
      const [wrong, known] = this.conflicts(facts, parse.seen);
      facts = known;
      problems.push(...wrong.map(([what]) => [what, s]));
      parsed++;
      objects += parse.seen.some(([name]) => name === 'object');
    }
    const fine = what => problems.every(([kind]) => kind !== what);
    return {sentences: done.length, parsed, hero: facts.hero ?? null, problems,
      grammatical: parsed === done.length && parsed > 0,
      keeps_name: 'hero' in facts && fine('name'),
      keeps_pronoun: 'pronoun' in facts && fine('pronoun'),
      object_returns: objects > 1 && fine('object'), ends: last === 'end' && !rest};
  }

  verdict(r) { // → [what, is it so?]
    return [[`grammatical, ${r.parsed} of ${r.sentences} sentences`, r.grammatical],
      [`the hero keeps the name${r.hero ? ` ${r.hero}` : ''}`, r.keeps_name],
      ['the pronouns stay', r.keeps_pronoun], ['the object comes back', r.object_returns],
      ['the story comes to its end', r.ends]];
  }
}

function comparePairs(a, b) { // the facts named, in the order of Python's tuples
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    for (const n of [0, 1]) if (a[i][n] !== b[i][n]) return a[i][n] < b[i][n] ? -1 : 1;
  }
  return a.length - b.length;
}

function inOrder(text, parts) { // do the literals come one after the other? Quick, rules most out
  let at = 0;
  for (const p of parts) {
    if (typeof p !== 'string') continue;
    at = text.indexOf(p, at);
    if (at < 0) return false;
    at += p.length;
  }
  return true;
}
