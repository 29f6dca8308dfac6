"""Requests at the edges: depth, types, methods and names, each answered with what is wrong and where (A14 to A16)."""

from __future__ import annotations

import gzip
import json
import socket

import httpx2
import pytest

from api_server import ASKED, echo, running

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server():
    with running(echo()) as running_one:
        yield running_one


def post(server, body, path=CHAT):
    content = body if isinstance(body, str) else json.dumps(body)
    answer = httpx2.post(server.url + path, content=content, headers={"content-type": "application/json"}, timeout=30)
    return answer.status_code, answer.json()


@pytest.mark.parametrize("levels", [150, 600, 5_000, 100_000])
@pytest.mark.parametrize(
    "body",
    [
        {"messages": ASKED, "tools": [{"type": "function", "function": {"name": "f", "parameters": "DEEP"}}]},
        {"messages": ASKED, "response_format": {"type": "json_schema", "json_schema": {"schema": "DEEP"}}},
        {"messages": ASKED, "guided_json": "DEEP"},
        {"messages": "DEEP"},
        {"messages": ASKED, "unknown": "DEEP", "half": "\\u0041"},
    ],
)
def test_json_of_any_depth_is_answered(server, body, levels) -> None:
    """A14: a tool schema nested 300 deep was an internal error."""
    deep = '{"properties":' * levels + "1" + "}" * levels
    status, answer = post(server, json.dumps(body).replace('"DEEP"', deep))
    assert status == 400 and answer["error"]["param"] and answer["error"]["code"] in ("invalid_value", "invalid_json")


def test_arguments_of_any_depth_are_answered(server) -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": '{"a":' * 5000 + "1" + "}" * 5000}}
    sent = [*ASKED, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "x"}]
    status, answer = post(server, {"messages": sent})
    assert status == 400 and answer["error"]["param"] == "messages.1.tool_calls.0.function.arguments"


def test_brackets_in_texts_are_not_depth(server) -> None:
    status, _ = post(server, {"messages": [{"role": "user", "content": '[{"\\' * 500}]})
    assert status == 200


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"max_tokens": True}, "max_tokens", "must be a number"),
        ({"temperature": "0.5"}, "temperature", "must be a number"),
        ({"stream": 1}, "stream", "must be true or false"),
        ({"stream": "true"}, "stream", "must be true or false"),
        ({"logprobs": "yes"}, "logprobs", "must be true or false"),
        ({"logit_bias": ""}, "logit_bias", "must be an object"),
        ({"tools": {}}, "tools", "must be an array"),
        ({"messages": [{"content": "x"}]}, "messages.0.role", "is missing"),
        ({"messages": []}, "messages", "at least 1"),
    ],
)
def test_a_wrong_type_is_named_in_words_of_json(server, fields, param, says) -> None:
    status, answer = post(server, {"messages": ASKED, **fields})
    assert status == 400 and answer["error"]["param"] == param and answer["error"]["code"] == "invalid_value"
    assert answer["error"]["message"].startswith(f"{param} ") and says in answer["error"]["message"]


def test_an_empty_text_is_named_by_its_index(server) -> None:
    for path, field, body in (
        ("/v1/embeddings", "input.1", {"model": "carellama", "input": ["a", "", "b"]}),
        ("/v1/completions", "prompt.1", {"prompt": ["a", ""]}),
        ("/v1/completions", "prompt", {"prompt": ""}),
        ("/v1/rerank", "documents.2", {"model": "carellama", "query": "q", "documents": ["a", "b", ""]}),
        ("/rerank", "query", {"model": "carellama", "query": "", "documents": ["a"]}),
    ):
        status, answer = post(server, body, path)
        assert status == 400 and answer["error"]["param"] == field, answer


def test_methods(server) -> None:
    """A16: HEAD and OPTIONS were 405."""
    head = httpx2.head(f"{server.v1}/models")
    assert head.status_code == 200 and head.content == b"" and int(head.headers["content-length"]) > 50
    assert httpx2.options(f"{server.v1}/models").headers["allow"] == "GET, HEAD, OPTIONS"
    options = httpx2.options(server.url + CHAT)
    assert options.status_code == 204 and options.headers["allow"] == "POST, OPTIONS"
    assert httpx2.head(server.url + CHAT).status_code == 405
    assert httpx2.options(f"{server.url}/nothing").status_code == 404


def test_rerank_has_both_of_its_names(server) -> None:
    body = {"model": "carellama", "query": "ear", "documents": ["eye", "ear"], "top_n": 1}
    for path in ("/rerank", "/v1/rerank"):
        status, answer = post(server, body, path)
        assert status == 200 and answer["results"][0]["index"] == 1


