// What the page shows. All text is set as text (`textContent`), never as HTML.
'use strict';

const NARROW = '(max-width: 44rem)'; // a phone
const $ = id => document.getElementById(id);
const data = JSON.parse($('data').textContent); // what Python computed for this page
let model = null, checker = null, story = null; // the story on the screen
let running = false, stopped = false, chosen = null; // chosen: {i, look} of a token clicked on

function make(tag, text = '', attributes = {}) { // an element
  const e = document.createElement(tag);
  e.textContent = text;
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  return e;
}

const percent = p => p < .0005 ? 'under 0.1%' : `${(100 * p).toFixed(p < .0995 ? 1 : 0)}%`;
const bits = p => Math.max(0, -Math.log2(p));
const level = p => data.levels.filter(limit => bits(p) >= limit).length; // of surprise: 0 … 4
const named = text => text.replace(/ /g, '␣').replace(/\n/g, '↵') || 'part of a character';
const nameOf = id => id === model.tokenizer.eot ? 'end of text' : named(model.tokenizer.text(id));

// ---- the story, token by token ----

function tokenElement(i) {
  const text = story.texts[i], p = story.probs[i], isEnd = story.ids[i] === model.tokenizer.eot;
  const [, space, word] = /^( ?)(.*)$/s.exec(text); // the space before a word has no colour
  const e = make('span', space, {class: 't', tabindex: i === 1 ? 0 : -1, 'data-i': i});
  e.append(make('span', word, {class: p === null ? 'given' : `s${level(p)}`}));
  e.title = p === null ? 'given' : `${percent(p)} · ${bits(p).toFixed(1)} bits`;
  if (i > 0) e.setAttribute('role', 'button');
  if (isEnd) e.classList.add(i ? 'end' : 'start');
  if (isEnd && !i) e.setAttribute('aria-hidden', 'true');
  if (!text.trim()) e.setAttribute('aria-label', isEnd ? 'end of text' : named(text));
  if (text === '\n') e.classList.add('newline');
  return e;
}

function showStory() {
  const before = {class: 'given', title: `${story.cut} tokens that the model does not see`};
  const cut = story.cut ? make('span', '… ', before) : '';
  $('story').replaceChildren(cut, ...story.ids.map((_, i) => tokenElement(i)));
  closeToken();
}

const tokenAt = i => $('story').querySelector(`[data-i="${i}"]`);

function showVerdict() {
  $('verdict').replaceChildren();
  if (!checker) return;
  const report = checker.check(story.text);
  const lines = checker.verdict(report).map(([what, ok]) => (
    make('li', `${what}: ${ok ? 'yes' : 'no'}`, {class: ok ? 'yes' : 'no'})));
  const problems = report.problems.map(([what, where]) => (
    make('li', `${what}: “${where}”`, {class: 'no'})));
  $('verdict').append(make('h3', 'The checker reads it'), make('ul'));
  $('verdict').lastChild.append(...lines, ...problems);
}

// ---- a token that was clicked on ----

function openToken(i) {
  if (!story || i < 1 || i >= story.ids.length) return;
  closeToken();
  chosen = {i, look: story.look(i)};
  tokenAt(i).classList.add('chosen');
  tokenAt(i).setAttribute('aria-pressed', 'true');
  tokenAt(i - 1).classList.add('reader');
  $('detail-title').textContent = `What else might have come instead of “${nameOf(story.ids[i])}”`;
  showAlternatives(i, chosen.look.logits);
  showHeads(chosen.look);
  $('detail').hidden = false;
}

function closeToken() {
  chosen = null;
  $('detail').hidden = true;
  $('story').classList.remove('by-head');
  for (const e of $('story').querySelectorAll('.chosen, .reader')) {
    e.classList.remove('chosen', 'reader');
    e.removeAttribute('aria-pressed');
  }
}

