// What is cut, covered or too small to be tapped in the page as it is shown. An expression: {faults, targets}.
(async () => {
  const faults = []
  const dialog = document.querySelector('dialog[open]'), drawer = document.querySelector('.page.drawer .side')
  const scope = dialog ?? drawer ?? document.body
  const words = (one) => (one.getAttribute('aria-label') || one.innerText || one.title || '').slice(0, 40)
  const name = (one) => `${one.tagName.toLowerCase()} "${words(one)}"`
  const seen = (one) => one.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && !one.closest('[inert], .offscreen, .skip, [hidden]')
  const scrolls = (one) => /(auto|scroll)/.test(getComputedStyle(one).overflowX)
  const page = document.documentElement
  if (page.scrollWidth > page.clientWidth + 1) faults.push(`${page.scrollWidth} wide in a window of ${page.clientWidth}`)

  // cut: wider than what holds it, where that does not scroll to the side
  for (const one of scope.querySelectorAll('*')) {
    if (!seen(one) || one.closest('svg, math') || one.matches('textarea, input, select')) continue
    const style = getComputedStyle(one)
    if (one.closest('pre, .scroll, .formula') === null) {
      const box = one.getBoundingClientRect()
      if (box.width > 1 && (box.left < -1 || box.right > page.clientWidth + 1)) faults.push(`outside of the window: ${name(one)}`)
      if (scrolls(one) && one.scrollWidth > one.clientWidth + 1) faults.push(`scrolls to the side: ${name(one)}`)
    }
    if (style.overflowX === 'hidden' && style.textOverflow !== 'ellipsis' && one.clientWidth > 1 && one.scrollWidth > one.clientWidth + 1)
      faults.push(`cut: ${name(one)}`)
  }

  // targets: 24 by 24, or no other within the circle of 24 around its middle (WCAG 2.5.8); a link in a sentence is free
  const targets = [...scope.querySelectorAll('a[href], button, input, select, textarea, summary')].filter(seen)
  const areas = targets.map((one) => (one.closest('label') ?? one).getBoundingClientRect())
  const middle = (box) => [(box.left + box.right) / 2, (box.top + box.bottom) / 2]
  const distance = ([x, y], box) => Math.hypot(Math.max(box.left - x, 0, x - box.right), Math.max(box.top - y, 0, y - box.bottom))
  targets.forEach((one, at) => {
    const box = areas[at]
    if (box.width >= 23.9 && box.height >= 23.9) return
    if (one.matches('p a, li a') && one.closest('nav') === null && getComputedStyle(one).display === 'inline') return
    const near = areas.some((other, index) => index !== at && distance(middle(box), other) < 12)
    if (near) faults.push(`a target of ${Math.round(box.width)}x${Math.round(box.height)} beside another: ${name(one)}`)
  })

  // covered: brought into view, the middle of a target is that target
  const frames = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))
  const free = (one) => [...one.getClientRects()].some((box) => {
    const found = document.elementFromPoint(...middle(box))
    const label = one.closest('label')
    return found !== null && (one.contains(found) || (label !== null && label.contains(found)))
  })
  for (const one of targets.filter((other) => !other.disabled)) {
    one.scrollIntoView({ block: 'nearest', inline: 'nearest' })
    if (free(one)) continue
    await frames() // the button to the end goes away when the end is reached
    one.scrollIntoView({ block: 'nearest', inline: 'nearest' })
    if (one.isConnected && !free(one)) faults.push(`covered: ${name(one)}`)
  }
  return { faults, targets: targets.length }
})()
