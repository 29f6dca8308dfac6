// The messages of a conversation as a tree: the branch that is shown, versions of a message, the newest leaf.
import type { Message } from '../types'

export type Messages = ReadonlyMap<string, Message>

/** The messages from the first to `leaf`. A parent that is missing ends the walk, and so does a circle. */
export function pathTo(messages: Messages, leaf: string | null): Message[] {
  const path: Message[] = []
  const seen = new Set<string>()
  let at = leaf
  while (at !== null && !seen.has(at)) {
    seen.add(at)
    const message = messages.get(at)
    if (message === undefined) break
    path.push(message)
    at = message.parent
  }
  return path.reverse()
}

/** A message with the others in its place, the oldest first. */
export function versionsOf(messages: Messages, message: Message): Message[] {
  const found = [...messages.values()].filter((one) => one.parent === message.parent && one.role === message.role)
  return found.sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1))
}

/** The message below `id` (or itself) that was written last: the end of the branch that one was in last. */
export function newestLeaf(messages: Messages, id: string): string {
  const children = new Map<string, Message[]>()
  for (const one of messages.values()) {
    if (one.parent !== null) children.set(one.parent, [...(children.get(one.parent) ?? []), one])
  }
  const below: Message[] = []
  const open = [id]
  const seen = new Set<string>()
  for (let at = open.pop(); at !== undefined; at = open.pop()) {
    if (seen.has(at)) continue
    seen.add(at)
    for (const child of children.get(at) ?? []) {
      below.push(child)
      open.push(child.id)
    }
  }
  return below.reduce<Message | undefined>((last, one) => (last && last.created >= one.created ? last : one), undefined)?.id ?? id
}
