"""llama.cpp's server within this process, by the package xllamacpp: requests as JSON, answers as events.

    server = Server(Settings(Path("model.gguf"), context_tokens=2048, parallel=4))
    for event in Completion(server, {"prompt": server.tokenize("Asthma is"), "stream": True}).events(0.5): ...

The server listens too, as it cannot be told not to: on a Unix socket in a folder that only this user can enter. Words
are turned into tokens that way; answers come by calls within the process. Nothing of a prompt is logged.
"""

from __future__ import annotations

import http.client
import json
import queue
import shutil
import signal
import socket
import tempfile
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carellama.config.environment import patient_threads
from carellama.engine.base import Unavailable
from carellama.errors import UserError, need
from carellama.hardware import physical_cores

BATCH = 512  # tokens of prompts that are computed at once: running answers wait for it, and so does closing
ERRORS_ONLY = 1  # of llama.cpp's levels of its log
ALL_LAYERS = -1
MEAN = 1  # llama.cpp's number of this way of pooling


def package() -> Any:
    """Import xllamacpp, or say how it is installed."""
    patient_threads()
    return need("xllamacpp", extra="llamacpp", why="--engine llamacpp")


@dataclass(frozen=True)
class Settings:
    """What a server is started with."""

    path: Path
    context_tokens: int  # of each request
    parallel: int = 1
    adapters: tuple[Path, ...] = ()
    gpu_layers: int | None = None  # None: all that fit
    embedding: bool = False  # makes vectors, and no answers
    threads: int | None = None  # that compute; None: one a core. They wait for each other: more than cores are slow


@dataclass
class _Held:
    """What a server holds, and has to give back also where nobody closes it."""

    folder: Path
    native: Any = None
    running: set[Completion] = field(default_factory=set)
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Server:
    """A model that is loaded. Raises `UserError` where it cannot be."""

    def __init__(self, settings: Settings) -> None:
        xllamacpp = package()
        held = self._held = _Held(Path(tempfile.mkdtemp(prefix="carellama-")))  # mode 0700
        self._socket = str(held.folder / "llama.sock")
        self._end = weakref.finalize(self, _end, held)  # at the interpreter's end too: its threads outlive no process
        try:
            with _signals_kept():
                held.native = xllamacpp.Server(_parameters(xllamacpp, settings, self._socket))
        except RuntimeError as error:
            self._end()
            raise UserError(
                f"llama.cpp cannot load {settings.path} ({settings.context_tokens:,} tokens for each of "
                f"{settings.parallel} requests): the file is damaged, of a kind that it does not know, or too large "
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

    def next_token(self, body: dict[str, Any]) -> dict[str, Any]:
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

    def complete(self, body: dict[str, Any], take: Callable[[str], bool]) -> None:
        """Ask for an answer; `take` is given each event and returns True to end the request. Returns at its end."""
        self._held.native.handle_completions(json.dumps(body), take)

    def close(self) -> None:
        """End the requests under way, then the server; safe to be called again."""
        self._end()

    def joined(self, completion: Completion) -> None:
        """Take a request into the account of those under way. Raises `Unavailable` for a server that was closed."""
        with self._held.lock:
            if self._held.closed:
                raise Unavailable("the engine was closed")
            self._held.running.add(completion)

    def left(self, completion: Completion) -> None:
        """Take a request out of the account."""
        with self._held.lock:
            self._held.running.discard(completion)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if self._held.closed:
            raise Unavailable("the engine was closed")
        connection = _Local(self._socket)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        except OSError as error:
            raise Unavailable(f"llama.cpp's server does not answer: {error}") from error
        finally:
            connection.close()
        if "error" in answer:
            raise UserError(f"llama.cpp refuses a request: {_reason(answer)}")
        return answer


class Completion:
    """A request under way, in a thread of its own: the call to llama.cpp does not return before its end."""

    def __init__(self, server: Server, body: dict[str, Any], on_end: Callable[[], None] = lambda: None) -> None:
        self.closed = False  # set to end it, within one token
        self._server, self._body, self._on_end = server, body, on_end
        self._said: queue.SimpleQueue[dict[str, Any] | UserError | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="carellama-llamacpp", daemon=True)
        server.joined(self)
        self._thread.start()

    def events(self, seconds: float) -> Generator[dict[str, Any] | None, None, None]:
        """Yield what the server says, and None whenever it has said nothing for so long. Closing ends the request."""
        try:
            while True:
                try:
                    event = self._said.get(timeout=seconds)
                except queue.Empty:
                    yield None
                    continue
                if event is None:
                    return
                if isinstance(event, UserError):
                    raise event
                if "choices" not in event:
                    raise UserError(f"llama.cpp refuses a request: {_reason(event)}")
                yield event
        finally:
            self.closed = True

    def end(self) -> None:
        """End the request, and wait for its end."""
        self.closed = True
        self._thread.join()

    def _run(self) -> None:
        try:
            self._server.complete(self._body, self._take)
        except Exception as error:  # noqa: BLE001 - raised again by the reader
            self._said.put(UserError(f"llama.cpp refuses a request: {error}"))
        finally:
            self._server.left(self)
            self._on_end()
            self._said.put(None)

    def _take(self, event: str) -> bool:
        """Called by llama.cpp for each event; True ends the request."""
        if not self.closed:
            self._said.put(json.loads(event))
        return self.closed


class _Local(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Connect, see `HTTPConnection.connect`."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def _parameters(xllamacpp: Any, settings: Settings, address: str) -> Any:
    """llama.cpp's own settings (ggml-org/llama.cpp, common/common.h, common_params)."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(settings.path)
    parameters.hostnames = [address]
    parameters.ui = False
    parameters.endpoint_slots = False  # which would show prompts
    parameters.verbosity = ERRORS_ONLY
    parameters.n_parallel = settings.parallel
    parameters.n_ctx = settings.context_tokens * settings.parallel
    parameters.fit_params = False  # it would make the context smaller without a word
    parameters.n_batch = parameters.n_ubatch = settings.context_tokens if settings.embedding else BATCH
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = settings.threads or physical_cores()
    parameters.n_threads_http = settings.parallel + 4
    parameters.cache_ram_mib = 0  # slots keep their prompts; a second store of them would grow to format_bytes
    parameters.n_gpu_layers = ALL_LAYERS if settings.gpu_layers is None else settings.gpu_layers
    parameters.lora_init_without_apply = True
    parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 1.0) for path in settings.adapters]
    if settings.embedding:
        parameters.embedding = True
        parameters.pooling_type = xllamacpp.llama_pooling_type(MEAN)
    return parameters


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put Python's handlers of signals back afterwards: some versions of the server take them over."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # no other may
            for number, handler in before.items():
                if handler is not None:  # None: not Python's
                    signal.signal(number, handler)


def _reason(answer: dict[str, Any]) -> str:
    """The message of an error; it names fields and numbers, and no text of a prompt."""
    error = answer.get("error", answer)
    return str(error.get("message", "no reason given") if isinstance(error, dict) else error)


def _end(held: _Held) -> None:
    """End the requests under way, then the server."""
    with held.lock:
        held.closed, running = True, list(held.running)
    for completion in running:
        completion.end()
    held.native = None  # the last reference: this waits for its threads
    shutil.rmtree(held.folder, ignore_errors=True)
