"""Calls of tools in the forms of Mistral, DeepSeek, Qwen3-Coder, GLM, Llama and gpt-oss: read, streamed or whole.

Each of these was the text of an answer before: markup in place of a call.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from carellama.engine.base import Event, FinishReason, Piece, Reply, Sampling, Tool
from carellama.engine.call_forms import value_of
from carellama.engine.chat import Chat
from carellama.engine.detokenizer import keeping
from carellama.engine.parts import kept_marks, split_parts
from carellama.records import Message, ToolCall
from carellama.templates.jinja import knows_tools, turn_ends
from test_reasoning_templates import SHIPPED

DOSE = Tool(
    "dose",
    "",
    {
        "type": "object",
        "properties": {
            "drug": {"type": "string"},
            "mg": {"type": "number"},
            "with_food": {"type": "boolean"},
            "times": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["drug"],
    },
)
TOOLS = (DOSE, Tool("hours"))
HARMONY = "<|channel|> <|message|> tools tool_calls"  # what tells a template of gpt-oss
ASPIRIN = ("dose", {"drug": "aspirin", "mg": 0.5})
JSON = '{"drug": "aspirin", "mg": 0.5}'
XML = "<function=dose>\n<parameter=drug>\naspirin\n</parameter>\n<parameter=mg>\n0.5\n</parameter>\n</function>"
HOURS = '{"name": "hours", "arguments": {}}'
GLM = "<arg_key>drug</arg_key>\n<arg_value>aspirin</arg_value>\n<arg_key>mg</arg_key>\n<arg_value>0.5</arg_value>\n"
BEGIN = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
V3 = f"{BEGIN}function<｜tool▁sep｜>dose\n```json\n{JSON}\n```<｜tool▁call▁end｜>"
HOURS_V3 = "\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>hours\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
V31 = f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>dose<｜tool▁sep｜>{JSON}<｜tool▁call▁end｜>"
WRITTEN: list[tuple[str, list[Any]]] = [
    (f"<tool_call>\n{XML}\n</tool_call>", [ASPIRIN]),
    (f"<tool_call>{XML}</tool_call>\n<tool_call><function=hours>\n</function></tool_call>", [ASPIRIN, ("hours", {})]),
    (XML, [ASPIRIN]),
    (f"<function=dose>{JSON}</function>", [ASPIRIN]),
    (f"<tool_call>dose\n{GLM}</tool_call>", [ASPIRIN]),
    ("<tool_call>hours\n</tool_call>", [("hours", {})]),
    (f'<tool_call>[{{"name": "dose", "arguments": {JSON}}}]</tool_call>', [ASPIRIN]),
    (f'[TOOL_CALLS] [{{"name": "dose", "arguments": {JSON}}}]', [ASPIRIN]),
    (
        f'[TOOL_CALLS][{{"name": "dose", "arguments": {JSON}, "id": "a1b2c3d4e"}}, {HOURS}]',
        [ASPIRIN, ("hours", {})],
    ),
    (f"[TOOL_CALLS]dose[ARGS]{JSON}", [ASPIRIN]),
    (f"[TOOL_CALLS]dose[CALL_ID]a1b2c3d4e[ARGS]{JSON}[TOOL_CALLS]hours[ARGS]{{}}", [ASPIRIN, ("hours", {})]),
    (V3 + HOURS_V3, [ASPIRIN, ("hours", {})]),
    (V31 + "<｜tool▁calls▁end｜>", [ASPIRIN]),
    (f'<|python_tag|>{{"name": "dose", "parameters": {JSON}}}', [ASPIRIN]),
]


def answer(text: str, size: int, finish: FinishReason = "stop", jinja: str = "", tools=TOOLS, **more: Any):
    """The pieces and the reply of an answer that comes in pieces of a size."""

    events: list[Event] = []
    take = split_parts(events.append, Sampling(tools=tools, **more), jinja=jinja)
    for at in range(0, len(text), size):
        take(Piece(text[at : at + size]))
    take(Reply(text, finish, 1, 1))
    *pieces, reply = events
    assert isinstance(reply, Reply)
    assert "".join(piece.text for piece in pieces) == reply.text
    assert "".join(piece.reasoning for piece in pieces) == reply.reasoning
    assert tuple(piece.call for piece in pieces if piece.call) == reply.calls
    return reply


def calls_of(reply: Reply) -> list[Any]:
    return [(call.name, json.loads(call.arguments)) for call in reply.calls]


@pytest.mark.parametrize("size", [1, 3, 7, 10_000])
@pytest.mark.parametrize(("text", "calls"), WRITTEN)
def test_calls_in_the_forms_of_models(text: str, calls: list[Any], size: int) -> None:
    reply = answer(text, size)
    assert (calls_of(reply), reply.text, reply.finish_reason) == (calls, "", "tool_calls")
    led = answer("<think>\nHm.\n</think>\n\nI look it up.\n" + text, size)
    assert (calls_of(led), led.text, led.reasoning) == (calls, "I look it up.", "Hm.")
    assert len(answer(text, size, parallel_calls=False).calls) == 1


@pytest.mark.parametrize(("text", "calls"), WRITTEN)
def test_a_call_that_is_cut_is_no_text(text: str, calls: list[Any]) -> None:
    """By the limit of tokens, at each character behind the name: part of the arguments, which is no JSON."""
    begin = text.index("dose") + len("dose[ARGS]") if "dose" in text else len(text)
    for end in range(begin, len(text)):
        reply = answer(text[:end], 5, "length")
        assert reply.calls and reply.calls[0].name == "dose", text[:end]
        assert "<tool_call>".startswith(reply.text)  # of a second one
        if len(reply.calls) == 1 and json.dumps(calls[0][1]) != reply.calls[0].arguments:
            with pytest.raises(json.JSONDecodeError):
                json.loads(reply.calls[0].arguments)


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>nobody\n</tool_call>",
        "<tool_call><function=nobody></function></tool_call>",
        "[TOOL_CALLS]nobody[ARGS]{}",
        "[TOOL_CALLS] and then words",
        "Use <function= in the text, or [TOOL_CALLS",
        "<｜tool▁calls▁begin｜>words<｜tool▁calls▁end｜>",
        '<tool_call>{"name": "dose", "arguments": {"mg": NaN}}</tool_call>',
        '<tool_call>{"name": "dose", "arguments": {"mg": 1e999}}</tool_call>',
    ],
)
def test_what_is_no_call_of_a_tool_stays_text(text: str, size: int) -> None:
    """NaN and infinity, which JSON has no words for, were passed on as arguments that no client can read."""
    reply = answer(text, size)
    assert (reply.calls, reply.text, reply.finish_reason) == ((), text, "stop")
    assert answer(text, size, tools=()).text == text


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("5", {"type": "string"}, "5"),
        ("5", {"type": "integer"}, 5),
        ("0.50", None, "0.50"),
        ("0.5", None, 0.5),
        ("True", {"type": "boolean"}, True),
        ("True", None, "True"),
        ("null", {"type": ["string", "null"]}, None),
        ("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ('["8:00"]', {"type": "array"}, ["8:00"]),
        ("1", {"enum": ["1", "2"]}, "1"),
        ("1~2片", None, "1~2片"),
        ("two\nlines", {"type": "string"}, "two\nlines"),
    ],
)
def test_a_value_between_tags_has_the_type_of_its_parameter(text: str, schema: Any, value: Any) -> None:
    found = value_of(text, schema)
    assert (found, type(found)) == (value, type(value))


THOUGHT = "<|channel|>analysis<|message|>They ask for a dose.<|end|><|start|>assistant"
TO = "<|channel|>commentary to=functions.dose <|constrain|>json<|message|>"


@pytest.mark.parametrize("size", [1, 4, 10_000])
def test_the_channels_of_gpt_oss(size: int) -> None:
    """All of it was the text of the answer, with its marks left out: analysisThey ask ... assistantfinalRest."""
    final = answer(THOUGHT + "<|channel|>final<|message|>Rest. a<b", size, jinja=HARMONY, tools=())
    assert (final.text, final.reasoning, final.finish_reason) == ("Rest. a<b", "They ask for a dose.", "stop")
    called = answer(THOUGHT + TO + JSON, size, jinja=HARMONY)
    assert (calls_of(called), called.text, called.finish_reason) == ([ASPIRIN], "", "tool_calls")
    older = answer(f" to=functions.dose<|channel|>commentary json<|message|>{JSON}<|call|>", size, jinja=HARMONY)
    assert calls_of(older) == [ASPIRIN]
    told = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant" + TO + JSON
    spoken = answer(told, size, jinja=HARMONY)
    assert (spoken.text, calls_of(spoken)) == ("I look.", [ASPIRIN])
    cut = answer(THOUGHT + TO + JSON[:9], size, "length", HARMONY)
    assert (cut.calls[0].arguments, cut.finish_reason, cut.text) == (JSON[:9], "length", "")
    plain = answer("Rest.", size, jinja=HARMONY)
    assert plain.text == "Rest."  # an answer without channels
    unknown = answer("<|channel|>commentary to=functions.nobody<|message|>{}", size, jinja=HARMONY)
    assert unknown.calls == () and "nobody" in unknown.text
    held = answer('{"a": 1}', size, jinja=HARMONY, tools=(), json_schema={})
    assert held.text == '{"a": 1}'  # a schema leaves no room for channels


def test_an_answer_of_gpt_oss_does_not_end_with_its_first_message() -> None:
    assert turn_ends("<|channel|><|message|><|end|><|return|><|call|>") == ["<|return|>", "<|call|>"]
    assert turn_ends("<|im_start|><|im_end|>") == ["<|im_end|>"]


def test_special_tokens_that_are_marks_stay_in_the_text() -> None:
    """[TOOL_CALLS] is a special token of Mistral's: decoders leave it out, and the call was a bare array."""
    words = {1: "a", 2: "[TOOL_CALLS]", 3: "b"}

    def decode(ids):
        return "".join(words[one] for one in ids if one != 2)

    assert keeping(decode, {2: "[TOOL_CALLS]"})([1, 2, 3, 2]) == "a[TOOL_CALLS]b[TOOL_CALLS]"
    assert keeping(decode, {}) is decode
    assert "[TOOL_CALLS]" in kept_marks("", Sampling(tools=TOOLS)) and kept_marks("", Sampling()) == ()
    assert "<|channel|>" in kept_marks(HARMONY, Sampling())


