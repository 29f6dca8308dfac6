"""Tables of text to rows: RFC 4180 with any delimiter, fields in quotes may hold line breaks.

    for row in read_csv(text, "clinic.csv", ","): ...

It checks that the first line is a header: without one, a patient's words would be the names of columns.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from statistics import median
from typing import TYPE_CHECKING, TextIO

from carellama.data.rows import NUL, BadRow, Row
from carellama.errors import DataError
from carellama.package_data import package_yaml
from carellama.records import Place

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

DELIMITERS = ",\t;|"
MAX_FIELD_CHARS = 1 << 26  # a quote that is not closed is not searched further
SAMPLE_ROWS = 20  # by which the delimiter and the header are judged
MAX_NAME_CHARS = 40
EXCEL_LINE = re.compile(r'\ufeff?\s*"?sep=([,;|\t])"?\s*?(?:\r?\n|\r|$)', re.IGNORECASE)
SENTENCE = re.compile(r"[。？！?!；，,]|[.:：] |[.]$|[\r\n]|\d{5}")  # what a column is not called
SNAKE_CASE = re.compile(r"[A-Za-z]+(_[A-Za-z0-9]+)+")
DIGIT = re.compile(r"\d")
NO_HEADER = "the first line does not look like a header; write the names of the columns in it, such as question,answer"
# Traditional characters in names of columns, which are known in simplified ones.
SIMPLIFIED = str.maketrans(
    "問題選項內幹備參確醫復標籤評價對話診斷歷試卷號編類", "问题选项内干备参确医复标签评价对话诊断历试卷号编类"
)


def excel_delimiter(text: str) -> str:
    """Return the delimiter of Excel's first line `sep=;`, "" where there is no such line."""
    found = EXCEL_LINE.match(text)
    return found[1] if found else ""


def find_delimiter(text: str, own: str, *, cut: bool) -> str:
    """Return the delimiter of a table by its first rows: `own` if it divides the header, else one that divides all
    rows alike, "" for none. `cut`: the text goes on."""
    if own and any(len(row) > 1 for row in _first_rows(text, own, cut=cut)[:1]):
        return own
    for delimiter in DELIMITERS:
        rows = _first_rows(text, delimiter, cut=cut)
        alike = len(rows) > 1 and len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows)
        if alike and not header_reason(rows[0], rows[1:]):
            return delimiter
    return ""


def find_table(text: str, *, cut: bool) -> str:
    """Return the delimiter of a text that is a table under a header, "" for text: its rows are alike, and its header
    has a known name; two of them where commas or the like divide it, as sentences may be divided so too."""
    for delimiter in sorted(DELIMITERS, key="\t".__ne__):
        rows = _first_rows(text, delimiter, cut=cut)
        if len(rows) < 2 or len(rows[0]) < 2 or any(len(row) != len(rows[0]) for row in rows):
            continue
        known = sum(is_column_name(name) or bool(SNAKE_CASE.fullmatch(name)) for name in rows[0])
        if known >= (1 if delimiter == "\t" else 2) and not header_reason(rows[0], rows[1:]):
            return delimiter
    return ""


def _first_rows(text: str, delimiter: str, *, cut: bool) -> list[list[str]]:
    """The first rows of a text; the last one is left out where it may not be whole."""
    lines = text.lstrip("\ufeff").splitlines(keepends=True)
    reader = csv.reader(lines[:-1] if cut and len(lines) > 1 else lines, delimiter=delimiter)
    try:
        return list(itertools.islice((row for row in reader if row), SAMPLE_ROWS + 1))
    except csv.Error:
        return []


