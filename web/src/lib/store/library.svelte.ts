// The conversations of this browser: their list, the messages of those that are open, and what other tabs change.
import { SvelteMap } from 'svelte/reactivity'
import { newId } from '../ids'
import type { Conversation, Message } from '../types'
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
    readonly kept: boolean,
  ) {
    this.channel = kept && typeof BroadcastChannel !== 'undefined' ? new BroadcastChannel('carellama') : null
    this.channel?.addEventListener('message', (event: MessageEvent<News>) => void this.hear(event.data))
  }

  async load(): Promise<void> {
    const all = await this.store.conversations()
    const now = Date.now()
    for (const one of all) if (one.deleted && now - one.deleted > UNDO_MS) await this.store.remove(one.id)
    this.conversations = all.filter((one) => !one.deleted)
    for (const one of this.conversations) if (one.running) void this.open(one.id)
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
    this.conversations = this.conversations.filter((one) => one.id !== id)
    this.threads.delete(id)
    await this.store.remove(id)
    this.tell({ removed: id })
  }

  private tell(news: News): void {
    this.channel?.postMessage(news)
  }

  /** Another tab has changed something: read it again. */
  private async hear(news: News): Promise<void> {
    if ('removed' in news) {
      this.conversations = this.conversations.filter((one) => one.id !== news.removed)
      this.threads.delete(news.removed)
      return
    }
    const id = news.conversation
    const conversation = await this.store.conversation(id)
    if (conversation === undefined) return
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
      } else if (!(this.follows(message.id) && message.running) && known.running) {
        Object.assign(known, message)
      }
    }
  }
}
