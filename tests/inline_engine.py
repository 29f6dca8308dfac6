"""A double that answers in the thread that asks, before `submit` returns."""

from __future__ import annotations

from collections.abc import Sequence

from carellama.engine.base import OnEvent, Piece, PreparedPrompt, Reply, Sampling
from carellama.engine.scripted import ScriptedEngine


class InlineEngine(ScriptedEngine):
    """Says these pieces, whatever it is asked; it is the handle of its requests too."""

    def __init__(self, *pieces: Piece | str) -> None:
        self.pieces: Sequence[Piece] = [Piece(one) if isinstance(one, str) else one for one in pieces]
        super().__init__("".join(piece.text for piece in self.pieces))

    def submit(self, prompt: PreparedPrompt, sampling: Sampling, on_event: OnEvent) -> InlineEngine:
        """Tell all pieces and the reply."""
        for piece in self.pieces:
            on_event(piece)
        text = "".join(piece.text for piece in self.pieces)
        logprobs = tuple(one for piece in self.pieces for one in piece.logprobs)
        on_event(Reply(text, "stop", 3, len(self.pieces), logprobs=logprobs))
        return self

    def cancel(self) -> None:
        """It is over already."""

    def join(self) -> None:
        """It is over already."""
