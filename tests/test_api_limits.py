"""What guards the API: the queue, hang-ups, time limits, sizes, the log, other web pages, keys, the end."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import preloaded
from api_server import ASKED, echo, running, until
from carellama.engine.base import Piece, Reply
from carellama.engine.scripted import ScriptedEngine
from carellama.serve.api.auth import Auth, Caller, Reservation
from carellama.serve.api.errors import Rejected

CHAT = "/v1/chat/completions"


def chat(server, **kwargs):
    return httpx2.post(server.url + CHAT, json={"messages": ASKED, **kwargs}, timeout=20)


def slow(**kwargs) -> ScriptedEngine:
    return ScriptedEngine("x" * 1000, token_seconds=0.05, **kwargs)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_its_place_within_a_second(stream) -> None:
    engine = slow(parallel=1)
    with running(engine, queue=0) as server:
        body = json.dumps({"messages": ASKED, "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            until(lambda: engine.running == 1)
            if stream:
                assert b"200 OK" in connection.recv(4096)
            assert chat(server).status_code == 429
        left = time.monotonic()
        until(lambda: engine.running == 0)
        until(lambda: server.state.admission.running == 0)
        assert time.monotonic() - left < 1
        assert chat(server, max_tokens=1).status_code == 200
        assert 'status="499"' in httpx2.get(f"{server.url}/metrics").text


def test_who_leaves_the_queue_is_forgotten() -> None:
    engine = slow(parallel=1)
    with running(engine, queue=5) as server, ThreadPoolExecutor(3) as pool:
        first = pool.submit(chat, server, max_tokens=20)
        until(lambda: engine.running == 1)
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(server.url + CHAT, json={"messages": ASKED}, timeout=0.2)
        until(lambda: server.state.admission.waiting == 0)
        assert first.result().status_code == 200
        assert len(engine.asked) == 1


def test_past_the_queue_a_request_is_refused_at_once() -> None:
    engine = slow(parallel=2)
    with running(engine, queue=1) as server, ThreadPoolExecutor(8) as pool:
        running_ones = [pool.submit(chat, server, max_tokens=20) for _ in range(3)]
        until(lambda: engine.running == 2 and server.state.admission.waiting == 1)
        refused = chat(server)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "server_busy"
        assert chat(server, n=2).status_code == 429
        assert chat(server, n=4).status_code == 400  # would never fit
        assert [one.result().status_code for one in running_ones] == [200] * 3


def test_more_are_never_at_work_than_the_engine_has_places() -> None:
    most = 0

    class Counts(ScriptedEngine):
        def answer(self, prompt, sampling):
            nonlocal most
            for piece in super().answer(prompt, sampling):
                most = max(most, self.running)
                yield piece
            return Reply("x", "stop", 1, 1)

    with running(Counts("xxx", token_seconds=0.005, parallel=3), queue=100) as server, ThreadPoolExecutor(20) as pool:
        done = list(pool.map(lambda _: chat(server, n=2).status_code, range(20)))
    assert set(done) == {200} and most <= 3


@pytest.mark.parametrize(
    ("limits", "status"),
    [({"queue_timeout": 0.2}, 429), ({"first_token_timeout": 0.2}, 504), ({"request_timeout": 0.3}, 504)],
)
def test_time_limits(limits, status) -> None:
    class Silent(ScriptedEngine):
        def answer(self, prompt, sampling):
            for _ in range(40):
                time.sleep(0.05)
                yield Piece()
            return Reply("", "stop", 1, 1)

    with running(Silent("", parallel=1), **limits) as server, ThreadPoolExecutor(2) as pool:
        if status == 429:
            first = pool.submit(chat, server)
            until(lambda: server.state.admission.running == 1)
        for stream in (False, True) if "request_timeout" not in limits else (False,):
            refused = chat(server, stream=stream)
            assert refused.status_code == status and refused.json()["error"]["code"], refused.text
        if status == 429:
            assert first.result().status_code == 200


def test_a_stream_that_is_faster_than_we_are_does_not_hold_up_the_others() -> None:
    engine = ScriptedEngine("x" * 20_000)
    with running(engine, max_new_tokens=20_000) as server, ThreadPoolExecutor(1) as pool:
        fast = pool.submit(chat, server, stream=True)
        until(lambda: engine.running == 1)
        assert httpx2.get(f"{server.url}/health").status_code == 200
        assert not fast.done()
        assert fast.result().text.count('"content":"x"') == 20_000


def test_an_engine_that_asks_elsewhere_does_not_hold_up_the_server() -> None:
    asked, goes_on = threading.Event(), threading.Event()

    class Asks(ScriptedEngine):
        @property
        def context_tokens(self):
            asked.set()
            assert goes_on.wait(20)

        @context_tokens.setter
        def context_tokens(self, tokens):
            pass

    with running(Asks("ok")) as server, ThreadPoolExecutor(1) as pool:
        one = pool.submit(chat, server)
        assert asked.wait(20)
        assert httpx2.get(f"{server.url}/health").status_code == 200
        goes_on.set()
        assert one.result().status_code == 200


def test_a_stream_that_takes_too_long_is_ended_with_an_error() -> None:
    engine = slow()
    with running(engine, request_timeout=0.3) as server:
        answer = chat(server, stream=True)
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        assert answer.status_code == 200 and events[-1]["error"]["code"] == "timeout"
        assert answer.text.endswith("data: [DONE]\n\n")
        until(lambda: engine.running == 0)


def test_a_silent_stream_is_kept_open_by_comments(monkeypatch) -> None:
    from carellama.serve.api.routes import chat as module

    class Late(ScriptedEngine):
        def answer(self, prompt, sampling):
            for _ in range(10):
                time.sleep(0.05)
                yield Piece()
            yield Piece("Rest.")
            return Reply("Rest.", "stop", 1, 1)

    monkeypatch.setattr(module, "SEND_HEADERS_AFTER", 0.1)
    monkeypatch.setattr(module, "KEEPALIVE_SECONDS", 0.1)
    with running(Late("")) as server:
        lines = chat(server, stream=True).text.splitlines()
    assert sum(line.startswith(":") for line in lines) >= 2 and any("Rest." in line for line in lines)


def test_sizes_and_kinds_of_bodies() -> None:
    with running(echo(), max_body_bytes=2000, max_messages=3) as server:

        def post(content, kind="application/json", path=CHAT):
            return httpx2.post(server.url + path, content=content, headers={"content-type": kind})

        assert post(b'{"messages": "' + b"x" * 3000).status_code == 413
        assert post(iter([b'{"messages": "', b"x" * 3000])).status_code == 413  # no length given
        assert post(json.dumps({"messages": ASKED}), "text/plain").status_code == 415
        assert post(json.dumps({"messages": ASKED * 4})).status_code == 400
        for content in (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"messages": ' + b"[" * 900 + b"]" * 900 + b"}"):
            answer = post(content)
            assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error", content
        assert post(b'{"messages":[{"role":"user","content":"\\ud800"}]}').status_code == 400
        assert post(b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}').status_code == 400
        assert httpx2.get(server.url + CHAT).headers["allow"] == "POST"
        assert httpx2.get(f"{server.url}/nothing").json()["error"]["message"]


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    "model messages stream stream_options n max_tokens temperature top_p top_k min_p stop seed logit_bias tools "
    "tool_choice response_format logprobs top_logprobs repetition_penalty prompt echo input query documents".split()
)


def test_odd_bodies_are_answered_and_never_fail() -> None:
    with running(ScriptedEngine("ok", context_tokens=500)) as server, httpx2.Client() as http:

        @settings(max_examples=100, suppress_health_check=list(HealthCheck))
        @given(st.dictionaries(FIELDS, ODD, max_size=3), st.sampled_from([CHAT, "/v1/completions", "/v1/rerank"]))
        def ask(odd, path) -> None:
            body = {"messages": ASKED, "prompt": "x", "query": "x", "documents": ["x"], **odd}
            answer = http.post(
                server.url + path, content=json.dumps(body).encode(), headers={"content-type": "application/json"}
            )
            assert answer.status_code in (200, 400, 404), answer.text
            if answer.status_code != 200:
                error = answer.json()["error"]
                assert error["code"] and error["param"], error

        ask()


def test_the_log_has_ids_and_sizes_and_no_texts(caplog) -> None:
    caplog.set_level("DEBUG", "carellama")
    secret = "SECRET-7251"
    with running(echo()) as server:
        asked = {"messages": [{"role": "user", "content": secret}]}
        answer = httpx2.post(server.url + CHAT, json=asked, headers={"x-request-id": "abc-1"})
        assert answer.headers["x-request-id"] == "abc-1" and secret in answer.text
        httpx2.post(server.url + CHAT, json={"messages": [{"role": secret, "content": secret}], secret: secret})
        httpx2.get(f"{server.url}/{secret}?{secret}", headers={"x-request-id": f"{secret} x"})
    assert secret not in caplog.text
    assert f"abc-1 POST {CHAT} 200" in caplog.text and "GET other 404" in caplog.text


def test_web_pages_of_elsewhere() -> None:
    preflight = {
        "origin": "https://chat.example.org",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    with running(echo()) as server:
        closed = httpx2.options(server.url + CHAT, headers=preflight)
        assert "access-control-allow-origin" not in closed.headers
        rebound = httpx2.get(f"{server.v1}/models", headers={"host": "evil.example.org"})
        assert rebound.status_code == 403 and rebound.json()["error"]["code"] == "wrong_host"
    with running(echo(), cors_origins="https://chat.example.org") as server:
        allowed = httpx2.options(server.url + CHAT, headers=preflight)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://chat.example.org"
        other = httpx2.options(server.url + CHAT, headers={**preflight, "origin": "https://evil.example.org"})
        assert "access-control-allow-origin" not in other.headers
        wrong = httpx2.post(server.url + CHAT, json={}, headers={"origin": "https://chat.example.org"})
        assert wrong.status_code == 400 and wrong.headers["access-control-allow-origin"]


class Guard(Auth):
    """One key, one request at a time, and an account of what was begun and ended."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []

    def authenticate(self, authorization):
        if authorization != "Bearer good":
            raise Rejected(401, "invalid_api_key", "that is no key")
        return Caller("k1", "ward 3", frozenset({"chat"}))

    def reserve(self, caller, scope, tokens):
        if scope not in caller.scopes:
            raise Rejected(403, "missing_scope", f"the key has not the scope {scope}")
        if len(self.begun) > len(self.ended):
            raise Rejected(429, "rate_limit_exceeded", "one at a time", 2.5)
        self.begun.append(tokens)
        guard = self

        class One(Reservation):
            def release(self, tokens):
                guard.ended.append(tokens)

        return One()

    def close(self):
        pass


