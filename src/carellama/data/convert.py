"""Rows to records: one function a shape. A row that can not be used raises `BadRecord` (place and reason).

    alpaca    {"instruction", "input", "output", "history": [[question, answer], ...]}, named by `Columns`;
              "output": [better, worse] makes a Pair (the seed's reward format);
              a column named as `good`, true or false, says what a person thought of the answer
    sharegpt  {"conversations": [{"from": "human" | "gpt" | "system", "value"}]}
    openai    {"messages": [{"role": "user" | "assistant" | "system" | "tool", "content"}]}
    text      {"text"}
    exam      {"question", "options": {"A": ...}, "answer": "A" | "AC" | ["A", "C"], "id", "explanation"}

`meta`, an object of texts beside them, goes with the record (department, source, ...); so does `tools`, the functions
that a conversation may call. How a turn is read, with calls, results and weights, says `carellama.data.turns`.
Nothing is guessed: an empty question, two turns of one role or a missing answer is refused, not repaired.
The converters of single datasets, which know their quirks, are `carellama.data.catalogue`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from carellama.data.read import Row
from carellama.data.turns import messages_of, tools_of
from carellama.errors import lookup
from carellama.records import BadRecord as BadRecord
from carellama.records import Chat, Message, Pair, Question, Record, Text, turn_problem


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what; None: there is no such column (`""` in dataset_info.json)."""

    prompt: str | None = "instruction"
    query: str | None = "input"
    response: str | None = "output"
    history: str | None = None
    system: str | None = None
    chosen: str | None = "chosen"
    rejected: str | None = "rejected"
    messages: str | None = None  # the list of a sharegpt or openai row
    good: str | None = None  # true or false: whether a person found the answer good


Converter = Callable[[Row, Columns, str | None], Record]


def convert(row: Row, columns: Columns, shape: str, system: str | None = None) -> Record:
    """Return the record of a row; `system` is the system message of records that have none."""
    record = lookup(SHAPES, _own_shape(row, columns, shape), "row shape")(row, columns, system)
    require_unicode(record)
    meta = row.fields.get("meta")
    if isinstance(meta, dict) and meta:
        return replace(record, meta={str(key): str(value) for key, value in meta.items()})
    return record


def _own_shape(row: Row, columns: Columns, shape: str) -> str:
    """The shape of one row in a file of conversations: what CareLlama writes has turns only where they are needed."""
    if shape not in CONVERSATIONS or any(name in row.fields for name in ("chosen", "rejected")):
        return shape
    own = shape_of(row, columns)
    if shape == "alpaca":
        turns = columns.prompt not in row.fields and own in ("sharegpt", "openai")
        return own if turns else shape
    return own if own == "alpaca" and {columns.prompt, columns.response} <= set(row.fields) else shape


def require_unicode(record: Record) -> None:
    """Raise `BadRecord` for a text that UTF-8 can not hold: JSON may escape half a surrogate pair."""
    try:
        for text in texts_of(record):
            if not text.isascii():
                text.encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise BadRecord(record.place, "not Unicode text", f"half a surrogate pair, {half!r}") from error


def texts_of(record: Record) -> list[str]:
    """All texts of a record, in the order in which they are read; of tool calls their arguments, as JSON."""
    if isinstance(record, Text):
        return [record.text]
    if isinstance(record, Pair):
        return [*_said(record.prompt), record.chosen, record.rejected]
    if isinstance(record, Question):
        return [record.stem, *record.options.values(), *([record.explanation] if record.explanation else [])]
    return _said(record.messages)


def _said(messages: Sequence[Message]) -> list[str]:
    return [text for message in messages for text in (message.content, *(call.arguments for call in message.calls))]


def shape_of(row: Row, columns: Columns) -> str:
    """Detect the shape of a row from its columns."""
    fields = row.fields
    for name, shape in ((columns.messages, None), ("conversations", "sharegpt"), ("messages", "openai")):
        if name and isinstance(fields.get(name), list):
            turns = fields[name]
            first = turns[0] if turns and isinstance(turns[0], dict) else {}
            return "openai" if "role" in first else "sharegpt" if "from" in first else shape or "sharegpt"
    if isinstance(fields.get("options"), dict) and "question" in fields:
        return "exam"
    if columns.response is None or (columns.prompt not in fields and set(fields) <= {"text", "meta", "id", "title"}):
        return "text"
    return "alpaca"


def _alpaca(row: Row, columns: Columns, system: str | None) -> Record:
    prompt = _text(row, columns.prompt)
    query = _text(row, columns.query, required=False)
    question = "\n".join(part for part in (prompt, query) if part)
    if not question.strip():
        raise BadRecord(row.place, "empty question")
    own = _text(row, columns.system, required=False) or system
    messages = [Message("system", own)] if own else []
    messages += _history(row, columns.history)
    messages.append(Message("user", question))
    answer = row.fields.get(columns.response) if columns.response else None
    if isinstance(answer, list):
        if len(answer) != 2:
            raise BadRecord(row.place, "ranked answers are not two", f"column {columns.response!r} has {len(answer)}")
        return _pair(row, messages, answer[0], answer[1])
    if answer is None and columns.chosen in row.fields and columns.rejected in row.fields:
        return _pair(row, messages, row.fields[columns.chosen], row.fields[columns.rejected])
    text = _text(row, columns.response)
    if not text.strip():
        raise BadRecord(row.place, "empty answer")
    return Chat((*messages, Message("assistant", text)), row.place, good=_verdict(row, columns.good))


def _pair(row: Row, prompt: list[Message], chosen: Any, rejected: Any) -> Pair:
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(text, str) or not text.strip():
            raise BadRecord(row.place, f"empty or non-text {name} answer")
    if chosen == rejected:
        raise BadRecord(row.place, "chosen and rejected answers are the same")
    return Pair(tuple(prompt), chosen, rejected, row.place)


