"""Requests at the edges: depth, types, methods and names, each answered with what is wrong and where (A14 to A16)."""

from __future__ import annotations

import json

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
