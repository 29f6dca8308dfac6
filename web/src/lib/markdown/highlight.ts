// highlight.js with the languages that answers about data and medicine have.
import hljs from 'highlight.js/lib/core'
import bash from 'highlight.js/lib/languages/bash'
import json from 'highlight.js/lib/languages/json'
import javascript from 'highlight.js/lib/languages/javascript'
import python from 'highlight.js/lib/languages/python'
import r from 'highlight.js/lib/languages/r'
import sql from 'highlight.js/lib/languages/sql'
import xml from 'highlight.js/lib/languages/xml'
import yaml from 'highlight.js/lib/languages/yaml'

const LANGUAGES = { bash, json, javascript, python, r, sql, xml, yaml }
for (const [name, language] of Object.entries(LANGUAGES)) hljs.registerLanguage(name, language)

export function highlight(block: HTMLElement): void {
  const name = block.className.replace('language-', '')
  const source = block.textContent ?? ''
  if (hljs.getLanguage(name) === undefined) return
  block.innerHTML = hljs.highlight(source, { language: name, ignoreIllegals: true }).value // escapes its input
  if (block.textContent !== source) block.textContent = source
}
