"""The text of one answer, built token by token: whole characters only, and nothing from a stop string on.

Streaming and batches both go through it, so a streamed answer is the generated one, character by character.
It knows no model; it is handed a function that decodes ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from carellama.engine.reading import held_back

DecodeFn = Callable[[Sequence[int]], str]
REPLACEMENT_CHARACTER = "\ufffd"  # what decoders write for bytes that are not (yet) a character
MAX_HELD_TOKENS = 8  # tokens waited for a character to become whole: with four bytes at most, it never will


def keeping(decode: DecodeFn, marks: Mapping[int, str]) -> DecodeFn:
    """Return `decode`, which leaves special tokens out of a text, so that it keeps these: token to text."""
    if not marks:
        return decode

    def decode_with_marks(ids: Sequence[int]) -> str:
        text, begin = "", 0
        for at, token in enumerate(ids):
            if token in marks:
                text += decode(ids[begin:at]) + marks[token]
                begin = at + 1
        return text + decode(ids[begin:])

    return decode_with_marks


class Detokenizer:
    """Takes the tokens of one answer and gives out the text that can no longer change.

    A character whose bytes are spread over several tokens is held back until it is whole, and the beginning
    of what may become a stop string until it is clear that it does not. `stopped` tells that the answer has
    ended.
    """

    def __init__(self, decode: DecodeFn, stop_ids: Sequence[int], stops: Sequence[str]) -> None:
        self.decode = decode
        self.stop_ids = frozenset(stop_ids)
        self.stops = [stop for stop in stops if stop]
        self.stopped = False
        self.text = ""  # all that was given out
        self.tokens = 0
        self._ids: list[int] = []
        self._window = 0  # decoding starts here: some decoders need the tokens before, to place a space
        self._read = 0  # the text of the ids before this one was taken
        self._held = ""  # decoded, not given out

    def add(self, token: int) -> str:
        """Take the next token; return the text that became certain. Tokens after the end are ignored."""
        if self.stopped:
            return ""
        self.tokens += 1
        if token in self.stop_ids:
            return self._finish(stopped=True)
        self._ids.append(token)
        before = self.decode(self._ids[self._window : self._read])
        now = self.decode(self._ids[self._window :])
        waited = len(self._ids) - self._read
        if len(now) <= len(before) or (now.endswith(REPLACEMENT_CHARACTER) and waited < MAX_HELD_TOKENS):
            return ""
        self._window, self._read = self._read, len(self._ids)
        return self._advance(now[len(before) :])

    def end(self) -> str:
        """Return the text held back, when no more tokens come; half a character at the end is dropped."""
        return "" if self.stopped else self._finish(stopped=False)

    def _finish(self, *, stopped: bool) -> str:
        before = self.decode(self._ids[self._window : self._read])
        rest = self._advance(self.decode(self._ids[self._window :])[len(before) :].rstrip(REPLACEMENT_CHARACTER))
        if not self.stopped:  # no stop string in the rest: what was held for one is text
            rest += self._release(self._held)
            self._held = ""
        self.stopped = self.stopped or stopped
        return rest

    def _advance(self, new: str) -> str:
        """Add decoded text; give out what comes before a stop string or what may become one."""
        self._held += new
        found = [at for at in (self._held.find(stop) for stop in self.stops) if at >= 0]
        if found:
            self.stopped = True
            certain, self._held = self._held[: min(found)], ""
            return self._release(certain)
        keep = held_back(self._held, self.stops)
        certain, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return self._release(certain)

    def _release(self, text: str) -> str:
        self.text += text
        return text
