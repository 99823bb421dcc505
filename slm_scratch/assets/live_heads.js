// Where the heads of a model look. data: tokens (texts), at {layer, head, t}, and
// maps[layer][head][t]: the weights of token t on tokens 0 … t, in thousandths.
function figure(data, root) {
  const {tokens, maps} = data
  const at = {...data.at} // what is shown

  const choose = name => i => {
    at[name] = i
    draw()
  }
  const numbered = (name, list) => list.map((_, i) => `${name} ${i}`)
  const layers = choice('layer', numbered('layer', maps), at.layer, choose('layer'))
  const heads = choice('head', numbered('head', maps[0]), at.head, choose('head'))
  const bar = slider('token that looks', {
    min: 0, max: tokens.length - 1, value: at.t, change: choose('t'),
    show: t => tokens[t].trim()})

  const words = element('p', {'aria-live': 'polite'})
  const arcs = shape('svg', {'aria-hidden': 'true', style: `
    position: absolute; left: 0; top: 0; width: 100%; height: 100%; pointer-events: none`})
  const spans = tokens.map((token, t) => element('span', {
    class: 'live-token', text: token, style: 'cursor: pointer', onclick: () => choose('t')(t),
    onpointerenter: event => event.pointerType === 'mouse' && choose('t')(t)}))
  const story = element('div', {
    'data-story': '', style: 'position: relative; line-height: 2.7; padding-top: .6em'},
    ...spans, arcs)

  // From the top of token t to the top of token i, the higher the further
  function arc(i, weight) {
    const place = j => {
      const frame = story.getBoundingClientRect(), box = spans[j].getClientRects()[0]
      return [(box.left + box.right)/2 - frame.left, box.top - frame.top + 1]
    }
    const [x0, y0] = place(at.t), [x1, y1] = place(i)
    const top = Math.min(y0, y1) - 8 - Math.min(22, Math.abs(x0 - x1)/8)
    arcs.append(shape('path', {
      d: `M ${x0} ${y0} Q ${(x0 + x1)/2} ${top} ${x1} ${y1}`, fill: 'none', stroke: ORANGE,
      'stroke-width': 1 + 5*weight, opacity: .35 + .65*weight}))
  }

  function draw() {
    bar.set(at.t)
    const weights = maps[at.layer][at.head][at.t].map(w => w/1000)
    spans.forEach((span, i) => {
      span.style.backgroundColor = `rgba(224, 122, 63, ${.75*(weights[i] ?? 0)})`
      span.style.boxShadow = i === at.t ? `0 0 0 2px ${BLUE}` : 'none'
      span.style.opacity = i <= at.t ? 1 : .7
    })
    arcs.replaceChildren()
    if (story.isConnected) weights.forEach((w, i) => w >= .03 && i !== at.t && arc(i, w))
    const best = weights.map((w, i) => [w, i]).sort((a, b) => b[0] - a[0]).slice(0, 4)
    const shares = best.map(([w, i]) => `${tokens[i].trim()} ${fixed(100*w, 1)} %`)
    words.textContent = `Layer ${at.layer}, head ${at.head}: ` +
      `“${tokens[at.t].trim()}” looks at ${shares.join(', ')}`
  }

  root.append(element('div', {class: 'live-row'}, layers, heads), bar.row, words, story)
  new ResizeObserver(draw).observe(story) // also when it is first on the page
  draw()
}
