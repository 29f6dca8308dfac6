// Ids of conversations and messages: 96 random bits, in signs that a URL takes as they are.

/** crypto.randomUUID exists only on https and localhost; this works on http://192.168.0.5 too. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12))
  return btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_')
}

export function isId(text: string): boolean {
  return /^[A-Za-z0-9_-]{16}$/.test(text)
}
