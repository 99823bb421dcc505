// The parts of a model, in the order of the forward pass, each with its code and its values.
// data: tokens (texts), width (numbers in a vector), part (shown first), parts: each {name, block
// (or null), branch (beside the stream?), about, code, norms (one a token), values (the first
// numbers, a row a token)}, next: for each token the likeliest next tokens, [text, probability].
function figure(data, root) {
  const {tokens, parts, next, width} = data

  // ---- the diagram: radio buttons along the residual stream, with a frame for each block ----
  const diagram = element('fieldset', {'aria-label': 'part of the model', style: `
    flex: 1 1 12rem; display: flex; flex-wrap: wrap; align-content: flex-start; gap: 3px;
    align-self: flex-start; min-width: 0; margin: 0; padding: 0 0 0 .6em; border: 0;
    border-left: 4px solid ${ORANGE}`})
  const group = `live-${page}-${groups++}`

  function box({name, branch}, i) {
    const input = element('input', {
      type: 'radio', name: group, onchange: () => choose(i),
      style: `margin: 0; accent-color: ${BLUE}`})
    input.checked = i === data.part
    return element('label', {style: `
      flex: 1 0 100%; display: flex; gap: .4em; align-items: center; min-height: 24px;
      margin-left: ${branch ? '1.4em' : 0}; cursor: pointer`}, input, element('span', {text: name}))
  }

  const frames = new Map() // block → its frame
  function frame(block) {
    if (block === null) return diagram
    if (!frames.has(block)) {
      frames.set(block, element('div', {style: `
        flex: 1 1 8.5rem; padding: 2px 4px; border: 1px dashed ${INK}; border-radius: 4px;
        font-size: 13px`}, element('div', {text: `blocks[${block}]`})))
      diagram.append(frames.get(block))
    }
    return frames.get(block)
  }
  parts.forEach((p, i) => frame(p.block).append(box(p, i)))

  // ---- what the chosen part does, and what it gave for each token ----
  const panel = element('div', {style: 'flex: 3 1 19rem; min-width: 0; align-self: flex-start'})
  const token = text => element('span', {class: 'live-token', text: text.trim() || text})
  const head = text => element('b', {text})
  const grid = (columns, cells) => element('div', {style: `
    display: grid; grid-template-columns: ${columns}; gap: .1em .7em;
    align-items: center`}, ...cells)

  function strip(numbers, largest) { // orange: above zero, blue: below
    const cells = numbers.map(x => element('span', {style: `
      flex: 1; background: ${x > 0 ? ORANGE : BLUE}; opacity: ${Math.abs(x)/largest}`}))
    return element('span', {'aria-hidden': 'true', style: 'display: flex; height: 1.1em'}, ...cells)
  }

  function vectors({norms, values}) {
    const largest = Math.max(...values.flat().map(Math.abs), 1e-9)
    const number = x => element('span', {class: 'live-number', 'data-norm': '', text: fixed(x, 2)})
    return grid('auto minmax(4em, 1fr) auto', [
      head('token'), head(`${values[0].length} of its ${width} numbers`), head('length'),
      ...tokens.flatMap((text, t) => [token(text), strip(values[t], largest), number(norms[t])])])
  }

  function guesses() {
    const say = ([text, p]) => `${text} ${fixed(100*p, 1)} %`
    const list = t => element('span', {'data-next': '', text: next[t].map(say).join(', ')})
    return grid('auto 1fr', [
      head('after'), head('the likeliest next tokens'),
      ...tokens.flatMap((text, t) => [token(text), list(t)])])
  }

  function choose(i) {
    const {name, block, about, code, values} = parts[i]
    const where = block === null ? name : `blocks[${block}]: ${name}`
    const source = element('pre', {tabindex: '0', 'aria-label': `code of ${where}`, style: `
      overflow: auto; max-height: 18em; margin: .6em 0; padding: .5em; font-size: 12px;
      border: 1px solid ${INK}; border-radius: 4px; background: none; color: inherit`})
    source.textContent = code
    panel.replaceChildren(
      element('p', {'aria-live': 'polite'}, head(where), ` ${about}`), source,
      values ? vectors(parts[i]) : guesses())
  }

  root.append(element('div', {
    style: 'display: flex; flex-wrap: wrap; gap: .6em 1.2em'}, diagram, panel))
  choose(data.part)
}
