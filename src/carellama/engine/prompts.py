"""Prompts of an engine: a conversation, a text or token ids, made ready for `submit`.

prompt = prepare_ids(prompt, render, tokenize, vocabulary=49152, context_tokens=8192)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from carellama.engine.base import PreparedPrompt, Prompt, room_for_answer
from carellama.errors import UserError


def prompt_parts(prompt: Prompt | str | Sequence[int]) -> tuple[Prompt | None, str, Sequence[int] | None]:
    """Return a prompt as a conversation, as a text, or as token ids; the other two are None or ""."""
    if isinstance(prompt, str):
        return None, prompt, None
    if len(prompt) > 0 and isinstance(prompt[0], int):
        return None, "", cast("Sequence[int]", prompt)
    return cast("Prompt", prompt), "", None


def prepare_ids(
    prompt: Prompt | str | Sequence[int],
    render: Callable[[Prompt], tuple[str, list[int]]],
    tokenize: Callable[[str], list[int]],
    *,
    vocabulary: int,
    context_tokens: int | None,
) -> PreparedPrompt:
    """Return a prompt with its ids, for an engine that tokenises here. `render`: text and ids of a conversation."""
    messages, text, given = prompt_parts(prompt)
    if messages is not None:
        text, ids = render(messages)
    else:
        ids = tokenize(text) if given is None else check_token_ids(given, vocabulary)
    room_for_answer(len(ids), None, context_tokens)
    return PreparedPrompt(messages=messages, text=text, ids=ids, tokens=len(ids))


def check_token_ids(ids: Sequence[int], vocabulary: int) -> list[int]:
    """Return the ids of a prompt. Raises `UserError` for an id that is not below `vocabulary`."""
    if strange := [token for token in ids if not 0 <= token < vocabulary]:
        raise UserError(f"the prompt has token {strange[0]}; this model has tokens 0 to {vocabulary - 1:,}")
    return list(ids)
