// Tokens for a person: blanks as signs, and bytes that are a part of a character with the character that they make.
import type { Logprob, TokenText } from '../types'

const BROKEN = '\uFFFD'
const SIGNS: Record<string, string> = { '\n': '⏎', '\r': '␍', '\t': '⇥', '': '∅' }

function isPart({ token, bytes }: TokenText): boolean {
  return token.includes(BROKEN) && bytes != null && bytes.length > 0
}

function hexadecimal(bytes: number[]): string {
  return bytes.map((byte) => `\\x${byte.toString(16).toUpperCase().padStart(2, '0')}`).join('')
}

/** What is shown of a token: `\xE6` for a byte, ⏎ for a line end, ␣ for a token of blanks alone. */
export function tokenLabel(one: TokenText): string {
  if (isPart(one)) return hexadecimal(one.bytes ?? [])
  if (/^ +$/.test(one.token)) return '␣'.repeat(one.token.length)
  return one.token === '' ? '∅' : one.token.replace(/[\n\r\t]/g, (sign) => SIGNS[sign] ?? sign)
}

/** The characters that a token of bytes makes together with its neighbours; "" for a token that is whole. */
export function wholeOf(tokens: Logprob[], at: number): string {
  const own = tokens[at]
  if (own === undefined || !isPart(own)) return ''
  let first = at
  while (first > 0 && isPart(tokens[first - 1]!)) first--
  const bytes: number[] = []
  let begin = 0
  let end = 0
  for (let place = first; place < tokens.length && isPart(tokens[place]!); place++) {
    if (place === at) begin = bytes.length
    bytes.push(...(tokens[place]!.bytes ?? []))
    if (place === at) end = bytes.length
  }
  let text = ''
  for (let place = 0; place < bytes.length; ) {
    const length = widthOf(bytes[place]!)
    const next = place + length
    const character = new TextDecoder().decode(new Uint8Array(bytes.slice(place, next)))
    if (place < end && next > begin && next <= bytes.length && !character.includes(BROKEN)) text += character
    place = next
  }
  return text
}

/** The bytes of a character by its first one (RFC 3629, section 3). */
function widthOf(byte: number): number {
  if (byte >= 0xf0) return 4
  if (byte >= 0xe0) return 3
  return byte >= 0xc0 ? 2 : 1
}
