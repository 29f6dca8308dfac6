// The nouns of the page: what the server says (first half) and what is kept of conversations (second half).

export type Language = 'en' | 'zh'
export type Profile = 'patient' | 'clinician' | 'researcher'
export type Mode = 'answer' | 'consult'

export interface Sampling {
  temperature: number
  top_p: number
  top_k: number
  max_new_tokens: number
  repetition_penalty: number
}

/** Whom to call in a country. */
export interface Numbers {
  ambulance?: string
  crisis?: string
  poison?: string
}

export type Role = 'patient' | 'clinician' | 'admin'

/** Who is logged in. */
export interface Account {
  id: string
  name: string
  role: Role
  issuer?: string // of OpenID Connect; "" or missing: the account has a password here
}

/** Where conversations are kept. */
export type Keep = 'browser' | 'server' | 'nothing'

/** GET /web/config. */
export interface Config {
  version: string
  model: string // what requests call it
  name?: string // what it is; "" for patients
  adapters: string[]
  engine: string
  context_tokens: number | null
  profile: Profile
  mode: Mode
  consult: boolean
  speaks: string[]
  disclaimer: Record<Language, string>
  country: string
  numbers: Record<Language, Numbers>
  limits: { question_chars: number; file_bytes?: number }
  files?: boolean // whether files can be attached
  feedback?: boolean // whether answers can be judged
  countries?: Record<string, Numbers> // by code; a server before they were told has none
  usual_country?: Record<Language, string>
  keep: Keep
  access?: string
  account?: Account | null
  csrf?: string | null
  examples: Record<Language, string[]>
  sampling?: Sampling
  system_prompt?: string | null
}

export type Level = 'emergency' | 'urgent' | 'soon' | 'refuse' | 'caution' | 'info'

/** What the safety layer says of a conversation or of a sentence of an answer. */
export interface Notice {
  kind: string
  level: Level
  rule: string
  text: string
}

/** A token; of a part of a character `token` has U+FFFD, and `bytes` has what it is, where the engine knows it. */
export interface TokenText {
  token: string
  bytes?: number[] | null
}

export interface Logprob extends TokenText {
  logprob: number
  top_logprobs: (TokenText & { logprob: number })[]
}

export interface Consultation {
  state?: ConsultState | null
  slot?: string | null
  report?: ConsultReport | null
}

export interface ConsultState {
  language: Language
  slots: Record<string, string>
  asked: string[]
  level: string
  done: boolean
}

export interface ConsultReport {
  date: string
  complaint: string
  summary: { slot: string; text: string; question: string }[]
  urgency: string
  why: string[]
  notice: string
  medicines: string[]
  departments: { name?: string; treats?: string }[]
  tests: string[]
  self_care: string[]
  return_if: string[]
  unknown: string[]
  sources: string[]
  disclaimer: string
}

export interface Usage {
  prompt_tokens: number
  completion_tokens?: number
  total_tokens: number
}

/** A piece of the stream: OpenAI's chat.completion.chunk with the fields of this server. */
export interface Chunk {
  choices?: {
    delta?: {
      content?: string | null
      reasoning_content?: string | null
      notices?: Notice[] | null
      consultation?: Consultation | null
    }
    finish_reason?: string | null
    logprobs?: { content?: Logprob[] | null } | null
  }[]
  usage?: Usage | null
}

export interface WireMessage {
  role: 'system' | 'user' | 'assistant'
  content: string
}

/** The body of POST /web/answers. */
export interface AnswerRequest {
  messages: WireMessage[]
  model?: string
  temperature?: number
  top_p?: number
  top_k?: number
  max_tokens?: number
  repetition_penalty?: number
  logprobs?: boolean
  top_logprobs?: number
  mode?: Mode
  country?: string
}

/** GET /web/cards: what is known of a model, a checkpoint or an adapter. */
export interface ModelCard {
  name: string
  adapter: string
  facts: Record<string, string>
  text: string
}

/** POST /web/prompt. `text` null: see `why`. */
export interface RawPrompt {
  text: string | null
  tokens: number
  exact: boolean
  room: number
  dropped: number
  why: '' | 'remote' | 'refused' | 'consult'
}

/** A stretch of an answer. One with notices was written by the safety layer, the others by the model. */
export interface Segment {
  text: string
  notices: Notice[]
}

/** What has to be said of a file that was read; `code` picks the words. */
export interface FileWarning {
  code: string
  count?: number
  given?: string
  found?: string
}

/** POST /web/files: the text of a file. The file itself is kept nowhere. */
export interface FileText {
  name: string
  kind: string
  text: string
  chars: number
  cut: number // characters that were left out at the end
  pages?: number
  warnings: FileWarning[]
}

export interface Attachment extends FileText {
  bytes: number // of the file
}

/** Why an answer is not whole; `code` picks the words. */
export interface Failure {
  code: string
  detail: string
}

/** An answer that the server is writing: its id there, and the last event that has arrived. */
export interface Running {
  answer: string
  last: string
  ahead: number
  seconds: number
}

/** A question or an answer. The messages of a conversation are a tree: versions and edits are siblings. */
export interface Message {
  id: string
  conversation: string
  parent: string | null
  role: 'user' | 'assistant' | 'system'
  created: number // milliseconds since 1970, as Date.now()
  segments: Segment[] // of a question: one, as it was typed
  attachments?: Attachment[] // of a question
  rating?: 'up' | 'down' | null // of an answer, by the person
  feedback?: string // id of what the server has stored of the judgement
  reasoning: string
  finish: string | null // stop, length, content_filter; null: still running, or it broke off
  running: Running | null
  failure: Failure | null
  stopped: boolean // by the person
  country?: string // whose numbers its notices have
  dropped?: number // of the oldest messages, which the model had no room for
  model: string // "carellama" or "carellama:ADAPTER"
  pair: string // answers asked for side by side have the same; "" otherwise
  blind: boolean // of a pair: names are hidden until one is chosen
  request: AnswerRequest | null // for researchers: what was sent
  usage: Usage | null
  sentAt: number
  firstAt: number // when the first text arrived; 0: not yet
  endedAt: number
  logprobs: Logprob[]
  consultation: Consultation | null
}

export interface Conversation {
  id: string
  title: string
  named: boolean // by the person; otherwise made of the first question
  created: number
  updated: number
  pinned: boolean
  deleted: number // when; 0: not deleted. For some seconds deletion can be undone
  leaf: string | null // the last message of the branch that is shown
  running: boolean
}
