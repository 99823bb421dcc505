// A query that looks up keys in the plane.
// data: names, keys (n pairs), values (n rows), axes (two names), features (a name for each
// column of the values), query (a pair).
function figure(data, root) {
  const {names, keys, values, axes, features} = data
  const limit = 1.25*Math.max(...keys.flat().map(Math.abs), ...data.query.map(Math.abs), 1)
  const half = 150 // pixels from the middle to the edge
  const pixel = ([x, y]) => [x*half/limit, -y*half/limit]
  const nearest = x => Math.round(Math.max(-limit, Math.min(limit, x))*10)/10
  let query = data.query

  // ---- attention, as in the lesson ----
  function attend() {
    const scores = keys.map(key => query[0]*key[0] + query[1]*key[1])
    const largest = Math.max(...scores)
    const powers = scores.map(score => Math.exp(score - largest))
    const sum = powers.reduce((a, b) => a + b)
    const weights = powers.map(power => power/sum)
    const mixture = features.map((_, j) => weights.reduce((m, w, i) => m + w*values[i][j], 0))
    return {scores, weights, mixture}
  }

  // ---- the plane: keys are points, the query is an arrow whose tip can be dragged ----
  const plane = shape('svg', {
    viewBox: '-160 -165 320 340', role: 'img',
    'aria-label': 'keys as points, the query as an arrow'})
  const line = ([x1, y1], [x2, y2], style) => shape('line', {x1, y1, x2, y2, ...style})
  const label = (text, [x, y], anchor = 'middle') => shape('text', {
    x, y, text, 'text-anchor': anchor, 'font-size': 13})
  plane.append(
    line([-half, 0], [half, 0], {stroke: INK}), label(`${axes[0]} →`, [half, 34], 'end'),
    line([0, -half], [0, half], {stroke: INK}), label(`↑ ${axes[1]}`, [8, -half], 'start'))

  function place(i) { // a point, and the names of all keys that lie there
    const [x, y] = pixel(keys[i])
    const same = names.filter((_, j) => String(keys[j]) === String(keys[i]))
    plane.append(shape('circle', {cx: x, cy: y, r: 4.5, fill: GREEN}))
    if (same[0] !== names[i]) return
    const middle = keys[i][0] === 0 && keys[i][1] === 0 // the arrow begins there
    const text = same.join(', ')
    plane.append(middle ? label(text, [-6, 32], 'end') : label(text, [x, y - 9]))
  }
  names.forEach((_, i) => place(i))
  const arrow = line([0, 0], [0, 0], {stroke: BLUE, 'stroke-width': 3})
  const tip = shape('circle', {
    r: 9, fill: BLUE, 'data-tip': '', style: 'cursor: grab; touch-action: none'})
  plane.append(arrow, tip)

  function follow(event) {
    const screen = new DOMPoint(event.clientX, event.clientY)
    const point = screen.matrixTransform(plane.getScreenCTM().inverse())
    ask([nearest(point.x*limit/half), nearest(-point.y*limit/half)])
  }
  tip.addEventListener('pointerdown', event => tip.setPointerCapture(event.pointerId))
  tip.addEventListener('pointermove', event => {
    if (tip.hasPointerCapture(event.pointerId)) follow(event)
  })
  plane.addEventListener('click', follow)

  // ---- sliders, for hands and keyboards ----
  const sliders = axes.map((axis, k) => slider(`query: ${axis}`, {
    min: -nearest(limit), max: nearest(limit), step: .1, value: query[k], show: x => fixed(x, 1),
    change: x => ask(k ? [query[0], x] : [x, query[1]])}))

  // ---- the numbers ----
  const table = element('div', {style: `
    display: grid; grid-template-columns: auto auto minmax(3em, 1fr) auto; gap: .15em .7em;
    align-items: center`})
  const head = text => element('b', {text})
  const number = (kind, text) => element('span', {class: 'live-number', [`data-${kind}`]: '', text})
  const bar = (share, colour) => element('div', {class: 'live-bar', style: `
    width: ${100*Math.max(0, Math.min(1, share))}%; background: ${colour}`})

  function list({scores, weights, mixture}) {
    const found = names.flatMap((name, i) => [
      element('span', {text: name}), number('score', fixed(scores[i], 2)),
      bar(weights[i], ORANGE), number('weight', fixed(weights[i], 3))])
    const largest = Math.max(...values.flat().map(Math.abs), 1e-9)
    const mixed = features.flatMap((name, j) => [
      element('span', {text: name}), element('span'),
      bar(mixture[j]/largest, GREEN), number('mixture', fixed(mixture[j], 3))])
    table.replaceChildren(
      ...['key', 'score', 'softmax', 'weight'].map(head), ...found,
      ...['value', '', 'mixture', ''].map(head), ...mixed)
  }

  function ask(newQuery) {
    query = newQuery
    sliders.forEach((s, k) => s.set(query[k]))
    const [x, y] = pixel(query)
    fill(arrow, {x2: x, y2: y}, [])
    fill(tip, {cx: x, cy: y}, [])
    list(attend())
  }

  const left = element('div', {style: 'flex: 1 1 15rem; max-width: 22rem'}, plane)
  const right = element('div', {style: 'flex: 1 1 18rem'}, table)
  root.append(element('div', {class: 'live-row'}, left, right), ...sliders.map(s => s.row))
  ask(query)
}
