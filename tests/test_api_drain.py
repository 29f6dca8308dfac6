"""The end of a server (A2): it drains with the socket open, and what is not finished in time gets an error."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

import preloaded
from api_server import ASKED, running, until
from carellama.engine.scripted import ScriptedEngine

CHAT = "/v1/chat/completions"
PROGRAM = """
import sys
from carellama.cli import quieten
from carellama.config.serve import ApiOptions
from carellama.engine.scripted import ScriptedEngine
from carellama.serve.api.auth import NoAuth
from carellama.serve.api.app import create_app
from carellama.serve.api.server import serve

settings = ApiOptions(port=0, workers=int(sys.argv[1]), shutdown_timeout=float(sys.argv[2]))

def application():
    quieten()
    return create_app(ScriptedEngine("x" * 1000, token_seconds=0.1), settings, auth=NoAuth())

if __name__ == "__main__":
    serve(settings, application)
"""


class Process:
    """A server in a process: its address, and the lines that it writes."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.lines = process, list[str]()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)

    def ready(self, workers: int) -> str:
        until(lambda: "".join(self.lines).count("ready at") == workers, 60)
        return self.lines[0].split()[2].removesuffix("/v1")


@contextmanager
def started(folder, workers: int, shutdown_timeout: float) -> Iterator[tuple[Process, str]]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    words = [preloaded.python(), str(program), str(workers), str(shutdown_timeout)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        server = Process(process)
        yield server, server.ready(workers)
    finally:
        process.kill()
        process.wait()


def stream(url: str, **fields) -> list[str]:
    """The data of the events of an answer."""
    with httpx2.stream("POST", url + CHAT, json={"messages": ASKED, "stream": True, **fields}, timeout=60) as answer:
        assert answer.status_code == 200
        return [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]


def runs(url: str, count: int) -> bool:
    return f"carellama_answers_running {count}.0" in httpx2.get(f"{url}/metrics").text


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_in_mid_stream(tmp_path, workers) -> None:
    with started(tmp_path, workers, 3) as (server, url), ThreadPoolExecutor(2) as pool:
        streamed = pool.submit(stream, url)
        body = {"messages": ASKED}
        plain = pool.submit(lambda: httpx2.post(url + CHAT, json=body, timeout=60))
        until(lambda: runs(url, 2))
        time.sleep(0.5)  # the first tokens are sent
        server.process.send_signal(signal.SIGTERM)
        until(lambda: httpx2.get(f"{url}/ready").status_code == 503)  # the socket is open
        for refused in (httpx2.get(f"{url}/ready"), httpx2.post(url + CHAT, json=body)):
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "5" and refused.headers["connection"] == "close"
        assert httpx2.get(f"{url}/health").status_code == 200
        *_, error, done = streamed.result(20)
        assert json.loads(error)["error"]["code"] == "shutting_down" and done == "[DONE]"
        assert plain.result(20).status_code == 503
        assert plain.result().json()["error"]["code"] == "shutting_down"
        assert server.process.wait(20) == 0
    said = "".join(server.lines)
    assert "Traceback" not in said and said.count(f"POST {CHAT} 503") == 2 and "POST other 503" in said, said


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_ctrl_c_ends_at_once(tmp_path, workers) -> None:
    with started(tmp_path, workers, 300) as (server, url), ThreadPoolExecutor(1) as pool:
        streamed = pool.submit(stream, url)
        until(lambda: runs(url, 1))
        time.sleep(0.5)
        server.process.send_signal(signal.SIGINT)
        until(lambda: httpx2.get(f"{url}/ready").status_code == 503)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
        assert streamed.result(10)[-1] == "[DONE]"
    said = "".join(server.lines)
    assert "Traceback" not in said and "press Ctrl-C again" in said, said


def test_answers_that_end_in_time_are_whole() -> None:
    engine = ScriptedEngine("x" * 20, token_seconds=0.05)
    with running(engine) as server, ThreadPoolExecutor(1) as pool:
        one = pool.submit(stream, server.url)
        until(lambda: engine.running == 1)
        server.server.handle_exit(signal.SIGTERM, None)
        assert one.result()[-1] == "[DONE]" and "error" not in one.result()[-2]
        until(lambda: server.server.should_exit)


def test_a_drain_lasts_at_least_as_long_as_was_asked_for() -> None:
    with running(ScriptedEngine("x"), drain_seconds=1) as server:
        server.server.handle_exit(signal.SIGTERM, None)
        began = time.monotonic()
        assert httpx2.get(f"{server.url}/ready").status_code == 503
        until(lambda: server.server.should_exit)
        assert time.monotonic() - began > 0.8
