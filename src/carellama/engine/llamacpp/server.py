"""llama.cpp's server within this process, by the package xllamacpp: requests as JSON, answers as events.

    server = Server(ServerOptions(Path("model.gguf"), context_tokens=2048, parallel=4))
    server.complete({"prompt": server.tokenize("Asthma is"), "stream": True}, on_event)     # until its end

The server listens too, as it cannot be told not to: on a Unix socket in a folder that only this user can enter. Words
are turned into tokens that way; answers come by calls within the process. Nothing of a prompt is logged.
"""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carellama.config.environment import patient_threads
from carellama.engine.base import Unavailable
from carellama.errors import UserError, need
from carellama.hardware import physical_cores
from carellama.records import JSONObject

BATCH = 512  # tokens of prompts that are computed at once: running answers wait for it, and so does closing
LOG_ERRORS_ONLY = 1  # of llama.cpp's levels of its log
ALL_LAYERS = -1
MEAN_POOLING = 1  # llama.cpp's number of this way of pooling


def import_xllamacpp() -> Any:
    """Import xllamacpp, or say how it is installed."""
    patient_threads()
    return need("xllamacpp", extra="llamacpp", why="--engine llamacpp")


@dataclass(frozen=True)
class ServerOptions:
    """What a server is started with."""

    path: Path
    context_tokens: int  # of each request
    parallel: int = 1
    adapters: tuple[Path, ...] = ()
    gpu_layers: int | None = None  # None: all that fit
    embedding: bool = False  # makes vectors, and no answers
    threads: int | None = None  # that compute; None: one a core. They wait for each other: more than cores are slow


class _RunningCompletion:
    """A call that does not return before the answer ends; `cancelled` ends it, within one token."""

    def __init__(self) -> None:
        self.cancelled = False
        self.ended = threading.Event()


