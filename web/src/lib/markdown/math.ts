// Formulas in Markdown: $x^2$, $$...$$, \(...\), \[...\]. They are shown as written until KaTeX is there (`formulas.ts`).
import type { MarkedExtension, Tokens } from 'marked'
import { escapeAll } from './escape'
import { restore } from './signs'

// $5 and $10 are prices: a formula has a letter or a sign of TeX in it, begins and ends without a space, and no digit
// follows (the rule of pandoc's tex_math_dollars).
const INLINE = [
  /^\$\$(?!\$)([^$]+?)\$\$/,
  /^\$(?![\s$])((?:\\.|[^$\\\n])+?)(?<![\s\\])\$(?!\d)/,
  /^\\\(([\s\S]+?)\\\)/,
  /^\\\[([\s\S]+?)\\\]/,
]
const BLOCK = [/^ {0,3}\$\$[ \t]*\n?([\s\S]+?)\n?[ \t]*\$\$[ \t]*(?:\n|$)/, /^ {0,3}\\\[[ \t]*\n?([\s\S]+?)\n?[ \t]*\\\][ \t]*(?:\n|$)/]
const IS_FORMULA = /[\\^_{}=]|^[A-Za-z]$|[A-Za-z][+\-*/<>]|[+\-*/<>]\s*[A-Za-z]/

interface Formula extends Tokens.Generic {
  type: 'formula'
  display: boolean
}

function find(rules: RegExp[], source: string, block: boolean): Formula | undefined {
  for (const rule of rules) {
    const found = rule.exec(source)
    const tex = found?.[1]?.trim()
    if (found && tex && !/\n[ \t]*\n/.test(tex) && IS_FORMULA.test(restore(tex))) {
      return { type: 'formula', raw: found[0], display: block || /^\s*(?:\$\$|\\\[)/.test(found[0]) }
    }
  }
  return undefined
}

function renderer(token: Tokens.Generic): string {
  const { raw, display } = token as Formula
  const mark = display ? ' data-display="1" tabindex="0"' : '' // a wide one scrolls, by keyboard too
  return `<span class="formula"${mark}>${escapeAll(raw.trim())}</span>`
}

export const formulas: MarkedExtension = {
  extensions: [
    {
      name: 'formulaBlock',
      level: 'block',
      start: (source) => /(?:^|\n) {0,3}(?:\$\$|\\\[)/.exec(source)?.index,
      tokenizer: (source) => {
        const found = find(BLOCK, source, true)
        return found && { ...found, type: 'formulaBlock' }
      },
      renderer: (token) => `<p>${renderer(token)}</p>`,
    },
    {
      name: 'formula',
      level: 'inline',
      start: (source) => /\$|\\[([]/.exec(source)?.index,
      tokenizer: (source) => find(INLINE, source, false),
      renderer,
    },
  ],
}
