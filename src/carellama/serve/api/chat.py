"""/v1/chat/completions and /v1/completions: answers of the engine, whole or as a stream of server-sent events.

An error has its own status as long as nothing was sent: a stream begins with its first token, or `COMMIT` seconds
after the engine took it up, so that a client that waits for a first byte gets one. What fails later is told in the
stream, as an event {"error": ...}.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from carellama.assistant import Assistant
from carellama.engine.base import Engine, Piece, PromptTooLong, Reply, Sampling
from carellama.records import Message
from carellama.serve.api import protocol
from carellama.serve.api.bridge import Answers, Make, threaded
from carellama.serve.api.calls import Call, Service
from carellama.serve.api.constraints import CONSTRAINTS, constraint_of
from carellama.serve.api.fields import HEADER, check_fields
from carellama.serve.api.json_body import JsonRoute
from carellama.serve.api.messages import conversation, with_system
from carellama.serve.api.overflow import fit_to_model, is_task, note_parts
from carellama.serve.api.prepare import check_room, prepare_chat
from carellama.serve.api.prompts import check_scoring, continued, read_prompts, reserve_prompts
from carellama.serve.api.refusals import DONE, EVENTS, Wrong, event, log_failure, refusal
from carellama.serve.api.sampling import adapter_of, sampling_of
from carellama.serve.api.shapes import ChatShape, Shape, TextShape

COMMIT = 15.0  # seconds; browsers and proxies wait for a first byte for 60 s or so
MOST_HEADER = 1000  # characters of a header that lists names
PAUSE = 10.0  # seconds without a token, after which a stream gets a comment that keeps the connection open
COMMENT = b": the answer is being computed\n\n"
TOGETHER = 16384  # bytes of events that are sent together at the most
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": protocol.ErrorBody, "description": about}
    for status, about in (
        (400, "Wrong or unsupported; context_length_exceeded: the prompt leaves no room"),
        (401, "No valid key"),
        (403, "The key has not this scope"),
        (404, "No such model"),
        (408, "The body did not come in time"),
        (413, "The body is too long"),
        (415, "The body is not JSON"),
        (429, "Too many requests: see Retry-After"),
        (500, "The server failed"),
        (503, "The engine does not answer, or the server is ending"),
        (504, "The answer took too long"),
        ("default", "Any other error"),
    )
}
router = APIRouter(route_class=JsonRoute)


class EventStream(Response):
    """Server-sent events, sent as they come."""

    media_type = EVENTS

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        self.status_code, self.background, self._events = 200, None, events
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})  # the latter is nginx's

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self._events:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@router.post("/v1/chat/completions", response_model=protocol.ChatCompletion, responses=ERRORS)
async def chat(request: Request, body: protocol.ChatRequest) -> Response:
    """Answer a conversation."""
    service, call = parts_of(request)
    makes, background = await chat_makes(service, call, body)
    shape = ChatShape(call.model, include_usage=_told(body))
    return await answer(service, call, makes, body, shape, background=background)


async def chat_makes(
    service: Service, call: Call, body: protocol.ChatRequest, *, place: str = "messages", system: str | None = None
) -> tuple[list[Make], bool]:
    """Return what makes the answers to a conversation, whose tokens are reserved, and whether nobody waits for them.

    `place` is the name of the messages in errors; `system` goes before their system message.
    """
    adapter = await named(service, call, body.model)
    limit(service, len(body.messages), place)
    pictures: Counter[str] = Counter()
    messages = with_system(conversation(body.messages, place, left_out=pictures), system)
    sampling = read_sampling(service, call, body, adapter)
    count = choices(service, body)
    consultant = consultant_of(service, body, messages, sampling, count)
    background = not body.stream or is_task(messages)
    check_line(service, count, background)  # a request without a place costs no screening
    engine = service.engine if isinstance(service.engine, Assistant) else None
    screening = await threaded(partial(engine.screen, messages)) if engine else None
    stream = (consultant or service.engine).stream
    if engine and screening and screening.refusal is not None:  # nor is it counted by an engine, or its endpoint
        await call.reserve("chat", [0], count)
        stream = stream if consultant else partial(engine.stream, screening=screening)
        return [partial(stream, messages, draw) for draw in draws(sampling, count)], background
    dropped: list[Message] = []
    if consultant is None:  # the state of a consultation is made of all turns
        messages, dropped, sampling = await fit_to_model(service, call, messages, sampling)
    note_parts(call, pictures)
    try:
        messages, tokens = await prepare_chat(service, messages, sampling)
        room = await check_room(service, messages, tokens, sampling, call.context_tokens)
    except PromptTooLong:
        if screening:  # for the body of the error
            call.note(0, Piece(notices=screening.notices))
        raise
    await call.reserve("chat", [tokens], count, count * room)
    if engine and not consultant:
        stream = partial(engine.stream, dropped=dropped, screening=screening)
    return [partial(stream, messages, draw) for draw in draws(sampling, count)], background


def consultant_of(
    service: Service, body: protocol.ChatRequest, messages: Sequence[Message], sampling: Sampling, count: int
) -> Engine | None:
    """Return what answers in mode consult; None: the request is for mode answer.

    Requests of a front-end for itself (titles) are always answered. Raises `Wrong` (400) for what a question or a
    report cannot have.
    """
    if (body.mode or service.mode) == "answer" or is_task(messages):
        return None
    if service.consultant is None:
        raise Wrong("mode consult looks for emergencies, and this server has --safety off; send mode: answer", "mode")
    unfit = {
        "n": count > 1,
        "tools": bool(sampling.tools) and sampling.tool_choice != "none",
        "response_format": sampling.constrained,
        "logprobs": sampling.top_logprobs is not None,
    }
    if found := next((name for name, given in unfit.items() if given), None):
        raise Wrong(f"{found} has no meaning in mode consult, whose answers are questions and reports", found)
    return service.consultant


@router.post("/v1/completions", response_model=protocol.Completion, responses=ERRORS)
async def complete(request: Request, body: protocol.CompletionRequest) -> Response:
    """Go on with a text, which is no conversation."""
    service, call = parts_of(request)
    adapter = await named(service, call, body.model)
    several = isinstance(body.prompt, list) and not any(isinstance(one, int) for one in body.prompt)
    limit(service, len(body.prompt) if several else 1, "prompt")
    check_scoring(body)
    sampling = read_sampling(service, call, body, adapter)
    count = choices(service, body)
    prompts = await read_prompts(service, body)
    await reserve_prompts(call, prompts, sampling, count)
    scored = body.logprobs if body.echo else None
    makes: list[Make] = [
        partial(continued, service.engine, prompt, draw, scored)
        for prompt in prompts
        for draw in draws(sampling, count)
    ]
    shape = TextShape(call.model, include_usage=_told(body))
    return await answer(service, call, makes, body, shape, background=not body.stream)


async def answer(
    service: Service,
    call: Call,
    makes: Sequence[Make],
    body: protocol.SamplingFields,
    shape: Shape,
    *,
    background: bool,
) -> Response:
    """Let the engine answer, and send what it says; in the background: behind those that a person waits for."""
    settings = service.settings
    check_line(service, len(makes), background)
    answers = call.answers = Answers(makes, service.line, call.usage.begin, background=background)
    if body.stream:
        await answers.begun(patience=COMMIT, first=settings.first_token_timeout)
        return EventStream(_events(service, call, answers, shape, len(makes)))
    replies: dict[int, Reply] = {}
    async for got in answers.items(pause=PAUSE, first=settings.first_token_timeout, until=call.until):
        if got is not None:
            index, item = got
            call.note(index, item)
            if isinstance(item, Reply):
                replies[index] = item
    return JSONResponse(shape.whole([replies[index] for index in range(len(makes))], call.usage.as_json()))


async def _events(service: Service, call: Call, answers: Answers, shape: Shape, count: int) -> AsyncIterator[bytes]:
    """The events of a stream; those that are there at the same time come together."""
    out = b"".join(shape.event(each) for index in range(count) for each in shape.begin(index))
    first, sent = service.settings.first_token_timeout, time.monotonic()
    try:
        if not answers.more:  # `COMMIT` seconds have passed without a byte
            yield COMMENT + out
            out = b""
        async for got in answers.items(pause=PAUSE, first=first, until=call.until):
            if got is None:
                yield out + COMMENT
                out, sent = b"", time.monotonic()
                continue
            index, item = got
            call.note(index, item)
            if isinstance(item, Reply):
                out += b"".join(map(shape.event, shape.end(index, item)))
            elif not isinstance(item, Exception) and item.shows:
                out += b"".join(map(shape.event, shape.piece(index, item)))
            elif not out and time.monotonic() - sent >= PAUSE:
                out = COMMENT  # a call is being written, which is told as a whole
            if out and (not answers.more or len(out) >= TOGETHER):
                yield out
                out, sent = b"", time.monotonic()
    except Exception as error:  # noqa: BLE001 - every fault becomes the stream's last event
        call.status, body, _ = refusal(error, call.path, call.params)
        if call.status >= 500:
            log_failure(call.id, error)
        yield out + event(body) + DONE
        return
    yield out + b"".join(map(shape.event, shape.finish(call.usage.as_json()))) + DONE


def parts_of(request: Request) -> tuple[Service, Call]:
    """What a route works with."""
    return request.app.state.service, request.state.call


async def named(service: Service, call: Call, model: str | None, *others: str | None) -> str:
    """Return the adapter that a request asks for, and note the model. Raises `Wrong` (404).

    `others` are names that the route takes besides, for the message.
    """
    names = service.settings.names
    if model is not None and model == service.embedding_model:
        raise Wrong(
            f"{model} is an embedding model: it makes vectors and writes no answers; send model: {names[0]}",
            *("model", "model_not_found", 404),
        )
    adapters, call.context_tokens = await service.facts()
    adapter = adapter_of(model, names, adapters, *filter(None, others))
    call.model = model or names[0]
    return adapter


def read_sampling(
    service: Service, call: Call, body: protocol.ChatRequest | protocol.CompletionRequest, adapter: str
) -> Sampling:
    """Return how the answer is drawn, and note the fields that are left out. Raises `Wrong` (400)."""
    note_left_out(call, body)
    if (constraint := constraint_of(body)) is not None:
        call.params |= dict.fromkeys(CONSTRAINTS, constraint.param)
    sampling = sampling_of(body, service.defaults, adapter)
    if sampling.tools and sampling.tool_choice not in ("auto", "none"):
        call.params["json_schema"] = "tool_choice"  # a demanded call is JSON of a schema
    return sampling


def note_left_out(call: Call, body: protocol.Wire, others: Sequence[str] = ()) -> None:
    """Name the fields that are left out, and `others`, in a header of the response.

    Raises `Wrong` (400) for those refused.
    """
    if left_out := [*check_fields(body), *others]:
        call.headers[HEADER] = re.sub(r"[^\x20-\x7e]", "?", ", ".join(left_out))[:MOST_HEADER]


def limit(service: Service, count: int, param: str) -> None:
    """Raise `Wrong` (400) for more messages or texts than the server takes."""
    most = service.settings.max_messages
    if not 0 < count <= most:
        raise Wrong(f"{param} has {count:,} entries; 1 to {most:,} are taken", param)


def check_line(service: Service, count: int, background: bool) -> None:
    """Raise `Wrong` (400) for more answers than are taken at once, and `Refused` (429) where so many have no room."""
    if count > (most := service.settings.queue + service.line.places):
        raise Wrong(f"the request asks for {count} answers; at most {most} are taken at once", "n")
    service.line.refuse_if_full(count, background)


def choices(service: Service, body: protocol.SamplingFields) -> int:
    """Return how many answers are asked for. Raises `Wrong` (400) for too many."""
    count, most = body.n or 1, service.settings.max_choices
    if count > most:
        raise Wrong(f"n is {count}; at most {most} answers to one request are given", "n")
    return count


def texts(given: str | list[str] | list[int] | list[list[int]], param: str) -> list[str]:
    """Return the texts of a field. Raises `Wrong` (400) for tokens, and for a text that is empty."""
    found = [given] if isinstance(given, str) else given
    words = [text for text in found if isinstance(text, str)]
    if len(words) < len(found):
        raise Wrong(
            f"{param}: send texts; tokens are not taken, since they would have to be this model's own "
            "(LangChain: check_embedding_ctx_length=False)",
            param,
            "unsupported_value",
        )
    if not all(words):
        at = param if isinstance(given, str) else f"{param}.{words.index('')}"
        raise Wrong(f"{at} is an empty text", at)
    return words


def draws(sampling: Sampling, count: int) -> list[Sampling]:
    """How each of several answers is drawn: from its own seed, where one was given."""
    if sampling.seed is None or count == 1:
        return [sampling] * count
    return [replace(sampling, seed=sampling.seed + index) for index in range(count)]


def _told(body: protocol.SamplingFields) -> bool:
    return bool(body.stream and body.stream_options and body.stream_options.include_usage)
