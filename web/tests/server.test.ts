// The session and the conversations of an account, against a server that can fail, end the session and forget.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { newMessage, textOf } from '../src/lib/answer/segments'
import { RequestError } from '../src/lib/api/errors'
import { getConfig, postAnswer } from '../src/lib/api/server'
import { leave, resume, session } from '../src/lib/api/session.svelte'
import { Library } from '../src/lib/store/library.svelte'
import { ServerStore } from '../src/lib/store/server.svelte'
import { loadAccountSettings, saveSettings, settings } from '../src/lib/store/settings.svelte'
import type { Account, Conversation, Message } from '../src/lib/types'

const ANA: Account = { id: 'ana', name: 'Ana', role: 'patient' }
const BEN: Account = { id: 'ben', name: 'Ben', role: 'patient' }
const CONVERSATION: Conversation = {
  ...{ id: 'c', title: 'T', named: false, created: 1, updated: 2, pinned: false, deleted: 0, leaf: null, running: false },
}
const message = (id: string, text: string, from: Partial<Message> = {}): Message =>
  newMessage({ id, conversation: 'c', parent: null, role: 'user', segments: [{ text, notices: [] }], ...from })

interface Sent {
  method: string
  path: string
  csrf: string | null
  body: unknown
}

/** A server with one person's conversations. `refuse` may answer a request otherwise. */
class Double {
  sent: Sent[] = []
  conversations = new Map<string, Conversation>()
  messages = new Map<string, Message>()
  drafts = new Map<string, string>()
  account: Account | null = ANA
  csrf = 'token-1'
  refuse: (sent: Sent) => Response | Error | null = () => null

  readonly fetch = async (path: string, options: RequestInit): Promise<Response> => {
    const body: unknown = typeof options.body === 'string' ? JSON.parse(options.body) : undefined
    const sent = { method: options.method ?? 'GET', path, csrf: new Headers(options.headers).get('x-csrf-token'), body }
    this.sent.push(sent)
    const refused = this.refuse(sent)
    if (refused instanceof Error) throw refused
    if (refused) return refused
    if (this.account === null) return failure(401, 'login_required')
    if (sent.method !== 'GET' && sent.csrf !== this.csrf) return failure(403, 'csrf')
    return this.answer(sent)
  }

  private answer({ method, path, body }: Sent): Response {
    const [, , kind, id = '', rest] = path.split('/')
    if (kind === 'config') return json({ account: this.account, csrf: this.csrf, keep: 'server' })
    if (kind === 'answers') return json({ id: 'x', ahead: 0, seconds: 0 }, 202)
    if (kind === 'drafts') {
      if (method === 'GET') return json({ text: this.drafts.get(id) ?? '' })
      this.drafts.set(id, (body as { text: string }).text)
      return new Response(null, { status: 204 })
    }
    if (id === '') return json([...this.conversations.values()])
    if (method === 'PUT' && rest === undefined) this.conversations.set(id, body as Conversation)
    if (!this.conversations.has(id)) return failure(404, 'conversation_not_found')
    if (method === 'GET') return json(rest ? [...this.messages.values()] : this.conversations.get(id))
    if (method === 'DELETE') this.conversations.delete(id)
    if (rest === 'messages') for (const one of body as Message[]) this.messages.set(one.id, one)
    return new Response(null, { status: 204 })
  }

  count(method: string, path: string): number {
    return this.sent.filter((one) => one.method === method && one.path === path).length
  }
}

const json = (value: unknown, status = 200): Response => new Response(JSON.stringify(value), { status })
const failure = (status: number, code: string): Response => json({ error: { message: `because of ${code}`, code } }, status)

let server: Double
let left: number

beforeEach(async () => {
  vi.useFakeTimers()
  server = new Double()
  left = 0
  vi.stubGlobal('fetch', server.fetch)
  vi.spyOn(leave, 'now').mockImplementation(() => void (left += 1))
  Object.assign(session, { account: null, csrf: '', ended: false })
  await getConfig()
})

afterEach(() => {
  vi.useRealTimers()
  vi.unstubAllGlobals()
  vi.restoreAllMocks()
})

