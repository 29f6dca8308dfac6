"""/v1/chat/completions and /v1/completions: answers of the engine, whole or as a stream of server-sent events.

An error has its own status as long as nothing was sent: a stream begins with its first token, or `SEND_HEADERS_AFTER`
seconds after the engine took it up, so that a client that waits for a first byte gets one. What fails later is told in
the stream, as an event {"error": ...}.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from carellama.assistant import Assistant
from carellama.engine.base import Engine, PreparedPrompt, Reply, Sampling, offered_tools, room_for_answer
from carellama.errors import UserError
from carellama.records import Message
from carellama.safety.notices import known_country
from carellama.serve.api.errors import EVENT_STREAM, SSE_DONE, InvalidRequest, event, log_server_error, to_http_error
from carellama.serve.api.formatting import ChatFormatter, CompletionFormatter, ResponseFormatter
from carellama.serve.api.json_body import JsonRoute
from carellama.serve.api.middleware import RequestContext, ServerState
from carellama.serve.api.overflow import is_task
from carellama.serve.api.parsing import parse_messages, with_system
from carellama.serve.api.prompts import note_parts, prepare_chat, prepare_texts
from carellama.serve.api.response_schemas import ChatCompletionResponse, CompletionResponse
from carellama.serve.api.routes.context import (
    ERROR_RESPONSES,
    check_capacity,
    check_count,
    choice_count,
    context_of,
    read_sampling,
    resolve_model,
)
from carellama.serve.api.schemas import ChatRequest, CompletionRequest, SamplingFields
from carellama.serve.api.streaming import StreamPump, Submit

SEND_HEADERS_AFTER = 15.0  # seconds; browsers and proxies wait for a first byte for 60 s or so
KEEPALIVE_SECONDS = 10.0  # without a token, after which a stream gets a comment that keeps the connection open
COMMENT = b": the answer is being computed\n\n"
MAX_SSE_BATCH_BYTES = 16384  # of events that are sent together
router = APIRouter(route_class=JsonRoute)


@dataclass(frozen=True, slots=True)
class GenerationJob:
    """The answers to one request. `background`: no person waits for them; `compiles`: see `StreamPump`."""

    requests: Sequence[Submit]
    background: bool
    compiles: bool


class SSEResponse(Response):
    """Server-sent events, sent as they come."""

    media_type = EVENT_STREAM

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        self.status_code, self.background, self._events = 200, None, events
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})  # the latter is nginx's

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for part in self._events:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@router.post("/v1/chat/completions", response_model=ChatCompletionResponse, responses=ERROR_RESPONSES)
async def create_chat_completion(request: Request, body: ChatRequest) -> Response:
    """Answer a conversation."""
    state, context = context_of(request)
    job = await prepare_job(state, context, body)
    formatter = ChatFormatter(context.model, include_usage=wants_usage(body))
    return await run_generation(state, context, job, body, formatter)


@dataclass(frozen=True, slots=True)
class ChatTask:
    """A request for a chat as it was read. `consultant` answers it in mode consult; `engine` else."""

    engine: Engine
    consultant: Engine | None
    messages: list[Message]
    sampling: Sampling
    count: int  # of answers

    async def prepare(self, state: ServerState, context: RequestContext) -> tuple[PreparedPrompt, Sampling, int]:
        """Return the prompt, see `prepare_chat`."""
        return await prepare_chat(state, context, self.engine, self.messages, self.sampling, self.consultant)


async def read_chat(
    state: ServerState,
    context: RequestContext,
    body: ChatRequest,
    *,
    param: str = "messages",
    system: str | None = None,
) -> ChatTask:
    """Return what a request asks for. Raises `InvalidRequest` (400, 404).

    `param` is the name of the messages in errors; `system` goes before their system message.
    """
    adapter = await resolve_model(state, context, body.model)
    check_count(state, len(body.messages), param)
    pictures: Counter[str] = Counter()
    messages = with_system(parse_messages(body.messages, param, left_out=pictures), system)
    sampling = read_sampling(state, context, body, adapter)
    count = choice_count(state, body)
    consultant, engine = consultant_of(state, body, messages, sampling, count), state.engine
    if body.country is not None:
        engine, consultant = for_country(engine, body.country), consultant and for_country(consultant, body.country)
    note_parts(context, pictures)
    return ChatTask(engine, consultant, messages, sampling, count)


async def prepare_job(
    state: ServerState,
    context: RequestContext,
    body: ChatRequest,
    *,
    param: str = "messages",
    system: str | None = None,
) -> GenerationJob:
    """Return the answers to a conversation, whose prompt is counted and whose tokens are reserved; see `read_chat`."""
    task = await read_chat(state, context, body, param=param, system=system)
    count = task.count
    background = not body.stream or is_task(task.messages)
    check_capacity(state, count, background=background)  # a request without a slot costs no screening
    prompt, sampling, max_tokens = await task.prepare(state, context)
    await context.reserve("chat", [prompt.tokens], count, count * max_tokens)
    engine = task.consultant or task.engine
    requests = [partial(engine.submit, prompt, one) for one in sampling_per_choice(sampling, count)]
    return GenerationJob(requests, background, has_grammar(sampling))


def consultant_of(
    state: ServerState, body: ChatRequest, messages: Sequence[Message], sampling: Sampling, count: int
) -> Engine | None:
    """Return what answers in mode consult; None: the request is for mode answer.

    Requests of a front-end for itself (titles) are always answered. Raises `InvalidRequest` (400) for what a question
    or a report cannot have.
    """
    if (body.mode or state.mode) == "answer" or is_task(messages):
        return None
    if state.consultant is None:
        text = "mode consult looks for emergencies, and this server has --safety off; send mode: answer"
        raise InvalidRequest(text, "mode")
    unfit = {
        "n": count > 1,
        "tools": bool(offered_tools(sampling)),
        "response_format": sampling.constrained,
        "logprobs": sampling.top_logprobs is not None,
    }
    if found := next((name for name, given in unfit.items() if given), None):
        raise InvalidRequest(f"{found} has no meaning in mode consult, whose answers are questions and reports", found)
    return state.consultant


def for_country(engine: Engine, country: str) -> Engine:
    """Return an engine whose notices have a country's numbers. Raises `InvalidRequest` (400) for an unknown one."""
    try:
        country = known_country(country)
    except UserError as error:
        raise InvalidRequest(f"country: {error}", "country") from error
    return engine.for_country(country) if isinstance(engine, Assistant) else engine


