// What of an answer is drawn how: thoughts are folded, notices stand out, the rest is Markdown with marks in it.
import type { Notice, Segment } from '../types'
import { t, tOr } from '../i18n/index.svelte'
import { NOTE_BEGIN, NOTE_END, noteName } from '../markdown/signs'

export type Part =
  | { kind: 'text'; text: string; notes: Notice[] }
  | { kind: 'thoughts'; text: string; open: boolean } // open: still being thought
  | { kind: 'notice'; notice: Notice; text: string; first: boolean } // first: stands above the answer

// Of these the text stands in its own box; every other kind marks the sentence before it.
const BOXES = new Set(['emergency', 'refusal', 'caution', 'contradiction', 'disclaimer'])
const OPEN = '<think>'
const CLOSE = '</think>'
// A section of that name at the beginning; the next heading of its rank ends it.
const SECTION = /^\s*##[ \t]+(?:Thinking|思考过程|思考)[ \t]*:?[ \t]*\n/
const SECTION_END = /\n##[ \t]+(?:Final Response|Answer|最终回答|回答)[ \t]*:?[ \t]*(?:\n|$)|\n(?=##[ \t]+\S)/

/** Splits a text at its thoughts. `open`: it begins within one. */
export function splitThoughts(text: string, thinking = false): { parts: Part[]; thinking: boolean } {
  const parts: Part[] = []
  const add = (kind: 'text' | 'thoughts', piece: string, open = false): void => {
    if (piece.trim() === '' && kind === 'thoughts' && !open) return
    if (piece === '' && kind === 'text') return
    parts.push(kind === 'text' ? { kind, text: piece, notes: [] } : { kind, text: piece.trim(), open })
  }
  const section = thinking ? null : SECTION.exec(text)
  if (section !== null) {
    const rest = text.slice(section[0].length)
    const end = SECTION_END.exec(rest)
    if (end === null) {
      add('thoughts', rest, true)
      return { parts, thinking: false }
    }
    add('thoughts', rest.slice(0, end.index))
    text = rest.slice(end.index + end[0].length)
  }
  // Some templates put <think> into the prompt, so that an answer has its end alone.
  const first = text.indexOf(CLOSE)
  if (!thinking && first >= 0 && (text.indexOf(OPEN) < 0 || text.indexOf(OPEN) > first)) thinking = true
  while (text !== '') {
    const at = text.indexOf(thinking ? CLOSE : OPEN)
    if (at < 0) {
      add(thinking ? 'thoughts' : 'text', text, thinking)
      break
    }
    add(thinking ? 'thoughts' : 'text', text.slice(0, at))
    text = text.slice(at + (thinking ? CLOSE : OPEN).length)
    thinking = !thinking
  }
  return { parts, thinking }
}

/** The parts of an answer, in order; neighbouring texts are one, with the notes of their sentences in it. */
export function partsOf(segments: Segment[], reasoning = ''): Part[] {
  const parts: Part[] = []
  let thinking = false
  let spoken = false // whether the model has said something before
  const said = new Set<string>() // notices that an answer which was continued has twice
  if (reasoning !== '') parts.push({ kind: 'thoughts', text: reasoning.trim(), open: segments.length === 0 })
  for (const [at, segment] of segments.entries()) {
    const boxes = segment.notices.filter((notice) => BOXES.has(notice.kind))
    for (const [index, notice] of boxes.entries()) {
      // the segment's own text says it all together; a second notice of the same text adds nothing
      const text = (boxes.length === 1 && segment.text.trim()) || notice.text
      if (index > 0 && text === boxes[index - 1]?.text) continue
      if (said.has(text)) continue
      said.add(text)
      const first = notice.level === 'emergency' || notice.level === 'urgent' ? notice.kind === 'emergency' : !spoken
      parts.push({ kind: 'notice', notice, text, first: first && notice.kind !== 'disclaimer' })
    }
    if (segment.notices.length > 0) {
      const notes = segment.notices.filter((notice) => !BOXES.has(notice.kind))
      if (notes.length > 0) addNotes(parts, notes)
      continue
    }
    spoken ||= segment.text.trim() !== ''
    const split = splitThoughts(segment.text, thinking)
    thinking = split.thinking
    const last = at === segments.length - 1
    for (const part of split.parts) {
      const before = parts.at(-1)
      if (part.kind === 'text' && before?.kind === 'text') before.text += part.text
      else if (part.kind === 'thoughts') parts.push({ ...part, open: part.open && last })
      else parts.push(part)
    }
  }
  return parts
}

/** What a sentence is marked for, in words. */
export function noteKind(note: Notice): string {
  return tOr(`kind_${note.kind}`, t('kind_other'))
}

const NOTES = new RegExp(`${NOTE_BEGIN}[a-z]+${NOTE_END}`, 'g')

/** The text of a part where nothing can be drawn: its notes stand in brackets behind their sentences. */
export function plainText(part: Part): string {
  if (part.kind !== 'text') return part.text
  let at = 0
  return part.text.replace(NOTES, () => {
    const note = part.notes[at++]
    return note === undefined ? '' : ` [${noteKind(note)}${t('colon')}${note.text}]`
  })
}

/** Puts marks for notes behind the text that they are about. */
function addNotes(parts: Part[], notes: Notice[]): void {
  let before = parts.at(-1)
  if (before?.kind !== 'text') {
    before = { kind: 'text', text: '', notes: [] }
    parts.push(before)
  }
  for (const note of notes) {
    before.text += NOTE_BEGIN + noteName(before.notes.length) + NOTE_END
    before.notes.push(note)
  }
}
