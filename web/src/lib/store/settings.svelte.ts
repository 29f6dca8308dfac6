// What a person has chosen: small things that localStorage keeps. In "keep nothing" they end with the page.
import type { Language, Mode, Sampling } from '../types'

export type Theme = 'auto' | 'light' | 'dark'

export interface Settings {
  language: Language | null // null: as the browser asks
  theme: Theme
  understood: boolean // the disclaimer was read
  announce: boolean // answers are read to screen readers
  mode: Mode | null // null: as the server was started
  adapter: string
  compare: string | null // null: no comparison; "": the model without an adapter
  blind: boolean
  sampling: Partial<Sampling>
  system: string | null // null: as the server was started
  logprobs: boolean
}

const DEFAULTS: Settings = {
  language: null,
  theme: 'auto',
  understood: false,
  announce: true,
  mode: null,
  adapter: '',
  compare: null,
  blind: false,
  sampling: {},
  system: null,
  logprobs: false,
}
const KEY = 'carellama.settings'

export const settings = $state<Settings>({ ...DEFAULTS })

export function loadSettings(): void {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? '{}') as Partial<Settings>
    Object.assign(settings, DEFAULTS, kept)
  } catch {
    // storage is switched off, or another program wrote there: the defaults hold
  }
}

export function saveSettings(keep: boolean): void {
  try {
    if (keep) localStorage.setItem(KEY, JSON.stringify($state.snapshot(settings)))
    else localStorage.removeItem(KEY)
  } catch {
    // as above: they hold for this page
  }
}

export function applyTheme(theme: Theme): void {
  if (theme === 'auto') delete document.documentElement.dataset.theme
  else document.documentElement.dataset.theme = theme
}
