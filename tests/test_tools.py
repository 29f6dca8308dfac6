"""Tools as text: what a call may be, and what becomes of one that is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from carellama.engine.base import Event, FinishReason, Piece, Reply, Sampling, Tool, Unsupported
from carellama.engine.parts import split_parts
from carellama.engine.tool_schema import NO_ARGUMENTS, call_schema
from carellama.engine.tools import resolve_tool_choice, tools_to_system_prompt
from carellama.engine.transformers.grammar import lark_of
from carellama.records import Message

OF = {"type": "object", "properties": {"of": {"type": "string"}}, "required": ["of"]}
DEPARTMENT, HOURS = Tool("department", "", OF), Tool("hours")
BOTH = (DEPARTMENT, HOURS)


def read(text: str, finish: FinishReason = "stop", choice: str = "auto", tools=BOTH, **more: Any) -> Reply:
    """What is read of an answer that comes in pieces of three characters."""
    events: list[Event] = []
    take = split_parts(events.append, Sampling(tools=tools, tool_choice=choice, **more))
    for at in range(0, len(text), 3):
        take(Piece(text[at : at + 3]))
    take(Reply(text, finish, 1, 1))
    *pieces, reply = events
    assert isinstance(reply, Reply)
    assert "".join(piece.text for piece in pieces) == reply.text
    assert tuple(piece.call for piece in pieces if piece.call) == reply.calls
    return reply


CALL = '{"name": "department", "arguments": {"of": "ear"}}'


@pytest.mark.parametrize("choice", ["required", "department"])
@pytest.mark.parametrize("size", range(0, len(CALL)))
def test_a_required_call_that_is_cut_is_never_text(choice: str, size: int) -> None:
    """A5: half a JSON object was the answer's text. Now it is a call with part of its arguments."""
    reply = read(CALL[:size], "length", choice)
    assert reply.text == "" and reply.finish_reason == "length"
    if size >= len('{"name": "d') or choice == "department":
        (call,) = reply.calls
        assert call.name == "department"
        assert call.arguments in ('{"of": "ear"}', CALL[CALL.index('{"of"') : size] or "{")
    else:
        assert not reply.calls  # it may still become either


def test_a_call_that_is_cut_keeps_the_arguments_that_came() -> None:
    assert read(CALL[:-6], "length", "required").calls[0].arguments == '{"of": "'
    tagged = f"Let me look.\n<tool_call>\n{CALL[:-6]}"
    reply = read(tagged, "length")
    assert (reply.text.strip(), reply.calls[0].arguments, reply.finish_reason) == ("Let me look.", '{"of": "', "length")
    assert read(tagged, "stop").calls == () and "<tool_call>" in read(tagged, "stop").text
    two = f"<tool_call>{CALL}</tool_call><tool_call>{CALL[:-6]}"
    assert [call.arguments for call in read(two, "length").calls] == ['{"of": "ear"}', '{"of": "']
    assert read("{" + CALL, "length").text == "{" + CALL  # no call: the words stay
    assert read("I do not know.", "length", "required").text == "I do not know."  # of a server that keeps no schema


@pytest.mark.parametrize(
    "parameters",
    [
        {}, {"type": "object"}, {"properties": {}}, {"type": "object", "properties": {}}, {"description": "none"},
        {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
    ],
)  # fmt: skip
def test_a_function_without_parameters_gets_no_arguments(parameters: dict[str, Any]) -> None:
    """A6: it got the placeholder of our own prompt."""
    tool = Tool("hours", "", parameters)
    assert call_schema([tool])["properties"]["arguments"] == NO_ARGUMENTS
    invented = '{"name": "hours", "arguments": {"the argument": "its value"}}'
    for choice, text in (("required", invented), ("auto", f"<tool_call>{invented}</tool_call>")):
        assert [call.arguments for call in read(text, choice=choice, tools=(tool,)).calls] == ["{}"]
    assert read('{"name": "hours", "argum', "length", "required", (tool,)).calls[0].arguments in ("", "{}")


def test_the_example_of_the_prompt_is_no_call() -> None:
    """A6: a model that repeats the words of our prompt has called nothing."""
    prompt = tools_to_system_prompt([Message("user", "q")], BOTH)[0].content
    example = prompt[prompt.rindex("<tool_call>") :]
    assert read(example).calls == ()
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(example.removeprefix("<tool_call>").removesuffix("</tool_call>"))


NESTED = {
    "$defs": {
        "Dose": {"properties": {"mg": {"type": "integer"}, "properties": {"type": "string"}}, "required": ["mg"]}
    },
    "properties": {
        "dose": {"$ref": "#/$defs/Dose"},
        "route": {"enum": ["oral", "iv"]},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["dose", "route"],
}


def fits(schema: dict[str, Any], answer: str) -> bool:
    """Whether llguidance allows a text as the whole answer."""
    llguidance = pytest.importorskip("llguidance")
    lark = lark_of(Sampling(json_schema=schema))
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), llguidance.LLMatcher.grammar_from_lark(lark))
    assert not matcher.is_error(), matcher.get_error()
    tokens = list(answer.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ('{"dose": {"mg": 5}, "route": "oral"}', True),
        ('{"dose": {"mg": 5, "properties": "p"}, "route": "oral", "note": null}', True),
        ('{"dose": {"mg": 5}, "route": "nasal"}', False),
        ('{"dose": {"mg": 5, "g": 1}, "route": "oral"}', False),
        ('{"dose": {"mg": "5"}, "route": "oral"}', False),
        ('{"route": "oral"}', False),
        ('{"dose": {"mg": 5}, "route": "oral", "the argument": "its value"}', False),
        ('"oral"', False),
        ('{"dose":   {"mg": 5}, "route": "oral"}', False),  # A12: free white space
    ],
)
def test_arguments_are_those_that_the_function_declares(arguments: str, right: bool) -> None:
    """A6: nested objects, enums, optional parameters, schemas without a type, definitions of pydantic."""
    prescribe = Tool("prescribe", "", NESTED)
    for tools in ([prescribe], [DEPARTMENT, prescribe]):
        assert fits(call_schema(tools), f'{{"name": "prescribe", "arguments": {arguments}}}') is right


