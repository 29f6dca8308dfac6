"""Answers that outlive the connection of who asked: kept under an id, and read from any event on.

    answer = answers.start(request, body)             # runs whether anybody reads or not
    async for part in answer.follow(after=7):         # server-sent events behind event 7, until the end
        ...
    answer.stop()

An answer is a request to the API's own route, made inside the server: it has the same checks, limits, log and metrics
as one from outside, and a drain waits for it. Its events are kept for `KEEP_SECONDS` after its end, in memory only.

An event is a chunk of the route's stream without what is the same in all of them. The kind `failure` is an error of the
API, with its status; `dropped` is the number of the oldest messages that the model had no room for. While the answer
waits for the engine there are events of the kind `queue`, which are not kept. An answer that is stopped ends as others
do: with the last notices of the safety layer and the tokens that it used.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from array import array
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message as HttpEvent
from starlette.types import Scope

from carellama.assistant import Assistant
from carellama.records import JSONObject
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.middleware import RequestContext, ServerState
from carellama.serve.api.parsing import parse_messages
from carellama.serve.api.prompts import TURNS_HEADER
from carellama.serve.api.schemas import ChatRequest
from carellama.serve.api.streaming import run_in_thread

ROUTE = "/v1/chat/completions"
KEEP_SECONDS = 300.0  # after the end of an answer: a telephone that was locked asks again
MAX_KEPT_BYTES = 64 << 20  # of all answers that have ended; past it the oldest are forgotten
QUEUE_SECONDS = 1.0  # between two looks at the place in the queue
KEEPALIVE_SECONDS = 10.0  # without an event, after which a reader gets a comment
COMMENT = b": the answer is being computed\n\n"
FRAME = ("id", "object", "created", "model")  # of a chunk: the same in all chunks of an answer
PASSED_ON = (b"host", b"authorization")  # headers of who asks


class Answers:
    """The answers of one server. For one event loop."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self._answers: dict[str, Answer] = {}  # the oldest first
        self._kept_bytes = 0  # of those that have ended

    def start(self, request: Request, body: JSONObject) -> Answer:
        """Begin an answer to a body of /v1/chat/completions."""
        context: RequestContext = request.state.context
        assert context.caller is not None
        answer = Answer(secrets.token_urlsafe(18), context.caller.id, self.state)
        self._answers[answer.id] = answer
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        answer.task = asyncio.create_task(answer.run(request, body))
        answer.task.add_done_callback(lambda _: self._keep(answer))
        return answer

    def get(self, request: Request, id: str) -> Answer:
        """Return an answer of who asks. Raises `InvalidRequest` (404) where there is none."""
        caller = request.state.context.caller
        answer = self._answers.get(id)
        if answer is None or caller is None or answer.owner != caller.id:
            text = "there is no such answer: it ended some minutes ago, or the server was started again since"
            raise InvalidRequest(text, "id", "answer_not_found", 404)
        return answer

    def forget_owner(self, owner: str) -> None:
        """Stop and forget the answers of one who may not ask any more, or who is forgotten."""
        for answer in [one for one in self._answers.values() if one.owner == owner]:
            answer.stop()
            self._answers.pop(answer.id)
            if answer.ended:
                self._kept_bytes -= answer.size

    def _keep(self, answer: Answer) -> None:
        """Keep an answer that has ended for a while, and forget the oldest where there are too many."""
        if answer.id not in self._answers:  # its owner was forgotten meanwhile
            return
        self._kept_bytes += answer.size
        asyncio.get_running_loop().call_later(KEEP_SECONDS, self._forget, answer.id)  # the timer holds no answer
        for old in list(self._answers.values()):
            if self._kept_bytes <= MAX_KEPT_BYTES:
                break
            if old.ended and old is not answer:  # which nobody may have read yet
                self._forget(old.id)

    def _forget(self, id: str) -> None:
        if (answer := self._answers.pop(id, None)) is not None:
            self._kept_bytes -= answer.size


class AnswerEvent(NamedTuple):
    """An event of an answer: JSON, and its kind, "" for a chunk."""

    data: bytes
    kind: str = ""

    def numbered(self, number: int) -> bytes:
        """Return it as it is sent (HTML, 9.2.6: the id is what a client gives as Last-Event-ID)."""
        kind = f"event: {self.kind}\n" if self.kind else ""
        return f"{kind}id: {number}\ndata: ".encode() + self.data + b"\n\n"


DONE = AnswerEvent(b"[DONE]")


