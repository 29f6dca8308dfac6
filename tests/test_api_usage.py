"""Tokens are counted once and before the work: the reply, the quota, the metrics and the log have the same numbers."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from api_server import echo, running, until
from carellama.engine.base import PreparedPrompt
from carellama.engine.scripted import ScriptedEngine
from carellama.serve.api.auth import ApiKeyAuth
from carellama.serve.api.routes import chat
from carellama.store import keys, usage
from carellama.store.database import open_database

CHAT = "/v1/chat/completions"
PROMPT = [{"role": "user", "content": "x" * 1000}]
HOURS = [{"type": "function", "function": {"name": "hours", "parameters": {"type": "object", "properties": {}}}}]
COUNT = len("user: \n") + 1000  # the scripted engine has a token for each character


@pytest.fixture
def database(tmp_path):
    opened = open_database(str(tmp_path / "keys.db"))
    yield opened
    opened.close()


def keyed(database, tokens_per_day, scopes=("chat", "admin")):
    """Access by one key, and the header with that key."""
    _, key = keys.create_key(database, name="ward3", scopes=scopes, limits=keys.Limits(tokens_per_day=tokens_per_day))
    return ApiKeyAuth(open_database(database.name)), {"authorization": f"Bearer {key}"}  # type: ignore[arg-type]


def tokens_used(database):
    return next(iter(usage.usage_by_key(database).values())).tokens


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_counts_once_however_many_choices(database, caplog, stream) -> None:
    """A3: with n=4 the quota, the metrics and the log had the prompt four times."""
    caplog.set_level("INFO", "carellama")
    access, header = keyed(database, 100_000)
    with running(ScriptedEngine("four"), auth=access) as server:
        body = {"messages": PROMPT, "n": 4, "stream": stream, "stream_options": {"include_usage": True}}
        answer = httpx2.post(server.url + CHAT, json=body, headers=header)
        last = answer.text.split("data: ")[-2] if stream else answer.text
        assert json.loads(last)["usage"] == {
            "prompt_tokens": COUNT, "completion_tokens": 16, "total_tokens": COUNT + 16
        }  # fmt: skip
        until(lambda: tokens_used(database) == COUNT + 16)
        metrics = httpx2.get(f"{server.url}/metrics", headers=header).text
    assert f"tokens {COUNT} + 16" in caplog.text
    assert f"}} {COUNT}.0" in next(line for line in metrics.splitlines() if "prompt_tokens_total{" in line)


class Prepares(ScriptedEngine):
    """It counts how often it is asked to read a prompt; its estimates are `off` tokens too high."""

    prepared, off = 0, 0

    def prepare(self, prompt: Any, tools: Any = (), *, exact: bool = True) -> PreparedPrompt:
        self.prepared += 1
        made = super().prepare(prompt, tools)
        return replace(made, tokens=made.tokens + self.off, exact=not self.off)


@pytest.mark.parametrize("overflow", ["error", "drop_oldest"])
def test_a_prompt_is_read_once(overflow) -> None:
    """It was rendered and tokenised to be counted, once more for its tools and turns, and again by each answer."""
    engine = Prepares("four", context_tokens=4000)
    with running(engine, context_overflow=overflow) as server:
        body = {"messages": PROMPT, "n": 4, "tools": HOURS}
        assert httpx2.post(server.url + CHAT, json=body).status_code == 200
        assert engine.prepared == 1
        assert httpx2.post(f"{server.v1}/completions", json={"prompt": ["a", "b"], "n": 2}).status_code == 200
        assert engine.prepared == 3


def test_an_estimate_is_reserved_and_then_corrected(database) -> None:
    engine = Prepares("four")
    engine.off = 500
    auth, header = keyed(database, COUNT + 510)
    with running(engine, auth=auth) as server:
        ask = lambda most: httpx2.post(server.url + CHAT, json={"messages": PROMPT, "max_tokens": most}, headers=header)  # noqa: E731
        assert ask(11).status_code == 429
        assert ask(10).json()["usage"]["prompt_tokens"] == COUNT
        until(lambda: tokens_used(database) == COUNT + 4)


def test_answers_have_no_threads_of_the_server() -> None:
    """Each had one, which read a stream with heartbeats; a token went through two queues."""
    engine = ScriptedEngine("x" * 200, token_seconds=0.01)
    with running(engine) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx2.post, server.url + CHAT, json={"messages": PROMPT, "n": 8}, timeout=30)
        until(lambda: engine.running == 8)
        assert [thread.name for thread in threading.enumerate() if thread.name == "serve"] == []
        assert len(answer.result().json()["choices"]) == 8
    assert engine.running == 0


def test_a_slot_is_held_until_the_engine_has_ended() -> None:
    """A client that leaves must not let one answer more run than the engine has places."""
    ended = threading.Event()

    class Slow(ScriptedEngine):
        def submit(self, prompt, sampling, on_event):
            handle = super().submit(prompt, sampling, on_event)
            return SimpleNamespace(cancel=handle.cancel, join=lambda: (ended.wait(20), handle.join()))  # type: ignore[func-returns-value]

    engine = Slow("x" * 500, token_seconds=0.01, parallel=1)
    with running(engine) as server:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(server.url + CHAT, json={"messages": PROMPT}, timeout=0.5)
        until(lambda: engine.running == 0)
        assert server.state.admission.running == 1
        ended.set()
        until(lambda: server.state.admission.running == 0)


def test_each_prompt_of_a_completion_counts_once(database) -> None:
    access, header = keyed(database, 100_000)
    with running(ScriptedEngine("ok"), auth=access) as server:
        body = {"prompt": ["a" * 10, "b" * 30], "n": 3}
        answer = httpx2.post(f"{server.v1}/completions", json=body, headers=header).json()
        assert answer["usage"] == {"prompt_tokens": 40, "completion_tokens": 12, "total_tokens": 52}
        until(lambda: tokens_used(database) == 52)


def test_what_is_over_the_quota_is_refused_before_any_work(database) -> None:
    """A4: the prompt was guessed by its bytes, so that a key of 100 tokens used 283."""
    engine = echo()
    access, header = keyed(database, 100)
    with running(engine, auth=access) as server:
        body = {"messages": [{"role": "user", "content": "1" * 250}], "max_tokens": 3}
        refused = httpx2.post(server.url + CHAT, json=body, headers=header)
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "insufficient_quota"
        assert "260" in refused.json()["error"]["message"]  # 257 of the prompt and 3
    assert engine.asked == [] and usage.usage_by_key(database) == {}


def test_what_fits_the_quota_is_served(database) -> None:
    """A23: of 3,000 tokens 869 were used, and 1,750 more were refused as 2,787."""
    access, header = keyed(database, COUNT + 7)
    with running(ScriptedEngine("x" * 50), auth=access) as server:
        body = {"messages": PROMPT, "max_tokens": 8}
        assert httpx2.post(server.url + CHAT, json=body, headers=header).status_code == 429
        answer = httpx2.post(server.url + CHAT, json=body | {"max_tokens": 7}, headers=header)
        assert answer.status_code == 200 and answer.json()["usage"]["total_tokens"] == COUNT + 7
        until(lambda: tokens_used(database) == COUNT + 7)


def test_many_at_once_never_use_more_than_the_quota(database) -> None:
    access, header = keyed(database, 3 * (COUNT + 10) + 5)
    engine = ScriptedEngine("x" * 50, token_seconds=0.02)
    with running(engine, auth=access) as server, ThreadPoolExecutor(10) as pool:
        body = {"messages": PROMPT, "max_tokens": 10}
        ask = lambda _: httpx2.post(server.url + CHAT, json=body, headers=header, timeout=30).status_code  # noqa: E731
        statuses = sorted(pool.map(ask, range(10)))
        assert statuses == [200] * 3 + [429] * 7
        until(lambda: tokens_used(database) == 3 * (COUNT + 10))


def test_a_request_without_an_answer_is_not_charged(database) -> None:
    """A request that the queue refused, or that asks for too much, was charged with a guess of its prompt."""
    access, header = keyed(database, 100_000)
    engine = ScriptedEngine("x" * 1000, token_seconds=0.05, parallel=1, context_tokens=900)
    with running(engine, auth=access, queue=0) as server, ThreadPoolExecutor(1) as pool:
        short = [{"role": "user", "content": "Hi"}]
        ask = lambda **body: httpx2.post(server.url + CHAT, json=body, headers=header, timeout=30)  # noqa: E731
        long = ask(messages=PROMPT)
        assert long.status_code == 400 and long.json()["error"]["code"] == "context_length_exceeded"
        first = pool.submit(ask, messages=short, max_tokens=20)
        until(lambda: engine.running == 1)
        assert ask(messages=short).status_code == 429
        used = first.result().json()["usage"]["total_tokens"]
        until(lambda: tokens_used(database) == used)


def test_who_hangs_up_is_charged_for_the_prompt_and_what_was_written(database) -> None:
    access, header = keyed(database, 100_000)
    engine = ScriptedEngine("x" * 1000, token_seconds=0.02)
    with running(engine, auth=access) as server:
        body = json.dumps({"messages": PROMPT, "stream": True}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            head += f"authorization: {header['authorization']}\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            until(lambda: engine.running == 1)
            connection.recv(4096)
        until(lambda: engine.running == 0)
        until(lambda: COUNT <= tokens_used(database) < COUNT + 500)


def test_embeddings_and_tokenize_are_counted_as_they_are(database) -> None:
    access, header = keyed(database, 100)
    with running(echo(), auth=access) as server:
        ask = lambda path, **body: httpx2.post(server.url + path, json=body, headers=header)  # noqa: E731
        assert ask("/tokenize", prompt="x" * 500).json()["count"] == 500
        assert ask("/v1/embeddings", model="carellama", input=["x" * 60, "y" * 41]).status_code == 429
        done = ask("/v1/embeddings", model="carellama", input=["x" * 60, "y" * 40])
        assert done.status_code == 200 and done.json()["usage"]["prompt_tokens"] == 100
        until(lambda: tokens_used(database) == 100)


CALL = '<tool_call>{"name": "hours", "arguments": {}}'


def test_who_hangs_up_within_a_call_is_charged_for_it(database) -> None:
    """The tokens of a call are held back until it is whole: who left before that had them for nothing."""
    access, header = keyed(database, 100_000)
    engine = ScriptedEngine(CALL + " " * 1000, token_seconds=0.01)
    with running(engine, auth=access) as server:
        for stream in (False, True):
            before = tokens_used(database) if stream else 0
            with pytest.raises(httpx2.ReadTimeout), httpx2.stream(
                "POST", server.url + CHAT, json={"messages": PROMPT, "tools": HOURS, "stream": stream}, headers=header,
                timeout=httpx2.Timeout(10, read=1),
            ) as answer:  # fmt: skip
                answer.read()
            until(lambda: not engine.running)
            until(lambda before=before: tokens_used(database) > before + COUNT + 20)  # type: ignore[misc]


def test_a_long_call_is_no_want_of_a_first_token(monkeypatch) -> None:
    """A call that took longer than --first_token_timeout was ended as if the model had said nothing."""
    monkeypatch.setattr(chat, "KEEPALIVE_SECONDS", 0.2)
    engine = ScriptedEngine(CALL + "</tool_call>", token_seconds=0.02)  # about a second
    body = {"messages": PROMPT, "tools": HOURS}
    with running(engine, first_token_timeout=0.4) as server:
        whole = httpx2.post(server.url + CHAT, json=body, timeout=20).json()
        assert whole["choices"][0]["finish_reason"] == "tool_calls"
        streamed = httpx2.post(server.url + CHAT, json=body | {"stream": True}, timeout=20).text
        assert '"finish_reason":"tool_calls"' in streamed and streamed.endswith("data: [DONE]\n\n")
        assert streamed.count(": the answer is being computed") >= 2  # proxies keep the connection open
        assert streamed.count("data: ") == 4  # the role, the call, its end, and the mark of the end
