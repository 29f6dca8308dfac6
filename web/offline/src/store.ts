// The conversation on this device: one record of IndexedDB, or the memory of the page where a browser has none.
import type { Notice } from '../../src/lib/types'

export interface Entry {
  id: string
  role: 'user' | 'assistant'
  text: string
  notice?: Notice
  country?: string // whose numbers the notice has
  finish?: 'stop' | 'length' | 'aborted' | 'failed'
  reason?: string
  dropped?: number
}

const KEY = 'conversation'
const PART = 'kept'

export class ConversationStore {
  private constructor(private readonly database: IDBDatabase | null) {}

  /** `name`: of this page's address, so that two exports on one host do not share a conversation. */
  static async open(name: string): Promise<ConversationStore> {
    if (typeof indexedDB === 'undefined') return new ConversationStore(null)
    return new Promise((resolve) => {
      const request = indexedDB.open(name, 1)
      request.onupgradeneeded = () => request.result.createObjectStore(PART)
      request.onsuccess = () => resolve(new ConversationStore(request.result))
      request.onerror = request.onblocked = () => resolve(new ConversationStore(null))
    })
  }

  get keeps(): boolean {
    return this.database !== null
  }

  async read(): Promise<Entry[]> {
    if (this.database === null) return []
    const request = this.database.transaction(PART).objectStore(PART).get(KEY)
    return new Promise((resolve) => {
      request.onsuccess = () => resolve((request.result as Entry[] | undefined) ?? [])
      request.onerror = () => resolve([])
    })
  }

  /** Writes the conversation; an empty one is deleted. Raises what IndexedDB does, as where storage is full. */
  async write(entries: Entry[]): Promise<void> {
    if (this.database === null) return
    const transaction = this.database.transaction(PART, 'readwrite')
    if (entries.length > 0) transaction.objectStore(PART).put(entries, KEY)
    else transaction.objectStore(PART).delete(KEY)
    await new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve()
      transaction.onerror = transaction.onabort = () => reject(transaction.error ?? new Error('IndexedDB'))
    })
  }
}
