"""Rows to records: what each shape gives, and by which reason each unusable row is refused."""

from __future__ import annotations

import pickle

import pytest

from carellama.data.convert import BadRecord, Columns, convert
from carellama.data.detect_format import Declared, detect_rows
from carellama.data.readers import Row
from carellama.records import Chat, Message, Pair, Place, Text

PLACE = Place("a.json", 7)
COLUMNS = Columns(history="history", system="system")
ALPACA = {"instruction": "q", "output": "a"}


def format_of(row, columns):
    return detect_rows([row], Declared(columns)).row_format or "alpaca"


def made(fields, shape=None, columns=COLUMNS, system=None):
    row = Row(fields, PLACE)
    return convert(row, columns, shape or format_of(row, columns), system)


def said(record) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in record.messages]


def openai(*turns):
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def sharegpt(*turns):
    return {"conversations": [{"from": role, "value": text} for role, text in turns]}


def test_alpaca_joins_prompt_and_query_and_puts_the_history_before():
    record = made(ALPACA | {"input": "more", "history": [["q1", "a1"], ["q2", "a2"]], "system": "s"})
    turns = [("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")]
    assert said(record) == [("system", "s"), *turns, ("user", "q\nmore"), ("assistant", "a")]
    assert record.place == PLACE


def test_a_system_message_in_a_column_and_one_in_the_turns_are_both_kept() -> None:
    """The one of the column was lost without a word."""
    turns = [("system", "S2"), ("user", "q"), ("assistant", "a")]
    assert made({"system": "S1", **openai(*turns)}).messages[0] == Message("system", "S1\nS2")
    assert made({"system": "S2", **openai(*turns)}).messages[0] == Message("system", "S2")


@pytest.mark.parametrize("absent", [{}, {"input": ""}, {"input": None, "history": None}, {"history": []}])
def test_absent_null_and_empty_columns_are_the_same(absent):
    assert made(ALPACA | absent) == made(ALPACA)


def test_the_three_chat_shapes_give_the_same_record():
    turns = [("q1", "a1"), ("q2", "a2")]
    flat = [(role, text) for pair in turns for role, text in zip(("user", "assistant"), pair, strict=True)]
    alpaca = made({"instruction": "q2", "output": "a2", "history": [["q1", "a1"]], "system": "s"})
    names = {"user": "human", "assistant": "gpt"}
    assert made(openai(("system", "s"), *flat)) == alpaca
    assert made(sharegpt(("system", "s"), *((names[role], text) for role, text in flat))) == alpaca
    assert isinstance(alpaca, Chat)


@pytest.mark.parametrize("fields", [ALPACA, openai(("user", "q"), ("assistant", "a"))])
def test_the_default_system_message_is_for_records_without_one(fields):
    assert made(fields, system="default").messages[0] == Message("system", "default")
    assert made(fields | {"system": "own"}, system="default").messages[0] == Message("system", "own")


def test_a_system_turn_beats_the_default():
    record = made(openai(("system", "own"), ("user", "q"), ("assistant", "a")), system="default")
    assert [text for role, text in said(record) if role == "system"] == ["own"]


@pytest.mark.parametrize(
    "fields",
    [
        {"instruction": "q", "output": ["good", "bad"]},
        {"instruction": "q", "chosen": "good", "rejected": "bad"},
        openai(("user", "q")) | {"chosen": "good", "rejected": "bad"},
    ],
)
def test_ranked_answers_make_a_pair(fields):
    assert made(fields) == Pair((Message("user", "q"),), "good", "bad", PLACE)


def test_text():
    assert made({"text": "t"}) == Text("t", PLACE)
    assert made({"body": "t"}, columns=Columns(prompt="body", response=None)) == Text("t", PLACE)


REFUSED = [
    (ALPACA | {"instruction": " "}, "empty question"),
    (ALPACA | {"output": ""}, "empty answer"),
    (ALPACA | {"output": None}, "empty answer"),
    ({"instruction": "q"}, "no column 'output'"),
    ({"output": "a"}, "no column 'instruction'"),
    (ALPACA | {"output": 3}, "column 'output' is not text"),
    (ALPACA | {"history": "x"}, "history is not a list"),
    (ALPACA | {"history": [["q"]]}, "history holds something else than [question, answer]"),
    (ALPACA | {"history": [["q", ""]]}, "history holds something else than [question, answer]"),
    (ALPACA | {"output": ["a"]}, "fewer than two ranked answers"),
    (ALPACA | {"output": ["a", "a"]}, "chosen and rejected answers are the same"),
    (openai(("user", "q")), "no answer"),
    (openai(("assistant", "a"), ("user", "q")), "turns do not alternate"),
    (openai(("user", "q"), ("user", "q"), ("assistant", "a")), "turns do not alternate"),
    (openai(("user", "q"), ("assistant", "a"), ("system", "s")), "turns do not alternate"),
    (openai(("user", ""), ("assistant", "a")), "empty turn"),
    (openai(("doctor", "q"), ("assistant", "a")), "unknown role"),
    (openai(("system", "s")), "no turns"),
    ({"text": " "}, "empty text"),
]


@pytest.mark.parametrize(("fields", "reason"), REFUSED)
def test_a_row_that_can_not_be_used_is_refused_with_place_and_reason(fields, reason):
    with pytest.raises(BadRecord) as caught:
        made(fields)
    assert (caught.value.reason, caught.value.place) == (reason, PLACE)
    assert str(caught.value).startswith("a.json:7: ")
    copy = pickle.loads(pickle.dumps(caught.value))  # workers send it to the process that reports
    assert (copy.reason, copy.place, str(copy)) == (reason, PLACE, str(caught.value))


def test_a_missing_column_names_those_there_are_and_a_wrong_turn_its_number():
    with pytest.raises(BadRecord, match="'question', 'reply'"):
        made({"question": "q", "reply": "a"})
    with pytest.raises(BadRecord, match="turn 2 is user, not assistant"):
        made(openai(("user", "q"), ("user", "q"), ("assistant", "a")))