describe('the session', () => {
  it('gives its token to what changes something and to nothing else', async () => {
    await postAnswer({ messages: [] })
    expect(server.sent.map((one) => [one.method, one.csrf])).toEqual([['GET', null], ['POST', 'token-1']])
  })
  it('that has ended holds a question until the login, then sends it once more', async () => {
    server.account = null
    const asked = postAnswer({ messages: [{ role: 'user', content: '1~2片?' }] })
    await vi.advanceTimersByTimeAsync(60_000)
    expect([session.ended, server.count('POST', '/web/answers')]).toEqual([true, 1])
    Object.assign(server, { account: ANA, csrf: 'token-2' })
    resume(ANA, 'token-2')
    expect((await asked).id).toBe('x')
    expect(server.sent.at(-1)).toMatchObject({ csrf: 'token-2', body: { messages: [{ content: '1~2片?' }] } })
    expect([session.ended, left]).toEqual([false, 0])
  })
  it('of another account leaves the page and sends nothing of the first', async () => {
    server.account = null
    const asked = postAnswer({ messages: [] })
    asked.catch(() => {})
    await vi.advanceTimersByTimeAsync(0)
    Object.assign(server, { account: BEN, csrf: 'token-3' })
    resume(BEN, 'token-3')
    await vi.advanceTimersByTimeAsync(60_000)
    expect([left, server.count('POST', '/web/answers'), session.account?.id]).toEqual([1, 1, 'ana'])
  })
  it('that another tab has renewed is read again after a refusal', async () => {
    server.csrf = 'token-4'
    await postAnswer({ messages: [] })
    expect(server.sent.map((one) => one.path)).toEqual(['/web/config', '/web/answers', '/web/config', '/web/answers'])
    server.refuse = ({ method }) => (method === 'POST' ? failure(403, 'forbidden') : null)
    await expect(postAnswer({ messages: [] })).rejects.toThrow('because of forbidden')
  })
  it('that is not asked for is no login page: a password of the whole page is the browser’s', async () => {
    Object.assign(session, { account: null })
    server.refuse = () => new Response('', { status: 401 })
    await expect(getConfig()).rejects.toBeInstanceOf(RequestError)
    expect(session.ended).toBe(false)
  })
})