def test_a_schema_may_refer_to_itself_and_be_open() -> None:
    tree = Tool("tree", "", {"properties": {"child": {"$ref": "#"}, "name": {"type": "string"}}, "required": ["name"]})
    assert fits(call_schema([tree]), '{"name": "tree", "arguments": {"child": {"name": "b"}, "name": "a"}}')
    assert not fits(call_schema([tree]), '{"name": "tree", "arguments": {"child": {"x": "b"}, "name": "a"}}')
    free = Tool("free", "", {"type": "object", "additionalProperties": True})
    assert fits(call_schema([free]), '{"name": "free", "arguments": {"x": 1}}')


def test_parameters_that_are_no_object_are_refused() -> None:
    with pytest.raises(Unsupported, match="'department' have the type 'string'"):
        call_schema([Tool("department", "", {"type": "string"})])
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        deep = {"type": "object", "properties": {"a": deep}}
    with pytest.raises(Unsupported, match="nested deeper"):
        call_schema([Tool("deep", "", deep)])


def test_json_or_a_call_where_both_are_allowed() -> None:
    schema = {
        "$ref": "#/$defs/A",
        "$defs": {
            "A": {"type": "object", "properties": {"urgent": {"type": "boolean"}}, "additionalProperties": False}
        },
    }
    both = resolve_tool_choice(Sampling(tools=BOTH, json_schema=schema)).json_schema
    assert both is not None
    assert fits(dict(both), '{"urgent": true}') and fits(dict(both), CALL)
    assert not fits(dict(both), '{"name": "nobody", "arguments": {}}')


def test_only_one_call_where_no_more_are_wanted() -> None:
    two = f"<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call> and more"
    assert len(read(two).calls) == 2
    alone = read(two, parallel_calls=False)
    assert len(alone.calls) == 1 and alone.text == "" and alone.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("given", "right", "wrong"),
    [
        ({"regex": "[0-9]{1,3} mg/d"}, "50 mg/d", "5000 mg/d"),
        ({"choice": ("是", 'no "x"\n')}, 'no "x"\n', "no"),
        ({"grammar": 'root ::= "yes" | "no" ws\nws ::= [ ]*'}, "no  ", "maybe"),
        ({"grammar": 'start: "yes" | "no"'}, "yes", "maybe"),
        ({"json_schema": {}}, '{"a": [1, 2]}', '{"a":  1}'),
    ],
)
def test_what_limits_an_answer(given: dict[str, Any], right: str, wrong: str) -> None:
    llguidance = pytest.importorskip("llguidance")

    def allowed(text: str) -> bool:
        grammar = llguidance.LLMatcher.grammar_from_lark(lark_of(Sampling(**given)))
        matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar)
        tokens = list(text.encode())
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    assert allowed(right) and not allowed(wrong)
    assert lark_of(Sampling()) is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"regex": "(a"}, "unclosed group"),
        ({"regex": "a(?=b)"}, "look-around"),
        ({"grammar": "hello"}, "neither GBNF nor Lark"),
        ({"grammar": "start: undefined_rule"}, "undefined_rule"),
        ({"json_schema": {"type": "nonsense"}}, "nonsense"),
        ({"json_schema": {"type": "object", "if": {}}}, "if"),
        ({"json_schema": {"type": "string", "pattern": "a(?=b)"}}, "look-around"),
    ],
)
def test_a_limit_that_cannot_be_kept_is_refused_with_its_reason(given: dict[str, Any], says: str) -> None:
    pytest.importorskip("llguidance")
    with pytest.raises(Unsupported, match=says) as refused:
        lark_of(Sampling(**given))
    assert "\n" not in str(refused.value)


def test_a_schema_does_not_loosen_the_form_of_its_json() -> None:
    """A12: neither a client's schema nor the default lets white space in."""
    loose = {"x-guidance": {"whitespace_flexible": True}, "type": "object", "additionalProperties": True}
    assert fits(loose, '{"a": 1}') and not fits(loose, '{"a":\n\n1}')


def test_calls_are_read_as_before() -> None:
    reply = read(CALL)
    assert reply.calls[0].arguments == '{"of": "ear"}' and reply.finish_reason == "tool_calls"
