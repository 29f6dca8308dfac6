// The rules of triage as `carellama.export.web.triage` writes them.
import type { Language, Numbers } from '../../../src/lib/types'

export type TriageLevel = 'emergency' | 'urgent' | 'soon'
export type ConditionData = string | [concept: string, comparison: string, bound: number]
export type FlagName = 'denied' | 'past' | 'question' | 'supposed'

export interface RuleData {
  id: string
  level: TriageLevel
  system: string
  do: Record<Language, string>
  find: ConditionData[][]
  who?: ConditionData[][]
  unless?: ConditionData[]
  within: number
  even_if?: FlagName[]
  unless_even_if: FlagName[]
}

export interface MeasureData {
  name: string
  range: [number, number]
  unit: string | null
  before?: string
  after?: string
}

export interface LexiconData {
  words: string // one a line
  flags: string // of each word: 1 begins where a Latin word does, 2 ends so, 4 says that something is not
  units: [first: number, count: number][] // of the words, in runs
  names: string[] // concepts and numbers, whose unit and slot are their places
  reached: number[][] // the slots that each unit counts for
  terms: [unit: number, parts: number[], ordered: 0 | 1, level: number][]
  slots: number
}

export interface TriageData {
  letters: string // a character, and what it is matched as
  lexicon: LexiconData
  rules: RuleData[]
  measures: MeasureData[]
  patterns: Record<string, string>
  notices: Record<string, Record<Language, string>>
  countries: Record<string, Numbers>
  usual_country: Record<Language, string>
}