describe('the store of the server', () => {
  it('writes a conversation before its messages, and a running answer every few seconds and at its end', async () => {
    const store = new ServerStore()
    const running = { answer: 'x', last: '1', ahead: 0, seconds: 0 }
    await store.putMessages([message('q', 'question')])
    await store.putConversation(CONVERSATION)
    await vi.advanceTimersByTimeAsync(100)
    expect(server.sent.slice(1).map((one) => one.path)).toEqual(['/web/conversations/c', '/web/conversations/c/messages'])
    for (let text = 0; text < 12; text++) {
      await store.putMessages([message('a', `answer ${text}`, { running })])
      await vi.advanceTimersByTimeAsync(500)
    }
    expect(server.count('PUT', '/web/conversations/c/messages')).toBe(3) // of 13 copies
    await store.putMessages([message('a', 'answer, whole')])
    await vi.advanceTimersByTimeAsync(100)
    expect(textOf(server.messages.get('a') as Message)).toBe('answer, whole')
    expect([store.state.waiting, store.unsaved]).toEqual([0, false])
  })
  it.each([
    ['no network', () => new TypeError('failed to fetch')],
    ['a full disk', () => failure(507, 'disk_full')],
    ['too many requests', () => failure(429, 'rate_limited')],
  ])('loses nothing through %s, and says so', async (_name, refused) => {
    const store = new ServerStore()
    server.refuse = refused
    await store.putConversation(CONVERSATION)
    await store.putMessages([message('q', '1~2片?')])
    await store.putDraft('c', 'draft')
    await vi.advanceTimersByTimeAsync(120_000)
    expect(store.state).toMatchObject({ waiting: 3, failed: true })
    expect(store.unsaved).toBe(true)
    expect((await store.conversation('c'))?.title).toBe('T')
    server.refuse = () => null
    await vi.advanceTimersByTimeAsync(31_000)
    expect([textOf(server.messages.get('q') as Message), server.drafts.get('c')]).toEqual(['1~2片?', 'draft'])
    expect([store.state.waiting, store.state.failed, store.unsaved]).toEqual([0, false, false])
  })
  it('keeps a newer copy that came while an older one was being written', async () => {
    const store = new ServerStore()
    await store.putConversation(CONVERSATION)
    await store.putMessages([message('q', 'old')])
    server.refuse = ({ path }) => {
      if (path.endsWith('/messages') && server.messages.size === 0) void store.putMessages([message('q', 'new')])
      return null
    }
    await vi.advanceTimersByTimeAsync(200)
    expect(textOf(server.messages.get('q') as Message)).toBe('new')
  })
  it('writes what waits when the page is hidden, also while it could not before', async () => {
    const store = new ServerStore()
    await store.putConversation(CONVERSATION)
    await store.putMessages([message('q', 'text')])
    await store.putDraft('new', 'draft')
    store.flush()
    await vi.advanceTimersByTimeAsync(0)
    expect([server.conversations.size, server.drafts.get('new')]).toEqual([1, 'draft'])
  })
  it('sends a message that is too large without its log-probabilities, and says what is refused for good', async () => {
    const store = new ServerStore()
    server.refuse = ({ method, path, body }) =>
      method === 'PUT' && path.endsWith('/messages') && (body as Message[]).some((one) => one.logprobs.length > 0 || one.id === 'huge') ? failure(413, 'too_large') : null
    await store.putConversation(CONVERSATION)
    const logprobs = [{ token: 'a', logprob: 0, top_logprobs: [] }]
    await store.putMessages([message('q', 'plain'), message('a', 'measured', { logprobs }), message('huge', 'huge')])
    await vi.advanceTimersByTimeAsync(100)
    expect([...server.messages.keys()].sort()).toEqual(['a', 'q'])
    expect(server.messages.get('a')?.logprobs).toEqual([])
    expect([store.state.refused, store.unsaved]).toEqual(['because of too_large', true])
    expect((await store.messages('c')).map((one) => one.id).sort()).toEqual(['a', 'huge', 'q'])
  })
  it('gives up what was deleted on another device', async () => {
    const store = new ServerStore()
    const gone: string[] = []
    store.onGone = (id) => void gone.push(id)
    await store.putMessages([message('a', 'late')])
    await vi.advanceTimersByTimeAsync(100)
    expect([gone, store.state.waiting]).toEqual([['c'], 0])
  })
})

describe('two devices', () => {
  it('see what the other has changed, added and deleted', async () => {
    const store = new ServerStore()
    const library = new Library(store, 'server')
    server.conversations.set('c', { ...CONVERSATION, leaf: 'q' }).set('d', { ...CONVERSATION, id: 'd' })
    server.messages.set('q', message('q', 'question'))
    await library.load()
    const thread = await library.open('c')
    server.conversations.set('c', { ...CONVERSATION, title: 'Renamed', leaf: 'a', updated: 3 }).delete('d')
    server.conversations.set('e', { ...CONVERSATION, id: 'e' })
    server.messages.set('a', message('a', 'answer', { parent: 'q', role: 'assistant' }))
    await library.refresh()
    expect(library.conversations.map((one) => [one.id, one.title])).toEqual([['c', 'Renamed'], ['e', 'T']])
    expect([library.find('c')?.leaf, thread?.messages.size]).toEqual(['a', 2])
  })
})

describe('settings with accounts', () => {
  it('keep texts in the window of their account only', () => {
    loadAccountSettings('ana')
    Object.assign(settings, { system: 'secret words', language: 'zh', understood: true })
    saveSettings(true, 'ana')
    expect(JSON.stringify(localStorage)).not.toContain('secret')
    loadAccountSettings('ana')
    expect([settings.system, settings.language]).toEqual(['secret words', 'zh'])
    loadAccountSettings('ben')
    expect([settings.system, settings.language, settings.understood]).toEqual([null, 'zh', false])
    expect(JSON.stringify(sessionStorage)).not.toContain('secret')
  })
})
