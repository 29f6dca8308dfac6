// How a mention is meant: said of now, or denied, past, asked about, supposed. `carellama.safety.rules.context`.
import type { FlagName } from './data'
import type { Found, Mention } from './lexicon'
import { bisect, LETTERS_PER_WORD, type Plain, type Sentences } from './text'

export const DENIED = 1
export const PAST = 2
export const QUESTION = 4
export const SUPPOSED = 8
export const ALL = 15
const BITS: Record<FlagName, number> = { denied: DENIED, past: PAST, question: QUESTION, supposed: SUPPOSED }

const DENIED_WORDS = 12 // reach of a denial before a list of signs
const NEXT_WORDS = 4 // of "not" and its like
const AFTER_WORDS = 2
const SUDDEN = / ?(?:突然|忽然|一下子|猛地|猛然|suddenly)/y // right behind a denial it is denied, and no contrast

const CONCEPTS = [
  ...['_deny', '_deny_next', '_deny_after', '_not_deny', '_contrast'],
  ...['_past', '_now', '_question', '_person', '_if', '_fiction', '_taken_back'],
]

export function bits(names: FlagName[]): number {
  return names.reduce((sum, name) => sum | BITS[name], 0)
}

/** Mentions of a concept of the context, in order, and the sentences that they are in. */
class Words {
  readonly starts: number[]
  readonly sentences: Set<number>

  constructor(
    sentences: Sentences,
    readonly mentions: Mention[],
  ) {
    this.starts = mentions.map((one) => one.start)
    this.sentences = new Set(this.starts.map((start) => sentences.of(start)))
  }
}

export class Context {
  private readonly sentences: Sentences
  private readonly words: Record<string, Words>
  private readonly deny: Words
  private readonly wide: Set<string>
  private readonly changed: Set<number>
  private readonly turns: number[]
  private readonly takenBack: [number, number][]

  constructor(
    private readonly plain: Plain,
    found: Found,
    private readonly newClause: RegExp, // sticky is not set: it is searched in a stretch
  ) {
    const text = plain.text
    this.sentences = found.sentences
    this.words = Object.fromEntries(CONCEPTS.map((name) => [name, new Words(this.sentences, found.mentions(name))]))
    const voided = new Set<number>()
    for (const one of this.of('_not_deny').mentions) for (let at = one.start; at < one.end; at++) voided.add(at)
    const wide = this.of('_deny').mentions
    const every = [...wide, ...this.of('_deny_next').mentions].filter((one) => !voided.has(one.start))
    this.deny = new Words(
      this.sentences,
      every.sort((a, b) => a.start - b.start),
    )
    this.wide = new Set(wide.map((one) => `${one.start} ${one.end}`))
    this.changed = new Set(this.deny.sentences)
    for (const name of ['_deny_after', '_past', '_if', '_question']) {
      for (const sentence of this.of(name).sentences) this.changed.add(sentence)
    }
    const lines = [...text.matchAll(/\n/g)].map((one) => one.index + 1)
    this.turns = this.of('_fiction').mentions.length > 0 ? [0, ...lines, text.length] : []
    this.takenBack = this.of('_taken_back').mentions.flatMap((one) => lineBefore(text, one.start))
  }

  private of(name: string): Words {
    return this.words[name] as Words
  }

  /** How the mention is meant; 0: the person has it now. */
  flags(mention: Mention): number {
    return this.isPlain(mention.start, mention.end) ? 0 : this.read(mention)
  }

  /** Whether nothing around a place can change how a mention there is meant. */
  isPlain(start: number, end: number): boolean {
    const sentence = this.sentences.of(start)
    if (this.changed.has(sentence) || this.turns.length > 0 || this.takenBack.length > 0) return false
    const last = this.sentences.ends[sentence]
    return last === undefined || end <= last
  }

  private read(mention: Mention): number {
    let flags = 0
    const sentence = this.sentences.of(mention.start)
    if (mention.spans.some((span) => this.isDenied(mention, span)) || this.isDeniedAfter(mention)) flags |= DENIED
    const [begin, end] = this.sentences.bounds(sentence)
    const past = this.of('_past').sentences.has(sentence)
    const supposed = this.of('_if').sentences.has(sentence)
    if (past || supposed) {
      const [from, to] = this.clause(mention, begin, end, false)
      if (past && this.has('_past', from, to, mention) && !this.has('_now', this.clause(mention, begin, end, true)[0], to)) flags |= PAST
      if (supposed && this.has('_if', from, mention.start)) flags |= SUPPOSED
    }
    const asked = this.of('_question').sentences.has(sentence) && this.has('_question', begin, end, mention)
    if (asked && !this.has('_person', begin, end)) flags |= QUESTION
    if (this.turns.length > 0) {
      const [from, to] = around(this.turns, mention.start)
      if (this.has('_fiction', from, to, mention)) flags |= QUESTION
    }
    if (this.takenBack.some(([from, to]) => from <= mention.start && mention.start < to)) flags |= PAST
    return flags
  }

