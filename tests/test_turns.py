"""Turns with tool calls, parts, reasoning and weights: read, refused with the turn, and written again (D16, T10)."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from carellama.config.data import DataOptions
from carellama.data.clean.deidentify import deidentified
from carellama.data.convert import BadRecord, convert, texts_of
from carellama.data.datasets import load_datasets
from carellama.data.readers import Row
from carellama.data.write import COLUMNS, row_of
from carellama.privacy.deidentify import Deidentifier
from carellama.records import Chat, Message, Pair, Place, Tool, ToolCall

PLACE = Place("a.jsonl", 3)
ASK = {"role": "user", "content": "Is it raining in Oslo?"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo", "days": 1}'}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "rain"}
ANSWER = {"role": "assistant", "content": "Yes."}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "By city", "parameters": SCHEMA}}]


def made(fields):
    return convert(Row(fields, PLACE), COLUMNS, "sharegpt" if "conversations" in fields else "openai")


def openai(*turns, **more):
    return made({"messages": list(turns), **more})


def test_openai_tool_calls_results_and_tools_become_one_record():
    record = openai(ASK, CALL, RESULT, ANSWER, tools=TOOLS)
    assert record == Chat(
        (
            Message("user", ASK["content"]),
            Message("assistant", "", (ToolCall("c1", "weather", '{"city": "Oslo", "days": 1}'),)),
            Message("tool", "rain", call_id="c1"),
            Message("assistant", "Yes."),
        ),
        PLACE,
        tools=(Tool("weather", "By city", SCHEMA),),
    )


def test_sharegpt_function_calls_and_observations_say_the_same():
    function = {"name": "weather", "description": "By city", "parameters": SCHEMA}
    record = made(
        {
            "conversations": [
                {"from": "human", "value": ASK["content"]},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo", "days": 1}}'},
                {"from": "observation", "value": "rain"},
                {"from": "gpt", "value": "Yes."},
            ],
            "tools": json.dumps([function]),
        }
    )
    same = openai(ASK, CALL, RESULT, ANSWER, tools=TOOLS)
    assert record.tools == same.tools
    assert [(m.role, m.content, [(c.name, c.arguments) for c in m.calls]) for m in record.messages] == [
        (m.role, m.content, [(c.name, c.arguments) for c in m.calls]) for m in same.messages
    ]
    assert record.messages[2].call_id == record.messages[1].calls[0].id


def test_two_calls_at_once_have_their_results_in_order():
    calls = [{"name": "weather", "arguments": {"city": city}} for city in ("Oslo", "Rome")]
    record = made(
        {
            "conversations": [
                {"from": "human", "value": "Rain?"},
                {"from": "function_call", "value": json.dumps(calls)},
                {"from": "observation", "value": "rain"},
                {"from": "observation", "value": "sun"},
                {"from": "gpt", "value": "In Oslo."},
            ]
        }
    )
    first, second = record.messages[1].calls
    assert first.id != second.id
    assert [message.call_id for message in record.messages[2:4]] == [first.id, second.id]


def test_content_parts_are_text():
    parts = [{"type": "text", "text": "Hi."}, {"type": "text", "text": "I cough."}]
    assert openai({"role": "user", "content": parts}, ANSWER).messages[0] == Message("user", "Hi.\nI cough.")


def test_reasoning_of_its_own_goes_before_the_answer():
    record = openai(ASK, ANSWER | {"reasoning_content": "It is autumn."})
    assert record.response == "<think>\nIt is autumn.\n</think>\n\nYes."


@pytest.mark.parametrize("mark", [{"weight": 0}, {"loss": False}, {"weight": 0, "loss": False}])
def test_an_answer_can_be_left_out_of_what_is_learned(mark):
    record = openai(ASK, ANSWER | mark, ASK, ANSWER | {"weight": 1})
    assert [message.learned for message in record.messages if message.role == "assistant"] == [False, True]


PHOTO = [{"type": "image_url", "image_url": {"url": "x"}}]
REFUSED = [
    ([{"role": "user", "content": PHOTO}, ANSWER], "turn is not text", "turn 1 .user.: part 1 is of the type 'image"),
    ([ASK, CALL, ANSWER], "turns do not alternate", "turn 3 is assistant, not tool"),
    ([ASK, ANSWER, RESULT, ANSWER], "turns do not alternate", "turn 3 is tool, not user"),
    ([ASK, CALL, RESULT], "no answer", "result of a call"),
    ([ASK, CALL | {"tool_calls": [{"function": {"arguments": "{}"}}]}], "a tool call without the name", "turn 2"),
    ([ASK, CALL | {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "a tool call is no JSON", "turn 2"),
    ([ASK, CALL | {"tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}], "are no JSON object", "turn 2"),
    ([ASK, ANSWER | {"weight": 0.5}], "neither 0 nor 1", "turn 2"),
    ([ASK, ANSWER | {"weight": 1, "loss": False}], "different things", "turn 2"),
    ([ASK | {"weight": 1}, ANSWER], "only answers of the assistant", "turn 1"),
    ([ASK, ANSWER | {"weight": 0}], "no answer is learned", "weight 0"),
]


@pytest.mark.parametrize(("turns", "reason", "detail"), REFUSED)
def test_what_can_not_be_read_is_refused_with_its_turn(turns, reason, detail):
    with pytest.raises(BadRecord, match=detail) as caught:
        openai(*turns)
    assert reason in caught.value.reason


@pytest.mark.parametrize("tools", ["{", [{"type": "function"}], [{"name": "f", "parameters": "none"}]])
def test_tools_that_can_not_be_read_are_refused(tools):
    with pytest.raises(BadRecord, match="column 'tools'"):
        openai(ASK, ANSWER, tools=tools)


RECORDS = [
    openai(ASK, CALL, RESULT, ANSWER, tools=TOOLS),
    openai(ASK, CALL, tools=TOOLS),
    openai(ASK, ANSWER | {"weight": 0}, ASK, ANSWER),
    openai(ASK, ANSWER | {"reasoning_content": "It is autumn."}),
    openai(ASK, CALL, RESULT, tools=TOOLS, chosen="Yes.", rejected="No."),
]


@pytest.mark.parametrize("record", RECORDS, ids=range(len(RECORDS)))
def test_a_written_record_is_read_again(record):
    """Also within a file of plain rows, whose shape the first row says."""
    row = Row(json.loads(json.dumps(row_of(record))), PLACE)
    assert convert(row, COLUMNS, "openai" if "messages" in row.fields else "alpaca") == record
    if isinstance(record, Chat):
        assert convert(row, COLUMNS, "alpaca") == record


def test_a_plain_row_within_a_file_of_turns_is_read_too():
    row = Row({"instruction": "q", "input": "", "output": "a"}, PLACE)
    assert convert(row, COLUMNS, "openai") == convert(row, COLUMNS, "alpaca")


def test_identifiers_are_removed_from_calls_as_well():
    call = CALL | {"tool_calls": [{"function": {"name": "text", "arguments": '{"to": "13800138000"}'}}]}
    record = openai({"role": "user", "content": "电话13800138000"}, call, RESULT | {"tool_call_id": None}, ANSWER)
    clean = deidentified(record, Deidentifier(), Counter())
    assert not any("13800138000" in text for text in texts_of(clean))
    assert json.loads(clean.messages[1].calls[0].arguments) == {"to": "[PHONE_1]"}
    assert [message.role for message in clean.messages] == ["user", "assistant", "tool", "assistant"]
    assert isinstance(RECORDS[4], Pair)


@pytest.mark.parametrize("name", ["openai", "sharegpt", "mixed"])
def test_files_with_tool_calls_are_read_by_their_own_format(tmp_path, name):
    calls = {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'}
    turns = [{"from": "human", "value": "Rain?"}, calls, {"from": "observation", "value": "rain"}]
    files: dict[str, list[Any]] = {
        "openai": [{"messages": [ASK, CALL, RESULT, ANSWER], "tools": TOOLS}] * 2,
        "sharegpt": [{"conversations": [*turns, {"from": "gpt", "value": "Yes."}], "tools": json.dumps(TOOLS)}] * 2,
        "mixed": [{"instruction": "q", "input": "", "output": "a"}] * 2 + [row_of(RECORDS[0])],
    }
    rows = files[name]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (dataset,) = load_datasets([str(tmp_path / "a.jsonl")], DataOptions())
    records = [dataset.record(row) for row in dataset.rows()]
    assert len(records) == len(rows) and records[-1].tools[0].name == "weather"
    assert [message.role for message in records[-1].messages] == ["user", "assistant", "tool", "assistant"]
