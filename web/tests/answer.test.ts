// What the stream does to an answer, and what of it is drawn how.
import { describe, expect, it } from 'vitest'
import { partsOf, plainText, splitThoughts } from '../src/lib/answer/parts'
import { requestFor, trainingMessages, wireMessages } from '../src/lib/answer/request'
import { addChunk, addJoint, newMessage, saysSomething, textOf } from '../src/lib/answer/segments'
import { readEvents } from '../src/lib/api/sse'
import { newSentences, spoken } from '../src/lib/sentences'
import type { Chunk, Config, Message, Notice } from '../src/lib/types'

const notice = (kind: string, text: string, level: Notice['level'] = 'caution'): Notice => ({ kind, level, rule: 'r', text })
const message = (role: Message['role'] = 'assistant', text = ''): Message =>
  newMessage({ id: Math.random().toString(), conversation: 'c', parent: null, role, segments: text ? [{ text, notices: [] }] : [] })
const chunk = (content: string, notices?: Notice[]): Chunk => ({ choices: [{ delta: notices ? { content, notices } : { content } }] })

async function events(...pieces: (string | Uint8Array)[]): Promise<[string, string, string][]> {
  const encoder = new TextEncoder()
  const stream = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const piece of pieces) controller.enqueue(typeof piece === 'string' ? encoder.encode(piece) : piece)
      controller.close()
    },
  })
  const found: [string, string, string][] = []
  for await (const { id, event, data } of readEvents(stream)) found.push([id, event, data])
  return found
}

describe('an answer', () => {
  it('says something where there is more than the disclaimer', () => {
    const stopped = message()
    expect(saysSomething(stopped)).toBe(false)
    addChunk(stopped, chunk('\n\nNo diagnosis.', [notice('disclaimer', 'No diagnosis.', 'info')]), 1)
    expect(saysSomething(stopped)).toBe(false)
    addChunk(stopped, chunk('Call 120.', [notice('emergency', 'Call 120.', 'emergency')]), 1)
    expect(saysSomething(stopped)).toBe(true)
  })
})

describe('server-sent events', () => {
  it('reads id, event and data, and leaves comments out', async () => {
    expect(await events(': alive\n\nid: 7\ndata: {"a": 1}\n\nevent: queue\ndata: 1\ndata: 2\n\n')).toEqual([
      ['7', 'message', '{"a": 1}'],
      ['7', 'queue', '1\n2'],
    ])
  })
  it('reads events that arrive in pieces, within a character too, and drops what is not whole', async () => {
    const bytes = new TextEncoder().encode('id: 1\r\ndata: 片\r\n\r\nid: 2\ndata: half')
    expect(await events(bytes.slice(0, 14), bytes.slice(14, 18), bytes.slice(18))).toEqual([['1', 'message', '片']])
  })
})

describe('segments', () => {
  it('are, together, the text as it was written', () => {
    const one = message()
    const pieces = ['每次 ', '1~2', '片。']
    for (const piece of pieces) addChunk(one, chunk(piece), 5)
    addChunk(one, chunk('〔提示：x〕', [notice('dose', 'x')]), 6)
    addChunk(one, chunk('多喝水。'), 7)
    expect(textOf(one)).toBe('每次 1~2片。〔提示：x〕多喝水。')
    expect(one.segments.length).toBe(3)
    expect(one.firstAt).toBe(5)
  })
  it('of an answer that is continued join before the disclaimer', () => {
    const disclaimer = chunk('\n\nNot a doctor.', [notice('disclaimer', 'Not a doctor.', 'info')])
    const continued = (cut: string, ...added: Chunk[]): Message => {
      const one = message()
      for (const part of [chunk(cut), disclaimer]) addChunk(one, part, 5)
      addJoint(one.segments)
      for (const part of added) addChunk(one, part, 6)
      return one
    }
    const emergency = chunk('', [notice('emergency', 'Call 120.', 'emergency')])
    expect(textOf(continued('a medical', emergency, chunk('cond'), chunk('ition.')))).toBe('a medical condition.\n\nNot a doctor.')
    expect(textOf(continued('take 1', chunk('500 mg')))).toBe('take 1 500 mg\n\nNot a doctor.') // never 1500 mg
    expect(textOf(continued('每次1', chunk('～2片')))).toBe('每次1～2片\n\nNot a doctor.')
    expect(textOf(continued('多', chunk('喝水。'), chunk('〔x〕', [notice('dose', 'x')])))).toBe('多喝水。〔x〕\n\nNot a doctor.')
    const parts = partsOf(continued('a medical', chunk('condition.')).segments).map((one) => one.kind)
    expect(parts).toEqual(['text', 'notice'])
  })
  it('keep the end, the usage and log-probabilities', () => {
    const one = message()
    addChunk(one, { choices: [{ delta: { content: 'a' }, logprobs: { content: [{ token: 'a', logprob: -1, top_logprobs: [] }] } }] }, 1)
    addChunk(one, { choices: [{ delta: {}, finish_reason: 'length' }] }, 2)
    addChunk(one, { choices: [], usage: { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3 } }, 3)
    expect([one.finish, one.usage?.total_tokens, one.logprobs.length]).toEqual(['length', 3, 1])
  })
})

