// Conversations on the server, for an account. What is put goes into a queue in memory and from there to the server,
// again and again until it is there; what is read has the queue on top. Nothing of it is kept in the browser.
import { RequestError } from '../api/errors'
import { request, requestJson } from '../api/server'
import { session } from '../api/session.svelte'
import type { Conversation, Message } from '../types'
import type { Store } from './db'

const SOON_MS = 20 // so that what is put together goes together
const STREAM_MS = 3000 // between two copies of an answer that is still being written
const DRAFT_MS = 1500
const RETRY_MS = [1000, 2000, 5000, 10_000, 30_000]
const TIMEOUT_MS = 30_000
const BATCH_BYTES = 2_000_000 // of messages in one request; the server takes 8 MB
const KEEPALIVE_BYTES = 60_000 // a browser takes 64 KiB of requests that outlive the page

/** What waits for one conversation; `place` of a draft may be "new". */
interface Pending {
  due: number
  conversation?: Conversation
  messages: Map<string, Message>
  draft?: string
  removed: boolean
}

const at = (id: string, rest = ''): string => `/web/conversations/${encodeURIComponent(id)}${rest}`

const draftAt = (place: string): string => `/web/drafts/${encodeURIComponent(place)}`

export class ServerStore implements Store {
  readonly server = this
  /** What waits: its number, whether writing has failed, and what the server refused for good. */
  readonly state = $state({ waiting: 0, failed: false, refused: '' })
  /** Called when the server has a change of a conversation. */
  onWritten: (conversation: string) => void = () => {}
  /** Called where a conversation was deleted elsewhere. */
  onGone: (conversation: string) => void = () => {}

  private readonly pending = new Map<string, Pending>()
  private readonly refused = new Set<Message>()
  private timer: ReturnType<typeof setTimeout> | undefined
  private writing: Promise<void> | null = null
  private failures = 0
  private ended = false

  constructor() {
    addEventListener('online', () => this.writeSoon(0))
  }

  async conversations(): Promise<Conversation[]> {
    const before = [...this.pending.values()].flatMap((one) => one.conversation ?? []) // may be written before the answer is here
    const kept = new Map((await get<Conversation[]>('/web/conversations')).map((one) => [one.id, one]))
    for (const one of before) if (!kept.has(one.id)) kept.set(one.id, one)
    for (const [id, pending] of this.pending) {
      if (pending.removed) kept.delete(id)
      else if (pending.conversation) kept.set(id, pending.conversation)
    }
    return [...kept.values()]
  }

  async conversation(id: string): Promise<Conversation | undefined> {
    const pending = this.pending.get(id)
    if (pending?.removed) return undefined
    return pending?.conversation ?? (await orMissing(get<Conversation>(at(id)), undefined))
  }

  async messages(id: string): Promise<Message[]> {
    if (this.pending.get(id)?.removed) return []
    const before = [...(this.pending.get(id)?.messages ?? [])] // may be written before the answer is here
    const kept = await orMissing(get<Message[]>(at(id, '/messages')), [])
    const all = new Map([...before, ...kept.map((one): [string, Message] => [one.id, one])])
    for (const one of this.pending.get(id)?.messages.values() ?? []) all.set(one.id, one)
    for (const one of this.refused) if (one.conversation === id) all.set(one.id, one)
    return [...all.values()].sort((a, b) => a.created - b.created)
  }

  async search(text: string): Promise<string[]> {
    const response = await requestJson('POST', '/web/conversations/search', { text })
    return ((await response.json()) as { ids: string[] }).ids
  }

  async putConversation(one: Conversation): Promise<void> {
    const pending = this.of(one.id)
    pending.conversation = one
    pending.removed = false
    this.put(pending, SOON_MS)
  }

  async putMessages(messages: Message[]): Promise<void> {
    for (const one of messages) {
      const pending = this.of(one.conversation)
      const first = !pending.messages.has(one.id)
      for (const old of this.refused) if (old.id === one.id) this.refused.delete(old)
      pending.messages.set(one.id, one)
      // a running answer is put again and again: the wait begins with the first copy
      if (one.running === null) this.put(pending, SOON_MS)
      else if (first) this.put(pending, STREAM_MS)
    }
  }

  async remove(id: string): Promise<void> {
    const pending = this.of(id)
    pending.messages.clear()
    delete pending.conversation
    delete pending.draft
    pending.removed = true
    for (const one of this.refused) if (one.conversation === id) this.refused.delete(one)
    this.put(pending, SOON_MS)
  }

