"""The events of an answer read by something that tells parts of it apart: reasoning, calls of tools.

    on_event = read_events(on_event, ReasoningReader())

A reader is given each piece as it comes and gives out what is certain. The reply at the end is what it gave out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace

from carellama.engine.base import Event, FinishReason, OnEvent, Piece, Reply, guarded
from carellama.records import ToolCall


class Reader(ABC):
    """Takes the pieces of one answer and gives them out with parts told apart."""

    @abstractmethod
    def add(self, piece: Piece) -> Iterable[Piece]:
        """Take a piece; return what is certain."""

    @abstractmethod
    def end(self, finish_reason: FinishReason) -> Iterable[Piece]:
        """Return what was held back, at the end of the answer."""

    def finish_reason(self, given: FinishReason) -> FinishReason:
        """Return why the answer ended, by why its stream did."""
        return given


def read_events(on_event: OnEvent, reader: Reader) -> OnEvent:
    """Return what takes the events of an answer, and hands them to `on_event` as a reader gives them out."""
    text: list[str] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []

    def give(pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            text.append(piece.text)
            reasoning.append(piece.reasoning)
            calls.extend([piece.call] if piece.call is not None else [])
            if piece.shows or piece.held:
                on_event(piece)

    def take(event: Event) -> None:
        if isinstance(event, Piece):
            found = list(reader.add(event))
            if (event.text or event.held) and not any(one.shows for one in found):
                found = [replace(found[0] if found else Piece(), held=True)]
            give(found)
        elif isinstance(event, Reply):
            give(reader.end(event.finish_reason))
            on_event(
                replace(
                    event,
                    text="".join(text),
                    reasoning="".join(reasoning) or event.reasoning,
                    calls=tuple(calls) or event.calls,
                    finish_reason=reader.finish_reason(event.finish_reason),
                )
            )
        else:
            on_event(event)

    return guarded(on_event, take)


def held_back(text: str, marks: Iterable[str]) -> int:
    """Return how many characters at the end of a text may be the beginning of one of the marks."""
    return max(
        (size for mark in marks for size in range(1, min(len(mark), len(text) + 1)) if text.endswith(mark[:size])),
        default=0,
    )
