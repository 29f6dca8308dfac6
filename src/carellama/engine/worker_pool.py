"""A bounded pool of threads for engines whose computation blocks the thread that asks for it.

    pool = WorkerPool(4, "carellama-llamacpp")
    handle = pool.submit(lambda job: compute(job), on_event)      # `compute` returns the reply, or raises

A thread lives while there is work. The threads are daemons: one that hangs does not keep the program from ending.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import closing, suppress
from typing import Any, TypeVar

from carellama.engine.base import Piece

Work = Callable[["Job"], object]  # returns the last event, a reply or what else was asked for; None: it was cancelled
OnJobEvent = Callable[[Any], None]  # of a piece, an error, or what the work returns
Value = TypeVar("Value")


class Job:
    """A request of a pool, and its handle; see `RequestHandle`. Its work looks at `cancelled` between two tokens."""

    def __init__(self, pool: WorkerPool, work: Work, on_event: OnJobEvent) -> None:
        self.cancelled = False
        self._pool, self._work, self._on_event = pool, work, on_event
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def emit(self, event: object) -> None:
        """Hand on an event, unless the request was cancelled."""
        if not self.cancelled:
            self._on_event(event)

    def cancel(self) -> None:
        """End the request, see `RequestHandle.cancel`."""
        self.cancelled = True
        if self._pool.remove(self):
            self._ended.set()

    def join(self) -> None:
        """Wait for the end of the work, see `RequestHandle.join`."""
        if self._thread is not threading.current_thread():
            self._ended.wait()

    def run(self) -> None:
        """Do the work in this thread."""
        self._thread = threading.current_thread()
        try:
            event = self._work(self)
        except BaseException as error:  # noqa: BLE001 - raised again by who asked, who would wait for ever
            event = error
        with suppress(Exception):  # of `on_event`, whose error is not the next request's
            if event is not None:
                self.emit(event)
        self._ended.set()


class WorkerPool:
    """Runs up to `size` jobs at once, in the order of submission."""

    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name
        self._waiting: deque[Job] = deque()
        self._threads = 0
        self._lock = threading.Lock()

    def submit(self, work: Work, on_event: OnJobEvent) -> Job:
        """Queue a job; `on_event` gets what it emits, and at the end what it returns or raises."""
        job = Job(self, work, on_event)
        with self._lock:
            self._waiting.append(job)
            begins = self._threads < self._size
            self._threads += begins
        if begins:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        return job

    def remove(self, job: Job) -> bool:
        """Take a job out of the queue; return whether it was there."""
        with self._lock, suppress(ValueError):
            self._waiting.remove(job)
            return True
        return False

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                job = self._waiting.popleft()
            job.run()


def run_in_thread(function: Callable[[], Value], future: Future[Value], name: str) -> None:
    """Run a function in a daemon thread of its own; its result, or its exception, becomes that of a new future."""
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()


def read_pieces(make: Callable[[], Generator[Piece, None, Value]]) -> Work:
    """Return the work that reads a generator of pieces to its end; a cancelled one is closed at its next piece."""

    def work(job: Job) -> Value | None:
        with closing(make()) as pieces:
            while not job.cancelled:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    value: Value = end.value
                    return value
                job.emit(piece)
        return None

    return work
