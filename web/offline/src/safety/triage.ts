// Signs of an emergency in what a person writes, before the model speaks: the rules of `carellama.safety.triage`, on
// this device. A test of the project holds it to the verdicts of Python. The classifier beside the rules is not here.
import type { Language, Numbers } from '../../../src/lib/types'
import { Context } from './context'
import type { RuleData, TriageData, TriageLevel } from './data'
import { Lexicon } from './lexicon'
import { Measures } from './measures'
import { Rules } from './rules'
import { Letters } from './text'

const LEVELS: TriageLevel[] = ['emergency', 'urgent', 'soon']
const INVISIBLE = /[\u00ad\u200b-\u200f\u2060\ufeff]/g
const ASKED = /(?:^|(?<=[。！？!?.\n]))[^。！？!?.\n]*[?？]/g
const HAN = /[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{323af}]/u
const LINES = [
  ['mind', 'crisis'],
  ['poisoning', 'poison'],
] as const // which line helps besides the ambulance, by the system of the rule

export interface Turn {
  role: 'user' | 'assistant'
  content: string
}

export interface EmergencyNotice {
  level: 'emergency' | 'urgent'
  rule: string
  text: string
}

export class Triage {
  private readonly letters: Letters
  private readonly lexicon: Lexicon
  private readonly measures: Measures
  private readonly rules: Rules
  private readonly newClause: RegExp
  private readonly affirms: RegExp

  constructor(private readonly data: TriageData) {
    const { patterns } = data
    this.letters = new Letters(data.letters)
    this.lexicon = new Lexicon(data.lexicon, new RegExp(patterns.sentence_end as string, 'gu'))
    this.measures = new Measures(data.measures, patterns)
    this.rules = new Rules(data.rules)
    this.newClause = new RegExp(patterns.new_clause as string, 'gu')
    this.affirms = new RegExp(`^(?:${patterns.affirms})`, 'iu')
  }

  /** The rules that fire on a text, the most urgent first. */
  scan(text: string): RuleData[] {
    const plain = this.letters.normalize(text)
    const found = this.lexicon.find(plain, this.measures.find(plain.text))
    const fired = this.rules.match(plain, found, new Context(plain, found, this.newClause))
    return fired.sort((a, b) => LEVELS.indexOf(a.level) - LEVELS.indexOf(b.level))
  }

  /** What the person said, turn by turn, with the questions that they affirmed. */
  said(turns: Turn[]): string {
    const lines: string[] = []
    let asked = ''
    for (const { role, content } of turns) {
      if (role === 'assistant') asked = content.match(ASKED)?.at(-1)?.trim() ?? ''
      else {
        if (asked !== '' && this.affirms.test(content)) lines.push(asked)
        lines.push(content)
        asked = ''
      }
    }
    return lines.join('\n').replace(INVISIBLE, '')
  }

  /** What is said before an answer; null where nothing is an emergency or urgent. */
  notice(turns: Turn[], country: string | null): EmergencyNotice | null {
    const text = this.said(turns)
    const found = this.scan(text)
    const first = found[0]
    if (first === undefined || first.level === 'soon') return null
    return { level: first.level, rule: first.id, text: this.words(found, HAN.test(text) ? 'zh' : 'en', country) }
  }

  /** One paragraph: how urgent the first finding is, its action, and the numbers of the country. */
  words(found: RuleData[], language: Language, country: string | null): string {
    const first = found[0] as RuleData
    const numbers = this.data.countries[country ?? this.data.usual_country[language]] as Numbers
    const systems = new Set(found.filter((one) => one.level === first.level).map((one) => one.system))
    const wanted: (keyof Numbers)[] = LINES.flatMap(([system, line]) => (systems.has(system) ? [line] : []))
    if (first.level === 'emergency') wanted.unshift('ambulance')
    const parts = [this.data.notices[first.level]?.[language] ?? '', first.do[language]]
    for (const line of wanted) {
      const number = numbers[line]
      if (number !== undefined) parts.push((this.data.notices[line]?.[language] ?? '').replace('{}', number))
    }
    return parts.join(language === 'zh' ? '' : ' ')
  }
}

/** The language in which something is said about a text. */
export function languageOfText(text: string): Language {
  return HAN.test(text) ? 'zh' : 'en'
}
