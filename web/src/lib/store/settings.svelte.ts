// What a person has chosen: small things that localStorage keeps. In "keep nothing" they end with the page. With
// accounts only what belongs to the device outlives the window: the next person may have another account.
import type { Language, Mode, Sampling } from '../types'

export type Theme = 'auto' | 'light' | 'dark'

export interface Settings {
  language: Language | null // null: as the browser asks
  theme: Theme
  understood: boolean // the disclaimer was read
  announce: boolean // answers are read to screen readers
  country: string | null // of the numbers to call; null: as the server was started
  mode: Mode | null // null: as the server was started
  adapter: string
  compare: string | null // null: no comparison; "": the model without an adapter
  blind: boolean
  sampling: Partial<Sampling>
  system: string | null // null: as the server was started
  logprobs: boolean
  voice: boolean // it was read who hears what is spoken
}

const DEFAULTS: Settings = {
  language: null,
  theme: 'auto',
  understood: false,
  announce: true,
  country: null,
  mode: null,
  adapter: '',
  compare: null,
  blind: false,
  sampling: {},
  system: null,
  logprobs: false,
  voice: false,
}
const KEY = 'carellama.settings'
const DEVICE = ['language', 'theme', 'announce', 'country'] as const

export const settings = $state<Settings>({ ...DEFAULTS })

export function loadSettings(): void {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? '{}') as Partial<Settings>
    Object.assign(settings, DEFAULTS, kept)
  } catch {
    // storage is switched off, or another program wrote there: the defaults hold
  }
}

/** Takes an account's settings of this window; those of another account, or of nobody, are put away. */
export function loadAccountSettings(account: string): void {
  const device = Object.fromEntries(DEVICE.map((name) => [name, settings[name]]))
  Object.assign(settings, DEFAULTS, device)
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEY) ?? '{}') as { account?: string; settings?: Partial<Settings> }
    if (kept.account === account) Object.assign(settings, kept.settings, device)
    else sessionStorage.removeItem(KEY)
  } catch {
    // as above
  }
}

/** `account` is "" where no accounts are used. */
export function saveSettings(keep: boolean, account = ''): void {
  const all = $state.snapshot(settings)
  const device = Object.fromEntries(DEVICE.map((name) => [name, all[name]]))
  try {
    if (account !== '') {
      localStorage.setItem(KEY, JSON.stringify(device))
      sessionStorage.setItem(KEY, JSON.stringify({ account, settings: all }))
    } else if (keep) localStorage.setItem(KEY, JSON.stringify(all))
    else localStorage.removeItem(KEY)
  } catch {
    // as above: they hold for this page
  }
}

/** Nothing of an account stays: its settings of this window, and the configuration that was kept. */
export function forgetAccount(): void {
  try {
    sessionStorage.clear()
    localStorage.removeItem('carellama.config')
  } catch {
    // nothing was kept
  }
}

export function applyTheme(theme: Theme): void {
  if (theme === 'auto') delete document.documentElement.dataset.theme
  else document.documentElement.dataset.theme = theme
}