def test_keys_are_asked_for_and_tickets_given_back() -> None:
    guard, engine, key = Guard(), slow(), {"authorization": "Bearer good"}
    with running(engine, auth=guard) as server:
        for path in ("/v1/models", "/metrics", "/v1/nothing"):
            answer = httpx2.get(server.url + path)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert httpx2.get(f"{server.url}/health").status_code == 200
        assert httpx2.get(f"{server.v1}/models", headers=key).status_code == 200
        assert httpx2.get(f"{server.url}/metrics", headers=key).status_code == 403

        def ask(**kwargs):
            return httpx2.post(server.url + CHAT, json={"messages": ASKED, **kwargs}, headers=key, timeout=20)

        done = ask(max_tokens=3)
        until(lambda: guard.ended == [done.json()["usage"]["total_tokens"]])
        assert guard.begun == [len("user: What is asthma?\n") + 3]
        with httpx2.stream("POST", server.url + CHAT, json={"messages": ASKED, "stream": True}, headers=key) as one:
            lines = one.iter_lines()  # held: without it the connection is closed
            next(lines)
            busy = ask()
            assert busy.status_code == 429 and busy.headers["retry-after"] == "3"
        until(lambda: len(guard.ended) == 2)  # the client has hung up
        assert ask(max_tokens=0).status_code == 400 and len(guard.begun) == 2


