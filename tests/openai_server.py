"""A small server of OpenAI's protocol for tests, over an `Engine`. Not a test module itself.

with serving(ScriptedEngine("See a doctor.")) as server:
    OpenAIEngine(server.url, "base")
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from carellama.engine.base import Engine, Piece, PromptTooLong, Reply, Sampling, Tool, Unsupported
from carellama.engine.generate import stream as stream_of
from carellama.records import Message, ToolCall

Answer = tuple[int, dict[str, str], str]


@dataclass
class Server:
    """Where it is, and what it was asked: path, key and body of each POST."""

    url: str
    asked: list[dict] = field(default_factory=list)


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler], port: int = 0) -> Iterator[str]:
    """A server on the loopback for the time of the block; yields its address with /v1."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def body(self) -> dict:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def say(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        self.send_response(status)
        for name, each in {"Content-Length": str(len(text.encode())), **(headers or {})}.items():
            self.send_header(name, each)
        self.end_headers()
        self.wfile.write(text.encode())


@contextmanager
def answering(answer: Callable[[dict, int], Answer], models: Any = None, port: int = 0) -> Iterator[Server]:
    """A server that answers each POST by a function of its body and its number, and GET with `models`."""
    server = Server("")

    class Handler(Quiet):
        def do_GET(self) -> None:
            self.say(200, models) if models is not None else self.say(404, "{}")

        def do_POST(self) -> None:
            body = self.body()
            server.asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            status, headers, text = answer(body, len(server.asked))
            self.say(status, text, headers)

    with listening(Handler, port) as server.url:
        yield server


def said(text: str, finish: str = "stop") -> Answer:
    """An answer in one piece."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return 200, {}, json.dumps({"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})


def events(*deltas: dict, finish: str | None = "stop") -> Answer:
    """A streamed answer; without `finish` it breaks off."""
    lines = [json.dumps({"choices": [{"delta": delta}]}, ensure_ascii=False) for delta in deltas]
    if finish:
        lines.append(json.dumps({"choices": [{"delta": {}, "finish_reason": finish}]}))
        lines.append(json.dumps({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 3}}))
        lines.append("[DONE]")
    return 200, {"Content-Type": "text/event-stream"}, "".join(f"data: {line}\n\n" for line in lines)


@contextmanager
def serving(engine: Engine, owner: str = "vllm") -> Iterator[Server]:
    """The protocol over an engine, as vLLM speaks it."""
    server = Server("")
    cards = [
        {"id": name, "owned_by": owner, "max_model_len": engine.context_tokens} for name in ("base", *engine.adapters)
    ]

    class Handler(_Protocol):
        served, models = engine, {"data": cards}

    with listening(Handler) as server.url:
        yield server


class _Protocol(Quiet):
    served: ClassVar[Engine]
    models: ClassVar[dict]

    def do_GET(self) -> None:
        self.say(*((200, self.models) if self.path == "/v1/models" else (404, {})))

    def do_POST(self) -> None:
        body, engine = self.body(), self.served
        sampling = dataclasses.replace(_sampling(body), adapter="" if body["model"] == "base" else body["model"])
        try:
            if self.path == "/tokenize":
                self.say(200, {"tokens": self._tokens(body)})
            elif self.path == "/v1/embeddings":
                vectors = engine.embed(body["input"])
                self.say(200, {"data": [{"index": at, "embedding": each} for at, each in enumerate(vectors)]})
            elif self.path == "/v1/completions":
                self._stream(stream_of(engine, body["prompt"], sampling), "text")
            else:
                self._stream(stream_of(engine, _messages(body), sampling), "delta")
        except PromptTooLong as error:
            self.say(400, {"error": {"message": str(error)}})
        except Unsupported:
            self.say(501, {"error": {"code": "unsupported"}})

    def _tokens(self, body: dict) -> list[int]:
        """The tokens of a text or a conversation, also of one that is too long to be answered."""
        if (prompt := body.get("prompt")) is not None:
            return self.served.tokenize(prompt)
        try:
            return self.served.tokenize(self.served.prepare(_messages(body), _tools(body)).text)
        except PromptTooLong as error:
            return list(range(error.prompt_tokens))

    def _stream(self, stream: Any, form: str) -> None:
        first = next(stream)  # an error is one before the first byte
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            self._send(first, form)
            while True:
                try:
                    self._send(next(stream), form)
                except StopIteration as end:
                    return self._end(end.value)
        except OSError:  # the client has gone
            return None
        finally:
            stream.close()

    def _send(self, piece: Piece, form: str) -> None:
        if piece == Piece():
            self.wfile.write(b": at work\n\n")
            return
        choice: dict[str, Any] = {"text": piece.text} if form == "text" else {"delta": {"content": piece.text}}
        if piece.logprobs:
            rows = [
                {"token": one.token, "logprob": one.logprob, "top_logprobs": _rows(one.top)} for one in piece.logprobs
            ]
            choice["logprobs"] = {"content": rows}
        if piece.call:
            function = {"name": piece.call.name, "arguments": piece.call.arguments}
            choice["delta"]["tool_calls"] = [{"index": 0, "id": piece.call.id, "function": function}]
        self._event({"choices": [choice]})

    def _end(self, reply: Reply) -> None:
        self._event({"choices": [{"delta": {}, "finish_reason": reply.finish_reason}]})
        usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, event: dict) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()


def _rows(top: Any) -> list[dict]:
    return [{"token": token, "logprob": logprob} for token, logprob in top]


def _messages(body: dict) -> list[Message]:
    found = []
    for row in body["messages"]:
        calls = [ToolCall(one["id"], **one["function"]) for one in row.get("tool_calls") or ()]
        found.append(Message(row["role"], row["content"], tuple(calls), row.get("tool_call_id", "")))
    return found


def _tools(body: dict) -> tuple[Tool, ...]:
    return tuple(Tool(**one["function"]) for one in body.get("tools") or ())


def _sampling(body: dict) -> Sampling:
    form = body.get("response_format")
    choice = body.get("tool_choice", "auto")
    return Sampling(
        max_new_tokens=body.get("max_tokens"),
        temperature=body.get("temperature", 1.0),
        stop=tuple(body.get("stop") or ()),
        logit_bias=tuple((int(token), bias) for token, bias in (body.get("logit_bias") or {}).items()),
        json_schema=form and form["json_schema"]["schema"],
        **(body.get("structured_outputs") or {}),
        min_tokens=body.get("min_tokens", 0),
        ignore_eos=body.get("ignore_eos", False),
        stop_token_ids=tuple(body.get("stop_token_ids") or ()),
        top_logprobs=body.get("top_logprobs"),
        tools=_tools(body),
        tool_choice=choice if isinstance(choice, str) else choice["function"]["name"],
    )
