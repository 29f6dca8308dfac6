// Conversations: the tree of messages, what is kept, what goes out and comes in.
import { describe, expect, it } from 'vitest'
import { newMessage, textOf } from '../src/lib/answer/segments'
import { ACCOUNT_WORDS, nameFault, passwordFault } from '../src/lib/i18n/accounts'
import { en } from '../src/lib/i18n/en'
import { zh } from '../src/lib/i18n/zh'
import { isId, newId } from '../src/lib/ids'
import { dialable, stretches } from '../src/lib/numbers'
import { openStore } from '../src/lib/store/db'
import { titleOf } from '../src/lib/store/library.svelte'
import { newestLeaf, pathTo, versionsOf } from '../src/lib/store/tree'
import { asJson, asMarkdown, fileName } from '../src/lib/transfer/export'
import { readImport } from '../src/lib/transfer/import'
import type { Conversation, Message } from '../src/lib/types'

const make = (id: string, parent: string | null, role: Message['role'], created: number, text = id): Message =>
  newMessage({ id, conversation: 'c', parent, role, created, finish: 'stop', segments: [{ text, notices: [] }] })
const MESSAGES = [
  make('q1', null, 'user', 1),
  make('a1', 'q1', 'assistant', 2),
  make('a2', 'q1', 'assistant', 3),
  make('q2', 'a1', 'user', 4),
  make('a3', 'q2', 'assistant', 5),
]
const tree = new Map(MESSAGES.map((one) => [one.id, one]))
const CONVERSATION: Conversation = {
  ...{ id: 'c', title: 'A: title', named: false, created: 1, updated: 2, pinned: true, deleted: 0, leaf: 'a3', running: false },
}

describe('the tree', () => {
  it('has a path, versions, and the end that was written last', () => {
    expect(pathTo(tree, 'a3').map((one) => one.id)).toEqual(['q1', 'a1', 'q2', 'a3'])
    expect(versionsOf(tree, tree.get('a1') as Message).map((one) => one.id)).toEqual(['a1', 'a2'])
    expect([newestLeaf(tree, 'q1'), newestLeaf(tree, 'a2'), newestLeaf(tree, 'a1')]).toEqual(['a3', 'a2', 'a3'])
  })
  it('survives a parent that is missing and a circle', () => {
    const broken = new Map([make('x', 'y', 'user', 1), make('y', 'x', 'user', 2), make('z', 'gone', 'user', 3)].map((one) => [one.id, one]))
    expect(pathTo(broken, 'x').length).toBe(2)
    expect(pathTo(broken, 'z').length).toBe(1)
    expect(newestLeaf(broken, 'x')).toBe('y')
  })
})

describe.each(['browser', 'nothing'] as const)('the store (%s)', (keep) => {
  it('gives back what was put and forgets all of what is removed', async () => {
    const { store, keep: kept } = await openStore(keep)
    expect(kept).toBe(keep)
    await store.putConversation(CONVERSATION)
    await store.putMessages(MESSAGES)
    await store.putDraft('c', 'draft 1~2片')
    expect([(await store.messages('c')).length, await store.draft('c')]).toEqual([5, 'draft 1~2片'])
    expect([await store.search(' A3 '), await store.search('a: TIT'), await store.search('b: tit')]).toEqual([['c'], ['c'], []])
    // all words, in whatever order and wherever in the conversation, as one remembers them
    expect([await store.search('tit a3 a:'), await store.search('tit absent'), await store.search(' ')]).toEqual([['c'], [], []])
    await store.remove('c')
    expect([await store.conversations(), await store.messages('c'), await store.search('a3'), await store.draft('c')]).toEqual([[], [], [], ''])
  })
})

