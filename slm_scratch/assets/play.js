// A language model in plain JavaScript: lessons 00 to 05 of slm-scratch, told a seventh time.
// Greedy text and probabilities are Python's; what is drawn by chance is not, since Python's
// random numbers come from another generator. Nothing is loaded: all of it is in this page.
'use strict';

// ---- 00 · Tokenizer: text to ids and back ----

// GPT-2's pattern. Its \s is Unicode's White_Space; the \s of JavaScript is another set.
const PIECE = new RegExp([/'(?:[sdmt]|ll|ve|re)/, / ?\p{L}+/, / ?\p{N}+/,
  / ?[^\p{White_Space}\p{L}\p{N}]+/, /\p{White_Space}+(?!\P{White_Space})/, /\p{White_Space}/]
  .map(r => r.source).join('|'), 'gu');
const utf8 = new TextEncoder();
const streamDecoder = () => new TextDecoder('utf-8', {ignoreBOM: true}); // keeps half a character
const asBytes = s => Uint8Array.from(s, c => c.charCodeAt(0)); // a string with a byte a character

class Tokenizer {
  constructor(parts, vocabSize) { // what Python's `to_dict` gives; rows of the model
    this.tokens = new Array(vocabSize).fill(null); // id → bytes; null: an id without a token
    this.ranks = new Map(); // token, with a character a byte → id
    this.pieces = new Map(); // pieces encoded before
    for (const line of parts.ranks.split('\n').filter(l => l)) {
      const [token, rank] = line.split(' ');
      this.ranks.set(atob(token), Number(rank));
      this.tokens[rank] = asBytes(atob(token));
    }
    for (const [text, id] of Object.entries(parts.special)) this.tokens[id] = utf8.encode(text);
    this.eot = parts.special['<|endoftext|>'];
    this.unused = [...this.tokens.keys()].filter(id => !this.tokens[id]);
  }

  encode(text) { // → ids
    return (wellFormed(text).match(PIECE) || []).flatMap(piece => this.encodePiece(piece));
  }

  encodePiece(piece) {
    let ids = this.pieces.get(piece);
    if (!ids) {
      const letters = Array.from(utf8.encode(piece), b => String.fromCharCode(b));
      ids = mergeAll(letters, this.ranks).map(token => this.ranks.get(token));
      this.pieces.set(piece, ids);
    }
    return ids;
  }

  bytes(id) { return this.tokens[id] || utf8.encode('\ufffd'); }
  text(id) { return streamDecoder().decode(this.bytes(id)); }
}

// Half a character (a surrogate without its partner) becomes U+FFFD, as in Python.
function wellFormed(text) { return text.replace(/\p{Surrogate}/gu, '\ufffd'); }

// Join the neighbours whose union has the lowest rank, wherever they stand, until none is a token.
function mergeAll(parts, ranks) {
  while (parts.length > 1) {
    let lowest = Infinity, pair = 0;
    for (let i = 1; i < parts.length; i++) {
      const rank = ranks.get(parts[i - 1] + parts[i]);
      if (rank < lowest) { lowest = rank; pair = i; }
    }
    if (!pair) break;
    const left = parts[pair - 1], right = parts[pair], joined = [];
    for (let i = 0; i < parts.length; i++) {
      const here = parts[i] === left && parts[i + 1] === right;
      joined.push(here ? left + right : parts[i]);
      if (here) i++;
    }
    parts = joined;
  }
  return parts;
}

// ---- the file: safetensors, int8 to float32 ----

// Eight bytes say how long the header is; it says where each tensor lies; the numbers follow.
function readSafetensors(bytes) { // → tensors by name, and the words that go with them
  const bad = why => new Error(`the model in this page is not a whole safetensors file (${why}): `
    + 'copy or download it again');
  if (bytes.length < 8) throw bad('no header');
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  if (length > bytes.length - 8) throw bad('its header is cut off');
  let header;
  try { header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))); }
  catch { throw bad('its header is not JSON'); }
  const {__metadata__: about, ...places} = header, tensors = {};
  const kinds = {I8: Int8Array, F32: Float32Array};
  for (const [name, {dtype, shape, data_offsets: [start, end]}] of Object.entries(places)) {
    const kind = kinds[dtype], size = shape.reduce((a, b) => a * b, 1);
    const fits = kind && end - start === size * kind.BYTES_PER_ELEMENT;
    if (!fits) throw bad(`${name} has another size`);
    if (8 + length + end > bytes.length) throw bad(`${name} is cut off`);
    tensors[name] = new kind(bytes.slice(8 + length + start, 8 + length + end).buffer);
  }
  if (!about || !about.slm_scratch) throw bad('no config');
  return {tensors, about: JSON.parse(about.slm_scratch)};
}

