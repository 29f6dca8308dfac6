// Whether the box for a question and the last notice of an emergency are in sight. An expression.
(() => {
  const seen = (one) => {
    const box = one.getBoundingClientRect()
    const found = document.elementFromPoint((box.left + box.right) / 2, (box.top + box.bottom) / 2)
    return box.top >= -1 && box.bottom <= innerHeight + 1 && found !== null && (one.contains(found) )
  }
  const notices = [...document.querySelectorAll('main article section.emergency')]
  const last = notices.at(-1)
  return {
    box: seen(document.querySelector('form textarea')) && seen(document.querySelector('form button.primary')),
    heading: last ? seen(last.querySelector('.heading')) : null,
    number: last ? [...last.querySelectorAll('a[href^="tel:"]')].some(seen) : null,
  }
})()
