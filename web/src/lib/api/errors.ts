// What went wrong between page and server, as a code that the page has words for.
import type { Failure, Notice } from '../types'

interface ErrorBody {
  error?: { message?: unknown; type?: unknown; code?: unknown }
}

/** An answer of the server that is not a success, or none at all (status 0). */
export class RequestError extends Error {
  constructor(
    readonly status: number,
    readonly failure: Failure,
    readonly retryAfterSeconds: number | null = null,
    /** An emergency is told whatever becomes of the answer. */
    readonly notices: Notice[] = [],
    /** The server's own code, as `login_failed`; "" where it gave none. */
    readonly serverCode = '',
  ) {
    super(failure.detail || failure.code)
  }
}

/** The code that words are chosen by. The server's own sentence is kept as a detail. */
export function failureOf(status: number, body: unknown): Failure {
  const error = (body as ErrorBody | null)?.error
  const detail = typeof error?.message === 'string' ? error.message : ''
  const given = typeof error?.code === 'string' ? error.code : ''
  if (given === 'context_length_exceeded') return { code: 'tooLong', detail }
  if (given === 'shutting_down') return { code: 'ended', detail }
  const codes: Record<number, string> = {
    0: 'network',
    400: 'refused',
    401: 'login',
    403: 'login',
    404: 'gone',
    413: 'tooLong',
    422: 'refused',
    429: 'full',
    502: 'unavailable',
    503: 'unavailable',
    504: 'unavailable',
  }
  return { code: codes[status] ?? 'broken', detail }
}

export async function errorOf(response: Response): Promise<RequestError> {
  const body: unknown = await response.json().catch(() => null)
  const seconds = Number(response.headers.get('retry-after') ?? NaN)
  const retryAfter = response.headers.has('retry-after') && Number.isFinite(seconds) ? seconds : null
  const notices = (body as { notices?: Notice[] | null } | null)?.notices ?? []
  const code = (body as ErrorBody | null)?.error?.code
  const serverCode = typeof code === 'string' ? code : ''
  return new RequestError(response.status, failureOf(response.status, body), retryAfter, notices, serverCode)
}

export function networkError(cause: unknown): RequestError {
  return new RequestError(0, { code: 'network', detail: cause instanceof Error ? cause.message : '' })
}
