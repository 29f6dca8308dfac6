// The model in this browser: llama.cpp, compiled to WebAssembly by wllama.
import { type SamplingConfig, Wllama } from '@wllama/wllama/esm/index.js'
import multi from '@wllama/wllama/esm/multi-thread/wllama.wasm?url'
import single from '@wllama/wllama/esm/single-thread/wllama.wasm?url'
import { findStop, lastTurns, pieces, type Turn } from '../chat/prompt'
import type { OfflineConfig } from '../config'

const BATCH = 64 // tokens of a prompt that are read at once: between two of them the stop button is heard
const MOST_THREADS = 4 // phones have few fast cores; slow ones hold the others up
const LEAST_ROOM = 32 // tokens for an answer, below which earlier turns are left out

export class TooLongError extends Error {
  constructor(
    readonly given: number,
    readonly most: number,
  ) {
    super(`${given} tokens`)
  }
}

export interface Answer {
  text: string
  tokens: number
  seconds: number // from the first token to the last
  dropped: number // earliest turns that had no room
  finish: 'stop' | 'length' | 'aborted'
}

export interface Asked {
  ids: number[]
  dropped: number
}

export class Model {
  private cached: number[] = [] // tokens whose keys and values are in the context
  private readonly ends: Set<number>

  private constructor(
    private readonly wllama: Wllama,
    private readonly config: OfflineConfig,
  ) {
    this.ends = new Set(config.chat.stop_ids)
  }

  static async load(blob: Blob, config: OfflineConfig): Promise<Model> {
    const quiet = { debug() {}, log() {}, warn: console.warn, error: console.error }
    const wllama = new Wllama({ 'single-thread/wllama.wasm': single, 'multi-thread/wllama.wasm': multi }, { suppressNativeLog: true, logger: quiet })
    const threads = Math.max(1, Math.min(MOST_THREADS, navigator.hardwareConcurrency - 1)) // one core is the page's
    await wllama.loadModel([blob], { n_ctx: config.context_tokens, n_batch: BATCH, n_threads: crossOriginIsolated ? threads : 1 })
    return new Model(wllama, config)
  }

  get threads(): number {
    return this.wllama.isMultithread() ? this.wllama.getNumThreads() : 1
  }

  /** The tokens of a conversation; its earliest turns are left out where they have no room. Raises `TooLongError`. */
  async prompt(turns: Turn[]): Promise<Asked> {
    const all = lastTurns(this.config.chat, turns)
    const most = this.config.context_tokens - LEAST_ROOM
    for (let from = 0; ; from += 2) {
      const ids = await this.tokenize(all.slice(from))
      if (ids.length <= most) return { ids, dropped: turns.length - all.length + from }
      if (from + 2 >= all.length) throw new TooLongError(ids.length, most)
    }
  }

  private async tokenize(turns: Turn[]): Promise<number[]> {
    const ids: number[] = []
    for (const piece of pieces(this.config.chat, turns)) if (piece !== '') ids.push(...(await this.wllama.tokenize(piece, true)))
    if (this.wllama.mustAddBosToken() && ids[0] !== this.wllama.getBOS()) ids.unshift(this.wllama.getBOS())
    return ids
  }

  /** Answers; `onText` is given the whole text so far, of which nothing is taken back. */
  async answer(turns: Turn[], signal: AbortSignal, onText: (text: string) => void): Promise<Answer> {
    const { ids, dropped } = await this.prompt(turns)
    const { temperature, top_p, top_k, repetition_penalty } = this.config.sampling
    const sampling: SamplingConfig = { temp: temperature, top_p, top_k, min_p: 0, penalty_repeat: repetition_penalty, penalty_last_n: repetition_penalty === 1 ? 0 : -1 }
    await this.wllama.samplingInit(sampling)
    const room = Math.min(this.config.max_new_tokens, this.config.context_tokens - ids.length)
    let text = this.config.chat.opens_reasoning ? '<think>' : ''
    const opened = text.length
    const answer: Answer = { text, tokens: 0, seconds: 0, dropped, finish: 'length' }
    try {
      await this.read(ids, signal)
    } catch (error) {
      if (signal.aborted) return { ...answer, finish: 'aborted' }
      throw error
    }
    const decoder = new TextDecoder()
    const began = performance.now()
    let shown = text.length
    while (answer.tokens < room) {
      const { token, piece } = await this.wllama.samplingSample()
      if (this.ends.has(token) || this.wllama.isTokenEOG(token)) {
        answer.finish = 'stop'
        break
      }
      answer.tokens++
      text += decoder.decode(piece, { stream: true })
      const { end, held } = findStop(text.slice(opened), this.config.chat.stops)
      if (end !== null) {
        text = text.slice(0, opened + end)
        answer.finish = 'stop'
        break
      }
      if (text.length - held > shown) {
        shown = text.length - held
        onText(text.slice(0, shown))
      }
      if (signal.aborted) {
        answer.finish = 'aborted'
        break
      }
      await this.wllama.samplingAccept([token])
      await this.wllama.decode([token], {})
      this.cached.push(token)
    }
    answer.text = text
    answer.seconds = (performance.now() - began) / 1000
    onText(text)
    return answer
  }

  /** Reads a prompt; what it has in common with what was read before is read no more. */
  private async read(ids: number[], signal: AbortSignal): Promise<void> {
    let same = 0
    while (same < this.cached.length && same < ids.length - 1 && this.cached[same] === ids[same]) same++
    try {
      if (same === 0) await this.wllama.kvClear()
      else await this.wllama.kvRemove(same, -1) // also what a calculation that broke off has left there
    } catch {
      await this.wllama.kvClear() // models with a window or a state cannot go back
      same = 0
    }
    this.cached = ids.slice(0, same)
    await this.wllama.samplingAccept(ids)
    for (let at = same; at < ids.length; at += BATCH) {
      const batch = ids.slice(at, at + BATCH)
      if (signal.aborted) throw new DOMException('stopped', 'AbortError')
      await this.wllama.decode(batch, { skipLogits: at + BATCH < ids.length })
      this.cached.push(...batch)
    }
  }
}

/** Whether the browser runs WebAssembly with SIMD, which the build needs. */
export function canRun(): boolean {
  // a function that makes a vector of zeros and drops it: (func v128.const 0 drop)
  const simd = [0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 23, 1, 21, 0, 253, 12, ...Array(16).fill(0), 26, 11]
  try {
    return typeof WebAssembly === 'object' && WebAssembly.validate(new Uint8Array(simd))
  } catch {
    return false
  }
}
