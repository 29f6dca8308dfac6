"""The line in front of the engine: so many answers at work, a bounded number behind them, the rest refused at once.

async with line.place():
    ...
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from carellama.serve.api.access import Refused

LONGEST = 60.0  # seconds that a client is asked to wait


class Line:
    """Places of an engine, given out in the order of asking. For one event loop."""

    def __init__(self, places: int, length: int, patience: float) -> None:
        self.places, self.length, self.patience = places, length, patience  # patience in seconds
        self.running = self.waiting = 0
        self.changed: Callable[[], None] = lambda: None  # called after each change of the two
        self._free = asyncio.Semaphore(places)
        self._mean = 1.0  # seconds that an answer held its place, of late

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place. Raises `Refused` (429) where the line is full, or does not move within its patience."""
        await self._enter()
        self.running += 1
        self.changed()
        began = time.monotonic()
        try:
            yield
        finally:
            self.running -= 1
            self.changed()
            self._mean += 0.1 * (time.monotonic() - began - self._mean)
            self._free.release()

    def refuse_if_full(self, places: int = 1) -> None:
        """Raise `Refused` (429) where so many more do not fit."""
        free = max(0, self.places - self.running - self.waiting)
        if self.waiting + places - free > self.length:
            raise self._busy("too many answers are waited for")

    async def _enter(self) -> None:
        self.refuse_if_full()
        self.waiting += 1
        self.changed()
        try:
            async with asyncio.timeout(self.patience):
                await self._free.acquire()
        except TimeoutError:
            raise self._busy(f"no place became free within {self.patience:g} s") from None
        finally:
            self.waiting -= 1
            self.changed()

    def _busy(self, why: str) -> Refused:
        wait = min(LONGEST, max(1.0, self._mean * (self.waiting + 1) / self.places))
        return Refused(429, "server_busy", f"the server is busy: {why}; ask again later", wait)
