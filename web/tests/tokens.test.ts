// Tokens that are a part of a character, as models write Chinese.
import { describe, expect, it } from 'vitest'
import { tokenLabel, wholeOf } from '../src/lib/answer/tokens'
import type { Logprob } from '../src/lib/types'

const token = (text: string, bytes: number[] | null = [...new TextEncoder().encode(text)]): Logprob => ({
  token: text,
  bytes,
  logprob: -1,
  top_logprobs: [],
})
const part = (...bytes: number[]): Logprob => token('\uFFFD', bytes)

describe('a token', () => {
  it('is shown as text, blanks as signs, and bytes of a character by their numbers', () => {
    expect([' 药', '\n', '  ', '', 'a\tb'].map((text) => tokenLabel(token(text)))).toEqual([' 药', '⏎', '␣␣', '∅', 'a⇥b'])
    expect(tokenLabel(part(0xe6, 0x8a))).toBe('\\xE6\\x8A')
    expect(tokenLabel(token('\uFFFD', null))).toBe('\uFFFD') // the engine does not know the bytes
  })
  it('that is bytes tells the character that it is a part of', () => {
    const [first, second, third] = new TextEncoder().encode('药') as unknown as [number, number, number]
    const tokens = [token('吃'), part(first), part(second), part(third), token('片')]
    expect(tokens.map((_one, at) => wholeOf(tokens, at))).toEqual(['', '药', '药', '药', ''])
  })
  it('belongs to its own character where several follow each other', () => {
    const bytes = [...new TextEncoder().encode('药片')]
    const tokens = [part(...bytes.slice(0, 2)), part(...bytes.slice(2, 4)), part(...bytes.slice(4))]
    expect(tokens.map((_one, at) => wholeOf(tokens, at))).toEqual(['药', '药片', '片'])
    expect(wholeOf([part(0xe6), token('a')], 0)).toBe('') // a character that was cut
  })
})
