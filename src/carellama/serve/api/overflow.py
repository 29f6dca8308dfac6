"""What does not fit: tools for a model that knows none, too many tools, and conversations that fill the context.

    made = fit_prompt(prepare, messages, sampling, limit, drop=True, cut=True)

Nothing is left out in silence: the response says it in a header, and the log too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from carellama.engine.base import PreparedPrompt, Prompt, PromptTooLong, Sampling, Tool, offered_tools
from carellama.records import Message
from carellama.serve.api.errors import InvalidRequest

TASK = "### Task:"  # Open WebUI begins its requests for titles, tags and follow-up questions with it
NO_PLACE = "the chat template has no place for tools, or its calls cannot be read (see --tools)"
ToolPolicy = Literal["auto", "always", "never"]
ANSWER_SHARE = 0.25  # of the context, that is kept free for an answer at most
Prepare = Callable[[Prompt, Sequence[Tool]], PreparedPrompt]
Count = Callable[[Prompt, Sequence[Tool]], int]  # tokens of messages and tools


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt that the model has room for, its tools, and how many messages are left out."""

    prompt: PreparedPrompt
    tools: tuple[Tool, ...]
    dropped: int = 0


def fit_prompt(
    prepare: Prepare, messages: Sequence[Message], sampling: Sampling, limit: int | None, *, drop: bool, cut: bool
) -> FittedPrompt:
    """Return a conversation as a prompt of at most `limit` tokens, without what does not fit.

    `drop`: its oldest turns may be left out; `cut`: tools may; without a limit neither. Raises `PromptTooLong` with the
    share of the tools.
    """
    tools = offered_tools(sampling)
    dropped: list[Message] = []

    def count(messages: Prompt, tools: Sequence[Tool]) -> int:
        try:
            return prepare(messages, tools).tokens
        except PromptTooLong as error:
            return error.prompt_tokens

    try:
        prompt = prepare(messages, tools)
        if limit is None or prompt.tokens <= limit:
            return FittedPrompt(prompt, tools)
    except PromptTooLong as error:
        if limit is None:
            raise _with_tools(error, tools, count, messages) from None
    if drop:
        messages, dropped = drop_oldest(count, messages, () if cut else tools, limit)
    if cut:
        tools = tools_that_fit(count, messages, tools, limit)
    try:
        return FittedPrompt(prepare(messages, tools), tools, len(dropped))
    except PromptTooLong as error:
        raise _with_tools(error, tools, count, messages) from None


def _with_tools(error: PromptTooLong, tools: Sequence[Tool], count: Count, messages: Prompt) -> PromptTooLong:
    if not tools:
        return error
    share = (len(tools), error.prompt_tokens - count(messages, ()))
    return PromptTooLong(error.prompt_tokens, error.context_tokens, share)


def is_task(messages: Sequence[Message]) -> bool:
    """Return whether a front-end asks for itself: a title, tags, follow-up questions."""
    return messages[-1].role == "user" and messages[-1].content.lstrip().startswith(TASK)


def allowed_tools(sampling: Sampling, policy: ToolPolicy, *, knows_tools: bool) -> tuple[Sampling, str]:
    """Return the sampling with the tools that the model is told of, and why some were left out, or "".

    Tools that a request demands are never left out. Raises `InvalidRequest` (400) where the server has --tools never.
    """
    if not offered_tools(sampling):
        return sampling, ""
    demanded = sampling.tool_choice != "auto"
    if policy == "never" and demanded:
        raise InvalidRequest("this server gives its model no tools (--tools never)", "tool_choice", "unsupported")
    if demanded or policy == "always" or (policy == "auto" and knows_tools):
        return sampling, ""
    return replace(sampling, tools=()), "--tools never" if policy == "never" else NO_PLACE


def tools_that_fit(count: Count, messages: Sequence[Message], tools: Sequence[Tool], limit: int) -> tuple[Tool, ...]:
    """Return the tools that a prompt of at most `limit` tokens has room for beside the conversation, in their order.

    Those that the conversation has called come first, then the first ones offered. A conversation that is too long by
    itself leaves all of them, for the engine to refuse.
    """
    called = {call.name for message in messages for call in message.calls}
    order = sorted(tools, key=lambda tool: tool.name not in called)

    def first(number: int) -> tuple[Tool, ...]:
        kept = {tool.name for tool in order[:number]}
        return tuple(tool for tool in tools if tool.name in kept)

    def fits(number: int) -> bool:
        return count(messages, first(number)) <= limit

    if fits(len(tools)) or not fits(0):
        return tuple(tools)
    return first(bisect_left(range(1, len(tools)), 1, key=lambda number: not fits(number)))


def prompt_limit(sampling: Sampling, context_tokens: int | None) -> int | None:
    """Return the most tokens of a prompt that leaves room for an answer; None: there is no limit."""
    if context_tokens is None:
        return None
    share = max(1, int(context_tokens * ANSWER_SHARE))
    return context_tokens - min(sampling.max_new_tokens or share, share)


def drop_oldest(
    count: Count, messages: Sequence[Message], tools: Sequence[Tool], limit: int
) -> tuple[list[Message], list[Message]]:
    """Return the conversation without its oldest turns, so that it has at most `limit` tokens, and those turns.

    The system message and the last turn stay, and a call of tools stays with its results. A conversation whose last
    turn is too long by itself is returned with that alone: the engine then refuses it.
    """
    if count(messages, tools) <= limit:
        return list(messages), []
    head = [message for message in messages[:1] if message.role == "system"]
    rest = list(messages[len(head) :])
    starts = [index for index, message in enumerate(rest) if message.role == "user"] or [0]
    start = bisect_left(starts[:-1], 1, key=lambda start: count([*head, *rest[start:]], tools) <= limit)
    return [*head, *rest[starts[start] :]], rest[: starts[start]]
