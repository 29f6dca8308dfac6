// Feedback on answers: sent with consent alone, and withdrawn by the id that the server gave.
import type { WireMessage } from '../types'
import { request, requestJson } from './server'

export interface FeedbackBody {
  consent: true
  rating: 'up' | 'down'
  reasons: string[]
  comment: string
  correction: string
  rejected: string // of two answers side by side, the one that was not chosen
  messages: WireMessage[]
  answer: string
  model: string
}

export async function postFeedback(body: FeedbackBody): Promise<string> {
  const response = await requestJson('POST', '/web/feedback', body)
  return ((await response.json()) as { id: string }).id
}

export async function withdrawFeedback(id: string): Promise<void> {
  await request(`/web/feedback/${encodeURIComponent(id)}`, { method: 'DELETE' })
}
