"""Answers as OpenAI's API writes them: whole, or as the chunks of a stream. Their types are
in `serve.api.response_schemas`.

formatter = ChatFormatter("carellama", include_usage=True)
formatter.delta_chunk(0, Piece("Rest."))      # [{"object": "chat.completion.chunk", "choices": [...], ...}]
"""

from __future__ import annotations

import math
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from carellama.engine.base import Piece, Reply, TokenLogprob
from carellama.engine.token_text import named, raw_bytes, shown
from carellama.records import JSONObject
from carellama.serve.api.errors import event

BROKEN = "\ufffd"  # in the text of a token that is part of a character
MIN_LOGPROB = -9999.0  # instead of minus infinity, which JSON has no word for; OpenAI's own


def finite_logprob(value: float) -> float:
    """A log-probability that JSON can write."""
    return value if math.isfinite(value) else MIN_LOGPROB


def safety_fields(part: Piece | Reply) -> JSONObject:
    """The fields `notices` and `consultation` of a message or a delta, each where there is something to say."""
    found: JSONObject = {"notices": [notice.as_json() for notice in part.notices]} if part.notices else {}
    return found if part.consultation is None else found | {"consultation": part.consultation}


class ResponseFormatter(ABC):
    """How the answers to one request are written: whole, or as the events of a stream."""

    def first_chunks(self, index: int) -> list[JSONObject]:
        """What an answer begins with."""
        return []

    def event(self, data: JSONObject) -> bytes:
        """A server-sent event."""
        return event(data)

    @abstractmethod
    def full_response(self, replies: Sequence[Reply], usage: JSONObject) -> JSONObject:
        """The answers in one piece."""

    @abstractmethod
    def delta_chunk(self, index: int, piece: Piece) -> list[JSONObject]:
        """What a stream has for a piece of an answer."""

    @abstractmethod
    def last_chunks(self, index: int, reply: Reply) -> list[JSONObject]:
        """What a stream has for the end of an answer."""

    @abstractmethod
    def usage_chunks(self, usage: JSONObject) -> list[JSONObject]:
        """What a stream ends with, after all answers."""


class ChoiceFormatter(ResponseFormatter):
    """What chat and completion share: answers are choices of one object."""

    prefix, whole_object, chunk_object = "", "", ""

    def __init__(self, model: str, *, include_usage: bool = False) -> None:
        self.include_usage = include_usage
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._frame = {"id": self.id, "object": self.chunk_object, "created": int(time.time()), "model": model}

    def chunk(self, choices: list[JSONObject], usage: JSONObject | None = None) -> JSONObject:
        """A chunk of a stream; where usage was asked for, all have the field and the last its value."""
        return {**self._frame, "choices": choices} | ({"usage": usage} if self.include_usage else {})

    def full_response(self, replies: Sequence[Reply], usage: JSONObject) -> JSONObject:
        """The answer in one piece."""
        choices = [self.full_choice(index, reply) for index, reply in enumerate(replies)]
        return self._frame | {"object": self.whole_object, "choices": choices, "usage": usage}

    def usage_chunks(self, usage: JSONObject) -> list[JSONObject]:
        """The tokens, where they were asked for."""
        return [self.chunk([], usage)] if self.include_usage else []

    @abstractmethod
    def full_choice(self, index: int, reply: Reply) -> JSONObject:
        """A whole answer."""


