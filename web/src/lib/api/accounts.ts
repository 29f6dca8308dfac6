// The requests of accounts: login, invitations, one's own account, and those of administrators.
import type { Account, Language, Role } from '../types'
import { request, requestJson } from './server'

/** What everybody may know: how one comes in. */
export interface Entrance {
  access: string
  oidc: { name: string } | null
  disclaimer: Record<Language, string>
}

export interface LoggedIn {
  account: Account
  csrf: string
}

export interface Invited {
  role: Role
  expires: number // seconds since 1970, as all times of the server
  name: string | null // of the account that gets a new password
}

export interface ListedAccount extends Account {
  created: number
  last_login: number | null
  disabled: number | null
}

export interface ListedInvitation {
  id: string
  role: Role
  created: number
  expires: number
  account_id: string | null
}

export interface NewInvitation {
  id: string
  path: string
  expires: number
}

const read = async <T>(response: Promise<Response>): Promise<T> => (await (await response).json()) as T
const none = async (response: Promise<Response>): Promise<void> => void (await response)

export const readEntrance = (): Promise<Entrance> => read(request('/web/session', { method: 'GET' }, false))

export const logIn = (name: string, password: string): Promise<LoggedIn> =>
  read(requestJson('POST', '/web/session', { name, password }, {}, false))

export const logOut = (): Promise<void> => none(request('/web/session', { method: 'DELETE' }, false))

export const readInvitation = (token: string): Promise<Invited> =>
  read(requestJson('POST', '/web/invitations/read', { token }, {}, false))

export const acceptInvitation = (token: string, name: string, password: string): Promise<LoggedIn> =>
  read(requestJson('POST', '/web/accounts', { token, name, password }, {}, false))

export const changePassword = (old: string, password: string): Promise<void> =>
  none(requestJson('POST', '/web/account/password', { old, new: password }))

/** `proof` is the password, or the account's name where it has none here. */
export const deleteAccount = (proof: { password: string } | { name: string }): Promise<{ deleted: Record<string, number> }> =>
  read(requestJson('DELETE', '/web/account', proof))

export const listAccounts = (): Promise<{ accounts: ListedAccount[]; invitations: ListedInvitation[] }> =>
  read(request('/web/accounts', { method: 'GET' }))

export const changeAccount = (id: string, changes: { role?: Role; disabled?: boolean }): Promise<void> =>
  none(requestJson('PATCH', `/web/accounts/${encodeURIComponent(id)}`, changes))

export const createInvitation = (wish: { role: Role; days: number } | { account_id: string }): Promise<NewInvitation> =>
  read(requestJson('POST', '/web/invitations', wish))

export const deleteInvitation = (id: string): Promise<void> =>
  none(request(`/web/invitations/${encodeURIComponent(id)}`, { method: 'DELETE' }))
