// Conversations out of files: those of this page, ShareGPT, OpenAI messages. Whatever they hold is text, nothing more:
// each field is read by its type, ids are new, and no answer of an import is running.
import { newMessage } from '../answer/segments'
import { t } from '../i18n/index.svelte'
import { newId } from '../ids'
import { titleOf } from '../store/library.svelte'
import type { Attachment, Conversation, Level, Message, Notice, Segment } from '../types'
import { FORMAT } from './export'

export interface Imported {
  conversation: Conversation
  messages: Message[]
}

type Record_ = Record<string, unknown>
const ROLES = new Map<string, Message['role']>(Object.entries({
  user: 'user',
  human: 'user',
  assistant: 'assistant',
  gpt: 'assistant',
  chatgpt: 'assistant',
  bing: 'assistant',
  model: 'assistant',
  system: 'system',
  developer: 'system',
} as const))
const LEVELS: Level[] = ['emergency', 'urgent', 'soon', 'refuse', 'caution', 'info']
const MOST_MESSAGES = 100_000

const isRecord = (value: unknown): value is Record_ => typeof value === 'object' && value !== null && !Array.isArray(value)
const text = (value: unknown): string => (typeof value === 'string' ? value : '')
const number = (value: unknown): number => (typeof value === 'number' && Number.isFinite(value) ? value : 0)
const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : [])

/** Reads a file. Throws `Error` with the reason, in the language of the page, where it is none of the known kinds. */
export function readImport(source: string): Imported[] {
  const data = parse(source.replace(/^\uFEFF/, ''))
  const found = isRecord(data) && data.format === FORMAT ? list(data.conversations).map(ours) : all(data)
  const whole = found.filter((one): one is Imported => one !== null)
  if (whole.length === 0) throw new Error(t('importNoMessages'))
  if (whole.reduce((sum, one) => sum + one.messages.length, 0) > MOST_MESSAGES) throw new Error(t('importTooMany', { most: MOST_MESSAGES.toLocaleString() }))
  return whole
}

/** JSON, or JSON Lines: a value a line. */
function parse(source: string): unknown {
  try {
    return JSON.parse(source)
  } catch {
    const lines = source.split('\n').filter((line) => line.trim() !== '')
    try {
      if (lines.length > 1) return lines.map((line) => JSON.parse(line) as unknown)
    } catch {
      // said below
    }
    throw new Error(t('importNoJson'))
  }
}

function all(data: unknown): (Imported | null)[] {
  if (Array.isArray(data) && data.every((one) => isRecord(one) && 'role' in one)) return [turns(data, '')]
  return (Array.isArray(data) ? data : [data]).map((one) => {
    if (!isRecord(one)) return null
    const messages = list(one.conversations ?? one.messages ?? one.conversation)
    return turns(messages, text(one.title))
  })
}

function conversation(title: string, named: boolean): Conversation {
  const now = Date.now()
  return { id: newId(), title, named, created: now, updated: now, pinned: false, deleted: 0, leaf: null, running: false }
}

/** A list of turns, each behind the other. */
function turns(messages: unknown[], title: string): Imported | null {
  const made = conversation(title, title !== '')
  const found: Message[] = []
  let parent: string | null = null
  for (const [at, one] of messages.entries()) {
    if (!isRecord(one)) continue
    const role = ROLES.get(text(one.role ?? one.from).toLowerCase())
    const content = contentOf(one.content ?? one.value)
    if (role === undefined || content === '') continue
    const message = newMessage({
      id: newId(),
      conversation: made.id,
      parent,
      role,
      created: made.created + at,
      segments: [{ text: content, notices: [] }],
      reasoning: text(one.reasoning_content),
      finish: 'stop',
    })
    found.push(message)
    parent = message.id
  }
  if (found.length === 0) return null
  made.leaf = parent
  made.title ||= titleOf(found.find((one) => one.role === 'user')?.segments[0]?.text ?? '')
  return { conversation: made, messages: found }
}

/** OpenAI's content is a text or a list of parts. */
function contentOf(value: unknown): string {
  if (typeof value === 'string') return value
  return list(value)
    .map((part) => (isRecord(part) ? text(part.text) : ''))
    .join('')
}

/** A conversation that this page has written, with all its branches. */
function ours(value: unknown): Imported | null {
  if (!isRecord(value) || !isRecord(value.conversation)) return null
  const from = value.conversation
  const made = conversation(text(from.title), from.named === true)
  made.created = number(from.created) || made.created
  made.updated = number(from.updated) || made.updated
  made.pinned = from.pinned === true
  const ids = new Map<string, string>()
  const given = list(value.messages).filter(isRecord)
  for (const one of given) ids.set(text(one.id), newId())
  const messages = given.map((one): Message => {
    const role = ROLES.get(text(one.role)) ?? 'user'
    return newMessage({
      id: ids.get(text(one.id)) ?? newId(),
      conversation: made.id,
      parent: ids.get(text(one.parent)) ?? null,
      role,
      created: number(one.created),
      segments: list(one.segments).map(segment),
      ...(list(one.attachments).length > 0 ? { attachments: list(one.attachments).filter(isRecord).map(attachment) } : {}),
      reasoning: text(one.reasoning),
      finish: text(one.finish) || null,
      stopped: one.stopped === true,
      model: text(one.model),
      sentAt: number(one.sentAt),
      firstAt: number(one.firstAt),
      endedAt: number(one.endedAt),
    })
  })
  if (messages.length === 0) return null
  made.leaf = ids.get(text(from.leaf)) ?? messages.at(-1)?.id ?? null
  return { conversation: made, messages }
}

function segment(value: unknown): Segment {
  if (!isRecord(value)) return { text: '', notices: [] }
  return { text: text(value.text), notices: list(value.notices).filter(isRecord).map(notice) }
}

function attachment(value: Record_): Attachment {
  const content = text(value.text)
  const warnings = list(value.warnings).filter(isRecord)
  return {
    name: text(value.name),
    kind: text(value.kind),
    text: content,
    chars: [...content].length,
    cut: number(value.cut),
    bytes: number(value.bytes),
    ...(number(value.pages) > 0 ? { pages: number(value.pages) } : {}),
    warnings: warnings.map((one) => ({
      code: text(one.code),
      count: number(one.count),
      given: text(one.given),
      found: text(one.found),
    })),
  }
}

function notice(value: Record_): Notice {
  const level = LEVELS.find((one) => one === value.level) ?? 'info'
  return { kind: text(value.kind), level, rule: text(value.rule), text: text(value.text) }
}
