// What the page is about: the server's configuration, the library, and what a person does with a conversation.
import { Follower } from './answer/follow.svelte'
import { numbersFor } from './answer/country'
import { requestFor } from './answer/request'
import { addJoint, newMessage, textOf } from './answer/segments'
import { networkError, RequestError } from './api/errors'
import { postAnswer, type Accepted } from './api/server'
import { newId } from './ids'
import { t } from './i18n/index.svelte'
import { route, show } from './router.svelte'
import type { Library, Thread } from './store/library.svelte'
import { settings } from './store/settings.svelte'
import { newestLeaf, pathTo } from './store/tree'
import type { AnswerRequest, Attachment, Config, Language, Message, Notice, Numbers } from './types'

export class App {
  config: Config
  stale: boolean // the server did not answer: this is what it last said
  online = $state(navigator.onLine)
  /** Spoken at once by screen readers: what just happened. */
  said = $state('')
  /** Of which the prompt is shown to a researcher. */
  prompt = $state.raw<AnswerRequest | null>(null)
  readonly follower: Follower
  /** Called before the page is hidden or closed. */
  readonly onHide = new Set<() => void>()

  constructor(
    config: Config,
    stale: boolean,
    readonly library: Library,
  ) {
    this.config = $state(config)
    this.stale = $state(stale)
    this.follower = new Follower(library)
  }

  /** Whom to call, by the language of who reads. */
  get numbers(): Record<Language, Numbers> {
    return numbersFor(this.config)
  }

  get researcher(): boolean {
    return this.config.profile === 'researcher'
  }

  /** Writes down what has not been yet: nothing may run after this. */
  flush(): void {
    for (const call of this.onHide) call()
    this.follower.flush()
    this.library.store.server?.flush()
  }

  path(thread: Thread): Message[] {
    return pathTo(thread.messages, this.library.find(thread.id)?.leaf ?? null)
  }

  /** Asks `text` behind `parent`. Throws `RequestError` where it was not taken; then nothing has changed. */
  async ask(thread: Thread | null, parent: string | null, text: string, files: Attachment[] = []): Promise<void> {
    const question = newMessage({
      id: newId(),
      conversation: thread?.id ?? '',
      parent,
      role: 'user',
      segments: [{ text, notices: [] }],
      ...(files.length > 0 ? { attachments: files } : {}),
    })
    const before = thread === null ? [] : pathTo(thread.messages, parent)
    const answers = await this.request([...before, question])
    let target = thread
    if (target === null) {
      const made = this.library.create(text.trim() || (files[0]?.name ?? ''))
      target = made.thread
      question.conversation = target.id
    }
    target.add(question)
    await this.begin(target, question, answers)
    if (thread === null && route.conversation === null) show(target.id) // unless one has gone elsewhere meanwhile
  }

  /** Answers a question once more: a new version beside the old ones. */
  async again(thread: Thread, question: Message): Promise<void> {
    const answers = await this.request(pathTo(thread.messages, question.id))
    await this.begin(thread, question, answers)
  }

  /** Goes on with an answer that reached its longest length. The added text joins it. */
  async continue(thread: Thread, message: Message): Promise<void> {
    const path = pathTo(thread.messages, message.id)
    const wish = newMessage({
      id: newId(),
      conversation: thread.id,
      parent: message.id,
      role: 'user',
      segments: [{ text: t('continueWords'), notices: [] }],
    })
    const adapter = message.model.split(':')[1] ?? ''
    const body = requestFor([...path, wish], adapter, this.config, settings)
    const accepted = await this.post(body)
    addJoint(message.segments)
    Object.assign(message, { finish: null, failure: null, stopped: false, endedAt: 0 })
    message.running = { answer: accepted.id, last: '', ahead: accepted.ahead, seconds: accepted.seconds }
    await this.library.save([message])
    await this.library.change(thread.id, { running: true, updated: Date.now() })
    void this.follower.follow(thread, message)
  }

  /** Shows another version of a message, with what followed it last. */
  async choose(thread: Thread, message: Message): Promise<void> {
    await this.library.change(thread.id, { leaf: newestLeaf(thread.messages, message.id) })
  }

  private async post(body: AnswerRequest): Promise<Accepted> {
    try {
      const accepted = await postAnswer(body)
      this.stale = false
      return accepted
    } catch (error) {
      throw error instanceof RequestError ? error : networkError(error)
    }
  }

  /** Posts a question: once, or to two adapters where they are compared. */
  private async request(path: Message[]): Promise<{ body: AnswerRequest; accepted: Accepted }[]> {
    const adapters = [settings.adapter]
    if (this.researcher && settings.compare !== null) adapters.push(settings.compare)
    const answers = []
    for (const adapter of adapters) {
      const body = requestFor(path, adapter, this.config, settings)
      answers.push({ body, accepted: await this.post(body) })
    }
    return answers
  }

  private async begin(
    thread: Thread,
    question: Message,
    answers: { body: AnswerRequest; accepted: Accepted }[],
  ): Promise<void> {
    const pair = answers.length > 1 ? newId() : ''
    const shuffled = settings.blind && Math.random() < 0.5 ? [...answers].reverse() : answers
    const messages = shuffled.map(({ body, accepted }, index) => {
      const now = Date.now()
      return thread.add(
        newMessage({
          id: newId(),
          conversation: thread.id,
          parent: question.id,
          role: 'assistant',
          created: now + index,
          sentAt: now,
          model: body.model ?? 'carellama',
          country: body.country ?? this.config.country,
          pair,
          blind: pair !== '' && settings.blind,
          request: this.researcher ? body : null,
          running: { answer: accepted.id, last: '', ahead: accepted.ahead, seconds: accepted.seconds },
        }),
      )
    })
    await this.library.save([question, ...messages], true)
    await this.library.change(thread.id, {
      leaf: messages[0]?.id ?? null,
      running: true,
      updated: Date.now(),
    })
    for (const message of messages) void this.follower.follow(thread, message)
  }
}

/** The words for an error, with what the server said of it. */
export function errorWords(error: unknown): { text: string; detail: string; notices: Notice[] } {
  // of IndexedDB: no room, or closed by the browser
  if (error instanceof DOMException && error.name !== 'AbortError') return { text: t('error_storage'), detail: String(error), notices: [] }
  if (!(error instanceof RequestError)) return { text: t('error_broken'), detail: String(error), notices: [] }
  const { code, detail } = error.failure
  return { text: failureWords(code, error.retryAfterSeconds), detail, notices: error.notices }
}

export function failureWords(code: string, seconds: number | null = null): string {
  switch (code) {
    case 'network':
      return t('error_network')
    case 'full':
      return t('error_full', { seconds: seconds ?? 5 })
    case 'tooLong':
      return t('error_tooLong')
    case 'refused':
      return t('error_refused')
    case 'login':
      return t('error_login')
    case 'unavailable':
      return t('error_unavailable')
    case 'ended':
      return t('error_ended')
    case 'gone':
      return t('error_gone')
    default:
      return t('error_broken')
  }
}

/** What "copy" copies: the text as it was written. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    // the clipboard interface exists on https and localhost only; a selection works everywhere
    const box = document.createElement('textarea')
    box.value = text
    box.className = 'offscreen'
    document.body.append(box)
    box.select()
    const copied = document.execCommand('copy')
    box.remove()
    return copied
  }
}

export { textOf }
