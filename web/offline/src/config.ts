// What `carellama.export.web` writes beside the page.
import type { Language, Numbers } from '../../src/lib/types'
import type { ChatData } from './chat/prompt'

export interface Piece {
  file: string // relative to the page
  bytes: number
  sha256: string
}

export interface OfflineConfig {
  name: string // of the model
  version: string // of CareLlama
  language: Language // of the page, where the browser asks for neither
  country: string // whose numbers are shown first
  model: { digest: string; bytes: number; pieces: Piece[]; context_bytes: number }
  context_tokens: number
  max_new_tokens: number
  sampling: { temperature: number; top_p: number; top_k: number; repetition_penalty: number }
  disclaimer: Record<Language, string>
  countries: Record<string, Numbers>
  usual_country: Record<Language, string>
  chat: ChatData
}

/** Reads a file of this folder. */
export async function readJson<T>(file: string): Promise<T> {
  const response = await fetch(file)
  if (!response.ok) throw new Error(`${file}: ${response.status}`)
  return (await response.json()) as T
}
