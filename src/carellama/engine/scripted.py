"""An engine without a model: it says what it was told to say. For tests, and for trying terminal and server.

    ScriptedEngine("See a doctor.")                     always the same
    ScriptedEngine(["first", "second"])                 one after the other
    ScriptedEngine(lambda messages: messages[-1].content.upper())

A token is a character. It keeps the rules of `Engine` (stop strings, lengths, heartbeats, closing), and remembers in
`asked` what it was asked.
"""

from __future__ import annotations

import hashlib
import math
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from carellama.engine.base import (
    HEARTBEAT,
    FinishReason,
    OnEvent,
    Piece,
    PreparedPrompt,
    Prompt,
    Reply,
    RequestHandle,
    Sampling,
    Scored,
    TokenLogprob,
    Tool,
    Unsupported,
    check_adapter,
    guarded,
    room_for_answer,
)
from carellama.engine.detokenizer import Detokenizer
from carellama.engine.parts import split_parts
from carellama.engine.prompts import check_token_ids, prepare_ids
from carellama.engine.tools import resolve_tool_choice, tools_to_system_prompt
from carellama.engine.worker_pool import WorkerPool, read_pieces
from carellama.records import Message

Script = str | Sequence[str] | Callable[[Prompt], str]
DIMENSIONS = 8  # of its vectors