// A row of a matrix is stored as whole numbers from -127 to 127 and one scale.
function widen(whole, scale) { // int8 (N·K,), float32 (N,) → float32 (N·K,)
  const wide = new Float32Array(whole.length), width = whole.length / scale.length;
  for (let i = 0; i < whole.length; i++) wide[i] = whole[i] * scale[Math.floor(i / width)];
  return wide;
}

// ---- 03 · Model: the parts of a block ----

// y = W x + b, the only loop that takes time: four rows of W at once, so that x is read once.
function linear(x, weight, bias, y) { // x (K,), W (N·K,), b (N,) or undefined, y (N,)
  const K = x.length, N = y.length;
  let n = 0;
  for (; n + 3 < N; n += 4) {
    let a = 0, b = 0, c = 0, d = 0;
    const at = n * K, second = at + K, third = second + K, fourth = third + K;
    for (let k = 0; k < K; k++) {
      const v = x[k];
      a += weight[at + k] * v;
      b += weight[second + k] * v;
      c += weight[third + k] * v;
      d += weight[fourth + k] * v;
    }
    y[n] = a;
    y[n + 1] = b;
    y[n + 2] = c;
    y[n + 3] = d;
  }
  for (; n < N; n++) {
    y[n] = 0;
    for (let k = 0; k < K; k++) y[n] += weight[n * K + k] * x[k];
  }
  if (bias) for (n = 0; n < N; n++) y[n] += bias[n];
  return y;
}

function layerNorm(x, weight, bias) { // (C,) → (C,): mean 0, variance 1, then scaled and shifted
  const C = x.length;
  let mean = 0, variance = 0;
  for (const v of x) mean += v / C;
  for (const v of x) variance += (v - mean) ** 2 / C;
  const size = Math.sqrt(variance + 1e-5);
  return x.map((v, i) => (v - mean) / size * weight[i] + (bias ? bias[i] : 0));
}

const gelu = x => x * .5 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + .044715 * x ** 3)));

function softmax(scores) { // in place; -Infinity becomes 0
  let best = -Infinity, sum = 0;
  for (const s of scores) if (s > best) best = s;
  for (let i = 0; i < scores.length; i++) sum += scores[i] = Math.exp(scores[i] - best);
  for (let i = 0; i < scores.length; i++) scores[i] /= sum;
  return scores;
}

// ---- 02 · Attention: rotary positions, and heads that look back ----

function rotate(x, heads, position) { // q or k (C,), in place: each pair (i, i + hs/2) is turned
  const size = x.length / heads, half = size / 2;
  for (let i = 0; i < half; i++) {
    const angle = Math.fround(position * Math.fround(10000 ** (-2 * i / size)));
    const cos = Math.cos(angle), sin = Math.sin(angle);
    for (let at = i; at < x.length; at += size) {
      const a = x[at], b = x[at + half];
      x[at] = a * cos - b * sin;
      x[at + half] = a * sin + b * cos;
    }
  }
}

// One query against all keys so far, head by head; `looks` takes the weights of each head.
function attend(q, {k, v}, heads, position, looks) { // q (C,), k and v (positions·C,) → (C,)
  const C = q.length, size = C / heads, out = new Float32Array(C);
  for (let from = 0; from < C; from += size) {
    const weights = new Float32Array(position + 1);
    for (let t = 0; t <= position; t++) {
      const at = t * C;
      let dot = 0;
      for (let i = from; i < from + size; i++) dot += q[i] * k[at + i];
      weights[t] = dot / Math.sqrt(size);
    }
    softmax(weights);
    for (let t = 0; t <= position; t++) {
      const at = t * C, weight = weights[t];
      for (let i = from; i < from + size; i++) out[i] += weight * v[at + i];
    }
    if (looks) looks.push(weights);
  }
  return out;
}