  async draft(place: string): Promise<string> {
    const waiting = this.pending.get(place)?.draft
    if (waiting !== undefined) return waiting
    return (await orMissing(get<{ text: string }>(draftAt(place)), { text: '' })).text
  }

  async putDraft(place: string, text: string): Promise<void> {
    const pending = this.of(place)
    if (pending.removed || pending.draft === text) return
    pending.draft = text
    this.put(pending, text === '' ? SOON_MS : DRAFT_MS)
  }

  /** Whether something would be lost if the page were closed after `flush`. */
  get unsaved(): boolean {
    if (this.refused.size > 0) return true
    if (this.pending.size === 0) return false
    return this.state.failed || session.ended || this.size() > KEEPALIVE_BYTES
  }

  /**
   * Writes what waits while the page is left: all at once, since nothing runs behind a request then. What the server
   * has leaves the queue; the rest stays for the next attempt, if there is one.
   */
  flush(): void {
    let room = KEEPALIVE_BYTES
    const fire = (method: string, path: string, body: unknown, written: () => void): void => {
      const size = body === undefined ? 0 : JSON.stringify(body).length
      if (size > room) return
      room -= size
      send(method, path, body, { keepalive: true }, false).then(
        () => {
          written()
          this.count()
        },
        () => {}, // it is still in the queue
      )
    }
    for (const [id, pending] of this.pending) {
      const { conversation, draft } = pending
      if (pending.removed) fire('DELETE', at(id), undefined, () => {})
      if (conversation) fire('PUT', at(id), conversation, () => pending.conversation === conversation && delete pending.conversation)
      const messages = [...pending.messages.values()].sort((a, b) => Number(a.running !== null) - Number(b.running !== null))
      for (const one of messages) {
        fire('PUT', at(id, '/messages'), [one], () => pending.messages.get(one.id) === one && pending.messages.delete(one.id))
      }
      if (draft !== undefined) {
        fire('PUT', draftAt(id), { text: draft }, () => pending.draft === draft && delete pending.draft)
      }
    }
  }

  /** Writes what waits and comes back when it is written, or cannot be. True: nothing is left. */
  async settle(): Promise<boolean> {
    for (const pending of this.pending.values()) pending.due = 0
    clearTimeout(this.timer)
    await this.writing
    await this.work()
    return this.pending.size === 0 && this.refused.size === 0
  }

  /** Ends the store: what waits is given up. */
  discard(): void {
    clearTimeout(this.timer)
    this.pending.clear()
    this.refused.clear()
    this.ended = true
    this.count()
  }

  private of(id: string): Pending {
    const known = this.pending.get(id)
    if (known !== undefined) return known
    const made: Pending = { due: Infinity, messages: new Map(), removed: false }
    if (!this.ended) this.pending.set(id, made)
    return made
  }

  private put(pending: Pending, milliseconds: number): void {
    if (this.refused.size === 0) this.state.refused = '' // of something that has changed since
    pending.due = Math.min(pending.due, Date.now() + milliseconds)
    this.count()
    if (this.failures === 0) this.schedule() // otherwise the next attempt has its time
  }

  private count(): void {
    let waiting = this.refused.size
    for (const one of this.pending.values()) {
      waiting += one.messages.size + Number(one.removed) + Number(one.conversation !== undefined) + Number(one.draft !== undefined)
    }
    this.state.waiting = waiting
  }

  private schedule(): void {
    const due = Math.min(...[...this.pending.values()].map((one) => one.due))
    if (due !== Infinity) this.writeSoon(Math.max(0, due - Date.now()))
  }

  private writeSoon(milliseconds: number): void {
    clearTimeout(this.timer)
    if (this.ended) return
    this.timer = setTimeout(() => void this.work(), milliseconds)
  }

  /** Writes what is due, one request at a time. */
  private async work(): Promise<void> {
    if (this.writing !== null) return this.writing
    this.writing = this.writeDue().finally(() => (this.writing = null))
    return this.writing
  }

  private async writeDue(): Promise<void> {
    try {
      for (const [id, pending] of [...this.pending]) {
        if (pending.due > Date.now() && this.failures === 0) continue
        await this.write(id, pending, {}, true)
      }
      this.failures = 0
      this.state.failed = false
      this.schedule()
    } catch {
      this.state.failed = true
      this.writeSoon(RETRY_MS[Math.min(this.failures, RETRY_MS.length - 1)] ?? 30_000)
      this.failures += 1
    }
    this.count()
  }

