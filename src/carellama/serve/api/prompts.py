"""Prompts before any work on them: rendered, tokenised and counted by the engine, once and in a thread.

    prompt, sampling, max_tokens = await prepare_chat(state, context, engine, messages, sampling, consultant)
    prompts = await prepare_texts(state, body)

The count is what the quota of a key reserves. It is exact, but for an engine whose server cannot count (`--engine
openai` without /tokenize): that one estimates, and the reply corrects the number. A request that the safety layer
refuses is not counted: no engine and no endpoint gets it.

The prompts of /v1/completions are texts or token ids. A text is only text: `<|im_start|>` in it is not a token.
`parse_special: true` (or --parse_special) reads such strings as tokens, for clients that write the chat format
themselves. Token ids are used as they are.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from carellama.assistant import Assistant
from carellama.engine.base import (
    Engine,
    OnEvent,
    Piece,
    PreparedPrompt,
    Prompt,
    PromptTooLong,
    Reply,
    RequestHandle,
    Sampling,
    TokenLogprob,
    Tool,
    Unavailable,
    Unsupported,
    room_for_answer,
)
from carellama.engine.generate import stream
from carellama.engine.worker_pool import WorkerPool, read_pieces
from carellama.errors import UserError
from carellama.records import Message
from carellama.safety.layer import Screening
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.middleware import RequestContext, ServerState
from carellama.serve.api.overflow import allowed_tools, fit_prompt, prompt_limit
from carellama.serve.api.parsing import prepend_empty_user_turn, starts_with_assistant
from carellama.serve.api.schemas import CompletionRequest
from carellama.serve.api.streaming import run_in_thread

log = logging.getLogger(__name__)
TOOLS_HEADER, TURNS_HEADER, PARTS_HEADER = "x-carellama-tools", "x-carellama-dropped-messages", "x-carellama-left-out"


async def prepare_chat(
    state: ServerState,
    context: RequestContext,
    engine: Engine,
    messages: list[Message],
    sampling: Sampling,
    consultant: Engine | None = None,
) -> tuple[PreparedPrompt, Sampling, int]:
    """Return a conversation as the engine's prompt, the sampling with the tools that fit, and an answer's most tokens.

    What is left out is named in headers of the response. Raises `PromptTooLong`, and `InvalidRequest` (400) as
    `allowed_tools`.
    """
    settings = state.settings
    screening = await run_in_thread(partial(engine.screen, messages)) if isinstance(engine, Assistant) else None
    prepare = partial(_prepare, consultant or engine, screening)
    if screening and screening.refusal is not None:
        return await run_in_thread(partial(prepare, messages, ())), sampling, 0
    offered, limit = len(sampling.tools), prompt_limit(sampling, context.context_tokens)
    drop = cut = False
    if consultant is None:  # the state of a consultation is made of all turns
        sampling, reason = allowed_tools(sampling, settings.tools, knows_tools=engine.knows_tools)
        if reason:
            _note_tools(context, str(offered), offered, offered, reason)
        drop = settings.context_overflow == "drop_oldest"
        cut = bool(sampling.tools) and sampling.tool_choice == "auto" and settings.tools == "auto"
    try:
        made = await run_in_thread(
            partial(fit_prompt, prepare, messages, sampling, limit if drop or cut else None, drop=drop, cut=cut)
        )
    except PromptTooLong:
        if screening:  # for the body of the error
            context.record_event(0, Piece(notices=screening.notices))
        raise
    if made.dropped:
        context.headers[TURNS_HEADER] = str(made.dropped)
        log.info("%s: the %d oldest messages are left out, as the context is full", context.id, made.dropped)
    if cut and (left_out := offered - len(made.tools)):
        reason = f"with the conversation they have more than {limit:,} tokens (see --tools)"
        _note_tools(context, f"{left_out} of {offered}", left_out, offered, reason)
        sampling = replace(sampling, tools=made.tools)
    context_tokens = context.context_tokens if consultant is None else consultant.context_tokens
    return made.prompt, sampling, room_for_answer(made.prompt.tokens, sampling.max_new_tokens, context_tokens)


def _prepare(engine: Engine, screening: Screening | None, messages: Prompt, tools: Sequence[Tool]) -> PreparedPrompt:
    """Prepare a conversation; one that the assistant begins follows an empty user turn if the format demands it."""
    prepare = engine.prepare
    if isinstance(engine, Assistant):
        prepare = partial(engine.prepare, screening=screening)
    try:
        return prepare(messages, tools)
    except (PromptTooLong, Unsupported, Unavailable):
        raise
    except UserError:
        if not starts_with_assistant(messages):
            raise
    return prepare(prepend_empty_user_turn(messages), tools)


def note_parts(context: RequestContext, left_out: Counter[str]) -> None:
    """Report in a header which pictures and the like of earlier messages are left out."""
    if left_out:
        parts = ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in left_out.items())
        context.headers[PARTS_HEADER] = parts
        log.info("%s: %s of earlier messages are left out: the model reads text only", context.id, parts)


def _note_tools(context: RequestContext, some: str, left_out: int, offered: int, reason: str) -> None:
    context.headers[TOOLS_HEADER] = f"{some} left out: {reason}"
    log.info("%s: %d of %d tools left out: %s", context.id, left_out, offered, reason)


def count_text(engine: Engine, text: str) -> int:
    """Return the number of tokens of a text; an estimate if the engine cannot tokenise."""
    try:
        return len(engine.tokenize(text))
    except Unsupported:
        return engine.prepare(text).tokens


@dataclass(frozen=True, slots=True)
class CompletionPrompt:
    """A prompt of a completion: `echo` is sent before the answer, `prompt` is None where only the echo is asked for.

    `scored`: the number of the likeliest tokens in place of each of its own, `ids`; None: it is not scored.
    """

    tokens: int
    prompt: PreparedPrompt | None
    echo: str = ""
    ids: Sequence[int] = ()
    scored: int | None = None

    def submit(self, engine: Engine, sampling: Sampling, pool: WorkerPool, on_event: OnEvent) -> RequestHandle:
        """Answer it; an echo is read and scored in a thread of the pool."""
        if self.prompt is not None and not self.echo:
            return engine.submit(self.prompt, sampling, on_event)
        return pool.submit(read_pieces(partial(self._stream, engine, sampling)), on_event)

    def _stream(self, engine: Engine, sampling: Sampling) -> Generator[Piece, None, Reply]:
        logprobs: tuple[TokenLogprob, ...] = ()
        if self.scored is not None:
            logprobs = tuple((yield from engine.prompt_logprobs(self.ids, self.scored, sampling.adapter)))
        yield Piece(self.echo, logprobs=logprobs, of_prompt=True)
        reply = Reply("", "length", self.tokens, 0)
        if self.prompt is not None:
            reply = yield from stream(engine, self.prompt, sampling)
        return replace(reply, text=self.echo + reply.text, logprobs=(*logprobs, *reply.logprobs))


async def prepare_texts(state: ServerState, body: CompletionRequest) -> list[CompletionPrompt]:
    """Return the prompts of a request. Raises `InvalidRequest` (400) for an empty one, and `PromptTooLong`."""
    parse_special = state.settings.parse_special if body.parse_special is None else body.parse_special
    begin = body.add_special_tokens is not False
    given = _listed(body.prompt)
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequest("max_tokens is 0: send echo: true to get the prompt, or at least 1", "max_tokens")
    for index, one in enumerate(given):
        if not one:
            param = "prompt" if len(given) == 1 else f"prompt.{index}"
            raise InvalidRequest(f"{param} is an empty text", param)
    scored = body.logprobs if body.echo else None
    needs_ids = parse_special or not begin or scored is not None

    def prepare(one: str | list[int]) -> CompletionPrompt:
        engine = state.engine
        ids = engine.tokenize(one, begin=begin, marks=parse_special) if isinstance(one, str) and needs_ids else one
        echo = "" if not body.echo else one if isinstance(one, str) else engine.detokenize(one)
        prompt: PreparedPrompt | None = None
        try:
            prompt = engine.prepare(ids)
            tokens = prompt.tokens
        except PromptTooLong as error:
            tokens = error.prompt_tokens
            if body.max_tokens != 0 or tokens > error.context_tokens:
                raise
        if body.max_tokens == 0:
            prompt = None
        return CompletionPrompt(tokens, prompt, echo, ids if isinstance(ids, list) else (), scored)

    return await run_in_thread(lambda: [prepare(one) for one in given])


def _listed(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """The prompts of a field that has one or several."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(isinstance(one, int) for one in prompt):
        return [[one for one in prompt if isinstance(one, int)]]
    return [one for one in prompt if not isinstance(one, int)]
