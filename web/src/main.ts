// Starts the page: what the server is, who is logged in, what was kept, then everything else.
import { mount, unmount } from 'svelte'
import './app.css'
import './markdown.css'
import Page from './components/App.svelte'
import { App } from './lib/app.svelte'
import { RequestError } from './lib/api/errors'
import { getConfig } from './lib/api/server'
import { tellLogin } from './lib/api/session.svelte'
import { preferredLanguage, setLanguage, t } from './lib/i18n/index.svelte'
import { route, routeOf, show } from './lib/router.svelte'
import { openStore } from './lib/store/db'
import { Library } from './lib/store/library.svelte'
import { applyTheme, loadAccountSettings, loadSettings, settings } from './lib/store/settings.svelte'
import type { Config } from './lib/types'

const CONFIG = 'carellama.config'
const NEXT = 'carellama.next' // the conversation that was asked for before a login elsewhere

/** What the server says, or, where it cannot be reached, what it said last: earlier conversations can then be read. */
async function readConfig(): Promise<{ config: Config; stale: boolean }> {
  try {
    const config = await getConfig()
    try {
      if (config.keep === 'browser' && !config.account) localStorage.setItem(CONFIG, JSON.stringify(config))
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

async function open(target: HTMLElement): Promise<void> {
  const { config, stale } = await readConfig()
  const account = config.account?.id ?? ''
  if (account !== '') {
    loadAccountSettings(account)
    tellLogin(account)
    goOn()
  }
  const { store, keep } = await openStore(config.keep, account)
  const library = new Library(store, keep, account)
  const app = new App(config, stale, library)
  await library.load()
  mount(Page, { target, props: { app } })
  if (library.kept && import.meta.env.PROD && 'serviceWorker' in navigator) {
    void navigator.serviceWorker.register('/sw.js').catch(() => {}) // not on http of another machine
  }
}

/** The login, or an invitation; then the page, where the address pointed. */
async function enter(target: HTMLElement, token: string | null): Promise<void> {
  const { default: Entry } = await import('./components/account/EntryPage.svelte')
  target.replaceChildren()
  if (token === null) remember(location.pathname)
  const onenter = (): void => {
    void unmount(entry)
    if (token !== null) show(null, true)
    void start().then(() => document.getElementById('thread')?.focus()) // the button that had the focus is gone
  }
  const entry = mount(Entry, { target, props: { token, onenter } })
}

/** Where to go after a login: a conversation of this page or its beginning, never an address that somebody gave. */
function remember(path: string): void {
  try {
    if (routeOf(path) !== null) sessionStorage.setItem(NEXT, path)
  } catch {
    // then the page opens at its beginning
  }
}

function goOn(): void {
  let next: string | null = null
  try {
    next = sessionStorage.getItem(NEXT)
    sessionStorage.removeItem(NEXT)
  } catch {
    // nothing was remembered
  }
  const wanted = next === null ? null : routeOf(next)
  if (route.conversation === null) show(wanted, true)
}

async function start(): Promise<void> {
  const target = document.getElementById('app') as HTMLElement
  loadSettings()
  setLanguage(settings.language ?? preferredLanguage())
  applyTheme(settings.theme)
  try {
    if (location.pathname === '/invite') {
      const token = location.hash.slice(1)
      history.replaceState(null, '', '/invite') // a token does not stay in the address bar and the history
      await enter(target, token)
    } else await open(target)
  } catch (error) {
    if (error instanceof RequestError && error.serverCode === 'login_required') {
      await enter(target, null).catch((problem: unknown) => fail(target, problem))
    } else fail(target, error)
  }
}

function fail(target: HTMLElement, error: unknown): void {
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

void start()
