"""Files to rows: what is in them, with the line it stands in. Bounded memory whatever the size of the file.

    for row in rows(Path("data/consult_en.json")): ...

JSON (an array, or one object a line, whatever the suffix says), CSV, TSV, plain text (a row a line) and
Parquet, each but Parquet also as .gz; UTF-8 with or without BOM, UTF-16 with BOM, and GB18030, detected over
the whole file.
It does not know what a row means: `carellama.data.convert` does.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from carellama.errors import DataError, UserError
from carellama.records import Place

CHUNK = 1 << 20  # bytes or characters read at a time
LONGEST_RECORD = 1 << 26  # characters: an unclosed JSON string is not looked for further
DECODER = json.JSONDecoder()
SURE_UTF8 = 64  # non-ASCII bytes of valid UTF-8 before a bad one: it is damaged UTF-8, not GB18030


@dataclass(frozen=True, slots=True)
class Row:
    """One record as it stands in a file."""

    fields: dict[str, Any]
    place: Place


@dataclass(frozen=True, slots=True)
class BadRow:
    """A piece of a file that is not a record; the rows after it can still be read."""

    place: Place
    reason: str
    detail: str = ""


RowOf = Callable[[Any, Place], Row | BadRow]  # what a JSON value is as a row


def rows(path: Path) -> Iterator[Row | BadRow]:
    """Yield the rows of a file. `UserError` for what can not be read at all, `DataError` with the line."""
    kind = kind_of(path)
    try:
        if kind == "parquet":
            yield from _parquet_rows(path)
            return
        with _open_text(path) as text:
            if kind in ("csv", "tsv"):
                yield from _csv_rows(text, str(path), "," if kind == "csv" else "\t")
            elif kind == "txt":
                for number, line in enumerate(text, 1):
                    if line.strip():
                        yield Row({"text": line.rstrip("\n")}, Place(str(path), number))
            else:
                yield from _json_rows(text, str(path))
    except (OSError, EOFError, zlib.error) as error:  # zlib.error: damage inside a .gz
        raise UserError(f"can not read {path}: {error}") from error


def values(path: Path) -> Iterator[Row | BadRow]:
    """Yield the rows of a JSON file whose values need not be objects: another value is the field `value` of its row.

    An array, values one after the other, or one a line; only one of them is held at a time. Raises as `rows`.
    """
    try:
        with _open_text(path) as text:
            start, at = text.readline(CHUNK), 1
            while start.isspace():
                start, at = text.readline(CHUNK), at + start.endswith("\n")
            ahead = text.readline(CHUNK) if start.endswith("\n") else ""
            if ahead.lstrip().startswith("[") and _is_object(start, list):  # an array a line, not one array
                for number, line in enumerate(itertools.chain((start, ahead), text), at):
                    if line and not line.isspace():
                        yield _json_row(line, Place(str(path), number), _any_row)
                return
            yield from _json_values(_Window(start + ahead, text, str(path), at), _any_row)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"can not read {path}: {error}") from error


def keyed(path: Path) -> Iterator[Row | BadRow]:
    """Yield the rows of a JSON object keyed by id, each with its key as the field `key`. Raises as `rows`."""
    try:
        with _open_text(path) as text:
            yield from _json_members(_Window("", text, str(path), 1))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"can not read {path}: {error}") from error


def headless(path: Path, names: Sequence[str]) -> Iterator[Row | BadRow]:
    """Yield the rows of a CSV file without a header, whose columns are `names`. Raises as `rows`."""
    try:
        with _open_text(path) as text:
            yield from _csv_rows(text, str(path), ",", list(names))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"can not read {path}: {error}") from error


def is_json_lines(path: Path) -> bool:
    """Whether a file is JSON Lines that `rows` does not know as such: .txt, or with a comma behind each object."""
    kind = kind_of(path)
    if kind not in ("txt", "json"):
        return False
    try:
        with _open_bytes(path) as file:
            start = file.readline(1 << 22).decode("utf-8-sig", "replace")
            while start.isspace():
                start = file.readline(1 << 22).decode("utf-8", "replace")
            start = start.strip()
    except (OSError, EOFError, zlib.error):
        return False  # `rows` says it better
    return start.startswith("{") and (start.endswith("}") if kind == "txt" else start.endswith("},"))


def json_lines(path: Path) -> Iterator[Row | BadRow]:
    """Yield the rows of a file of one JSON object a line, whatever it is called; each may end in a comma.

    Raises as `rows`.
    """
    try:
        with io.TextIOWrapper(_open_bytes(path), encoding=encoding_of(path)) as text:
            for number, line in enumerate(text, 1):
                if line := line.strip():
                    yield _json_row(line.removesuffix(","), Place(str(path), number))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"can not read {path}: {error}") from error


KINDS = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "txt",
    ".parquet": "parquet",
}


def kind_of(path: Path) -> str:
    """The type of a file by its suffix (before .gz)."""
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    if suffix not in KINDS or (suffix == ".parquet" and path.suffix.lower() == ".gz"):
        raise UserError(
            f"{path}: unknown file type {suffix or 'without suffix'!r}; known: {', '.join(KINDS)} (and .gz)"
        )
    return KINDS[suffix]


def digest(path: Path) -> str:
    """The SHA-1 of a file's bytes, in hex: the sum of the seed's `file_sha1`."""
    found = hashlib.sha1(usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                found.update(chunk)
    except OSError as error:
        raise UserError(f"can not read {path}: {error}") from error
    return found.hexdigest()


def encoding_of(path: Path) -> str:
    """Return the encoding of a text file, having read it all; `DataError` with the line of a bad byte."""
    with _open_bytes(path) as file:
        head = file.read(4)
    for bom, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(bom):
            _first_error(path, name)
            return name
    bad = _first_error(path, "utf-8", raises=False)
    if bad is None:
        return "utf-8"
    line, seen = bad
    if seen < SURE_UTF8 and _first_error(path, "gb18030", raises=False) is None:
        return "gb18030"
    raise DataError(f"{path}:{line}: not UTF-8 (and not GB18030); save the file as UTF-8, or mend that line")


def _first_error(path: Path, encoding: str, *, raises: bool = True) -> tuple[int, int] | None:
    """(line, non-ASCII bytes before it) of the first byte that is not of this encoding, or None."""
    decoder = codecs.getincrementaldecoder(encoding)()
    lines, wide = 1, 0
    with _open_bytes(path) as file:
        while True:
            chunk = file.read(CHUNK)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                start = error.object[: error.start]
                if raises:
                    raise DataError(f"{path}:{lines + start.count(10)}: not {encoding}") from error
                return lines + start.count(10), wide + sum(byte > 127 for byte in start)
            lines += text.count("\n")
            if wide < SURE_UTF8 and not chunk.isascii():
                wide += sum(byte > 127 for byte in chunk)
            if not chunk:
                return None


def _open_bytes(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _open_text(path: Path) -> TextIO:
    # newline="" for csv, which keeps line breaks inside quotes; json and txt take any
    newline = "" if kind_of(path) in ("csv", "tsv") else None
    return io.TextIOWrapper(_open_bytes(path), encoding=encoding_of(path), newline=newline)


def _json_rows(text: TextIO, name: str) -> Iterator[Row | BadRow]:
    """One object a line if the first line is one; else an array, or objects one after the other."""
    start, at = text.readline(CHUNK), 1  # bounded: a whole array may stand in one line
    while start and not start.strip():
        at += start.endswith("\n")
        start = text.readline(CHUNK)
    if not start:
        return
    second = ""
    if start.lstrip()[0] == "{" and (start.endswith("\n") or len(start) < CHUNK):
        second = text.readline()
        if _is_object(start) or _is_object(second):  # either: a broken first line does not spoil the others
            for number, line in enumerate(itertools.chain((start, second), text), at):
                if line and not line.isspace():
                    yield _json_row(line, Place(name, number))
            return
    yield from _json_values(_Window(start + second, text, name, at))


def _is_object(line: str, kind: type = dict) -> bool:
    try:
        return isinstance(json.loads(line), kind)
    except (ValueError, RecursionError):
        return False


def _json_row(line: str, place: Place, row: RowOf | None = None) -> Row | BadRow:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:  # RecursionError: nested a thousand deep
        return BadRow(place, "broken JSON", str(error).partition(": line")[0])
    return (row or _row)(value, place)


def _any_row(value: Any, place: Place) -> Row | BadRow:
    return Row(value if isinstance(value, dict) else {"value": value}, place)


def _row(value: Any, place: Place) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(value, place)
    if isinstance(value, str):  # a list of plain texts
        return Row({"text": value}, place)
    return BadRow(place, "not an object", type(value).__name__)


class _Window:
    """A stretch of a JSON text that moves on as values are parsed out of it, knowing the line it is at."""

    def __init__(self, start: str, text: TextIO, name: str, line: int) -> None:
        self.buffer, self.at, self.text, self.name, self.line = start, 0, text, name, line
        self.ended = False

    def peek(self) -> str:
        """Skip white space and return the next character, "" at the end."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in " \t\r\n":
                self.line += self.buffer[self.at] == "\n"
                self.at += 1
            if self.at < len(self.buffer) or not self._more():
                return self.buffer[self.at : self.at + 1]

    def value(self) -> Any:
        """Parse the value that begins here; `DataError` when it is broken or never ends."""
        while True:
            try:
                found, end = DECODER.raw_decode(self.buffer, self.at)
            except (ValueError, RecursionError) as error:
                if self._may_go_on(error):
                    if len(self.buffer) - self.at >= LONGEST_RECORD:
                        raise DataError(
                            f"{self.place}: a record of more than {LONGEST_RECORD:,} characters, or a string or "
                            "bracket that is not closed; split the record, or mend that line"
                        ) from error
                    if self._more():
                        continue
                raise DataError(f"{self.place}: broken JSON ({str(error).partition(': line')[0]})") from error
            self.line += self.buffer.count("\n", self.at, end)
            self.at = end
            return found

    @property
    def place(self) -> Place:
        """Where the next value begins."""
        return Place(self.name, self.line)

    def _more(self) -> bool:
        """Read on, forgetting what was parsed."""
        read = "" if self.ended else self.text.read(max(CHUNK, len(self.buffer) - self.at))
        self.ended = not read
        self.buffer, self.at = self.buffer[self.at :] + read, 0
        return not self.ended

    def _may_go_on(self, error: Exception) -> bool:
        """Whether the value may have failed to parse only because the window ends in it."""
        near_end = isinstance(error, json.JSONDecodeError) and error.pos >= len(self.buffer) - 16
        return near_end or "Unterminated string" in str(error)


