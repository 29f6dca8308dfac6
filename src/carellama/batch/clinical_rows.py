"""The texts of `carellama task`: rows of a file with their columns, lines, whole files, or the files of a folder.

    rows = read_rows(Path("reports.csv"), TaskOptions(["structure", "reports.csv"]))

A row that cannot be read, or has no text, is a row with an error: it is counted and written like the others.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from carellama.config.commands import TaskOptions
from carellama.data.convert import BadRecord
from carellama.data.documents.extract import CONVERTERS, text_of_document
from carellama.data.file_type import data_suffix
from carellama.data.readers import KINDS, BadRow, Row, digest, kind_of, rows, whole_text
from carellama.errors import UserError, nearest
from carellama.files import print_status
from carellama.package_data import package_yaml

DOCUMENTS = (*CONVERTERS, ".md")
UNREADABLE = "unreadable row"


@dataclass(frozen=True, slots=True)
class TextRow:
    """A row of the input: its columns, and its text or the reason why it has none."""

    columns: dict[str, object]
    text: str = ""
    error: str = ""


def read_rows(path: Path, options: TaskOptions) -> Iterator[TextRow]:
    """Yield the rows in their order. Raises `UserError` for an input that cannot be read, at the first row."""
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    if path.is_dir():
        yield from _of_folder(path)
        return
    if path.suffix.lower() in DOCUMENTS or options.text_unit == "file":
        yield _of_file(path, path.name)
        return
    foreign = data_suffix(path.name) not in KINDS  # such as .hl7: plain text, if it is text
    lines = _lines(path) if foreign or kind_of(path) == "txt" else None
    if lines is not None and options.text_unit is None and len(lines) > 1:
        raise UserError(
            f"{path} is plain text of several lines: give --text_unit line (a text a line) or file (one text)"
        )
    if lines is not None:
        yield from lines
        return
    columns: list[str] | None = None
    for row in rows(path, [*package_yaml("batch/columns.yaml")["text"], *_given(options)]):
        if isinstance(row, BadRow):
            yield TextRow({}, error=f"{UNREADABLE}: {row.place}: {' '.join(filter(None, (row.reason, row.detail)))}")
            continue
        columns = columns or _text_columns(row, str(path), options)
        yield _of_row(row, columns)


def input_digest(path: Path) -> str:
    """The SHA-1 of a file, or of the names and contents of a folder's files."""
    if not path.is_dir():
        return digest(path)
    found = hashlib.sha1(usedforsecurity=False)
    for one in _files(path):
        found.update(f"{one.relative_to(path)} {digest(one)}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(one for one in folder.rglob("*") if one.is_file() and not one.name.startswith("."))


def _of_folder(folder: Path) -> Iterator[TextRow]:
    files = _files(folder)
    if not files:
        raise UserError(f"{folder} has no files; give a folder of texts, or a file")
    for one in files:
        yield _of_file(one, str(one.relative_to(folder)))


def _of_file(path: Path, name: str) -> TextRow:
    try:
        if path.suffix.lower() in DOCUMENTS:
            text = text_of_document(path, Counter())
        else:
            text = whole_text(path).replace("\r\n", "\n").replace("\r", "\n")
    except BadRecord as error:
        reason = " ".join(filter(None, (error.reason, error.detail)))
        return TextRow({"file": name}, error=f"{UNREADABLE}: {name}: {reason}")
    except (UserError, OSError) as error:
        return TextRow({"file": name}, error=f"{UNREADABLE}: {error}")
    if "\0" in text:
        return TextRow({"file": name}, error=f"{UNREADABLE}: {name}: not a text")
    return TextRow({"file": name, "text": text}, text.removeprefix("\ufeff"))


def _lines(path: Path) -> list[TextRow]:
    """The lines of a plain text that have something in them."""
    whole = _of_file(path, path.name)
    if whole.error:
        raise UserError(whole.error)
    return [TextRow({"text": line}, line) for line in whole.text.split("\n") if line.strip()]


def _given(options: TaskOptions) -> list[str]:
    return [part.strip() for part in (options.text_column or "").split(",") if part.strip()]


def _text_columns(row: Row, path: str, options: TaskOptions) -> list[str]:
    names = list(row.fields)
    if given := _given(options):
        if missing := [name for name in given if name not in names]:
            raise UserError(f"{path}: no column {missing[0]!r}; it has {', '.join(names)}.{nearest(missing[0], names)}")
        return given
    known = [name for name in names if name.strip().lower() in package_yaml("batch/columns.yaml")["text"]]
    if len(names) == 1:
        return names
    if len(known) == 1:
        print_status(f"{path}: the text is the column {known[0]!r}; --text_column takes others")
        return known
    raise UserError(f"{path}: which column has the text? It has {', '.join(names)}: give --text_column NAME")


def _of_row(row: Row, columns: list[str]) -> TextRow:
    values = [row.fields.get(name) for name in columns]
    wrong = next((name for name, value in zip(columns, values, strict=True) if not isinstance(value, str | None)), None)
    if wrong is not None:
        return TextRow(row.fields, error=f"{UNREADABLE}: {row.place}: the column {wrong!r} is not a text")
    texts = [(name, value.strip()) for name, value in zip(columns, values, strict=True) if value and value.strip()]
    if len(columns) > 1:
        return TextRow(row.fields, "\n".join(f"{name}: {text}" for name, text in texts))
    return TextRow(row.fields, texts[0][1] if texts else "")
