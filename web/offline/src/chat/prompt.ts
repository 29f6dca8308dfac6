// The text that the model gets, and in which pieces it is tokenised: as `carellama.templates` and the engine for
// llama.cpp make them. A test of the project compares both.
export interface ChatData {
  template: string
  prompts: string[][] // for each number of questions: markup before, between and after the contents
  trimmed: boolean[] // of each content, whether white space around it goes
  cuts: boolean // the template may cut reasoning, and line breaks after it, out of answers
  opens_reasoning: boolean // an answer begins within its reasoning
  marks: string[] // strings that are single tokens, which a person's words must not turn into; longest first
  specials: string[] // of these, what an answer must not turn into either
  stop_ids: number[]
  stops: string[]
}

export interface Turn {
  role: 'user' | 'assistant'
  content: string
}

const REASONING = /^(\s*<think>\s*)([^]*?)(\s*<\/think>\s*)/
const SPACE = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000' // as Python has it
const OUTER_SPACE = new RegExp(`^[${SPACE}]+|[${SPACE}]+$`, 'g')

/** The prompt in pieces that are tokenised one by one: cut inside each mark that stands in somebody's words. */
export function pieces(chat: ChatData, turns: Turn[]): string[] {
  const markup = chat.prompts[(turns.length - 1) / 2]
  if (markup === undefined || markup.length !== turns.length + 1) {
    throw new Error(`${turns.length} turns are no conversation that ends with one of ${chat.prompts.length} questions`)
  }
  const made = [markup[0] as string]
  for (const [at, turn] of turns.entries()) {
    const marks = turn.role === 'assistant' ? chat.specials : chat.marks
    const [head, ...rest] = cutMarks(contentOf(chat, turn, at), marks) as [string, ...string[]]
    made[made.length - 1] += head
    made.push(...rest)
    made[made.length - 1] += markup[at + 1] as string
  }
  return made
}

/** What of a turn goes into the prompt: of an answer not its reasoning. */
function contentOf(chat: ChatData, turn: Turn, at: number): string {
  let content = turn.content
  if (turn.role === 'assistant') {
    content = content.replace(REASONING, '')
    if (chat.cuts) content = content.replace(/^\n+/, '')
  }
  return chat.trimmed[at] ? content.replace(OUTER_SPACE, '') : content
}

/** A text in parts, cut behind the first character of each mark, so that no part has a whole mark in it. */
export function cutMarks(text: string, marks: string[]): string[] {
  const parts: string[] = []
  let begin = 0
  let at = 0
  while (at < text.length) {
    const mark = marks.find((one) => one !== '' && text.startsWith(one, at))
    if (mark === undefined) at++
    else {
      const cut = at + String.fromCodePoint(mark.codePointAt(0) as number).length
      parts.push(text.slice(begin, cut))
      begin = cut
      at += mark.length
    }
  }
  parts.push(text.slice(begin))
  return parts
}

/** The last turns: as many questions as there is markup for. */
export function lastTurns<T>(chat: ChatData, turns: T[]): T[] {
  return turns.slice(-(2 * chat.prompts.length - 1))
}

/** Where a text ends by a stop string, and how much of its end may be the beginning of one. */
export function findStop(text: string, stops: string[]): { end: number | null; held: number } {
  const found = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0)
  if (found.length > 0) return { end: Math.min(...found), held: 0 }
  let held = 0
  for (const stop of stops) {
    for (let length = Math.min(stop.length - 1, text.length); length > held; length--) {
      if (stop.startsWith(text.slice(-length))) held = length
    }
  }
  return { end: null, held }
}

/** What the model gets of a conversation that ends with an empty answer: no questions whose answer was stopped at once. */
export function answeredTurns(turns: readonly Turn[]): Turn[] {
  const last = turns.length - 2
  return turns.slice(0, -1).filter((turn, at) => at === last || (turn.role === 'user' ? turns[at + 1]?.content : turn.content) !== '')
}
