"""Answers of gpt-oss: messages of channels, told apart as reasoning, text and calls of tools.

    on_event = read_events(on_event, HarmonyReader(sampling))

The format is OpenAI's harmony (github.com/openai/harmony, docs/format.md), as the model's own chat template writes it:

    <|channel|>analysis<|message|>...<|end|>                                             reasoning
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>   a call
    <|start|>assistant<|channel|>final<|message|>...<|return|>                           the answer

A message of the commentary that goes to no function is said to the person, and belongs to the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from carellama.engine.base import FinishReason, Piece, Sampling
from carellama.engine.call_forms import DECODER, Written
from carellama.engine.reading import held_back
from carellama.engine.tools import ToolCallParser

MESSAGE = "<|message|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")
MARKS = (*ENDS, MESSAGE, "<|channel|>", "<|constrain|>")  # special tokens that have to be in the text
CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
RECIPIENT = re.compile(r"\bto=functions\.([\w.-]+?)(?=<\||\s|$)")
HEADERS = ("<|channel|>", "<|start|>", "to=")  # what the header of a first message begins with


class HarmonyReader(ToolCallParser):
    """Takes the text of an answer with its marks, and gives it out with reasoning and calls told apart."""

    def __init__(self, sampling: Sampling) -> None:
        super().__init__(sampling)
        self._kind: str | None = None  # of the message: reasoning, text, a function's name; None: within a header
        self._first = True  # no header was read
        self._fresh = False  # nothing of the message was given out
        self._thought = self._has_answer = False

    def end(self, finish_reason: FinishReason) -> Iterator[Piece]:
        """Yield what was held back; a call that the limit of tokens cut has part of its arguments."""
        text, self._held = self._held, ""
        if self._kind is None:
            if self._first:
                yield from self._part("text", text)
        elif self._kind in ("reasoning", "text"):
            yield from self._part(self._kind, text)
        else:
            yield from self._call(self._kind, text, may_be_cut=finish_reason == "length")

    def _add(self, text: str) -> Iterator[Piece]:
        self._held += text
        while self._held:
            if self._kind is None and not self._read_header():
                return
            assert self._kind is not None
            found = [(at, mark) for mark in ENDS if (at := self._held.find(mark)) >= 0]
            if self._kind in ("reasoning", "text"):
                certain = min(found)[0] if found else len(self._held) - held_back(self._held, ENDS)
                yield from self._part(self._kind, self._held[:certain])
                self._held = self._held[certain:]
            if not found:
                return
            at, mark = min((self._held.find(mark), mark) for _, mark in found)
            if self._kind not in ("reasoning", "text"):
                yield from self._call(self._kind, self._held[:at], may_be_cut=False)
            self._held = self._held[at + len(mark) :]
            self._kind = None

    def _read_header(self) -> bool:
        """Read the header of a message, if it is whole; an answer that begins without one is text."""
        start = self._held.lstrip()
        if self._first and not any(start.startswith(one) or one.startswith(start) for one in HEADERS):
            self._kind, self._first, self._fresh = "text", False, True
            return True
        header, mark, rest = self._held.partition(MESSAGE)
        if not mark:
            return False
        recipient, channel = RECIPIENT.search(header), CHANNEL.search(header)
        thinks = channel is not None and channel[1] == "analysis"
        self._kind = recipient[1] if recipient else "reasoning" if thinks else "text"
        self._held, self._first, self._fresh = rest, False, True
        return True

    def _part(self, kind: str, text: str) -> Iterator[Piece]:
        """Give out a part of a message; messages of one kind are paragraphs."""
        if not text:
            return
        if kind == "reasoning":
            between = "\n" if self._fresh and self._thought else ""
            self._thought, self._fresh = True, False
            yield Piece(reasoning=between + text)
            return
        between = "\n\n" if self._fresh and self._has_answer else ""
        self._has_answer, self._fresh = True, False
        yield from self._emit_text(between + text)

    def _call(self, name: str, text: str, *, may_be_cut: bool) -> Iterator[Piece]:
        """Give out a call; of a function that was not given, the text of it."""
        try:
            arguments, end = DECODER.raw_decode(text.strip() or "{}")
            whole = isinstance(arguments, dict) and end == len(text.strip() or "{}")
        except (ValueError, RecursionError):
            whole = False
        calls = self._calls([Written(name, arguments if whole else text.lstrip())], may_be_cut=may_be_cut)
        yield from self._given(json.dumps({"name": name, "arguments": text}, ensure_ascii=False), calls)
