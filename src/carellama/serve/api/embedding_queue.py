"""The queue in front of an embedding model: texts of all requests together, in turn, and never in a chat's place.

    queue = EmbeddingQueue(embedder.embed)
    vectors = await queue.embed(["What is asthma?"], "query")

A front-end sends a document as many small requests at once. One thread makes the vectors, a batch at a time; each
batch takes one text of each waiting request in turn, so that a short request is not behind a long document.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from carellama.knowledge.embed import Kind
from carellama.serve.api.errors import Rejected
from carellama.serve.api.streaming import run_in_thread

Vector = list[float]
Compute = Callable[[Sequence[str], Kind], list[Vector]]
BATCH_CHARS = 4096  # of the texts of a batch: about a second on two cores, which is how long a new request waits
BATCH_TEXTS = 64
MOST_WAITING = 10_000  # texts; past them requests are refused


class Job:
    """The texts of one request."""

    def __init__(self, texts: Sequence[str], kind: Kind) -> None:
        self.texts, self.kind = texts, kind
        self.vectors: dict[int, Vector] = {}
        self.next = 0  # the first text that is in no batch yet
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def left(self) -> int:
        """Texts that are in no batch yet; none of a request that has failed or left."""
        return 0 if self.done.done() else len(self.texts) - self.next


class EmbeddingQueue:
    """Makes vectors for many requests. For one event loop."""

    def __init__(self, compute: Compute, most_waiting: int = MOST_WAITING) -> None:
        self._compute, self._most_waiting = compute, most_waiting
        self._jobs: deque[Job] = deque()
        self._work: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Texts that are in no batch yet."""
        return sum(job.left for job in self._jobs)

    async def embed(self, texts: Sequence[str], kind: Kind, seconds: float) -> list[Vector]:
        """Return the vectors of texts. Who stops waiting for it leaves the queue.

        Raises what the model raises, `Rejected` (429) for a full queue, and `TimeoutError` after `seconds`.
        """
        if self.waiting + len(texts) > max(self._most_waiting, len(texts)):
            message = f"the queue of the embedding model is full: {self.waiting:,} texts wait; ask again later"
            raise Rejected(429, "server_busy", message, 5.0)
        job = Job(texts, kind)
        self._jobs.append(job)
        if self._work is None:
            self._work = asyncio.ensure_future(self._run())
        try:
            async with asyncio.timeout(seconds):
                await job.done
        finally:
            job.done.cancel()
        return [job.vectors[index] for index in range(len(texts))]

    async def _run(self) -> None:
        """Make vectors until no request waits."""
        try:
            while batch := list(self._batch()):
                await self._embed(batch)
        finally:
            self._work = None

    async def _embed(self, batch: Sequence[tuple[Job, int]]) -> None:
        texts, kind = [job.texts[index] for job, index in batch], batch[0][0].kind
        try:
            vectors = await run_in_thread(lambda: self._compute(texts, kind))
        except Exception as error:  # noqa: BLE001 - told to who asked
            if len(batch) == 1:
                _fail(batch[0][0], error)
                return
            for one in batch:  # the text of one request does not fail those of others
                if not one[0].done.done():
                    await self._embed([one])
            return
        for (job, index), vector in zip(batch, vectors, strict=True):
            job.vectors[index] = vector
            if len(job.vectors) == len(job.texts) and not job.done.done():
                job.done.set_result(None)

    def _batch(self) -> Iterator[tuple[Job, int]]:
        """Yield the next texts, of one kind: one of each request, then a second one of each, and so on."""
        chars, texts, kind, asked = 0, 0, None, 0
        while self._jobs and asked < len(self._jobs):
            job = self._jobs.popleft()
            if not job.left:
                continue
            asked += 1
            size = len(job.texts[job.next])
            if kind not in (None, job.kind) or (texts and chars + size > BATCH_CHARS) or texts >= BATCH_TEXTS:
                self._jobs.append(job)
                continue
            asked, kind, chars, texts = 0, job.kind, chars + size, texts + 1
            yield job, job.next
            job.next += 1
            if job.left:
                self._jobs.append(job)


def _fail(job: Job, error: Exception) -> None:
    if not job.done.done():
        job.done.set_exception(error)
