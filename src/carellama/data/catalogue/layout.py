"""What a layout is: the shape of one kind of file of one dataset, and how its rows become records.

    Layout("sft", ("query", "response"), lambda row: Chat(...))

A layout is recognised by the fields of the first row (or by `recognises`, for files that have no rows), so that
a file converts the same whatever it is called. The layouts themselves are in `carellama.data.catalogue.layouts`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from carellama.data.convert import BadRecord
from carellama.data.readers import BadRow, Row, rows
from carellama.records import Chat, Message, Place, Record

Stage = Literal["pt", "sft", "rm", "exam"]
Rows = Callable[[Path], Iterator[Row | BadRow]]
Outcome = tuple[Record, ...] | BadRecord  # what a row gives: one or more records, or why it has none


@dataclass(frozen=True)
class Layout:
    """How the files of one kind are recognised and turned into records.

    `record` gives the record or records of one row and raises `BadRecord` for a row that has none. Where rows
    of several files belong together `joined` takes all of them instead, and yields what each row gives.
    """

    stage: Stage
    fields: tuple[str, ...] = ()  # what the first row must have
    record: Callable[[Row], Record | Sequence[Record]] | None = None
    rows: Rows = rows
    recognises: Callable[[Path], bool] | None = None
    joined: Callable[[Sequence[Path]], Iterator[Outcome]] | None = None

    def fits(self, path: Path) -> bool:
        """Whether a file has this layout."""
        if self.recognises is not None:
            return self.recognises(path)
        first = first_row(path, self.rows)
        return first is not None and set(self.fields) <= set(first.fields)

    def convert(self, *paths: Path) -> Iterator[Outcome]:
        """What each row of these files gives."""
        if self.joined is not None:
            return self.joined(paths)
        assert self.record is not None
        return outcomes(itertools.chain.from_iterable(map(self.rows, paths)), self.record)


def outcomes(found: Iterable[Row | BadRow], record: Callable[[Row], Record | Sequence[Record]]) -> Iterator[Outcome]:
    """Yield what each row gives by `record`: its record or records, or why it has none."""
    for row in found:
        if isinstance(row, BadRow):
            yield BadRecord(row.place, row.reason, row.detail)
            continue
        try:
            made = record(row)
        except BadRecord as error:
            yield error
            continue
        yield tuple(made) if isinstance(made, Sequence) else (made,)


def first_row(path: Path, reader: Rows = rows) -> Row | None:
    """The first usable row of a file, None where it has none. Raises `UserError` for a file that cannot be read."""
    return next((row for row in reader(path) if isinstance(row, Row)), None)


def text_of(row: Row, column: str, *, required: bool = True) -> str:
    """The stripped text of a column. `BadRecord` where it is missing, of another type, or (if required) empty."""
    value = value_of(row, column) if required else row.fields.get(column)
    if value is not None and not isinstance(value, str):
        raise BadRecord(row.place, f"column {column!r} is not text", f"found {type(value).__name__}")
    text = (value or "").strip()
    if required and not text:
        raise BadRecord(row.place, f"column {column!r} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(row.place, "not Unicode text", f"half a surrogate pair in column {column!r}") from error
    return text


def value_of(row: Row, column: str) -> Any:
    """The value of a column, of whatever type. `BadRecord` where it is missing."""
    if column not in row.fields:
        raise BadRecord(row.place, f"no column {column!r}", f"the row has {', '.join(map(repr, row.fields))}")
    return row.fields[column]


def meta_of(**values: object) -> dict[str, str]:
    """What else is known of a row, for `meta`: texts and numbers that say something, and lists of them."""
    texts: dict[str, str] = {}
    for name, value in values.items():
        parts = value if isinstance(value, list | tuple) else [value]
        said = [str(part).strip() for part in parts if isinstance(part, str | int | float)]
        texts[name] = "、".join(filter(None, said))
    return {name: text for name, text in texts.items() if text}


def make_chat(place: Place, question: str, answer: str, **about: object) -> Chat:
    """The conversation of one question and its answer; `about` is what else is known."""
    return Chat((Message("user", question), Message("assistant", answer)), place, meta_of(**about))


def spoken(place: Place, turns: Sequence[tuple[Literal["user", "assistant"], str]]) -> tuple[Message, ...]:
    """Turns as they were said to turns that alternate: user first, assistant last.

    Consecutive turns of one speaker become one (joined by a line break), an assistant's greeting before the first
    question and a question nobody answered at the end are left out. Raises `BadRecord` where no answer remains.
    """
    merged: list[tuple[Literal["user", "assistant"], str]] = []
    for role, text in turns:
        text = text.strip()
        if not text:
            continue
        if merged and merged[-1][0] == role:
            merged[-1] = (role, f"{merged[-1][1]}\n{text}")
        else:
            merged.append((role, text))
    if merged and merged[0][0] == "assistant":
        del merged[0]
    if merged and merged[-1][0] == "user":
        del merged[-1]
    if not merged:
        raise BadRecord(place, "no question with an answer")
    return tuple(Message(role, text) for role, text in merged)
