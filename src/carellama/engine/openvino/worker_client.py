"""The process of OpenVINO GenAI as the engine has it: requests go out as lines, what is computed comes back as events.

    worker = WorkerClient({"model": "model.gguf", "blocks": 2048, "parallel": 8})
    handle = worker.submit(Request(ids, detokenizer, sampling, config, on_event, tokenizer.backend.id_to_token))

One thread writes, one reads; `carellama.engine.openvino.worker` describes the lines.
"""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from carellama.engine.base import FinishReason, OnEvent, Piece, Reply, Sampling, TokenLogprob, Unavailable
from carellama.engine.detokenizer import Detokenizer
from carellama.engine.token_text import token_text
from carellama.errors import UserError
from carellama.records import JSONObject

WORKER_SCRIPT = Path(__file__).with_name("worker.py")
SHUTDOWN_SECONDS = 5.0  # that the process has to end
# Tokens, their log-probabilities, and why the answer ended; or why there is none.
WorkerEvent = tuple[list[int], list[float], str] | Exception


class Request:
    """One answer in the making; `on_event` is told what becomes of it, see `Engine.submit`."""

    def __init__(
        self,
        ids: list[int],
        detokenizer: Detokenizer,
        sampling: Sampling,
        config: JSONObject,
        on_event: OnEvent,
        piece: Callable[[int], str | None],
    ) -> None:
        self.ids, self.config = ids, config
        self.done = False
        self._detokenizer, self._sampling, self._on_event, self._piece = detokenizer, sampling, on_event, piece
        self._logprobs: list[TokenLogprob] = []

    def take(self, event: WorkerEvent) -> None:
        """Hand on what the worker computed. `done`: it may be cancelled there."""
        if self.done:
            return  # it was stopped by a string, and had gone on until this was known
        if isinstance(event, Exception):
            self.done = True
            self._on_event(event)
            return
        tokens, logprobs, reason = event
        detokenizer, text, found = self._detokenizer, "", list[TokenLogprob]()
        for token, logprob in zip(tokens, logprobs, strict=True):
            text += detokenizer.add(token)
            if detokenizer.stopped:
                break
            if self._sampling.top_logprobs is not None:
                named = token_text(self._piece(token), detokenizer.decode([token]))
                found.append(TokenLogprob(named, min(logprob, 0.0)))
        self.done = detokenizer.stopped or bool(reason)
        if self.done:
            text += detokenizer.end()
        self._logprobs += found
        if text or found:
            self._on_event(Piece(text, logprobs=tuple(found)))
        if self.done:
            finish: FinishReason = "stop" if detokenizer.stopped or reason == "stop" else "length"
            count, logprobs_of_all = detokenizer.tokens, tuple(self._logprobs)
            self._on_event(Reply(detokenizer.text, finish, len(self.ids), count, logprobs=logprobs_of_all))


class WorkerRequest:
    """A request of the worker as its caller has it, see `RequestHandle`."""

    def __init__(self, worker: WorkerClient, number: int) -> None:
        self._worker, self._number = worker, number

    def cancel(self) -> None:
        """End the request after the step under way."""
        self._worker.cancel(self._number)

    def join(self) -> None:
        """Nothing: what another process computes changes nothing here."""


class WorkerClient:
    """The process that computes, and the requests that it has."""

    def __init__(self, settings: JSONObject) -> None:
        self._numbers = itertools.count()
        self._requests: dict[int, Request] = {}
        self._lock = threading.Lock()  # of the requests
        self._lines: queue.SimpleQueue[JSONObject | None] = queue.SimpleQueue()  # to be written
        self._ended: UserError | None = None
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(WORKER_SCRIPT)],  # -P: the modules beside that file have names of libraries
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process
        )
        assert self._child.stdin and self._child.stdout
        self._input, self._output = self._child.stdin, self._child.stdout
        self._writer = threading.Thread(target=self._write, name="carellama-openvino-writer", daemon=True)
        self._writer.start()
        self._lines.put(settings)
        line = json.loads(self._output.readline() or b"{}")
        if "ready" not in line:
            self.close()
            why = line.get("failed") or f"its process ended with code {self._child.returncode}"
            raise UserError(f"OpenVINO cannot load {settings['model']} ({why}); take --engine llamacpp or transformers")
        threading.Thread(target=self._read, name="carellama-openvino", daemon=True).start()

    def submit(self, request: Request) -> WorkerRequest:
        """Hand over a request."""
        number = next(self._numbers)
        with self._lock:
            if self._ended:
                raise self._ended
            self._requests[number] = request
        self._lines.put({"add": number, "ids": request.ids, "config": request.config})
        return WorkerRequest(self, number)

    def cancel(self, number: int) -> None:
        """End a request before its time; nothing, if it has ended."""
        with self._lock:
            known = self._requests.pop(number, None)
        if known is not None:
            self._lines.put({"drop": number})

    def close(self) -> None:
        """End the process; requests under way end with an error."""
        self._fail(Unavailable("the openvino engine was closed"))
        self._lines.put(None)
        self._writer.join(SHUTDOWN_SECONDS)
        try:
            self._child.wait(SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _write(self) -> None:
        """Write the lines that were sent: neither a caller nor the reader waits for a full pipe."""
        with suppress(BrokenPipeError):  # the worker is gone, and the reader of its output tells
            while (line := self._lines.get()) is not None:
                self._input.write(json.dumps(line).encode() + b"\n")
                self._input.flush()
        with suppress(BrokenPipeError):
            self._input.close()

    def _read(self) -> None:
        """Hand on what the worker tells, until it ends."""
        for text in self._output:
            line = json.loads(text)
            for number, *event in line.get("out", ()):
                self._dispatch(number, (event[0], event[1], event[2]), ended=bool(event[2]))
            if "refused" in line:
                error = Unavailable(f"OpenVINO could not answer: {line['why']}")
                self._dispatch(line["refused"], error, ended=True)
        self._output.close()
        code = self._child.wait()
        self._fail(Unavailable(f"the process of the openvino engine ended with code {code}; start it again"))

    def _dispatch(self, number: int, event: WorkerEvent, *, ended: bool) -> None:
        with self._lock:
            request = self._requests.pop(number, None) if ended else self._requests.get(number)
        if request is not None:
            try:
                request.take(event)
            except Exception as error:  # noqa: BLE001 - raised again by who asked
                request.take(error)
            if request.done:
                self.cancel(number)

    def _fail(self, error: UserError) -> None:
        with self._lock:
            self._ended = self._ended or error
            requests = [*self._requests.values()]
            self._requests.clear()
        for request in requests:
            request.take(error)
