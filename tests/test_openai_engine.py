"""The engine behind an endpoint, against a server of this test: what is sent, what is tried again, what is said."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from carellama.config.environment import endpoint_key
from carellama.engine.base import Reply, Sampling
from carellama.engine.openai import OpenAIEngine
from carellama.errors import UserError
from carellama.records import Message

SAMPLING = Sampling(
    max_new_tokens=9, temperature=0.5, top_p=0.9, top_k=0, repetition_penalty=1, num_beams=1, length_penalty=1, seed=3
)
ASKED = (Message("user", "What is asthma?"),)
Answer = tuple[int, dict[str, str], str]


@contextmanager
def serving(answer: Callable[[dict, int], Answer]) -> Iterator[tuple[str, list[dict]]]:
    """A server that answers each request by a function of its body and its number; yields address and requests."""
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            status, headers, text = answer(body, len(asked))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def said(text: str, finish: str = "stop") -> Answer:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return 200, {}, json.dumps({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})


def test_replies_are_in_the_order_of_the_prompts_and_say_what_they_took() -> None:
    prompts = [(Message("user", f"question {number}"),) for number in range(7)]
    seen: dict[int, Reply] = {}
    with serving(lambda body, _: said(body["messages"][-1]["content"].upper(), "length")) as (url, asked):
        replies = OpenAIEngine(url, "m", key="secret-key").generate(prompts, SAMPLING, on_reply=seen.__setitem__)
    assert replies == [Reply(f"QUESTION {number}", "length", 5, 2) for number in range(7)]
    assert seen == dict(enumerate(replies))
    first = asked[0]
    assert first["path"] == "/v1/chat/completions" and first["key"] == "Bearer secret-key"
    assert (first["model"], first["max_tokens"], first["temperature"], first["seed"]) == ("m", 9, 0.5, 3)


def test_a_busy_server_is_asked_again_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    busy = {1: 429, 2: 503}
    with serving(lambda _, number: (busy[number], {}, "") if number in busy else said("well")) as (url, asked):
        (reply,) = OpenAIEngine(url, "m", pauses=(0, 0)).generate([ASKED], SAMPLING)
    assert reply.text == "well" and len(asked) == 3
    told = capsys.readouterr().err
    assert "429" in told and "503" in told and "asthma" not in told


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "CARELLAMA_API_KEY"), (404, "--model"), (400, "context_length"), (500, "500"), (302, "302")],
)
def test_a_refusal_is_one_line_without_key_and_prompt(status: int, hint: str) -> None:
    text = json.dumps({"error": {"message": "What is asthma? secret-key", "code": "context_length"}})
    served = serving(lambda *_: (status, {"Location": "http://127.0.0.1:1/"}, text))
    with served as (url, asked), pytest.raises(UserError, match=hint) as raised:
        OpenAIEngine(url, "m", key="secret-key", pauses=(0,)).generate([ASKED], SAMPLING)
    message = str(raised.value)
    assert "asthma" not in message and "secret-key" not in message and "\n" not in message
    assert len(asked) == (2 if status == 500 else 1)


def test_what_was_answered_before_a_failure_is_handed_over() -> None:
    seen: list[str] = []
    prompts = [(Message("user", text),) for text in ("good", "bad", "never", "asked")]
    served = serving(lambda body, _: (400, {}, "") if body["messages"][0]["content"] == "bad" else said("ok"))
    with served as (url, _), pytest.raises(UserError, match="400"):
        OpenAIEngine(url, "m", parallel=1).generate(prompts, SAMPLING, on_reply=lambda _, r: seen.append(r.text))
    assert seen[:1] == ["ok"]


def test_nothing_there_no_endpoint_and_no_json() -> None:
    with serving(lambda *_: said("x")) as (url, _):
        pass
    with pytest.raises(UserError, match="nothing answers"):
        OpenAIEngine(url, "m").generate([ASKED], SAMPLING)
    with serving(lambda *_: (200, {}, "<html>")) as (url, _), pytest.raises(UserError, match="JSON"):
        OpenAIEngine(url, "m").generate([ASKED], SAMPLING)
    with pytest.raises(UserError, match="address"):
        OpenAIEngine("localhost", "m")


def test_a_slow_server_is_a_timeout_that_is_tried_again() -> None:
    gate = threading.Event()

    def slow(_: dict, number: int) -> Answer:
        if number == 1:
            gate.wait(5)
        return said("late")

    with serving(slow) as (url, asked):
        (reply,) = OpenAIEngine(url, "m", timeout=0.3, pauses=(0,)).generate([ASKED], SAMPLING)
        gate.set()
    assert reply.text == "late" and len(asked) == 2


def events(*parts: str, end: bool = True) -> Answer:
    lines = [json.dumps({"choices": [{"delta": {"content": part}}]}) for part in parts]
    if end:
        lines.append(json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]}))
        lines.append(json.dumps({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 3}}))
        lines.append("[DONE]")
    return 200, {"Content-Type": "text/event-stream"}, "".join(f"data: {line}\n\n" for line in lines)


def test_the_streamed_pieces_are_the_reply() -> None:
    with serving(lambda *_: events("发", "烧", "?")) as (url, asked):
        stream = OpenAIEngine(url, "m").stream(ASKED, SAMPLING)
        pieces = []
        with pytest.raises(StopIteration) as end:
            while True:
                pieces.append(next(stream))
    assert pieces == ["发", "烧", "?"] and end.value.value == Reply("发烧?", "stop", 4, 3)
    assert asked[0]["stream"] is True


def test_a_stream_that_breaks_off_is_an_error() -> None:
    with serving(lambda *_: events("half", end=False)) as (url, _), pytest.raises(UserError, match="broke off"):
        list(OpenAIEngine(url, "m").stream(ASKED, SAMPLING))


def test_sampling_that_the_protocol_does_not_have_is_refused() -> None:
    from dataclasses import replace

    with pytest.raises(UserError, match="top_k"):
        OpenAIEngine("http://127.0.0.1:1/v1", "m").generate([ASKED], replace(SAMPLING, top_k=50))


def test_the_key_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARELLAMA_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert endpoint_key() is None
    monkeypatch.setenv("OPENAI_API_KEY", "general")
    monkeypatch.setenv("CARELLAMA_API_KEY", " own\n")
    assert endpoint_key() == "own"