class Model {
  constructor(bytes) { // the file that Python's `save_packed` writes
    const {tensors, about} = readSafetensors(bytes);
    this.weights = {};
    for (const name of Object.keys(tensors).filter(n => !n.endsWith('.scale'))) {
      const scale = tensors[`${name}.scale`];
      this.weights[name] = scale ? widen(tensors[name], scale) : tensors[name];
    }
    this.config = about.config;
    this.window = about.config.max_seq_len;
    this.tokenizer = new Tokenizer(about.tokenizer, about.config.vocab_size);
    const layers = [...Array(this.config.n_layers).keys()];
    this.blocks = layers.map(l => this.part(`blocks.${l}.`));
    this.head = this.weights['lm_head.weight'] || this.weights['token_embedding.weight'];
  }

  part(prefix) { // the weights of a block, under their names inside it
    const own = Object.entries(this.weights).filter(([name]) => name.startsWith(prefix));
    return Object.fromEntries(own.map(([name, w]) => [name.slice(prefix.length), w]));
  }

  embed(id, position) { // what the token is, plus where it stands (rotary positions come later)
    const C = this.config.d_model, row = (table, i) => this.weights[table].slice(i * C, i * C + C);
    const x = row('token_embedding.weight', id);
    if (this.config.positions !== 'learned') return x;
    const place = row('position_embedding.weight', position);
    return x.map((v, i) => v + place[i]);
  }

  block(w, x, cache, position, looks) { // the stream (C,), in place: read and added to, twice
    const C = x.length, heads = this.config.n_heads;
    const add = part => part.forEach((v, i) => { x[i] += v; });
    const normed = layerNorm(x, w['norm1.weight'], w['norm1.bias']);
    const qkv = linear(normed, w['attn.qkv.weight'], w['attn.qkv.bias'], new Float32Array(3 * C));
    const q = qkv.subarray(0, C), k = qkv.subarray(C, 2 * C);
    if (this.config.positions === 'rotary') for (const a of [q, k]) rotate(a, heads, position);
    cache.k.set(k, position * C);
    cache.v.set(qkv.subarray(2 * C), position * C);
    const seen = attend(q, cache, heads, position, looks);
    add(linear(seen, w['attn.proj.weight'], w['attn.proj.bias'], new Float32Array(C)));
    const again = layerNorm(x, w['norm2.weight'], w['norm2.bias']);
    const hidden = linear(again, w['mlp.fc.weight'], w['mlp.fc.bias'],
      new Float32Array(w['mlp.fc.weight'].length / C)).map(gelu);
    add(linear(hidden, w['mlp.proj.weight'], w['mlp.proj.bias'], new Float32Array(C)));
  }

  logits(x) { // a score for each token of the vocabulary; none for ids without a token
    const normed = layerNorm(x, this.weights['final_norm.weight'], this.weights['final_norm.bias']);
    const scores = linear(normed, this.head, undefined, new Float32Array(this.config.vocab_size));
    for (const id of this.tokenizer.unused) scores[id] = -Infinity;
    return scores;
  }
}

// ---- 05 · Generate: a cache, a sampler, a loop ----

class Decoder { // keys and values of every position are computed once
  constructor(model, size) { // positions to make room for
    const C = model.config.d_model;
    this.model = model;
    this.length = 0; // positions that are filled
    this.start = 0; // which token of the text stands at position 0
    this.caches = model.blocks.map(() => (
      {k: new Float32Array(size * C), v: new Float32Array(size * C)}));
  }

  read(id, looks) { // → the stream after the last block (C,)
    const x = this.model.embed(id, this.length);
    this.model.blocks.forEach((w, l) => this.model.block(w, x, this.caches[l], this.length, looks));
    this.length++;
    return x;
  }
}

