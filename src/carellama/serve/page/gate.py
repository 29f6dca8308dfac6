"""What stands between network and web page: the password, the routes that a chat needs, what a browser may load.

    app.add_middleware(Gate, password="user:secret")

Gradio has routes for files, uploads, proxies and histories, which a chat without files has no use for: only those of
`ROUTES` are let through. The browser is told to load nothing from elsewhere, whatever an answer says (Content
Security Policy, https://www.w3.org/TR/CSP3/), and to keep nothing of a conversation.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import re
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse

from carellama.serve.hosts import names_this_machine

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ROUTES = re.compile(
    r"/(|(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json)/?|(static|assets|svelte)/.+"
    r"|gradio_api/((info|app_id|startup-events|theme\.css|cancel|reset|queue/join|queue/data)/?"
    r"|(heartbeat|run|api|call)/.+))"
)
MOST_BYTES = 1_000_000  # of a request: a question and the settings
WRONG_SECONDS = 1.0  # that a wrong password takes
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'unsafe-inline'",  # the page's own settings are written into it as a script
        "style-src 'self' 'unsafe-inline'",
        "font-src 'self' data:",
        "img-src 'self' data: blob:",  # none from elsewhere: to load one would tell others what was answered
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
REFUSALS = {
    401: "a user and a password are needed",
    403: "from another site, or not by the name localhost, which a page without a password needs",
    404: "not here",
    411: "no content-length",
    413: "too long",
}
CHALLENGE = {"www-authenticate": 'Basic realm="CareLlama", charset="UTF-8"'}


class Gate:
    """ASGI middleware; `password` is `user:password`, None: nobody is asked (HTTP Basic, RFC 7617)."""

    def __init__(self, app: ASGIApp, password: str | None) -> None:
        self.app = app
        self.password = None if password is None else password.encode()
        self._wrong = asyncio.Semaphore(4)  # wrong passwords answered at once, so that nobody tries many

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or hand it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        path = scope["path"]
        status = await self._status(scope["method"], path, headers)
        if status:
            more = CHALLENGE if status == 401 else {}
            await PlainTextResponse(REFUSALS[status], status, HEADERS | more)(scope, receive, send)
            return
        keeps = path.startswith(("/static/", "/assets/", "/svelte/"))

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {} if keeps else {"cache-control": "no-store"}
                MutableHeaders(scope=message).update(HEADERS | own)
            await send(message)

        await self.app(scope, receive, guarded)

    async def _status(self, method: str, path: str, headers: dict[bytes, bytes]) -> int:
        """The status that a request is refused with; 0: it may pass."""
        if self.password is None and not names_this_machine(headers.get(b"host", b"").decode("latin-1")):
            return 403
        origin = headers.get(b"origin")  # of a page: another site's must not use the password that the browser knows
        hosts = (headers.get(b"host"), headers.get(b"x-forwarded-host"))
        if origin is not None and origin.partition(b"://")[2] not in hosts:
            return 403
        if self.password is not None:
            given = _basic(headers.get(b"authorization", b""))
            if given is None:
                return 401
            if not hmac.compare_digest(given, self.password):
                async with self._wrong:
                    await asyncio.sleep(WRONG_SECONDS)
                return 401
        if not ROUTES.fullmatch(path):
            return 404
        if method == "POST":
            length = headers.get(b"content-length", b"")
            if not length.isdigit():
                return 411
            if int(length) > MOST_BYTES:
                return 413
        return 0


def _basic(header: bytes) -> bytes | None:
    """The `user:password` of an Authorization header."""
    scheme, _, encoded = header.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except binascii.Error:
        return None
