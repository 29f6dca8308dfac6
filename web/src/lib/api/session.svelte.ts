// Whose page this is, where accounts are used, and what waits while nobody is logged in.
import type { Account } from '../types'

const CHANNEL = 'carellama.account'

/** `account` is null where no accounts are used, and before login. `ended`: a login is asked for over the page. */
export const session = $state<{ account: Account | null; csrf: string; ended: boolean }>({
  account: null,
  csrf: '',
  ended: false,
})

/** Counts logins: a refusal of a request that was sent before the last login says nothing. */
export let epoch = 0
const waiting = new Set<() => void>()
const channel = typeof BroadcastChannel === 'undefined' ? null : new BroadcastChannel(CHANNEL)

/** Reloads the page for another account. Nothing of the earlier one is shown, and back does not bring it back. */
export const leave = {
  wanted: false, // then nothing is asked about what is unsaved
  now(): void {
    leave.wanted = true
    document.body.replaceChildren()
    location.replace('/')
  },
}

/** Takes what the server says of the session. False: it is another account's; the page is left. */
export function takeSession(account: Account | null, csrf: string): boolean {
  if (session.account !== null && account?.id !== session.account.id) {
    leave.now()
    return false
  }
  Object.assign(session, { account, csrf })
  return true
}

export function sessionEnded(): void {
  session.ended = true
}

/** After a login over the page: what waits goes on. */
export function resume(account: Account, csrf: string, tell = true): void {
  const own = session.account === null || account.id === session.account.id
  if (tell) channel?.postMessage({ account: account.id })
  if (!own || !takeSession(account, csrf)) {
    leave.now()
    return
  }
  epoch += 1
  session.ended = false
  for (const go of [...waiting]) go()
  waiting.clear()
}

/** Resolves after the next login. Rejects where `signal` is aborted before. */
export function untilLogin(signal?: AbortSignal | null): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      waiting.delete(go)
      reject(signal?.reason instanceof Error ? signal.reason : new DOMException('aborted', 'AbortError'))
    }
    const go = (): void => {
      signal?.removeEventListener('abort', abort)
      resolve()
    }
    if (signal?.aborted) return abort()
    waiting.add(go)
    signal?.addEventListener('abort', abort)
  })
}

/** Tells the other tabs who has logged in, as from the login page. */
export function tellLogin(account: string): void {
  channel?.postMessage({ account })
}

/** Tells the other tabs that nobody is logged in any more. */
export function tellLogout(): void {
  channel?.postMessage({ account: null })
}

/** Follows logins and logouts of other tabs; returns what ends it. `check` reads the session again. */
export function listenForAccounts(check: () => Promise<unknown>): () => void {
  const hear = (event: MessageEvent<{ account: string | null }>): void => {
    if (session.account === null) return
    if (event.data.account === null) session.ended = true
    else if (event.data.account !== session.account.id) leave.now()
    else void check().catch(() => {})
  }
  channel?.addEventListener('message', hear)
  return () => channel?.removeEventListener('message', hear)
}