  /** The part of the sentence between the words of contrast around the mention. */
  private clause(mention: Mention, begin: number, end: number, fromWord: boolean): [number, number] {
    const { mentions, starts } = this.of('_contrast')
    const at = bisect(starts, mention.start)
    let from = -1
    for (const one of mentions.slice(Math.max(0, at - 3), at)) {
      if (begin <= one.start && one.end <= mention.start) from = Math.max(from, fromWord ? one.start : one.end)
    }
    const after = mentions[bisect(starts, mention.end)]
    return [from < 0 ? begin : from, after !== undefined && after.start < end ? after.start : end]
  }

  /** Whether a word of the kind stands in the stretch, outside of the mention itself. */
  private has(name: string, begin: number, end: number, besides: Mention | null = null): boolean {
    const words = this.of(name)
    for (let at = bisect(words.starts, begin); at < words.starts.length; at++) {
      const word = words.mentions[at] as Mention
      if (word.start >= end) break
      if (word.end <= end && (besides === null || !overlaps(word, besides.spans))) return true
    }
    return false
  }

  private isDenied(mention: Mention, span: [number, number]): boolean {
    const sentence = this.sentences.of(span[0])
    if (!this.deny.sentences.has(sentence)) return false
    const begin = this.sentences.bounds(sentence)[0]
    const at = bisect(this.deny.starts, span[0], true)
    for (const word of this.deny.mentions.slice(Math.max(0, at - 3), at).reverse()) {
      if (word.start < begin || word.end > span[0] || overlaps(word, mention.spans)) continue
      const wide = this.wide.has(`${word.start} ${word.end}`)
      if (this.reaches(word.end, span[0], wide ? DENIED_WORDS : NEXT_WORDS, wide)) return true
    }
    return false
  }

  private reaches(begin: number, end: number, words: number, throughCommas: boolean): boolean {
    if (end - begin > words * LETTERS_PER_WORD || this.plain.words(begin, end) > words) return false
    const text = this.plain.text
    SUDDEN.lastIndex = begin
    const sudden = SUDDEN.exec(text.slice(0, end))
    if (this.has('_contrast', sudden ? begin + sudden[0].length : begin, end)) return false
    const between = text.slice(begin, end)
    if (!between.includes(',') && !between.includes(':')) return true
    if (!throughCommas || !this.plain.isAscii(begin, end)) return false
    this.newClause.lastIndex = begin
    return !this.newClause.test(text.slice(0, end + 1))
  }

  private isDeniedAfter(mention: Mention): boolean {
    const words = this.of('_deny_after')
    const word = words.mentions[bisect(words.starts, mention.end)]
    if (word === undefined || overlaps(word, mention.spans)) return false
    if (word.start - mention.end > AFTER_WORDS * LETTERS_PER_WORD) return false
    const text = this.plain.text
    if (this.plain.words(mention.end, word.start) > AFTER_WORDS) return false
    if (/[,;。.!?\n]/.test(text.slice(mention.end, word.start))) return false
    return !/[\p{L}\p{N}]/u.test(text[word.end] ?? '') // "胸痛没有缓解" denies no pain
  }
}

/** The turn that a place is in. */
function around(turns: number[], place: number): [number, number] {
  const at = bisect(turns.slice(0, -1), place, true)
  return [turns[at - 1] as number, turns[at] as number]
}

/** The line before the one that begins at a place; [] where no line begins there, or it is the first. */
function lineBefore(text: string, place: number): [number, number][] {
  const end = place === 0 ? -1 : text.lastIndexOf('\n', place - 1)
  if (end < 0 || text.slice(end, place).trim() !== '') return []
  return [[end === 0 ? 0 : text.lastIndexOf('\n', end - 1) + 1, end]]
}

function overlaps(word: Mention, spans: [number, number][]): boolean {
  return spans.some(([start, end]) => word.start < end && start < word.end)
}
