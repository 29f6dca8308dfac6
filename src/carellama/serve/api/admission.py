"""The queue in front of the engine: so many answers at work, a bounded number behind them, the rest refused at once.

async with line.place(background=False):
    ...

People wait for streams; front-ends ask for titles, tags and follow-up questions in the background. Background answers
wait behind the others, but every fourth place goes to one of them. In a full queue they make room for the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from carellama.serve.api.auth import Rejected

MAX_RETRY_AFTER = 60.0  # seconds that a client is asked to wait
IN_A_ROW = 3  # places that others get before one that waits in the background gets its turn


class AdmissionQueue:
    """Places of an engine, given out in the order of asking. For one event loop."""

    def __init__(self, places: int, length: int, patience: float) -> None:
        self.places, self.length, self.patience = places, length, patience  # patience in seconds
        self.running = 0
        self.changed: Callable[[], None] = lambda: None  # called after each change of running and waiting
        self._people: deque[asyncio.Future[None]] = deque()
        self._background: deque[asyncio.Future[None]] = deque()
        self._in_a_row = 0  # places given to people while somebody waited in the background
        self._mean = 1.0  # seconds that an answer held its place, of late

    @property
    def waiting(self) -> int:
        """Answers that wait for a place."""
        return len(self._people) + len(self._background)

    @asynccontextmanager
    async def place(self, background: bool = False) -> AsyncIterator[None]:
        """Hold a place. Raises `Rejected` (429) where the line is full, or does not move within its patience."""
        await self._enter(background)
        began = time.monotonic()
        try:
            yield
        finally:
            self._mean += 0.1 * (time.monotonic() - began - self._mean)
            self._leave()

    def check_capacity(self, places: int = 1, background: bool = False) -> None:
        """Raise `Rejected` (429) where so many more do not fit."""
        free = max(0, self.places - self.running - self.waiting)
        needed = self.waiting + places - free - self.length
        if needed > (0 if background else len(self._background)):
            raise self._rejected("the request queue is full")

    async def _enter(self, background: bool) -> None:
        self.check_capacity(background=background)
        if self.running < self.places and not self.waiting:
            self.running += 1
            self.changed()
            return
        if self.waiting >= self.length and self._background:  # not for the background itself: that was refused
            last = self._background.pop()
            if not last.done():  # one that has just left has freed its place in the queue itself
                last.set_exception(self._rejected("the request queue is full, and people come first"))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._background if background else self._people
        queue.append(turn)
        self.changed()
        try:
            async with asyncio.timeout(self.patience):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._leave()  # it was given a place in the moment in which it left
            elif turn in queue:
                queue.remove(turn)
                self.changed()
            if isinstance(error, TimeoutError):
                raise self._rejected(f"the request waited {self.patience:g} s in the queue") from None
            raise

    def _leave(self) -> None:
        """Give the place to who is next, else leave it free."""
        while self.waiting:
            behind = bool(self._background) and (not self._people or self._in_a_row >= IN_A_ROW)
            turn = (self._background if behind else self._people).popleft()
            if not turn.done():  # else it has just left
                self._in_a_row = 0 if behind else self._in_a_row + bool(self._background)
                turn.set_result(None)
                break
        else:
            self.running -= 1
        self.changed()

    def _rejected(self, why: str) -> Rejected:
        wait = min(MAX_RETRY_AFTER, max(1.0, self._mean * (self.waiting + 1) / self.places))
        return Rejected(429, "server_busy", f"the server is busy: {why}; ask again later", wait)
