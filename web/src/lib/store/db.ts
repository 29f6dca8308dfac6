// Where conversations are kept: IndexedDB of this browser, the memory of this page ("keep nothing"), or the server.
import { wholeText } from '../files/attachments'
import type { Conversation, Keep, Message } from '../types'
import type { ServerStore } from './server.svelte'

export interface Store {
  /** A store of the server: its own queue writes, tells what is unsaved, and other devices write there too. */
  readonly server: ServerStore | null
  conversations(): Promise<Conversation[]>
  conversation(id: string): Promise<Conversation | undefined>
  messages(conversation: string): Promise<Message[]>
  /** Ids of the conversations that have every word of `text` in their title or messages. */
  search(text: string): Promise<string[]>
  putConversation(one: Conversation): Promise<void>
  putMessages(messages: Message[]): Promise<void>
  remove(conversation: string): Promise<void>
  draft(conversation: string): Promise<string>
  putDraft(conversation: string, text: string): Promise<void>
}

const DATABASE = 'carellama'
const VERSION = 1

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(request.error ?? new Error('IndexedDB'))
  })
}

function committed(transaction: IDBTransaction): Promise<void> {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve()
    transaction.onerror = transaction.onabort = () => reject(transaction.error ?? new Error('IndexedDB'))
  })
}

/** Opens the store. Where the browser has no IndexedDB (a private window of some), memory stands in and `keep` says so. */
export async function openStore(keep: Keep, account = ''): Promise<{ store: Store; keep: Keep }> {
  if (keep === 'server') return { store: new (await import('./server.svelte')).ServerStore(), keep }
  if (keep === 'nothing' || typeof indexedDB === 'undefined') return { store: memoryStore(), keep: 'nothing' }
  try {
    return { store: indexedStore(await openDatabase(databaseOf(account))), keep }
  } catch {
    return { store: memoryStore(), keep: 'nothing' }
  }
}

/** Each account has a database of its own. */
export function databaseOf(account: string): string {
  return account === '' ? DATABASE : `${DATABASE}.${account}`
}

/** The words of a search, as they are compared. */
export function searchWords(text: string): string[] {
  return text.toLowerCase().split(/\s+/).filter(Boolean)
}

function without(words: string[], text: string): string[] {
  const where = text.toLowerCase()
  return words.filter((word) => !where.includes(word))
}

/** Conversations that have every word of `text`, in whatever order, each in their title or in one of their messages. */
function found(text: string, conversations: Iterable<Conversation>, messages: Iterable<Message>): string[] {
  const words = searchWords(text)
  if (words.length === 0) return []
  const missing = new Map([...conversations].map((one) => [one.id, without(words, one.title)]))
  for (const message of messages) {
    const left = missing.get(message.conversation)
    if (left !== undefined && left.length > 0) missing.set(message.conversation, without(left, wholeText(message)))
  }
  const ids = [...missing].filter(([, left]) => left.length === 0).map(([id]) => id)
  return ids
}

function openDatabase(name: string): Promise<IDBDatabase> {
  const request = indexedDB.open(name, VERSION)
  request.onupgradeneeded = () => {
    request.result.createObjectStore('conversations', { keyPath: 'id' })
    request.result.createObjectStore('messages', { keyPath: 'id' }).createIndex('conversation', 'conversation')
    request.result.createObjectStore('drafts')
  }
  return done(request)
}

function indexedStore(database: IDBDatabase): Store {
  database.onversionchange = () => database.close() // a newer page in another tab must be able to upgrade
  const read = (name: string): IDBObjectStore => database.transaction(name).objectStore(name)
  return {
    server: null,
    conversations: () => done(read('conversations').getAll() as IDBRequest<Conversation[]>),
    conversation: (id) => done(read('conversations').get(id) as IDBRequest<Conversation | undefined>),
    messages: (id) => done(read('messages').index('conversation').getAll(id) as IDBRequest<Message[]>),
    async search(text) {
      const conversations = await done(read('conversations').getAll() as IDBRequest<Conversation[]>)
      return found(text, conversations, await done(read('messages').getAll() as IDBRequest<Message[]>))
    },
    async putConversation(one) {
      const transaction = database.transaction('conversations', 'readwrite')
      transaction.objectStore('conversations').put(one)
      await committed(transaction)
    },
    async putMessages(messages) {
      const transaction = database.transaction('messages', 'readwrite')
      for (const message of messages) transaction.objectStore('messages').put(message)
      await committed(transaction)
    },
    async remove(id) {
      const transaction = database.transaction(['conversations', 'messages', 'drafts'], 'readwrite')
      transaction.objectStore('conversations').delete(id)
      transaction.objectStore('drafts').delete(id)
      const messages = transaction.objectStore('messages')
      for (const key of await done(messages.index('conversation').getAllKeys(id))) messages.delete(key)
      await committed(transaction)
    },
    draft: async (id) => ((await done(read('drafts').get(id))) as string | undefined) ?? '',
    async putDraft(id, text) {
      const transaction = database.transaction('drafts', 'readwrite')
      if (text === '') transaction.objectStore('drafts').delete(id)
      else transaction.objectStore('drafts').put(text, id)
      await committed(transaction)
    },
  }
}

export function memoryStore(): Store {
  const conversations = new Map<string, Conversation>()
  const messages = new Map<string, Message>()
  const drafts = new Map<string, string>()
  const of = (id: string): Message[] => [...messages.values()].filter((one) => one.conversation === id)
  return {
    server: null,
    conversations: async () => [...conversations.values()],
    conversation: async (id) => conversations.get(id),
    messages: async (id) => of(id),
    search: async (text) => found(text, conversations.values(), messages.values()),
    putConversation: async (one) => void conversations.set(one.id, one),
    putMessages: async (some) => some.forEach((one) => messages.set(one.id, one)),
    async remove(id) {
      conversations.delete(id)
      drafts.delete(id)
      for (const one of of(id)) messages.delete(one.id)
    },
    draft: async (id) => drafts.get(id) ?? '',
    putDraft: async (id, text) => void drafts.set(id, text),
  }
}
