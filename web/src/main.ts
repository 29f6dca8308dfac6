// Starts the page: what the server is, what was kept, then everything else.
import { mount } from 'svelte'
import './app.css'
import './markdown.css'
import Page from './components/App.svelte'
import { App } from './lib/app.svelte'
import { RequestError } from './lib/api/errors'
import { getConfig } from './lib/api/server'
import { preferredLanguage, setLanguage, t } from './lib/i18n/index.svelte'
import { openStore } from './lib/store/db'
import { Library } from './lib/store/library.svelte'
import { applyTheme, loadAccountSettings, loadSettings, settings } from './lib/store/settings.svelte'
import type { Config } from './lib/types'

const CONFIG = 'carellama.config'

/** What the server says, or, where it cannot be reached, what it said last: earlier conversations can then be read. */
async function readConfig(): Promise<{ config: Config; stale: boolean }> {
  try {
    const config = await getConfig()
    try {
      if (config.keep === 'browser') localStorage.setItem(CONFIG, JSON.stringify(config))
      else localStorage.removeItem(CONFIG)
    } catch {
      // without storage the page needs the server each time
    }
    return { config, stale: false }
  } catch (error) {
    const kept = localStorage.getItem(CONFIG)
    if (kept !== null && error instanceof RequestError && (error.status === 0 || error.status >= 500)) {
      return { config: JSON.parse(kept) as Config, stale: true }
    }
    throw error
  }
}

async function start(): Promise<void> {
  const target = document.getElementById('app') as HTMLElement
  loadSettings()
  setLanguage(settings.language ?? preferredLanguage())
  applyTheme(settings.theme)
  try {
    const { config, stale } = await readConfig()
    const account = config.account?.id ?? ''
    if (account !== '') loadAccountSettings(account)
    const { store, keep } = await openStore(config.keep, account)
    const library = new Library(store, keep, account)
    const app = new App(config, stale, library)
    await library.load()
    mount(Page, { target, props: { app } })
    if (library.kept && import.meta.env.PROD && 'serviceWorker' in navigator) {
      void navigator.serviceWorker.register('/sw.js').catch(() => {}) // not on http of another machine
    }
  } catch (error) {
    const words = document.createElement('p')
    words.setAttribute('role', 'alert')
    words.className = 'start-failed'
    words.textContent = t(error instanceof RequestError && [401, 403].includes(error.status) ? 'error_login' : 'noServer')
    const again = document.createElement('button')
    again.className = 'bordered'
    again.textContent = t('tryAgain')
    again.onclick = () => location.reload()
    target.replaceChildren(words, again)
  }
}

void start()