@dataclass
class _ServerResources:
    """What a server holds, and has to give back also where nobody closes it."""

    folder: Path
    native: Any = None
    running: set[_RunningCompletion] = field(default_factory=set)
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Server:
    """A model that is loaded. Raises `UserError` where it cannot be."""

    def __init__(self, options: ServerOptions) -> None:
        xllamacpp = import_xllamacpp()
        held = self._held = _ServerResources(Path(tempfile.mkdtemp(prefix="carellama-")))  # mode 0700
        self._socket = str(held.folder / "llama.sock")
        self._end = weakref.finalize(self, _end, held)  # at the interpreter's end too: its threads outlive no process
        try:
            with _delay_signals():
                held.native = xllamacpp.Server(_parameters(xllamacpp, options, self._socket))
        except RuntimeError as error:
            self._end()
            raise UserError(
                f"llama.cpp cannot load {options.path} ({options.context_tokens:,} tokens for each of "
                f"{options.parallel} requests): the file is damaged, of a kind that it does not know, or too large "
                "for the memory; what llama.cpp says stands above"
            ) from error

    def tokenize(self, text: str, *, marks: bool = False, begin: bool = False) -> list[int]:
        """Return the tokens of a text. `marks`: strings of control tokens are these tokens, else they are text.

        `begin`: with the token that begins a sequence, where the model has one.
        """
        if not text and not begin:
            return []
        found = self._post("/tokenize", {"content": text, "parse_special": marks, "add_special": begin})
        tokens: list[int] = found["tokens"]
        return tokens

    def text_of(self, ids: list[int]) -> str:
        """Return the text of tokens; bytes that are no character yet come as U+FFFD."""
        text: str = self._post("/detokenize", {"tokens": ids})["content"] if ids else ""
        return text

    def next_token(self, body: JSONObject) -> JSONObject:
        """Send a request for one token; return what llama.cpp says of it (tools/server/README.md, POST /completion)."""
        return self._post("/completion", body | {"stream": False, "return_tokens": True})

    def embed(self, encoded: Sequence[list[int]]) -> list[list[float]]:
        """Return a vector of length 1 for each sequence of tokens."""
        if self._held.closed:
            raise Unavailable("the engine was closed")
        answer = json.loads(self._held.native.handle_embeddings(json.dumps({"input": list(encoded)})))
        if "data" not in answer:
            raise UserError(f"llama.cpp makes no vector: {_reason(answer)}")
        rows = sorted(answer["data"], key=lambda row: int(row["index"]))
        return [row["embedding"] for row in rows]

    def complete(self, body: JSONObject, on_event: Callable[[JSONObject], bool]) -> None:
        """Ask for an answer, and return at its end. `on_event` gets each event; it returns True to end the request.

        Raises `Unavailable` for a server that was closed; one that is closed now returns before the end.
        """
        running, failures = _RunningCompletion(), list[Exception]()

        def take(text: str) -> bool:
            try:
                event = json.loads(text)
                if "choices" not in event:
                    raise UserError(f"llama.cpp refuses a request: {_reason(event)}")
                return running.cancelled or on_event(event)
            except Exception as error:  # noqa: BLE001 - raised below: llama.cpp calls this
                failures.append(error)
                return True

        with self._held.lock:
            if self._held.closed:
                raise Unavailable("the engine was closed")
            self._held.running.add(running)
        try:
            self._held.native.handle_completions(json.dumps(body), take)
        except Exception as error:  # of the library
            raise UserError(f"llama.cpp refuses a request: {error}") from error
        finally:
            with self._held.lock:
                self._held.running.discard(running)
            running.ended.set()
        if failures:
            raise failures[0]

    def close(self) -> None:
        """End the requests under way, then the server; safe to be called again."""
        self._end()

    def _post(self, path: str, body: JSONObject) -> JSONObject:
        if self._held.closed:
            raise Unavailable("the engine was closed")
        connection = _UnixConnection(self._socket)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer: JSONObject = json.loads(connection.getresponse().read())
        except OSError as error:
            raise Unavailable(f"llama.cpp's server does not answer: {error}") from error
        finally:
            connection.close()
        if "error" in answer:
            raise UserError(f"llama.cpp refuses a request: {_reason(answer)}")
        return answer


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Connect, see `HTTPConnection.connect`."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def _parameters(xllamacpp: Any, options: ServerOptions, address: str) -> Any:
    """llama.cpp's own options (ggml-org/llama.cpp, common/common.h, common_params)."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(options.path)
    parameters.hostnames = [address]
    parameters.ui = False
    parameters.chat_template = "chatml"  # prompts come rendered, and a template that it cannot parse would end it
    parameters.endpoint_slots = False  # which would show prompts
    parameters.verbosity = LOG_ERRORS_ONLY
    parameters.n_parallel = options.parallel
    parameters.n_ctx = options.context_tokens * options.parallel
    parameters.fit_params = False  # it would make the context smaller without a word
    parameters.n_batch = parameters.n_ubatch = options.context_tokens if options.embedding else BATCH
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = options.threads or physical_cores()
    parameters.n_threads_http = options.parallel + 4
    parameters.cache_ram_mib = 0  # slots keep their prompts; a second store of them would grow to format_bytes
    parameters.n_gpu_layers = ALL_LAYERS if options.gpu_layers is None else options.gpu_layers
    parameters.lora_init_without_apply = True
    parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 1.0) for path in options.adapters]
    if options.embedding:
        parameters.embedding = True
        parameters.pooling_type = xllamacpp.llama_pooling_type(MEAN_POOLING)
    return parameters


@contextmanager
def _delay_signals() -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM afterwards, by Python's handlers, which some versions of the server replace.

    An exception of a handler would drop the server as soon as it is made, and its destructor waits for ever.
    """
    if threading.current_thread() is not threading.main_thread():  # no other handles signals
        yield
        return
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, lambda number, _: received.append(number))
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: not Python's
                signal.signal(number, handler)
    for one in received:
        signal.raise_signal(one)


def _reason(answer: JSONObject) -> str:
    """The message of an error; it names fields and numbers, and no text of a prompt."""
    error = answer.get("error", answer)
    return str(error.get("message", "no reason given") if isinstance(error, dict) else error)


def _end(held: _ServerResources) -> None:
    """End the requests under way, then the server."""
    with held.lock:
        held.closed, running = True, list(held.running)
    for completion in running:
        completion.cancelled = True
    for completion in running:
        completion.ended.wait()
    held.native = None  # the last reference: this waits for its threads
    shutil.rmtree(held.folder, ignore_errors=True)
