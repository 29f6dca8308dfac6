// A draft as one text, which is what the stores keep: the words alone, or with files as JSON behind a mark.
import type { Attachment } from '../types'

export interface Draft {
  text: string
  files: Attachment[]
}

const MARK = '\u001dcarellama-draft\u001d' // no keyboard writes it, and every database takes it

export function packDraft(draft: Draft): string {
  return draft.files.length === 0 ? draft.text : MARK + JSON.stringify(draft)
}

export function unpackDraft(kept: string): Draft {
  if (!kept.startsWith(MARK)) return { text: kept, files: [] }
  try {
    const { text, files } = JSON.parse(kept.slice(MARK.length)) as Draft
    return { text, files }
  } catch {
    return { text: '', files: [] }
  }
}
