// Files of a question: how they stand in the text that the model reads, and what is said of them.
import { textOf } from '../answer/segments'
import { languageOf, t, tOr } from '../i18n/index.svelte'
import type { Attachment, FileWarning, Message } from '../types'

/** The text of a question with its files: what the model reads, what is copied and exported. */
export function withFiles(text: string, files: readonly Attachment[]): string {
  const chinese = languageOf(text.trim() || (files[0]?.text.slice(0, 2000) ?? '')) === 'zh-CN'
  const blocks = files.map((file) => {
    const name = file.name.replace(/\s+/g, ' ')
    const part = file.cut > 0 ? (chinese ? '（仅开头部分）' : ' (its beginning only)') : ''
    // a fence that is longer than any in the file: its end is the end of the file
    const longest = Math.max(2, ...[...file.text.matchAll(/`+/g)].map((found) => found[0].length))
    const fence = '`'.repeat(longest + 1)
    return `${chinese ? '附件：' : 'Attached file: '}${name}${part}\n${fence}\n${file.text.replace(/\n$/, '')}\n${fence}`
  })
  return [...(text.trim() === '' && blocks.length > 0 ? [] : [text]), ...blocks].join('\n\n')
}

export function wholeText(message: Message): string {
  return withFiles(textOf(message), message.attachments ?? [])
}

/** Characters as the server counts them. */
export function countChars(text: string): number {
  let count = 0
  for (const _ of text) count += 1
  return count
}

/** What has to be known of a text that was read: what is missing in it, and what the file really is. */
export function remarks(file: Attachment): string[] {
  const found = file.warnings.map((warning) => tOr(`warn_${warning.code}`, warning.code, values(warning)))
  return file.cut > 0 ? [...found, t('fileCut', { kept: file.chars.toLocaleString(), cut: file.cut.toLocaleString() })] : found
}

function values(warning: FileWarning): Record<string, string | number> {
  return { count: warning.count ?? 0, given: warning.given ?? '', found: warning.found ?? '' }
}

export function sizeWords(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`
  return bytes < 1e6 ? `${Math.round(bytes / 1000)} KB` : `${(bytes / 1e6).toFixed(1)} MB`
}