STRICT = '"messages": [{"role": "user", "content": "q"}]'


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (f'{{{STRICT}, "max_tokens": 3, "max_tokens": 5}}', "max_tokens", "'max_tokens' twice"),
        (f'{{{STRICT}, {STRICT}}}', "messages", "'messages' twice"),
        ('{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "content", "'content' twice"),
        (f'{{{STRICT}, "metadata": NaN}}', "body", "NaN is not a number"),
        (f'{{{STRICT}, "json_schema": {{"x": -Infinity}}}}', "body", "-Infinity is not a number"),
        (f'{{{STRICT}, "json_schema": {{"x": [-1e999]}}}}', "body", "the number -1e999"),
        (f'{{{STRICT}, "seed": {"9" * 5000}}}', "body", "too many digits"),
        (f"{{{STRICT}}} trailing", "body", "Extra data at line 1, column 50"),
        (f"{{{STRICT}\n,}}", "body", "line 2, column"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "body", "half a surrogate pair"),
        (f"{{{STRICT}}}".encode("utf-16"), "body", "not UTF-8"),
        (b'{"messages": [{"role": "user", "content": "caf\xe9"}]}', "body", "not UTF-8 (byte 47)"),
    ],
)  # fmt: skip
def test_only_strict_json_is_read(server, body, param, says) -> None:
    """The last of two equal names was taken, and a schema with NaN told to the model, without a word."""
    content = body if isinstance(body, bytes) else body.encode()
    answer = httpx2.post(server.url + CHAT, content=content, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, "invalid_json")
    assert says in error["message"]


@pytest.mark.parametrize(
    ("escaped", "status"),
    [("\\ud83d\\ude00", 200), ("\\\\ud83d", 200), ("\\\\\\ud83d", 400), ("\\ude00\\ud83d", 400), ("\\ud83dx", 400)],
)
@pytest.mark.parametrize("where", ["content", "metadata"])
def test_only_whole_surrogate_pairs_are_characters(server, escaped, status, where) -> None:
    """Also in a field that no type describes; the body was written once more to find out."""
    content = escaped if where == "content" else "q"
    body = f'{{"messages": [{{"role": "user", "content": "{content}"}}], "metadata": {{"x": ["{escaped}"]}}}}'
    answer = httpx2.post(server.url + CHAT, content=body.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text


def test_a_byte_order_mark_is_no_part_of_the_json(server) -> None:
    content = b"\xef\xbb\xbf{" + STRICT.encode() + b"}"
    headers = {"content-type": "application/json"}
    assert httpx2.post(server.url + CHAT, content=content, headers=headers).status_code == 200


@pytest.mark.parametrize(("name", "coding"), [("content-encoding", "gzip"), ("transfer-encoding", "gzip, chunked")])
def test_compressed_bodies_are_named(server, name, coding) -> None:
    """The error was: there was an error parsing the body."""
    body, whole = gzip.compress(b"{}"), name == "content-encoding"
    length = f"content-length: {len(body)}\r\n" if whole else ""
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{name}: {coding}\r\n{length}"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        sent = body if whole else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        connection.sendall(head.encode() + b"\r\n" + sent)
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 415 ") and b"send the body uncompressed" in answer and name.encode() in answer


@pytest.mark.parametrize(
    ("path", "body", "param", "says"),
    [
        ("/v1/completions", {"prompt": [True]}, "prompt", "array of token ids"),
        ("/v1/completions", {"prompt": [1.0]}, "prompt", "array of token ids"),
        ("/v1/completions", {"prompt": ["a", [1]]}, "prompt", "array of token ids"),
        ("/v1/embeddings", {"input": [True]}, "input", "a text or an array"),
        (CHAT, {"messages": ASKED, "stop": [None]}, "stop.0", "must be a string"),
        (CHAT, {"messages": ASKED, "stop": 5}, "stop", "a text or an array of texts"),
        (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "an array of parts"),
        (CHAT, {"messages": [{"role": "user", "content": [{"text": "q"}]}]}, "messages.0.content.0.type", "is missing"),
        (CHAT, {"messages": ASKED, "tool_choice": "any"}, "tool_choice", '"required"'),
        (CHAT, {"messages": ASKED, "logit_bias": {" 1": 1}}, "logit_bias", "numbers of tokens"),
        (CHAT, {"messages": ASKED, "logit_bias": {"1_0": 1}}, "logit_bias", "numbers of tokens"),
        (CHAT, {"messages": ASKED, "logit_bias": {"１": 1}}, "logit_bias", "numbers of tokens"),
        ("/v1/rerank", {"query": "q", "documents": [{"txt": "a"}]}, "documents.0.text", "is missing"),
        ("/v1/responses", {"input": []}, "input", "must have at least 1 entry"),
        (CHAT, {"messages": ASKED, "tools": [{"function": {"name": "a b"}}]}, "tools.0.function.name", "must match"),
        (CHAT, {"messages": ASKED, "model": "m" * 300}, "model", "must have at most 256"),
    ],
)  # fmt: skip
def test_what_takes_several_forms_names_them(server, path, body, param, says) -> None:
    """true and 1.0 were token 1, "1_0" was token 10; "prompt must be a string (and 4 more)" named one form of four."""
    status, answer = post(server, body, path)
    assert (status, answer["error"]["param"]) == (400, param)
    assert says in answer["error"]["message"] and "more)" not in answer["error"]["message"]


def test_two_hosts_are_refused(server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_a_refusal_of_an_earlier_answer_is_read() -> None:
    """An assistant's message without content lost its refusal."""
    engine = echo()
    with running(engine) as server:
        sent = [*ASKED, {"role": "assistant", "content": None, "refusal": "I cannot help with that."}, *ASKED]
        assert post(server, {"messages": sent})[0] == 200
    assert [message.content for message in engine.asked[0]][1] == "I cannot help with that."
