"""The visitors of the web page: each open page has a conversation of its own, in memory, gone when the page is closed.

    visits = Visits(room=40)
    visit = visits.of("the session's key")
    if visits.full: ...
    visit.begin(question)

It knows no web server: a page is a key.
"""

from __future__ import annotations

import threading

from carellama.serve.conversation import Conversation


class Visit:
    """What was said on one page, and the answer that is being made for it.

    `question` is the one under way, "" when there is none; `partial` is its answer so far. The page stops an answer
    by setting `stopped`; whoever makes it looks there, and calls `end`.
    """

    def __init__(self) -> None:
        self.conversation = Conversation()
        self.question = ""
        self.partial = ""
        self.note = ""  # what the page says of the last answer
        self.stopped = False
        self._answering = False
        self._lock = threading.Lock()

    def begin(self, question: str) -> bool:
        """Take a question; False: another one is under way."""
        with self._lock:
            return not self.question and self._begin(question)

    def begin_again(self) -> bool:
        """Take the last question once more; False: there is none, or one is under way."""
        with self._lock:
            return not self.question and self._begin(self.conversation.undo())

    def take(self) -> bool:
        """Begin to answer; False: there is no question, or it is being answered."""
        with self._lock:
            if not self.question or self._answering:
                return False
            self._answering = True
            return True

    def stop(self, note: str) -> bool:
        """Take the question out of the line, or stop its answer; True: whoever makes it will end it soon."""
        with self._lock:
            self.stopped = True
            if self.question and not self._answering:
                self._end(note)
            return self._answering

    def end(self, note: str) -> None:
        """Remember the answer as far as it came."""
        with self._lock:
            self._answering = False
            self._end(note)

    def _begin(self, question: str) -> bool:
        self.question, self.partial, self.note, self.stopped = question, "", "", False
        return bool(question)

    def _end(self, note: str) -> None:
        self.conversation.add_turn(self.question, self.partial)
        self.question, self.partial, self.note = "", "", note


class Visits:
    """All open pages by their keys; `room`: questions that may be under way in all, waiting ones included."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._visits: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def of(self, key: str) -> Visit:
        """Return the visit of a page, a new one at first."""
        with self._lock:
            return self._visits.setdefault(key, Visit())

    def seen(self, key: str) -> Visit | None:
        """Return the visit of a page; None: it said nothing yet, or was closed."""
        with self._lock:
            return self._visits.get(key)

    def renew(self, key: str) -> Visit:
        """Forget what was said on a page, and stop its answer."""
        self.leave(key)
        return self.of(key)

    def leave(self, key: str) -> None:
        """Forget a page that was closed, and stop its answer."""
        with self._lock:
            visit = self._visits.pop(key, None)
        if visit is not None:
            visit.stop("")

    @property
    def full(self) -> bool:
        """Whether another question would have to be refused."""
        with self._lock:
            return sum(bool(visit.question) for visit in self._visits.values()) >= self.room