WRITES = (
    "{{ '[AVAILABLE_TOOLS]' + (tools | tojson) if tools else '' }}{% for m in messages %}"
    "{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}{{ raise_exception('nine letters') }}{% endif %}"
    "{{ OPEN + (c.function | tojson) + CLOSE }}{% endfor %}[{{ m.content }}]{% endfor %}"
)


def test_a_template_whose_calls_are_not_read_gets_no_tools() -> None:
    """The model would answer in a form that reaches the client as text."""
    reads = Chat(WRITES.replace("OPEN", "'[TOOL_CALLS]'").replace("CLOSE", "''"), "", "", (), ())
    strange = Chat(WRITES.replace("OPEN", "'<<call: '").replace("CLOSE", "'>>'"), "", "", (), ())
    assert reads.knows_tools and not strange.knows_tools
    asked = [Message("user", "q")]
    assert "[AVAILABLE_TOOLS]" in reads.render(asked, TOOLS)
    assert "<tool_call>" in strange.render(asked, TOOLS)  # told as text, if at all
    history = [*asked, Message("assistant", "", (ToolCall("call_0123", "hours", "{}"),))]
    history.append(Message("tool", "9 to 5", call_id="call_0123"))
    assert "hours" in reads.render(history, TOOLS)  # ids of other makers are shortened for it


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_calls_of_released_templates_are_read_or_tools_are_not_told(name: str) -> None:
    jinja = SHIPPED[name].read_text(encoding="utf-8")
    unread = name.startswith(("gemma4", "diffusion_gemma", "lfm2", "muse"))
    assert Chat(jinja, "<s>", "</s>", (), ()).knows_tools == (knows_tools(jinja) and not unread)
