"""What an OpenAI-compatible server answers: events as pieces, and refusals as errors of one line.

    reader = ResponseAssembler("localhost:8000", sampling)
    pieces = list(reader.add_event(event)) + list(reader.end()); reply = reader.reply()

The sentences of a server stand in no error: they may repeat the prompt. Two numbers are read out of them, the lengths
of a prompt that is too long.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from carellama.engine.base import FinishReason, Piece, Reply, Sampling, TokenLogprob, Unavailable, Unsupported
from carellama.engine.token_text import told_text
from carellama.errors import UserError
from carellama.files import print_status
from carellama.records import JSONObject, ToolCall

if TYPE_CHECKING:
    import httpx2

LENGTH_ERROR_STATUSES = (400, 413, 422)
DRAIN_SECONDS = 0.1  # waited for the end of a response after its last event, so that its connection is used again
_NUMBER = r"(\d[\d,]*)"
# How servers say it, by their wording of 2023-2026: OpenAI, vLLM, SGLang, llama.cpp, TGI, Mistral, xAI, CareLlama.
CONTEXT = [
    rf"(?:context (?:length|size|window)|model length|prompt length)\D{{0,30}}?{_NUMBER}",
    rf"{_NUMBER} maximum context length",
    rf"must (?:be <=|have less than) {_NUMBER}",
    rf"the model takes {_NUMBER}",
]
PROMPT = [
    rf"{_NUMBER} (?:tokens )?(?:in|from) the (?:input )?(?:messages|prompt)",
    rf"resulted in {_NUMBER}",
    rf"(?:contains|has) (?:at least )?{_NUMBER} (?:input )?tokens",
    rf"(?:prompt \(length|input length \(|input \(|request \(|Given:) ?{_NUMBER}",
]


class ContextLengthExceeded(Exception):
    """A prompt that is too long by the server's words; `prompt_tokens` is None where it does not count them."""

    def __init__(self, prompt_tokens: int | None, context_tokens: int) -> None:
        super().__init__("the prompt is too long")
        self.prompt_tokens, self.context_tokens = prompt_tokens, context_tokens


class ResponseAssembler:
    """Puts an answer together, from the events of a stream or from one whole answer."""

    def __init__(self, host: str, sampling: Sampling) -> None:
        self.host, self.sampling = host, sampling
        self.text = self.reasoning = ""
        self.finish: str | None = None
        self.usage: JSONObject = {}
        self.logprobs: list[TokenLogprob] = []
        self.calls: list[ToolCall] = []
        self._parts: dict[int, dict[str, str]] = {}  # calls whose arguments may not be whole

    def add_event(self, event: JSONObject) -> Iterator[Piece]:
        """Yield what an event, or a whole answer, adds. Raises `Unavailable` for one that tells of an error."""
        if event.get("error"):
            raise Unavailable(f"{self.host} reports an error in its answer{error_code_suffix(event)}")
        self.usage = event.get("usage") or self.usage
        try:
            for choice in event.get("choices") or ():
                self.finish = choice.get("finish_reason") or self.finish
                if (piece := self._piece(choice)) != Piece():
                    self.text += piece.text
                    self.reasoning += piece.reasoning
                    self.logprobs += piece.logprobs
                    yield piece
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.host} does not answer as this protocol does; check --endpoint") from error

    def end(self) -> Iterator[Piece]:
        """Yield the calls, which are whole now."""
        for _, part in sorted(self._parts.items()):
            call = ToolCall(part["id"], part["name"], part["arguments"] or "{}")
            self.calls.append(call)
            yield Piece(call=call)

    def reply(self) -> Reply:
        """The whole answer; 0 tokens where the server does not count them."""
        finish: FinishReason = "length" if self.finish == "length" else "stop"
        if self.calls:
            finish = "tool_calls"
        if self.finish == "content_filter":
            print_status(f"{self.host} cut an answer short by its content filter")
        return Reply(
            self.text,
            finish,
            int(self.usage.get("prompt_tokens") or 0),
            int(self.usage.get("completion_tokens") or 0),
            self.reasoning,
            tuple(self.logprobs),
            tuple(self.calls),
        )

    def _piece(self, choice: JSONObject) -> Piece:
        said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
        for place, part in enumerate(said.get("tool_calls") or ()):
            self._add_call(part.get("index", place), part)
        reasoning = said.get("reasoning_content") or said.get("reasoning") or ""
        logprobs = _logprobs(choice.get("logprobs"), self.sampling.top_logprobs)
        return Piece(said.get("content") or "", reasoning, tuple(logprobs))

    def _add_call(self, index: int, part: JSONObject) -> None:
        known = self._parts.setdefault(index, {"id": "", "name": "", "arguments": ""})
        function = part.get("function") or {}
        known["id"] = part.get("id") or known["id"]
        known["name"] = function.get("name") or known["name"]
        arguments = function.get("arguments") or ""
        known["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _logprobs(given: object, count: int | None) -> Iterator[TokenLogprob]:
    """Log-probabilities in the form of /v1/chat/completions, and in that of /v1/completions."""
    if count is None or not isinstance(given, dict):
        return
    if given.get("content"):
        rows = [
            (
                told_text(row["token"], row.get("bytes")),
                row["logprob"],
                [(told_text(one["token"], one.get("bytes")), one["logprob"]) for one in row.get("top_logprobs") or ()],
            )
            for row in given["content"]
        ]
    else:
        tops = given.get("top_logprobs") or [None] * len(given.get("tokens") or ())
        rows = [
            (told_text(token), logprob, [(told_text(word), value) for word, value in (top or {}).items()])
            for token, logprob, top in zip(
                given.get("tokens") or (), given.get("token_logprobs") or (), tops, strict=True
            )
        ]
    for token, logprob, top in rows:
        likeliest = sorted(top, key=lambda one: -one[1])[:count]
        yield TokenLogprob(token, min(0.0, logprob), tuple((word, min(0.0, value)) for word, value in likeliest))


def parse_context_lengths(answer: object) -> tuple[int | None, int] | None:
    """(tokens of the prompt, of the context) by an error; None where it is about something else."""
    error = answer.get("error", answer) if isinstance(answer, dict) else None
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict):
        return None
    if isinstance(error.get("n_prompt_tokens"), int) and isinstance(error.get("n_ctx"), int):  # llama.cpp
        return error["n_prompt_tokens"], error["n_ctx"]
    message = str(error.get("message") or "")
    context = _number(CONTEXT, message)
    return None if context is None else (_number(PROMPT, message), context)


