"""Places at a computation that takes a limited number of requests at once, given out in the order of asking.

place = places.ask()
while not place.wait(0.5): ...      # somebody else's turn
places.leave(place)                 # also by one that still waits
"""

from __future__ import annotations

import threading
from collections import deque


class Places:
    """So many places. (A semaphore would let a waiter who looks up now and then lose its turn.)"""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    def ask(self) -> threading.Event:
        """Return an event that is set once the caller has a place."""
        place = threading.Event()
        with self._lock:
            if self._free:
                self._free -= 1
                place.set()
            else:
                self._waiting.append(place)
        return place

    def leave(self, place: threading.Event) -> None:
        """Give the place to the next in the queue, or leave the queue. To be called once for each `ask`."""
        with self._lock:
            if not place.is_set():
                self._waiting.remove(place)
            elif self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1
