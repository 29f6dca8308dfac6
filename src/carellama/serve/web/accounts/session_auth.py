"""Who asks, where people have accounts: by the session in a cookie, or by an API key.

    auth = SessionAuth(database, page_paths(STATIC))
    caller = auth.identify(request)              # an AccountCaller, VISITOR for the page's files and the login

The cookie is sent with every request to this server, also with one that a page of another site makes: what changes
something has to come from a page of this one (`Origin`, `Sec-Fetch-Site`) and to bring a token that only it can read
(`x-csrf-token`; OWASP, Cross-Site Request Forgery Prevention: HMAC of the session). API keys are never sent by a
browser on its own and need neither; they are for the API, not for the routes of the page.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection
from starlette.responses import Response

from carellama.config.commands import SCOPES
from carellama.errors import UserError
from carellama.serve.api.auth import ApiKeyAuth, Auth, Caller, Reservation, database_unavailable
from carellama.serve.api.errors import InvalidRequest, Rejected
from carellama.serve.web.gate import comes_from_elsewhere
from carellama.serve.web.page_files import PagePaths

if TYPE_CHECKING:
    from carellama.store.accounts import Account
    from carellama.store.database import Database

COOKIE = "carellama_session"
CSRF_HEADER = "x-csrf-token"
READING = ("GET", "HEAD", "OPTIONS")
VISITOR_BYTES = 65536  # of a body
VISITOR = Caller("visitor", "visitor", frozenset())
# what one may ask for without a session, besides the files of the page
FOR_VISITORS = {
    ("GET", "/web/session"),
    ("POST", "/web/session"),
    ("POST", "/web/accounts"),
    ("POST", "/web/invitations/read"),
    ("GET", "/web/oidc/login"),
    ("GET", "/web/oidc/callback"),
}


@dataclass(frozen=True, slots=True)
class AccountCaller(Caller):
    """A person with an account."""

    account: Account
    token: str = field(repr=False)  # of the session


class SessionAuth(Auth):
    """Sessions of accounts and API keys of one database."""

    def __init__(self, database: Database, page: PagePaths) -> None:
        self._database, self._page = database, page
        self._keys = ApiKeyAuth(database)

    def identify(self, request: HTTPConnection) -> Caller:
        """Who sent this request. Raises `Rejected` (401, 503), and `InvalidRequest` (403) for one of another site."""
        from carellama.store.sessions import read_session

        method, path = request.scope["method"], request.scope["path"]
        asked = "GET" if method == "HEAD" else method
        if (asked, path) in FOR_VISITORS:
            _check_length(request)
            return VISITOR
        if asked == "GET" and self._page.has(path):
            return VISITOR
        authorization = request.headers.get("authorization", "")
        if authorization.lower().startswith("bearer ") and not path.startswith("/web/"):
            return self._keys.authenticate(authorization)  # a proxy may ask for another kind, which is none of ours
        token = session_token(request)
        try:
            account = read_session(self._database, token) if token else None
        except UserError as error:
            raise database_unavailable(error, "sessions") from error
        if account is None:
            raise Rejected(401, "login_required", "log in first: there is no session, or it is over")
        if method not in READING:
            _check_own_page(request, token)
        scopes = SCOPES if account.role == "admin" else SCOPES.keys() - {"admin"}
        return AccountCaller(account.id, account.name, frozenset(scopes), account, token)

    def authenticate(self, authorization: str | None) -> Caller:
        """Who has this API key."""
        return self._keys.authenticate(authorization)

    def reserve(self, caller: Caller, scope: str, tokens: int) -> Reservation:
        """Let a request in; only API keys have limits."""
        if not isinstance(caller, AccountCaller):
            return self._keys.reserve(caller, scope, tokens)
        if scope not in caller.scopes:
            raise Rejected(403, "missing_scope", f"this needs the role admin; the account has {caller.account.role}")
        return Reservation()

    def close(self) -> None:
        """Close the database."""
        self._keys.close()


def csrf_token(session: str) -> str:
    """Return the token that a page of this server sends back with what changes something."""
    return hmac.new(session.encode(), b"carellama csrf", hashlib.sha256).hexdigest()


def session_token(request: HTTPConnection) -> str:
    """Return what the cookie of the session has, or an empty text."""
    return request.cookies.get(cookie_name(request), "")[:128]


def set_session(request: HTTPConnection, response: Response, token: str) -> None:
    """Give the browser a session, until it is closed; scripts cannot read it."""
    set_cookie(request, response, cookie_name(request), token)


def drop_session(request: HTTPConnection, response: Response) -> None:
    """Take the session from the browser."""
    drop_cookie(request, response, cookie_name(request))


def cookie_name(request: HTTPConnection, name: str = COOKIE) -> str:
    """The name of a cookie: over TLS one that no other host of the domain can set (RFC 6265bis, section 4.1.3.2)."""
    return f"__Host-{name}" if request.scope["scheme"] == "https" else name


def set_cookie(request: HTTPConnection, response: Response, name: str, value: str, max_age: int | None = None) -> None:
    """Set a cookie that no script can read and that other sites' requests do not bring."""
    secure = request.scope["scheme"] == "https"
    response.set_cookie(name, value, max_age, path="/", secure=secure, httponly=True, samesite="lax")


def drop_cookie(request: HTTPConnection, response: Response, name: str) -> None:
    """Take a cookie from the browser."""
    secure = request.scope["scheme"] == "https"
    response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="lax")


def _check_length(request: HTTPConnection) -> None:
    """Raise `InvalidRequest` (413) for a body that nobody sends to log in: it would be read before anybody is known."""
    length = request.headers.get("content-length", "")
    chunked = "transfer-encoding" in request.headers
    if chunked or (length.isdecimal() and int(length[:20]) > VISITOR_BYTES):
        text = f"a body of at most {VISITOR_BYTES:,} bytes, with its Content-Length, is taken here"
        raise InvalidRequest(text, "content-length", "body_too_large", 413)


def _check_own_page(request: HTTPConnection, token: str) -> None:
    """Raise `InvalidRequest` (403) for a request that no page of this server has made."""
    headers = request.headers
    told = headers.get("origin") is not None or headers.get("sec-fetch-site") == "same-origin"
    if not told or comes_from_elsewhere(headers) or headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise InvalidRequest("this request comes from no page of this server", "origin", "other_site", 403)
    given = headers.get(CSRF_HEADER, "").encode("latin-1")
    if not hmac.compare_digest(given, csrf_token(token).encode()):
        text = f"the header {CSRF_HEADER} is not that of the session; /web/config has it"
        raise InvalidRequest(text, CSRF_HEADER, "csrf", 403)
