// A training run to scrub. data: steps (all that have a row), loss and val_loss (each [steps,
// values]), samples ([steps, texts]), lines ([name, loss]: levels to compare with).
function figure(data, root) {
  const {steps, loss, val_loss, samples, lines} = data
  const last = steps[steps.length - 1]

  // ---- the chart ----
  const W = 400, H = 170, margin = 34 // pixels; the margin holds the numbers at the left
  const highest = 1.05*Math.max(...loss[1], ...val_loss[1], ...lines.map(([, y]) => y))
  const px = step => W*step/(last || 1), py = y => H*(1 - y/highest)
  const chart = shape('svg', {
    viewBox: `${-margin} -10 ${W + margin + 10} ${H + 52}`, role: 'img',
    'aria-label': 'loss over the steps', style: 'max-width: 32rem; cursor: pointer'})
  const note = (x, y, text, anchor = 'end') => shape('text', {
    x, y, text, 'text-anchor': anchor, 'font-size': 13})
  const level = (y, style) => shape('line', {
    x1: 0, x2: W, y1: py(y), y2: py(y), stroke: INK, ...style})
  const curve = ([xs, ys], stroke) => shape('polyline', {
    points: xs.map((x, i) => [px(x), py(ys[i])]).join(' '), fill: 'none',
    stroke, 'stroke-width': 2})
  const key = (x, name, fill) => [
    shape('rect', {x, y: H + 31, width: 14, height: 4, fill}), note(x + 19, H + 38, name, 'start')]

  for (let y = 0; y <= highest; y += Math.ceil(highest/5)) {
    chart.append(level(y, {opacity: .3}), note(-6, py(y) + 4, String(y)))
  }
  for (const step of new Set([0, Math.round(last/2), last])) {
    chart.append(note(px(step), H + 18, String(step), 'middle'))
  }
  for (const [name, y] of lines) {
    chart.append(level(y, {'stroke-dasharray': '5 4'}), note(W, py(y) - 4, name))
  }
  const cursor = shape('line', {y1: 0, y2: H, stroke: GREEN, 'stroke-width': 2})
  chart.append(curve(loss, BLUE), curve(val_loss, ORANGE), cursor, ...key(0, 'training', BLUE),
               ...key(90, 'validation', ORANGE), note(W, H + 38, 'nats per token, by step'))

  // ---- the words ----
  const words = element('p', {'aria-live': 'polite'})
  const text = element('div', {'data-sample': '', class: 'live-token', style: `
    min-height: 6em; padding: .2em .7em; border-left: 3px solid ${GREEN}`})

  function latest([xs, ys], step) { // at or before a step: [its step, its value], or null
    const i = xs.filter(x => x <= step).length - 1
    return i < 0 ? null : [xs[i], ys[i]]
  }
  const number = found => found ? fixed(found[1], 3) : '–'

  function draw(i) {
    const step = steps[i]
    fill(cursor, {x1: px(step), x2: px(step)}, [])
    const sample = latest(samples, step)
    words.textContent = `Step ${step}: training loss ${number(latest(loss, step))}, validation ` +
      `loss ${number(latest(val_loss, step))}. ` +
      (sample ? `Written at step ${sample[0]}:` : 'Nothing written yet.')
    text.textContent = sample ? sample[1] : ''
  }

  const bar = slider('step', {
    min: 0, max: steps.length - 1, value: 0, show: i => `${steps[i]} of ${last}`, change: draw})
  chart.addEventListener('click', event => { // the step nearest to where the chart was clicked
    const screen = new DOMPoint(event.clientX, event.clientY)
    const {x} = screen.matrixTransform(chart.getScreenCTM().inverse())
    const distances = steps.map(step => Math.abs(px(step) - x))
    const i = distances.indexOf(Math.min(...distances))
    bar.set(i)
    draw(i)
  })
  root.append(bar.row, chart, words, text)
  draw(0)
}