// sfc32 (Chris Doty-Humphrey), started from the digits of the seed: numbers in [0, 1) of 53 bits.
function randomNumbers(seed) {
  let a = 2166136261, b = 0x9e3779b9, c = 0x243f6a88, d = 1;
  for (const digit of String(seed)) a = Math.imul(a ^ digit.charCodeAt(0), 16777619);
  const next = () => {
    const t = (a + b + d++) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21 | c >>> 11) + t) | 0;
    return t >>> 0;
  };
  for (let i = 0; i < 15; i++) next();
  return () => ((next() >>> 5) * 2 ** 26 + (next() >>> 6)) / 2 ** 53;
}

function largest(z, n) { // indices of the n largest, the largest first; of equals the earlier
  if (n >= z.length) return [...z.keys()].sort((i, j) => z[j] - z[i] || i - j);
  const limit = z.slice().sort()[z.length - n], above = [], equal = [];
  z.forEach((v, i) => { if (v > limit) above.push(i); else if (v === limit) equal.push(i); });
  return [...above, ...equal.slice(0, n - above.length)].sort((i, j) => z[j] - z[i] || i - j);
}

// All knobs, in the order in which they act: penalty, temperature, top-k, top-p, min-p, draw.
function choose(logits, knobs, uniform, seen = new Set(), spare = -1) { // → {id, kept()}
  const penalty = knobs.repetition_penalty;
  let z = new Float64Array(logits), ids = null, best = 0;
  if (penalty !== 1) for (const id of seen) {
    if (id !== spare) z[id] = Math.fround(z[id] > 0 ? z[id] / penalty : z[id] * penalty);
  }
  for (let i = 0; i < z.length; i++) if (z[i] > z[best] || Number.isNaN(z[i])) best = i;
  if (!Number.isFinite(z[best])) throw new Error(`the best logit is ${pythonNumber(z[best])}, so `
    + 'there is nothing to choose by: the weights are broken (did training diverge?); '
    + 'load an earlier checkpoint');
  if (knobs.temperature === 0) return {id: best, kept: () => [best]};
  if (knobs.top_k) {
    ids = largest(z, knobs.top_k);
    z = Float64Array.from(ids, id => z[id]);
    best = 0;
  }
  for (let i = 0, top = z[best]; i < z.length; i++) z[i] = (z[i] - top) / knobs.temperature;
  if (knobs.top_p !== null && knobs.top_p < 1) keepTopP(z, knobs.top_p);
  const least = Math.log(knobs.min_p || 0);
  for (let i = 0; i < z.length; i++) if (z[i] < least) z[i] = -Infinity;
  const p = softmax(z);
  let total = 0, sum = p[0], i = 0;
  for (const v of p) total += v;
  while (sum <= uniform * total && i < p.length - 1) sum += p[++i];
  const name = j => ids ? ids[j] : j;
  return {id: name(i), kept: () => [...p.keys()].filter(j => p[j] > 0).map(name)};
}

function keepTopP(z, most) { // the fewest tokens that together hold this probability, in place
  const p = softmax(z.slice()), sorted = p.slice().sort().reverse();
  let n = 0, held = 0;
  while (n < sorted.length && held < most) held += sorted[n++];
  const limit = sorted[n - 1];
  let equal = n - sorted.findIndex(v => v === limit); // so many of the last ones stay
  for (let i = 0; i < z.length; i++) {
    if (p[i] < limit || p[i] === limit && equal-- <= 0) z[i] = -Infinity;
  }
}

// A text in the making. Each `next` reads or draws one token, so that a page can stop in between.
class Story {
  constructor(model, prompt, knobs) {
    const all = model.tokenizer.encode(prompt), W = model.window;
    this.model = model;
    this.knobs = knobs;
    this.prompt = wellFormed(prompt);
    this.warning = all.length <= W ? '' : `the prompt has ${all.length} tokens, the model reads `
      + `${W} at most: it sees the last ${W} of them`;
    this.ids = [model.tokenizer.eot, ...all].slice(-W); // the text starts a document
    this.first = this.ids.length; // where the drawn tokens begin
    this.froms = this.ids.map(() => 0); // the first token that the model saw when it drew this one
    this.probs = this.ids.map(() => null); // of a drawn token, before any knob
    this.cut = all.length + 1 - this.first; // tokens of the prompt that the model does not see
    this.streams = {before: streamDecoder(), after: streamDecoder()};
    this.texts = this.ids.map(id => this.textOf(id, this.streams.before)); // of each token
    this.ended = ''; // 'end' (end-of-text), 'length' or '' (it goes on)
    this.decoder = new Decoder(model, Math.min(W, this.first + knobs.max_new_tokens));
  }

