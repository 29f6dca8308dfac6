"""Connections that send too much, too slowly or nothing: they get an error or are closed, and hold up nobody (A1)."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack

import httpx2
import pytest

from api_server import ASKED, echo, running, until
from carellama.engine.scripted import ScriptedEngine
from carellama.serve import http_protocol
from carellama.serve.http_protocol import ConnectionLimits, guarded

CHAT = "/v1/chat/completions"
HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def connect(server) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.settimeout(15)
    return connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    found = b""
    while True:
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            return found
        if not part:
            return found
        found += part


def answer(connection: socket.socket) -> tuple[int, dict]:
    """The status and the JSON of an answer after which the connection is closed."""
    head, _, body = rest(connection).partition(b"\r\n\r\n")
    assert b"x-request-id: " in head and b"connection: close" in head, head
    return int(head.split()[1]), json.loads(body)["error"]


def healthy(server) -> None:
    began = time.monotonic()
    assert httpx2.get(f"{server.url}/health", timeout=10).status_code == 200
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-big: " + b"a" * 300_000,
        b"GET /" + b"a" * 300_000,
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n" + b"x-many: some value\r\n" * 10_000,
        b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-big: " + b"a" * 66_000 + b"\r\n\r\n",
        HEAD.encode() + b"transfer-encoding: chunked\r\n\r\n2;" + b"a" * 300_000,
        HEAD.encode() + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n" + b"x-trailer: some value\r\n" * 10_000,
    ],
    ids=["header", "line", "headers", "whole", "chunk", "trailers"],
)
def test_headers_without_end_are_rejected(sent) -> None:
    with running(echo()) as server, connect(server) as connection:
        connection.sendall(sent)
        status, error = answer(connection)
        assert status == 431 and error["code"] == "headers_too_large" and "65,536" in error["message"]
        healthy(server)
        assert 'status="431"' in httpx2.get(f"{server.url}/metrics").text


def test_headers_up_to_the_limit_are_read() -> None:
    with running(echo()) as server:
        assert httpx2.get(f"{server.v1}/models", headers={"x-big": "a" * 60_000}).status_code == 200
    with running(echo(), max_header_bytes=2000) as server:
        assert httpx2.get(f"{server.v1}/models", headers={"x-big": "a" * 1000}).status_code == 200
        assert httpx2.get(f"{server.v1}/models", headers={"x-big": "a" * 2000}).status_code == 431


def test_trailers_do_not_pass_for_headers() -> None:
    with running(echo()) as server, connect(server) as connection:
        body = json.dumps({"messages": ASKED}).encode()
        head = HEAD.encode() + b"connection: close\r\ntransfer-encoding: chunked\r\nx-request-id: one\r\n\r\n"
        connection.sendall(head + b"%x\r\n%s\r\n0\r\nx-request-id: two\r\n\r\n" % (len(body), body))
        assert b"x-request-id: one" in rest(connection)


def test_two_hundred_unfinished_headers_get_408_and_hold_up_nobody() -> None:
    with running(echo(), receive_timeout=1) as server, ExitStack() as stack:
        connections = [stack.enter_context(connect(server)) for _ in range(200)]
        for connection in connections:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost: local")
        healthy(server)
        statuses = {answer(connection)[0] for connection in connections}
        assert statuses == {408}


def test_headers_that_come_byte_by_byte_get_408() -> None:
    with running(echo(), receive_timeout=1) as server, connect(server) as connection:
        began = time.monotonic()
        for byte in b"GET /v1/models HTTP/1.1\r\nx-slow: 1234567890":
            try:
                connection.sendall(bytes([byte]))
            except OSError:  # the server has closed the connection
                break
            time.sleep(0.1)
        assert time.monotonic() - began < 10
        assert b"408" in rest(connection)


@pytest.mark.parametrize("sent", [b"", b'{"messages', None])
def test_bodies_that_do_not_arrive_get_408(sent) -> None:
    with running(echo(), receive_timeout=1) as server, connect(server) as connection:
        connection.sendall(HEAD.encode() + b"content-length: 1000\r\n\r\n" + (sent or b""))
        until(lambda: bool(server.state.running))
        healthy(server)
        if sent is None:  # a byte now and then, which was enough to stay for ten minutes
            for _ in range(30):
                try:
                    connection.sendall(b" ")
                except OSError:
                    break
                time.sleep(0.1)
        found = rest(connection)
        assert b" 408 " in found and b'"param":"body"' in found, found
        until(lambda: not server.state.running)


def test_a_large_body_on_a_slow_line_has_the_time_that_it_needs() -> None:
    with running(echo(), receive_timeout=1) as server, connect(server) as connection:
        body = json.dumps({"messages": [{"role": "user", "content": "x" * 6000}]}).encode()
        connection.sendall(HEAD.encode() + f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode())
        for begin in range(0, len(body), 2500):
            connection.sendall(body[begin : begin + 2500])
            time.sleep(0.7)
        assert b"200 OK" in rest(connection)


def test_connections_that_send_nothing_are_closed(monkeypatch) -> None:
    with running(echo(), receive_timeout=1) as server, connect(server) as connection:
        assert rest(connection) == b""
        monkeypatch.setattr(http_protocol, "GRACE", 0.5)
        with connect(server) as early:  # answered before its body, which never comes
            early.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n")
            assert b"200 OK" in rest(early)


def test_idle_connections_make_room_for_new_ones() -> None:
    """The one that has waited longest without a complete request is closed; an answer under way is not."""
    engine = ScriptedEngine("x" * 40, token_seconds=0.05)
    with running(engine) as server, ExitStack() as stack:
        limits = ConnectionLimits(connections=5)
        server.server.config.http_protocol_class = guarded(limits)
        busy = stack.enter_context(connect(server))
        body = json.dumps({"messages": ASKED, "stream": True}).encode()
        busy.sendall(HEAD.encode() + f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: engine.running == 1)
        for _ in range(12):
            stack.enter_context(connect(server))
        healthy(server)
        assert len(server.server.server_state.connections) <= 5
        assert rest(busy).endswith(b"0\r\n\r\n")


def test_pipelined_requests_are_answered_in_order_and_bounded() -> None:
    get = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    last = b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    with running(echo()) as server:
        with connect(server) as connection:
            connection.sendall(get * 5 + last)
            found = rest(connection)
            assert found.count(b'"ok"') == 5 and found.count(b'"ready"') == 1
        with connect(server) as connection:
            connection.sendall(get * 20_000)
            found = rest(connection)
            assert found.count(b"200 OK") < 20_000
        healthy(server)


def test_a_client_that_pipelines_and_hangs_up_frees_its_place() -> None:
    """Only the last request of the connection was told, and the engine wrote an answer for nobody."""
    engine = ScriptedEngine("x" * 1000, token_seconds=0.05, parallel=1)
    with running(engine) as server:
        body = json.dumps({"messages": ASKED}).encode()
        request = HEAD.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body
        with connect(server) as connection:
            connection.sendall(request * 3)
            until(lambda: engine.running == 1)
        until(lambda: engine.running == 0, 5)
        assert len(engine.asked) == 1


def test_what_is_not_http_gets_json() -> None:
    with running(echo()) as server:
        for sent in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n"):
            with connect(server) as connection:
                connection.sendall(sent)
                status, error = answer(connection)
                assert status == 400 and error["code"] == "invalid_http" and error["type"] == "invalid_request_error"


def test_a_client_that_does_not_read_its_answer_is_cut(monkeypatch) -> None:
    monkeypatch.setattr(http_protocol, "STUCK", 0.3)
    with running(echo(), max_body_bytes=1 << 25, max_new_tokens=1 << 25) as server:
        connections = server.server.server_state.connections
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            body = json.dumps({"model": "carellama", "input": ["x"] * 1000}).encode()
            head = "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
            connection.sendall(request * 20 + request.replace(b"host", b"connection: close\r\nhost"))
            until(lambda: len(connections) == 1)
            until(lambda: len(connections) == 0)


WISH = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_wish_for_http2_is_ignored(size, chunked) -> None:
    """Java's client (Spring AI, LangChain4j) sends it with each request: the body was lost, "the body is missing"."""
    body = json.dumps({"messages": ASKED, "max_tokens": 5}).encode()
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    length = "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}"
    one = f"{HEAD}{WISH}{length}\r\n\r\n".encode() + sent
    last = f"{HEAD}{WISH.replace('Upgrade,', 'close, Upgrade,')}{length}\r\n\r\n".encode() + sent
    with running(echo()) as server, connect(server) as connection:
        whole = one + one + last  # on one connection, each behind the other
        for at in range(0, len(whole), size):
            connection.sendall(whole[at : at + size])
        answers = rest(connection)
        assert answers.count(b"HTTP/1.1 200 OK") == 3 and answers.count(b'"completion_tokens":5') == 3
        assert not server.state.running
        healthy(server)


@pytest.mark.parametrize("line", [b"CONNECT evil.example:443 HTTP/1.1", b"PRI * HTTP/2.0"])
def test_tunnels_and_http2_are_refused(line) -> None:
    with running(echo()) as server, connect(server) as connection:
        connection.sendall(line + b"\r\nhost: localhost\r\n\r\nSM\r\n\r\n")
        assert answer(connection)[0] == 400
        healthy(server)
