// Server-sent events out of the bytes of a response (https://html.spec.whatwg.org/multipage/server-sent-events.html).
// The browser's EventSource hides status codes and cannot begin behind an event that an earlier page has seen.

export interface ServerEvent {
  id: string
  event: string // "message" where none is named
  data: string
}

/** Yields the events of a stream. Comments, which only keep it alive, call `onAlive` like everything else that arrives. */
export async function* readEvents(
  body: ReadableStream<Uint8Array>,
  onAlive: () => void = () => {},
): AsyncGenerator<ServerEvent> {
  const reader = body.getReader()
  const decoder = new TextDecoder()
  let rest = ''
  let [id, event] = ['', 'message']
  let data: string[] = []
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return // an event without its empty line is incomplete and is not given on
      onAlive()
      rest += decoder.decode(value, { stream: true })
      const lines = rest.split(/\r\n|\n|\r(?!$)/) // a CR at the end may be half of a CRLF
      rest = lines.pop() ?? ''
      for (const line of lines) {
        if (line === '') {
          if (data.length > 0) yield { id, event, data: data.join('\n') }
          event = 'message'
          data = []
          continue
        }
        const colon = line.indexOf(':')
        if (colon === 0) continue
        const field = colon < 0 ? line : line.slice(0, colon)
        const text = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '')
        if (field === 'data') data.push(text)
        else if (field === 'id') id = text
        else if (field === 'event') event = text
      }
    }
  } finally {
    void reader.cancel().catch(() => {})
  }
}
