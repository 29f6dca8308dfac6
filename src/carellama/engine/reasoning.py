"""Reasoning apart from the answer: what a model writes within <think> before it answers.

    on_event = split_reasoning(on_event, sampling, begun=opens_reasoning(prompt))

Every engine passes its answers through here, so that predict, the API (`reasoning_content`), the terminal and the page
show the answer alone. The marks are those of Qwen3, DeepSeek R1 and others. Only reasoning at the beginning of an
answer is told apart; a mark behind the first words is text.
"""

from __future__ import annotations

from dataclasses import replace

from carellama.engine.base import FinishReason, OnEvent, Piece, Sampling
from carellama.engine.reading import Reader, held_back, read_events
from carellama.text import THINK, THOUGHT


class ReasoningReader(Reader):
    """Takes the text of an answer as it comes, and gives it out as (reasoning, answer).

    White space around the marks belongs to neither. `begun`: the prompt has opened the reasoning.
    """

    def __init__(self, *, begun: bool = False) -> None:
        self._begun = begun
        self._within: bool | None = None  # None: it is not known yet whether the answer begins with reasoning
        self._held = ""
        self._fresh = True  # nothing but white space came since the mark

    def add(self, piece: Piece) -> list[Piece]:
        """Take a piece; return it with the reasoning and the answer in it that are certain."""
        if not piece.text:
            return [piece]
        reasoning, text = self._add(piece.text)
        return [replace(piece, text=text, reasoning=piece.reasoning + reasoning)]

    def end(self, finish_reason: FinishReason) -> list[Piece]:
        """Return what was held back, at the end of the answer."""
        held, self._held = self._held, ""
        if self._within or (self._within is None and self._begun):
            reasoning, text = held.strip() if self._fresh else held.rstrip(), ""
        else:
            reasoning, text = "", held if self._within is None or not self._fresh else held.lstrip()
        return [Piece(text, reasoning)] if reasoning or text else []

    def _add(self, text: str) -> tuple[str, str]:
        """The reasoning and the answer that are certain."""
        self._held += text
        if self._within is None and not self._decide():
            return "", ""
        if not self._within:
            return "", self._given(self._held)
        at = self._held.find(THOUGHT)
        if at >= 0:
            reasoning = self._held[:at].strip() if self._fresh else self._held[:at].rstrip()
            self._held, self._within, self._fresh = self._held[at + len(THOUGHT) :], False, True
            return reasoning, self._given(self._held)
        certain = self._held[: len(self._held) - held_back(self._held, [THOUGHT])]
        return self._given(certain.rstrip()), ""

    def _decide(self) -> bool:
        """See whether the answer begins with reasoning, as soon as that can be known."""
        start = self._held.lstrip()
        if start.startswith(THINK):
            self._held, self._within = start[len(THINK) :], True
        elif not THINK.startswith(start):
            self._within, self._fresh = self._begun, self._begun
        return self._within is not None

    def _given(self, text: str) -> str:
        """Give out the beginning of what is held, without white space behind a mark."""
        self._held = self._held[len(text) :]
        if self._fresh:
            text = text.lstrip()
            self._fresh = not text
        return text


def split_reasoning(on_event: OnEvent, sampling: Sampling, *, begun: bool = False) -> OnEvent:
    """Return what takes the events of an answer and hands them to `on_event` with the reasoning apart.

    An answer that is held to a schema or grammar has none.
    """
    return on_event if sampling.constrained else read_events(on_event, ReasoningReader(begun=begun))
