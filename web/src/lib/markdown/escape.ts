// Text into HTML.
const NAMES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }

/** Every sign is shown as it is. */
export function escapeAll(text: string): string {
  return text.replace(/[&<>"']/g, (sign) => NAMES[sign] ?? sign)
}

/** The same, but for entities by name, which models write: &lt; is shown as <. */
export function escapeText(text: string): string {
  return text.replace(/&(?![A-Za-z]+;)|[<>"']/g, (sign) => NAMES[sign] ?? sign)
}
