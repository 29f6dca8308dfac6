// The body of a question: the branch so far, as it was written, and what a researcher has set.
import type { Settings } from '../store/settings.svelte'
import type { AnswerRequest, Config, Message, WireMessage } from '../types'
import { wholeText } from '../files/attachments'
import { ownText } from './segments'
import { chosenCountry } from './country'

/** The messages as the server takes them. Answers that never came are left out; questions around them become one. */
export function wireMessages(path: Message[], system: string | null, textIn = wholeText): WireMessage[] {
  const wire: WireMessage[] = []
  for (const message of path) {
    const content = textIn(message)
    if (content.trim() === '') continue
    const last = wire.at(-1)
    if (message.role === 'user' && last?.role === 'user') last.content += `\n\n${content}`
    else wire.push({ role: message.role, content })
  }
  if (system) {
    const rest = wire.filter((one) => one.role !== 'system')
    return [{ role: 'system', content: system }, ...rest]
  }
  return wire
}

/** The messages as training data: without what the safety layer said beside the model's words. */
export function trainingMessages(path: Message[], system: string | null): WireMessage[] {
  return wireMessages(path, system, (one) => {
    const own = one.role === 'assistant' ? ownText(one) : ''
    return own.trim() === '' ? wholeText(one) : own // a refusal stands for the model's words
  })
}

export function requestFor(path: Message[], adapter: string, config: Config, settings: Settings): AnswerRequest {
  const researcher = config.profile === 'researcher'
  const body: AnswerRequest = { messages: wireMessages(path, researcher ? settings.system : null) }
  if (adapter !== '' && config.adapters.includes(adapter)) body.model = `carellama:${adapter}`
  const country = chosenCountry(config)
  if (country !== null) body.country = country
  if (config.consult) body.mode = settings.mode ?? config.mode
  if (!researcher) return body
  const { max_new_tokens, ...sampling } = settings.sampling
  Object.assign(body, sampling)
  if (max_new_tokens !== undefined) body.max_tokens = max_new_tokens
  // a consultation's questions and reports are no tokens of a model: the server refuses the wish
  if (settings.logprobs && body.mode !== 'consult') Object.assign(body, { logprobs: true, top_logprobs: 5 })
  return body
}
