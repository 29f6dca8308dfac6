"""An engine's answer with what the safety layer has to say: before it, in it, beside it, and where it is stopped.

    handle = submit_screened(layer.screen(messages), engine, engine.prepare(messages), sampling, on_event)

An answer that is held to a grammar (JSON) is not added to: its notices are fields beside it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from carellama.engine.base import (
    Engine,
    Event,
    OnEvent,
    Piece,
    PreparedPrompt,
    Reply,
    RequestHandle,
    Sampling,
    guarded,
)
from carellama.errors import UserError
from carellama.safety.answers.watch import Mark
from carellama.safety.layer import Screening
from carellama.safety.notices import mark_text
from carellama.text import estimated_tokens

NOT_ASKED = Reply("", "content_filter", prompt_tokens=0, completion_tokens=0)  # no model read or wrote anything


def submit_screened(
    screening: Screening, engine: Engine, prompt: PreparedPrompt | None, sampling: Sampling, on_event: OnEvent
) -> RequestHandle:
    """Answer a prompt with notices and marks, see `Engine.submit`; the engine learns nothing of a refused one."""
    request = _ScreenedRequest(screening, engine, prompt, sampling, on_event)
    request.begin()
    return request


class _ScreenedRequest:
    """A request whose answer is watched, and its handle; see `RequestHandle`."""

    def __init__(
        self,
        screening: Screening,
        engine: Engine,
        prompt: PreparedPrompt | None,
        sampling: Sampling,
        on_event: OnEvent,
    ) -> None:
        self._answer = _Marked(screening, constrained=sampling.constrained)
        self._engine, self._prompt, self._sampling, self._on_event = engine, prompt, sampling, on_event
        self._screening = screening
        self._pieces: list[Piece] = []
        self._done = False
        self._handle: RequestHandle | None = None

    def begin(self) -> None:
        """Tell what comes before the answer, and ask the engine for it."""
        answer = self._answer
        if answer.text or answer.notices:
            self._on_event(Piece(answer.text, notices=answer.notices))
        if self._screening.refusal is not None:
            self._on_event(answer.of(NOT_ASKED))
            return
        assert self._prompt is not None, "a prompt that is not refused was prepared"
        self._handle = self._engine.submit(self._prompt, self._sampling, guarded(self._on_event, self._take))
        if self._done:  # by an event that came before there was a handle
            self._handle.cancel()

    def cancel(self) -> None:
        """End the request, see `RequestHandle.cancel`."""
        if self._handle is not None:
            self._handle.cancel()

    def join(self) -> None:
        """Wait for its end, see `RequestHandle.join`."""
        if self._handle is not None:
            self._handle.join()

    def _take(self, event: Event) -> None:
        answer = self._answer
        if self._done:
            return
        if isinstance(event, Piece):
            self._pieces.append(event)
            for piece in answer.add(event):
                self._on_event(piece)
            if answer.stopped:
                self._done = True
                self.cancel()
                threading.Thread(target=self._stop, daemon=True).start()  # it asks the engine, whose thread this is
        elif isinstance(event, Reply):
            for piece in answer.end():
                self._on_event(piece)
            self._on_event(answer.of(event))
        else:
            self._on_event(event)

    def _stop(self) -> None:
        assert self._prompt is not None
        try:
            event: Event = self._answer.of(_cut_short(self._engine, self._prompt, self._pieces))
        except Exception as error:  # noqa: BLE001 - raised again by who reads the events
            event = error
        self._on_event(event)


class _Marked:
    """The text of an answer with its preface and its marks, as it grows."""

    def __init__(self, screening: Screening, *, constrained: bool) -> None:
        self._watch = None if constrained else screening.watch()
        self._screening, self._constrained = screening, constrained
        self._parts = [] if constrained else [screening.preface(), screening.refusal or ""]
        self.notices = screening.notices
        self.stopped = screening.refusal is not None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._parts)

    def add(self, piece: Piece) -> Sequence[Piece]:
        """Return what becomes of a piece of the engine."""
        marks = self._watch.add(piece.text) if self._watch and piece.text else ()
        if not marks:
            self._parts.append(piece.text)
            return (piece,)
        return self._append_pieces(self._with_marks(piece, marks))

    def end(self) -> Sequence[Piece]:
        """Return what comes after the last piece."""
        made: list[Piece] = []
        if self._watch and not self.stopped:
            marked = self._with_marks(Piece(), self._watch.end())
            made += self._append_pieces(one for one in marked if one.shows)
        for notice in self._screening.after if not self.stopped else ():
            self.notices = (*self.notices, notice)
            shown = not self._constrained and self._screening.policy.action(notice.kind) == "on"
            made += self._append_pieces([Piece(f"\n\n{notice.text}" if shown else "", notices=(notice,))])
        return made

    def of(self, reply: Reply) -> Reply:
        """Return the engine's reply with this text."""
        reason = "content_filter" if self.stopped else reply.finish_reason
        return replace(reply, text=self.text, notices=self.notices, finish_reason=reason)

    def _append_pieces(self, pieces: Iterable[Piece]) -> Sequence[Piece]:
        """The pieces, whose text is now part of the answer."""
        made = list(pieces)
        self._parts += [piece.text for piece in made]
        return made

    def _with_marks(self, piece: Piece, marks: Sequence[Mark]) -> Iterator[Piece]:
        """A piece, cut behind each sentence that is marked in the answer."""
        rest, behind = piece, len(piece.text)
        for mark in marks:
            self.notices = (*self.notices, mark.notice)
            if mark.shown:
                cut = max(0, behind - mark.surplus)  # the line break may have come in two pieces
                yield replace(rest, text=rest.text[:cut])
                rest, behind = Piece(rest.text[cut:]), behind - cut
            yield Piece(mark_text(mark.notice) if mark.shown else "", notices=(mark.notice,))
            if mark.stops:
                self.stopped = True
                return
        if rest is piece or rest.text:
            yield rest


def _cut_short(engine: Engine, prompt: PreparedPrompt, pieces: Sequence[Piece]) -> Reply:
    """The reply of an answer that was stopped; its tokens are counted again, since the engine did not finish it.

    They are estimated where the engine cannot count: an endpoint without /tokenize, or one that no longer answers.
    """
    reasoning = "".join(one.reasoning for one in pieces)
    text = reasoning + "".join(one.text for one in pieces)
    try:
        count = len(engine.tokenize(text))
    except UserError:
        count = estimated_tokens(text)
    return Reply(
        "",
        "content_filter",
        prompt_tokens=prompt.tokens,
        completion_tokens=count,
        reasoning=reasoning,
        logprobs=tuple(token for one in pieces if not one.of_prompt for token in one.logprobs),
        calls=tuple(one.call for one in pieces if one.call is not None),
    )
