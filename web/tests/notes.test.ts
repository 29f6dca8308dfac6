// A note of the safety layer marks the sentence before it, whatever stands around.
import { describe, expect, it } from 'vitest'
import { markSentence } from '../src/lib/markdown/notes'

/** The marked texts of a piece of HTML in which * is a note. */
function marked(html: string): string[] {
  const box = document.createElement('div')
  box.innerHTML = html.replaceAll('*', '<span class="note">why</span>')
  const before = box.textContent
  for (const note of box.querySelectorAll<HTMLElement>('.note')) markSentence(note)
  expect(box.textContent).toBe(before)
  return [...box.querySelectorAll('.noted')].map((one) => one.textContent ?? '')
}

describe('a note', () => {
  it('marks the sentence before it and no other', () => {
    expect(marked('<p>Drink water. Take 2.5 mg at night.* Rest.</p>')).toEqual(['Take 2.5 mg at night.'])
    expect(marked('<p>多喝水。每次吃 1.5 片，每日3次。*休息。</p>')).toEqual(['每次吃 1.5 片，每日3次。'])
    expect(marked('<p>First line<br>Second line*</p>')).toEqual(['Second line'])
  })
  it('marks a sentence with bold words as a whole', () => {
    expect(marked('<p>Ok. Take <strong>800 mg</strong> now.*</p>')).toEqual(['Take 800 mg now.'])
    expect(marked('<p><strong>Ok. Take 800</strong> mg now.*</p>')).toEqual(['Take 800 mg now.'])
  })
  it('stays in its item or cell', () => {
    expect(marked('<ul><li>One.</li><li>Two: 5 mg.*</li></ul>')).toEqual(['Two: 5 mg.'])
    expect(marked('<table><tr><td>A</td><td>5 mg*</td></tr></table>')).toEqual(['5 mg'])
  })
  it('that is the second of a sentence marks nothing again', () => {
    expect(marked('<p>Take 5 mg.** Next.*</p>')).toEqual(['Take 5 mg.', 'Next.'])
  })
})

describe('the words of components', () => {
  it('have the colon of the language between two of them', () => {
    const sources = import.meta.glob('../src/**/*.svelte', { query: '?raw', import: 'default', eager: true }) as Record<string, string>
    const markup = Object.entries(sources).map(([name, text]) => [name, text.replace(/<style>[^]*<\/style>/, '')] as const)
    expect(markup.length).toBeGreaterThan(30)
    expect(markup.flatMap(([name, text]) => (text.match(/(?:\{t\([^)]*\)\}|\$\{letter\}): .*/g) ?? []).map((line) => `${name}: ${line}`))).toEqual([])
  })
})
