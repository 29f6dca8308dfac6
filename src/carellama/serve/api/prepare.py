"""Prompts before any work on them: rendered, tokenised and counted by the engine, in a thread.

    messages, tokens = await prepare_chat(service, messages, sampling)

The count is what the quota of a key reserves, so it is the engine's own, by its tokenizer and its chat template. An
engine whose server cannot count (`--engine openai` without /tokenize) estimates; the reply then corrects the number.
"""

from __future__ import annotations

from collections.abc import Sequence

from carellama.engine.base import Engine, PromptTooLong, Sampling, Unavailable, Unsupported, room_for_answer
from carellama.errors import UserError
from carellama.records import Message
from carellama.serve.api.messages import prepend_empty_user_turn, starts_with_assistant
from carellama.serve.api.middleware import ServerState
from carellama.serve.api.streaming import run_in_thread


async def prepare_chat(state: ServerState, messages: list[Message], sampling: Sampling) -> tuple[list[Message], int]:
    """Return a conversation in an order that the chat format takes, and the number of its tokens.

    A conversation that the assistant begins is put behind an empty user turn if the format demands it.
    """
    tools = () if sampling.tool_choice == "none" else sampling.tools
    engine = state.engine

    def count() -> tuple[list[Message], int]:
        try:
            return messages, engine.count_tokens(messages, tools)
        except (PromptTooLong, Unsupported, Unavailable):
            raise
        except UserError:
            if not starts_with_assistant(messages):
                raise
        fitting = prepend_empty_user_turn(messages)
        return fitting, engine.count_tokens(fitting, tools)

    return await run_in_thread(count)


async def check_room(
    state: ServerState, messages: Sequence[Message], tokens: int, sampling: Sampling, context_tokens: int | None
) -> int:
    """Return the most tokens that an answer may have. Raises `PromptTooLong`, with the share that tools have in it."""
    try:
        return answer_tokens(tokens, sampling, context_tokens)
    except PromptTooLong as error:
        if not sampling.tools or sampling.tool_choice == "none":
            raise
        alone = await run_in_thread(lambda: state.engine.count_tokens(messages))
        tools = (len(sampling.tools), tokens - alone)
        raise PromptTooLong(error.prompt_tokens, error.context_tokens, tools) from None


async def count_texts(state: ServerState, texts: Sequence[str], *, begin: bool = False) -> list[int]:
    """Return the number of tokens of each text, with `begin` as `Engine.tokenize` has it."""
    return await run_in_thread(lambda: [count_text(state.engine, text, begin=begin) for text in texts])


def count_text(engine: Engine, text: str, *, begin: bool = False) -> int:
    """Return the number of tokens of a text; an estimate if the engine cannot tokenise."""
    try:
        return len(engine.tokenize(text, begin=begin))
    except Unsupported:
        return engine.count_tokens([Message("user", text)])


def answer_tokens(prompt_tokens: int, sampling: Sampling, context_tokens: int | None) -> int:
    """Return the most tokens that an answer may have. Raises `PromptTooLong` when there is room for none."""
    return room_for_answer(prompt_tokens, sampling.max_new_tokens, context_tokens)
