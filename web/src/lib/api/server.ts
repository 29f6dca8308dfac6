// The requests that the page makes. All pass through `request`, which knows of the session: a request that changes
// something carries its token, and one that is refused because the session has ended waits for the login.
import { untrack } from 'svelte'
import type { AnswerRequest, Config, FileText } from '../types'
import { errorOf, networkError, RequestError } from './errors'
import { epoch, resume, session, sessionEnded, takeSession, untilLogin } from './session.svelte'

const CSRF = 'x-csrf-token'

async function send(path: string, options: RequestInit): Promise<Response> {
  const headers = new Headers(options.headers)
  const csrf = untrack(() => session.csrf)
  if (csrf !== '' && options.method !== 'GET') headers.set(CSRF, csrf)
  return fetch(path, { cache: 'no-store', credentials: 'same-origin', ...options, headers }).catch((cause: unknown) => {
    if (cause instanceof DOMException && cause.name === 'AbortError') throw cause
    throw networkError(cause)
  })
}

/** Sends a request. Throws `RequestError`. `waits`: after the end of the session it waits for the next login. */
export async function request(path: string, options: RequestInit, waits = true): Promise<Response> {
  let renewed = false
  for (;;) {
    // what sends a request while it is drawn does not depend on the session
    if (waits && untrack(() => session.ended)) await untilLogin(options.signal)
    const [sentAt, csrf] = [epoch, untrack(() => session.csrf)]
    const response = await send(path, options)
    if (response.ok) return response
    const error = await errorOf(response)
    if (session.account === null || !waits) throw error
    if (error.serverCode === 'login_required') {
      if (sentAt === epoch) sessionEnded()
      continue
    }
    // another tab has logged in again: its session has another token
    if (error.status !== 403 || options.method === 'GET' || renewed) throw error
    renewed = true
    await getConfig()
    if (session.csrf === csrf) throw error
  }
}

/** A request with a JSON body. */
export function requestJson(method: string, path: string, body: unknown, options: RequestInit = {}, waits = true): Promise<Response> {
  const headers = { 'content-type': 'application/json' }
  return request(path, { ...options, method, headers, body: JSON.stringify(body) }, waits)
}

export async function getConfig(waits = true): Promise<Config> {
  const response = await request('/web/config', { method: 'GET' }, waits)
  const config = (await response.json()) as Config
  takeSession(config.account ?? null, config.csrf ?? '')
  return config
}

/** Reads the session again, as after a login in another tab; what waits goes on where it is the same account's. */
export async function checkSession(): Promise<void> {
  try {
    const { account, csrf } = await getConfig(false)
    if (account && session.ended) resume(account, csrf ?? '', false)
  } catch (error) {
    if (error instanceof RequestError && error.serverCode === 'login_required') sessionEnded()
    else throw error
  }
}

export interface Accepted {
  id: string
  ahead: number
  seconds: number
}

/** Asks a question. Throws `RequestError` where the server does not take it. */
export async function postAnswer(body: AnswerRequest): Promise<Accepted> {
  return (await (await requestJson('POST', '/web/answers', body)).json()) as Accepted
}

/** The events of an answer behind event `last` ("": all of them). */
export async function openAnswer(id: string, last: string, signal: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = { accept: 'text/event-stream' }
  if (last !== '') headers['last-event-id'] = last
  return request(`/web/answers/${encodeURIComponent(id)}`, { method: 'GET', headers, signal })
}

export async function stopAnswer(id: string): Promise<void> {
  await request(`/web/answers/${encodeURIComponent(id)}`, { method: 'DELETE' })
}

/** The text of a file. Its name goes into a header: a URL is logged on the way. */
export async function postFile(file: File, signal: AbortSignal): Promise<FileText> {
  const headers = { 'content-type': 'application/octet-stream', 'x-file-name': encodeURIComponent(file.name) }
  const response = await request('/web/files', { method: 'POST', headers, body: file, signal })
  return (await response.json()) as FileText
}
