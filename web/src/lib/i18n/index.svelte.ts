// The language of the page. Changing it changes words only: nothing that was written, asked or kept.
import type { Language } from '../types'
import { en, type Word } from './en'
import { zh } from './zh'

const WORDS = { en, zh }

export const language = $state<{ current: Language }>({ current: 'en' })

/** The words for `name` in the language of the page, with {names} filled in. */
export function t(name: Word, values: Record<string, string | number> = {}): string {
  return fill(WORDS[language.current][name], values)
}

export function fill(words: string, values: Record<string, string | number>): string {
  return words.replace(/\{(\w+)\}/g, (all, key: string) => String(values[key] ?? all))
}

/** Words whose name has a part that the server chose, such as the kind of a notice. */
export function tOr(name: string, otherwise: string, values: Record<string, string | number> = {}): string {
  return name in en ? t(name as Word, values) : otherwise
}

export function setLanguage(next: Language): void {
  language.current = next
  document.documentElement.lang = next === 'zh' ? 'zh-CN' : 'en'
}

export function preferredLanguage(): Language {
  return navigator.languages.find((one) => /^(en|zh)\b/i.test(one))?.toLowerCase().startsWith('zh') ? 'zh' : 'en'
}

/** The language of a text, for its lang attribute: a screen reader picks the voice by it. */
export function languageOf(text: string): 'zh-CN' | 'en' {
  const han = text.match(/\p{Script=Han}/gu)?.length ?? 0
  return han * 4 > text.length ? 'zh-CN' : 'en'
}
