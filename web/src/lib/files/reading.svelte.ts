// The files of the question that is being written: those that the server is reading, and those that were read.
import type { App } from '../app.svelte'
import { RequestError } from '../api/errors'
import { postFile } from '../api/server'
import { t, tOr } from '../i18n/index.svelte'
import type { Attachment } from '../types'
import { sizeWords } from './attachments'

interface Reading {
  id: number
  name: string
  abort: AbortController
}

export class Attachments {
  read = $state<Attachment[]>([])
  reading = $state<Reading[]>([])
  errors = $state<string[]>([])
  private number = 0
  private last: Promise<void> = Promise.resolve()

  /** `changed` is called when a file was added or removed. */
  constructor(
    private readonly app: App,
    private readonly changed: () => void,
  ) {}

  get possible(): boolean {
    return this.app.config.files === true
  }

  /** Sends files one after the other, in their order: the server reads for all who ask. */
  add(files: Iterable<File>): void {
    this.errors = []
    for (const file of files) this.begin(file)
  }

  remove(file: Attachment): void {
    this.read = this.read.filter((one) => one !== file)
    this.app.said = t('fileRemoved', { name: file.name })
    this.changed()
  }

  cancel(one: Reading): void {
    one.abort.abort()
    this.reading = this.reading.filter((other) => other.id !== one.id)
  }

  /** Takes the files of another draft; what is being read belongs to the one that is left. */
  replace(files: Attachment[]): void {
    for (const one of [...this.reading]) this.cancel(one)
    this.errors = []
    this.read = files
  }

  private begin(file: File): void {
    const most = this.app.config.limits.file_bytes ?? 0
    if (file.size > most) {
      this.fail(file.name, t('file_too_large', { given: sizeWords(file.size), most: sizeWords(most) }))
      return
    }
    const one: Reading = { id: (this.number += 1), name: file.name, abort: new AbortController() }
    this.reading.push(one)
    this.last = this.last.then(() => this.send(file, one))
  }

  private async send(file: File, one: Reading): Promise<void> {
    try {
      if (one.abort.signal.aborted) return
      const found = await postFile(file, one.abort.signal)
      if (one.abort.signal.aborted) return
      this.read.push({ ...found, bytes: file.size })
      this.app.said = t('fileRead', { name: found.name, chars: found.chars.toLocaleString() })
      this.changed()
    } catch (error) {
      if (!one.abort.signal.aborted) this.fail(file.name, fileWords(error))
    } finally {
      this.reading = this.reading.filter((other) => other.id !== one.id)
    }
  }

  private fail(name: string, words: string): void {
    this.errors.push(t('fileNot', { name, why: words }))
  }
}

/** Why a file was not read. */
function fileWords(error: unknown): string {
  if (!(error instanceof RequestError)) return t('file_vanished') // a file that was deleted since, or cannot be opened
  if (error.status === 0) return t('file_network')
  if (error.status === 413) return t('file_too_large', { given: '', most: '' })
  return tOr(error.serverCode, t('file_server'))
}