function showAlternatives(i, logits) {
  const probs = softmax(new Float64Array(logits)), id = story.ids[i], best = largest(probs, 10);
  if (!best.includes(id)) best.push(id);
  const seen = new Set(story.ids.slice(0, i)), {eot} = model.tokenizer;
  const kept = i < story.first ? best : choose(logits, story.knobs, .5, seen, eot).kept();
  const rows = best.map(other => {
    const row = make('tr'), bar = make('span', '', {class: 'bar'}), cell = make('td');
    bar.style.width = `${100 * probs[other]}%`;
    cell.append(bar);
    const dropped = kept.includes(other) ? '' : 'the knobs drop it';
    const notes = [other === id ? '← it came' : '', dropped];
    row.append(make('th', nameOf(other), {scope: 'row'}), cell, make('td', percent(probs[other])),
      make('td', notes.filter(n => n).join(', ')));
    if (other === id) row.className = 'came';
    return row;
  });
  $('alternatives').replaceChildren(...rows);
}

function showHeads({looks, from}) {
  const heads = model.config.n_heads;
  const cells = looks.map((weights, n) => {
    const cell = make('label', '', {class: 'head'});
    const most = largest(new Float64Array(weights), 3);
    const words = most.map(j => `${storyName(from + j)} ${percent(weights[j])}`);
    const name = `layer ${Math.floor(n / heads) + 1}, head ${n % heads + 1}`;
    cell.append(make('input', '', {type: 'radio', name: 'head', value: n}), make('b', name),
      make('span', words.join(' · ')));
    return cell;
  });
  $('heads').replaceChildren(...cells);
}

const storyName = i => i ? named(story.texts[i]) : 'start';

function shade(n) { // the story's tokens, by the weights of one head
  const {looks, from} = chosen.look, weights = looks[n];
  $('story').classList.add('by-head');
  for (const e of $('story').querySelectorAll('[data-i]')) {
    const w = weights[Number(e.dataset.i) - from] || 0;
    e.style.setProperty('--w', `${Math.round(60 * Math.sqrt(w))}%`);
    e.dataset.w = w >= .005 ? percent(w) : '';
  }
}

// ---- writing ----

function readKnobs() { // as Python's `generate` takes them; an empty field is None
  const value = name => $(name).value.trim() === '' ? null : Number($(name).value);
  const names = ['temperature', 'top_k', 'top_p', 'min_p', 'repetition_penalty', 'max_new_tokens',
    'seed'];
  return Object.fromEntries(names.map(name => [name, value(name)]));
}

function begin(prompt, knobs) { // → a `Story`, or Python's sentence for wrong knobs
  const problem = knobProblems(knobs, data.limits);
  if (problem) throw new Error(problem);
  const seed = knobs.seed ?? Math.floor(Math.random() * 2 ** 53);
  return new Story(model, prompt, {...knobs, seed});
}

const pause = ms => new Promise(done => setTimeout(done, ms));

async function write() {
  $('problem').textContent = '';
  try { story = begin($('prompt').value, readKnobs()); }
  catch (e) { $('problem').textContent = e.message; return; }
  $('problem').textContent = story.warning;
  $('story-title').textContent = 'The story';
  $('verdict').replaceChildren();
  showStory();
  setRunning(true);
  let busy = 0, slice = performance.now(), said = story.first;
  try {
    for (const steps = story.write(); !stopped;) {
      const began = performance.now(), {value, done} = steps.next();
      busy += performance.now() - began;
      if (done) break;
      if (value !== null) $('story').append(tokenElement(story.ids.length - 1));
      const wait = value !== null && $('pace').value ? 1000 / Number($('pace').value) : 0;
      if (wait || performance.now() - slice > 20) { // let the page breathe
        said = say(said, false);
        showProgress(busy);
        await pause(wait);
        slice = performance.now();
      }
    }
  } catch (e) { $('problem').textContent = e.message; }
  setRunning(false);
  say(said, true);
  showProgress(busy);
  showVerdict();
}

