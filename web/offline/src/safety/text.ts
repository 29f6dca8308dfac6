// A text in the form that is matched: `carellama.rules.normalize`. Places in it are code points, as in Python.
const QUESTION_MARK = 0x3f
// Stand for characters above U+FFFF, so that each character is one place; no rule has a word of them.
const WIDE_LETTER = '\ua000'
const WIDE_SIGN = '\ue000'
export const LETTERS_PER_WORD = 6

export class Letters {
  private readonly table = new Map<number, number>()

  constructor(pairs: string) {
    const codes = Array.from(pairs, (one) => one.codePointAt(0) as number)
    for (let at = 0; at < codes.length; at += 2) this.table.set(codes[at] as number, codes[at + 1] as number)
  }

  /** The text in lower case, simplified, with plain marks: of the same length in code points. */
  normalize(text: string): Plain {
    const codes: number[] = []
    const letters: string[] = []
    for (const letter of text) {
      const given = letter.codePointAt(0) as number
      const code = given >= 0xd800 && given < 0xe000 ? QUESTION_MARK : (this.table.get(given) ?? given)
      const plain = String.fromCodePoint(code)
      const lower = plain.toLowerCase()
      const one = Array.from(lower).length === 1 ? lower : plain
      codes.push(one.codePointAt(0) as number)
      letters.push(one.length === 1 ? one : /[\p{L}\p{N}]/u.test(one) ? WIDE_LETTER : WIDE_SIGN)
    }
    return new Plain(letters.join(''), codes)
  }
}

/** A normalized text; how many words stand between two of its places. */
export class Plain {
  readonly length: number
  private readonly bytes: number[] = [0] // of UTF-8 up to each place, more than one for each character

  constructor(
    readonly text: string,
    codes: number[],
  ) {
    this.length = codes.length
    let more = 0
    for (const code of codes) {
      more += (code > 0x7f ? 1 : 0) + (code > 0x7ff ? 1 : 0) + (code > 0xffff ? 1 : 0)
      this.bytes.push(more)
    }
  }

  /** Roughly how many words: Chinese characters, and Latin letters by six. */
  words(begin: number, end: number): number {
    const letters = end - begin
    const wide = ((this.bytes[end] as number) - (this.bytes[begin] as number)) / 2
    return wide + Math.max(0, letters - wide) / LETTERS_PER_WORD
  }

  isAscii(begin: number, end: number): boolean {
    return this.bytes[begin] === this.bytes[end]
  }
}

/** The first place of a sorted list at or behind which `value` belongs; `right`: behind equal ones. */
export function bisect(list: number[], value: number, right = false): number {
  let low = 0
  let high = list.length
  while (low < high) {
    const middle = (low + high) >> 1
    const here = list[middle] as number
    if (here < value || (right && here === value)) low = middle + 1
    else high = middle
  }
  return low
}

/** Where the sentences of a text end. */
export class Sentences {
  readonly ends: number[] = []

  constructor(
    private readonly plain: Plain,
    end: RegExp,
  ) {
    for (const found of plain.text.matchAll(end)) this.ends.push(found.index)
  }

  of(place: number): number {
    return bisect(this.ends, place)
  }

  bounds(number: number): [number, number] {
    const begin = number > 0 ? (this.ends[number - 1] as number) + 1 : 0
    return [begin, number < this.ends.length ? (this.ends[number] as number) + 1 : this.plain.length]
  }
}
