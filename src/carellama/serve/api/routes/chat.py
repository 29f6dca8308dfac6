"""/v1/chat/completions and /v1/completions: answers of the engine, whole or as a stream of server-sent events.

An error has its own status as long as nothing was sent: a stream begins with its first token, or `SEND_HEADERS_AFTER`
seconds after the engine took it up, so that a client that waits for a first byte gets one. What fails later is told in
the stream, as an event {"error": ...}.
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
from carellama.serve.api import schemas
from carellama.serve.api.constraints import CONSTRAINTS, constraint_of
from carellama.serve.api.errors import EVENT_STREAM, SSE_DONE, InvalidRequest, event, log_server_error, to_http_error
from carellama.serve.api.fields import HEADER, check_fields
from carellama.serve.api.formatting import ChatFormatter, CompletionFormatter, ResponseFormatter
from carellama.serve.api.json_body import JsonRoute
from carellama.serve.api.messages import parse_messages, with_system
from carellama.serve.api.middleware import RequestContext, ServerState
from carellama.serve.api.overflow import fit_to_model, is_task, note_parts
from carellama.serve.api.prepare import check_room, prepare_chat
from carellama.serve.api.prompts import check_scoring, continued, read_prompts, reserve_prompts
from carellama.serve.api.sampling import parse_sampling, resolve_adapter
from carellama.serve.api.streaming import Make, StreamPump, run_in_thread

SEND_HEADERS_AFTER = 15.0  # seconds; browsers and proxies wait for a first byte for 60 s or so
MOST_HEADER = 1000  # characters of a header that lists names
KEEPALIVE_SECONDS = 10.0  # seconds without a token, after which a stream gets a comment that keeps the connection open
COMMENT = b": the answer is being computed\n\n"
MAX_SSE_BATCH_BYTES = 16384  # bytes of events that are sent together at the most
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorResponse, "description": about}
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


class SSEResponse(Response):
    """Server-sent events, sent as they come."""

    media_type = EVENT_STREAM

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        self.status_code, self.background, self.stream_events = 200, None, events
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})  # the latter is nginx's

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self.stream_events:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@router.post("/v1/chat/completions", response_model=schemas.ChatCompletionResponse, responses=ERROR_RESPONSES)
async def create_chat_completion(request: Request, body: schemas.ChatRequest) -> Response:
    """Answer a conversation."""
    state, context = context_of(request)
    makes, background = await chat_makes(state, context, body)
    shape = ChatFormatter(context.model, include_usage=wants_usage(body))
    return await run_generation(state, context, makes, body, shape, background=background)


async def chat_makes(
    state: ServerState,
    context: RequestContext,
    body: schemas.ChatRequest,
    *,
    place: str = "messages",
    system: str | None = None,
) -> tuple[list[Make], bool]:
    """Return what makes the answers to a conversation, whose tokens are reserved, and whether nobody waits for them.

    `place` is the name of the messages in errors; `system` goes before their system message.
    """
    adapter = await resolve_model(state, context, body.model)
    check_count(state, len(body.messages), place)
    pictures: Counter[str] = Counter()
    messages = with_system(parse_messages(body.messages, place, left_out=pictures), system)
    sampling = read_sampling(state, context, body, adapter)
    count = choice_count(state, body)
    consultant = consultant_of(state, body, messages, sampling, count)
    background = not body.stream or is_task(messages)
    check_line(state, count, background)  # a request without a place costs no screening
    engine = state.engine if isinstance(state.engine, Assistant) else None
    screening = await run_in_thread(partial(engine.screen, messages)) if engine else None
    stream = (consultant or state.engine).stream
    if engine and screening and screening.refusal is not None:  # nor is it counted by an engine, or its endpoint
        await context.reserve("chat", [0], count)
        stream = stream if consultant else partial(engine.stream, screening=screening)
        return [partial(stream, messages, draw) for draw in sampling_per_choice(sampling, count)], background
    dropped: list[Message] = []
    if consultant is None:  # the state of a consultation is made of all turns
        messages, dropped, sampling = await fit_to_model(state, context, messages, sampling)
    note_parts(context, pictures)
    try:
        messages, tokens = await prepare_chat(state, messages, sampling)
        room = await check_room(state, messages, tokens, sampling, context.context_tokens)
    except PromptTooLong:
        if screening:  # for the body of the error
            context.note(0, Piece(notices=screening.notices))
        raise
    await context.reserve("chat", [tokens], count, count * room)
    if engine and not consultant:
        stream = partial(engine.stream, dropped=dropped, screening=screening)
    return [partial(stream, messages, draw) for draw in sampling_per_choice(sampling, count)], background


def consultant_of(
    state: ServerState, body: schemas.ChatRequest, messages: Sequence[Message], sampling: Sampling, count: int
) -> Engine | None:
    """Return what answers in mode consult; None: the request is for mode answer.

    Requests of a front-end for itself (titles) are always answered. Raises `InvalidRequest` (400) for what a question
    or a report cannot have.
    """
    if (body.mode or state.mode) == "answer" or is_task(messages):
        return None
    if state.consultant is None:
        raise InvalidRequest(
            "mode consult looks for emergencies, and this server has --safety off; send mode: answer", "mode"
        )
    unfit = {
        "n": count > 1,
        "tools": bool(sampling.tools) and sampling.tool_choice != "none",
        "response_format": sampling.constrained,
        "logprobs": sampling.top_logprobs is not None,
    }
    if found := next((name for name, given in unfit.items() if given), None):
        raise InvalidRequest(f"{found} has no meaning in mode consult, whose answers are questions and reports", found)
    return state.consultant


@router.post("/v1/completions", response_model=schemas.CompletionResponse, responses=ERROR_RESPONSES)
async def create_completion(request: Request, body: schemas.CompletionRequest) -> Response:
    """Go on with a text, which is no conversation."""
    state, context = context_of(request)
    adapter = await resolve_model(state, context, body.model)
    several = isinstance(body.prompt, list) and not any(isinstance(one, int) for one in body.prompt)
    check_count(state, len(body.prompt) if several else 1, "prompt")
    check_scoring(body)
    sampling = read_sampling(state, context, body, adapter)
    count = choice_count(state, body)
    prompts = await read_prompts(state, body)
    await reserve_prompts(context, prompts, sampling, count)
    scored = body.logprobs if body.echo else None
    makes: list[Make] = [
        partial(continued, state.engine, prompt, draw, scored)
        for prompt in prompts
        for draw in sampling_per_choice(sampling, count)
    ]
    shape = CompletionFormatter(context.model, include_usage=wants_usage(body))
    return await run_generation(state, context, makes, body, shape, background=not body.stream)


async def run_generation(
    state: ServerState,
    context: RequestContext,
    makes: Sequence[Make],
    body: schemas.SamplingFields,
    shape: ResponseFormatter,
    *,
    background: bool,
) -> Response:
    """Let the engine answer, and send what it says; in the background: behind those that a person waits for."""
    settings = state.settings
    check_line(state, len(makes), background)
    answers = context.answers = StreamPump(makes, state.line, context.usage.begin, background=background)
    if body.stream:
        await answers.begun(patience=SEND_HEADERS_AFTER, first=settings.first_token_timeout)
        return SSEResponse(stream_events(state, context, answers, shape, len(makes)))
    replies: dict[int, Reply] = {}
    async for got in answers.items(pause=KEEPALIVE_SECONDS, first=settings.first_token_timeout, until=context.until):
        if got is not None:
            index, item = got
            context.note(index, item)
            if isinstance(item, Reply):
                replies[index] = item
    return JSONResponse(shape.whole([replies[index] for index in range(len(makes))], context.usage.as_json()))


async def stream_events(
    state: ServerState, context: RequestContext, answers: StreamPump, shape: ResponseFormatter, count: int
) -> AsyncIterator[bytes]:
    """The events of a stream; those that are there at the same time come together."""
    out = b"".join(shape.event(each) for index in range(count) for each in shape.begin(index))
    first, sent = state.settings.first_token_timeout, time.monotonic()
    try:
        if not answers.more:  # `SEND_HEADERS_AFTER` seconds have passed without a byte
            yield COMMENT + out
            out = b""
        async for got in answers.items(pause=KEEPALIVE_SECONDS, first=first, until=context.until):
            if got is None:
                yield out + COMMENT
                out, sent = b"", time.monotonic()
                continue
            index, item = got
            context.note(index, item)
            if isinstance(item, Reply):
                out += b"".join(map(shape.event, shape.end(index, item)))
            elif not isinstance(item, Exception) and item.shows:
                out += b"".join(map(shape.event, shape.piece(index, item)))
            elif not out and time.monotonic() - sent >= KEEPALIVE_SECONDS:
                out = COMMENT  # a call is being written, which is told as a whole
            if out and (not answers.more or len(out) >= MAX_SSE_BATCH_BYTES):
                yield out
                out, sent = b"", time.monotonic()
    except Exception as error:  # noqa: BLE001 - every fault becomes the stream's last event
        context.status, body, _ = to_http_error(error, context.path, context.params)
        if context.status >= 500:
            log_server_error(context.id, error)
        yield out + event(body) + SSE_DONE
        return
    yield out + b"".join(map(shape.event, shape.finish(context.usage.as_json()))) + SSE_DONE


def context_of(request: Request) -> tuple[ServerState, RequestContext]:
    """What a route works with."""
    return request.app.state.server, request.state.context


async def resolve_model(state: ServerState, context: RequestContext, model: str | None, *others: str | None) -> str:
    """Return the adapter that a request asks for, and note the model. Raises `InvalidRequest` (404).

    `others` are names that the route takes besides, for the message.
    """
    names = state.settings.names
    if model is not None and model == state.embedding_model:
        raise InvalidRequest(
            f"{model} is an embedding model: it makes vectors and writes no answers; send model: {names[0]}",
            *("model", "model_not_found", 404),
        )
    adapters, context.context_tokens = await state.facts()
    adapter = resolve_adapter(model, names, adapters, *filter(None, others))
    context.model = model or names[0]
    return adapter


def read_sampling(
    state: ServerState, context: RequestContext, body: schemas.ChatRequest | schemas.CompletionRequest, adapter: str
) -> Sampling:
    """Return how the answer is drawn, and note the fields that are left out. Raises `InvalidRequest` (400)."""
    note_left_out(context, body)
    if (constraint := constraint_of(body)) is not None:
        context.params |= dict.fromkeys(CONSTRAINTS, constraint.param)
    sampling = parse_sampling(body, state.defaults, adapter)
    if sampling.tools and sampling.tool_choice not in ("auto", "none"):
        context.params["json_schema"] = "tool_choice"  # a demanded call is JSON of a schema
    return sampling


def note_left_out(context: RequestContext, body: schemas.RequestModel, others: Sequence[str] = ()) -> None:
    """Name the fields that are left out, and `others`, in a header of the response.

    Raises `InvalidRequest` (400) for those refused.
    """
    if left_out := [*check_fields(body), *others]:
        context.headers[HEADER] = re.sub(r"[^\x20-\x7e]", "?", ", ".join(left_out))[:MOST_HEADER]


def check_count(state: ServerState, count: int, param: str) -> None:
    """Raise `InvalidRequest` (400) for more messages or texts than the server takes."""
    most = state.settings.max_messages
    if not 0 < count <= most:
        raise InvalidRequest(f"{param} has {count:,} entries; 1 to {most:,} are taken", param)


def check_line(state: ServerState, count: int, background: bool) -> None:
    """Raise `InvalidRequest` (400) for more answers than run at once, and `Rejected` (429) where they have no room."""
    if count > (most := state.settings.queue + state.line.places):
        raise InvalidRequest(f"the request asks for {count} answers; at most {most} are taken at once", "n")
    state.line.check_capacity(count, background)


def choice_count(state: ServerState, body: schemas.SamplingFields) -> int:
    """Return how many answers are asked for. Raises `InvalidRequest` (400) for too many."""
    count, most = body.n or 1, state.settings.max_choices
    if count > most:
        raise InvalidRequest(f"n is {count}; at most {most} answers to one request are given", "n")
    return count


def require_texts(given: str | list[str] | list[int] | list[list[int]], param: str) -> list[str]:
    """Return the texts of a field. Raises `InvalidRequest` (400) for tokens, and for a text that is empty."""
    found = [given] if isinstance(given, str) else given
    words = [text for text in found if isinstance(text, str)]
    if len(words) < len(found):
        raise InvalidRequest(
            f"{param}: send texts; tokens are not taken, since they would have to be this model's own "
            "(LangChain: check_embedding_ctx_length=False)",
            param,
            "unsupported_value",
        )
    if not all(words):
        at = param if isinstance(given, str) else f"{param}.{words.index('')}"
        raise InvalidRequest(f"{at} is an empty text", at)
    return words


def sampling_per_choice(sampling: Sampling, count: int) -> list[Sampling]:
    """How each of several answers is drawn: from its own seed, where one was given."""
    if sampling.seed is None or count == 1:
        return [sampling] * count
    return [replace(sampling, seed=sampling.seed + index) for index in range(count)]


def wants_usage(body: schemas.SamplingFields) -> bool:
    """Return whether a stream ends with the numbers of tokens."""
    return bool(body.stream and body.stream_options and body.stream_options.include_usage)
