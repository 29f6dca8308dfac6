"""Records to rows, the way back from `carellama.data.convert`, and to JSON Lines files.

    with writer(Path("records.jsonl")) as write:
        write(record)

The rows are those of 2023: {"text"}, {"instruction", "input", "output", "history", "system"}, the same with
"output": [chosen, rejected] or with "good": true or false, and {"id", "question", "options", "answer",
"explanation"}; `meta` beside them. A conversation with tools, or with an answer that is not learned, is written as an
openai row {"messages", "tools"}.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from carellama.data.convert import Columns
from carellama.data.turns import rows_of
from carellama.files import atomic_write
from carellama.records import Chat, Message, Pair, Question, Record, Text
from carellama.templates.jinja import as_functions

COLUMNS = Columns(history="history", system="system", good="good")  # which column of such a row holds what


def row_of(record: Record) -> dict[str, object]:
    """Return the row of a record: `convert(Row(row_of(record), place), COLUMNS, shape)` is the record again."""
    if isinstance(record, Text):
        row: dict[str, object] = {"text": record.text}
    elif isinstance(record, Chat):
        row = _turns(record) if _needs_turns(record) else _conversation(record.prompt, record.response)
        if record.good is not None:
            row["good"] = record.good
    elif isinstance(record, Pair):
        if _needs_turns(record):
            row = _turns(record) | {"chosen": record.chosen, "rejected": record.rejected}
        else:
            row = _conversation(record.prompt, [record.chosen, record.rejected])
    else:
        row = _question(record)
    if record.meta:
        row["meta"] = dict(record.meta)
    return row


def _needs_turns(record: Chat | Pair) -> bool:
    messages = record.messages if isinstance(record, Chat) else record.prompt
    return bool(record.tools) or any(one.calls or one.role == "tool" or not one.learned for one in messages)


def _turns(record: Chat | Pair) -> dict[str, object]:
    row: dict[str, object] = {"messages": rows_of(record.messages if isinstance(record, Chat) else record.prompt)}
    return row | ({"tools": as_functions(record.tools)} if record.tools else {})


def _conversation(prompt: tuple[Message, ...], output: str | list[str]) -> dict[str, object]:
    """`prompt` is [system] (user assistant)* user."""
    system = prompt[0].content if prompt[0].role == "system" else None
    turns = prompt[1:] if system is not None else prompt
    history = [[turns[at].content, turns[at + 1].content] for at in range(0, len(turns) - 1, 2)]
    row: dict[str, object] = {"instruction": turns[-1].content, "input": "", "output": output, "history": history}
    return row if system is None else row | {"system": system}


def _question(question: Question) -> dict[str, object]:
    return {
        "id": question.id,
        "question": question.stem,
        "options": question.options,
        "answer": "".join(question.answers),
        "explanation": question.explanation,
    }


@contextmanager
def writer(path: Path) -> Iterator[Callable[[Record], None]]:
    """Give a function that appends a record to a JSON Lines file; the file appears when the block ends well."""
    with atomic_write(path) as file:

        def write(record: Record) -> None:
            file.write(json.dumps(row_of(record), ensure_ascii=False) + "\n")

        yield write
