"""The queue in front of the engine: so many answers run, a bounded number waits behind them, the rest is rejected.

    async with queue.slot():
        ...

People wait for streams; front-ends ask for titles, tags and follow-up questions in the background. Background answers
wait behind the others, but every fourth slot goes to one of them. In a full queue they make room for the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from carellama.serve.api.errors import Rejected

MAX_RETRY_AFTER = 60.0  # seconds
SLOTS_IN_A_ROW = 3  # slots for others before one that waits in the background gets its turn


class AdmissionQueue:
    """Slots of an engine, given out in the order of asking. For one event loop. `wait_timeout` is in seconds."""

    def __init__(self, max_running: int, max_waiting: int, wait_timeout: float) -> None:
        self.max_running, self.max_waiting, self.wait_timeout = max_running, max_waiting, wait_timeout
        self.running = 0
        self.on_change: Callable[[], None] = lambda: None  # called after each change of running and waiting
        self._people: deque[asyncio.Future[None]] = deque()
        self._background: deque[asyncio.Future[None]] = deque()
        self._turns: dict[asyncio.Task[object] | None, asyncio.Future[None]] = {}  # of the tasks that wait
        self._in_a_row = 0  # slots given to people while somebody waited in the background
        self._mean = 1.0  # seconds that recent answers held their slots

    @property
    def waiting(self) -> int:
        """Answers that wait for a slot."""
        return len(self._people) + len(self._background)

    @asynccontextmanager
    async def slot(self, *, background: bool = False) -> AsyncIterator[None]:
        """Hold a slot. Raises `Rejected` (429) for a full queue, and after `wait_timeout` in it."""
        await self._acquire(background=background)
        since = time.monotonic()
        try:
            yield
        finally:
            self._mean += 0.1 * (time.monotonic() - since - self._mean)
            self._release()

    def check_capacity(self, slots: int = 1, *, background: bool = False) -> None:
        """Raise `Rejected` (429) where so many more do not fit."""
        free = max(0, self.max_running - self.running - self.waiting)
        needed = self.waiting + slots - free - self.max_waiting
        if needed > (0 if background else len(self._background)):
            raise self._rejected("the request queue is full")

    def ahead_of(self, task: asyncio.Task[object]) -> int | None:
        """Return how many answers have their turn before the one that a task waits for; None: it does not wait."""
        if (turn := self._turns.get(task)) is None or turn.done():
            return None
        if turn in self._people:
            return self._people.index(turn)
        return len(self._people) + self._background.index(turn)

    def estimate(self, ahead: int) -> float:
        """Return roughly in how many seconds an answer with so many before it has its turn."""
        return self._mean * (ahead + 1) / self.max_running

    async def _acquire(self, *, background: bool) -> None:
        self.check_capacity(background=background)
        if self.running < self.max_running and not self.waiting:
            self.running += 1
            self.on_change()
            return
        if self.waiting >= self.max_waiting and self._background:  # not for the background itself: it was rejected
            last = self._background.pop()
            if not last.done():  # one that has just left has freed its place in the queue itself
                last.set_exception(self._rejected("the request queue is full, and people come first"))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._background if background else self._people
        queue.append(turn)
        self._turns[task := asyncio.current_task()] = turn
        self.on_change()
        try:
            async with asyncio.timeout(self.wait_timeout):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._release()  # it was given a slot in the moment in which it left
            elif turn in queue:
                queue.remove(turn)
                self.on_change()
            if isinstance(error, TimeoutError):
                raise self._rejected(f"the request waited {self.wait_timeout:g} s in the queue") from None
            raise
        finally:
            del self._turns[task]

    def _release(self) -> None:
        """Give the slot to who is next, else leave it free."""
        while self.waiting:
            behind = bool(self._background) and (not self._people or self._in_a_row >= SLOTS_IN_A_ROW)
            turn = (self._background if behind else self._people).popleft()
            if not turn.done():  # else it has just left
                self._in_a_row = 0 if behind else self._in_a_row + bool(self._background)
                turn.set_result(None)
                break
        else:
            self.running -= 1
        self.on_change()

    def _rejected(self, reason: str) -> Rejected:
        wait = min(MAX_RETRY_AFTER, max(1.0, self.estimate(self.waiting)))
        return Rejected(429, "server_busy", f"the server is busy: {reason}; ask again later", wait)