def _history(row: Row, column: str | None) -> list[Message]:
    turns = row.fields.get(column) if column else None
    if turns is None or turns == "":
        return []
    if not isinstance(turns, list):
        raise BadRecord(row.place, "history is not a list", f"found {type(turns).__name__}")
    messages = []
    for number, turn in enumerate(turns, 1):
        pair = turn if isinstance(turn, list) and len(turn) == 2 else ()
        if not pair or not all(isinstance(text, str) and text.strip() for text in pair):
            raise BadRecord(row.place, "history holds something else than [question, answer]", f"turn {number}")
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    return messages


def _sharegpt(row: Row, columns: Columns, system: str | None) -> Record:
    return _dialogue(row, _turns_column(row, columns, "conversations"), ("from", "value"), columns, system)


def _openai(row: Row, columns: Columns, system: str | None) -> Record:
    return _dialogue(row, _turns_column(row, columns, "messages"), ("role", "content"), columns, system)


def _turns_column(row: Row, columns: Columns, usual: str) -> str:
    """The column of the turns: the named one, else the shape's usual one, else the other shape's."""
    found = (name for name in (usual, "conversations", "messages") if name in row.fields)
    return columns.messages or next(found, usual)


def _dialogue(row: Row, column: str, keys: tuple[str, str], columns: Columns, system: str | None) -> Record:
    turns = row.fields.get(column)
    if not isinstance(turns, list) or not turns:
        raise BadRecord(row.place, f"column {column!r} is not a list of turns", _columns_of(row.fields))
    messages = messages_of(row.place, turns, keys)
    own = _text(row, columns.system, required=False) or system
    if messages[0].role != "system" and own:
        messages.insert(0, Message("system", own))
    spoken = messages[1:] if messages[0].role == "system" else messages
    if problem := turn_problem(spoken):
        raise BadRecord(row.place, "turns do not alternate", problem)
    tools = tools_of(row.place, row.fields.get("tools"))
    chosen, rejected = (row.fields.get(name) if name else None for name in (columns.chosen, columns.rejected))
    if spoken and spoken[-1].role in ("user", "tool"):
        if chosen is not None and rejected is not None:
            answers = [_answer_of(row, value, keys) for value in (chosen, rejected)]
            return replace(_pair(row, messages, *answers), tools=tools)
        reason = f"the conversation ends with the {'user' if spoken[-1].role == 'user' else 'result of a call'}"
        raise BadRecord(row.place, "no answer", reason)
    if not spoken:
        raise BadRecord(row.place, "no turns")
    if not any(message.learned for message in messages if message.role == "assistant"):
        raise BadRecord(row.place, "no answer is learned", "all of them have weight 0 or loss false")
    return Chat(tuple(messages), row.place, good=_verdict(row, columns.good), tools=tools)


def _verdict(row: Row, column: str | None) -> bool | None:
    """What a person thought of the answer; null, or no such column: nobody said."""
    value = row.fields.get(column) if column else None
    if value is None or isinstance(value, bool):
        return value
    known = {"true": True, "false": False, "1": True, "0": False}
    if str(value).lower() not in known:
        raise BadRecord(row.place, f"column {column!r} is not true or false", f"found {type(value).__name__}")
    return known[str(value).lower()]


def _answer_of(row: Row, value: Any, keys: tuple[str, str]) -> Any:
    """A chosen or rejected answer: text, or a turn (in a list of its own, as in TRL's data)."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0]
    if not isinstance(value, dict):
        return value
    (answer,) = messages_of(row.place, [{keys[0]: "assistant", **value}], keys)
    return answer.content if not answer.calls else None


def _plain(row: Row, columns: Columns, system: str | None) -> Record:
    text = _text(row, columns.prompt if columns.prompt in row.fields else "text")
    if not text.strip():
        raise BadRecord(row.place, "empty text")
    return Text(text, row.place)


def _exam(row: Row, columns: Columns, system: str | None) -> Record:
    stem, options = _text(row, "question"), row.fields.get("options")
    if not stem.strip():
        raise BadRecord(row.place, "empty question")
    if not isinstance(options, dict) or len(options) < 2 or not all(isinstance(one, str) for one in options.values()):
        raise BadRecord(row.place, "options are not texts by letter", _columns_of(row.fields))
    answer = row.fields.get("answer")
    letters = tuple(answer) if isinstance(answer, (str, list)) else ()
    if not letters:
        raise BadRecord(row.place, "no answer")
    if not set(letters) <= set(options):
        raise BadRecord(row.place, "the answer is not an option", f"{answer!r} of {', '.join(options)}")
    number = str(row.fields.get("id") or row.place.line)
    return Question(number, stem, options, letters, _text(row, "explanation", required=False), row.place)


def _text(row: Row, column: str | None, *, required: bool = True) -> str:
    """The text of a column; null counts as absent. `BadRecord` for a missing column or another type."""
    if column is None or (not required and column not in row.fields):
        return ""
    if column not in row.fields:
        raise BadRecord(row.place, f"no column {column!r}", _columns_of(row.fields))
    value = row.fields[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRecord(row.place, f"column {column!r} is not text", f"found {type(value).__name__}")
    return value


def _columns_of(fields: Mapping[str, Any]) -> str:
    return f"the row has {', '.join(map(repr, fields)) or 'no columns'}"


CONVERSATIONS = ("alpaca", "sharegpt", "openai")
SHAPES: dict[str, Converter] = {
    "alpaca": _alpaca, "sharegpt": _sharegpt, "openai": _openai, "text": _plain, "exam": _exam,
}  # fmt: skip
