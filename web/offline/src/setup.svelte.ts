// What has to be there before a question can be asked: the browser's abilities, the page for flight mode, the model.
import type { OfflineConfig } from './config'
import { canRun, Model } from './model/engine'
import { download, DownloadError, modelBlob, removeModel, storedPieces } from './model/pieces'
import { sizeOf, w } from './words'

export type Phase = 'checking' | 'unable' | 'offer' | 'downloading' | 'loading' | 'ready'

const AGAIN = 'carellama.start' // the page is loaded anew between download and start, so that it may use threads

export class Setup {
  phase = $state<Phase>('checking')
  done = $state(0) // bytes of the model that are here
  problem = $state('')
  warnings = $state<string[]>([])
  shell = $state<'saving' | 'saved' | 'failed'>('saving') // the page itself, for flight mode
  shellProblem = $state('')
  model = $state.raw<Model | null>(null)
  private stopper: AbortController | null = null

  constructor(readonly config: OfflineConfig) {}

  get complete(): boolean {
    return this.done === this.config.model.bytes
  }

  get memory(): number {
    return memoryOf(this.config)
  }

  async begin(): Promise<void> {
    this.problem = this.unable()
    if (this.problem !== '') {
      this.phase = 'unable'
      return
    }
    void this.saveShell()
    try {
      const stored = await storedPieces(this.config)
      this.done = this.config.model.pieces.filter((one) => stored.has(one.file)).reduce((sum, one) => sum + one.bytes, 0)
    } catch {
      this.problem = w('noCache')
      this.phase = 'unable'
      return
    }
    this.warnings = await this.warn()
    this.phase = 'offer'
    if (this.complete && take(AGAIN)) await this.start()
  }

  private unable(): string {
    if (!canRun()) return w('noWasm')
    if (!isSecureContext) return w('wrongPlace')
    return 'serviceWorker' in navigator && 'caches' in globalThis ? '' : w('noCache')
  }

  /** The service worker keeps the page's own files; until it has, flight mode does not work. */
  private async saveShell(): Promise<void> {
    try {
      await navigator.serviceWorker.register('./sw.js')
      await navigator.serviceWorker.ready
      this.shell = 'saved'
    } catch (error) {
      this.shell = 'failed'
      this.shellProblem = w('noShell', { reason: error instanceof Error ? error.message : String(error) })
    }
  }

  private async warn(): Promise<string[]> {
    const found: string[] = []
    const memory = (navigator as { deviceMemory?: number }).deviceMemory
    if (memory !== undefined && memory < 8 && memory * 1e9 < 2 * this.memory) {
      found.push(w('littleMemory', { given: memory, size: sizeOf(this.memory) })) // the system and the browser need the rest
    }
    const { quota, usage } = await navigator.storage.estimate()
    const missing = this.config.model.bytes - this.done
    if (quota !== undefined && quota - (usage ?? 0) < missing) {
      found.push(w('littleStorage', { given: sizeOf(quota - (usage ?? 0)), size: sizeOf(missing) }))
    }
    return found
  }

  /** Downloads what is missing, then starts the model. */
  async start(): Promise<void> {
    this.problem = ''
    if (!this.complete && !(await this.fetchModel())) return
    if (!crossOriginIsolated && navigator.serviceWorker.controller !== null && mark(AGAIN)) {
      location.reload() // from the service worker it comes with the headers that allow threads
      return
    }
    this.phase = 'loading'
    try {
      this.model = await Model.load(await modelBlob(this.config), this.config)
      this.phase = 'ready'
    } catch (error) {
      this.problem = this.loadProblem(error)
      this.phase = 'offer'
      await this.count()
    }
  }

  private async fetchModel(): Promise<boolean> {
    this.phase = 'downloading'
    this.stopper = new AbortController()
    try {
      await navigator.storage.persist().catch(() => false) // asks the browser not to throw the model away
      await download(this.config, this.stopper.signal, (bytes) => (this.done = bytes))
      return true
    } catch (error) {
      await this.count()
      this.problem = this.downloadProblem(error)
      this.phase = 'offer'
      return false
    } finally {
      this.stopper = null
    }
  }

  pause(): void {
    this.stopper?.abort()
  }

  async remove(): Promise<void> {
    await removeModel(this.config)
    location.reload()
  }

  private async count(): Promise<void> {
    const stored = await storedPieces(this.config)
    this.done = this.config.model.pieces.filter((one) => stored.has(one.file)).reduce((sum, one) => sum + one.bytes, 0)
  }

  private downloadProblem(error: unknown): string {
    const sizes = { done: sizeOf(this.done), all: sizeOf(this.config.model.bytes) }
    if (!(error instanceof DownloadError)) return w('loadFailed', { reason: String(error) })
    if (error.fault === 'full') return w('storageFull', sizes)
    if (error.fault === 'network') return w('noNetwork', sizes)
    return error.fault === 'incomplete' ? w('incomplete', { file: error.file }) : ''
  }

  private loadProblem(error: unknown): string {
    if (error instanceof DownloadError) return this.downloadProblem(error)
    const reason = error instanceof Error ? error.message : String(error)
    return /memory|allocat|OOM|RangeError|abort/i.test(reason) ? w('noMemory') : w('loadFailed', { reason })
  }
}

/** Bytes: the file, what the context keeps, and what a calculation takes (measured: 0.15 GB for SmolLM2). */
export function memoryOf(config: OfflineConfig): number {
  return config.model.bytes + config.model.context_bytes + 150e6
}

/** Notes something for the page after it was loaded anew; false where it was noted, or cannot be. */
function mark(name: string): boolean {
  try {
    if (sessionStorage.getItem(`${name}.tried`) !== null) return false
    sessionStorage.setItem(`${name}.tried`, '')
    sessionStorage.setItem(name, '')
    return true
  } catch {
    return false
  }
}

function take(name: string): boolean {
  try {
    const noted = sessionStorage.getItem(name) !== null
    sessionStorage.removeItem(name)
    return noted
  } catch {
    return false
  }
}
