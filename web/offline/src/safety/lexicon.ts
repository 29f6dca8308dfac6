// Where a text mentions the concepts of the rules: `carellama.rules` and `carellama.mention_table`, one mention at a time.
import type { LexiconData } from './data'
import { bisect, LETTERS_PER_WORD, type Plain, Sentences } from './text'

const REPEATS = 40 // of one word at the beginning of a text, and at its end: what stands between is left out
const GAP = 8 // words between two parts of a term
const LOOK_BACK = 4 // mentions that begin before another, among which the one that ended last is looked for

export interface Mention {
  start: number
  end: number
  spans: [number, number][]
  value: number | null
}

interface Base {
  unit: number
  start: number
  end: number
  value: number | null
  left: Base | null
  right: Base | null
  given: Mention | null
}

interface Word {
  text: string
  id: number
}

interface Match {
  id: number
  start: number
  end: number
}

interface Term {
  unit: number
  parts: number[]
  ordered: boolean
}

interface Level {
  terms: Term[]
  steps: number // of the longest
  reached: number[][] // of each unit, the slots that are parts of these terms
}

export class Lexicon {
  readonly units = new Map<string, number>()
  private readonly words: Word[]
  private readonly first = new Map<string, [number, number]>() // by the first letter, which words
  private readonly unitOf: number[] = []
  private readonly flags: string
  private readonly levels: Level[]

  constructor(
    private readonly data: LexiconData,
    private readonly sentenceEnd: RegExp,
  ) {
    data.names.forEach((name, at) => this.units.set(name, at))
    for (const [first, count] of data.units) for (let at = 0; at < count; at++) this.unitOf.push(first + at)
    this.flags = data.flags
    this.words = data.words.split('\n').map((text, id) => ({ text, id }))
    this.words.sort((a, b) => (a.text < b.text ? -1 : a.text > b.text ? 1 : a.id - b.id))
    for (const [at, word] of this.words.entries()) {
      const letter = word.text[0] as string
      const known = this.first.get(letter)
      if (known === undefined) this.first.set(letter, [at, at + 1])
      else known[1] = at + 1
    }
    const numbers = [...new Set(data.terms.map((term) => term[3]))].sort((a, b) => a - b)
    this.levels = numbers.map((number) => {
      const terms = data.terms
        .filter((term) => term[3] === number)
        .map(([unit, parts, ordered]) => ({ unit, parts, ordered: ordered === 1 }))
      const wanted = new Set(terms.flatMap((term) => term.parts))
      return {
        terms,
        steps: Math.max(...terms.map((term) => term.parts.length)),
        reached: data.reached.map((slots) => slots.filter((slot) => wanted.has(slot))),
      }
    })
  }

  /** The mentions of each concept; `given` are numbers, which terms may refer to. */
  find(plain: Plain, given: Map<string, Mention[]>): Found {
    const sentences = new Sentences(plain, this.sentenceEnd)
    const nothing = this.data.reached.length
    const known: [string, Base][] = []
    for (const [name, mentions] of given) {
      for (const one of mentions) {
        const unit = this.units.get(name) ?? nothing
        known.push([name, { unit, start: one.start, end: one.end, value: one.value, left: null, right: null, given: one }])
      }
    }
    let bases = inOrder([...known.map(([, base]) => base), ...this.wordsOf(plain)])
    for (const level of this.levels) {
      const rows = rowsOf(bases, level.reached, this.data.slots)
      if (rows.reduce((sum, one) => sum + one.length, 0) < 2) continue
      const made = join(level, bases, rows, new Near(plain, sentences), nothing)
      if (made.length > 0) bases = inOrder([...bases, ...made])
    }
    return new Found(sentences, this.units, bases, rowsOf(bases, this.data.reached, this.data.slots), known)
  }

  private wordsOf(plain: Plain): Base[] {
    const matches = this.matches(plain.text)
    const bases: Base[] = []
    for (const [at, { id, start, end }] of matches.entries()) {
      const flags = Number(this.flags[id])
      if (flags & 1 && isLatin(plain.text, start - 1)) continue
      if (flags & 2 && isLatin(plain.text, end)) continue
      if (flags & 4 && isCut(matches, at)) continue
      bases.push({ unit: this.unitOf[id] as number, start, end, value: null, left: null, right: null, given: null })
    }
    return firstAndLast(bases)
  }

  /** All words that a text has, in the order of their ends, at one end the longest first. */
  private matches(text: string): Match[] {
    const found: Match[] = []
    for (let start = 0; start < text.length; start++) {
      const range = this.first.get(text[start] as string)
      if (range === undefined) continue
      let [low, high] = range
      for (let depth = 1; low < high; depth++) {
        while (low < high && (this.words[low] as Word).text.length === depth) {
          found.push({ id: (this.words[low] as Word).id, start, end: start + depth })
          low++
        }
        const next = text[start + depth]
        if (next === undefined) break
        low = this.bound(low, high, depth, next, false)
        high = this.bound(low, high, depth, next, true)
      }
    }
    return found.sort((a, b) => a.end - b.end || a.start - b.start || a.id - b.id)
  }

  /** Among words that begin alike, where those with this next letter begin, or end. */
  private bound(low: number, high: number, depth: number, letter: string, end: boolean): number {
    while (low < high) {
      const middle = (low + high) >> 1
      const here = (this.words[middle] as Word).text[depth] as string
      if (here < letter || (end && here === letter)) low = middle + 1
      else high = middle
    }
    return low
  }
}

function isLatin(text: string, at: number): boolean {
  return /[a-z0-9]/.test(text[at] ?? '')
}

