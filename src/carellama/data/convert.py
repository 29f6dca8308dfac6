"""Rows to records: one function a row format. A row that cannot be used raises `BadRecord` (place and reason).

    alpaca    {"instruction", "input", "output", "history": [[question, answer], ...]}, named by `Columns`;
              "output": [best, ..., worst] makes a Pair of the first and the last (the 2023 reward format);
              a column named as `good`, true or false, says what a person thought of the answer
    sharegpt  {"conversations": [{"from": "human" | "gpt" | "system", "value"}]}
    openai    {"messages": [{"role": "user" | "assistant" | "system" | "tool", "content"}]}
    text      {"text"}
    exam      {"question", "options": {"A": ...}, "answer": "A" | "AC" | ["A", "C"], "id", "explanation"}

`meta`, an object of texts beside them, goes with the record (department, source, ...); so does `tools`, the functions
that a conversation may call. How a turn is read, with calls, results and weights, says `carellama.data.turns`.
Nothing is repaired: an empty question, two turns of one role or a missing answer is refused. Which format and columns
a file has is decided by `carellama.data.detect_format`; the converters of single datasets, which know their quirks,
are `carellama.data.catalogue`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from carellama.data.column_names import EXAM, may_be_exam, turns_in, verdict_words
from carellama.data.column_names import Columns as Columns
from carellama.data.exam_answers import letters_of, make_question
from carellama.data.exam_options import correct_in, in_question, options_of, unpacked
from carellama.data.readers import Row
from carellama.data.speakers import is_marked, split_turns, without_mark
from carellama.data.turns import messages_of, tools_of
from carellama.errors import lookup
from carellama.records import BadRecord as BadRecord
from carellama.records import Chat, Message, Pair, Question, Record, Text, turn_problem


def convert(row: Row, columns: Columns, shape: str, system: str | None = None) -> Record:
    """Return the record of a row; `system` is the system message of records that have none."""
    record = lookup(SHAPES, _own_format(row, columns, shape), "row format")(row, columns, system)
    require_unicode(record)
    meta = row.fields.get("meta")
    if isinstance(meta, dict) and meta:
        return replace(record, meta={str(key): str(value) for key, value in meta.items()})
    return record


def _own_format(row: Row, columns: Columns, shape: str) -> str:
    """The format of one row in a file of conversations: what CareLlama writes has turns only where they are needed."""
    if shape not in CONVERSATIONS or any(name in row.fields for name in ("chosen", "rejected")):
        return shape
    if shape == "alpaca" and columns.prompt in row.fields:
        return shape
    turns = turns_in(row.fields, (columns.messages,) if columns.messages else ())
    if turns:
        return turns[1]
    return "alpaca" if shape == "alpaca" or {columns.prompt, columns.response} <= set(row.fields) else shape


def require_unicode(record: Record) -> None:
    """Raise `BadRecord` for a text that UTF-8 cannot hold: JSON may escape half a surrogate pair."""
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


def lengths_of(record: Record) -> tuple[int, int]:
    """Characters of (all that is asked, all that is answered) in a record; of a text: (0, its characters).

    Of a conversation all turns count, of an exam question the options belong to what is asked and the explanation is
    the answer, of a preference pair the better answer counts.
    """
    if isinstance(record, Text):
        return 0, len(record.text)
    if isinstance(record, Question):
        return len(record.stem) + sum(map(len, record.options.values())), len(record.explanation)
    messages = record.messages if isinstance(record, Chat) else record.prompt
    asked = sum(len(message.content) for message in messages if message.role == "user")
    answered = sum(len(message.content) for message in messages if message.role == "assistant")
    return asked, answered if isinstance(record, Chat) else len(record.chosen)


def _alpaca(row: Row, columns: Columns, system: str | None) -> Record:
    if columns.options is None and may_be_exam(row.fields):
        raise BadRecord(row.place, "the row has options: it is an exam question", "not a question with an answer")
    prompt, query = _text(row, columns.prompt), _text(row, columns.query, required=False)
    answer = _value(row, columns.response) if columns.response else None
    own = _text(row, columns.system, required=False) or system
    messages = [Message("system", own)] if own else []
    history = _history(row, columns.history)
    reply = answer if isinstance(answer, str) else ""
    begun, question = _turns_in_question(row, prompt, query, reply, columns)
    if begun and begun[0].role == "system":
        both = "\n".join(message.content for message in (*messages, begun[0]))
        messages, begun = [Message("system", both)], begun[1:]
    messages += [*history, *begun]
    if not question.strip():
        raise BadRecord(row.place, "empty question")
    if context := _context(row, columns.context, question):
        question = f"{context}\n{question}"
    messages.append(Message("user", question))
    if answer is None and columns.chosen in row.fields and columns.rejected in row.fields:
        answer = [row.fields[columns.chosen], row.fields[columns.rejected]]
    if isinstance(answer, list):
        speakers = columns.speakers or ()
        answer = [without_mark(one, speakers) if speakers and isinstance(one, str) else one for one in answer]
        if len(answer) < 2:
            raise BadRecord(
                row.place, "fewer than two ranked answers", f"column {columns.response!r} has {len(answer)}"
            )
        return _pair(row, messages, answer[0], answer[-1])
    text = _text(row, columns.response)
    if columns.speakers:
        text = without_mark(text, columns.speakers)
    if not text.strip():
        raise BadRecord(row.place, "empty answer")
    return Chat((*messages, Message("assistant", text)), row.place, good=_verdict(row, columns.good))


def _turns_in_question(row: Row, prompt: str, query: str, answer: str, columns: Columns) -> tuple[list[Message], str]:
    """The turns that marks in a question part ([] where there are none), and the question that is answered."""
    question = "\n".join(part for part in (prompt, query) if part)
    if columns.speakers is None and is_marked(question, answer):
        raise BadRecord(row.place, "speaker marks in the question", 'name them under "speakers" in dataset_info.json')
    before, turns = split_turns(question, columns.speakers) if columns.speakers else ("", [])
    if not turns:
        return [], question
    if turns[-1] == ("assistant", ""):
        del turns[-1]
    if not turns or turns[-1][0] != "user":
        raise BadRecord(row.place, "the marked turns do not end with the user")
    if turns[0][0] != "user" or not all(text for _, text in turns):
        raise BadRecord(row.place, "the marked turns do not alternate" if turns[0][0] != "user" else "empty turn")
    messages = [Message("system", before)] if before else []
    return [*messages, *(Message(role, text) for role, text in turns[:-1])], turns[-1][1]


def _context(row: Row, column: str | None, question: str) -> str:
    """The passage that a question is about: a text, a list of texts, or an object of either; "" where it is in it."""
    text = "\n".join(_texts_in(row, column, _value(row, column))) if column else ""
    return "" if text in question else text


def _texts_in(row: Row, column: str | None, value: object) -> list[str]:
    if value is None or isinstance(value, str):
        return [value.strip()] if value and value.strip() else []
    if isinstance(value, dict) and isinstance(value.get("contexts"), list):
        value = value["contexts"]  # PubMedQA: beside them stand the labels of its sections and index terms
    if isinstance(value, dict) and any(isinstance(part, int | float) for part in value.values()):
        value = [f"{key}: {part}" for key, part in value.items() if part is not None]  # {"age": 45}: no number alone
    if isinstance(value, (list, dict)):
        parts = value.values() if isinstance(value, dict) else value
        return [text for part in parts for text in _texts_in(row, column, part)]
    if isinstance(value, int | float):
        return [str(value)]
    raise BadRecord(row.place, f"column {column!r} is not text", f"found {type(value).__name__}")


def _pair(row: Row, prompt: list[Message], chosen: object, rejected: object) -> Pair:
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(text, str) or not text.strip():
            raise BadRecord(row.place, f"empty or non-text {name} answer")
    if chosen == rejected:
        raise BadRecord(row.place, "chosen and rejected answers are the same")
    assert isinstance(chosen, str) and isinstance(rejected, str), "as the loop has seen"
    return Pair(tuple(prompt), chosen, rejected, row.place)


def _history(row: Row, column: str | None) -> list[Message]:
    turns = unpacked(row.fields.get(column)) if column else None
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


def _dialogue(row: Row, columns: Columns, system: str | None, *, usual: str, keys: tuple[str, str]) -> Record:
    """A list of turns with these keys: in the named column, else the format's `usual` one, else the other format's."""
    found = (name for name in (usual, "conversations", "messages") if name in row.fields)
    column = columns.messages or next(found, usual)
    turns = unpacked(row.fields.get(column))
    if not isinstance(turns, list) or not turns:
        raise BadRecord(row.place, f"column {column!r} is not a list of turns", _columns_of(row.fields))
    messages = messages_of(row.place, turns, keys)
    own = _text(row, columns.system, required=False)
    if messages[0].role != "system":
        messages[:0] = [Message("system", own or system or "")] if own or system else []
    elif own.strip() and own.strip() != messages[0].content.strip():
        messages[0] = Message("system", f"{own}\n{messages[0].content}")  # neither is lost
    spoken = messages[1:] if messages[0].role == "system" else messages
    if problem := turn_problem(spoken):
        raise BadRecord(row.place, "turns do not alternate", problem)
    tools = tools_of(row.place, row.fields.get("tools"))
    chosen, rejected = (row.fields.get(name) if name else None for name in (columns.chosen, columns.rejected))
    if spoken and chosen is not None and rejected is not None:
        answers = [_answer_of(row, value, keys, messages) for value in (chosen, rejected)]
        if spoken[-1].role == "assistant":
            if spoken[-1].content != answers[0]:
                raise BadRecord(row.place, "the conversation ends with another answer than the chosen one")
            messages = messages[:-1]
        return replace(_pair(row, messages, *answers), tools=tools)
    if spoken and spoken[-1].role in ("user", "tool"):
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
    word = str(value).strip().lower()
    if not word:  # an empty cell of a table
        return None
    if word not in verdict_words():
        raise BadRecord(row.place, f"column {column!r} is not true or false", f"found {type(value).__name__}")
    return verdict_words()[word]


def _answer_of(row: Row, value: object, keys: tuple[str, str], messages: Sequence[Message]) -> object:
    """A chosen or rejected answer: text, a turn, or a list of turns: the answer, or all of them (as in TRL's data)."""
    given = value if isinstance(value, list) else [value]
    turns = [{keys[0]: "assistant", **turn} for turn in given if isinstance(turn, dict)]
    if not turns or len(turns) < len(given):
        return value
    *before, answer = messages_of(row.place, turns, keys)
    prompt = [*messages[:-1]] if messages[-1].role == "assistant" else [*messages]
    if before and _spoken(before) != _spoken(prompt):
        raise BadRecord(row.place, "a chosen or rejected answer follows other turns than the conversation's")
    return answer.content if answer.role == "assistant" and not answer.calls else None


def _spoken(messages: Sequence[Message]) -> list[Message]:
    return [message for message in messages if message.role != "system"]


def _plain(row: Row, columns: Columns, system: str | None) -> Record:
    text = _text(row, columns.prompt if columns.prompt and _has(row, columns.prompt) else "text")
    if not text.strip():
        raise BadRecord(row.place, "empty text")
    if not columns.speakers:
        return Text(text, row.place)
    before, turns = split_turns(text, columns.speakers)
    if not turns or turns[0][0] != "user" or turns[-1][0] != "assistant" or not all(said for _, said in turns):
        raise BadRecord(row.place, "the marked turns are no conversation", "user first, assistant last, none empty")
    messages = [Message("system", before or system or "")] if before or system else []
    return Chat((*messages, *(Message(role, said) for role, said in turns)), row.place)


def _exam(row: Row, columns: Columns, _system: str | None) -> Record:
    columns = EXAM if columns.options is None else columns
    stem = "\n".join(filter(None, (_text(row, columns.prompt), _text(row, columns.query, required=False))))
    answer = _value(row, columns.response or "answer")
    flagged = correct_in(_value(row, columns.options[0])) if columns.options and len(columns.options) == 1 else None
    if flagged == () and answer in (None, ""):
        raise BadRecord(row.place, "no option is marked as right")
    if columns.options == ():
        stem, options = in_question(stem)
    else:
        cells = [_value(row, name) for name in columns.options or ()]
        options = options_of(cells[0] if len(cells) == 1 else cells)
    if not stem.strip():
        raise BadRecord(row.place, "empty question")
    if len(options) < 2:
        raise BadRecord(row.place, "fewer than two options", _columns_of(row.fields))
    form = columns.answer_form
    if flagged and answer in (None, ""):
        answer, form, flagged = list(flagged), "letters", None
    if answer is None and columns.response not in row.fields:
        raise BadRecord(row.place, "no answer", _columns_of(row.fields))
    context = _context(row, columns.context, stem)
    made = make_question(
        row, f"{context}\n{stem}" if context else stem, options, answer, form=form,
        explanation=_value(row, columns.explanation) if columns.explanation else None,
        id=_value(row, columns.id) if columns.id else None,
    )  # fmt: skip
    second = _value(row, columns.answer_check) if columns.answer_check else None
    if second not in (None, "") and letters_of(row, second, made.options) != made.answers:
        raise BadRecord(row.place, f"columns {columns.response!r} and {columns.answer_check!r} disagree")
    if flagged is not None and flagged != made.answers:
        raise BadRecord(row.place, f"column {columns.response!r} and the option marked as right disagree")
    return made


def _has(row: Row, column: str) -> bool:
    return column in row.fields or (column.partition(".")[0] in row.fields and "." in column)


def _value(row: Row, column: str) -> object:
    """The value of a column, or of a path into objects; None where there is none."""
    value: object = row.fields.get(column)
    if value is None and "." in column and column not in row.fields:
        value = row.fields
        for step in column.split("."):
            value = value.get(step) if isinstance(value, dict) else None
    return value


def _text(row: Row, column: str | None, *, required: bool = True) -> str:
    """The text of a column; null counts as absent. `BadRecord` for a missing column or another type."""
    value = row.fields.get(column) if column else None
    if isinstance(value, str):
        return value
    if column is None or (not required and not _has(row, column)):
        return ""
    if not _has(row, column):
        raise BadRecord(row.place, f"no column {column!r}", _columns_of(row.fields))
    value = _value(row, column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRecord(row.place, f"column {column!r} is not text", f"found {type(value).__name__}")
    return value


def _columns_of(fields: Mapping[str, object]) -> str:
    return f"the row has {', '.join(map(repr, fields)) or 'no columns'}"


CONVERSATIONS = ("alpaca", "sharegpt", "openai")
SHAPES: dict[str, Callable[[Row, Columns, str | None], Record]] = {
    "alpaca": _alpaca,
    "sharegpt": partial(_dialogue, usual="conversations", keys=("from", "value")),
    "openai": partial(_dialogue, usual="messages", keys=("role", "content")),
    "text": _plain,
    "exam": _exam,
}
