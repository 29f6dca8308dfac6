// An answer for a screen reader: whole sentences, as soon as each is complete.

// a point within 38.5 or q.d. ends nothing, nor does that of e.g. or Dr.
const END = /[。！？!?…]+["”’』」）)]*|(?<!\b(?:e\.g|i\.e|vs|approx|Drs?|Mrs?|Ms|Prof))\.(?=\s)|\n+/g

/** The sentences that are complete in `text` behind `from`, and where the rest begins. `all`: the rest too. */
export function newSentences(text: string, from: number, all: boolean): { sentences: string[]; from: number } {
  const sentences: string[] = []
  END.lastIndex = from
  let begin = from
  for (let end = END.exec(text); end !== null; end = END.exec(text)) {
    const until = end.index + end[0].length
    if (until === text.length && !all && end[0] === '.') break // the next sign may make it a number
    const sentence = text.slice(begin, until).trim()
    if (sentence.replace(/[\s\d.)*#>-]/g, '') === '' && !end[0].includes('\n')) continue // "3." is the number of an item
    if (sentence !== '') sentences.push(sentence)
    begin = until
  }
  if (all && text.slice(begin).trim() !== '') {
    sentences.push(text.slice(begin).trim())
    begin = text.length
  }
  return { sentences, from: begin }
}

/** Without the marks of Markdown that a voice would read out. */
export function spoken(text: string): string {
  return text
    .replace(/^\s*(?:`{3,}|~{3,}).*$|^[\s|:-]+$/gm, '') // fences of code, lines of tables
    .replace(/\[([^\]]+)\]\([^)]*\)/g, '$1') // a link by its words
    .replace(/^#{1,6}\s+|^\s*[-*+]\s+/gm, '')
    .replace(/(\*\*|__|`+)(?=\S)(.+?)(?<=\S)\1/g, '$2')
    .replace(/\|/g, ' ')
    .trim()
}
