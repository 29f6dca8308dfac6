"""What surrounds every request: its id, who asks, its limits, its errors, its line in the log, and what it gives back.

    app.add_middleware(Frame, service=service)

The log has ids, sizes and times, never a text. When a client hangs up, the work for it is cancelled at once, whether
it was to be streamed or not. All errors are turned into OpenAI's here, in one place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from carellama.config.serve import ApiArguments
from carellama.engine.base import Engine, Piece, Reply, Sampling
from carellama.records import Message
from carellama.serve.api.access import Access, Caller, Open, Refused, Ticket
from carellama.serve.api.bridge import Answers, Item, threaded
from carellama.serve.api.line import Line
from carellama.serve.api.metrics import Metrics
from carellama.serve.api.refusals import CLOSED, Wrong, log_failure, refusal

log = logging.getLogger(__name__)

OPEN_ROUTES = {"/health", "/ready", "/docs", "/openapi.json"}  # they say nothing of anybody
QUIET_ROUTES = {"/health", "/ready", "/metrics"}  # asked every few seconds: logged only where they fail
BODY_SECONDS = 30.0  # for each part of a body
GRACE = 10.0  # seconds over --request_timeout, after which a client that does not read its answer is left
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
LOOPBACK = {"localhost", "127.0.0.1", "::1", "[::1]"}
BYTES_A_TOKEN = 3  # a guess of how long a text is before it is counted: English has more, Chinese about as many
Result = TypeVar("Result")
Scorer = Callable[[Sequence[tuple[Message, ...]], Sequence[str]], list[float]]  # prompts and answers


@dataclass
class Service:
    """What the routes share."""

    engine: Engine
    settings: ApiArguments
    access: Access
    defaults: Sampling
    line: Line
    metrics: Metrics
    score: Scorer | None = None  # of a reward model
    draining: bool = False  # the server is about to end: no new requests
    created: int = field(default_factory=lambda: int(time.time()))
    ending: set[asyncio.Future[None]] = field(default_factory=set)  # tickets that are being given back

    async def asked(self, function: Callable[[], Result]) -> Result:
        """Ask `access`, in a thread where it has a database to look into."""
        if isinstance(self.access, Open):
            return function()
        return await asyncio.shield(threaded(function))

    async def facts(self) -> tuple[Sequence[str], int | None]:
        """Adapters and context of the engine, asked in a thread: it may have to ask another server."""
        return await threaded(lambda: (self.engine.adapters, self.engine.context_tokens))


class Call:
    """One request: who asks, what it used, and what is to be given back at its end."""

    def __init__(self, service: Service, request_id: str) -> None:
        self.service, self.id = service, request_id
        self.began = time.monotonic()
        self.caller: Caller | None = None
        self.model = ""
        self.context_tokens: int | None = None
        self.status = 0
        self.estimate = 0  # tokens of the prompt, guessed
        self.prompt_tokens = 0
        self.first: float | None = None  # seconds to the first token
        self.answers: Answers | None = None
        self.headers: dict[str, str] = {}  # of the response, besides x-request-id
        self.params: dict[str, str] = {}  # field of `Sampling` -> field of the request, where they differ
        self._answer_tokens: dict[int, int] = {}  # of each answer; of one that did not end, its pieces
        self._ticket: asyncio.Future[Ticket] | None = None

    @property
    def until(self) -> float:
        """When the request has to be over, by the monotonic clock."""
        return self.began + self.service.settings.request_timeout

    @property
    def answer_tokens(self) -> int:
        """Tokens of the answers so far."""
        return sum(self._answer_tokens.values())

    async def begin(self, scope: str, text_bytes: int, answer_tokens: int = 0) -> None:
        """Ask whether the caller may have so much. Raises `Refused` (403, 429)."""
        caller, access = self.caller, self.service.access
        assert caller is not None, "a route that needs a caller is not among OPEN_ROUTES"
        self.estimate = text_bytes // BYTES_A_TOKEN + 1
        tokens = self.estimate + answer_tokens
        if isinstance(access, Open):
            access.begin(caller, scope, tokens)
            return
        self._ticket = threaded(lambda: access.begin(caller, scope, tokens))
        await asyncio.shield(self._ticket)  # who leaves now has begun all the same, and `close` ends it

    def note(self, index: int, item: Item) -> None:
        """Count what came of an answer."""
        if self.first is None:
            self.first = time.monotonic() - self.began
        if isinstance(item, Piece):
            self._answer_tokens[index] = self._answer_tokens.get(index, 0) + 1
        elif isinstance(item, Reply):
            self._answer_tokens[index] = item.completion_tokens
            self.prompt_tokens += item.prompt_tokens

    def close(self, method: str, route: str) -> None:
        """Leave the engine, give the ticket back, count and log. Does not wait."""
        if self.answers is not None:
            self.answers.close()
        if self._ticket is not None:
            used = (self.prompt_tokens or self.estimate) + self.answer_tokens
            self._ticket.add_done_callback(lambda begun: self._end(begun, used))
        seconds, metrics = time.monotonic() - self.began, self.service.metrics
        key = self.caller.id if self.caller else ""
        metrics.requests.labels(route, str(self.status), self.model, key).inc()
        metrics.seconds.labels(route).observe(seconds)
        if self.model:
            metrics.prompt_tokens.labels(self.model, key).inc(self.prompt_tokens)
            metrics.answer_tokens.labels(self.model, key).inc(self.answer_tokens)
        if self.first is not None:
            metrics.first.labels(self.model).observe(self.first)
            if self.answer_tokens > 1:
                metrics.each.labels(self.model).observe((seconds - self.first) / (self.answer_tokens - 1))
        if route not in QUIET_ROUTES or self.status >= 400:
            log.info(
                "%s %s %s %d %.3f s, key %s, model %s, tokens %d + %d, first after %s",
                *(self.id, method, route, self.status, seconds, key or "-", self.model or "-"),
                *(self.prompt_tokens, self.answer_tokens, "-" if self.first is None else f"{self.first:.3f} s"),
            )

    def _end(self, begun: asyncio.Future[Ticket], used: int) -> None:
        if begun.cancelled() or begun.exception() is not None:
            return
        ticket, ending = begun.result(), self.service.ending
        ended = threaded(lambda: ticket.end(used))
        ending.add(ended)
        ended.add_done_callback(ending.discard)


class Frame:
    """ASGI middleware around the routes."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        call = Call(self.service, given if REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}")
        scope.setdefault("state", {})["call"] = call
        exchange = Exchange(call, receive, send)
        try:
            self._admit(scope, headers)
            async with asyncio.timeout(self.service.settings.request_timeout + GRACE):
                if scope["path"] not in OPEN_ROUTES:
                    given_key = headers.get("authorization")
                    call.caller = await self.service.asked(lambda: self.service.access.caller(given_key))
                await self.app(scope, exchange.receive, exchange.send)
        except (asyncio.CancelledError, ClientDisconnect) as left:
            if not exchange.gone:
                raise
            if isinstance(left, asyncio.CancelledError) and (task := asyncio.current_task()):
                task.uncancel()
            call.status = CLOSED
        except Exception as error:
            await exchange.refuse(error, scope)
        finally:
            exchange.end()
            method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
            call.close(method, getattr(scope.get("route"), "path", "other"))

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Refuse what no route would take."""
        if self.service.draining and scope["path"] not in OPEN_ROUTES:
            raise Refused(503, "shutting_down", "the server is shutting down; ask another one, or later", 5)
        host = headers.get("host", "").lower()
        if isinstance(self.service.access, Open) and re.sub(r":\d*$", "", host) not in LOOPBACK:
            # a web page could have its own name point to this machine (DNS rebinding)
            raise Wrong("without keys this server answers to localhost only; make a key", status=403, code="wrong_host")
        length, limit = headers.get("content-length", ""), self.service.settings.max_body_bytes
        if length.isdecimal() and int(length[:20]) > limit:
            raise Wrong(f"the body has {int(length[:20]):,} bytes; at most {limit:,} are taken", status=413)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            # a web page may send other kinds to any server without being asked whether it may
            raise Wrong("send the body as JSON, with the header Content-Type: application/json", status=415)


class Exchange:
    """The two ways of one request: the body comes in within its limits, the answer goes out, a hang-up is noticed."""

    def __init__(self, call: Call, receive: Receive, send: Send) -> None:
        self.call, self._receive, self._send = call, receive, send
        self.gone = False  # the client has hung up
        self._task = asyncio.current_task()
        self._size, self._complete, self._started, self._finished = 0, False, False, False
        self._left = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    async def receive(self) -> Event:
        """The next part of the body; after its end, wait for the client to hang up."""
        if self._complete:
            await self._left.wait()
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout(BODY_SECONDS):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the body did not come in time") from None
        if message["type"] == "http.disconnect":
            self.gone = True
            return message
        self._size += len(message.get("body", b""))
        limit = self.call.service.settings.max_body_bytes
        if self._size > limit:
            raise HTTPException(413, f"the body is longer than {limit:,} bytes")
        if not message.get("more_body", False):
            self._complete = True
            self._watch = asyncio.create_task(self._until_gone())
        return message

    async def send(self, message: Event) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self._started = True
            self.call.status = self.call.status or message["status"]
            MutableHeaders(scope=message).update(self.call.headers | {"x-request-id": self.call.id})
        elif not message.get("more_body", False):
            self._finished = True
        await self._send(message)

    async def refuse(self, error: Exception, scope: Scope) -> None:
        """Answer with an error; where the answer has begun, break it off."""
        status, body, headers = refusal(error, self.call.params)
        if self.gone:
            self.call.status = CLOSED
            return
        self.call.status = status
        if status >= 500 and not isinstance(error, Refused):
            log_failure(self.call.id, error)
        if not self._started:
            with contextlib.suppress(ClientDisconnect):
                await JSONResponse(body, status, headers)(scope, self.receive, self.send)

    def end(self) -> None:
        """Stop watching."""
        self._finished = True
        if self._watch is not None:
            self._watch.cancel()

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._finished:
            return
        self.gone = True
        self._left.set()
        if self._task is not None:
            self._task.cancel()
