// Where the page goes after a login: to its own conversations and nowhere else.
import { describe, expect, it } from 'vitest'
import { routeOf } from '../src/lib/router.svelte'

describe('the address after a login', () => {
  it('is a conversation of this page, or its beginning', () => {
    expect(routeOf('/c/abcdefghijklmnop')).toBe('abcdefghijklmnop')
    const others = ['//example.org/c/abcdefghijklmnop', 'https://example.org', '/c/../login', '/c/abc', '/invite', '/web/oidc/login', 'javascript:alert(1)']
    expect(others.map(routeOf)).toEqual(others.map(() => null))
  })
})
