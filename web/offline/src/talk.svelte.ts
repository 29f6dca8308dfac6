// One conversation: a question, the notice that comes before the answer, the answer as it grows.
import { newId } from '../../src/lib/ids'
import { answeredTurns } from './chat/prompt'
import type { OfflineConfig } from './config'
import { type Model, TooLongError } from './model/engine'
import type { Triage, Turn } from './safety/triage'
import type { ConversationStore, Entry } from './store'
import { w } from './words'

export class Talk {
  entries = $state<Entry[]>([])
  running = $state<string | null>(null) // the answer that is being written
  speed = $state(0) // tokens a second of the last answer
  said = $state('') // for a short message, and for screen readers
  private stopper: AbortController | null = null

  constructor(
    readonly config: OfflineConfig,
    private readonly triage: Triage,
    private readonly store: ConversationStore,
  ) {}

  get keeps(): boolean {
    return this.store.keeps
  }

  /** The country that was chosen, where its numbers are known; else that of the export. */
  countryOf(chosen: string | null): string {
    return chosen !== null && chosen in this.config.countries ? chosen : this.config.country
  }

  async load(): Promise<void> {
    const kept = await this.store.read()
    for (const one of kept) if (one.role === 'assistant') one.finish ??= 'aborted' // the page was closed meanwhile
    this.entries = kept
  }

  /** Asks; `country`: whose numbers a notice has. */
  async ask(model: Model, text: string, country: string): Promise<void> {
    this.entries.push({ id: newId(), role: 'user', text })
    const answer: Entry = { id: newId(), role: 'assistant', text: '' }
    const found = this.triage.notice(this.turns(), country) // before the model has read a word
    if (found !== null && this.isNew(found.text, text, country)) {
      answer.notice = { kind: 'emergency', level: found.level, rule: found.rule, text: found.text }
      answer.country = country
    }
    this.entries.push(answer)
    const growing = this.entries.at(-1) as Entry
    this.running = growing.id
    this.stopper = new AbortController()
    await this.save()
    try {
      const made = await model.answer(answeredTurns(this.turns()), this.stopper.signal, (so) => (growing.text = so))
      growing.text = made.text
      growing.finish = made.finish
      if (made.dropped > 0) growing.dropped = made.dropped
      if (made.seconds > 0 && made.tokens > 4) this.speed = made.tokens / made.seconds
    } catch (error) {
      growing.finish = 'failed'
      growing.reason = error instanceof TooLongError ? w('tooLong', { given: error.given, most: error.most }) : w('answerFailed', { reason: String(error) })
    } finally {
      this.running = null
      this.stopper = null
      await this.save()
    }
  }

  stop(): void {
    this.stopper?.abort()
  }

  /** The same notice with the numbers of another country. */
  renumber(entry: Entry, country: string): void {
    const at = this.entries.findIndex((one) => one.id === entry.id)
    const found = this.triage.notice(this.turns().slice(0, at), country)
    const here = this.entries[at]
    if (found === null || here?.notice === undefined) return
    here.notice.text = found.text
    here.country = country
    void this.save()
  }

  async clear(): Promise<void> {
    this.stop()
    this.entries = []
    await this.save()
    this.said = w('deletedConversation')
  }

  /** Whether a notice has to be shown: the question alone calls for one, or it is not above yet. */
  private isNew(notice: string, question: string, country: string): boolean {
    if (this.triage.notice([{ role: 'user', content: question }], country) !== null) return true
    return !this.entries.some((one) => one.notice?.text === notice)
  }

  private turns(): Turn[] {
    return this.entries.map(({ role, text }) => ({ role, content: text }))
  }

  private async save(): Promise<void> {
    try {
      await this.store.write($state.snapshot(this.entries) as Entry[])
    } catch {
      this.said = w('conversationNot')
    }
  }
}
