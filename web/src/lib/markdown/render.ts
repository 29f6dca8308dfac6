// Markdown of an answer as HTML, block by block: nothing runs, loads or hides, and no number changes.
//
//   renderBlocks('每次1~2片，5*10mg **饭后**')   // bold stays, the tilde and the star are text
//
// Three guards: signs of doses are hidden from Markdown (`signs.ts`), HTML and images are text, and each block is
// compared with its source: where the numbers differ it is shown as it was written. DOMPurify comes on top.
import DOMPurify from 'dompurify'
import { Marked, Tokenizer, type Token, type Tokens } from 'marked'
import type { Notice } from '../types'
import { escapeAll, escapeText } from './escape'
import { formulas } from './math'
import { NOTE_BEGIN, NOTE_END, noteName, protect, restore } from './signs'

const SAFE_LINK = /^(?:https?:\/\/|mailto:|tel:)/i
const NOTE = new RegExp(`${NOTE_BEGIN}([a-z]+)${NOTE_END}`)
const NOTES = new RegExp(NOTE, 'g')
// A link ends where Chinese text or punctuation begins, and without the punctuation behind it.
const URL_HERE = /^https?:\/\/[^\s<>"'`\uFDEE\uFDEF\u2000-\u206f\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]+/i
const ITEM_NUMBER = /^\s*(\d{1,9})([.)])/
/** Bold as people write it in Chinese: CommonMark does not close it in **每日3次。**请. */
const STRONG = /^\*\*(?![\s*])((?:[^*\n]|\*(?!\*))+?)(?<!\s)\*\*(?!\*)/

const never = (): undefined => undefined

const marked = new Marked(formulas, {
  gfm: true,
  breaks: true,
  tokenizer: {
    html: never,
    tag: never,
    del: never,
    def: never,
    code: never, // four spaces at the beginning of a line are no code
    lheading: never,
    url(source) {
      const found = URL_HERE.exec(source)?.[0].replace(/[.,:;!?)\]*_~'\uFDD0-\uFDED]+$/, '')
      if (found === undefined) return source.startsWith('http') ? undefined : false
      return { type: 'link', raw: found, text: found, href: found, tokens: [{ type: 'text', raw: found, text: found }] }
    },
    table(source) {
      // a row with more cells than the head would lose them: such a table is shown as text
      const table = Tokenizer.prototype.table.call(this, source)
      return table && lost(table) ? undefined : table
    },
  },
  renderer: {
    text(token) {
      return 'tokens' in token && token.tokens ? this.parser.parseInline(token.tokens) : escapeText(token.text)
    },
    html: ({ raw }) => escapeAll(raw),
    image: ({ raw }) => escapeText(raw),
    checkbox: ({ checked }) => (checked ? '[x] ' : '[ ] '),
    codespan: ({ text }) => `<code>${escapeAll(text)}</code>`,
    code({ text, lang }) {
      const name = /^[\w+#-]{1,20}/.exec(lang ?? '')?.[0].toLowerCase() ?? ''
      return `<pre tabindex="0"><code${name ? ` class="language-${name}"` : ''}>${escapeAll(text)}</code></pre>`
    },
    link({ href, raw, tokens }) {
      if (!SAFE_LINK.test(href)) return escapeText(raw)
      const inner = this.parser.parseInline(tokens)
      const bare = raw === href ? ' class="bare"' : ''
      return `<a href="${escapeAll(href)}"${bare} target="_blank" rel="noopener noreferrer">${inner}</a>`
    },
    list(token: Tokens.List) {
      const items = token.items.map((item) => {
        const number = token.ordered ? ITEM_NUMBER.exec(item.raw)?.[1] : undefined
        const body = this.parser.parse(item.tokens)
        return `<li${number === undefined ? '' : ` value="${number}"`}>${body}</li>`
      })
      const parenthesis = token.ordered && ITEM_NUMBER.exec(token.raw)?.[2] === ')'
      const tag = token.ordered ? 'ol' : 'ul'
      return `<${tag}${parenthesis ? ' class="parenthesis"' : ''}>${items.join('')}</${tag}>`
    },
  },
  extensions: [
    {
      name: 'note',
      level: 'inline',
      start: (source) => NOTE.exec(source)?.index,
      tokenizer(source) {
        const found = NOTE.exec(source)
        return found?.index === 0 ? { type: 'note', raw: found[0], name: found[1] } : undefined
      },
      renderer: (token) => `<span class="note" data-note="${String(token.name)}"></span>`,
    },
    {
      name: 'strong',
      level: 'inline',
      start: (source) => source.indexOf('**'),
      tokenizer(source) {
        const found = STRONG.exec(source)
        const text = found?.[1]
        if (!found || text === undefined) return undefined
        return { type: 'strong', raw: found[0], text, tokens: this.lexer.inlineTokens(text) }
      },
    },
  ],
})

/** Whether a table has fewer numbers than its source. */
function lost(table: Tokens.Table): boolean {
  const rows = table.raw.split('\n')
  rows.splice(1, 1)
  const cells = [table.header, ...table.rows].flat().map((cell) => cell.text)
  return numbers(rows.join('\n')).join() !== numbers(cells.join(' ')).join()
}

function numbers(text: string): string[] {
  return text.match(/\p{Nd}+/gu) ?? []
}

const ENTITIES: Record<string, string> = { lt: '<', gt: '>', quot: '"', amp: '&' }

/** What a person sees of HTML that this module wrote; the address of a link, or the language of code, beside it. */
export function visible(html: string): string {
  return html
    .replace(/<span class="note"[^>]*><\/span>/g, '')
    .replace(/<a href="([^"]*)"( class="bare")?[^>]*>(.*?)<\/a>/gs, (_all, href: string, bare: string, text: string) =>
      bare ? text : `${text} ${href} `,
    )
    .replace(/<code class="language-([^"]*)">/g, ' $1 ')
    .replace(/<li value="(\d+)">/g, ' $1. ')
    .replace(/<\/?(?:code|em|strong|a|span)\b[^>]*>/g, '')
    .replace(/<[^>]*>/g, ' ')
    .replace(/&#39;/g, "'")
    .replace(/&(lt|gt|quot|amp);/g, (_all, name: string) => ENTITIES[name] ?? '')
}