  * write() { // yields null for a token read, an id for a token drawn
    const {model, knobs, ids, decoder} = this, seen = new Set(ids);
    const random = randomNumbers(knobs.seed), eot = model.tokenizer.eot;
    while (!this.ended && ids.length - this.first < knobs.max_new_tokens) {
      if (decoder.length === model.window) { // full: drop the older half, read the rest again
        decoder.start = ids.length - Math.max(1, Math.floor(model.window / 2));
        decoder.length = 0;
      }
      let x;
      for (let i = decoder.start + decoder.length; i < ids.length; i++) {
        x = decoder.read(ids[i]);
        if (i < ids.length - 1) yield null;
      }
      const logits = model.logits(x), {id} = choose(logits, knobs, random(), seen, eot);
      this.add(id, softmax(new Float64Array(logits))[id], decoder.start);
      seen.add(id);
      yield id;
    }
    if (!this.ended) this.ended = 'length';
  }

  add(id, prob, from) { // the next token
    this.ids.push(id);
    this.probs.push(prob);
    this.froms.push(from);
    this.texts.push(this.textOf(id, this.streams.after));
    if (id === this.model.tokenizer.eot) this.ended = 'end';
  }

  // A character that is cut into several tokens belongs to the last of them.
  textOf(id, stream) {
    const {tokenizer} = this.model;
    return id === tokenizer.eot ? '' : stream.decode(tokenizer.bytes(id), {stream: true});
  }

  get text() { return this.prompt + this.texts.slice(this.first).join(''); }

  // What the model saw and said when it came to token i: run the token before it once more.
  look(i) { // → {logits (V,), looks: weights of each layer and head, from: where they begin}
    const {model, ids} = this, from = this.froms[i], looks = [];
    let decoder = this.decoder;
    if (decoder.start !== from || decoder.length < i - from) {
      decoder = new Decoder(model, i - from);
      for (const id of ids.slice(from, i - 1)) decoder.read(id);
    }
    const length = decoder.length;
    decoder.length = i - 1 - from;
    const logits = model.logits(decoder.read(ids[i - 1], looks));
    decoder.length = length;
    return {logits, looks, from};
  }
}

// What is wrong with the knobs, in Python's words; `limits` come from Python.
function knobProblems(knobs, limits) { // → a sentence, or ''
  const real = v => typeof v === 'number' && Number.isFinite(v), none = v => v === null;
  const whole = (v, low) => Number.isInteger(v) && v >= low;
  const {temperature, top_k, top_p, min_p, repetition_penalty, max_new_tokens, seed} = knobs;
  const ok = {
    temperature: real(temperature) && temperature >= 0, top_k: none(top_k) || whole(top_k, 1),
    top_p: none(top_p) || top_p > 0 && top_p <= 1, min_p: none(min_p) || min_p >= 0 && min_p <= 1,
    repetition_penalty: real(repetition_penalty) && repetition_penalty > 0,
    max_new_tokens: whole(max_new_tokens, 0),
    seed: none(seed) || Number.isInteger(seed) && seed >= -(2 ** 63) && seed < 2 ** 64};
  const wrong = Object.keys(ok).filter(name => !ok[name]);
  if (!wrong.length) return '';
  const lines = wrong.map(name => `- ${name}=${pythonNumber(knobs[name])} must be ${limits[name]}`);
  return [`nothing was generated, ${wrong.length} problem(s):`, ...lines].join('\n');
}

function pythonNumber(v) {
  const names = {null: 'None', NaN: 'nan', Infinity: 'inf', '-Infinity': '-inf'};
  return names[String(v)] ?? String(v);
}
