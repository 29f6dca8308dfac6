"""What surrounds every request: its id, who asks, its limits, its errors, its line in the log, and what it gives back.

    app.add_middleware(RequestMiddleware, state=state)

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
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as HttpEvent

from carellama.config.serve import ApiOptions
from carellama.engine.base import Engine, Event, Notice, Piece, Reply, Sampling
from carellama.engine.worker_pool import WorkerPool
from carellama.records import Message
from carellama.serve.api.admission import AdmissionQueue
from carellama.serve.api.auth import Auth, Caller, NoAuth, Reservation
from carellama.serve.api.errors import (
    CLIENT_CLOSED_REQUEST,
    EVENT_STREAM,
    SSE_DONE,
    InvalidRequest,
    Rejected,
    event,
    log_server_error,
    to_http_error,
)
from carellama.serve.api.metrics import Metrics
from carellama.serve.api.schemas import Mode
from carellama.serve.api.streaming import StreamPump, run_in_thread
from carellama.serve.hosts import names_this_machine

log = logging.getLogger(__name__)

PUBLIC_ROUTES = {"/health", "/ready", "/docs", "/openapi.json"}  # they say nothing of anybody
UNLOGGED_ROUTES = {"/health", "/ready", "/metrics"}  # asked every few seconds: logged only where they fail
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}  # that the log names
UPLOAD_TYPE = "application/octet-stream"
BODY_RATE = 1000.0  # bytes a second: each byte that arrived gives a body so much more time
ERROR_SEND_TIMEOUT = 1.0  # seconds that a client has to read the error at the end of its stream
SLOW_READER_GRACE = 10.0  # seconds over --request_timeout, after which a client that does not read its answer is left
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
Result = TypeVar("Result")
RewardScorer = Callable[[Sequence[tuple[Message, ...]], Sequence[str]], list[float]]  # prompts and answers


@dataclass
class ServerState:
    """What the routes share."""

    engine: Engine
    settings: ApiOptions
    auth: Auth
    defaults: Sampling
    admission: AdmissionQueue
    metrics: Metrics
    echo_pool: WorkerPool  # reads completions that begin with their prompt
    score: RewardScorer | None = None  # of a reward model
    consultant: Engine | None = None  # answers in mode consult
    mode: Mode = "answer"  # of requests that name none
    embedding_model: str | None = None  # the name of the model that makes vectors, if there is one
    draining: bool = False  # the server is about to end: no new requests
    uploads: dict[str, int] = field(default_factory=dict)  # paths that take a file instead of JSON: its most bytes
    created: int = field(default_factory=lambda: int(time.time()))
    pending_releases: set[asyncio.Future[None]] = field(default_factory=set)  # of reservations
    running: set[RequestContext] = field(default_factory=set)  # requests that a drain waits for

    def max_bytes(self, path: str) -> int:
        """The most bytes of a body that is sent to a path."""
        return self.uploads.get(path, self.settings.max_body_bytes)

    async def call_auth(self, function: Callable[[], Result]) -> Result:
        """Ask `auth`, in a thread where it has a database to look into."""
        if isinstance(self.auth, NoAuth):
            return function()
        return await asyncio.shield(run_in_thread(function))

    async def engine_info(self) -> tuple[Sequence[str], int | None]:
        """Adapters and context of the engine, asked in a thread: it may have to ask another server."""
        return await run_in_thread(lambda: (self.engine.adapters, self.engine.context_tokens))


@dataclass
class Usage:
    """Tokens of one request: the same numbers for the reply, the quota, the metrics and the log.

    `prompts` has the tokens of each prompt. A prompt counts once, however many choices answer it, and from the moment
    that work on it begins. The answers are numbered as they are sent: `choices` of the first prompt, then the next.
    """

    prompts: Sequence[int] = ()
    choices: int = 1
    _started: dict[int, int] = field(default_factory=dict)  # tokens of each prompt that is worked on
    _answers: dict[int, int] = field(default_factory=dict)  # of each answer; of an unfinished one, so far

    def start(self, index: int) -> None:
        """Count the prompt of an answer, whose work begins."""
        prompt = index // self.choices
        self._started.setdefault(prompt, self.prompts[prompt])

    def add(self, index: int, event: Event) -> None:
        """Count what came of an answer. A reply has the engine's own numbers, which replace those so far."""
        if isinstance(event, Piece) and not event.of_prompt and not event.notices:
            self._answers[index] = self._answers.get(index, 0) + max(1, len(event.logprobs))
        elif isinstance(event, Reply):
            self._answers[index] = event.completion_tokens
            self._started[index // self.choices] = event.prompt_tokens

    @property
    def prompt(self) -> int:
        """Tokens of the prompts."""
        return sum(self._started.values())

    @property
    def completion(self) -> int:
        """Tokens of the answers so far."""
        return sum(self._answers.values())

    def as_json(self) -> dict[str, int]:
        """Return the field `usage` of a reply."""
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


class RequestContext:
    """One request: who asks, what it used, and what is to be given back at its end."""

    def __init__(self, state: ServerState, request_id: str, path: str = "") -> None:
        self.state, self.id, self.path = state, request_id, path
        self.started_at = time.monotonic()
        self.caller: Caller | None = None
        self.notices: dict[tuple[str, str], Notice] = {}  # of the safety layer, each once
        self.model = ""
        self.context_tokens: int | None = None
        self.status = 0
        self.usage = Usage()
        self.first_token_seconds: float | None = None
        self.pump: StreamPump | None = None
        self.headers: dict[str, str] = {}  # of the response, besides x-request-id
        self.params: dict[str, str] = {}  # field of `Sampling` -> field of the request, where they differ
        self.aborted: Exception | None = None  # why the server ends this request
        self._task = asyncio.current_task()
        self._reservation: asyncio.Future[Reservation] | None = None

    def abort(self, error: Exception) -> None:
        """End the request now; it is answered with the error."""
        if self.aborted is None and self._task is not None:
            self.aborted = error
            self._task.cancel()

    @property
    def deadline(self) -> float:
        """When the request has to be over, by the monotonic clock."""
        return self.started_at + self.state.settings.request_timeout

    async def reserve(self, scope: str, prompts: Sequence[int] = (), choices: int = 1, answers: int = 0) -> None:
        """Reserve the tokens of each of `prompts`, and `answers` tokens that all answers together may have.

        Raises `Rejected` (403, 429). What is not used is given back at the end of the request.
        """
        caller, auth = self.caller, self.state.auth
        assert caller is not None, "a route that needs a caller is not among PUBLIC_ROUTES"
        self.usage = Usage(prompts, choices)
        tokens = sum(prompts) + answers
        if isinstance(auth, NoAuth):
            auth.reserve(caller, scope, tokens)
            return
        self._reservation = run_in_thread(lambda: auth.reserve(caller, scope, tokens))
        await asyncio.shield(self._reservation)  # who leaves now has begun all the same, and `close` ends it

    def record_event(self, index: int, event: Event) -> None:
        """Count what came of an answer."""
        notices = event.notices if isinstance(event, Piece) else ()
        for notice in notices:
            self.state.metrics.notices.labels(notice.kind, notice.level).inc()
            self.notices.setdefault((notice.kind, notice.rule), notice)
        if self.first_token_seconds is None and not notices:
            self.first_token_seconds = time.monotonic() - self.started_at
        self.usage.add(index, event)

    def close(self, method: str, route: str) -> None:
        """Leave the engine, release the reservation, count and log. Does not wait."""
        if self.pump is not None:
            self.pump.close()
        if self._reservation is not None:
            used = self.usage.prompt + self.usage.completion
            self._reservation.add_done_callback(lambda begun: self._release(begun, used))
        seconds, metrics = time.monotonic() - self.started_at, self.state.metrics
        key = self.caller.id if self.caller else ""
        metrics.requests.labels(route, str(self.status), self.model, key).inc()
        metrics.seconds.labels(route).observe(seconds)
        if self.model:
            metrics.prompt_tokens.labels(self.model, key).inc(self.usage.prompt)
            metrics.answer_tokens.labels(self.model, key).inc(self.usage.completion)
        if (first := self.first_token_seconds) is not None:
            metrics.first_token_seconds.labels(self.model).observe(first)
            if self.usage.completion > 1:
                each = (seconds - first) / (self.usage.completion - 1)
                metrics.inter_token_seconds.labels(self.model).observe(each)
        if route not in UNLOGGED_ROUTES or self.status >= 400:
            log.info(
                "%s %s %s %d %.3f s, key %s, model %s, tokens %d + %d, first after %s",
                *(self.id, method, route, self.status, seconds, key or "-", self.model or "-"),
                *(self.usage.prompt, self.usage.completion, "-" if first is None else f"{first:.3f} s"),
            )

    def _release(self, begun: asyncio.Future[Reservation], used: int) -> None:
        if begun.cancelled() or begun.exception() is not None:
            return
        reservation, pending = begun.result(), self.state.pending_releases
        released = run_in_thread(lambda: reservation.release(used))
        pending.add(released)
        released.add_done_callback(pending.discard)


class RequestMiddleware:
    """ASGI middleware around the routes."""

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not REQUEST_ID.fullmatch(request_id):
            request_id = f"req-{secrets.token_hex(12)}"
        context = RequestContext(self.state, request_id, scope["path"])
        scope.setdefault("state", {})["context"] = context
        guard = ConnectionGuard(context, receive, send)
        try:
            self._check_headers(scope, headers)
            if scope["path"] not in PUBLIC_ROUTES:
                self.state.running.add(context)
            async with asyncio.timeout(self.state.settings.request_timeout + SLOW_READER_GRACE):
                if scope["path"] not in PUBLIC_ROUTES and scope["method"] != "OPTIONS":
                    request = HTTPConnection(scope)
                    context.caller = scope["state"].get("caller") or await self.state.call_auth(
                        lambda: self.state.auth.identify(request)
                    )
                # uvicorn leaves out the body of an answer to HEAD
                inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
                await self.app(inner, guard.receive, guard.send)
        except (asyncio.CancelledError, ClientDisconnect) as left:
            if not (guard.disconnected or context.aborted or self.state.draining):
                raise
            if isinstance(left, asyncio.CancelledError) and (task := asyncio.current_task()):
                task.uncancel()
            await guard.send_error(context.aborted or shutting_down(), scope)
        except Exception as error:  # noqa: BLE001 - every fault becomes an answer
            await guard.send_error(error, scope)
        finally:
            guard.end()
            self.state.running.discard(context)
            method = scope["method"] if scope["method"] in METHODS else "other"
            context.close(method, getattr(scope.get("route"), "path", "other"))

    def _check_headers(self, scope: Scope, headers: Headers) -> None:
        """Reject what no route would take."""
        if len(headers.getlist("host")) > 1:  # RFC 9112, section 3.2: proxies may read another one than we do
            raise InvalidRequest("the request has two Host headers", "host")
        if self.state.draining and scope["path"] not in PUBLIC_ROUTES:
            raise shutting_down()
        auth = self.state.auth
        if isinstance(auth, NoAuth) and not auth.any_host and not names_this_machine(headers.get("host", "")):
            text = "this server has no API keys and accepts requests for localhost only"
            raise InvalidRequest(f"{text}; create one with carellama keys add", "host", "wrong_host", 403)
        length, limit = headers.get("content-length", ""), self.state.max_bytes(scope["path"])
        if length.isdecimal() and int(length[:20]) > limit:
            raise InvalidRequest(f"the body has {int(length[:20]):,} bytes; the most is {limit:,}", "body", status=413)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        wanted = UPLOAD_TYPE if scope["path"] in self.state.uploads else "application/json"
        if scope["method"] in ("POST", "PUT", "PATCH") and kind != wanted:
            # a web page may send other kinds to any server without being asked whether it may
            text = f"send the body {'' if wanted == UPLOAD_TYPE else 'as JSON, '}with the header Content-Type: {wanted}"
            raise InvalidRequest(text, "content-type", status=415)
        for name, plain in (("content-encoding", "identity"), ("transfer-encoding", "chunked")):
            if (coding := headers.get(name, plain).strip().lower()) not in ("", plain):
                raise InvalidRequest(f"{name} is {coding[:64]!r}: send the body uncompressed", name, status=415)


def shutting_down() -> Rejected:
    """Return the error for requests that a server at its end does not take, or does not finish."""
    return Rejected(503, "shutting_down", "the server is shutting down; try again later, or another server", 5)


class ConnectionGuard:
    """The two ways of one request: the body comes in within its limits, the answer goes out, a hang-up is noticed."""

    def __init__(self, context: RequestContext, receive: Receive, send: Send) -> None:
        self.context, self._receive, self._send = context, receive, send
        self.disconnected = False  # the client has hung up
        self._task = asyncio.current_task()
        self._size, self._complete, self._started, self._finished = 0, False, False, False
        self._body_started_at: float | None = None  # when the body was first waited for, by the loop's clock
        self._streams = False  # the answer is server-sent events
        self._left = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    async def receive(self) -> HttpEvent:
        """The next part of the body; after its end, wait for the client to hang up."""
        if self._complete:
            await self._left.wait()
            return {"type": "http.disconnect"}
        now, seconds = asyncio.get_running_loop().time(), self.context.state.settings.receive_timeout
        self._body_started_at = now if self._body_started_at is None else self._body_started_at
        try:
            async with asyncio.timeout_at(self._body_started_at + seconds + self._size / BODY_RATE):
                message = await self._receive()
        except TimeoutError:
            headers = {"connection": "close"}
            raise HTTPException(408, f"the body did not arrive within {seconds:g} s", headers) from None
        if message["type"] == "http.disconnect":
            self.disconnected = True
            return message
        self._size += len(message.get("body", b""))
        if self._size > (limit := self.context.state.max_bytes(self.context.path)):
            raise HTTPException(413, f"the body is longer than {limit:,} bytes")
        if not message.get("more_body", False):
            self._complete = True
            self._watch = asyncio.create_task(self._watch_disconnect())
        return message

    async def send(self, message: HttpEvent) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self._started = True
            self.context.status = self.context.status or message["status"]
            headers = MutableHeaders(scope=message)
            headers.update(self.context.headers | {"x-request-id": self.context.id})
            self._streams = headers.get("content-type", "").startswith(EVENT_STREAM)
            if self.context.state.draining:
                headers["connection"] = "close"
        elif not message.get("more_body", False):
            self._finished = True
        await self._send(message)

    async def send_error(self, error: Exception, scope: Scope) -> None:
        """Answer with an error; a stream that has begun ends with it."""
        status, body, headers = to_http_error(error, scope["path"], self.context.params)
        if self.context.notices and not self._started:  # an emergency is told, whatever becomes of the answer
            body |= {"notices": [notice.as_json() for notice in self.context.notices.values()]}
        if self.disconnected:
            self.context.status = CLIENT_CLOSED_REQUEST
            return
        if self._finished:
            return
        self.context.status = status
        if status >= 500 and not isinstance(error, Rejected):
            log_server_error(self.context.id, error)
        try:
            async with asyncio.timeout(ERROR_SEND_TIMEOUT):
                if not self._started:
                    await JSONResponse(body, status, headers)(scope, self.receive, self.send)
                elif self._streams:
                    await self.send({"type": "http.response.body", "body": event(body) + SSE_DONE, "more_body": False})
        except (ClientDisconnect, TimeoutError):
            pass
        if not self._finished:
            await self._cut(scope)

    async def _cut(self, scope: Scope) -> None:
        """Close the connection of an answer that cannot be finished."""
        self.end()
        if (cut := scope["state"].get("cut_connection")) is not None:
            cut()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ERROR_SEND_TIMEOUT):
                    while (await self._receive())["type"] != "http.disconnect":
                        pass

    def end(self) -> None:
        """Stop watching."""
        self._finished = True
        if self._watch is not None:
            self._watch.cancel()

    async def _watch_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._finished:
            return
        self.disconnected = True
        self._left.set()
        if self._task is not None:
            self._task.cancel()
