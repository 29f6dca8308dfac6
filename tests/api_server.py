"""A server of the API over a scripted engine, on a loopback port in a thread of the test. Not a test module itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI

from carellama.config.serve import ApiOptions
from carellama.engine.base import Engine
from carellama.engine.scripted import ScriptedEngine
from carellama.serve.api import server
from carellama.serve.api.app import create_app
from carellama.serve.api.auth import Auth, NoAuth
from carellama.serve.api.middleware import ServerState
from carellama.serve.api.schemas import Mode
from carellama.serve.hosts import bind_socket

ASKED = [{"role": "user", "content": "What is asthma?"}]


class Running:
    """A server that runs: its address, and what it works with."""

    def __init__(self, state: ServerState, port: int, server: server.Server) -> None:
        self.state, self.port, self.server = state, port, server
        self.url = f"http://127.0.0.1:{port}"
        self.v1 = f"{self.url}/v1"


@contextmanager
def running(
    engine: Engine,
    *,
    auth: Auth | None = None,
    score: Any = None,
    embedder: Any = None,
    consultant: Engine | None = None,
    mode: Mode = "answer",
    extend: Callable[[FastAPI], None] = lambda app: None,
    **settings: Any,
) -> Iterator[Running]:
    """Serve an engine while the block runs."""
    arguments = ApiOptions(**{"port": 0, "shutdown_timeout": 5, **settings})
    app = create_app(
        engine, arguments, auth=auth or NoAuth(), score=score, embedder=embedder, consultant=consultant, mode=mode
    )
    extend(app)
    with bind_socket(arguments.host, arguments.port) as listening:
        one = server.Server(server._config(app, arguments), app)
        thread = threading.Thread(target=one.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until(lambda: one.started)
        try:
            yield Running(app.state.server, listening.getsockname()[1], one)
        finally:
            one.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server did not end"


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def echo(**kwargs: Any) -> ScriptedEngine:
    """An engine that says the last message again."""
    return ScriptedEngine(lambda messages: messages[-1].content, **kwargs)
