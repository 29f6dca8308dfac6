// What is asked of the server now and then: notices for another country; for researchers cards and prompts.
import type { AnswerRequest, ModelCard, Notice, RawPrompt } from '../types'
import { request, requestJson } from './server'

export async function postNotices(body: AnswerRequest): Promise<Notice[]> {
  const response = await requestJson('POST', '/web/notices', body)
  return ((await response.json()) as { notices: Notice[] }).notices
}

export async function getCards(): Promise<ModelCard[]> {
  const response = await request('/web/cards', { method: 'GET' })
  return ((await response.json()) as { cards: ModelCard[] }).cards
}

/** The text that the model gets for a question. Throws `RequestError`, as for a conversation that is too long. */
export async function postPrompt(body: AnswerRequest): Promise<RawPrompt> {
  const response = await requestJson('POST', '/web/prompt', body)
  return (await response.json()) as RawPrompt
}
