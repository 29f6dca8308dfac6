"""Every field of a request: used, harmless, left out and named, or refused. None is accepted without effect (A7)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from api_server import ASKED, Running, echo, running
from carellama.engine.base import Sampling
from carellama.serve.api import fields
from carellama.serve.api.constraints import constraint_of
from carellama.serve.api.errors import InvalidRequest
from carellama.serve.api.fields import check_fields, field_table
from carellama.serve.api.parsing import parse_sampling
from carellama.serve.api.schemas import ChatRequest, CompletionRequest, EmbeddingRequest, RerankRequest

TOOL = {"type": "function", "function": {"name": "hours"}}
SCHEMA = {"type": "object", "properties": {"urgent": {"type": "boolean"}}}
# A value of each field that changes how the answer is drawn.
DRAWN: dict[str, Any] = {
    "max_tokens": 3, "max_completion_tokens": 3, "temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_p": 0.1,
    "repetition_penalty": 1.2, "repeat_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.5, "seed": 1,
    "stop": "x", "logit_bias": {"1": 2}, "min_tokens": 2, "ignore_eos": True, "stop_token_ids": [3],
    "response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}, "guided_json": SCHEMA,
    "guided_regex": "a", "guided_choice": ["a"], "guided_grammar": 'root ::= "a"', "json_schema": SCHEMA,
    "format": "json", "grammar": 'root ::= "a"', "regex": "a", "ebnf": 'root ::= "a"', "tools": [TOOL],
    "logprobs": True,
}  # fmt: skip
BESIDE: dict[str, dict[str, Any]] = {  # those that need others beside them
    "top_logprobs": {"logprobs": True, "top_logprobs": 2},
    "tool_choice": {"tools": [TOOL], "tool_choice": "required"},
    "parallel_tool_calls": {"tools": [TOOL], "parallel_tool_calls": False},
}
# What the routes themselves do with a field is tested in test_api.py, test_api_embeddings.py and
# test_api_scoring.py.
OF_ROUTES = {
    *("messages", "model", "prompt", "stream", "stream_options", "n", "echo", "best_of", "modalities", "input", "mode"),
    *(
        "parse_special",
        "country",
        "input_type",
        "encoding_format",
        "dimensions",
        "query",
        "documents",
        "top_n",
        "return_documents",
    ),
}


def chat(**more: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": ASKED, **more})


FIELDS, OF_MESSAGES = field_table("request"), field_table("message")


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running(echo()) as server:
        yield server


def post(served: Running, **more: Any) -> httpx2.Response:
    return httpx2.post(f"{served.v1}/chat/completions", json={"messages": ASKED, **more})


def test_the_table_has_every_declared_field() -> None:
    declared = {
        name
        for request in (ChatRequest, CompletionRequest, EmbeddingRequest, RerankRequest)
        for name in request.model_fields
    }
    declared -= {"add_special_tokens"}  # used by /v1/completions and /tokenize, which declare it; refused elsewhere
    assert {name for name in declared if FIELDS[name].effect == "used"} == declared - {"user"}
    used = {name for name, field in FIELDS.items() if field.effect == "used"}
    assert used == declared - {"user"} == {*DRAWN, *BESIDE, *OF_ROUTES}


@pytest.mark.parametrize("name", [*DRAWN, *BESIDE])
def test_a_field_that_is_used_changes_the_answer(name: str) -> None:
    given = BESIDE.get(name) or {name: DRAWN[name]}
    without = {key: value for key, value in given.items() if key != name}
    assert parse_sampling(chat(**given), Sampling(), "") != parse_sampling(chat(**without), Sampling(), "")
    assert check_fields(chat(**given)) == []


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.effect == "refused"])
def test_a_field_that_is_refused_is_named(served: Running, name: str) -> None:
    answer = post(served, **{name: ["something"]})
    assert answer.status_code == 400, name
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (name, "unsupported_parameter") and name in error["message"]
    for neutral in (None, *FIELDS[name].neutral):
        assert check_fields(chat(**{name: neutral})) == []


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.effect in ("left out", "harmless")])
def test_a_field_that_is_left_out_is_said(served: Running, name: str) -> None:
    """A24: `num_ctx`, `mirostat` and `think` were ignored without a word."""
    answer = post(served, **{name: "something"})
    assert answer.status_code == 200, answer.text
    said = name if FIELDS[name].effect == "left out" else None
    assert answer.headers.get(fields.HEADER) == said
    assert fields.HEADER not in post(served, **{name: None}).headers


def test_unknown_fields_are_said_once_in_the_log_and_typing_errors_refused(served: Running, caplog) -> None:
    fields._named.clear()
    with caplog.at_level(logging.WARNING, "carellama.serve.api.fields"):
        for _ in range(2):
            answer = post(served, num_ctx=4096, mine={"patient": "secret"}, **{"näme\n": 1})
            assert answer.headers[fields.HEADER] == "num_ctx, mine, n?me?"
    assert len(caplog.records) == 3 and "secret" not in caplog.text
    with pytest.raises(InvalidRequest, match="temprature: no such field; did you mean temperature") as wrong:
        check_fields(chat(temprature=0))
    assert (wrong.value.param, wrong.value.code) == ("temprature", "unknown_parameter")


@pytest.mark.parametrize("name", list(OF_MESSAGES))
def test_fields_of_messages(name: str) -> None:
    """`prefix` asks to continue the assistant's words: without it the answer is another."""
    body = ChatRequest.model_validate({"messages": [{"role": "user", "content": "q", name: "x"}]})
    if OF_MESSAGES[name].effect == "refused":
        with pytest.raises(InvalidRequest, match=name) as wrong:
            check_fields(body)
        assert wrong.value.param == f"messages.0.{name}"
    else:
        assert check_fields(body) == ([] if OF_MESSAGES[name].effect == "harmless" else [f"messages.{name}"])