describe('export and import', () => {
  it('gives the same texts back, every branch, under new ids', () => {
    const [back] = readImport(asJson([{ conversation: CONVERSATION, messages: MESSAGES }]))
    expect(back?.messages.map(textOf)).toEqual(MESSAGES.map(textOf))
    expect(back?.conversation.title).toBe('A: title')
    const again = new Map(back?.messages.map((one) => [one.id, one]))
    expect(pathTo(again, back?.conversation.leaf ?? null).map(textOf)).toEqual(['q1', 'a1', 'q2', 'a3'])
    expect(again.has('q1')).toBe(false)
  })
  it.each([
    ['ShareGPT', [{ conversations: [{ from: 'human', value: '1~2片?' }, { from: 'gpt', value: '5*10mg' }] }]],
    ['OpenAI', { messages: [{ role: 'user', content: [{ type: 'text', text: '1~2片?' }] }, { role: 'assistant', content: '5*10mg' }] }],
    ['a bare list', [{ role: 'user', content: '1~2片?' }, { role: 'assistant', content: '5*10mg' }]],
  ])('reads %s', (_name, data) => {
    const [one] = readImport(`\uFEFF${JSON.stringify(data)}`)
    expect(one?.messages.map((message) => [message.role, textOf(message)])).toEqual([
      ['user', '1~2片?'],
      ['assistant', '5*10mg'],
    ])
    expect(one?.conversation.title).toBe('1~2片?')
  })
  it('takes fields by their type only', () => {
    const evil = { format: 'carellama-conversations', conversations: [{ conversation: { title: { toString: 1 }, leaf: 7 }, messages: [{ id: 'x', role: 'admin', segments: [{ text: 5, notices: [{ kind: {}, level: 'x' }] }, null], running: { answer: 'y' } }] }] }
    const [one] = readImport(JSON.stringify(evil))
    expect(one?.messages[0]?.running).toBeNull()
    expect(one?.messages[0]?.segments).toEqual([
      { text: '', notices: [{ kind: '', level: 'info', rule: '', text: '' }] },
      { text: '', notices: [] },
    ])
    expect(() => readImport('{}')).toThrow('no messages')
    expect(() => readImport('not json')).toThrow()
  })
  it('writes notices into Markdown before the answer', () => {
    const text = '**Emergency.** Call 120.'
    const answer = make('a', 'q', 'assistant', 2, 'Wait.')
    answer.segments.unshift({ text, notices: [{ kind: 'emergency', level: 'emergency', rule: 'r', text }] })
    expect(asMarkdown('T', [make('q', null, 'user', 1, 'Chest pain'), answer], { user: 'You', assistant: 'CareLlama' })).toBe(
      '# T\n\n## You\n\nChest pain\n\n## CareLlama\n\n> **Emergency.** Call 120.\n\nWait.\n',
    )
  })
  it('names files so that every system takes them', () => {
    expect(fileName('../../etc/pass:wd?', 'md')).toBe('etc pass wd.md')
    expect(fileName('..', 'json')).toBe('carellama.json')
  })
})

describe('numbers to call', () => {
  it('are found whole, with what can be dialled of them', () => {
    expect(dialable({ ambulance: '112 / 999', crisis: '111 (option 2) / 116 123' })).toEqual(['116 123', '112', '999', '111'])
    const links = (text: string): string[] => stretches(text, ['120', '116 123']).filter((one) => one.tel).map((one) => one.tel)
    expect(links('Call 120, or 116 123. Not 1200, 0.120, 120.5, 120-140 or 140/120.')).toEqual(['120', '116123'])
    expect(stretches('**A.** b', [])).toEqual([
      { text: 'A.', tel: '', strong: true },
      { text: ' b', tel: '', strong: false },
    ])
  })
})

describe('words', () => {
  it('have the same places to fill in both languages', () => {
    const places = (text: string): string[] => (text.match(/\{\w+\}/g) ?? []).sort()
    for (const name of Object.keys(en) as (keyof typeof en)[]) expect(places(zh[name]), name).toEqual(places(en[name]))
    expect(Object.keys(zh)).toEqual(Object.keys(en))
  })
  it('of accounts too', () => {
    const names = Object.keys(ACCOUNT_WORDS.en) as (keyof typeof ACCOUNT_WORDS.en)[]
    const places = (text: string): string[] => (text.match(/\{\w+\}/g) ?? []).sort()
    for (const name of names) expect(places(ACCOUNT_WORDS.zh[name]), name).toEqual(places(ACCOUNT_WORDS.en[name]))
    expect(Object.keys(ACCOUNT_WORDS.zh)).toEqual(names)
  })
  it('tell what is wrong with a name or a password, counted in characters', () => {
    expect([nameFault(' '), nameFault('李'.repeat(65))]).toEqual([ACCOUNT_WORDS.en.badName, ACCOUNT_WORDS.en.badName])
    expect([nameFault('李四'), passwordFault('密'.repeat(10)), passwordFault('😀'.repeat(1000))]).toEqual(['', '', ''])
    expect([passwordFault('😀'.repeat(9)), passwordFault('x'.repeat(1001))].map((one) => /\d+/.exec(one)?.[0])).toEqual(['9', '1001'])
  })
  it('make a title of the first line', () => {
    expect(titleOf('  Fever 38.5\nsecond')).toBe('Fever 38.5')
    expect([...titleOf('片'.repeat(200))].length).toBe(61)
  })
  it('and ids that a URL takes', () => {
    expect(isId(newId())).toBe(true)
    expect(isId('../../x')).toBe(false)
  })
})
