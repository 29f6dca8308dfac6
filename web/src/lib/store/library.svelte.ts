// The conversations: their list, the messages of those that are open, and what other tabs and devices change.
import { SvelteMap } from 'svelte/reactivity'
import { newId } from '../ids'
import { t } from '../i18n/index.svelte'
import type { Conversation, Keep, Message } from '../types'
import type { Store } from './db'

const UNDO_MS = 10_000
const TITLE_CHARS = 60

type News = { conversation: string } | { removed: string }

/** The title of a conversation: the first line of its first question. */
export function titleOf(question: string): string {
  const line = question.trim().split('\n', 1)[0]?.trim() ?? ''
  const signs = [...line]
  if (signs.length <= TITLE_CHARS) return line
  const cut = signs.slice(0, TITLE_CHARS).join('')
  return `${cut.replace(/\s\S{0,15}$/, '')}…`
}

function reactive<T extends object>(value: T): T {
  const one = $state(value)
  return one
}

/** The messages of one conversation. */
export class Thread {
  readonly messages = new SvelteMap<string, Message>()

  constructor(readonly id: string) {}

  add(message: Message): Message {
    const one = reactive(message)
    this.messages.set(message.id, one)
    return one
  }
}

export class Library {
  conversations = $state<Conversation[]>([])
  deleted = $state<Conversation | null>(null) // can be taken back for some seconds
  /** Called where another tab, or an earlier page, has left an answer that is still being written. */
  onRunning: (thread: Thread, message: Message) => void = () => {}
  /** Whether this page follows the stream of a message: then its own copy is the newest. */
  follows: (message: string) => boolean = () => false

  private readonly threads = new Map<string, Thread>()
  private readonly channel: BroadcastChannel | null
  private timer: ReturnType<typeof setTimeout> | undefined

  constructor(
    readonly store: Store,
    readonly keep: Keep,
    account = '',
  ) {
    this.channel = this.kept && typeof BroadcastChannel !== 'undefined' ? new BroadcastChannel(`carellama${account}`) : null
    this.channel?.addEventListener('message', (event: MessageEvent<News>) => void this.hear(event.data).catch(() => {}))
    if (store.server) {
      store.server.onWritten = (conversation) => this.channel?.postMessage({ conversation } satisfies News)
      store.server.onGone = (id) => this.drop(id)
    }
  }

  /** Whether conversations outlive the page. */
  get kept(): boolean {
    return this.keep !== 'nothing'
  }

  /** Where conversations are kept, in words. */
  get where(): string {
    return t(({ browser: 'keepBrowser', server: 'keepServer', nothing: 'keepNothing' } as const)[this.keep])
  }

  async load(): Promise<void> {
    const all = await this.store.conversations()
    const now = Date.now()
    for (const one of all) if (one.deleted && now - one.deleted > UNDO_MS) await this.store.remove(one.id)
    this.conversations = all.filter((one) => !one.deleted)
    for (const one of this.conversations) if (one.running) void this.open(one.id).catch(() => {})
  }

  /** The newest first. */
  get listed(): Conversation[] {
    return [...this.conversations].sort((a, b) => b.updated - a.updated)
  }

  find(id: string): Conversation | undefined {
    return this.conversations.find((one) => one.id === id)
  }

  /** The messages of a conversation; null where it is not kept here. */
  async open(id: string): Promise<Thread | null> {
    const conversation = this.find(id) ?? (await this.store.conversation(id))
    if (conversation === undefined || conversation.deleted) return null
    const open = this.threads.get(id)
    if (open) return open
    const messages = await this.store.messages(id)
    const again = this.threads.get(id) // another call may have been faster
    if (again) return again
    const thread = new Thread(id)
    this.threads.set(id, thread)
    for (const message of messages) {
      const one = thread.add(message)
      if (one.running) this.onRunning(thread, one)
    }
    return thread
  }

  create(question: string): { conversation: Conversation; thread: Thread } {
    const now = Date.now()
    const conversation: Conversation = {
      id: newId(),
      title: titleOf(question),
      named: false,
      created: now,
      updated: now,
      pinned: false,
      deleted: 0,
      leaf: null,
      running: false,
    }
    this.conversations.push(conversation)
    const thread = new Thread(conversation.id)
    this.threads.set(conversation.id, thread)
    return { conversation: this.find(conversation.id) as Conversation, thread }
  }

