// The page that runs without a server: where an answer ends, marks in a person's words, numbers in words.
import { describe, expect, it } from 'vitest'
import { answeredTurns, type ChatData, cutMarks, findStop, lastTurns, pieces } from '../offline/src/chat/prompt'
import { readNumber } from '../offline/src/safety/measures'
import { Letters } from '../offline/src/safety/text'
import { sizeOf, w } from '../offline/src/words'
import { setLanguage } from '../src/lib/i18n/index.svelte'

const CHAT: ChatData = {
  template: 'test',
  prompts: [
    ['<u>', '</u><a>'],
    ['<u>', '</u><a>', '</a><u>', '</u><a>'],
  ],
  trimmed: [true, false, true],
  cuts: true,
  opens_reasoning: false,
  marks: ['<|end|>', '<tool>'],
  specials: ['<|end|>'],
  stop_ids: [2],
  stops: ['\nHuman:'],
}

it('leaves out a question whose answer was stopped before its first word', () => {
  const turns = [
    { role: 'user', content: 'a' },
    { role: 'assistant', content: '' },
    { role: 'user', content: 'b' },
    { role: 'assistant', content: 'B' },
    { role: 'user', content: 'c' },
    { role: 'assistant', content: '' },
  ] as const
  expect(answeredTurns(turns).map((turn) => turn.content)).toEqual(['b', 'B', 'c'])
})

describe('findStop', () => {
  it('finds the first stop string', () => {
    expect(findStop('Rest.\nHuman: and', ['and', '\nHuman:'])).toEqual({ end: 5, held: 0 })
  })
  it('holds back what may be the beginning of one', () => {
    expect(findStop('Rest.\nHum', CHAT.stops)).toEqual({ end: null, held: 4 })
    expect(findStop('Rest.', CHAT.stops)).toEqual({ end: null, held: 0 })
    expect(findStop('Rest.', [])).toEqual({ end: null, held: 0 })
  })
})

describe('pieces', () => {
  it('cuts marks in words apart, and of an answer only special tokens', () => {
    expect(cutMarks('a<|end|>b', CHAT.marks)).toEqual(['a<', '|end|>b'])
    const turns = [
      { role: 'user', content: ' <tool> ' },
      { role: 'assistant', content: '<think>\nhm\n</think>\n\n<tool><|end|>' },
      { role: 'user', content: 'x' },
    ] as const
    expect(pieces(CHAT, [...turns])).toEqual(['<u><', 'tool></u><a><tool><', '|end|></a><u>x</u><a>'])
  })
  it('takes no conversation that ends with an answer', () => {
    expect(() => pieces(CHAT, [{ role: 'user', content: 'a' }, { role: 'assistant', content: 'b' }])).toThrow('2 turns')
  })
  it('sends as many questions as there is markup for', () => {
    expect(lastTurns(CHAT, [1, 2, 3, 4, 5])).toEqual([3, 4, 5])
    expect(lastTurns(CHAT, [1])).toEqual([1])
  })
})

it('reads numbers in words of both languages', () => {
  const read = ['一百五', '一百零五', '三十八点五', '半', 'three hundred and fifty', 'half a', 'a hundred', '1,200'].map(readNumber)
  expect(read).toEqual([150, 105, 38.5, 0.5, 350, 0.5, 100, 1200])
})

it('counts each character as one place', () => {
  const plain = new Letters('Ａa体体').normalize('\u{1f62d}ＡÉ\ud800体')
  expect([plain.text, plain.length]).toEqual(['\ue000aé?体', 5])
  expect(plain.words(4, 5)).toBe(1)
})

it('speaks both languages', () => {
  setLanguage('zh')
  expect(w('download', { size: sizeOf(98_362_432) })).toBe('下载 98 MB 并开始')
  setLanguage('en')
  expect(w('download', { size: sizeOf(1_790_000_000) })).toBe('Download 1.8 GB and start')
})