class ChatFormatter(ChoiceFormatter):
    """/v1/chat/completions."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, model: str, *, include_usage: bool = False) -> None:
        super().__init__(model, include_usage=include_usage)
        self._calls: dict[int, int] = {}  # calls told of each answer

    def first_chunks(self, index: int) -> list[JSONObject]:
        """The role."""
        return [self._delta(index, {"role": "assistant", "content": ""})]

    def delta_chunk(self, index: int, piece: Piece) -> list[JSONObject]:
        """A delta."""
        delta: JSONObject = {}
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.call is not None:
            number = self._calls.get(index, 0)
            self._calls[index] = number + 1
            delta["tool_calls"] = [{"index": number, **piece.call.to_openai()}]
        delta |= safety_fields(piece)
        if piece.text or not delta:
            delta["content"] = piece.text
        return [self._delta(index, delta, _logprobs(piece.logprobs) if piece.logprobs else None)]

    def last_chunks(self, index: int, reply: Reply) -> list[JSONObject]:
        """An empty delta with the reason."""
        return [self._delta(index, {}, finish=reply.finish_reason)]

    def full_choice(self, index: int, reply: Reply) -> JSONObject:
        """A message."""
        message: JSONObject = {"role": "assistant", "content": reply.text, "refusal": None}
        if reply.calls:
            message["tool_calls"] = [call.to_openai() for call in reply.calls]
            message["content"] = reply.text or None
        if reply.reasoning:
            message["reasoning_content"] = reply.reasoning
        message |= safety_fields(reply)
        logprobs = _logprobs(reply.logprobs) if reply.logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reply.finish_reason}

    def _delta(
        self, index: int, delta: JSONObject, logprobs: JSONObject | None = None, finish: str | None = None
    ) -> JSONObject:
        return self.chunk([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}])


class CompletionFormatter(ChoiceFormatter):
    """/v1/completions. An echo of the prompt is a part of the answer's text."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str, *, include_usage: bool = False) -> None:
        super().__init__(model, include_usage=include_usage)
        self._said: dict[int, int] = {}  # characters told of each answer
        self._next: dict[int, int] = {}  # where the next token of each begins; ahead of `_said` where text is held back

    def delta_chunk(self, index: int, piece: Piece) -> list[JSONObject]:
        """A piece of the text."""
        said, at = self._said.get(index, 0), self._next.get(index, 0)
        starts, at = offsets(piece.logprobs, piece.text, said, at)
        self._said[index] = said + len(piece.text)
        self._next[index] = max(at, self._said[index])
        logprobs = _legacy_logprobs(piece.logprobs, starts) if piece.logprobs else None
        return [self._text(index, piece.text, logprobs)]

    def last_chunks(self, index: int, reply: Reply) -> list[JSONObject]:
        """An empty text with the reason."""
        return [self._text(index, "", finish=reply.finish_reason)]

    def full_choice(self, index: int, reply: Reply) -> JSONObject:
        """A text."""
        starts, _ = offsets(reply.logprobs, reply.text, 0, 0)
        logprobs = _legacy_logprobs(reply.logprobs, starts) if reply.logprobs else None
        return {"index": index, "text": reply.text, "logprobs": logprobs, "finish_reason": reply.finish_reason}

    def _text(self, index: int, text: str, logprobs: JSONObject | None = None, finish: str | None = None) -> JSONObject:
        return self.chunk([{"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}])


def logprobs_of(tokens: Sequence[TokenLogprob]) -> list[JSONObject]:
    """The log-probabilities of tokens, each with the likeliest in its place."""
    return [
        {**_logprob(one.token, one.logprob), "top_logprobs": [_logprob(*likely) for likely in one.top]}
        for one in tokens
    ]


def _logprobs(tokens: Sequence[TokenLogprob]) -> JSONObject:
    return {"content": logprobs_of(tokens), "refusal": None}


def _logprob(token: str, logprob: float) -> JSONObject:
    raw = raw_bytes(token)
    return {
        "token": shown(token),
        "logprob": finite_logprob(logprob),
        "bytes": list(raw) if raw is not None else None,
    }


def _likeliest(token: TokenLogprob) -> JSONObject:
    """The likeliest tokens and the token itself, as OpenAI has it. Of those with the same name the likeliest counts."""
    found: JSONObject = {}
    for text, logprob in (*token.top, (token.token, token.logprob)):
        found.setdefault(named(text), finite_logprob(logprob))
    return found


def offsets(tokens: Sequence[TokenLogprob], text: str, text_at: int, at: int) -> tuple[list[int], int]:
    """Return where each token begins, the first of them at `at`, and where the next one does.

    `text` is what came with them, and begins at `text_at`. Tokens that are parts of a character all begin with it; the
    first token behind them is looked for in the text.
    """
    starts = []
    broken = False
    for token in (shown(one.token) for one in tokens):
        if broken and token and BROKEN not in token:
            found = text.find(token, max(0, at - text_at))
            at, broken = (text_at + found if found >= 0 else at), False
        starts.append(at)
        at += len(token.replace(BROKEN, ""))
        broken = broken or BROKEN in token
    return starts, at


def _legacy_logprobs(tokens: Sequence[TokenLogprob], starts: Sequence[int]) -> JSONObject:
    return {
        "tokens": [named(one.token) for one in tokens],
        "token_logprobs": [None if math.isnan(one.logprob) else finite_logprob(one.logprob) for one in tokens],
        "top_logprobs": [None if math.isnan(one.logprob) else _likeliest(one) for one in tokens],
        "text_offset": list(starts),
    }
