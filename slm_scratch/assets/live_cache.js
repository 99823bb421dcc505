// Keys and values, step by step. data: tokens (texts), prompt (how many of them were given),
// layers, step (shown first).
function figure(data, root) {
  const {tokens, prompt, layers} = data
  const last = tokens.length - prompt - 1 // steps after the prompt was read
  const at = {step: data.step, cached: true}

  const bar = slider('step', {
    min: 0, max: last, value: at.step, show: s => s ? `${s} of ${last}` : 'the prompt',
    change: step => draw({step})})
  const which = choice('memory', ['with a cache', 'without'], 0, i => draw({cached: i === 0}))
  const words = element('p', {'aria-live': 'polite'})
  const columns = `4em repeat(${tokens.length}, minmax(0, 1fr))`
  const board = element('div', {style: `
    display: grid; gap: 2px; grid-template-columns: ${columns}; align-items: end;
    max-width: 44rem; font-size: 12px`})
  const table = element('div', {style: `
    display: grid; grid-template-columns: repeat(4, auto); gap: .2em 1em; justify-content: start;
    margin: .6em 0`})

  // ---- counting: positions that pass through a layer, and scores (query · key) of one head ----
  function positions(step, cached) {
    if (!cached) return prompt + step
    return step ? 1 : prompt
  }
  function scores(step, cached) { // a position scores itself and those before it
    const n = prompt + step
    return cached && step ? n : n*(n + 1)/2
  }
  function total(count, cached) {
    let sum = 0
    for (let step = 0; step <= at.step; step++) sum += count(step, cached)
    return sum
  }

  // ---- the board: a column for each position, a row for each layer ----
  function state(i) { // of the keys and values of position i
    const read = prompt + at.step
    if (i >= read) return 'empty'
    if (i < read - positions(at.step, at.cached)) return 'kept'
    return at.step && i < read - 1 ? 'again' : 'computed'
  }
  const colours = {empty: 'none', kept: `${BLUE}60`, computed: GREEN, again: ORANGE}
  const cell = i => element('span', {'data-state': state(i), style: `
    height: 1.5em; border: 1px solid ${INK}; border-radius: 2px; background: ${colours[state(i)]}`})

  function name(i) { // the token just written is bold, those after it are not known yet
    const newest = prompt + at.step
    return element('span', {text: tokens[i].trim(), style: `
      writing-mode: vertical-rl; transform: rotate(180deg); justify-self: center;
      white-space: nowrap; font-weight: ${i === newest ? 'bold' : 'normal'};
      visibility: ${i <= newest ? 'visible' : 'hidden'}`})
  }

  function count() {
    const number = (kind, n) => element('span', {
      class: 'live-number', [`data-${kind}`]: '', text: n.toLocaleString('en')})
    const row = (label, cached) => [
      element('span', {text: label}), number('now', layers*positions(at.step, cached)),
      number('sum', layers*total(positions, cached)),
      number('scores', layers*total(scores, cached))]
    const heads = ['keys and values computed', 'this step', 'so far', 'scores, one head a layer']
    table.replaceChildren(
      ...heads.map(text => element('b', {text})), ...row('with a cache', true),
      ...row('without', false))
  }

  function draw(changes) {
    Object.assign(at, changes)
    board.replaceChildren(element('span'), ...tokens.map((_, i) => name(i)))
    for (let layer = 0; layer < layers; layer++) {
      board.append(element('span', {text: `layer ${layer}`}), ...tokens.map((_, i) => cell(i)))
    }
    const read = positions(at.step, at.cached)
    words.textContent = `The model reads ${read} ${read === 1 ? 'token' : 'tokens'} and writes ` +
      `“${tokens[prompt + at.step].trim()}”. Green: computed for the first time. Blue: kept. ` +
      'Orange: computed again.'
    count()
  }

  root.append(element('div', {class: 'live-row'}, which), bar.row, words, board, table)
  draw({})
}
