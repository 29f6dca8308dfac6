"""The password of the page, and no requests of other sites.

    app.add_middleware(Gate, password="user:secret")

The browser sends the password with every request, whoever asks for it (HTTP Basic, RFC 7617): hence a request that
another site makes is refused by its Origin.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from carellama.serve.api.errors import error_body

WRONG_SECONDS = 1.0  # that a wrong password takes
REFUSALS = {401: "a user and a password are needed", 403: "this request comes from another site"}
CODES = {401: "password_required", 403: "other_site"}
CHALLENGE = {"www-authenticate": 'Basic realm="CareLlama", charset="UTF-8"', "cache-control": "no-store"}
FOR_PROGRAMS = ("/web/", "/v1/")  # paths whose errors are JSON


class Gate:
    """ASGI middleware; `password` is `user:password`, None: nobody is asked."""

    def __init__(self, app: ASGIApp, password: str | None) -> None:
        self.app = app
        self.password = None if password is None else password.encode()
        self._wrong = asyncio.Semaphore(4)  # wrong passwords answered at once, so that nobody tries many

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or hand it on."""
        status = await self._status(Headers(scope=scope)) if scope["type"] == "http" else 0
        if status:
            await _refusal(scope["path"], status)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _status(self, headers: Headers) -> int:
        """The status that a request is refused with; 0: it may pass."""
        if comes_from_elsewhere(headers):
            return 403
        if self.password is None:
            return 0
        given = _basic(headers.get("authorization", ""))
        if given is None:
            return 401
        if not hmac.compare_digest(given, self.password):
            async with self._wrong:
                await asyncio.sleep(WRONG_SECONDS)
            return 401
        return 0


def comes_from_elsewhere(headers: Headers) -> bool:
    """Whether a page of another site makes the request: its Origin is not the host that the request was sent to.

    The scheme is not compared: a proxy that ends TLS may not tell it.
    """
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def _refusal(path: str, status: int) -> Response:
    headers = CHALLENGE if status == 401 else None
    if path.startswith(FOR_PROGRAMS):
        return JSONResponse(error_body(status, REFUSALS[status], code=CODES[status]), status, headers)
    return PlainTextResponse(REFUSALS[status], status, headers)


def _basic(header: str) -> bytes | None:
    """The `user:password` of an Authorization header."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
