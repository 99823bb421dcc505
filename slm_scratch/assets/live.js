// What all live figures share. A text goes into the page as text, never as HTML.
const BLUE = '#3a86c8', ORANGE = '#e07a3f', GREEN = '#3a9d6e', INK = '#787c80'

// Give a node its attributes and children. `text` is its text, `style` its CSS, and a name such as
// `onclick` adds a listener.
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') node.textContent = value
    else if (name === 'style') node.style.cssText = value
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value)
    else node.setAttribute(name, value)
  }
  node.append(...children)
  return node
}

function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children)
}

function shape(name, attributes = {}, ...children) { // a part of an SVG
  const node = document.createElementNS('http://www.w3.org/2000/svg', name)
  return fill(node, attributes, children)
}

// A number with so many decimals; a rounded zero has no sign.
function fixed(x, decimals) {
  const text = x.toFixed(decimals)
  return Number(text) === 0 ? text.replace('-', '') : text
}

// A labelled slider: `row` is shown, `set` moves it; each move calls `change` with the number.
function slider(label, {min, max, step = 1, value, show = String, change}) {
  const input = element('input', {type: 'range', min, max, step, value, 'aria-label': label})
  const shown = element('output')
  function say() {
    shown.textContent = show(Number(input.value))
    input.setAttribute('aria-valuetext', shown.textContent)
  }
  function set(number) {
    input.value = number
    say()
  }
  input.addEventListener('input', () => {
    say()
    change(Number(input.value))
  })
  say()
  const name = element('span', {text: label})
  const row = element('label', {class: 'live-slider'}, name, input, shown)
  return {row, set}
}

// Radio buttons, one for each name: arrow keys walk through them; `change` gets the index.
let groups = 0
const page = Math.random().toString(36).slice(2)
function choice(label, names, chosen, change) {
  const group = `live-${page}-${groups++}`
  const row = element('fieldset', {class: 'live-choice', 'aria-label': label})
  names.forEach((name, i) => {
    const input = element('input', {type: 'radio', name: group, onchange: () => change(i)})
    input.checked = i === chosen
    row.append(element('label', {}, input, element('span', {text: name})))
  })
  return row
}