PROGRAM = """
import sys
from carellama.cli import quieten
from carellama.config.serve import ApiOptions
from carellama.engine.scripted import ScriptedEngine
from carellama.serve.api.auth import NoAuth
from carellama.serve.api.app import create_app
from carellama.serve.api.server import serve

settings = ApiOptions(port=0, workers=int(sys.argv[1]))

def application():
    return create_app(ScriptedEngine("x" * 20, token_seconds=0.05), settings, auth=NoAuth())

if __name__ == "__main__":
    quieten()
    serve(settings, application)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_lets_answers_end(tmp_path, workers) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen([preloaded.python(), str(program), str(workers)], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        while said.count("ready at") < workers:  # two workers may write their lines at once
            said += process.stderr.readline()
        address = said.split()[2].partition("/v1")[0]
        lines: list[str] = []

        def read() -> None:
            with httpx2.stream("POST", address + CHAT, json={"messages": ASKED, "stream": True}) as answer:
                lines.extend(answer.iter_lines())

        thread = threading.Thread(target=read)
        thread.start()
        until(lambda: "carellama_answers_running 1.0" in httpx2.get(f"{address}/metrics").text)
        process.terminate()
        thread.join(20)
        assert lines[-2:] == ["data: [DONE]", ""] or lines[-1] == "data: [DONE]"
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_a_server_that_ends_takes_no_new_request() -> None:
    with running(echo()) as server:
        assert httpx2.get(f"{server.url}/ready").status_code == 200
        server.state.draining = True
        refused = chat(server)
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert httpx2.get(f"{server.url}/ready").status_code == 503
        assert httpx2.get(f"{server.url}/health").status_code == 200


def test_an_address_that_is_taken_is_one_line() -> None:
    from carellama.errors import UserError
    from carellama.serve.hosts import bind_socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}"):
            bind_socket("127.0.0.1", port)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")
def test_tls(tmp_path) -> None:
    from carellama.config.serve import ApiOptions
    from carellama.errors import UserError
    from carellama.serve.api.server import _check_certificate

    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
    named = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*words.split(), *named], check=True, capture_output=True)
    with running(echo(), ssl_certfile=str(certificate), ssl_keyfile=str(key)) as server:
        trusts = ssl.create_default_context(cafile=str(certificate))
        answer = httpx2.get(f"https://127.0.0.1:{server.port}/health", verify=trusts)
        assert answer.json() == {"status": "ok"}
    with pytest.raises(UserError, match="are no certificate with its key"):
        _check_certificate(ApiOptions(ssl_certfile=str(certificate), ssl_keyfile=str(certificate)))


def test_who_does_not_read_his_answer_is_left_in_the_end(monkeypatch) -> None:
    from carellama.serve.api import middleware as calls

    monkeypatch.setattr(calls, "SLOW_READER_GRACE", 0.2)
    engine = ScriptedEngine("x" * 3_000_000)
    with running(engine, request_timeout=1, max_new_tokens=3_000_000) as server:
        body = json.dumps({"messages": ASKED, "stream": True}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            until(lambda: engine.running == 1)
            until(lambda: 'status="504"' in httpx2.get(f"{server.url}/metrics").text)
            until(lambda: engine.running == 0)
            assert engine.running == 0
