// Speech to text by the browser, where it has it (https://webaudio.github.io/web-speech-api/). What is heard goes into
// the box as it comes; what is typed meanwhile stays.

interface Alternative {
  transcript: string
}
interface Result {
  isFinal: boolean
  [index: number]: Alternative
}
interface ResultEvent {
  results: ArrayLike<Result>
}
interface Recognition {
  lang: string
  continuous: boolean
  interimResults: boolean
  onresult: ((event: ResultEvent) => void) | null
  onerror: ((event: { error: string }) => void) | null
  onend: (() => void) | null
  start(): void
  stop(): void
  abort(): void
}
type RecognitionClass = new () => Recognition

function recognitionClass(): RecognitionClass | undefined {
  const known = globalThis as unknown as Record<string, RecognitionClass | undefined>
  return known.SpeechRecognition ?? known.webkitSpeechRecognition
}

export function canListen(): boolean {
  return recognitionClass() !== undefined
}

/** Chinese has no spaces between words; other text does. */
export function joined(before: string, heard: string): string {
  const words = heard.trim()
  if (before === '' || words === '' || /\s$/.test(before)) return before + words
  return /[\p{Script=Han}，。！？、；：]$/u.test(before) || /^\p{Script=Han}/u.test(words) ? before + words : `${before} ${words}`
}

export class Voice {
  listening = $state(false)
  error = $state('') // the browser's code of what went wrong; "" where nothing did
  private recognition: Recognition | null = null

  constructor(
    private readonly get: () => string,
    private readonly set: (text: string) => void,
  ) {}

  start(lang: string): void {
    const Class = recognitionClass()
    if (Class === undefined || this.listening) return
    const recognition = new Class()
    Object.assign(recognition, { lang, continuous: true, interimResults: true })
    let before = this.get()
    let written = before
    let from = 0 // results before this one are in `before`
    recognition.onresult = ({ results }) => {
      if (this.recognition !== recognition) return
      if (this.get() !== written) {
        // typed meanwhile: it stays, and what is heard goes on behind it
        before = this.get()
        from = Math.max(0, results.length - 1)
      }
      let heard = ''
      for (let at = from; at < results.length; at += 1) heard = joined(heard, results[at]?.[0]?.transcript ?? '')
      written = joined(before, heard)
      this.set(written)
    }
    recognition.onerror = ({ error }) => {
      if (error !== 'aborted') this.error = error
    }
    recognition.onend = () => {
      if (this.recognition === recognition) this.listening = false
    }
    this.error = ''
    this.recognition = recognition
    try {
      recognition.start()
      this.listening = true
    } catch (error) {
      this.error = error instanceof DOMException ? error.name : 'other'
    }
  }

  /** Ends; what was said last still comes. */
  stop(): void {
    this.recognition?.stop()
  }

  /** Ends at once: the question was sent, or another conversation is shown. */
  abort(): void {
    const recognition = this.recognition
    this.recognition = null
    this.listening = false
    recognition?.abort()
  }
}
