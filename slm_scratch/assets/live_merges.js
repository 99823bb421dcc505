// The merges that change a text, one step after the other.
// data: steps, each {rank, pair (the two halves, or null), tokens (texts)}.
function figure(data, root) {
  const last = data.steps.length - 1
  const bar = slider('merges', {
    min: 0, max: last, value: 0, show: i => `${i} of ${last}`, change: draw})
  const words = element('p', {'aria-live': 'polite'})
  const row = element('div', {style: `
    display: flex; flex-wrap: wrap; gap: 3px; align-content: start; min-height: 6em`})

  function chip(token, i, merged) { // what was merged last has a border
    return element('span', {class: 'live-token', 'data-token': '', text: token, style: `
      padding: 1px 4px; background: ${i % 2 ? ORANGE : BLUE}40;
      border: 1px solid ${token === merged ? 'currentColor' : 'transparent'}`})
  }

  function draw(i) {
    const {rank, pair, tokens} = data.steps[i]
    const merge = pair ? `rank ${rank}: ${pair[0]} + ${pair[1]} → ` : 'single bytes: '
    words.textContent = `${merge}${tokens.length} tokens`
    row.replaceChildren(...tokens.map((token, k) => chip(token, k, pair?.join(''))))
  }

  root.append(bar.row, words, row)
  draw(0)
}
