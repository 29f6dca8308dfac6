// Follows the answers that the server writes: each from the last event that arrived, through gaps, reloads and tabs.
import { SvelteMap } from 'svelte/reactivity'
import { failureOf, RequestError } from '../api/errors'
import { openAnswer, stopAnswer } from '../api/server'
import { readEvents, type ServerEvent } from '../api/sse'
import type { Library, Thread } from '../store/library.svelte'
import type { Chunk, Message, Notice } from '../types'
import { addChunk } from './segments'

const SAVE_MS = 500
const SILENT_MS = 25_000 // the server speaks every 10 s
const CLOSING_MS = 2000 // that an answer which was stopped has for its end: what it used, the disclaimer
const ANSWERED_MS = 5000 // that the server has to take the wish
const WAITS_MS = [300, 1000, 2000, 4000, 8000]

export type Link = 'open' | 'lost' | 'away' // away: the network is there, the server does not answer

export class Follower {
  /** How the connection to each running answer is. */
  readonly links = new SvelteMap<string, Link>()
  private readonly running = new Map<string, AbortController>()
  private readonly puts = new Map<string, () => void>() // of each stream that is open: what has arrived becomes text

  constructor(private readonly library: Library) {
    library.onRunning = (thread, message) => void this.follow(thread, message)
    library.follows = (id) => this.running.has(id)
  }

  /** Reads an answer to its end. */
  async follow(thread: Thread, message: Message): Promise<void> {
    if (this.running.has(message.id) || message.running === null) return
    const stop = new AbortController()
    this.running.set(message.id, stop)
    let failures = 0
    try {
      while (message.running !== null && !stop.signal.aborted) {
        const before = message.running.last
        let link: Link = 'lost'
        try {
          await this.read(message, stop.signal)
        } catch (error) {
          if (stop.signal.aborted) break
          if (error instanceof RequestError && error.status >= 400 && error.status < 500 && error.status !== 429) {
            message.failure = error.failure
            this.end(message)
            break
          }
          if (navigator.onLine && error instanceof RequestError && (error.status === 0 || error.status >= 502)) link = 'away'
        }
        if (message.running === null || stop.signal.aborted) break
        this.links.set(message.id, link)
        failures = message.running.last === before ? failures + 1 : 0
        await pause(WAITS_MS[Math.min(failures, WAITS_MS.length - 1)] ?? 8000, stop.signal)
      }
    } finally {
      this.running.delete(message.id)
      this.links.delete(message.id)
      await this.finish(thread, message)
    }
  }

  /** Ends an answer at the person's wish. What has arrived stays, and what the server says at its end is read. */
  async stop(message: Message): Promise<void> {
    const answer = message.running?.answer
    const reader = this.running.get(message.id)
    message.stopped = true
    const leave = (): void => {
      if (message.running?.answer !== answer) return // it has ended, or goes on since
      this.end(message)
      reader?.abort()
    }
    if (reader === undefined) leave()
    const timer = setTimeout(leave, ANSWERED_MS)
    if (answer !== undefined) await stopAnswer(answer).catch(() => {}) // it may have ended by itself
    clearTimeout(timer)
    if (message.running !== null) setTimeout(leave, CLOSING_MS)
  }

  /** Saves what has arrived of all answers, before the page is hidden or closed. */
  flush(): void {
    for (const put of this.puts.values()) put()
  }

  private end(message: Message): void {
    message.running = null
    message.endedAt = Date.now()
  }

  private async finish(thread: Thread, message: Message): Promise<void> {
    await this.library.save([message], true)
    const running = [...thread.messages.values()].some((one) => one.running !== null)
    await this.library.change(thread.id, { running })
  }

  /** One connection: events are put into the message once per frame, so that fast answers do not slow the page. */
  private async read(message: Message, signal: AbortSignal): Promise<void> {
    const running = message.running
    if (running === null) return
    const attempt = new AbortController()
    const abort = (): void => attempt.abort()
    signal.addEventListener('abort', abort)
    let watch = setTimeout(abort, SILENT_MS)
    let events: ServerEvent[] = []
    let frame = 0
    let saved = Date.now()
    const put = (always = false): void => {
      cancelFrame(frame)
      frame = 0
      const arrived = events
      events = []
      for (const event of arrived) this.take(message, event)
      if (always || Date.now() - saved > SAVE_MS) {
        saved = Date.now()
        void this.library.save([message], true)
      }
    }
    this.puts.set(message.id, () => put(true))
    try {
      const response = await openAnswer(running.answer, running.last, attempt.signal)
      this.links.set(message.id, 'open')
      if (response.body === null) return
      const alive = (): void => {
        clearTimeout(watch)
        watch = setTimeout(abort, SILENT_MS)
      }
      for await (const event of readEvents(response.body, alive)) {
        events.push(event)
        if (frame === 0) frame = nextFrame(() => put())
        if (event.data === '[DONE]' || event.event === 'failure') return
      }
    } finally {
      clearTimeout(watch)
      this.puts.delete(message.id)
      put()
      signal.removeEventListener('abort', abort)
      attempt.abort()
    }
  }

  private take(message: Message, event: ServerEvent): void {
    const running = message.running
    if (running === null) return
    if (event.data === '[DONE]') {
      this.end(message)
      return
    }
    const data: unknown = JSON.parse(event.data)
    if (event.event === 'queue') {
      const { ahead = 0, seconds = 0 } = data as { ahead?: number; seconds?: number }
      Object.assign(running, { ahead, seconds })
    } else if (event.event === 'dropped') {
      message.dropped = (data as { messages: number }).messages
    } else if (event.event === 'failure' || isError(data)) {
      const { status = 500, notices } = data as { status?: number; notices?: Notice[] }
      for (const notice of notices ?? []) message.segments.push({ text: notice.text, notices: [notice] })
      message.failure = failureOf(status, data)
      this.end(message)
    } else {
      addChunk(message, data as Chunk, Date.now())
    }
    if (event.id !== '') running.last = event.id
  }
}

/** A stream that the server ends itself, as when it is shut down, has the API's error without a kind of event. */
function isError(data: unknown): boolean {
  return typeof data === 'object' && data !== null && 'error' in data
}

/** A hidden page gets no frames: there a timer stands in. */
function nextFrame(call: () => void): number {
  return document.hidden ? -Number(setTimeout(call, 100)) : requestAnimationFrame(call)
}

function cancelFrame(frame: number): void {
  if (frame > 0) cancelAnimationFrame(frame)
  else if (frame < 0) clearTimeout(-frame)
}

/** Waits, but no longer than until the network is back or the page is looked at again. */
function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const over = (): void => {
      clearTimeout(timer)
      removeEventListener('online', over)
      document.removeEventListener('visibilitychange', over)
      signal.removeEventListener('abort', over)
      resolve()
    }
    const timer = setTimeout(over, milliseconds)
    addEventListener('online', over)
    document.addEventListener('visibilitychange', over)
    signal.addEventListener('abort', over)
  })
}
