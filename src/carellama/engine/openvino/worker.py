"""The process that runs OpenVINO GenAI for `carellama.engine.openvino.engine`. Not to be imported: it is run as a file.

    {"model": "model.gguf", "blocks": 2048, "parallel": 8}                     the first line on its input
    {"add": 7, "ids": [1, 2, 3], "config": {"max_new_tokens": 16}}             a request begins
    {"drop": 7}                                                                and ends before its time

It answers {"ready": true} or {"failed": "why"}, and from then on, after each step of the model,
{"out": [[7, [ids], [log-probabilities], "stop"]]} or {"refused": 7, "why": "..."}, all as lines of JSON. The end of its
input ends it.

A process of its own, because the library's `step` holds Python's lock for as long as the model computes: beside it no
other thread could serve anybody. One thread here steps and looks for requests between the steps.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections import deque
from typing import Any, BinaryIO

JSONObject = dict[str, Any]  # as carellama.records has it, which is not imported here
READ_BYTES = 1 << 16
# Where a processor has bfloat16, OpenVINO would compute in it: other answers than those that the export compared.
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
BATCHED_TOKENS = 256  # prompt tokens of one step: requests that are being answered wait no longer than for these


class LineReader:
    """The lines of a file descriptor, with or without waiting for them."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.ended = False
        self._rest = b""

    def read(self, *, wait: bool) -> list[JSONObject]:
        """Return the lines that are there; with `wait` at least one, but for the end of the input."""
        found: list[JSONObject] = []
        while not self.ended and ((wait and not found) or select.select([self.descriptor], [], [], 0)[0]):
            block = os.read(self.descriptor, READ_BYTES)
            self.ended = not block
            *lines, self._rest = (self._rest + block).split(b"\n")
            found += map(json.loads, lines)
        return found


class PipelineServer:
    """Requests that wait and that run, and the pipeline that answers them."""

    def __init__(self, genai: Any, settings: JSONObject, lines: LineReader, output: BinaryIO) -> None:
        self.genai = genai
        self.lines = lines
        self.output = output
        self.parallel: int = settings["parallel"]
        self.waiting: deque[JSONObject] = deque()
        self.running: dict[int, Any] = {}  # number of a request to its handle
        scheduler = genai.SchedulerConfig()
        scheduler.num_kv_blocks = settings["blocks"]
        scheduler.max_num_seqs = max(self.parallel, 256)  # beams are sequences too; requests are counted here
        scheduler.max_num_batched_tokens = BATCHED_TOKENS
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = True
        self.pipeline = genai.ContinuousBatchingPipeline(settings["model"], scheduler, "CPU", PRECISION)

    def run(self) -> None:
        """Answer until the input ends."""
        while True:
            busy = bool(self.running or self.waiting) or self.pipeline.has_non_finished_requests()
            for line in self.lines.read(wait=not busy):
                self._handle_message(line)
            if self.lines.ended:
                return
            while self.waiting and len(self.running) < self.parallel:
                self._start_request(self.waiting.popleft())
            if self.pipeline.has_non_finished_requests():
                self._step()

    def _handle_message(self, line: JSONObject) -> None:
        if "add" in line:
            self.waiting.append(line)
        elif handle := self.running.pop(line["drop"], None):
            handle.cancel()
        else:
            self.waiting = deque(request for request in self.waiting if request["add"] != line["drop"])

    def _start_request(self, request: JSONObject) -> None:
        number = request["add"]
        try:
            ids, config = self._tensor(request["ids"]), self._config(request["config"])
            self.running[number] = self.pipeline.add_request(number, ids, config)
        except Exception as error:  # noqa: BLE001 - told to who asked; the process serves the others
            self.send({"refused": number, "why": short_error(error)})

    def _step(self) -> None:
        try:
            self.pipeline.step()
        except Exception as error:  # noqa: BLE001 - of which request is not said: all of them end
            for number, handle in self.running.items():
                handle.cancel()
                self.send({"refused": number, "why": short_error(error)})
            self.running.clear()
            self.pipeline.step()  # while there is nothing else it forgets them; later it would fail again
            return
        out = []
        for number, handle in list(self.running.items()):
            while handle.can_read():
                found = max(handle.read().values(), key=lambda output: output.score)
                out.append([number, found.generated_ids, found.generated_log_probs, self._reason(found)])
            if handle.get_status() != self.genai.GenerationStatus.RUNNING and not handle.can_read():
                del self.running[number]
                if not out or out[-1][0] != number or not out[-1][3]:
                    self.send({"refused": number, "why": "the cache is full"})
        if out:
            self.send({"out": out})

    def _reason(self, output: Any) -> str:
        reasons = self.genai.GenerationFinishReason
        return {reasons.STOP: "stop", reasons.LENGTH: "length"}.get(output.finish_reason, "")

    def _tensor(self, ids: list[int]) -> Any:
        import numpy
        import openvino

        return openvino.Tensor(numpy.array([ids], dtype=numpy.int64))  # (1, T)

    def _config(self, wanted: JSONObject) -> Any:
        stops = set(wanted.pop("stop_token_ids"))
        grammar = wanted.pop("grammar", None)
        config = self.genai.GenerationConfig(**wanted)
        config.stop_token_ids = stops
        if grammar is not None:
            config.structured_output_config = self.genai.StructuredOutputConfig(grammar=grammar)
        return config

    def send(self, line: JSONObject) -> None:
        """Write one line."""
        self.output.write(json.dumps(line).encode() + b"\n")
        self.output.flush()


def short_error(error: Exception) -> str:
    """The last line of an error that says something: the library begins with where in its source it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def main() -> None:
    """Serve the process that started this one."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the libraries print is no answer
    lines = LineReader(0)
    (settings,) = lines.read(wait=True)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # nothing is told of what is done here
    try:
        import openvino_genai

        server = PipelineServer(openvino_genai, settings, lines, output)
    except Exception as error:  # noqa: BLE001 - told to the process that waits for this one
        output.write(json.dumps({"failed": short_error(error)}).encode() + b"\n")
        output.flush()
        sys.exit(1)
    try:
        server.send({"ready": True})
        server.run()
    except BrokenPipeError:
        pass  # nobody reads it any more
    os._exit(0)  # at its own end the library complains of answers that were under way


if __name__ == "__main__":
    main()