def _json_values(window: _Window, row: RowOf = _row) -> Iterator[Row | BadRow]:
    """The values of an array, or values one after the other."""
    in_array = window.peek() == "["
    if in_array:
        window.at += 1
    first = True
    while (found := window.peek()) and found != "]":
        if in_array and not first:
            if found != ",":
                raise DataError(f"{window.place}: found {found!r} where a comma or ] must follow a record")
            window.at += 1
            window.peek()
        place = window.place
        yield row(window.value(), place)
        first = False
    if not in_array:
        return
    if not found:
        raise DataError(f"{window.place}: the array is not closed: the file ends in the middle")
    window.at += 1
    if window.peek():
        raise DataError(f"{window.place}: text after the end of the array")


def _json_members(window: _Window) -> Iterator[Row | BadRow]:
    """The members of one object, its key as the field `key` of each."""

    def pass_over(mark: str) -> None:
        if window.peek() != mark:
            raise DataError(f"{window.place}: found {window.peek()!r} where {mark!r} must follow; mend that line")
        window.at += 1

    pass_over("{")
    while window.peek() != "}":
        place = window.place
        key = window.value()
        pass_over(":")
        window.peek()
        value = window.value()
        if isinstance(value, dict):
            yield Row({"key": key, **value}, place)
        else:
            yield BadRow(place, "not an object", type(value).__name__)
        if window.peek() != "}":
            pass_over(",")
            window.peek()
    window.at += 1
    if window.peek():
        raise DataError(f"{window.place}: text after the end of the object")


def _csv_rows(text: TextIO, name: str, delimiter: str, header: list[str] | None = None) -> Iterator[Row | BadRow]:
    """Rows under a header (or the given one), RFC 4180: quoted fields may hold line breaks."""
    csv.field_size_limit(1 << 30)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        if header is None:
            header = next((values for values in reader if values), None)  # blank lines may precede it
        if header is None:
            return
        if len(set(header)) < len(header):
            raise DataError(f"{name}:{reader.line_num}: the header names a column twice: {', '.join(header)}")
        before = reader.line_num
        for values in reader:
            place, before = Place(name, before + 1), reader.line_num
            if len(values) == len(header):
                yield Row(dict(zip(header, values, strict=True)), place)
            elif len(values) > 1 or (values and values[0].strip()):  # else a blank line
                yield BadRow(place, "wrong number of fields", f"{len(values)} under a header of {len(header)}")
    except csv.Error as error:
        raise DataError(f"{name}:{reader.line_num}: broken CSV ({error})") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for fields in batch.to_pylist():
                number += 1
                yield Row(fields, Place(str(path), number))
    except pa.ArrowInvalid as error:
        raise UserError(f"can not read {path}: not a Parquet file ({error})") from error
