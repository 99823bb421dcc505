// The knobs of sampling. data: logits (all of them, the largest first), names (texts of the first
// few). Every knob keeps a beginning of this list, so a single number says what survives.
function figure(data, root) {
  const {logits, names} = data
  const knobs = {temperature: 1, top_k: 0, top_p: 1, min_p: 0} // 0, 1 and 0: off

  // ---- the sampler: temperature, then top-k, top-p and min-p, each on what the last one left ----
  function softmax(scores) {
    const powers = scores.map(score => Math.exp(score - scores[0])) // the first is the largest
    const sum = powers.reduce((a, b) => a + b)
    return powers.map(power => power/sum)
  }

  function nucleus(probabilities, p) { // how many it takes to hold p together
    if (p >= 1) return probabilities.length
    let better = 0, n = 0 // what the better tokens hold, and how many they are
    while (n < probabilities.length && better < p) better += probabilities[n++]
    return n
  }

  function distribution() { // of the survivors
    let scores = logits.map(z => z/knobs.temperature)
    if (knobs.top_k) scores = scores.slice(0, knobs.top_k)
    scores = scores.slice(0, nucleus(softmax(scores), knobs.top_p))
    if (knobs.min_p) scores = scores.filter(z => z >= scores[0] + Math.log(knobs.min_p))
    return softmax(scores)
  }

  // ---- the bars: outlined the model's own, filled what is drawn from ----
  const original = softmax(logits)
  const words = element('p', {'aria-live': 'polite'})
  const bars = element('div', {style: `
    display: grid; grid-template-columns: auto minmax(3em, 1fr) auto; gap: .15em .7em;
    align-items: center`})

  function bar(p, before, widest) {
    const place = width => `position: absolute; inset: 0 auto 0 0; width: ${100*width/widest}%;`
    const now = element('div', {class: 'live-bar', style: `${place(p)} height: auto`})
    const old = element('div', {
      style: `${place(before)} border: 1px solid ${INK}; border-radius: 2px`})
    return element('div', {style: 'position: relative; height: 1em'}, now, old)
  }

  function draw() {
    const kept = distribution()
    const widest = Math.max(kept[0], original[0])
    const share = original.slice(0, kept.length).reduce((a, b) => a + b)
    const [n, all] = [kept, logits].map(list => list.length.toLocaleString('en'))
    words.textContent = `${n} of ${all} tokens can be drawn; the model itself gave them ` +
      `${fixed(100*share, 1)} %.`
    bars.replaceChildren(...names.flatMap((name, i) => {
      const p = kept[i] ?? 0
      const style = `opacity: ${p ? 1 : .7}`
      return [element('span', {class: 'live-token', text: name, style}),
              bar(p, original[i], widest),
              element('span', {class: 'live-number', 'data-p': '', text: fixed(p, 4), style})]
    }))
  }

  function knob(name, label, options) {
    const change = value => {
      knobs[name] = value
      draw()
    }
    return slider(label, {value: knobs[name], change, ...options}).row
  }
  root.append(
    knob('temperature', 'temperature', {min: .1, max: 2, step: .1, show: x => fixed(x, 1)}),
    knob('top_k', 'top-k', {min: 0, max: 50, show: k => k ? String(k) : 'off'}),
    knob('top_p', 'top-p', {min: .05, max: 1, step: .05, show: p => p < 1 ? fixed(p, 2) : 'off'}),
    knob('min_p', 'min-p', {min: 0, max: .5, step: .01, show: p => p ? fixed(p, 2) : 'off'}),
    words, bars)
  draw()
}
