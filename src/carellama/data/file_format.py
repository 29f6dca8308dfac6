"""What a file is: its row format and columns, or the layout of a known dataset; and its rows and records by it.

    for row in found.rows(path): record = found.record(row)

`carellama.data.detect_format` decides it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from carellama.data.catalogue.layouts import LAYOUTS
from carellama.data.column_names import (
    Columns,
    first_of,
    has_options,
    names_of,
    plain_name,
    turns_in,
    with_late_columns,
)
from carellama.data.convert import convert
from carellama.data.guess_columns import chat_columns, text_columns
from carellama.data.readers import BadRow, Row, digest, rows
from carellama.data.write import row_of
from carellama.records import NOWHERE, BadRecord, Chat, Pair, Question, Record, Text
from carellama.text import counted

RowFormat = Literal["alpaca", "sharegpt", "openai", "text", "exam"]
KIND_NAMES: dict[type, str] = {
    Text: "texts", Chat: "conversations", Pair: "preference pairs", Question: "exam questions",
}  # fmt: skip

PARTLY = "texts left out, such as greetings and questions without an answer, of"


@dataclass(frozen=True)
class FileFormat:
    """How the rows of a file become records.

    `row_format` None: no format is known, or which of two it is; `problem` says what to do. With a `layout` the rows
    are those that it makes, as `carellama.data.write` writes them.
    """

    row_format: RowFormat | None = None
    columns: Columns = field(default_factory=Columns)
    kind: type[Text] | type[Chat] | type[Pair] | type[Question] | None = None  # of the records; None: any
    layout: str | None = None
    also: tuple[str, ...] = ()  # other layouts that fit as well
    unused: tuple[str, ...] = ()  # columns that no record is made of
    partly: tuple[str, ...] = ()  # columns with lists of texts, of which a layout leaves some out
    others: int = 0  # of the first rows: those that the format does not fit
    other_lines: tuple[int, ...] = ()
    unit: str = "line"  # of these, as of their places
    seen: int = 0  # how many rows it was seen from
    problem: str = ""  # why the format is not known
    names: tuple[str, ...] = ()  # the columns that it was seen from
    left_out: frozenset[str] | None = None  # keys that an entry says there is no column for; None: it names none
    unclear: bool = False  # the columns are known, and two readings of them are possible

    def rows(self, path: Path) -> Iterator[Row | BadRow]:
        """Yield the rows of a file of this format."""
        if self.layout is None:
            yield from rows(path, self.columns.used)
            return
        for outcome in LAYOUTS[self.layout].convert(path):
            if isinstance(outcome, BadRecord):
                yield BadRow(outcome.place, outcome.reason, outcome.detail)
            else:
                for record in outcome:
                    yield Row(row_of(record), record.place)

    def record(self, row: Row | BadRow, system: str | None = None) -> Record:
        """Return the record of a row; `BadRecord` where it has none, or is of another kind than the file's rows."""
        if isinstance(row, BadRow):
            raise BadRecord(row.place, row.reason, row.detail)
        assert self.row_format is not None, "the format is known before records are made"
        columns = self.columns
        try:
            if self.has_late(row):
                columns = self.with_late(row, columns)
            record = convert(row, columns, self.row_format, system)
        except BadRecord as error:
            other = format_of(row.fields) if self.layout is None else None
            if other not in (None, self.row_format) and (other != "alpaca" or not self._has_columns(row)):
                raise BadRecord(row.place, f"another format than the file's: {other}, not {self.row_format}") from error
            raise
        if self.kind is not None and type(record) is not self.kind:
            kinds = f"{KIND_NAMES[type(record)]}, not {KIND_NAMES[self.kind]}"
            raise BadRecord(row.place, f"another kind of record than the file's: {kinds}")
        return record

    @property
    def not_lost(self) -> set[str]:
        """Columns that records hold though no column map names them."""
        return {"meta", "tools"} if self.row_format in ("sharegpt", "openai") else {"meta"}

    def has_late(self, row: Row) -> bool:
        """Whether a row has columns that none of the first rows had."""
        return bool(self.names) and not row.fields.keys() <= set(self.names)

    def with_late(self, row: Row, columns: Columns) -> Columns:
        """Return these columns with those of the row that begin after the first rows; `BadRecord` as for the row."""
        return with_late_columns(row, columns, self.names, str(self.row_format), self.left_out)

    def _has_columns(self, row: Row) -> bool:
        """Whether a row has the columns that tell the format, so that only its values are wrong."""
        telling = self.columns.options or (self.columns.prompt,)
        return any(name in row.fields for name in telling)

    @property
    def mapping(self) -> dict[str, str]:
        """What is in which column, for people."""
        columns = self.columns
        if self.layout is not None or self.row_format is None:
            return {}
        if self.row_format == "text":
            named: dict[str, str | None] = {"text": columns.prompt or "text"}
        elif self.row_format == "exam":
            options = ", ".join(columns.options or ("options",)) if columns.options != () else columns.prompt
            answer = columns.response or (options if self.kind is Question else None)  # options that say they are right
            named = {"question": columns.prompt, "options": options, "answer": answer,
                     "answer again": columns.answer_check, "explanation": columns.explanation}  # fmt: skip
        elif self.row_format == "alpaca":
            named = {"question": columns.prompt, "more of it": columns.query, "answer": columns.response,
                     "history": columns.history}  # fmt: skip
        else:
            named = {"turns": columns.messages}
        named |= {"system": columns.system, "context": columns.context, "judged good": columns.good}
        if columns.chosen and not (self.row_format == "alpaca" and columns.response):
            named |= {"better answer": columns.chosen, "worse answer": columns.rejected}
        return {key: name for key, name in named.items() if name}

    def describe(self) -> str:
        """The format in one line: "alpaca (question = 'ask', answer = 'reply')"."""
        if self.layout is not None:
            return f"layout {self.layout}"
        if self.row_format is None:
            return "no known format"
        columns = self.columns
        about = [f"{what} = {name!r}" for what, name in self.mapping.items()]
        if columns.answer_form.startswith("index"):
            about.append(f"answers count from {columns.answer_form[-1]}")
        return f"{self.row_format} ({', '.join(about)})"

    def remarks(self) -> list[str]:
        """What a person should know of the reading: columns not used, rows of other formats, other readings."""
        found: list[str] = []
        if self.row_format is None:
            return found
        if self.unused:
            found.append(f"columns not used: {', '.join(repr(name[:40]) for name in self.unused)}")
        if self.partly:
            found.append(f"{PARTLY} {', '.join(repr(name[:40]) for name in self.partly)}")
        if self.columns.speakers:
            found.append("the questions are parted into turns at their speaker marks")
        if self.others:
            lines = ", ".join(map(str, self.other_lines)) + (", ..." if self.others > len(self.other_lines) else "")
            where = f": {self.unit}{'s' * (self.others > 1)} {lines}" if self.other_lines else ""
            do = "does" if self.others == 1 else "do"
            found.append(f"{self.others} of the first {counted(self.seen, 'row')} {do} not fit{where}")
        if self.also:
            found.append(f"also fits the layouts {', '.join(self.also)}")
        return found

    def entry(self, path: Path) -> dict[str, object] | None:
        """The entry of dataset_info.json that reads the file so; None where it has to be converted first."""
        if self.row_format is None or self.layout is not None:
            return None
        columns = self.columns
        found: dict[str, object] = {"file_name": path.name, "file_sha1": digest(path), "formatting": self.row_format}
        named: dict[str, object] = {"prompt": columns.prompt, "query": columns.query, "response": columns.response,
                                 "history": columns.history}  # fmt: skip
        more: dict[str, object] = {"system": columns.system, "messages": columns.messages, "context": columns.context,
                                "good": columns.good, "explanation": columns.explanation, "id": columns.id,
                                "answer_check": columns.answer_check}  # fmt: skip
        if self.row_format == "exam" and columns.options:
            more["options"] = columns.options[0] if len(columns.options) == 1 else list(columns.options)
        if self.kind is Pair and not columns.response:
            more |= {"chosen": columns.chosen, "rejected": columns.rejected}
        kept = {key: name for key, name in more.items() if name}
        found["columns"] = {key: name or "" for key, name in named.items()} | kept
        if columns.answer_form != "letters":
            found["answer_form"] = columns.answer_form
        if columns.speakers:
            found["speakers"] = dict(columns.speakers)
        return found | {"ranking": True} if self.kind is Pair else found


def counted_kind(count: int, kind: str) -> str:
    """Return a number of records and what they are, by a name of `KIND_NAMES`: "1 text", "2 exam questions"."""
    return counted(count, kind.removesuffix("s"))


def format_of(fields: Mapping[str, object]) -> RowFormat | None:
    """The row format that one row has by itself. A row with options is an exam question, whatever else it has."""
    turns = turns_in(fields)
    if has_options(fields) and (
        turns is None or first_of(names_of("stems"), {plain_name(name): name for name in fields})
    ):
        return "exam"
    if turns is not None:
        return "openai" if turns[1] == "openai" else "sharegpt"
    row = [Row(dict(fields), NOWHERE)]
    if chat_columns(row) is not None:
        return "alpaca"
    return "text" if text_columns(row) is not None else None
