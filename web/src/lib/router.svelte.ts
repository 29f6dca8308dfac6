// Each conversation has a URL, /c/<id>; / is a new one. Back, forward and reload are the browser's own.
import { isId } from './ids'

/** The conversation of a path; null: none. */
export function routeOf(path: string): string | null {
  const id = /^\/c\/([^/]+)\/?$/.exec(path)?.[1] ?? ''
  return isId(id) ? id : null
}

export const route = $state<{ conversation: string | null }>({ conversation: routeOf(location.pathname) })

/** Shows a conversation, or a new one (null). `replace`: the page that is left is no step of the back button. */
export function show(conversation: string | null, replace = false): void {
  const path = conversation === null ? '/' : `/c/${conversation}`
  if (path !== location.pathname) history[replace ? 'replaceState' : 'pushState'](null, '', path)
  route.conversation = conversation
}

/** Follows back and forward; returns what ends it. */
export function listen(): () => void {
  const onPop = (): void => {
    route.conversation = routeOf(location.pathname)
  }
  addEventListener('popstate', onPop)
  return () => removeEventListener('popstate', onPop)
}
