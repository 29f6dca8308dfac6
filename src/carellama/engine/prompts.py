"""Prompts of an engine: a conversation, a text or token ids, made ready for `submit`.

prompt = prepare_ids(prompt, render, tokenize, vocabulary=49152, context_tokens=8192)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from carellama.engine.base import PreparedPrompt, Prompt, PromptTooLong, Sampling, room_for_answer
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


def check_token_ids(ids: Sequence[int], vocabulary: int, what: str = "the prompt has") -> list[int]:
    """Return the ids of a prompt. Raises `UserError` for an id that is not below `vocabulary`."""
    if strange := [token for token in ids if not 0 <= token < vocabulary]:
        raise UserError(f"{what} token {strange[0]}; this model has tokens 0 to {vocabulary - 1:,}")
    return list(ids)


def check_sampled_tokens(sampling: Sampling, vocabulary: int) -> None:
    """Raise `UserError` for fields of a sampling that name a token that the model does not have."""
    check_token_ids(sampling.stop_token_ids, vocabulary, "stop_token_ids names")
    check_token_ids([token for token, _ in sampling.logit_bias], vocabulary, "logit_bias names")


def check_scored_ids(ids: Sequence[int], vocabulary: int, context_tokens: int | None) -> list[int]:
    """Return the ids of a prompt whose tokens are scored. Raises `UserError` for none, and for too many."""
    known = check_token_ids(ids, vocabulary)
    if not known:
        raise UserError("the prompt has no token")
    if context_tokens is not None and len(known) > context_tokens:
        raise PromptTooLong(len(known), context_tokens)
    return known
