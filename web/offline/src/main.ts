// Starts the page that runs without a server: what was exported, the rules of triage, then everything else.
import { mount } from 'svelte'
import '../../src/app.css'
import '../../src/markdown.css'
import { preferredLanguage, setLanguage } from '../../src/lib/i18n/index.svelte'
import { applyTheme, loadSettings, settings } from '../../src/lib/store/settings.svelte'
import Page from './Page.svelte'
import { type OfflineConfig, readJson } from './config'
import type { TriageData } from './safety/data'
import { Triage } from './safety/triage'
import { Setup } from './setup.svelte'
import { ConversationStore } from './store'
import { Talk } from './talk.svelte'
import { w } from './words'

/** What the browser asks for, where it asks for one of the two languages; else that of the export. */
function firstLanguage(config: OfflineConfig): 'en' | 'zh' {
  return navigator.languages.some((one) => /^(en|zh)\b/i.test(one)) ? preferredLanguage() : config.language
}

async function start(target: HTMLElement): Promise<void> {
  loadSettings()
  applyTheme(settings.theme)
  setLanguage(settings.language ?? preferredLanguage())
  try {
    const [config, rules] = await Promise.all([readJson<OfflineConfig>('./carellama.json'), readJson<TriageData>('./triage.json')])
    setLanguage(settings.language ?? firstLanguage(config))
    document.title = `${config.name} · CareLlama`
    const store = await ConversationStore.open(`carellama.offline${new URL('./', document.baseURI).pathname}`)
    const talk = new Talk(config, new Triage(rules), store)
    await talk.load()
    const setup = new Setup(config)
    mount(Page, { target, props: { setup, talk } })
    await setup.begin()
  } catch (error) {
    const words = document.createElement('p')
    words.setAttribute('role', 'alert')
    words.className = 'start-failed'
    words.textContent = w('noConfig', { reason: error instanceof Error ? error.message : String(error) })
    target.replaceChildren(words)
  }
}

void start(document.getElementById('app') as HTMLElement)
