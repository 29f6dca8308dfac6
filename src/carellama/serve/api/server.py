"""Runs the application: the socket, TLS, one process or several, and an end that lets answers finish.

    serve(settings, application)      # until SIGTERM or Ctrl-C

After the signal the server drains: the socket stays open, new requests and /ready get 503, and running requests have
`--shutdown_timeout` seconds to end. Then those that are left get an error, and the socket closes. Several workers share
the socket; each has an engine of its own. One that dies is replaced, and all end when the process that started them
does.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType

import uvicorn
from fastapi import FastAPI

from carellama.config.environment import share_metrics
from carellama.config.serve import ApiOptions
from carellama.errors import UserError
from carellama.files import print_status
from carellama.serve.api.middleware import BODY_RATE, ServerState, shutting_down
from carellama.serve.hosts import bind_socket, url_of
from carellama.serve.http_protocol import ConnectionLimits, guarded

log = logging.getLogger(__name__)

AppFactory = Callable[[], FastAPI]  # loads the engine; for several workers it is pickled
KEEP_ALIVE_SECONDS = 30  # seconds that a connection stays open between two requests
ABORT_SECONDS = 2.0  # for clients to get the error of a request that the server ends
FILES = 256  # file descriptors that are not for connections
MIN_WORKER_LIFETIME = 5.0  # seconds: a worker that lives no longer is not replaced


def serve(settings: ApiOptions, application: AppFactory) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises `UserError` where it cannot listen, or not with this certificate."""
    with bind_socket(settings.host, settings.port) as listening:
        _check_certificate(settings)
        if settings.workers == 1:
            run(settings, application, listening)
        else:
            WorkerSupervisor(settings, application, listening).run()


def run(settings: ApiOptions, application: AppFactory, listening: socket.socket) -> None:
    """Load the engine and serve, in this process."""
    app = application()
    state = app.state.server
    try:
        Server(_config(app, settings), app).run(sockets=[listening])
    finally:
        state.engine.close()
        state.auth.close()


class Server(uvicorn.Server):
    """uvicorn's server, which tells the application that it is about to end, and ends with status 0."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self.app = app
        self.state: ServerState = app.state.server
        self._drains_since: float | None = None  # by the monotonic clock
        self._told = self._aborted = self._hurries = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        state = self.state
        assert sockets, "the socket is made by `bind_socket`"
        print_status(
            f"ready at {url_of(sockets[0], state.settings.scheme)}/v1 with the engine {state.engine.name}, "
            f"{state.engine.parallel} answers at once"
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets running requests end; a second Ctrl-C does not."""
        if self._drains_since is None:
            self._drains_since = time.monotonic()
            self.state.draining = True
        elif sig == signal.SIGINT:
            self._hurries = True

    async def on_tick(self, counter: int) -> bool:
        """Several times a second: go on with a drain."""
        if self._drains_since is not None and not self.should_exit:
            self._drain(time.monotonic() - self._drains_since)
        return await super().on_tick(counter)

    def _drain(self, seconds: float) -> None:
        """Set `should_exit` when nothing runs, or when the time is over and running requests have got an error."""
        settings, running = self.state.settings, self.state.running
        if running and not self._told:
            self._told = True
            print_status(
                f"shutting down: {len(running)} running request{'s have' if len(running) > 1 else ' has'} "
                f"{settings.shutdown_timeout:g} s to end; press Ctrl-C again to end now"
            )
        if self._hurries or (seconds >= settings.shutdown_timeout and running):
            if not self._aborted:
                self._aborted = True
                for call in list(running):
                    call.abort(shutting_down())
            self.should_exit = self._hurries or seconds >= settings.shutdown_timeout + ABORT_SECONDS
        elif not running and seconds >= settings.drains:
            self.should_exit = True


def _config(app: FastAPI, settings: ApiOptions) -> uvicorn.Config:
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    requests = app.state.server.metrics.requests
    limits = ConnectionLimits(settings.max_header_bytes, settings.receive_timeout, BODY_RATE, _connections())
    return uvicorn.Config(
        app,
        http=guarded(limits, lambda status: requests.labels("other", str(status), "", "").inc()),
        log_config=None,
        access_log=False,  # ours has no texts, see `serve.api.middleware`
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(ABORT_SECONDS),  # `Server` waits for requests before
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )


def _connections() -> int:
    """Return the most connections that this process can hold, by its limit of open files, which is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):  # macOS has another limit besides
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return 65536 if soft == resource.RLIM_INFINITY else max(64, soft - FILES)


def _check_certificate(settings: ApiOptions) -> None:
    if settings.ssl_certfile is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    except (ssl.SSLError, OSError) as error:
        raise UserError(
            f"--ssl_certfile {settings.ssl_certfile} and --ssl_keyfile {settings.ssl_keyfile} are no certificate with "
            f"its key, in PEM: {getattr(error, 'reason', None) or error.strerror or error}"
        ) from error


class WorkerSupervisor:
    """Starts the processes, replaces those that die, and ends them."""

    def __init__(self, settings: ApiOptions, application: AppFactory, listening: socket.socket) -> None:
        self.settings, self.application, self.listening = settings, application, listening
        self.started: dict[BaseProcess, float] = {}  # when, by the monotonic clock
        self.ending = False

    def run(self) -> None:
        """Until a signal, or until a worker cannot be started."""
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, self._end)
        with tempfile.TemporaryDirectory(prefix="carellama-metrics-") as folder:
            share_metrics(folder)
            for _ in range(self.settings.workers):
                self._start()
            while self.started:
                wait([process.sentinel for process in self.started], timeout=0.2)
                for process in [one for one in self.started if not one.is_alive()]:
                    self._replace(process)

    def _start(self) -> None:
        process = multiprocessing.get_context("spawn").Process(
            target=_worker_main, args=(self.settings, self.application, self.listening), name="carellama api"
        )
        process.start()
        self.started[process] = time.monotonic()

    def _replace(self, dead: BaseProcess) -> None:
        lived = time.monotonic() - self.started.pop(dead)
        if self.ending:
            return
        if dead.exitcode == 2 or lived < MIN_WORKER_LIFETIME:
            self._end(signal.SIGTERM, None)
            raise UserError(f"a worker could not be started (status {dead.exitcode}); see above")
        log.warning("worker %s ended with status %s; another one is started", dead.pid, dead.exitcode)
        self._start()

    def _end(self, sig: int, frame: FrameType | None) -> None:
        """Pass the signal on to all workers; they drain, and a second Ctrl-C ends them at once."""
        again = self.ending and sig == signal.SIGINT
        self.ending = True
        for process in self.started:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGINT if again else signal.SIGTERM)


def _worker_main(settings: ApiOptions, application: AppFactory, listening: socket.socket) -> None:
    """The life of a worker."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        run(settings, application, listening)
    except UserError as error:
        print_status(f"error: {error}")
        raise SystemExit(2) from None
