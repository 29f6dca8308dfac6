// An answer as a list of segments, and what the events of a stream do to it.
import type { Chunk, Message, Segment } from '../types'

/** The text of a message as it was written: what is sent back, copied and exported. */
export function textOf(message: { segments: Segment[] }): string {
  return message.segments.map((segment) => segment.text).join('')
}

/** Whether an answer says anything beside the disclaimer, which stands behind one that was stopped before its first word too. */
export function saysSomething(message: { segments: Segment[] }): boolean {
  return message.segments.some((one) => one.text.trim() !== '' && !one.notices.some((notice) => notice.kind === 'disclaimer'))
}

/** What the model wrote: marks and notices of the safety layer are no part of it. */
export function ownText(message: { segments: Segment[] }): string {
  return textOf({ segments: message.segments.filter((part) => part.notices.length === 0) })
}

export function newMessage(from: Pick<Message, 'id' | 'conversation' | 'parent' | 'role'> & Partial<Message>): Message {
  return {
    created: Date.now(),
    segments: [],
    reasoning: '',
    finish: null,
    running: null,
    failure: null,
    stopped: false,
    model: '',
    pair: '',
    blind: false,
    request: null,
    usage: null,
    sentAt: 0,
    firstAt: 0,
    endedAt: 0,
    logprobs: [],
    consultation: null,
    ...from,
  }
}

const WORD_ENDS = /[\p{Script=Latin}\p{Nd},.;:!?%)]$/u
const WORD_BEGINS = /^[\p{Script=Latin}\p{Nd}(]/u

/** Marks where an answer goes on that was cut: an empty segment. */
export function addJoint(segments: Segment[]): void {
  segments.splice(endOf(segments), 0, { text: '', notices: [] })
}

/** Behind the last segment but the disclaimer, which an answer that is continued has already. */
function endOf(segments: Segment[]): number {
  return segments.findLastIndex((one) => !one.notices.some((notice) => notice.kind === 'disclaimer')) + 1
}

/** Whether the text before a joint, to which nothing was added yet, ends with a word that `text` would grow on. */
function growsOnWord(segments: Segment[], text: string): boolean {
  const said = segments.findLastIndex((one) => one.text !== '')
  const before = segments[said]
  const joined = segments.slice(said + 1).some((one) => one.notices.length === 0)
  return joined && before?.notices.length === 0 && WORD_ENDS.test(before.text) && WORD_BEGINS.test(text)
}

/** Adds text at the end. Text of the model goes on in the last segment where that is the model's too. */
export function addText(segments: Segment[], text: string): void {
  const end = endOf(segments)
  const last = segments[end - 1]
  const added = growsOnWord(segments.slice(0, end), text) ? ` ${text}` : text
  if (last !== undefined && last.notices.length === 0) last.text += added
  else if (text !== '') segments.splice(end, 0, { text: added, notices: [] })
}

/** Adds a chunk of the stream to the message. */
export function addChunk(message: Message, chunk: Chunk, now: number): void {
  if (chunk.usage) message.usage = chunk.usage
  const choice = chunk.choices?.[0]
  if (choice === undefined) return
  const delta = choice.delta ?? {}
  const content = delta.content ?? ''
  if (delta.notices && delta.notices.length > 0) {
    const closing = delta.notices.some((one) => one.kind === 'disclaimer')
    message.segments.splice(closing ? message.segments.length : endOf(message.segments), 0, { text: content, notices: delta.notices })
  } else if (content !== '') {
    if (message.firstAt === 0) message.firstAt = now
    addText(message.segments, content)
  }
  if (delta.reasoning_content) {
    if (message.firstAt === 0) message.firstAt = now
    message.reasoning += delta.reasoning_content
  }
  if (delta.consultation) message.consultation = delta.consultation
  if (choice.logprobs?.content) message.logprobs.push(...choice.logprobs.content)
  if (choice.finish_reason) message.finish = choice.finish_reason
}