  /** Writes what waits for one place. Each part leaves the queue when the server has it, unless a newer one came. */
  private async write(id: string, pending: Pending, options: RequestInit, waits: boolean): Promise<void> {
    pending.due = Infinity
    const { conversation, draft } = pending
    try {
      if (pending.removed) {
        await orMissing(send('DELETE', at(id), undefined, options, waits), undefined)
        if (pending.removed) this.pending.delete(id)
        this.onWritten(id)
        return
      }
      if (conversation !== undefined) {
        await send('PUT', at(id), conversation, options, waits)
        if (pending.conversation === conversation) delete pending.conversation
      }
      for (const batch of batches([...pending.messages.values()])) {
        await this.writeMessages(id, batch, options, waits)
        for (const one of batch) if (pending.messages.get(one.id) === one) pending.messages.delete(one.id)
      }
      if (draft !== undefined) {
        await send('PUT', draftAt(id), { text: draft }, options, waits)
        if (pending.draft === draft) delete pending.draft
      }
      if (conversation !== undefined || draft === undefined) this.onWritten(id)
    } catch (error) {
      if (!(await this.givenUp(id, pending, error))) {
        pending.due = Math.min(pending.due, Date.now())
        throw error
      }
    }
    const empty = !pending.removed && !pending.conversation && pending.messages.size === 0 && pending.draft === undefined
    if (empty && this.pending.get(id) === pending) this.pending.delete(id)
  }

  /** Messages that are too large together go one by one; one that is too large goes without its log-probabilities. */
  private async writeMessages(id: string, batch: Message[], options: RequestInit, waits: boolean): Promise<void> {
    try {
      await send('PUT', at(id, '/messages'), batch, options, waits)
    } catch (error) {
      if (!(error instanceof RequestError) || error.status !== 413) throw error
      const [first, ...others] = batch
      if (first === undefined) return
      if (others.length > 0) {
        for (const one of batch) await this.writeMessages(id, [one], options, waits)
      } else if (first.logprobs.length > 0 || first.request !== null) {
        await this.writeMessages(id, [{ ...first, logprobs: [], request: null }], options, waits)
      } else {
        this.refused.add(first)
        this.state.refused = error.failure.detail
      }
    }
  }

  /** Whether trying again is of no use: the conversation is gone, or the server will never take this. */
  private async givenUp(id: string, pending: Pending, error: unknown): Promise<boolean> {
    if (!(error instanceof RequestError)) return false
    if (error.status === 404) {
      pending.messages.clear()
      delete pending.conversation
      delete pending.draft
      this.onGone(id)
      return true
    }
    if (![400, 409, 413, 422].includes(error.status)) return false
    for (const one of pending.messages.values()) this.refused.add(one)
    pending.messages.clear()
    delete pending.conversation
    delete pending.draft
    this.state.refused = error.failure.detail || error.serverCode
    return true
  }

  private size(): number {
    return JSON.stringify([...this.pending.values()].map((one) => [one.conversation, [...one.messages.values()], one.draft])).length
  }
}

async function get<T>(path: string): Promise<T> {
  return (await (await request(path, { method: 'GET' })).json()) as T
}

/** What a promise gives, or `otherwise` where the server has no such thing. */
async function orMissing<T>(promise: Promise<T>, otherwise: T): Promise<T> {
  return promise.catch((error: unknown) => {
    if (error instanceof RequestError && error.status === 404) return otherwise
    throw error
  })
}

async function send(method: string, path: string, body: unknown, options: RequestInit, waits: boolean): Promise<undefined> {
  const timeout = new AbortController()
  const timer = setTimeout(() => !session.ended && timeout.abort(), TIMEOUT_MS)
  try {
    if (body === undefined) await request(path, { ...options, method, signal: timeout.signal }, waits)
    else await requestJson(method, path, body, { ...options, signal: timeout.signal }, waits)
  } finally {
    clearTimeout(timer)
  }
  return undefined
}

/** Messages in groups that fit one request. */
function* batches(messages: Message[]): Generator<Message[]> {
  let batch: Message[] = []
  let bytes = 0
  for (const one of messages) {
    const size = JSON.stringify(one).length
    if (batch.length > 0 && bytes + size > BATCH_BYTES) {
      yield batch
      batch = []
      bytes = 0
    }
    batch.push(one)
    bytes += size
  }
  if (batch.length > 0) yield batch
}
