// Which rules fire on a text: `carellama.safety.rules.rule_set`.
import { ALL, bits, type Context, PAST } from './context'
import type { ConditionData, RuleData } from './data'
import type { Found } from './lexicon'
import { bisect, LETTERS_PER_WORD, type Plain } from './text'

const EVERYWHERE = 1e9
const COMPARED: Record<string, (a: number, b: number) => boolean> = {
  '<=': (a, b) => a <= b,
  '>=': (a, b) => a >= b,
  '<': (a, b) => a < b,
  '>': (a, b) => a > b,
}

interface Query {
  entry: ConditionData[]
  ignored: number // flags that do not matter
}

interface Slots {
  rule: RuleData
  find: number[]
  who: number[]
  unless: number | null
  needs: string[][] // of each other entry, the concepts: one must be there
}

export class Rules {
  private readonly slots: Slots[]
  private readonly queries: Query[] = []
  private readonly numbered = new Map<string, number>()

  constructor(rules: RuleData[]) {
    this.slots = rules.map((rule) => {
      const evenIf = bits(rule.even_if ?? [])
      return {
        rule,
        find: rule.find.map((entry) => this.query(entry, evenIf)),
        who: (rule.who ?? []).map((entry) => this.query(entry, evenIf | PAST)),
        unless: rule.unless ? this.query(rule.unless, bits(rule.unless_even_if)) : null,
        needs: [...rule.find, ...(rule.who ?? [])].map((entry) => entry.map(conceptOf)),
      }
    })
  }

  private query(entry: ConditionData[], ignored: number): number {
    const key = JSON.stringify([entry, ignored])
    const known = this.numbered.get(key)
    if (known !== undefined) return known
    this.numbered.set(key, this.queries.length)
    return this.queries.push({ entry, ignored }) - 1
  }

  /** The rules that fire, in the order of the files. */
  match(plain: Plain, found: Found, context: Context): RuleData[] {
    const matcher = new Matcher(plain, found, context, this.queries)
    const able = this.slots.filter(({ needs }) => needs.every((concepts) => concepts.some((one) => found.has(one))))
    return able.filter((one) => matcher.fires(one)).map(({ rule }) => rule)
  }
}

function conceptOf(condition: ConditionData): string {
  return typeof condition === 'string' ? condition : condition[0]
}

/** The mentions that may answer a query, in order. */
interface Answers {
  numbers: number[]
  ignored: number
}

class Matcher {
  private readonly longest: number // characters of a mention
  private readonly flags: (number | undefined)[]
  private readonly answers = new Map<number, Answers>()

  constructor(
    private readonly plain: Plain,
    private readonly found: Found,
    private readonly context: Context,
    private readonly queries: Query[],
  ) {
    this.longest = found.starts.reduce((most, start, at) => Math.max(most, (found.ends[at] as number) - start), 0)
    this.flags = new Array<number | undefined>(found.starts.length)
  }

  fires({ rule, find, who, unless }: Slots): boolean {
    let slots = find.map((query) => this.of(query))
    if ([...slots, ...who.map((query) => this.of(query))].some((slot) => this.meant(slot).length === 0)) return false
    const against = unless === null ? null : this.of(unless)
    if (rule.within === EVERYWHERE) {
      if (against !== null && this.meant(against).length > 0) return false
      slots = slots.map((slot) => ({ numbers: this.meant(slot), ignored: ALL }))
    }
    const [first, ...others] = slots as [Answers, ...Answers[]]
    return this.meant(first).some(
      (one) => this.near(one, others, rule.within) && !(against !== null && this.isNear(one, against, rule.within)),
    )
  }

  private of(number: number): Answers {
    const known = this.answers.get(number)
    if (known !== undefined) return known
    const { entry, ignored } = this.queries[number] as Query
    const numbers = [...new Set(entry.flatMap((one) => this.holding(one)))].sort((a, b) => a - b)
    const made = { numbers, ignored }
    this.answers.set(number, made)
    return made
  }

  private holding(condition: ConditionData): number[] {
    if (typeof condition === 'string') return this.found.numbers(condition)
    const [concept, comparison, bound] = condition
    return this.found.numbers(concept).filter((one) => {
      const value = this.found.mention(one).value
      return value !== null && COMPARED[comparison]?.(value, bound)
    })
  }

  private meant(answers: Answers): number[] {
    return answers.numbers.filter((one) => this.isMeant(one, answers.ignored))
  }

  private isMeant(number: number, ignored: number): boolean {
    if (ignored === ALL) return true
    const flags = (this.flags[number] ??= this.context.flags(this.found.mention(number)))
    return (flags & ~ignored) === 0
  }

  /** Whether all others are near enough to the first mention. */
  private near(first: number, others: Answers[], within: number): boolean {
    const start = this.found.starts[first] as number
    const end = this.found.ends[first] as number
    return others.every((slot) => {
      const behind = this.behind(slot, start, end, within)
      const before = this.before(slot, start, within)[0]
      const ahead = behind === undefined ? Infinity : this.words(end, this.found.starts[behind] as number, within)
      const back = before === undefined ? Infinity : this.words(this.found.ends[before] as number, start, within)
      return Math.min(ahead, back) <= within
    })
  }

  /** Whether any of the others is near: the one that begins next, or the one that ended last. */
  private isNear(first: number, others: Answers, within: number): boolean {
    const start = this.found.starts[first] as number
    const end = this.found.ends[first] as number
    const behind = this.behind(others, start, end, within)
    if (behind !== undefined && this.words(end, this.found.starts[behind] as number, within) <= within) return true
    const before = this.before(others, start, within).map((one) => this.found.ends[one] as number)
    return before.length > 0 && this.words(before.reduce((a, b) => Math.max(a, b)), start, within) <= within
  }

  private behind(answers: Answers, start: number, end: number, within: number): number | undefined {
    const last = end + within * LETTERS_PER_WORD
    for (let at = this.place(answers.numbers, start); at < answers.numbers.length; at++) {
      const number = answers.numbers[at] as number
      if ((this.found.starts[number] as number) > last) break
      if (this.isMeant(number, answers.ignored)) return number
    }
    return undefined
  }

  /** Those that are meant and begin before `start`, the last first, as far as words may reach to it. */
  private before(answers: Answers, start: number, within: number): number[] {
    const first = start - within * LETTERS_PER_WORD - this.longest
    const found: number[] = []
    for (let at = this.place(answers.numbers, start) - 1; at >= 0; at--) {
      const number = answers.numbers[at] as number
      if ((this.found.starts[number] as number) < first) break
      if (this.isMeant(number, answers.ignored)) found.push(number)
    }
    return found
  }

  private place(numbers: number[], start: number): number {
    return bisect(numbers, bisect(this.found.starts, start)) // mentions are numbered by where they start
  }

  private words(begin: number, end: number, within: number): number {
    if (end <= begin) return 0
    return end - begin <= within * LETTERS_PER_WORD ? this.plain.words(begin, end) : Infinity
  }
}