// For screen readers: whole sentences, not every token.
function say(from, all) {
  const fresh = story.texts.slice(from).join('');
  if (!fresh || !all && (!/[.!?]["”]?\s*$/.test(fresh) || fresh.length < 60)) return from;
  $('said').textContent = fresh;
  return story.texts.length;
}

function showProgress(busy) { // milliseconds of computing
  const n = story.ids.length - story.first, ends = {end: 'the model ended the text',
    length: 'the limit of new tokens is reached', '': running ? 'writing' : 'stopped'};
  const total = story.probs.slice(story.first).reduce((sum, p) => sum + bits(p), 0);
  const rate = `${Math.round(1000 * n / Math.max(busy, 1))} tokens a second of computing`;
  const mean = n ? `${(total / n).toFixed(2)} bits a token` : '';
  const words = [`${n} tokens`, mean, rate, ends[story.ended]];
  $('status').textContent = words.filter(s => s).join(' · ');
}

function setRunning(now) {
  running = now;
  stopped = false;
  $('write').disabled = now;
  $('stop').disabled = !now;
  if (!now && document.activeElement === document.body) $('write').focus();
}

// ---- the start: the worked example is on the screen; the model is read behind it ----

function retell(example) { // the worked example, from its ids
  const knobs = {...readKnobs(), ...example.knobs};
  story = new Story(model, example.prompt, knobs);
  example.tokens.forEach((id, n) => story.add(id, Math.exp(example.log_probs[n]), 0));
  showStory();
  openToken(example.chosen);
}

function load() {
  try { model = new Model(asBytes(atob($('model').textContent))); }
  catch (e) {
    $('problem').textContent = e.name === 'InvalidCharacterError'
      ? 'the model in this page is not a whole safetensors file (its base64 is damaged): '
        + 'copy or download it again'
      : e.message;
    $('status').textContent = 'The worked example below was written by Python.';
    return;
  }
  if (data.checker) checker = new Checker(data.checker);
  retell(data.example);
  $('write').disabled = false;
  $('status').textContent = 'Ready.';
}

function listen() {
  $('form').addEventListener('submit', e => {
    e.preventDefault();
    if (model && !running) write();
  });
  $('stop').addEventListener('click', () => { stopped = true; });
  $('form').addEventListener('input', e => {
    const shown = document.querySelector(`output[for="${e.target.id}"]`);
    if (shown) shown.textContent = e.target.value;
  });
  $('heads').addEventListener('change', e => shade(Number(e.target.value)));
  $('surprise').addEventListener('click', () => {
    $('story').classList.remove('by-head');
    for (const input of $('heads').querySelectorAll('input')) input.checked = false;
  });
  $('story').addEventListener('click', e => {
    const token = e.target.closest('[role=button]');
    if (!token) return;
    focusToken(Number(token.dataset.i), true);
    if (matchMedia(NARROW).matches) $('detail').scrollIntoView({block: 'nearest'});
  });
  $('story').addEventListener('keydown', moveFocus);
}

function focusToken(i, open) {
  const token = tokenAt(i);
  if (!token) return;
  $('story').querySelector('[tabindex="0"]').tabIndex = -1; // one stop for Tab in all the story
  token.tabIndex = 0;
  token.focus();
  if (open) openToken(i);
}

function moveFocus(e) { // arrows walk along the story, Enter opens a token, Escape closes it
  const all = story ? story.ids.length : 0, now = Number(document.activeElement.dataset.i || 0);
  const to = {ArrowRight: now + 1, ArrowLeft: now - 1, Home: 1, End: all - 1}[e.key];
  if (to !== undefined) focusToken(Math.min(Math.max(1, to), all - 1), false);
  else if (e.key === 'Enter' || e.key === ' ') openToken(now || 1);
  else if (e.key === 'Escape') closeToken();
  else return;
  e.preventDefault();
}

if (matchMedia(NARROW).matches) document.querySelector('details').open = false;
const chooseSize = () => {
  document.body.classList.toggle('small', /[?#&]small\b/.test(location.search + location.hash));
};
window.addEventListener('hashchange', chooseSize);
chooseSize();
$('status').textContent = 'The model is being read …';
listen();
setTimeout(load, 0); // after the worked example is drawn
