// Signs that Markdown would take for marks though a medical text means the sign itself: 1~2片, 5*10mg, > 38.5℃.
// Before the text is read, each is replaced by a code point that no text has (Unicode's noncharacters) and no rule of
// Markdown knows; in what was read, the signs are put back. So they can neither be marks nor get lost.

const SIGNS = '~*_<[>+&.)'
const FIRST = 0xfdd0
const NONCHARACTERS = /[\uFDD0-\uFDED]/g
/** Between these two stands the name of a note of the safety layer. */
export const NOTE_BEGIN = '\uFDEE'
export const NOTE_END = '\uFDEF'

const PROTECTED = new RegExp(
  [
    '(?<!\\\\)(?:',
    [
      '&(?=#)', // &#126; is shown as it is written
      '<(?=[A-Za-z/!?])', // HTML
      '(?<=!)\\[', // an image
      '~', // 1~2片 ... 2~3次 is not struck out
      '(?<=[\\p{L}\\p{N}])[*_](?=[\\p{L}\\p{N}])', // 5*10mg, H_2O
      '(?<=[A-Za-z0-9][*_]{0,3})[*_](?=[*_]{0,3}[A-Za-z0-9])', // 2**3, x**2
      '(?<=\\d[ \\t]?)\\*(?=[ \\t]?\\d)', // 5 *10mg
      '(?<=^[ \\t]*(?:(?:[-*+]|\\d{1,9}[.)])[ \\t]+)?)>(?=[ \\t]*[\\d.=≥≤])', // > 38.5℃ is no quotation
      '(?<=^[ \\t]*)\\+(?=[ \\t]+\\d)', // + 5 mmol is no item of a list
      '(?<=^[ \\t]*)\\[(?=[^\\]\\n]+\\]:)', // [16]: Li, 2004 is no definition, which would not be shown
      '(?<=^[ \\t]*0\\d{0,8})[.)](?=[ \\t])', // 01. as the number of an item would be shown as 1.
    ].join('|'),
    ')',
  ].join(''),
  'gmu',
)
const FENCE_LINE = /^ {0,3}~{3,}[^~\n]*$/

/** Hides the signs of a text that must stay as they are. */
export function protect(text: string): string {
  const clean = text.replace(NONCHARACTERS, '\uFFFD')
  return clean.replace(PROTECTED, (sign, at: number) => {
    if (sign === '~' && FENCE_LINE.test(lineAt(clean, at))) return sign // ~~~ begins and ends code
    return String.fromCharCode(FIRST + SIGNS.indexOf(sign))
  })
}

/** Puts the signs back in everything that was read of a protected text. */
export function restore<T>(value: T): T {
  if (typeof value === 'string') {
    return value.replace(NONCHARACTERS, (one) => SIGNS[one.charCodeAt(0) - FIRST] ?? one) as T
  }
  if (typeof value === 'object' && value !== null) {
    const record = value as Record<string, unknown>
    for (const key of Object.keys(record)) record[key] = restore(record[key])
  }
  return value
}

function lineAt(text: string, at: number): string {
  const begin = text.lastIndexOf('\n', at - 1) + 1
  const end = text.indexOf('\n', at)
  return text.slice(begin, end < 0 ? undefined : end)
}

/** The name of the nth note: letters, so that it adds no numbers to the text. */
export function noteName(index: number): string {
  return index < 26 ? String.fromCharCode(97 + index) : noteName(Math.floor(index / 26) - 1) + noteName(index % 26)
}
