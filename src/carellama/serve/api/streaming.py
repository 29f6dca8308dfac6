"""Streams of an engine, which block a thread, for the event loop of the server.

    answers = Answers([lambda: engine.stream(messages, sampling)], line)
    await answers.begun(patience=120)                 # the first piece is there, or the error is raised
    async for index, item in answers.items():         # Pieces, and the Reply at the end of each answer
        ...
    answers.close()

Each answer waits for a place in the line, then runs in a thread of its own, which puts its pieces into a box that the
event loop empties. A thread holds its place until its stream has ended or was closed, so that no more than
`line.places` are at work. Who reads slowly does not hold up the engine: his pieces wait in the box.

`run_in_thread` and `run_queued` are the same for a function that returns once. The threads are daemons: an engine that
hangs does not keep the server from ending.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from carellama.engine.base import Piece, Reply
from carellama.serve.api.admission import AdmissionQueue
from carellama.serve.api.errors import GenerationTimeout

Stream = Generator[Piece, None, Reply]
Make = Callable[[], Stream]
Item = Piece | Reply | Exception
EVENTS_PER_YIELD = 64  # pieces taken before others have their turn
Result = TypeVar("Result")
_BACKGROUND_TASKS: set[asyncio.Task[Any]] = set()  # the event loop itself holds its tasks weakly


def run_in_thread(function: Callable[[], Result]) -> asyncio.Future[Result]:
    """Run a function in a thread of its own; its result, or its exception, is the future's."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: Exception | None) -> None:
        if future.done():  # cancelled: nobody waits for it
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - raised again where it is awaited
            failure = error
        with suppress(RuntimeError):  # the loop is closed: the server is gone
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True, name="serve").start()
    return future


async def run_queued(
    function: Callable[[], Result],
    line: AdmissionQueue,
    seconds: float,
    on_begin: Callable[[int], None] = lambda index: None,
) -> Result:
    """Return what a function of the engine returns, computed at a place of the line; `on_begin(0)` when it begins.

    Who leaves before its end leaves the place taken until then. Raises `Rejected` by the line, and `GenerationTimeout`.
    """
    begun = False

    async def run() -> Result:
        nonlocal begun
        async with line.place():
            begun = True
            on_begin(0)
            return await run_in_thread(function)

    task = _keep_alive(asyncio.ensure_future(run()))
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.shield(task)
    except TimeoutError:
        raise GenerationTimeout(f"the request took longer than {seconds:g} s; send less at once") from None
    finally:
        if not begun:
            task.cancel()


def _keep_alive(task: asyncio.Task[Result]) -> asyncio.Task[Result]:
    """The task, which is not forgotten before it has ended, nor is its exception complained of."""
    _BACKGROUND_TASKS.add(task)
    task.add_done_callback(_BACKGROUND_TASKS.discard)
    task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
    return task


class StreamPump:
    """The answers to one request. To be used on one event loop, which has to run until all threads have ended."""

    def __init__(
        self,
        makes: Sequence[Make],
        line: AdmissionQueue,
        on_begin: Callable[[int], None] = lambda index: None,
        *,
        background: bool = False,
    ) -> None:
        self._line, self._background = line, background
        self._on_begin = on_begin  # called when work on an answer begins
        self._box: deque[tuple[int, Item]] = deque()
        self._there = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._woken = False  # whether the event loop knows that there is something in the box
        self._closed = False
        self.open = len(makes)  # answers that have not ended
        self.begun_at: float | None = None  # when the first of them got its place, by the monotonic clock
        self._threads: set[int] = set()  # answers that have a place
        self._tasks = [_keep_alive(asyncio.ensure_future(self._run(index, make))) for index, make in enumerate(makes)]

    @property
    def more(self) -> bool:
        """Whether something is there already."""
        return bool(self._box)

    async def begun(self, *, patience: float, first: float) -> bool:
        """Wait until there is something to send; return whether there is.

        Not longer than `patience` seconds from the first place on, after which the answer may begin with a comment.
        Raises what the engine raises, `Rejected`, and `GenerationTimeout` after `first` seconds without a token.
        """
        while not self._box:
            left = None
            if self.begun_at is not None:
                waited = time.monotonic() - self.begun_at
                if waited >= first:
                    raise GenerationTimeout(
                        f"no token came within {first:g} s; ask again, or with a shorter conversation"
                    )
                if waited >= patience:
                    return False
                left = min(first, patience) - waited
            await self._wait(left)
        if isinstance(error := self._box[0][1], Exception):
            raise error
        return True

    async def items(self, *, pause: float, first: float, until: float) -> AsyncIterator[tuple[int, Item] | None]:
        """Yield what comes, and None after `pause` seconds in which nothing came.

        Raises what the engine raises, and `GenerationTimeout` when no token came `first` seconds after the first place
        was given, or when the monotonic clock reads `until`.
        """
        came, taken = False, 0
        while self.open:
            while self._box:
                index, item = self._box.popleft()
                came = came or not (isinstance(item, Piece) and item.notices)  # a notice is no token of the engine
                taken += 1
                if (
                    taken % EVENTS_PER_YIELD == 0
                ):  # an engine that is faster than we are does not keep the others waiting
                    await asyncio.sleep(0)
                if isinstance(item, Exception):
                    raise item
                self.open -= isinstance(item, Reply)
                yield index, item
            if not self.open:
                return
            now = time.monotonic()
            if now >= until:
                raise GenerationTimeout("the answer took longer than the server allows; ask for a shorter one")
            ends = until
            if not came and self.begun_at is not None:
                ends = min(until, self.begun_at + first)
                if now >= ends:
                    raise GenerationTimeout(
                        f"no token came within {first:g} s; ask again, or with a shorter conversation"
                    )
            if not await self._wait(min(pause, ends - now)):
                yield None

    def close(self) -> None:
        """Leave the line, and let the streams that run be closed at their next piece (a heartbeat at the latest)."""
        self._closed = True
        for index, task in enumerate(self._tasks):
            if index not in self._threads:
                task.cancel()

    async def _wait(self, seconds: float | None) -> bool:
        """Wait for something in the box; return whether there is."""
        self._woken = False
        if not self._box:
            self._there.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._there.wait()
        return bool(self._box)

    async def _run(self, index: int, make: Make) -> None:
        """Hold a place while the thread of an answer runs."""
        try:
            async with self._line.place(self._background):
                if self._closed:
                    return
                self._threads.add(index)
                self._on_begin(index)
                if self.begun_at is None:
                    self.begun_at = time.monotonic()
                    self._there.set()  # `begun` counts its seconds from here
                await run_in_thread(lambda: self._drive(index, make))
        except Exception as error:  # noqa: BLE001 - raised again by the reader
            self._put(index, error)

    def _drive(self, index: int, make: Make) -> None:
        """The thread of an answer: read its stream to the end, or until the client is gone."""
        try:
            stream = make()
            try:
                while not self._closed:
                    piece = next(stream)
                    if piece.shows or piece.held:
                        self._put(index, piece)
            except StopIteration as end:
                self._put(index, end.value)
            finally:
                stream.close()
        except Exception as error:  # noqa: BLE001 - raised again by the reader
            self._put(index, error)

    def _put(self, index: int, item: Item) -> None:
        """Put something into the box, from any thread, and wake the event loop unless it was woken already."""
        self._box.append((index, item))
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._there.set)