/** Whether a longer word begins within a match and ends after it: 没有呼吸 in 没有呼吸困难. */
function isCut(matches: Match[], at: number): boolean {
  const { start, end } = matches[at] as Match
  for (const other of matches.slice(at + 1, at + 40)) {
    if (other.end > end + 8) return false
    if (start < other.start && other.start < end && end < other.end && other.end - other.start > 2) return true
  }
  return false
}

function firstAndLast(bases: Base[]): Base[] {
  const counts = new Map<number, number>()
  for (const base of bases) counts.set(base.unit, (counts.get(base.unit) ?? 0) + 1)
  const seen = new Map<number, number>()
  return bases.filter((base) => {
    const number = seen.get(base.unit) ?? 0
    seen.set(base.unit, number + 1)
    return number < REPEATS || number >= (counts.get(base.unit) as number) - REPEATS
  })
}

function inOrder(bases: Base[]): Base[] {
  return bases.sort((a, b) => a.start - b.start || a.end - b.end) // stable
}

/** Of each slot, the numbers of its mentions in order. */
function rowsOf(bases: Base[], reached: number[][], slots: number): number[][] {
  const rows: number[][] = Array.from({ length: slots }, () => [])
  for (const [row, base] of bases.entries()) for (const slot of reached[base.unit] ?? []) rows[slot]?.push(row)
  return rows
}

class Near {
  constructor(
    private readonly plain: Plain,
    private readonly sentences: Sentences,
  ) {}

  /** Whether few words stand between, and no end of a sentence. */
  close(begin: number, end: number): boolean {
    const letters = end - begin
    if (letters < 0 || letters > GAP * LETTERS_PER_WORD || this.plain.words(begin, end) > GAP) return false
    return this.sentences.of(begin) === this.sentences.of(end)
  }
}

interface Partial {
  term: Term
  left: Base
  start: number
  end: number
  value: number | null
}

/** Each first part of a term with the nearest of every next part. What is only its beginning counts for nothing. */
function join(level: Level, bases: Base[], rows: number[][], near: Near, nothing: number): Base[] {
  const starts = bases.map((base) => base.start)
  const made: Base[] = []
  let open: Partial[] = []
  for (const term of level.terms) {
    if (term.parts.some((part) => rows[part]?.length === 0)) continue
    for (const row of rows[term.parts[0] as number] as number[]) {
      const left = bases[row] as Base
      open.push({ term, left, start: left.start, end: left.end, value: left.value })
    }
  }
  for (let step = 1; step < level.steps; step++) {
    const next: Partial[] = []
    for (const one of open) {
      const slot = one.term.parts[step]
      if (slot === undefined) continue
      const right = nearest(bases, starts, rows[slot] as number[], near, one, one.term.ordered)
      if (right === null) continue
      const start = Math.min(one.start, right.start)
      const end = Math.max(one.end, right.end)
      const value = right.value ?? one.value
      const unit = one.term.parts.length === step + 1 ? one.term.unit : nothing
      const base: Base = { unit, start, end, value, left: one.left, right, given: null }
      made.push(base)
      next.push({ term: one.term, left: base, start, end, value })
    }
    if (next.length === 0) break
    open = next
  }
  return made
}

/** The mention that begins where another ends, or later; else the one before, if it may stand there. */
function nearest(bases: Base[], starts: number[], rows: number[], near: Near, one: Partial, ordered: boolean): Base | null {
  const behind = rows[bisect(rows, bisect(starts, one.end))]
  if (behind !== undefined && near.close(one.end, (bases[behind] as Base).start)) return bases[behind] as Base
  if (ordered) return null
  const at = bisect(rows, bisect(starts, one.start, true))
  for (let back = 1; back <= LOOK_BACK && at - back >= 0; back++) {
    const before = bases[rows[at - back] as number] as Base
    if (near.close(before.end, one.start)) return before
  }
  return null
}

/** The concepts that a text mentions. Mentions are numbered in the order of their places. */
export class Found {
  readonly starts: number[]
  readonly ends: number[]
  private readonly others = new Map<string, number[]>() // of what the lexicon knows nothing of
  private readonly made: (Mention | undefined)[]

  constructor(
    readonly sentences: Sentences,
    private readonly units: Map<string, number>,
    private readonly bases: Base[],
    private readonly rows: number[][],
    known: [string, Base][],
  ) {
    this.starts = bases.map((base) => base.start)
    this.ends = bases.map((base) => base.end)
    this.made = new Array<Mention | undefined>(bases.length)
    for (const [name, base] of known) {
      if (units.has(name)) continue
      const numbers = this.others.get(name) ?? []
      numbers.push(bases.indexOf(base))
      this.others.set(name, numbers)
    }
  }

  numbers(concept: string): number[] {
    const slot = this.units.get(concept)
    return slot === undefined ? (this.others.get(concept) ?? []) : (this.rows[slot] ?? [])
  }

  has(concept: string): boolean {
    return this.numbers(concept).length > 0
  }

  mention(number: number): Mention {
    return (this.made[number] ??= mentionOf(this.bases[number] as Base))
  }

  mentions(concept: string): Mention[] {
    return this.numbers(concept).map((number) => this.mention(number))
  }
}

function mentionOf(base: Base): Mention {
  if (base.given !== null) return base.given
  if (base.left === null || base.right === null) {
    return { start: base.start, end: base.end, spans: [[base.start, base.end]], value: null }
  }
  const spans = [...mentionOf(base.left).spans, ...mentionOf(base.right).spans]
  return { start: base.start, end: base.end, spans, value: base.value }
}
