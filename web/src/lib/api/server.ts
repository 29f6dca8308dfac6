// The four requests that the page makes.
import type { AnswerRequest, Config } from '../types'
import { errorOf, networkError } from './errors'

async function request(path: string, options: RequestInit): Promise<Response> {
  const response = await fetch(path, { cache: 'no-store', credentials: 'same-origin', ...options }).catch(
    (cause: unknown) => {
      if (cause instanceof DOMException && cause.name === 'AbortError') throw cause
      throw networkError(cause)
    },
  )
  if (!response.ok) throw await errorOf(response)
  return response
}

export async function getConfig(): Promise<Config> {
  const response = await request('/web/config', { method: 'GET' })
  return (await response.json()) as Config
}

export interface Accepted {
  id: string
  ahead: number
  seconds: number
}

/** Asks a question. Throws `RequestError` where the server does not take it. */
export async function postAnswer(body: AnswerRequest): Promise<Accepted> {
  const response = await request('/web/answers', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  return (await response.json()) as Accepted
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
