// Telephone numbers in a notice, as links that a phone dials.

import type { Numbers } from './types'

export interface Stretch {
  text: string
  tel: string // "" where it is text
  strong: boolean
}

/** What can be dialled of "111 (option 2) / 116 123"; of several countries, where a notice may be of any. */
export function dialable(...countries: Numbers[]): string[] {
  const found = countries.flatMap((one) => Object.values(one)).flatMap((value: string) => value.split('/'))
  const clean = found.map((one) => one.replace(/\(.*?\)/g, '').trim()).filter((one) => /^[\d +-]{2,}$/.test(one))
  return [...new Set(clean)].sort((a, b) => b.length - a.length)
}

/** A notice with its bold words and numbers. Digits before or behind are another number: 120 is not in 1200 or 0.120. */
export function stretches(text: string, numbers: string[]): Stretch[] {
  const escaped = numbers.map((one) => one.replace(/[+]/g, '\\+'))
  const number = escaped.length > 0 ? new RegExp(`(?<![\\d.,/-])(?:${escaped.join('|')})(?![\\d/-]|[.,]\\d)`, 'g') : null
  const out: Stretch[] = []
  for (const [at, piece] of text.split('**').entries()) {
    const strong = at % 2 === 1
    let from = 0
    for (const found of number ? piece.matchAll(number) : []) {
      if (found.index > from) out.push({ text: piece.slice(from, found.index), tel: '', strong })
      out.push({ text: found[0], tel: found[0].replace(/[^\d+]/g, ''), strong })
      from = found.index + found[0].length
    }
    if (from < piece.length) out.push({ text: piece.slice(from), tel: '', strong })
  }
  return out
}