class ScriptedEngine:
    """Answers from a script: a text, a queue of texts, or a function of the messages."""

    name = "scripted"

    def __init__(
        self,
        script: Script,
        *,
        context_tokens: int | None = None,
        token_seconds: float = 0.0,
        adapters: Sequence[str] = (),
        parallel: int = 64,
        knows_tools: bool = True,
    ) -> None:
        self.context_tokens = context_tokens
        self.token_seconds = token_seconds  # how long each token takes
        self.adapters = tuple(adapters)
        self.parallel = parallel
        self.knows_tools = knows_tools
        self.asked: list[tuple[Message, ...]] = []
        self.running = 0  # requests whose answers are neither at their end nor cancelled
        self._script = script if isinstance(script, str) or callable(script) else list(script)
        self._lock = threading.Lock()
        in_turn = isinstance(self._script, list)
        self._pool = WorkerPool(1 if in_turn else parallel, "carellama-scripted")

    def prepare(
        self, prompt: Prompt | str | Sequence[int], tools: Sequence[Tool] = (), *, exact: bool = True
    ) -> PreparedPrompt:
        """Render, tokenise and count a prompt, see `Engine.prepare`."""

        def render(messages: Prompt) -> tuple[str, list[int]]:
            text = self.render(messages, tools)
            return text, _ids(text)

        limit = self.context_tokens
        made = prepare_ids(prompt, render, _ids, vocabulary=sys.maxunicode + 1, context_tokens=limit)
        return made if made.text else replace(made, text=self.detokenize(made.ids or ()))

    def submit(self, prompt: PreparedPrompt, sampling: Sampling, on_event: OnEvent) -> RequestHandle:
        """Answer a prompt in a thread, see `Engine.submit`."""
        on_event = guarded(on_event)
        if prompt.messages is not None:
            sampling = resolve_tool_choice(sampling)
            on_event = split_parts(on_event, sampling)
        self.asked.append(_messages(prompt))
        return self._pool.submit(read_pieces(lambda: self.answer(prompt, sampling)), on_event)

    def answer(self, prompt: PreparedPrompt, sampling: Sampling) -> Generator[Piece, None, Reply]:
        """Yield the answer to a prompt; for doubles that do something else."""
        for field, asked in (
            ("num_beams", sampling.num_beams > 1), ("logit_bias", sampling.logit_bias),
            (sampling.constraint, sampling.constrained), ("min_tokens", sampling.min_tokens),
            ("ignore_eos", sampling.ignore_eos), ("stop_token_ids", sampling.stop_token_ids),
        ):  # fmt: skip
            if asked:
                raise Unsupported(f"the scripted engine has no {field}", field)
        check_adapter(sampling.adapter, self.adapters)
        room = room_for_answer(len(prompt.text), sampling.max_new_tokens, self.context_tokens)
        text = f"[{sampling.adapter}] " * bool(sampling.adapter) + self._next(_messages(prompt))
        with self._lock:
            self.running += 1
        try:
            return (yield from self._stream_text(prompt, text, room, sampling))
        finally:
            with self._lock:
                self.running -= 1

    def logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """The choice that its answer begins with has nearly all of the probability."""
        found = []
        for messages in prompts:
            said = self._next(messages)
            right = [said.startswith(choice) for choice in choices]
            found.append([math.log(0.9 if is_right else 0.1 / len(choices)) for is_right in right])
        return found

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors that differ with the text and mean nothing."""
        vectors = []
        for text in texts:
            values = [byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:DIMENSIONS]]
            length = math.hypot(*values)
            vectors.append([value / length for value in values])
        return vectors

    def tokenize(self, text: str, *, begin: bool = False, marks: bool = False) -> list[int]:
        """Characters as numbers; there is no token that begins a sequence, and no special token."""
        return _ids(text)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Numbers as characters."""
        return "".join(map(chr, check_token_ids(ids, sys.maxunicode + 1)))

    def prompt_logprobs(self, ids: Sequence[int], count: int, adapter: str = "") -> Generator[Piece, None, Scored]:
        """A vowel is likely, and the likeliest is always "e"."""
        check_adapter(adapter, self.adapters)
        found = [TokenLogprob(chr(ids[0]), math.nan)]
        for token in map(chr, ids[1:]):
            own = -0.5 if token == "e" else -1.0 if token in "aiou" else -4.0
            found.append(TokenLogprob(token, own, (("e", -0.5), ("a", -1.0))[:count]))
            time.sleep(self.token_seconds)
            yield Piece()
        return found

    def render(self, messages: Prompt, tools: Sequence[Tool] = ()) -> str:
        """Return the messages as lines of `role: content`."""
        return "".join(f"{message.role}: {message.content}\n" for message in tools_to_system_prompt(messages, tools))

    def close(self) -> None:
        """It holds nothing."""

    def _stream_text(
        self, prompt: PreparedPrompt, text: str, room: int, sampling: Sampling
    ) -> Generator[Piece, None, Reply]:
        answer = Detokenizer(lambda ids: "".join(map(chr, ids)), (), sampling.stop)
        logprobs: list[TokenLogprob] = []
        for character in text[:room]:
            for _ in range(int(self.token_seconds // HEARTBEAT)):
                time.sleep(HEARTBEAT)
                yield Piece()
            time.sleep(self.token_seconds % HEARTBEAT)
            shown = answer.add(ord(character))
            token = TokenLogprob(character, 0.0, ((character, 0.0),) * bool(sampling.top_logprobs))
            scored = (token,) if sampling.top_logprobs is not None and not answer.stopped else ()
            logprobs += scored
            if shown or scored:
                yield Piece(shown, logprobs=scored)
            if answer.stopped:
                break
        if rest := answer.end():
            yield Piece(rest)
        reason: FinishReason = "stop" if answer.stopped or len(text) <= room else "length"
        return Reply(answer.text, reason, len(prompt.text), answer.tokens, logprobs=tuple(logprobs))

    def _next(self, messages: Prompt) -> str:
        if isinstance(self._script, str):
            return self._script
        if callable(self._script):
            return self._script(messages)
        assert self._script, "the script has no reply left"
        return self._script.pop(0)


def _ids(text: str) -> list[int]:
    return [ord(character) for character in text]


def _messages(prompt: PreparedPrompt) -> tuple[Message, ...]:
    """The conversation of a prompt; a text as that of a person."""
    return (Message("user", prompt.text),) if prompt.messages is None else tuple(prompt.messages)