describe('parts', () => {
  it('put the emergency first and the note behind its sentence', () => {
    const parts = partsOf([
      { text: '**Emergency.** Call 120.\n\n', notices: [notice('emergency', '**Emergency.** Call 120.', 'emergency')] },
      { text: 'Take 5 g.', notices: [] },
      { text: ' [Note: too much]', notices: [notice('dose', 'too much')] },
      { text: ' Rest.', notices: [] },
      { text: 'Not a doctor.', notices: [notice('disclaimer', 'Not a doctor.', 'info')] },
    ])
    expect(parts.map((part) => part.kind)).toEqual(['notice', 'text', 'notice'])
    expect(parts[0]?.kind === 'notice' && parts[0].first).toBe(true)
    expect(parts[1] && plainText(parts[1])).toBe('Take 5 g. [Safety check, dose: too much] Rest.')
  })
  it('show a notice once that an answer which was continued has twice', () => {
    const one = { text: 'Call 120.', notices: [notice('emergency', 'Call 120.', 'emergency')] }
    expect(partsOf([one, { text: 'a', notices: [] }, one]).filter((part) => part.kind === 'notice').length).toBe(1)
  })
  it.each([
    ['<think>a</think>b', ['thoughts:a', 'text:b']],
    ['<think>a', ['thoughts:a']],
    ['a</think>b', ['thoughts:a', 'text:b']],
    ['<think>\n\n</think>\n\nb', ['text:\n\nb']],
    ['## Thinking\n\na\n\n## Final Response\n\nb', ['thoughts:a', 'text:\nb']],
    ['## Thinking\n\na\n## Dose\nb', ['thoughts:a', 'text:## Dose\nb']],
    ['## Thinking\n\na', ['thoughts:a']],
    ['no <b>thoughts</b>', ['text:no <b>thoughts</b>']],
  ])('%j folds thoughts', (text, expected) => {
    const parts = splitThoughts(text).parts
    expect(parts.map((part) => `${part.kind}:${part.kind === 'notice' ? '' : part.text}`)).toEqual(expected)
  })
  it('fold thoughts that a notice interrupts', () => {
    const parts = partsOf([
      { text: '<think>a', notices: [] },
      { text: 'x', notices: [notice('disclaimer', 'x', 'info')] },
      { text: 'b</think>c', notices: [] },
    ])
    expect(parts.filter((part) => part.kind === 'text').map((part) => part.text)).toEqual(['c'])
  })
})

describe('requests', () => {
  it('leave out answers that never came and join the questions around them', () => {
    expect(wireMessages([message('user', 'a'), message(), message('user', 'b')], null)).toEqual([{ role: 'user', content: 'a\n\nb' }])
  })
  it('carry notices and marks to the server, and not into training data', () => {
    const answered = { ...message(), segments: [{ text: 'Take 2 mg.', notices: [] }, { text: ' [Note: n]', notices: [notice('dose', 'n')] }] }
    const refused = { ...message(), segments: [{ text: 'No.', notices: [notice('refusal', 'No.', 'refuse')] }] }
    const path = [message('user', 'a'), answered, message('user', 'b'), refused, message('user', 'c')]
    expect(wireMessages(path, null).map((one) => one.content)).toEqual(['a', 'Take 2 mg. [Note: n]', 'b', 'No.', 'c'])
    expect(trainingMessages(path, null).map((one) => one.content)).toEqual(['a', 'Take 2 mg.', 'b', 'No.', 'c'])
  })
  it('send sampling for researchers only', () => {
    const settings = { adapter: '', mode: null, sampling: { temperature: 0.2, max_new_tokens: 9 }, system: 'S', logprobs: true } as never
    const config = { profile: 'patient', adapters: ['x'], consult: false, mode: 'answer' } as unknown as Config
    expect(requestFor([message('user', 'q')], 'x', config, settings)).toEqual({
      messages: [{ role: 'user', content: 'q' }],
      model: 'carellama:x',
    })
    expect(requestFor([message('user', 'q')], 'gone', { ...config, profile: 'researcher' }, settings)).toEqual({
      messages: [
        { role: 'system', content: 'S' },
        { role: 'user', content: 'q' },
      ],
      temperature: 0.2,
      max_tokens: 9,
      logprobs: true,
      top_logprobs: 5,
    })
    const consulting = { ...config, profile: 'researcher', consult: true, mode: 'consult' } as Config
    expect(requestFor([message('user', 'q')], '', consulting, settings)).not.toHaveProperty('logprobs')
  })
})

describe('sentences', () => {
  it('are whole: a point within a number ends nothing', () => {
    const text = 'Take 1.5 g. If it is 38.5 call. 3. Rest'
    const first = newSentences(text, 0, false)
    expect(first.sentences).toEqual(['Take 1.5 g.', 'If it is 38.5 call.'])
    expect(newSentences(text, first.from, true).sentences).toEqual(['3. Rest'])
  })
  it('do not end at a point that may belong to a number', () => {
    expect(newSentences('It is 38.', 0, false).sentences).toEqual([])
    expect(newSentences('每次1~2片。每日', 0, false).sentences).toEqual(['每次1~2片。'])
  })
  it('have no marks of Markdown in them, but all numbers', () => {
    expect(spoken('**5*10 mg** of `x_1`')).toBe('5*10 mg of x_1')
    expect(spoken('| 1 | 2 |')).toBe('1   2')
    expect(spoken('|---|---|')).toBe('')
  })
})
