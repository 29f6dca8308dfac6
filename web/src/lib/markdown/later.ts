// Formulas and coloured code: loaded when an answer has some, and only then.

/** Draws the formulas of a piece of the page as MathML, which needs no fonts and which screen readers can read. */
export async function drawFormulas(root: ParentNode): Promise<void> {
  const formulas = [...root.querySelectorAll<HTMLElement>('span.formula:not([data-drawn])')]
  if (formulas.length === 0) return
  // a part that cannot be loaded (no network, a newer server): the formula stays as it was written
  const katex = await import('katex').then((part) => part.default).catch(() => null)
  if (katex === null) return
  for (const formula of formulas) {
    const source = formula.textContent ?? ''
    const tex = source.replace(/^(\$\$?|\\\(|\\\[)\s*|\s*(\$\$?|\\\)|\\\])$/g, '')
    formula.dataset.drawn = ''
    try {
      katex.render(tex, formula, {
        output: 'mathml',
        displayMode: formula.dataset.display !== undefined,
        throwOnError: true,
        strict: false,
        trust: false,
        maxExpand: 200,
      })
      keepWithNext(formula)
    } catch {
      formula.textContent = source // what is no formula stays as it was written
    }
  }
}

/** A line may end behind a drawn formula: the full stop that follows it would begin the next one. */
function keepWithNext(formula: HTMLElement): void {
  const next = formula.nextSibling
  const marks = next instanceof Text ? (/^[。，、；：？！）」』”’.,;:?!)\]]+/.exec(next.data)?.[0] ?? '') : ''
  if (marks === '' || formula.dataset.display !== undefined) return
  const whole = document.createElement('span')
  whole.className = 'unbroken'
  formula.before(whole)
  whole.append(formula, marks)
  ;(next as Text).deleteData(0, marks.length)
}

/** Colours code whose language is named. */
export async function colourCode(root: ParentNode): Promise<void> {
  const blocks = [...root.querySelectorAll<HTMLElement>('pre > code[class^="language-"]:not([data-drawn])')]
  if (blocks.length === 0) return
  const highlight = await import('./highlight').then((part) => part.highlight).catch(() => null)
  if (highlight === null) return
  for (const block of blocks) {
    block.dataset.drawn = ''
    highlight(block)
  }
}