@router.post("/v1/completions", response_model=CompletionResponse, responses=ERROR_RESPONSES)
async def create_completion(request: Request, body: CompletionRequest) -> Response:
    """Continue a text, which is no conversation."""
    state, context = context_of(request)
    adapter = await resolve_model(state, context, body.model)
    several = isinstance(body.prompt, list) and not any(isinstance(one, int) for one in body.prompt)
    check_count(state, len(body.prompt) if several else 1, "prompt")
    sampling = read_sampling(state, context, body, adapter)
    count = choice_count(state, body)
    prompts = await prepare_texts(state, body)
    longest = sampling.max_new_tokens
    rooms = [room_for_answer(one.tokens, longest, context.context_tokens) for one in prompts if one.prompt is not None]
    await context.reserve("chat", [one.tokens for one in prompts], count, count * sum(rooms))
    requests: list[Submit] = [
        partial(prompt.submit, state.engine, one, state.echo_pool)
        for prompt in prompts
        for one in sampling_per_choice(sampling, count)
    ]
    job = GenerationJob(requests, not body.stream, has_grammar(sampling))
    formatter = CompletionFormatter(context.model, include_usage=wants_usage(body))
    return await run_generation(state, context, job, body, formatter)


async def run_generation(
    state: ServerState,
    context: RequestContext,
    job: GenerationJob,
    body: SamplingFields,
    formatter: ResponseFormatter,
) -> Response:
    """Let the engine answer, and send what it says."""
    count = len(job.requests)
    check_capacity(state, count, background=job.background)
    pump = context.pump = StreamPump(
        job.requests,
        state.admission,
        context.usage.start,
        first_token_timeout=state.settings.first_token_timeout,
        deadline=context.deadline,
        background=job.background,
        compiles=job.compiles,
    )
    if body.stream:
        await pump.wait_first_event(SEND_HEADERS_AFTER)
        return SSEResponse(stream_events(context, pump, formatter, count))
    replies: dict[int, Reply] = {}
    async for got in pump.events():
        if got is not None:
            index, item = got
            context.record_event(index, item)
            if isinstance(item, Reply):
                replies[index] = item
    return JSONResponse(formatter.full_response([replies[index] for index in range(count)], context.usage.as_json()))


async def stream_events(
    context: RequestContext, pump: StreamPump, formatter: ResponseFormatter, count: int
) -> AsyncIterator[bytes]:
    """Yield the events of a stream; those that are there at the same time come together."""
    out = b"".join(formatter.event(each) for index in range(count) for each in formatter.first_chunks(index))
    sent = time.monotonic()
    try:
        if not pump.has_pending:  # `SEND_HEADERS_AFTER` seconds have passed without a byte
            yield COMMENT + out
            out = b""
        async for got in pump.events(KEEPALIVE_SECONDS):
            if got is None:
                yield out + COMMENT
                out, sent = b"", time.monotonic()
                continue
            index, item = got
            context.record_event(index, item)
            if isinstance(item, Reply):
                out += b"".join(map(formatter.event, formatter.last_chunks(index, item)))
            elif item.shows:
                out += b"".join(map(formatter.event, formatter.delta_chunk(index, item)))
            elif not out and time.monotonic() - sent >= KEEPALIVE_SECONDS:
                out = COMMENT  # a call is being written, which is sent as a whole
            if out and (not pump.has_pending or len(out) >= MAX_SSE_BATCH_BYTES):
                yield out
                out, sent = b"", time.monotonic()
    except Exception as error:  # noqa: BLE001 - every fault becomes the stream's last event
        context.status, body, _ = to_http_error(error, context.path, context.params)
        if context.status >= 500:
            log_server_error(context.id, error)
        yield out + event(body) + SSE_DONE
        return
    yield out + b"".join(map(formatter.event, formatter.usage_chunks(context.usage.as_json()))) + SSE_DONE


def sampling_per_choice(sampling: Sampling, count: int) -> list[Sampling]:
    """Return the sampling of each of several answers: with its own seed, where one was given."""
    if sampling.seed is None or count == 1:
        return [sampling] * count
    return [replace(sampling, seed=sampling.seed + index) for index in range(count)]


def has_grammar(sampling: Sampling) -> bool:
    """Return whether the answer is held to a grammar: to its own, or to that of a call."""
    return sampling.constrained or bool(offered_tools(sampling))


def wants_usage(body: SamplingFields) -> bool:
    """Return whether a stream ends with the numbers of tokens."""
    return bool(body.stream and body.stream_options and body.stream_options.include_usage)
