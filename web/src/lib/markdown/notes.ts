// Marks the sentence that a note of the safety layer stands behind.

const BLOCK = 'p, li, td, th, h1, h2, h3, h4, h5, h6, blockquote'
const CLOSING = /[\s.。！？!?…"”’』」）)]+$/ // the sentence's own end
const END = /[.!?…]["”’』」）)]*\s+|[。！？…]["”’』」）)]*/g // of the sentence before; a point within 38.5 ends nothing

/** Puts the sentence before a note into a <mark>. A second note of the same sentence changes nothing. */
export function markSentence(note: HTMLElement): void {
  const block = note.closest(BLOCK)
  if (block === null) return
  const found = textsBefore(note, block)
  const text = found.map((one) => one.data).join('')
  const body = text.replace(CLOSING, '')
  let begin = 0
  for (const end of body.matchAll(END)) begin = end.index + end[0].length
  begin += /^\s*/.exec(text.slice(begin))?.[0].length ?? 0
  const last = found.at(-1)
  if (last === undefined || body.slice(begin).trim() === '') return
  const range = document.createRange()
  for (const one of found) {
    if (begin < one.length) {
      range.setStart(one, begin)
      break
    }
    begin -= one.length
  }
  range.setEnd(last, last.data.trimEnd().length)
  const mark = document.createElement('mark')
  mark.className = 'noted'
  mark.append(range.extractContents())
  range.insertNode(mark)
}

/** The texts of the note's line, behind a note or a block that stands before it. */
function textsBefore(note: HTMLElement, block: Element): Text[] {
  let found: Text[] = []
  const walker = document.createTreeWalker(block, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT)
  for (let node = walker.nextNode(); node !== null && node !== note; node = walker.nextNode()) {
    if (node instanceof Text) {
      if (node.parentElement?.closest('.note') == null) found.push(node)
    } else if (node instanceof Element && node.matches(`br, .note, ${BLOCK}, ul, ol, table, pre`)) found = []
  }
  return found
}
