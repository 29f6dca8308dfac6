// Whose numbers are meant: the server's country, or the one that a person has chosen.
import { settings } from '../store/settings.svelte'
import type { Config, Language, Numbers } from '../types'

/** The country chosen, where the server knows it; null: as the server was started. */
export function chosenCountry(config: Config): string | null {
  return settings.country !== null && settings.country in (config.countries ?? {}) ? settings.country : null
}

/** Whom to call, by the language of who reads. */
export function numbersFor(config: Config): Record<Language, Numbers> {
  const own = config.countries?.[chosenCountry(config) ?? '']
  return own === undefined ? config.numbers : { en: own, zh: own }
}
