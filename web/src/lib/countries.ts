// The countries whose numbers the server knows, and how a notice gets those of another one.
import { postNotices } from './api/research'
import { wireMessages } from './answer/request'
import type { Library, Thread } from './store/library.svelte'
import { settings } from './store/settings.svelte'
import { pathTo } from './store/tree'
import type { Config, Language, Message } from './types'

export function countryName(code: string, language: Language): string {
  try {
    return new Intl.DisplayNames([language === 'zh' ? 'zh-CN' : 'en'], { type: 'region' }).of(code) ?? code
  } catch {
    return code
  }
}

/** All countries by their names. */
export function countryList(config: Pick<Config, 'countries'>, language: Language): { code: string; name: string }[] {
  const list = Object.keys(config.countries ?? {}).map((code) => ({ code, name: countryName(code, language) }))
  return list.sort((a, b) => a.name.localeCompare(b.name, language === 'zh' ? 'zh-CN' : 'en'))
}

/** Takes another country from now on, and puts its numbers into the notices of an answer, in the server's own words. */
export async function changeCountry(library: Library, thread: Thread, message: Message, code: string): Promise<void> {
  settings.country = code
  const asked = wireMessages(pathTo(thread.messages, message.parent), null)
  const told = await postNotices({ messages: asked, country: code })
  for (const segment of message.segments) {
    for (const notice of segment.notices) {
      const other = told.find((one) => one.kind === notice.kind && one.rule === notice.rule)
      if (other === undefined) continue
      segment.text = segment.text.replaceAll(notice.text, other.text)
      notice.text = other.text
    }
  }
  message.country = code
  await library.save([message])
}