class Answer:
    """One answer: its events so far, numbered from 1."""

    def __init__(self, id: str, owner: str, state: ServerState) -> None:
        self.id, self.owner, self.state = id, owner, state
        self.task: asyncio.Task[None] | None = None
        self.ended = False
        self._sent = bytearray()  # the events as they are sent; an object for each would take several times as much
        self._ends = array("Q")  # where each of them ends
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()
        self._inner: dict[str, Any] = {}  # the state of the inner request, with its context
        self._status, self._rest = 0, b""
        self._whole = False  # the last chunk has come, which has the tokens

    async def run(self, request: Request, body: JSONObject) -> None:
        """Make the inner request; its end is an event, whatever happens."""
        parts = [json.dumps(body).encode()]
        scope = _inner_scope(request, len(parts[0]))
        self._inner = scope["state"]

        async def receive() -> HttpEvent:
            if parts:
                return {"type": "http.request", "body": parts.pop(), "more_body": False}
            await self._stopped.wait()
            return {"type": "http.disconnect"}

        try:
            await request.app(scope, receive, self._send)
            if self._stopped.is_set() and self._status == 200 and not self._whole:
                await self._close(ChatRequest.model_validate(body))
        finally:
            self._append(DONE)
            self.ended = True
            self._inner = {}  # the request is not needed any more

    @property
    def size(self) -> int:
        """Bytes that its events take."""
        return len(self._sent) + len(self._ends) * self._ends.itemsize

    def stop(self) -> None:
        """End the answer, as a client that hangs up does; what there is of it stays."""
        self._stopped.set()

    async def _close(self, body: ChatRequest) -> None:
        """Append what an answer ends with: the last notices, which the layer would have added, and the tokens."""
        engine = self.state.engine
        found = (
            await run_in_thread(partial(engine.screen, parse_messages(body.messages)))
            if isinstance(engine, Assistant)
            else None
        )
        for notice in found.after if found is not None else ():
            shown = found is not None and found.policy.action(notice.kind) == "on"
            delta = {"content": f"\n\n{notice.text}" if shown else "", "notices": [notice.as_json()]}
            self._append(AnswerEvent(_json({"choices": [{"index": 0, "delta": delta}]})))
        context: RequestContext = self._inner["context"]
        self._append(AnswerEvent(_json({"usage": context.usage.as_json()})))

    @property
    def place(self) -> tuple[int, float] | None:
        """How many answers are before this one in the queue, and seconds until its turn; None: it does not wait."""
        context: RequestContext | None = self._inner.get("context")
        pump = context.pump if context is not None else None
        ahead = pump.ahead if pump is not None else None
        return None if ahead is None else (ahead, self.state.admission.estimate(ahead))

    async def follow(self, after: int = 0) -> AsyncIterator[bytes]:
        """Yield the events behind number `after` as they come, until the last one."""
        at, told = min(max(after, 0), len(self._ends)), None
        sent = time.monotonic()
        while True:
            changed, part = self._changed, b""
            if at < len(self._ends):
                part = bytes(self._sent[self._ends[at - 1] if at else 0 :])
                at = len(self._ends)
            elif not at and (place := self.place) not in (None, told):
                told, part = place, _queue_event(*place)
            elif time.monotonic() - sent >= KEEPALIVE_SECONDS:
                part = COMMENT
            if part:
                yield part
                sent = time.monotonic()
            if at == len(self._ends):
                if self.ended:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(KEEPALIVE_SECONDS if at else QUEUE_SECONDS):
                        await changed.wait()

    async def _send(self, message: HttpEvent) -> None:
        """Take a part of the inner response."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            if dropped := Headers(raw=message["headers"]).get(TURNS_HEADER):
                self._append(AnswerEvent(_json({"messages": int(dropped)}), "dropped"))
            return
        self._rest += message.get("body", b"")
        if self._status != 200:
            if not message.get("more_body", False):
                self._append(_failure(self._status, json.loads(self._rest)))
            return
        *frames, self._rest = self._rest.split(b"\n\n")
        for frame in frames:
            if frame.startswith(b"data: ") and (data := frame[6:]) != DONE.data:
                chunk = json.loads(data)
                self._whole |= bool(chunk.get("usage"))
                self._append(_compact(chunk))

    def _append(self, event: AnswerEvent) -> None:
        self._sent += event.numbered(len(self._ends) + 1)
        self._ends.append(len(self._sent))
        self._changed.set()
        self._changed = asyncio.Event()


def _inner_scope(request: Request, length: int) -> Scope:
    """The scope of the inner request: that of who asks, with another path and body."""
    headers = [(name, value) for name, value in request.headers.raw if name in PASSED_ON]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]
    outer = request.scope
    return {
        **{name: outer[name] for name in ("type", "asgi", "http_version", "scheme", "client", "server")},
        "method": "POST",
        "path": ROUTE,
        "raw_path": ROUTE.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "state": {
            **{name: value for name, value in outer["state"].items() if name not in ("context", "cut_connection")},
            "caller": request.state.context.caller,  # who was let in already
        },
    }


def _compact(chunk: JSONObject) -> AnswerEvent:
    """A chunk without its frame and its empty fields, which a telephone need not load; an error is a failure."""
    if "error" in chunk:
        return _failure(500, chunk)
    choices = [{name: value for name, value in one.items() if value is not None} for one in chunk["choices"]]
    found = {**chunk, "choices": choices}
    return AnswerEvent(_json({name: value for name, value in found.items() if name not in FRAME and value}))


def _failure(status: int, body: JSONObject) -> AnswerEvent:
    """The event of an error, with the notices of the safety layer, if there are any."""
    return AnswerEvent(_json({"status": status, **body}), "failure")


def _queue_event(ahead: int, seconds: float) -> bytes:
    return b"event: queue\ndata: " + _json({"ahead": ahead, "seconds": round(seconds, 1)}) + b"\n\n"


def _json(value: JSONObject) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
