"""Answers of an engine, which come from its threads, for the event loop of the server: one queue for each request.

    pump = StreamPump([partial(engine.submit, prompt, sampling)], queue, on_start, ...)
    await pump.wait_first_event(15)             # there is something to send, or the error is raised
    async for index, event in pump.events():    # Pieces, and the Reply at the end of each answer
        ...
    pump.close()

Each answer waits for a slot of the admission queue and is then submitted to the engine, whose threads append its events
to the queue of the request and wake the event loop. A slot is held until the engine computes nothing for the answer any
more. A client that reads slowly does not hold up the engine: its events wait.

`run_in_thread` and `run_queued` are for functions that return once. Their threads are daemons: an engine that hangs
does not keep the server from ending.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TypeVar

from carellama.engine import worker_pool
from carellama.engine.base import Event, OnEvent, Piece, Reply, RequestHandle
from carellama.serve.api.admission import AdmissionQueue
from carellama.serve.api.errors import GenerationTimeout

Submit = Callable[[OnEvent], RequestHandle]
EVENTS_PER_YIELD = 64  # events taken before other requests have their turn
Result = TypeVar("Result")
_BACKGROUND_TASKS: set[asyncio.Task[object]] = set()  # the event loop itself holds its tasks weakly


def run_in_thread(function: Callable[[], Result]) -> asyncio.Future[Result]:
    """Run a function in a thread of its own; its result, or its exception, is the future's."""
    future: Future[Result] = Future()
    worker_pool.run_in_thread(function, future, "serve")
    return asyncio.wrap_future(future)


async def run_queued(
    function: Callable[[], Result], queue: AdmissionQueue, seconds: float, on_start: Callable[[int], None]
) -> Result:
    """Return what a function of the engine returns, computed in a slot of the queue; `on_start(0)` when it starts.

    A client that leaves before its end leaves the slot taken until then. Raises `Rejected` and `GenerationTimeout`.
    """
    started = False

    async def run() -> Result:
        nonlocal started
        async with queue.slot():
            started = True
            on_start(0)
            return await run_in_thread(function)

    task = _keep_alive(asyncio.ensure_future(run()))
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(task)
    except TimeoutError:
        raise GenerationTimeout(f"the request took longer than {seconds:g} s; send less at once") from None
    finally:
        if not started:
            task.cancel()


def _keep_alive(task: asyncio.Task[Result]) -> asyncio.Task[Result]:
    """Return the task, which is not forgotten before it has ended, nor is its exception reported as never read."""
    _BACKGROUND_TASKS.add(task)
    task.add_done_callback(_BACKGROUND_TASKS.discard)
    task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    return task