def test_unknown_fields_within_objects() -> None:
    """`include_usge` was ignored, and the client waited for its usage in vain."""
    tool = {"type": "function", "cache": True, "function": {"name": "f", "parameters": {"anything": 1}, "pure": True}}
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"x": 1}, "note": "n"}}
    assert check_fields(chat(tools=[tool, tool], response_format=schema)) == [
        "response_format.json_schema.note",
        "tools.cache",
        "tools.function.pure",
    ]
    with pytest.raises(InvalidRequest, match="did you mean include_usage") as wrong:
        check_fields(chat(stream_options={"include_usge": True}))
    assert wrong.value.param == "stream_options.include_usge"


def test_unknown_fields_of_messages() -> None:
    """They were ignored without a word, also a misspelt one that carries the calls of tools."""

    def left_out(**fields: Any) -> list[str]:
        return check_fields(ChatRequest.model_validate({"messages": [{"role": "user", "content": "q", **fields}]}))

    assert left_out(importance="high", function_call=None) == ["messages.importance"]
    with pytest.raises(InvalidRequest, match=r"messages\.0\.tool_call: no such field; did you mean tool_calls\?"):
        left_out(tool_call=[{"id": "1"}])


@pytest.mark.parametrize(
    ("given", "param", "sampling"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format", {"json_schema": {}}),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "response_format", {"json_schema": SCHEMA}),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, "response_format", {"json_schema": SCHEMA}),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "strict": True, "schema": SCHEMA},
                }
            },
            "response_format",
            {"json_schema": SCHEMA},
        ),
        ({"guided_json": '{"type": "object"}'}, "guided_json", {"json_schema": {"type": "object"}}),
        ({"structured_outputs": {"json": SCHEMA}}, "structured_outputs.json", {"json_schema": SCHEMA}),
        ({"structured_outputs": {"json_object": True}}, "structured_outputs.json", {"json_schema": {}}),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "structured_outputs.choice", {"choice": ("a", "b")}),
        ({"structured_outputs": {"grammar": "g"}}, "structured_outputs.grammar", {"grammar": "g"}),
        ({"guided_choice": ["是", "否"]}, "guided_choice", {"choice": ("是", "否")}),
        ({"format": SCHEMA}, "format", {"json_schema": SCHEMA}),
        ({"ebnf": "g"}, "ebnf", {"grammar": "g"}),
    ],
)
def test_what_limits_an_answer(given: dict[str, Any], param: str, sampling: dict[str, Any]) -> None:
    constraint = constraint_of(chat(**given))
    assert constraint is not None
    assert (constraint.param, dict(constraint.sampling)) == (param, sampling)