def _number(patterns: list[str], text: str) -> int | None:
    found = next((match for pattern in patterns if (match := re.search(pattern, text, re.IGNORECASE))), None)
    return int(found[1].replace(",", "")) if found else None


def error_code_suffix(answer: object) -> str:
    """` (code)` of an error, where it is a short word."""
    error = answer.get("error") if isinstance(answer, dict) else None
    code = (error.get("code") or error.get("type")) if isinstance(error, dict) else None
    word = str(code or "")
    return f" ({word})" if word and len(word) <= 60 and word.replace("_", "").replace("-", "").isalnum() else ""


async def error_of_response(host: str, path: str, model: str, response: httpx2.Response) -> UserError:
    """The error for a status that is no success. Raises `ContextLengthExceeded` where the prompt is too long."""
    await response.aread()
    status, answer = response.status_code, None
    with suppress(ValueError):
        answer = response.json()
    if status in LENGTH_ERROR_STATUSES and (found := parse_context_lengths(answer)):
        raise ContextLengthExceeded(*found)
    if status in (401, 403):
        hint = "set CARELLAMA_API_KEY or OPENAI_API_KEY to one that it takes"
        return Unavailable(f"{host} refuses the key ({status}): {hint}")
    code = error_code_suffix(answer)
    if status == 501 or code.startswith(" (unsupported"):
        return Unsupported(f"{host} does not do what was asked of it ({status}{code})")
    if status == 404:
        hint = "check the model's name and --endpoint"
        return Unavailable(f"{host} has no model {model!r}, or no {path} (404{code}): {hint}")
    return UserError(f"{host} answers {status} {response.reason_phrase}{code}")


async def events(response: httpx2.Response, host: str) -> AsyncIterator[JSONObject]:
    """The events of a streamed answer; a server that does not stream gives one, the whole answer."""
    if "text/event-stream" not in response.headers.get("content-type", ""):
        answer = parse_json_object((await response.aread()).decode("utf-8", "replace"), host)
        if not isinstance(answer.get("choices"), list) and not answer.get("error"):
            raise UserError(f"{host} does not answer as this protocol does; check --endpoint")
        for choice in answer.get("choices") or ():
            choice["finish_reason"] = choice.get("finish_reason") or "stop"
        yield answer
        return
    lines = _lines(response)
    async for line in lines:
        if not line.startswith("data:"):
            continue
        data = line[len("data:") :].strip()
        if data == "[DONE]":
            break
        if data:
            yield parse_json_object(data, host)
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in lines:
                pass


async def _lines(response: httpx2.Response) -> AsyncIterator[str]:
    """The lines of a response. `aiter_lines` also ends them at U+2028 and U+0085, which JSON may hold as they are."""
    held = b""
    async for part in response.aiter_bytes():
        *whole, held = (held + part).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace")
    yield held.decode("utf-8", "replace")


def parse_json_object(text: str, host: str) -> JSONObject:
    """A JSON object. Raises `UserError` for anything else."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{host} does not answer with JSON; check --endpoint")
    return found


def choice_logprobs(top: Sequence[tuple[str, float]], choices: Sequence[str]) -> list[float]:
    """The log-probability of each choice, see `OpenAIEngine.logprobs`."""
    found: list[float | None] = []
    for choice in choices:
        same = [value for token, value in top if token == choice] or [
            value for token, value in top if token.strip() == choice.strip()
        ]
        longest = max((len(token) for token, _ in top if token and choice.startswith(token)), default=0)
        first = [value for token, value in top if longest and token == choice[:longest]]
        found.append(max(same or first, default=None))
    missing = found.count(None)
    left = max(1e-9, 1 - sum(math.exp(value) for _, value in top))
    bound = min(min(value for _, value in top), math.log(left / max(1, missing)))
    return [bound if value is None else value for value in found]


def normalize_vector(vector: Sequence[float]) -> list[float]:
    """The vector brought to length 1."""
    length = math.hypot(*vector)
    if not length:
        raise UserError("a vector of length 0 came back for a text")
    return [value / length for value in vector]