function render(token: Token): string {
  const html = marked.parser([token])
  const source = token.raw.replace(NOTES, '')
  if (numbers(source).join() === numbers(visible(html)).join()) return html
  return asWritten(token.raw)
}

function asWritten(source: string): string {
  const text = escapeAll(source.trimEnd()).replace(NOTES, (_all, name: string) => {
    return `<span class="note" data-note="${name}"></span>`
  })
  return `<p class="as-written">${text}</p>`
}

const CLEAN = {
  ALLOWED_TAGS: [
    ...['a', 'blockquote', 'br', 'code', 'em', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'hr', 'li', 'ol', 'p', 'pre', 'span'],
    ...['strong', 'table', 'tbody', 'td', 'th', 'thead', 'tr', 'ul'],
  ],
  ALLOWED_ATTR: ['href', 'target', 'rel', 'class', 'value', 'align', 'tabindex', 'data-display', 'data-note'],
  ALLOWED_URI_REGEXP: SAFE_LINK, // DOMPurify holds every attribute against it but those that follow
  ADD_URI_SAFE_ATTR: ['target', 'rel', 'value', 'align', 'tabindex', 'data-display', 'data-note'],
  ALLOW_DATA_ATTR: false,
}

// Blocks that were drawn before: while an answer streams, only its last block is new.
const drawn = new Map<string, string>()
const MOST_DRAWN = 2000

// The time of reading Markdown grows with the square of its marks, and with the depth of what is nested. No text of
// people comes near these; one that does is shown as it was written.
const MOST_MARKS = 1000 // of a paragraph
const MOST_CELLS = 5000
const NESTED = /^(?:[ \t]{0,9}(?:>|[-+*](?=[ \t])|\d{1,9}[.)](?=[ \t]))){20}|^[ \t]{40,}(?:[-*+]|\d{1,9}[.)])[ \t]/m

function overloaded(text: string): boolean {
  if (NESTED.test(text)) return true
  return text.split(/\n[ \t]*\n/).some((paragraph) => {
    const marks = paragraph.match(/[*_`[\]$<&!\\]/g)?.length ?? 0
    const cells = paragraph.match(/\|/g)?.length ?? 0
    return marks > MOST_MARKS || cells > MOST_CELLS
  })
}

/** The blocks of a Markdown text as HTML that is safe to show. Notes are empty spans with the name of the note. */
export function renderBlocks(text: string): string[] {
  if (overloaded(text)) return [asWritten(text)]
  const tokens = marked.lexer(protect(text)).filter((token) => token.type !== 'space')
  return tokens.map((token) => {
    const key = token.raw
    let html = drawn.get(key)
    if (html === undefined) {
      html = DOMPurify.sanitize(render(restore(token)), CLEAN)
      if (drawn.size >= MOST_DRAWN) drawn.clear()
      drawn.set(key, html)
    }
    return html
  })
}

/** The text of a note by its name. */
export function noteOf(notes: Notice[], name: string): Notice | undefined {
  return notes.find((_note, index) => noteName(index) === name)
}
