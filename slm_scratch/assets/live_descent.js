// Gradient descent in a valley, (a·x² + b·y²)/2. data: curvatures [a, b], start [x, y], steps,
// rate (at first), most (the largest that the slider has).
function figure(data, root) {
  const {curvatures, start, steps} = data
  const [a, b] = curvatures
  const words = element('p', {'aria-live': 'polite'})
  const bar = slider('learning rate', {
    min: 0, max: data.most, step: data.most/80, value: data.rate, show: r => fixed(r, 4),
    change: draw})

  function descend(rate) { // the gradient of the loss is (a·x, b·y)
    const path = [start]
    for (let i = 0; i < steps; i++) {
      const [x, y] = path[path.length - 1]
      path.push([x - rate*a*x, y - rate*b*y])
    }
    return path
  }
  const loss = ([x, y]) => (a*x*x + b*y*y)/2
  const note = (x, y, text, anchor = 'end') => shape('text', {
    x, y, text, 'text-anchor': anchor, 'font-size': 13})

  // ---- the valley from above ----
  const W = 400, H = 220
  const right = 1.15*Math.abs(start[0]), top = 1.6*Math.abs(start[1])
  const pixel = ([x, y]) => [W/2 + x*W/2/right, H/2 - y*H/2/top]
  const valley = shape('svg', {
    viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': 'the path of x and y',
    style: 'overflow: hidden'})
  for (let i = 1; i <= 6; i++) {
    const level = loss(start)*(i/4)**2
    valley.append(shape('ellipse', {
      cx: W/2, cy: H/2, rx: Math.sqrt(2*level/a)*W/2/right, ry: Math.sqrt(2*level/b)*H/2/top,
      fill: 'none', stroke: INK, opacity: .45}))
  }
  const path = shape('polyline', {fill: 'none', stroke: BLUE, 'stroke-width': 1.5})
  const dots = shape('g', {fill: BLUE})
  valley.append(note(W - 2, H/2 - 6, 'x →'), note(W/2 + 6, 14, '↑ y', 'start'),
                path, dots, shape('circle', {cx: W/2, cy: H/2, r: 4, fill: GREEN}))

  // ---- the loss over the steps, on a logarithmic axis ----
  const low = -6, high = 6, across = 240 // powers of ten, pixels
  const height = power => H*(1 - (Math.max(low, Math.min(high, power)) - low)/(high - low))
  const losses = shape('svg', {
    viewBox: `-34 -10 ${across + 40} ${H + 28}`, role: 'img', 'aria-label': 'loss over the steps'})
  for (const power of [-6, -3, 0, 3, 6]) {
    const y = height(power)
    losses.append(shape('line', {x1: 0, x2: across, y1: y, y2: y, stroke: INK, opacity: .35}),
                  note(-5, y + 4, `1e${power}`))
  }
  losses.append(note(across, H + 16, `loss over ${steps} steps`))
  const curve = shape('polyline', {fill: 'none', stroke: ORANGE, 'stroke-width': 2})
  losses.append(curve)

  const size = x => Math.abs(x) < 1000 ? fixed(x, 3) : x.toExponential(2)
  const inside = ([x, y]) => Math.abs(x) < 9*right && Math.abs(y) < 9*top
  function draw(rate) {
    const points = descend(rate)
    const away = points.findIndex(point => !inside(point))
    const shown = points.slice(0, away < 0 ? points.length : away + 1).map(pixel)
    path.setAttribute('points', shown.join(' '))
    dots.replaceChildren(...shown.map(([cx, cy]) => shape('circle', {cx, cy, r: 2.5})))
    const heights = points.map((p, i) => [i*across/steps, height(Math.log10(loss(p)))])
    curve.setAttribute('points', heights.join(' '))
    const [x, y] = points[steps]
    const factors = [1 - rate*a, 1 - rate*b]
    const diverges = factors.some(f => Math.abs(f) > 1)
    words.textContent = `Each step multiplies x by ${fixed(factors[0], 3)} and y by ` +
      `${fixed(factors[1], 3)}. After ${steps} steps the distance to the bottom is ` +
      `${size(Math.hypot(x, y))}.${diverges ? ' One factor is beyond ±1: it diverges.' : ''}`
  }

  const both = element('div', {class: 'live-row', style: 'align-items: flex-start'},
    element('div', {style: 'flex: 3 1 16rem'}, valley),
    element('div', {style: 'flex: 2 1 12rem; max-width: 18rem'}, losses))
  root.append(bar.row, words, both)
  draw(data.rate)
}
