"""/v1/responses by OpenAI's own client: whole, as a stream, with functions and reasoning; nothing is kept (A10)."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pydantic
import pytest

from api_server import running
from carellama.engine.base import Piece, Reply
from carellama.engine.scripted import ScriptedEngine
from carellama.engine.transformers.engine import TransformersEngine
from carellama.records import ToolCall
from carellama.templates.template import get_template
from conftest import make_model, make_tokenizer

TOOL = {
    "type": "function",
    "name": "department",
    "description": "Find a department.",
    "parameters": {"type": "object", "properties": {"of": {"type": "string"}}, "required": ["of"]},
    "strict": False,
}
CALL = '<tool_call>{"name": "department", "arguments": {"of": "ear"}}</tool_call>'


@pytest.fixture(scope="module")
def engine():
    def says(messages):
        last = messages[-1].content
        return CALL if last == "call" else f"On it. {CALL}" if last == "both" else f"You said: {last}"

    return ScriptedEngine(says, context_tokens=2000)


@pytest.fixture(scope="module")
def client(engine):
    with running(engine) as server, openai.OpenAI(base_url=server.v1, api_key="-", max_retries=0) as made:
        yield made


def test_a_text_is_answered(client, engine) -> None:
    answer = client.responses.create(model="carellama", input="ear", instructions="Be brief.", max_output_tokens=50)
    assert answer.output_text == "You said: ear" and answer.status == "completed" and answer.store is False
    assert answer.usage.output_tokens == 13 and answer.usage.total_tokens == answer.usage.input_tokens + 13
    assert [(one.role, one.content) for one in engine.asked[-1]] == [("system", "Be brief."), ("user", "ear")]
    cut = client.responses.create(model="carellama", input="ear", max_output_tokens=3)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"
    assert cut.output_text == "You" and cut.output[0].status == "incomplete"


def test_a_conversation_of_items(client, engine) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "department", "arguments": '{"of": "ear"}'}
    answer = client.responses.create(
        model="carellama",
        input=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "Which one?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            call,
            call | {"call_id": "c2"},
            {"type": "function_call_output", "call_id": "c1", "output": "ENT"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "ENT too"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ENT."}]},
            {"role": "user", "content": "Thanks"},
        ],
        tools=[TOOL],
    )
    assert answer.output_text == "You said: Thanks"
    asked = engine.asked[-1]
    assert [one.role for one in asked] == ["system", "user", "assistant", "tool", "tool", "assistant", "user"]
    assert [one.id for one in asked[2].calls] == ["c1", "c2"] and asked[4].content == "ENT too"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("said", "kinds"), [("call", ["function_call"]), ("both", ["message", "function_call"])])
def test_functions_are_called(client, stream, said, kinds) -> None:
    if stream:
        with client.responses.stream(model="carellama", input=said, tools=[TOOL]) as events:
            seen = [event.type for event in events]
            answer = events.get_final_response()
        assert seen[:2] == ["response.created", "response.in_progress"] and seen[-1] == "response.completed"
        assert "response.function_call_arguments.done" in seen
    else:
        answer = client.responses.create(model="carellama", input=said, tools=[TOOL])
    assert [item.type for item in answer.output] == kinds
    called = answer.output[-1]
    assert called.name == "department" and called.arguments == '{"of": "ear"}' and called.call_id.startswith("call_")
    assert answer.output_text.strip() == ("On it." if said == "both" else "")


def test_a_stream_is_the_whole_response(client) -> None:
    numbers, deltas = [], ""
    for event in client.responses.create(model="carellama", input="ear", stream=True, top_logprobs=1):
        numbers.append(event.sequence_number)
        if event.type == "response.output_text.delta":
            deltas += event.delta
            assert len(event.logprobs) == 1
    assert numbers == list(range(len(numbers)))
    assert event.type == "response.completed" and event.response.output_text == deltas == "You said: ear"
    assert event.response.usage.output_tokens == 13
    with client.responses.stream(model="carellama", input="ear", max_output_tokens=3) as events:
        last = list(events)[-1]
    assert last.type == "response.incomplete" and last.response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_is_an_item_of_its_own(stream) -> None:
    class Thinks(ScriptedEngine):
        def answer(self, prompt, sampling):
            yield Piece(reasoning="An ear ")
            yield Piece(reasoning="is an organ.")
            yield Piece("ENT.")
            call = ToolCall("c1", "department", "{}")
            yield Piece(call=call)
            return Reply("ENT.", "tool_calls", 5, 6, reasoning="An ear is an organ.", calls=(call,))

    with running(Thinks("")) as server, openai.OpenAI(base_url=server.v1, api_key="-") as client:
        if stream:
            *_, last = client.responses.create(model="carellama", input="ear", stream=True)
            answer = last.response
        else:
            answer = client.responses.create(model="carellama", input="ear")
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call"]
    assert answer.output[0].content[0].text == "An ear is an organ." and answer.output_text == "ENT."


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation"),
        ({"conversation": "conv_1"}, "conversation", "keeps no responses"),
        ({"background": True}, "background", "stream"),
        ({"truncation": "auto"}, "truncation", "never cut"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "no tools of its own"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type", "keeps no responses"),
        ({"input": [{"role": "user"}]}, "input.0", "role and content"),
        ({"input": []}, "input", ""),
        ({"input": "x" * 3000}, "input", "3,0"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "missing"),
        ({"temperature": "0.5"}, "temperature", "number"),
    ],
)
def test_what_is_not_done_is_refused(client, fields, param, says) -> None:
    with pytest.raises(openai.BadRequestError, match=says) as refused:
        client.responses.create(**({"model": "carellama", "input": "x"} | {"extra_body": fields}))
    assert refused.value.param == param and refused.value.code


class Triage(pydantic.BaseModel):
    urgent: bool


def test_the_text_is_json_of_a_schema() -> None:
    """`text.format` by a model whose tokens are held to it: whole, as a stream, and as any object."""
    tokenizer = make_tokenizer()
    engine = TransformersEngine(make_model(), tokenizer, get_template(None, tokenizer))
    asked: dict[str, Any] = {"model": "carellama", "input": "Chest pain", "max_output_tokens": 40}
    with running(engine) as server, openai.OpenAI(base_url=server.v1, api_key="-", max_retries=0) as client:
        whole = client.responses.parse(**asked, text_format=Triage)
        assert isinstance(whole.output_parsed, Triage) and whole.status == "completed"
        assert whole.text.format.type == "json_schema" and whole.text.format.schema_["required"] == ["urgent"]
        with client.responses.stream(**asked, text_format=Triage) as events:
            said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
            streamed = events.get_final_response()
        assert streamed.output_text == said and isinstance(streamed.output_parsed, Triage)
        free = client.responses.create(**asked, text={"format": {"type": "json_object"}})
        assert free.output_text.startswith("{") and free.text.format.type == "json_object"
    engine.close()


def test_errors_have_the_names_of_this_route(client) -> None:
    """They were `response_format` for a schema that cannot be kept to, and `json_schema` for a demanded call."""
    with pytest.raises(openai.BadRequestError, match="has no json_schema") as refused:
        client.responses.parse(model="carellama", input="x", text_format=Triage)
    assert refused.value.param == "text.format"
    with pytest.raises(openai.BadRequestError, match="has no json_schema") as refused:
        client.responses.create(model="carellama", input="x", tools=[TOOL], tool_choice="required")
    assert refused.value.param == "tool_choice"


def test_what_is_sent_along_comes_back_or_is_named(client) -> None:
    """`metadata` came back empty, and an unknown `include` was ignored without a word."""
    sent = client.responses.with_raw_response.create(
        model="carellama",
        input="x",
        metadata={"case": "7"},
        include=["reasoning.encrypted_content", "file_search_call.results"],
    )
    assert sent.parse().metadata == {"case": "7"}
    assert sent.headers["x-carellama-ignored"] == "include.file_search_call.results"
    last = list(client.responses.create(model="carellama", input="x", stream=True,
                                        stream_options={"include_obfuscation": False}))[-1]  # fmt: skip
    assert last.type == "response.completed"


def test_an_item_is_named_by_its_own_place(client) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    items = [
        {"role": "user", "content": "x"},
        call,
        call,
        {"type": "function_call_output", "call_id": "no", "output": ""},
    ]
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="carellama", input=items)
    assert refused.value.param == "input.3.call_id"


def test_an_error_in_the_middle_of_a_stream_is_raised_by_the_client() -> None:
    class Breaks(ScriptedEngine):
        def answer(self, prompt, sampling):
            yield Piece("Re")
            raise ValueError("broken")

    with running(Breaks("")) as server, openai.OpenAI(base_url=server.v1, api_key="-") as client:
        with pytest.raises(openai.APIError, match="the server failed"):
            list(client.responses.create(model="carellama", input="x", stream=True))
        described = httpx2.get(f"{server.url}/openapi.json").json()["paths"]
    assert "/v1/responses" in described
