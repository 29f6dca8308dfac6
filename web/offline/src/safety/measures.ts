// Numbers that decide how urgent it is: `carellama.safety.rules.measures`. Units are those of that module.
import type { MeasureData } from './data'
import type { Mention } from './lexicon'

const DIGITS: Record<string, number> = { 零: 0, 〇: 0, 一: 1, 二: 2, 两: 2, 三: 3, 四: 4, 五: 5, 六: 6, 七: 7, 八: 8, 九: 9 }
const UNITS: Record<string, number> = { 十: 10, 百: 100, 千: 1000 }
const ONES = (
  'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen ' +
  'seventeen eighteen nineteen'
).split(' ')
const TENS = 'twenty thirty forty fifty sixty seventy eighty ninety'.split(' ')
const WORDS = new Map([...ONES.map((word, at) => [word, at] as const), ...TENS.map((word, at) => [word, 20 + 10 * at] as const)])
const REPEATS = 200 // numbers at the beginning of a text, and at its end
const UNIT_STARTS = new Set('度个岁周月天日片粒颗丸米楼层小钟分多来星礼半 ')
const BEFORE = 48
const AFTER = 24 // characters around a number that are read
const MG_PER_MMOL = 18
const FEET = 0.3048
const STOREY = 3
const DAYS_PER_YEAR = 365.25
const WEEKS_PER_MONTH = 4.3

export function readNumber(text: string): number {
  if (/^\p{Nd}/u.test(text)) return Number(text.replaceAll(',', ''))
  if (/^[\x00-\x7f]*$/.test(text)) {
    if (text === 'half a') return 0.5
    const cut = text.lastIndexOf('hundred')
    const hundreds = cut < 0 ? '' : text.slice(0, cut)
    const rest = cut < 0 ? text : text.slice(cut + 'hundred'.length)
    const total = hundreds ? 100 * (WORDS.get(hundreds.trim()) ?? 1) : 0
    return rest.split(/[ -]/).reduce((sum, word) => sum + (WORDS.get(word) ?? 0), total)
  }
  const [whole, tenths] = text.split('点') as [string, string?]
  const value = readChinese(whole)
  return tenths ? value + Number(`0.${[...tenths].map((digit) => DIGITS[digit]).join('')}`) : value
}

function readChinese(text: string): number {
  if (text === '半' || text === '一半') return 0.5
  const letters = [...text]
  if (!letters.some((one) => one in UNITS)) return Number(letters.map((digit) => DIGITS[digit] ?? 0).join(''))
  let [total, digit, unit] = [0, 0, 1]
  for (const letter of letters) {
    if (letter in UNITS) {
      unit = UNITS[letter] as number
      total += (digit || 1) * unit
      digit = 0
    } else digit = DIGITS[letter] ?? 0
  }
  if (unit > 10 && (letters.at(-2) ?? '') in UNITS) digit *= Math.floor(unit / 10) // 一百五 is 150, 一百零五 is 105
  return total + digit
}

/** As Python rounds: to the nearest, of two equally near the even one. */
function rounded(value: number, digits: number): number {
  return Number(value.toFixed(digits))
}

type Convert = (value: number, after: string) => number | null

interface Measure extends Omit<MeasureData, 'before' | 'after'> {
  before: RegExp | null
  after: RegExp | null
  convert: Convert
}

export class Measures {
  private readonly measures: Measure[]
  private readonly labelled: Measure[]
  private readonly unlabelled: Measure[]
  private readonly number: RegExp
  private readonly numberHere: RegExp
  private readonly figures: RegExp
  private readonly numberWord: RegExp
  private readonly ageUnit: RegExp
  private readonly duration: RegExp

  constructor(rows: MeasureData[], patterns: Record<string, string>) {
    const pattern = (name: string, flags: string): RegExp => new RegExp(patterns[name] as string, flags)
    this.number = pattern('number', 'gu')
    this.numberHere = pattern('number', 'uy')
    this.figures = pattern('figures', 'gu')
    this.numberWord = pattern('number_word', 'gu')
    this.ageUnit = new RegExp(`^${patterns.age_unit}`, 'u')
    this.duration = new RegExp(`^${patterns.duration}`, 'u')
    this.measures = rows.map((row) => ({
      ...row,
      before: row.before ? new RegExp(row.before, 'u') : null,
      after: row.after ? new RegExp(`^(?:${row.after})`, 'u') : null,
      convert: this.conversion(row.unit),
    }))
    this.labelled = this.measures.filter((one) => one.before)
    this.unlabelled = this.measures.filter((one) => !one.before)
  }

