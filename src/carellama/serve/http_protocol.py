"""uvicorn's HTTP/1.1 with limits on what a client may hold before its request is complete.

    config = uvicorn.Config(app, http=guarded(ConnectionLimits()), ...)

uvicorn reads headers of any length and waits for the rest of a request without end. Here a client gets 431 for long
headers and 408 for headers that do not arrive; connections that send nothing, or do not read their answer, are closed.
The application itself answers 408 for a body that does not arrive (`serve.api.middleware`); this module closes
the connection if no application waits for the rest. When there are too many connections, the one that has waited
longest without a complete request makes room.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

log = logging.getLogger(__name__)

PART = 16384  # bytes given to the parser at once: how far over the limit a header without end can go
PIPELINED = 32  # requests that a client may send before the first one is answered
GRACE = 5.0  # seconds over the time for a body, so that the application answers 408; also for one that nobody reads
LINGER = 2.0  # seconds in which the client can read an error before the connection is closed
STUCK = 10.0  # seconds without a byte read by the client, after which a connection that is to close is cut
OnReject = Callable[[int], None]  # called with the status of a request that never reached the application


@dataclass(frozen=True)
class ConnectionLimits:
    """What a client may send, and how slowly."""

    header_bytes: int = 65536  # request line and headers; also chunk extensions and trailers
    receive_seconds: float = 30.0  # for the headers, and again for the body
    body_rate: float = 1000.0  # bytes a second: a body has this much more time for each byte that arrived
    connections: int = 10_000  # open at once


def guarded(limits: ConnectionLimits, on_reject: OnReject = lambda status: None) -> type[asyncio.Protocol]:
    """Return what `uvicorn.Config` takes as `http`."""
    return cast("type[asyncio.Protocol]", partial(GuardedProtocol, limits=limits, on_reject=on_reject))


def error_body(status: int, code: str, message: str) -> bytes:
    """Return an error in the form of OpenAI's API."""
    kind = "service_unavailable" if status == 503 else "invalid_request_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, limits: ConnectionLimits, on_reject: OnReject, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.limits, self._on_reject = limits, on_reject
        self.since = 0.0  # when the wait for a complete request began, by the loop's clock
        self.complete = False  # a whole request has arrived, and its answer is not complete
        self._started = False  # the first byte of a request has arrived
        self._in_headers = True
        self._header_bytes = self._body_bytes = 0
        self._unparsed = 0  # bytes since the parser last found a header's end, a part of a body, or a chunk
        self._rejected = self._lost = False
        self._answered_at: float | None = None  # when the answer was complete, if before the request was
        self._wish: list[tuple[bytes, bytes]] = []  # headers of a request that asks for another protocol
        self._cycles: list[RequestResponseCycle] = []  # that are not answered, in their order
        self._timer: asyncio.TimerHandle | None = None

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers; make room if there are too many connections."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self.limits.connections:
            waiting = [one for one in self.connections if isinstance(one, GuardedProtocol) and not one.complete]
            min(waiting, key=lambda one: one.since, default=self).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell each request of the connection that its client is gone, not only the last one."""
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def cut(self) -> None:
        """Close the connection at once, whatever it has not sent."""
        self.transport.abort()

    def close(self) -> None:
        """Close the connection when what was written is sent, or when the client stops reading it."""
        self.transport.close()
        self._cut_if_stuck(None)

    def _cut_if_stuck(self, unsent: int | None) -> None:
        if self._lost:
            return
        left = self.transport.get_write_buffer_size()
        if unsent is not None and left >= unsent:
            self.cut()
        else:
            self.loop.call_later(STUCK, self._cut_if_stuck, left)

    # What arrives

    def data_received(self, data: bytes) -> None:
        """Give the parser parts of it, and stop at the first limit that is passed."""
        self._unset_keepalive_if_required()
        for begin in range(0, len(data), PART):
            if self._rejected or self.transport.is_closing():
                return  # dropped: the client may still be writing when it gets the error
            self._parse(data[begin : begin + PART])

    def _parse(self, part: bytes) -> None:
        if not self._started:
            self._started = True
            self._wait()
        self._unparsed += len(part)
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade as upgrade:
            self._without_upgrade(part[upgrade.args[0] :])
        except httptools.HttpParserError:
            if not self._rejected:
                self.reject(400, "invalid_http", "this is not an HTTP/1.1 request")
        else:
            if self._unparsed > self.limits.header_bytes:
                self._reject_headers()

    def _without_upgrade(self, rest: bytes) -> None:
        """Read a request again that asks for another protocol, as one that does not (RFC 9110, section 7.8).

        Java's client asks for HTTP/2 so in each request. The parser takes the body of such a request for the other
        protocol: it is read by a new one, behind the same headers without the wish.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":  # which asks for a tunnel
            self.send_400_response("")
            return
        lines = [b"%b %b HTTP/%b" % (method, self.url, version.encode())]
        for name, value in self._wish:
            if name == b"connection":
                kept = next((one for one in (b"close", b"keep-alive") if one in value.lower()), b"")
                lines += [b"connection: " + kept] if kept else []
            elif name not in (b"upgrade", b"http2-settings"):
                lines.append(name + b": " + value)
        self._wish, self._unparsed = [], 0
        self.parser = httptools.HttpRequestParser(self)
        self._parse(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["state"]["cut_connection"] = self.cut
        self._in_headers, self._header_bytes, self._body_bytes, self._answered_at = True, 0, 0, None

    def on_url(self, url: bytes) -> None:
        """Count a part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, or a trailer, which is dropped: it must not pass for a header."""
        self._count(len(name) + len(value) + 4)
        if self._in_headers:
            super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self.limits.header_bytes:
            self._reject_headers()
            raise ValueError("the headers are too long")  # ends the parser's work on this part

    def on_headers_complete(self) -> None:
        """Hand the request to the application, unless too many wait behind each other."""
        self._in_headers, self._unparsed = False, 0
        if self.parser.should_upgrade():
            self._wish = list(self.headers)
            return
        if len(self.pipeline) >= PIPELINED:
            self.reject(400, "too_many_requests", f"at most {PIPELINED} requests may wait on one connection")
            raise ValueError("too many pipelined requests")
        super().on_headers_complete()
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete] + [self.cycle]
        self._wait()

    def on_chunk_header(self) -> None:
        """A chunk of a body begins."""
        self._unparsed = 0

    def on_body(self, body: bytes) -> None:
        """Count a part of the body."""
        self._unparsed = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete: from now on it is the application's time."""
        if self._wish:
            return
        self._unparsed, self._started = 0, False
        self.complete = not self.cycle.response_complete
        if self._timer is not None:
            self._timer.cancel()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, for the rest of this one, or for the client to read its answer."""
        super().on_response_complete()
        self.complete = any(not cycle.response_complete for cycle in self._cycles)
        self.since = self.loop.time()
        if self.transport.is_closing():
            self._cut_if_stuck(None)
        elif self._rejected:
            self.close()
        elif self._started and not self._in_headers:
            self._answered_at = self.since
            self._wait()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which no further request came."""
        if not self.transport.is_closing():
            self.close()

    # Time

    def _wait(self) -> None:
        """Start the time in which the headers, or the rest of the body, must arrive."""
        self.since = self.loop.time()
        if self._timer is not None:
            self._timer.cancel()
        seconds = GRACE if self._answered_at is not None else self.limits.receive_seconds
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        if self._lost or self._rejected or self.transport.is_closing():
            return
        if not self._in_headers:
            allowed = self.limits.receive_seconds + GRACE + self._body_bytes / self.limits.body_rate
            left = self.since + allowed - self.loop.time()
            if self._answered_at is None and left > 0:
                self._timer = self.loop.call_later(left, self._too_slow)
            else:
                self.close()
        elif self._started:
            self.reject(408, "request_timeout", f"no headers within {self.limits.receive_seconds:g} s")
        else:
            self.close()

    # Errors

    def _reject_headers(self) -> None:
        most = self.limits.header_bytes
        self.reject(431, "headers_too_large", f"the headers of the request have more than {most:,} bytes")

    def reject(self, status: int, code: str, message: str) -> None:
        """Answer a request that does not reach the application, and read no more."""
        if self._rejected:
            return
        self._rejected = True
        self.pipeline.clear()
        request = f"req-{secrets.token_hex(12)}"
        log.info("%s %d %s, before the request was complete", request, status, code)
        self._on_reject(status)
        if self.complete:  # an answer is being computed or written: the connection closes after it
            return
        for cycle in self._cycles:  # the application waits for the rest of a body
            if cycle.response_started and not cycle.response_complete:
                self.close()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        body = error_body(status, code, message)
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"x-request-id: {request}",
            "connection: close",
        ]
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER, self.close)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self.reject(400, "invalid_http", "this is not an HTTP/1.1 request")