  /** Changes a conversation and writes it down. */
  async change(id: string, changes: Partial<Conversation>): Promise<void> {
    const conversation = this.find(id)
    if (conversation === undefined) return
    Object.assign(conversation, changes)
    await this.store.putConversation($state.snapshot(conversation))
    this.tell({ conversation: id })
  }

  async save(messages: Message[], quietly = false): Promise<void> {
    if (messages.length === 0) return
    await this.store.putMessages(messages.map((one) => $state.snapshot(one) as Message))
    if (!quietly) this.tell({ conversation: messages[0]?.conversation ?? '' })
  }

  /** Deletes a conversation; `undelete` takes it back until the time is over. */
  async delete(id: string): Promise<void> {
    const conversation = this.find(id)
    if (conversation === undefined) return
    await this.purge()
    await this.change(id, { deleted: Date.now() })
    this.conversations = this.conversations.filter((one) => one.id !== id)
    this.deleted = conversation
    this.timer = setTimeout(() => void this.purge(), UNDO_MS)
  }

  async undelete(): Promise<void> {
    const conversation = this.deleted
    if (conversation === null) return
    clearTimeout(this.timer)
    this.deleted = null
    this.conversations.push({ ...conversation, deleted: 0 })
    await this.change(conversation.id, { deleted: 0 })
  }

  async deleteAll(): Promise<void> {
    await this.purge()
    for (const { id } of [...this.conversations]) await this.forget(id)
  }

  private async purge(): Promise<void> {
    clearTimeout(this.timer)
    const conversation = this.deleted
    this.deleted = null
    if (conversation !== null) await this.forget(conversation.id)
  }

  private async forget(id: string): Promise<void> {
    this.drop(id)
    await this.store.remove(id)
    this.tell({ removed: id })
  }

  private drop(id: string): void {
    this.conversations = this.conversations.filter((one) => one.id !== id)
    this.threads.delete(id)
  }

  /** A store of the server tells by itself, once the server has it. */
  private tell(news: News): void {
    if (this.store.server === null || 'removed' in news) this.channel?.postMessage(news)
  }

  /** Another tab has changed something: read it again. */
  private async hear(news: News): Promise<void> {
    if ('removed' in news) return this.drop(news.removed)
    const conversation = await this.store.conversation(news.conversation)
    if (conversation !== undefined) await this.take(conversation)
  }

  /** Reads what other devices have changed. */
  async refresh(): Promise<void> {
    const all = await this.store.conversations()
    const ids = new Set(all.map((one) => one.id))
    for (const { id } of [...this.conversations]) if (!ids.has(id)) this.drop(id)
    for (const one of all) {
      const own = this.find(one.id)
      const changed = own === undefined || own.running || JSON.stringify(own) !== JSON.stringify({ ...one, leaf: own.leaf })
      if (changed && one.id !== this.deleted?.id) await this.take(one)
    }
  }

  /** Takes a conversation as the store has it, with its messages where it is open. */
  private async take(conversation: Conversation): Promise<void> {
    const { id } = conversation
    const own = this.find(id)
    if (conversation.deleted) this.conversations = this.conversations.filter((one) => one.id !== id)
    else if (own === undefined) this.conversations.push(conversation)
    else Object.assign(own, conversation, { leaf: own.leaf ?? conversation.leaf })
    const thread = this.threads.get(id)
    if (thread === undefined) return
    const messages = (await this.store.messages(id)).sort((a, b) => a.created - b.created) // questions before answers
    for (const message of messages) {
      const known = thread.messages.get(message.id)
      if (known === undefined) {
        const one = thread.add(message)
        if (own && (own.leaf === null || one.parent === own.leaf)) own.leaf = one.id // the branch goes on here too
        if (one.running) this.onRunning(thread, one)
      } else if (!(this.follows(message.id) && message.running) && (known.running || this.store.server)) {
        Object.assign(known, message)
      }
    }
  }
}
