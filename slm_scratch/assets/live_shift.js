// A stream over itself, shifted by one. data: tokens (texts), T (the length of a window).
function figure(data, root) {
  const {tokens, T} = data
  let start = 0, t = Math.min(3, T - 1) // where the window begins, and a position in it

  const begin = slider('window starts at', {
    min: 0, max: tokens.length - T - 1, value: start, change: i => draw(i, t)})
  const place = slider('position t', {min: 0, max: T - 1, value: t, change: i => draw(start, i)})
  const words = element('p', {'aria-live': 'polite'})
  const board = element('div', {style: `
    display: grid; gap: 2px 3px; grid-template-columns: 1.2em repeat(${T + 2}, minmax(0, 1fr));
    margin: .5em 0; text-align: center; font-size: clamp(10px, 2.4vw, 13px)`})

  // The token in column j of a row: the window holds columns 0 … T - 1, and one more stands on
  // each side of it
  function cell(row, j, token, colour) {
    const inside = j >= 0 && j < T
    const box = element('div', {class: 'live-token', 'data-row': row, text: token ?? '', style: `
      min-height: 3.4em; padding: .35em 1px; border: 1px solid ${inside ? INK : 'transparent'};
      background: ${colour}; opacity: ${inside ? 1 : .7};
      cursor: ${inside ? 'pointer' : 'default'}`})
    if (!inside) return box
    box.dataset.inside = ''
    box.addEventListener('click', () => draw(start, j))
    return box
  }

  const columns = Array.from({length: T + 2}, (_, i) => i - 1)
  function row(name, shift, colour) {
    const cells = columns.map(j => cell(name, j, tokens[start + j + shift], colour(j)))
    return [element('b', {text: name, style: 'align-self: center'}), ...cells]
  }

  function draw(newStart, newT) {
    start = newStart
    t = newT
    begin.set(start)
    place.set(t)
    const arrows = columns.map(j => element('span', {text: j === t ? '↓' : ' '}))
    board.replaceChildren(
      ...row('x', 0, j => j >= 0 && j <= t ? `${BLUE}59` : 'none'),
      element('span'), ...arrows,
      ...row('y', 1, j => j === t ? `${ORANGE}80` : 'none'))
    const range = shift => `stream[${start + shift}:${start + shift + T}]`
    const read = tokens.slice(start, start + t + 1).join(' ')
    const bold = text => element('b', {class: 'live-token', text})
    words.replaceChildren(
      element('code', {text: `x = ${range(0)}, y = ${range(1)}`}), element('br'),
      `At t = ${t} the model has read `, bold(read), ' and is asked for ',
      bold(tokens[start + t + 1]), '.')
  }

  root.append(begin.row, place.row, board, words)
  draw(start, t)
}