  /** The numbers of a normalized text by what they measure, in order. */
  find(text: string): Map<string, Mention[]> {
    const found = new Map<string, Mention[]>()
    for (const [begin, number] of this.numbers(text)) {
      const end = begin + number.length
      const before = text.slice(Math.max(0, begin - BEFORE), begin)
      const after = text.slice(end, end + AFTER)
      if (before + after === '' || (begin > 0 && text[begin - 1] === '.' && /^\p{Nd}/u.test(number))) continue
      const measures = this.possible(number, before, after)
      const value = measures.length > 0 ? readNumber(number) : 0
      for (const measure of measures) {
        if (value < measure.range[0] || value > measure.range[1]) continue
        if (measure.after && !measure.after.test(after)) continue
        if (measure.before && !measure.before.test(before)) continue
        const converted = measure.convert(value, after)
        if (converted === null) continue
        const mentions = found.get(measure.name) ?? []
        found.set(measure.name, mentions)
        if (mentions.at(-1)?.start !== begin) mentions.push({ start: begin, end, spans: [[begin, end]], value: converted })
      }
    }
    return found
  }

  private numbers(text: string): [number, string][] {
    const runs = middleOut([...text.matchAll(this.figures)].map((run) => [run.index, run.index + run[0].length] as const))
    const found: [number, string][] = []
    for (const [begin, end] of runs) {
      const until = text.slice(0, end)
      this.number.lastIndex = begin
      for (let one = this.number.exec(until); one !== null; one = this.number.exec(until)) found.push([one.index, one[0]])
    }
    let at = 0
    for (const word of text.matchAll(this.numberWord)) {
      if (word.index < at) continue
      this.numberHere.lastIndex = word.index
      const number = this.numberHere.exec(text)
      if (number === null) continue
      found.push([word.index, number[0]])
      at = word.index + number[0].length
    }
    return middleOut(found.sort((a, b) => a[0] - b[0]))
  }

  private possible(number: string, before: string, after: string): Measure[] {
    const word = number.length === 1 && number > '\x7f' // 一 is often no number: only a unit makes it one
    if (word && !UNIT_STARTS.has(after[0] ?? '')) return []
    const byUnit = this.unlabelled.some((one) => one.after?.test(after))
    if (word && !byUnit) return []
    if (this.labelled.some((one) => one.before?.test(before))) return byUnit ? this.measures : this.labelled
    return byUnit ? this.unlabelled : []
  }

  private conversion(unit: string | null): Convert {
    const conversions: Record<string, Convert> = {
      celsius,
      glucose: (value, after) => (value > 40 || after.slice(0, 8).includes('mg') ? rounded(value / MG_PER_MMOL, 1) : value),
      years: (value, after) => this.years(value, after),
      metres,
      hours: (value, after) => this.hours(value, after),
      months_of_pregnancy: (value) => value * WEEKS_PER_MONTH,
      grams_per_litre: (value) => (value < 25 ? value * 10 : value),
      platelets: (value) => (value > 1500 ? value / 1000 : value),
      thousands: (value) => (value > 30 ? value / 1000 : value),
    }
    if (unit === null) return (value) => value
    const convert = conversions[unit]
    if (convert === undefined) throw new Error(`the unit ${unit} is not known to this page`)
    return convert
  }

  private years(value: number, after: string): number {
    const word = this.ageUnit.exec(after)?.[1] ?? '岁'
    if ('月m'.includes(word[0] as string)) return value / 12
    if ('周星礼w'.includes(word[0] as string) && word !== '周岁') return (value * 7) / DAYS_PER_YEAR
    if ('天日d'.includes(word[0] as string)) return value / DAYS_PER_YEAR
    return word === '岁半' ? value + 0.5 : value
  }

  private hours(value: number, after: string): number | null {
    const unit = this.duration.exec(after)
    if (unit === null) return null
    const letter = unit[2]?.[0] ?? ''
    const whole = value + (unit[1]?.includes('半') ? 0.5 : 0) // 一个半小时
    return whole * ('分m'.includes(letter) ? 1 / 60 : '天d'.includes(letter) ? 24 : '周星礼w'.includes(letter) ? 168 : 1)
  }
}

function celsius(value: number, after: string): number {
  if (value > 90) return rounded((value - 32) / 1.8, 2)
  const tenth = /^ ?度([0-9半一二三四五六七八九])(?![\p{Nd}十百个分小天岁])/u.exec(after)?.[1]
  if (tenth === undefined || value !== Math.trunc(value)) return value
  return value + (tenth === '半' ? 0.5 : (DIGITS[tenth] ?? Number(tenth)) / 10)
}

function metres(value: number, after: string): number {
  if (/^ ?(?:feet|ft|foot)/.test(after)) return value * FEET
  return /^ ?(?:楼|层|storeys?|stories|story|floors?)/.test(after) ? value * STOREY : value
}

/** The first and the last `REPEATS` of a list. */
function middleOut<T>(list: T[]): T[] {
  return list.length > 2 * REPEATS ? [...list.slice(0, REPEATS), ...list.slice(-REPEATS)] : list
}