def header_reason(names: Sequence[str], rows: Sequence[Sequence[str]], expected: Collection[str] = ()) -> str:
    """Return why a first row is not a header, "" where it is one: by its names, else by the rows after it.

    `expected` are the names that the caller looks for.
    """
    if any(is_column_name(name) or name in expected or SNAKE_CASE.fullmatch(name) for name in names):
        return ""
    written = [name.strip() for name in names if name.strip()]
    if not written or any(len(name) > MAX_NAME_CHARS or SENTENCE.search(name) for name in written):
        return NO_HEADER
    if any(name.lstrip("-").replace(".", "", 1).isdigit() for name in written):
        return NO_HEADER
    if any(not name.isascii() or " " in name for name in written):  # they may be a patient's words, and are not shown
        return NO_HEADER
    for at, name in enumerate(names):
        cells = [row[at] for row in rows if at < len(row)]
        if cells and len(name) < median(map(len, cells)) / 2:  # names are shorter than what they name
            return ""
        if cells and not DIGIT.search(name) and all(map(DIGIT.search, cells)):  # a number has no name of its kind
            return ""
        if cells and not any(map(str.isascii, cells)):  # English names of Chinese values
            return ""
    return NO_HEADER if rows else ""


def is_column_name(name: str) -> bool:
    """Whether a name is one that columns of medical datasets have."""
    return name.strip().lower().translate(SIMPLIFIED) in _column_names()


@cache
def _column_names() -> frozenset[str]:
    return frozenset(package_yaml("data/column_names.yaml")["header"])


def repeated_reason(names: Sequence[str]) -> str:
    """Return which columns of a header have the same name, "" where all differ."""
    for at, name in enumerate(names):
        if name in names[:at]:
            shown = f" ({name!r})" if is_column_name(name) else ""
            return f"columns {names.index(name) + 1} and {at + 1} have the same name{shown}; rename one of them"
    return ""


def read_csv(
    text: TextIO, name: str, delimiter: str, header: Sequence[str] | None = None, expected: Collection[str] = ()
) -> Iterator[Row | BadRow]:
    """Yield the rows under the header, or under `header` where the text has none. Raises `DataError` with the line."""
    csv.field_size_limit(MAX_FIELD_CHARS)
    skipped, lines = 0, iter(text)
    if header is None:
        first = text.readline(MAX_FIELD_CHARS)
        if excel_delimiter(first):
            skipped = 1
        else:
            lines = itertools.chain([first], text)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    if header is not None:
        yield from _rows(reader, header, name, skipped)
        return
    try:
        header = next((values for values in reader if values), None)  # blank lines may precede it
    except csv.Error as error:
        raise DataError(f"{name}:{reader.line_num + skipped}: {_quote_reason(error)}") from error
    if header is None:
        return
    at = Place(name, reader.line_num + skipped)
    if reason := repeated_reason(header):
        raise DataError(f"{at}: {reason}")
    rows, sample, broken = _rows(reader, header, name, skipped), list[Row | BadRow](), None
    try:
        sample += itertools.islice(rows, SAMPLE_ROWS)
    except DataError as error:
        broken = error
    texts = [list(row.fields.values()) for row in sample if isinstance(row, Row)]
    if reason := header_reason(header, texts, expected):
        raise DataError(f"{at}: {reason}")
    yield from sample
    if broken is not None:
        raise broken
    yield from rows


def _rows(reader: CsvReader, header: Sequence[str], name: str, skipped: int) -> Iterator[Row | BadRow]:
    before = reader.line_num
    while True:
        place = Place(name, before + 1 + skipped)
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{place}: {_quote_reason(error)}") from error
        if values is None:
            return
        before = reader.line_num
        if any("\0" in value for value in values):
            yield BadRow(place, NUL)
        elif values == header:
            yield BadRow(place, "the header again, as in files put one after the other; remove this line")
        elif len(values) == len(header):
            yield Row(dict(zip(header, values, strict=True)), place)
        elif len(values) > 1 or (values and values[0].strip()):  # else a blank line
            yield BadRow(place, "wrong number of fields", f"{len(values)} under a header of {len(header)}")


def _quote_reason(error: csv.Error) -> str:
    """Say which quote is wrong; the reader tells the line where the row begins."""
    text = str(error)
    if "unexpected end" in text or "field larger" in text:
        return "a quote is opened in this row and not closed; close it, or write a quote inside a field twice"
    if "expected after" in text:
        return (
            "text follows a closing quote in the row that begins here; close the quote that is open, or write a quote "
            "inside a field twice"
        )
    return f"broken CSV ({text})"