@pytest.mark.parametrize("given", [{}, {"response_format": {"type": "text"}}, {"format": ""}, {"grammar": ""}])
def test_what_limits_nothing(given: dict[str, Any]) -> None:
    assert constraint_of(chat(**given)) is None


@pytest.mark.parametrize(
    ("given", "param", "says"),
    [
        ({"guided_regex": "a", "guided_json": SCHEMA}, "guided_regex", "both limit"),
        ({"guided_choice": []}, "guided_choice", "empty"),
        ({"guided_choice": [""]}, "guided_choice", "empty text"),
        ({"guided_json": "{"}, "guided_json", "not JSON"),
        ({"guided_json": "[1]"}, "guided_json", "not a JSON schema"),
        ({"structured_outputs": {}}, "structured_outputs", "limits nothing"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "not supported"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "needs"),
        ({"response_format": {"type": "regex", "value": "a"}}, "response_format.type", "must be"),
        ({"guided_regex": "a", "tools": [TOOL]}, "guided_regex", "does not go with tools"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens", "above the most"),
        ({"repeat_penalty": 1.1, "repetition_penalty": 1.2}, "repeat_penalty", "the same"),
        ({"max_tokens": 5, "max_completion_tokens": 9}, "max_tokens", "the same"),
        ({"max_tokens": True}, "max_tokens", "must be a number"),
        ({"temperature": "0.5"}, "temperature", "must be a number"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "from 0"),
        ({"json_schema": SCHEMA}, "json_schema", "has no json_schema"),  # of the scripted engine
        ({"guided_json": SCHEMA}, "guided_json", "has no json_schema"),
        ({"min_tokens": 2}, "min_tokens", "no min_tokens"),
        ({"stream": True, "guided_choice": ["a"]}, "guided_choice", "has no choice"),
    ],
)
def test_what_contradicts_itself_is_refused_with_the_field(
    served, given: dict[str, Any], param: str, says: str
) -> None:
    answer = post(served, **given)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param and says in error["message"], error


def test_a_conversation_is_counted_as_a_chat_counts_it() -> None:
    with running(echo(knows_tools=False)) as server:
        counts = [
            httpx2.post(f"{server.url}/tokenize", json={"messages": ASKED, **more}).json()["count"]
            for more in ({}, {"tools": [TOOL]})
        ]
        assert counts[0] == counts[1] == post(server, tools=[TOOL]).json()["usage"]["prompt_tokens"]
        wrong = httpx2.post(f"{server.url}/tokenize", json={"prompt": "x", "truncate_prompt_tokens": 3})
        assert wrong.json()["error"]["param"] == "truncate_prompt_tokens"


def test_strict_functions_and_their_arguments() -> None:
    """`strict` had no effect."""
    strict = {"name": "hours", "strict": True, "parameters": {"properties": {"day": {"type": "string"}}}}
    said = '<tool_call>{{"name": "hours", "arguments": {}}}</tool_call>'
    for arguments, calls in (('{"day": "monday"}', True), ('{"day": 1}', False), ('{"hour": "x"}', False)):
        with running(echo()) as served:
            message = {"role": "user", "content": said.format(arguments)}
            tools = [{"type": "function", "function": strict}]
            answer = post(served, messages=[message], tools=tools).json()["choices"][0]
        assert (answer["finish_reason"] == "tool_calls") is calls


@pytest.mark.parametrize(
    "names",
    [
        "chat_id session_id id features background_tasks params tool_servers variables files filter_ids tool_ids",
        "models route provider transforms plugins user_id conversation_id conversation_mode enabledSearch apiMode",
        "stream_usage extra_headers metadata store service_tier safety_identifier keep_alive",
    ],
)  # Open WebUI; OpenRouter, Dify and LobeChat; LangChain and others
def test_front_ends_are_served_as_they_are(names: str) -> None:
    check_fields(chat(**dict.fromkeys(names.split(), "x")))
