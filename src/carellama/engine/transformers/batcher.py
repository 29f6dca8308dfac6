"""Continuous batching: all answers under way get their next token in one forward pass, and others join between two.

    batcher = Batcher(model, parallel=8, ready=nullcontext, switch=lambda adapter: None)
    batcher.submit([request, ...])          # their events: carellama.engine.transformers.request
    batcher.run(lambda: model(...))         # something else with the model, between two passes

One thread computes. It is there while there is work, and within `ready()`; when it has gone, the model is as it was
before. New prompts are read in parts, with a pass of the running answers after each part, so that they are not held up.
Answers with the same adapter make a batch. A request in whose batch a pass fails gets the error; the others go on.

A model whose cache cannot be joined (`carellama.engine.transformers.kv_cache`) answers a batch after the other with
`model.generate`, as does beam search.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from carellama.engine.transformers import generate as generation
from carellama.engine.transformers.kv_cache import (
    concat_caches,
    new_kv_cache,
    probe_batching,
    select_rows,
    unbatchable_reason,
)
from carellama.engine.transformers.request import Request, sample_step
from carellama.errors import UserError
from carellama.hardware import has_gpu

log = logging.getLogger(__name__)

Result = TypeVar("Result")
PREFILL_CHUNK_TOKENS = 512  # tokens of prompts that are read in one pass on a GPU
CPU_PREFILL_CHUNK_TOKENS = 256  # a pass is not to take longer than about a second
CANCEL_WAIT_SECONDS = 10.0  # waited for the pass under way when an answer is cancelled
GATHER_SECONDS = 0.02  # waited for more requests before a batch that none can join later


class DecodeBatch:
    """Answers of one adapter that are computed together: first their prompts, then a token of each a pass."""

    def __init__(self, model: PreTrainedModel, requests: list[Request]) -> None:
        self.model, self.requests = model, requests
        self.cache = new_kv_cache()
        longest = max(len(request.prompt_ids) for request in requests)
        padded = [[0] * (longest - len(request.prompt_ids)) + request.prompt_ids for request in requests]
        self._prompts = torch.tensor(padded, device=model.device)  # (B, T), padded on the left
        self._prefilled = 0  # columns of them
        known = inspect.signature(type(model).forward).parameters
        self._takes_positions = "position_ids" in known
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    @property
    def is_prefilled(self) -> bool:
        """Whether their answers have begun."""
        return self._prefilled == self._prompts.shape[1]

    def prefill(self, part: int) -> None:
        """Read the next columns of the prompts, `part` tokens in all; at their end choose the first tokens."""
        width = max(1, part // len(self.requests))
        ids = self._prompts[:, self._prefilled : self._prefilled + width]
        self._prefilled += ids.shape[1]
        longest = self._prompts.shape[1]
        hidden = [longest - len(request.prompt_ids) for request in self.requests]  # columns of padding
        scores = self._forward(ids, hidden, self._prefilled)
        if self.is_prefilled:
            sample_step(scores, self.requests)

    def decode_step(self) -> None:
        """Compute the next token of each."""
        ids = torch.tensor([[request.output_ids[-1]] for request in self.requests], device=self.model.device)
        longest = max(request.total_tokens for request in self.requests)
        scores = self._forward(ids, [longest - request.total_tokens for request in self.requests], longest)
        sample_step(scores, self.requests)

    def merge(self, other: DecodeBatch) -> None:
        """Take the rows of `other`, whose prompts are read."""
        concat_caches(self.cache, other.cache)
        self.requests += other.requests

    def remove_finished(self) -> None:
        """Remove the rows whose requests are done, and the columns that are padding for all others."""
        staying = [row for row, request in enumerate(self.requests) if not request.done]
        if len(staying) == len(self.requests):
            return
        self.requests = [self.requests[row] for row in staying]
        if staying and self.is_prefilled:
            select_rows(self.cache, staying, max(request.total_tokens for request in self.requests) - 1)
        elif staying:
            longest = max(len(request.prompt_ids) for request in self.requests)
            spare = min(self._prefilled, self._prompts.shape[1] - longest)  # columns read that are padding for all
            select_rows(self.cache, staying, self._prefilled - spare)
            self._prompts, self._prefilled = self._prompts[staying, spare:], self._prefilled - spare

    def _forward(self, ids: Tensor, hidden: list[int], columns: int) -> Tensor:
        """Scores (B, V) after the last of `ids` (B, T), which end at that many columns, the first ones `hidden`."""
        device = ids.device
        padding = torch.tensor(hidden, device=device)[:, None]  # (B, 1)
        positions = torch.arange(columns - ids.shape[1], columns, device=device)[None] - padding  # (B, T)
        mask = (torch.arange(columns, device=device)[None] >= padding).long() if any(hidden) else None
        given: dict[str, Tensor] = {"position_ids": positions.clamp(min=0)} if self._takes_positions else {}
        logits: Tensor = self.model(
            input_ids=ids, attention_mask=mask, past_key_values=self.cache, use_cache=True, **given, **self._last_only
        ).logits
        return logits[:, -1]


class Batcher:
    """Runs the answers of a model. Its methods may be called from any thread."""

    def __init__(
        self,
        model: PreTrainedModel,
        parallel: int,
        *,
        ready: Callable[[], contextlib.AbstractContextManager[None]],
        switch: Callable[[str], None],
    ) -> None:
        self.model, self.parallel = model, parallel
        self.part = PREFILL_CHUNK_TOKENS if has_gpu() else CPU_PREFILL_CHUNK_TOKENS
        self._ready, self._switch = ready, switch
        self._changed = threading.Condition()
        self._waiting: list[Request] = []
        self._jobs: list[tuple[Future[Any], Callable[[], Any], str]] = []
        self._prefilling: DecodeBatch | None = None
        self._running: dict[str, DecodeBatch] = {}  # by adapter
        self._alone: list[Request] = []  # those that model.generate answers
        self._thread: threading.Thread | None = None
        self._closed = False
        self._joins: bool | None = None  # not known before the first request

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests, in the order of their turns."""
        self._start(lambda: self._waiting.extend(requests))

    def run(self, job: Callable[[], Result], adapter: str = "") -> Result:
        """Do something with the model between two passes, and return its result."""
        future: Future[Result] = Future()
        self._start(lambda: self._jobs.append((future, job, adapter)))
        result = future.result()
        self.cancel([])
        return result

    def cancel(self, requests: Sequence[Request]) -> None:
        """Cancel requests that have not ended, and return when nothing is computed for them any more.

        If there is no other work, the model is as it was before when this returns.
        """
        for request in requests:
            request.done = True
        if threading.current_thread() is self._thread:
            return  # a stream that nobody reads, found there by the garbage collector
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._thread is None or self._can_skip(requests), CANCEL_WAIT_SECONDS)

    def wake(self) -> None:
        """Look for what has changed."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread. Requests under way end with an error, and no more are accepted."""
        with self._changed:
            self._closed = True
            self._fail(self._active(), UserError("the engine was closed while it answered"))
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _start(self, add: Callable[[], None]) -> None:
        with self._changed:
            if self._closed:
                raise UserError("the engine was closed; load it again")
            add()
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="carellama-batcher", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _can_skip(self, requests: Sequence[Request]) -> bool:
        """Whether others are at work, and none of these is."""
        active = self._active()
        return bool(active) and not any(request in active for request in requests)

    def _active(self) -> list[Request]:
        rows = [*self._running.values(), *([self._prefilling] if self._prefilling else [])]
        return [*self._waiting, *self._alone, *(request for one in rows for request in one.requests)]

    def _loop(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.set_device(self.model.device)  # a new thread begins with the first one
        while True:
            try:
                with torch.no_grad(), self._ready():
                    while self._step():
                        pass
            except Exception as error:  # noqa: BLE001 - of what makes the model ready
                self._fail_all(error)
            with self._changed:
                if not (self._waiting or self._jobs):
                    self._thread = None
                    self._changed.notify_all()
                    return

    def _step(self) -> bool:
        """Compute what comes next; return whether there was anything."""
        with self._changed:
            self._waiting = [request for request in self._waiting if not request.done]
            self._drop_finished()
            jobs, self._jobs = self._jobs, []
            group = self._admit() if self._prefilling is None else []
            self._changed.notify_all()
            if group:
                self._guarded(group, lambda: self._start_prefill(group))
        for future, job, adapter in jobs:
            try:
                self._switch(adapter)
                future.set_result(job())
            except Exception as error:  # noqa: BLE001 - raised again by who waits
                future.set_exception(error)
        if self._alone:
            how = generation.beam_search if self._alone[0].sampling.num_beams > 1 else generation.generate_batch
            self._guarded(self._alone, lambda: how(self.model, self._alone))
            self._alone = []
        if (prefilling := self._prefilling) is not None:
            self._guarded(prefilling.requests, lambda: prefilling.prefill(self.part))
            self._start_decoding()
        for rows in list(self._running.values()):
            self._guarded(rows.requests, rows.decode_step)
        return bool(jobs or group or self._prefilling or self._running)

    def _drop_finished(self) -> None:
        for rows in (*self._running.values(), *([self._prefilling] if self._prefilling else [])):
            rows.remove_finished()
        self._running = {adapter: rows for adapter, rows in self._running.items() if rows.requests}
        if self._prefilling is not None and not self._prefilling.requests:
            self._prefilling = None

    def _admit(self) -> list[Request]:
        """The requests whose turn it is, together: the first that waits and those like it, while there is room.

        Prompts are padded to the longest: those are left for later that would make most of the tokens padding.
        """
        room = self.parallel - sum(len(rows.requests) for rows in self._running.values())
        if not self._waiting or room <= 0:
            return []
        if not self._is_joinable(self._waiting[0]):
            self._changed.wait_for(lambda: self._closed or len(self._waiting) >= room, GATHER_SECONDS)
        group, longest, tokens = list[Request](), 0, 0
        kind = batch_key(self._waiting[0])
        for request in self._waiting:
            width, real = max(longest, len(request.prompt_ids)), tokens + len(request.prompt_ids)
            padded = (len(group) + 1) * width
            if len(group) < room and batch_key(request) == kind and (padded <= 2 * real or padded <= self.part):
                group.append(request)
                longest, tokens = width, real
        taken = set(map(id, group))
        self._waiting = [request for request in self._waiting if id(request) not in taken]
        return group

    def _start_prefill(self, group: list[Request]) -> None:
        if self._is_joinable(group[0]):
            self._prefilling = DecodeBatch(self.model, group)
        else:
            self._alone = group

    def _is_joinable(self, request: Request) -> bool:
        """Whether others can join its batch. Says once why this model's answers cannot."""
        if self._joins is None:
            own = type(self.model).__module__.startswith("transformers.models.")
            reason = unbatchable_reason(self.model) or ("" if own else probe_batching(self.model))
            self._joins = not reason
            if reason:
                name = type(self.model).__name__
                log.info("%s: %s, so batches are answered one after the other, and none joins", name, reason)
        return self._joins and request.sampling.num_beams == 1

    def _start_decoding(self) -> None:
        """Let the answers run whose prompts are read."""
        rows = self._prefilling
        if rows is None or not rows.is_prefilled:
            return
        rows.remove_finished()
        if rows.requests:
            running = self._running.setdefault(rows.requests[0].sampling.adapter, rows)
            if running is not rows:
                running.remove_finished()
                self._guarded([*running.requests, *rows.requests], lambda: running.merge(rows))
        self._prefilling = None

    def _guarded(self, requests: list[Request], work: Callable[[], object]) -> None:
        """Do what these requests need; an error ends them, and nothing else."""
        try:
            self._switch(requests[0].sampling.adapter)
            work()
        except torch.OutOfMemoryError as error:
            longest = max(request.total_tokens for request in requests)
            failure = UserError(
                f"out of memory with {len(requests)} answers of up to {longest:,} tokens together; give a smaller "
                "--per_device_eval_batch_size, --parallel or --max_new_tokens"
            )
            failure.__cause__ = error
            self._fail(requests, failure)
        except Exception as error:  # noqa: BLE001 - of the model's code; raised again by who asked
            self._fail(requests, error)

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            self._fail(self._active(), error)
            for future, _, _ in self._jobs:
                future.set_exception(error)
            self._waiting, self._jobs, self._alone = [], [], []
            self._prefilling, self._running = None, {}

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
        self._request.done = True
        self._batcher.wake()

    def join(self) -> None:
        """Wait until it has left the batch. If it was the last one, the model is as it was before."""
        self._batcher.cancel([self._request])


def batch_key(request: Request) -> tuple[object, ...]:
    """Return what requests have in common that are computed together: beam search has one setting for a batch."""
    sampling = replace(request.sampling, seed=None)
    return (sampling.adapter, *((request.max_new_tokens, sampling) if sampling.num_beams > 1 else ()))
