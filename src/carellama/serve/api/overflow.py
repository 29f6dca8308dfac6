"""What does not fit: tools for a model that knows none, too many tools, and conversations that fill the context.

    messages, dropped, sampling = await fit_to_model(service, call, messages, sampling)

Nothing is left out in silence: the response says it in a header, and the log too.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from carellama.engine.base import Engine, Sampling, Tool
from carellama.records import Message
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.middleware import RequestContext, ServerState
from carellama.serve.api.streaming import run_in_thread

log = logging.getLogger(__name__)

TOOLS_HEADER, TURNS_HEADER, PARTS_HEADER = "x-carellama-tools", "x-carellama-dropped-messages", "x-carellama-left-out"
TASK = "### Task:"  # Open WebUI begins its requests for titles, tags and follow-up questions with it
NO_PLACE = "the chat template has no place for tools, or its calls cannot be read (see --tools)"
ToolPolicy = Literal["auto", "always", "never"]
ANSWER_SHARE = 0.25  # of the context, that is kept free for an answer at most


async def fit_to_model(
    state: ServerState, context: RequestContext, messages: list[Message], sampling: Sampling
) -> tuple[list[Message], list[Message], Sampling]:
    """Return the turns that fit, the oldest ones that do not, and the sampling without tools that cannot be used.

    What is left out is named in headers of the response. Raises `InvalidRequest` (400) as `allowed_tools`.
    """
    settings, engine = state.settings, state.engine
    offered = len(sampling.tools)
    sampling, why = allowed_tools(sampling, settings.tools, engine.knows_tools)
    if why:
        context.headers[TOOLS_HEADER] = f"{offered} left out: {why}"
        log.info("%s: %d of %d tools left out: %s", context.id, offered, offered, why)
    limit = prompt_limit(sampling, context.context_tokens)
    if limit is None:
        return messages, [], sampling
    dropped: list[Message] = []
    may_cut = bool(sampling.tools) and sampling.tool_choice == "auto" and settings.tools == "auto"
    if settings.context_overflow == "drop_oldest":
        tools = () if may_cut or sampling.tool_choice == "none" else sampling.tools
        messages, dropped = await run_in_thread(partial(drop_oldest, engine, messages, tools, limit))
        if dropped:
            context.headers[TURNS_HEADER] = str(len(dropped))
            log.info("%s: the %d oldest messages are left out, as the context is full", context.id, len(dropped))
    if may_cut:
        fitting = await run_in_thread(lambda: tools_that_fit(engine, messages, sampling.tools, limit))
        if (cut := offered - len(fitting)) > 0:
            why = f"with the conversation they have more than {limit:,} tokens (see --tools)"
            context.headers[TOOLS_HEADER] = f"{cut} of {offered} left out: {why}"
            log.info("%s: %d of %d tools left out: %s", context.id, cut, offered, why)
            sampling = replace(sampling, tools=fitting)
    return messages, dropped, sampling


def note_parts(context: RequestContext, left_out: Counter[str]) -> None:
    """Say which pictures and the like of earlier messages are left out."""
    if left_out:
        said = ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in left_out.items())
        context.headers[PARTS_HEADER] = said
        log.info("%s: %s of earlier messages are left out: the model reads text only", context.id, said)


def is_task(messages: Sequence[Message]) -> bool:
    """Return whether a front-end asks for itself: a title, tags, follow-up questions."""
    return messages[-1].role == "user" and messages[-1].content.lstrip().startswith(TASK)


def allowed_tools(sampling: Sampling, policy: ToolPolicy, knows_tools: bool) -> tuple[Sampling, str]:
    """Return the sampling with the tools that the model is told of, and why some were left out, or "".

    Tools that a request demands are never left out. Raises `InvalidRequest` (400) where the server has --tools never.
    """
    if not sampling.tools or sampling.tool_choice == "none":
        return sampling, ""
    demanded = sampling.tool_choice != "auto"
    if policy == "never" and demanded:
        raise InvalidRequest("this server gives its model no tools (--tools never)", "tool_choice", "unsupported")
    if demanded or policy == "always" or (policy == "auto" and knows_tools):
        return sampling, ""
    why = "--tools never" if policy == "never" else NO_PLACE
    return replace(sampling, tools=()), why


def tools_that_fit(engine: Engine, messages: Sequence[Message], tools: Sequence[Tool], limit: int) -> tuple[Tool, ...]:
    """Return the tools that a prompt of at most `limit` tokens has room for beside the conversation, in their order.

    Those that the conversation has called come first, then the first ones offered. A conversation that is too long by
    itself leaves all of them, for the engine to refuse.
    """

    def fits(count: int) -> bool:
        return engine.count_tokens(messages, first(count)) <= limit

    called = {call.name for message in messages for call in message.calls}
    order = sorted(tools, key=lambda tool: tool.name not in called)

    def first(count: int) -> tuple[Tool, ...]:
        kept = {tool.name for tool in order[:count]}
        return tuple(tool for tool in tools if tool.name in kept)

    if fits(len(tools)) or not fits(0):
        return tuple(tools)
    low, high = 0, len(tools) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return first(low)


def prompt_limit(sampling: Sampling, context_tokens: int | None) -> int | None:
    """Return the most tokens of a prompt that leaves room for an answer; None: there is no limit."""
    if context_tokens is None:
        return None
    share = max(1, int(context_tokens * ANSWER_SHARE))
    return context_tokens - min(sampling.max_new_tokens or share, share)


def drop_oldest(
    engine: Engine, messages: Sequence[Message], tools: Sequence[Tool], limit: int
) -> tuple[list[Message], list[Message]]:
    """Return the conversation without its oldest turns, so that it has at most `limit` tokens, and those turns.

    The system message and the last turn stay, and a call of tools stays with its results. A conversation whose last
    turn is too long by itself is returned with that alone: the engine then refuses it.
    """
    if engine.count_tokens(messages, tools) <= limit:
        return list(messages), []
    head = [message for message in messages[:1] if message.role == "system"]
    rest = list(messages[len(head) :])
    starts = [index for index, message in enumerate(rest) if message.role == "user"] or [0]
    low, high = 0, len(starts) - 1  # the conversation from starts[high] on is what is left at least
    while low < high:
        middle = (low + high) // 2
        if engine.count_tokens([*head, *rest[starts[middle] :]], tools) <= limit:
            high = middle
        else:
            low = middle + 1
    return [*head, *rest[starts[low] :]], rest[: starts[low]]