class StreamPump:
    """The answers to one request. For one event loop, which has to run until the engine has ended all of them.

    `on_start` is called with the index of an answer when work on it begins. `first_token_timeout` counts from the
    first slot on; `deadline` is a time of the monotonic clock. `compiles`: submitting may take a second, since a
    grammar is compiled, and is done in a thread.
    """

    def __init__(
        self,
        requests: Sequence[Submit],
        queue: AdmissionQueue,
        on_start: Callable[[int], None],
        *,
        first_token_timeout: float,
        deadline: float,
        background: bool = False,
        compiles: bool = False,
    ) -> None:
        self._queue, self._on_start, self._background, self._compiles = queue, on_start, background, compiles
        self._first_token_timeout, self._deadline = first_token_timeout, deadline
        self._loop = asyncio.get_running_loop()
        self._events: deque[tuple[int, Event]] = deque()
        self._event_ready = asyncio.Event()
        self._wakeup_pending = False
        self._closed = asyncio.Event()
        self._has_token = False
        self.unfinished = len(requests)
        self.started_at: float | None = None  # when the first answer got its slot, by the monotonic clock
        self._ended = [asyncio.Event() for _ in requests]
        self._handles: dict[int, RequestHandle | None] = {}  # of the answers that have a slot; None: being submitted
        self._tasks = [_keep_alive(asyncio.ensure_future(self._run(*one))) for one in enumerate(requests)]

    @property
    def has_pending(self) -> bool:
        """Whether there is an event already."""
        return bool(self._events)

    @property
    def ahead(self) -> int | None:
        """How many answers have their turn before the first of this request; None: that one does not wait."""
        return self._queue.ahead_of(self._tasks[0])

    async def wait_first_event(self, patience: float) -> None:
        """Wait until there is an event, and raise it if it is an error; at most `patience` seconds from the first slot.

        Raises `GenerationTimeout` besides.
        """
        while not self._events:
            left = self._seconds_left()
            if self.started_at is not None:
                left = min(left, self.started_at + patience - time.monotonic())
            if left <= 0:
                return
            await self._wait(left)
        if isinstance(error := self._events[0][1], Exception):
            raise error

    async def events(self, pause: float = math.inf) -> AsyncIterator[tuple[int, Piece | Reply] | None]:
        """Yield what comes, and None after `pause` seconds in which nothing came.

        Raises the errors of the engine, `Rejected`, and `GenerationTimeout`.
        """
        taken = 0
        while self.unfinished:
            while self._events:
                index, event = self._events.popleft()
                self._has_token |= not (isinstance(event, Piece) and event.notices)  # the safety layer's are no tokens
                taken += 1
                if taken % EVENTS_PER_YIELD == 0:  # a fast engine does not keep other requests waiting
                    await asyncio.sleep(0)
                if isinstance(event, Exception):
                    raise event
                self.unfinished -= isinstance(event, Reply)
                yield index, event
            if self.unfinished and not await self._wait(min(pause, self._seconds_left())):
                yield None

    def close(self) -> None:
        """Leave the queue, and cancel the answers that run."""
        self._closed.set()
        for index, task in enumerate(self._tasks):
            if (handle := self._handles.get(index)) is not None:
                handle.cancel()
                self._ended[index].set()
            elif index not in self._handles:
                task.cancel()

    def _seconds_left(self) -> float:
        """Return the seconds until the next timeout. Raises `GenerationTimeout` where it is over."""
        now = time.monotonic()
        if now >= self._deadline:
            raise GenerationTimeout("the answer took longer than the server allows; ask for a shorter one")
        if self._has_token or self.started_at is None:
            return self._deadline - now
        first = self.started_at + self._first_token_timeout
        if now >= first:
            seconds = f"{self._first_token_timeout:g} s"
            raise GenerationTimeout(f"no token came within {seconds}; ask again, or with a shorter conversation")
        return min(self._deadline, first) - now

    async def _wait(self, seconds: float) -> bool:
        """Wait for an event; return whether there is one."""
        self._wakeup_pending = False
        if not self._events:
            self._event_ready.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._event_ready.wait()
        return bool(self._events)

    async def _run(self, index: int, submit: Submit) -> None:
        """Hold a slot while the engine works on an answer."""
        on_event = partial(self._on_event, index)
        try:
            async with self._queue.slot(background=self._background):
                if self._closed.is_set():
                    return
                self._handles[index] = None
                self._on_start(index)
                if self.started_at is None:
                    self.started_at = time.monotonic()
                    self._event_ready.set()  # the timeouts count from here
                handle = await run_in_thread(partial(submit, on_event)) if self._compiles else submit(on_event)
                self._handles[index] = handle
                if self._closed.is_set():
                    handle.cancel()
                else:
                    await self._ended[index].wait()
                if self._closed.is_set():
                    await run_in_thread(handle.join)
        except Exception as error:  # noqa: BLE001 - raised again by the reader
            self._emit(index, error)

    def _on_event(self, index: int, event: Event) -> None:
        """Take an event of the engine, in any thread. An empty piece only says that the engine is at work."""
        if not isinstance(event, Piece):
            self._emit(index, event)
            with suppress(RuntimeError):  # the loop is closed: the server is gone
                self._loop.call_soon_threadsafe(self._ended[index].set)
        elif event.shows or event.held:
            self._emit(index, event)

    def _emit(self, index: int, event: Event) -> None:
        """Append an event, and wake the event loop unless it was woken already."""
        self._events.append((index, event))
        if not self._wakeup_pending:
            self._wakeup_pending = True
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._event_ready.set)
