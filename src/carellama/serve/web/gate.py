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
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

WRONG_SECONDS = 1.0  # that a wrong password takes
REFUSALS = {401: "a user and a password are needed", 403: "this request comes from another site"}
CHALLENGE = {"www-authenticate": 'Basic realm="CareLlama", charset="UTF-8"', "cache-control": "no-store"}


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
            await PlainTextResponse(REFUSALS[status], status, CHALLENGE if status == 401 else None)(
                scope, receive, send
            )
        else:
            await self.app(scope, receive, send)

    async def _status(self, headers: Headers) -> int:
        """The status that a request is refused with; 0: it may pass."""
        origin = headers.get("origin")
        hosts = (headers.get("host"), headers.get("x-forwarded-host"))
        if origin is not None and origin.partition("://")[2] not in hosts:
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


def _basic(header: str) -> bytes | None:
    """The `user:password` of an Authorization header."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
