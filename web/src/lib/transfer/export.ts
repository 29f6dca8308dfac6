// Conversations as files: Markdown to read (with notices), JSON to keep every branch.
import { partsOf, plainText } from '../answer/parts'
import { wholeText } from '../files/attachments'
import type { Conversation, Message } from '../types'

export const FORMAT = 'carellama-conversations'

export interface Exported {
  format: typeof FORMAT
  version: 1
  conversations: { conversation: Conversation; messages: Message[] }[]
}

/** The branch that is shown. The safety layer's notices are quotations, so that they stand out as on the page. */
export function asMarkdown(title: string, path: Message[], names: { user: string; assistant: string }): string {
  const lines = [`# ${title.replace(/\n/g, ' ')}`]
  for (const message of path) {
    if (message.role === 'system') continue
    lines.push(`## ${message.role === 'user' ? names.user : names.assistant}`)
    if (message.role === 'user') {
      lines.push(wholeText(message))
      continue
    }
    const parts = partsOf(message.segments)
    const first = parts.filter((part) => part.kind === 'notice' && part.first)
    for (const part of [...first, ...parts.filter((part) => !first.includes(part))]) {
      if (part.kind === 'thoughts') continue
      if (part.kind === 'notice') lines.push(part.text.split('\n').map((line) => `> ${line}`).join('\n'))
      else lines.push(plainText(part).trim())
    }
  }
  return `${lines.join('\n\n')}\n`
}

export function asJson(conversations: { conversation: Conversation; messages: Message[] }[]): string {
  const exported: Exported = { format: FORMAT, version: 1, conversations }
  return `${JSON.stringify(exported, null, 1)}\n`
}

/** Gives the browser a file to save. */
export function saveFile(name: string, type: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }))
  const link = document.createElement('a')
  link.href = url
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(url), 10_000)
}

/** A title as the name of a file on every system. */
export function fileName(title: string, ending: string): string {
  const safe = title.replace(/[\u0000-\u001f\\/:*?"<>|.]+/g, ' ').trim().slice(0, 60).trim()
  return `${safe || 'carellama'}.${ending}`
}
