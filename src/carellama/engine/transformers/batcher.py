"""Continuous batching: all answers under way get their next token in one forward pass, and others join between two.

    batcher = Batcher(model, parallel=8, ready=nullcontext, switch=lambda adapter: None)
    batcher.submit([request, ...])          # each request tells its answer; see carellama.engine.transformers.request
    batcher.run(lambda: model(...))         # something else with the model, between two passes

One thread computes. It is there while there is work, and within `ready()`; when it has gone, the model is as it was
before. New prompts are read in parts, with a pass of the running answers after each part, so that they are not held up.
Answers with the same adapter make a batch. A request in whose batch a pass fails is told the error; the others go on.

A model whose cache cannot be joined (`carellama.engine.transformers.kv_cache.why_not`) answers a batch after the other
with `model.generate`, as does beam search.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import torch
from torch import Tensor

from carellama.engine.transformers import generate as generation
from carellama.engine.transformers.kv_cache import join, keep, new_store, tried, why_not
from carellama.engine.transformers.request import Request, advance
from carellama.errors import UserError
from carellama.hardware import has_gpu

log = logging.getLogger(__name__)

Result = TypeVar("Result")
PART = 512  # tokens of prompts that are read in one pass on a GPU
PART_ON_CPU = 256  # a pass is not to take longer than about a second
PATIENCE_SECONDS = 10.0  # waited for a pass under way when an answer is left


class Rows:
    """Answers of one adapter that are computed together: first their prompts, then a token of each a pass."""

    def __init__(self, model: Any, requests: list[Request]) -> None:
        self.model, self.requests = model, requests
        self.store = new_store()
        longest = max(len(request.ids) for request in requests)
        padded = [[0] * (longest - len(request.ids)) + request.ids for request in requests]
        self._prompts = torch.tensor(padded, device=model.device)  # (B, T), padded on the left
        self._read = 0  # columns of them
        known = inspect.signature(type(model).forward).parameters
        self._places = "position_ids" in known
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    @property
    def prompts_are_read(self) -> bool:
        """Whether their answers have begun."""
        return self._read == self._prompts.shape[1]

    def read(self, part: int) -> None:
        """Read the next columns of the prompts, `part` tokens in all; at their end choose the first tokens."""
        width = max(1, part // len(self.requests))
        ids = self._prompts[:, self._read : self._read + width]
        self._read += ids.shape[1]
        longest = self._prompts.shape[1]
        hidden = [longest - len(request.ids) for request in self.requests]  # columns of padding
        scores = self._pass(ids, hidden, self._read)
        if self.prompts_are_read:
            advance(scores, self.requests)

    def step(self) -> None:
        """Compute the next token of each."""
        ids = torch.tensor([[request.said[-1]] for request in self.requests], device=self.model.device)
        longest = max(request.tokens for request in self.requests)
        scores = self._pass(ids, [longest - request.tokens for request in self.requests], longest)
        advance(scores, self.requests)

    def join(self, other: Rows) -> None:
        """Take the rows of `other`, whose prompts are read."""
        join(self.store, other.store)
        self.requests += other.requests

    def drop(self) -> None:
        """Let the rows go whose requests have left, and the columns that are padding for all others."""
        staying = [row for row, request in enumerate(self.requests) if not request.left]
        if len(staying) == len(self.requests):
            return
        self.requests = [self.requests[row] for row in staying]
        if staying and self.prompts_are_read:
            keep(self.store, staying, max(request.tokens for request in self.requests) - 1)
        elif staying:
            longest = max(len(request.ids) for request in self.requests)
            spare = min(self._read, self._prompts.shape[1] - longest)  # columns read that are padding for all
            keep(self.store, staying, self._read - spare)
            self._prompts, self._read = self._prompts[staying, spare:], self._read - spare

    def _pass(self, ids: Tensor, hidden: list[int], columns: int) -> Tensor:
        """Scores (B, V) after the last of `ids` (B, T), which end at that many columns, the first ones `hidden`."""
        device = ids.device
        padding = torch.tensor(hidden, device=device)[:, None]  # (B, 1)
        places = torch.arange(columns - ids.shape[1], columns, device=device)[None] - padding  # (B, T)
        mask = (torch.arange(columns, device=device)[None] >= padding).long() if any(hidden) else None
        given: dict[str, Any] = {"position_ids": places.clamp(min=0)} if self._places else {}
        logits: Tensor = self.model(
            input_ids=ids, attention_mask=mask, past_key_values=self.store, use_cache=True, **given, **self._last_only
        ).logits
        return logits[:, -1]


class Batcher:
    """Runs the answers of a model. Its methods may be called from any thread."""

    def __init__(
        self,
        model: Any,
        parallel: int,
        *,
        ready: Callable[[], contextlib.AbstractContextManager[None]],
        switch: Callable[[str], None],
    ) -> None:
        self.model, self.parallel = model, parallel
        self.part = PART if has_gpu() else PART_ON_CPU
        self._ready, self._switch = ready, switch
        self._changed = threading.Condition()
        self._waiting: list[Request] = []
        self._jobs: list[tuple[Future[Any], Callable[[], Any], str]] = []
        self._reading: Rows | None = None
        self._running: dict[str, Rows] = {}  # by adapter
        self._alone: list[Request] = []  # those that model.generate answers
        self._thread: threading.Thread | None = None
        self._closed = False
        self._joins: bool | None = None  # not known before the first request

    def submit(self, requests: Sequence[Request]) -> None:
        """Take requests, in the order of their turns."""
        self._start(lambda: self._waiting.extend(requests))

    def run(self, job: Callable[[], Result], adapter: str = "") -> Result:
        """Do something with the model between two passes, and return its result."""
        future: Future[Result] = Future()
        self._start(lambda: self._jobs.append((future, job, adapter)))
        result = future.result()
        self.leave([])
        return result

    def leave(self, requests: Sequence[Request]) -> None:
        """Give requests up where they have not ended, and return when nothing is computed for them any more.

        If there is no other work, the model is as it was before when this returns.
        """
        for request in requests:
            request.left = True
        if threading.current_thread() is self._thread:
            return  # a stream that nobody reads, found there by the garbage collector
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._thread is None or self._goes_on_without(requests), PATIENCE_SECONDS)

    def wake(self) -> None:
        """Look for what has changed."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread. Requests under way are told an error, and no more are taken."""
        with self._changed:
            self._closed = True
            self._fail(self._there(), UserError("the engine was closed while it answered"))
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _start(self, add: Callable[[], None]) -> None:
        with self._changed:
            if self._closed:
                raise UserError("the engine was closed; load it again")
            add()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="carellama-batcher", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _goes_on_without(self, requests: Sequence[Request]) -> bool:
        """Whether others are at work, and none of these is."""
        there = self._there()
        return bool(there) and not any(request in there for request in requests)

    def _there(self) -> list[Request]:
        rows = [*self._running.values(), *([self._reading] if self._reading else [])]
        return [*self._waiting, *self._alone, *(request for one in rows for request in one.requests)]

    def _work(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.set_device(self.model.device)  # a new thread begins with the first one
        while True:
            try:
                with torch.no_grad(), self._ready():
                    while self._turn():
                        pass
            except Exception as error:  # noqa: BLE001 - of what makes the model ready
                self._give_up(error)
            with self._changed:
                if not (self._waiting or self._jobs):
                    self._thread = None
                    self._changed.notify_all()
                    return

    def _turn(self) -> bool:
        """Compute what comes next; return whether there was anything."""
        with self._changed:
            self._waiting = [request for request in self._waiting if not request.left]
            self._tidy()
            jobs, self._jobs = self._jobs, []
            group = self._admitted() if self._reading is None else []
            self._changed.notify_all()
            if group:
                self._guarded(group, lambda: self._begin(group))
        for future, job, adapter in jobs:
            try:
                self._switch(adapter)
                future.set_result(job())
            except Exception as error:  # noqa: BLE001 - raised again by who waits
                future.set_exception(error)
        if self._alone:
            how = generation.search if self._alone[0].sampling.num_beams > 1 else generation.answer
            self._guarded(self._alone, lambda: how(self.model, self._alone))
            self._alone = []
        if (reading := self._reading) is not None:
            self._guarded(reading.requests, lambda: reading.read(self.part))
            self._begun()
        for rows in list(self._running.values()):
            self._guarded(rows.requests, rows.step)
        return bool(jobs or group or self._reading or self._running)

    def _tidy(self) -> None:
        for rows in (*self._running.values(), *([self._reading] if self._reading else [])):
            rows.drop()
        self._running = {adapter: rows for adapter, rows in self._running.items() if rows.requests}
        if self._reading is not None and not self._reading.requests:
            self._reading = None

    def _admitted(self) -> list[Request]:
        """The requests whose turn it is, together: the first that waits and those like it, while there are places.

        Prompts are padded to the longest: those are left for later that would make most of the tokens padding.
        """
        places = self.parallel - sum(len(rows.requests) for rows in self._running.values())
        if not self._waiting or places <= 0:
            return []
        group, longest, tokens = list[Request](), 0, 0
        kind = _kind(self._waiting[0])
        for request in self._waiting:
            width, real = max(longest, len(request.ids)), tokens + len(request.ids)
            padded = (len(group) + 1) * width
            if len(group) < places and _kind(request) == kind and (padded <= 2 * real or padded <= self.part):
                group.append(request)
                longest, tokens = width, real
        taken = set(map(id, group))
        self._waiting = [request for request in self._waiting if id(request) not in taken]
        return group

    def _begin(self, group: list[Request]) -> None:
        if self._joined(group):
            self._reading = Rows(self.model, group)
        else:
            self._alone = group

    def _joined(self, group: list[Request]) -> bool:
        """Whether these can be computed with others. Says once why this model's answers cannot."""
        if self._joins is None:
            own = type(self.model).__module__.startswith("transformers.models.")
            reason = why_not(self.model) or ("" if own else tried(self.model))
            self._joins = not reason
            if reason:
                name = type(self.model).__name__
                log.info("%s: %s, so batches are answered one after the other, and none joins", name, reason)
        return self._joins and group[0].sampling.num_beams == 1

    def _begun(self) -> None:
        """Let the answers run whose prompts are read."""
        rows = self._reading
        if rows is None or not rows.prompts_are_read:
            return
        rows.drop()
        if rows.requests:
            running = self._running.setdefault(rows.requests[0].sampling.adapter, rows)
            if running is not rows:
                running.drop()
                self._guarded([*running.requests, *rows.requests], lambda: running.join(rows))
        self._reading = None

    def _guarded(self, requests: list[Request], work: Callable[[], object]) -> None:
        """Do what these requests need; an error ends them, and nothing else."""
        try:
            self._switch(requests[0].sampling.adapter)
            work()
        except torch.OutOfMemoryError as error:
            longest = max(request.tokens for request in requests)
            told = UserError(
                f"out of memory with {len(requests)} answers of up to {longest:,} tokens together; give a smaller "
                "--per_device_eval_batch_size, --parallel or --max_new_tokens"
            )
            told.__cause__ = error
            self._fail(requests, told)
        except Exception as error:  # noqa: BLE001 - of the model's code; told to who asked
            self._fail(requests, error)

    def _give_up(self, error: Exception) -> None:
        with self._changed:
            self._fail(self._there(), error)
            for future, _, _ in self._jobs:
                future.set_exception(error)
            self._waiting, self._jobs, self._alone = [], [], []
            self._reading, self._running = None, {}

    @staticmethod
    def _fail(requests: Sequence[Request], error: Exception) -> None:
        for request in requests:
            request.fail(error)


class BatchedRequest:
    """A request of a batcher as its caller has it, see `RequestHandle`."""

    def __init__(self, batcher: Batcher, request: Request) -> None:
        self._batcher, self._request = batcher, request

    def cancel(self) -> None:
        """End the request; the next pass is computed without it."""
        self._request.left = True
        self._batcher.wake()

    def join(self) -> None:
        """Wait until it has left the batch. If it was the last one, the model is as it was before."""
        self._batcher.leave([self._request])


def _kind(request: Request) -> tuple[object, ...]:
    """Requests of one kind are computed together. Beam search takes its settings for a whole batch."""
    sampling = request.sampling
    return (sampling.adapter, *((request.room, sampling) if sampling.num_beams > 1 else ()))
