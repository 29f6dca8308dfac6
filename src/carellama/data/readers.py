"""Files to rows: what is in them, with the line it stands in. Bounded memory whatever the size of the file.

    for row in rows(Path("data/consult_en.json")): ...

JSON (an array, or one object a line), CSV with any delimiter, plain text (a row a line), Parquet, and the sheets of a
workbook. The content decides which it is, see `file_type`; a line of the log says where the name says otherwise.
Text may be compressed and in several encodings, see `file_bytes`. A file is read once.
It does not know what a row means: `carellama.data.convert` does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

from carellama.data.csv_reader import read_csv, repeated_reason
from carellama.data.file_bytes import READ_ERRORS, encoding_by_head, open_bytes, open_text, read_error, sha1_of
from carellama.data.file_type import SUFFIXES as KINDS
from carellama.data.file_type import FileType, detect_file_type, is_data_file, say_notice
from carellama.data.json_reader import JsonValue, read_json, read_json_members, read_json_values
from carellama.data.rows import NUL, BadRow, Row
from carellama.errors import UserError
from carellama.records import Place

__all__ = ["KINDS", "BadRow", "Row", "digest", "encoding_of", "headless", "is_data_file",
           "keyed", "kind_of", "open_reader", "rows", "values", "whole_text"]  # fmt: skip

digest = sha1_of
NAN = frozenset({"NaN", "nan"})


def rows(path: Path, expected: Collection[str] = ()) -> Iterator[Row | BadRow]:
    """Yield the rows of a file. `expected` are columns that a table is known to have, whatever they are called.

    Raises `UserError` for a file that cannot be read at all, `DataError` with the line for one that is broken.
    """
    form = detect_file_type(path)
    say_notice(path, form.notice)
    if form.type == "parquet":
        yield from _parquet_rows(path)
    elif form.type == "sheet":
        from carellama.data.spreadsheets import sheet_rows

        yield from sheet_rows(path, expected)
    else:
        yield from _text_rows(path, form, expected)


def _text_rows(path: Path, form: FileType, expected: Collection[str]) -> Iterator[Row | BadRow]:
    # newline="" for csv, which keeps line breaks inside quotes; json and txt take any
    newline = "" if form.type in ("csv", "tsv") else None
    known = None if form.encoding == "utf-8" else form.encoding  # utf-8: its beginning may be ASCII only
    with open_reader(path, newline, known) as text:
        if form.type in ("csv", "tsv"):
            yield from _without_nan(read_csv(text, str(path), form.delimiter, expected=expected), path)
        elif form.type == "txt":
            for number, line in enumerate(text, 1):
                if "\0" in line:
                    yield BadRow(Place(str(path), number), NUL)
                elif line.strip():
                    yield Row({"text": line.rstrip("\n")}, Place(str(path), number))
        else:
            yield from map(_row, read_json(text, str(path), partial(say_notice, path)))


@contextmanager
def open_reader(path: Path, newline: str | None = None, encoding: str | None = None) -> Iterator[TextIO]:
    """Open a text; what goes wrong while it is read is a `UserError`."""
    errors = READ_ERRORS  # a local name: a stream may be closed when the interpreter ends, without its globals
    try:
        with open_text(path, newline, encoding) as text:
            yield text
    except errors as error:
        raise read_error(path, error) from error


def _without_nan(found: Iterator[Row | BadRow], path: Path) -> Iterator[Row | BadRow]:
    """The rows of a table, where pandas may have written NaN for a missing value."""
    for row in found:
        if isinstance(row, Row) and not NAN.isdisjoint(row.fields.values()):
            say_notice(path, "has NaN in place of some values; it is read as a missing value")
            row = Row({name: "" if value in NAN else value for name, value in row.fields.items()}, row.place)
        yield row


def values(path: Path) -> Iterator[Row | BadRow]:
    """Yield the rows of a JSON file whose values need not be objects: another value is the field `value` of its row.

    An array, values one after the other, or one a line; only one of them is held at a time. Raises as `rows`.
    """
    with open_reader(path) as text:
        yield from map(_any_row, read_json_values(text, str(path), partial(say_notice, path)))


def keyed(path: Path) -> Iterator[Row | BadRow]:
    """Yield the rows of a JSON object keyed by id, each with its key as the field `key`. Raises as `rows`."""
    with open_reader(path) as text:
        for key, found in read_json_members(text, str(path), partial(say_notice, path)):
            row = _row(found)
            yield Row({"key": key, **row.fields}, row.place) if isinstance(row, Row) else row


def headless(path: Path, names: Sequence[str]) -> Iterator[Row | BadRow]:
    """Yield the rows of a CSV file without a header, whose columns are `names`. Raises as `rows`."""
    with open_reader(path, newline="") as text:
        yield from read_csv(text, str(path), ",", names)


def kind_of(path: Path) -> str:
    """Return the type of a file by its content: json, csv, tsv, txt, parquet or sheet. Raises as `rows`."""
    return detect_file_type(path).type


def encoding_of(path: Path) -> str:
    """Return the encoding of a text file, having read it all; `DataError` with the line of a wrong byte."""
    return encoding_by_head(_content(path), path, whole=True)


def whole_text(path: Path) -> str:
    """Return a text file, decompressed, with the line ends that it has; `DataError` with the line of a wrong byte."""
    content = _content(path)
    return content.decode(encoding_by_head(content, path, whole=True))


def _content(path: Path) -> bytes:
    try:
        with open_bytes(path) as source:
            return source.read()
    except READ_ERRORS as error:
        raise read_error(path, error) from error


def _row(found: JsonValue) -> Row | BadRow:
    if found.error:
        return BadRow(found.place, found.error, found.detail)
    if isinstance(found.value, dict):
        return Row(found.value, found.place)
    if isinstance(found.value, str):  # a list of plain texts
        return Row({"text": found.value}, found.place)
    return BadRow(found.place, "not an object", f"found {_type_name(found.value)}")


def _any_row(found: JsonValue) -> Row | BadRow:
    if found.error or isinstance(found.value, dict):
        return _row(found)
    return Row({"value": found.value}, found.place)


def _type_name(value: object) -> str:
    names = {list: "an array", bool: "true or false", type(None): "null", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        if reason := repeated_reason(file.schema_arrow.names):
            raise UserError(f"{path}: {reason}")
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for fields in batch.to_pylist():
                number += 1
                yield Row(fields, Place(str(path), number, "row"))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"cannot read {path}: the Parquet file is damaged or not whole; copy or download it again"
        ) from error
