"""Layouts of plain text, for pretraining: documents and books, lines of text, and objects with a text.

Documents are read by `carellama.data.documents`; a record is a run of paragraphs, a section, a line or an object.
Cutting to the length of a model is the trainer's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from carellama.data.catalogue.layout import Layout, Outcome, meta_of, text_of
from carellama.data.convert import BadRecord
from carellama.data.documents.classical_books import is_classical
from carellama.data.documents.extract import CONVERTERS, PARTIAL, documents
from carellama.data.readers import BadRow, Row, kind_of, open_reader, rows
from carellama.data.spreadsheets import SUFFIXES as SHEETS
from carellama.files import print_status
from carellama.records import Text

LISTED = 20  # of the lines that are left out of documents, the most frequent first
BEGIN = 4096  # characters in which a book shows its tags


def _text(row: Row) -> Text:
    about = {name: row.fields.get(name) for name in ("title", "book", "author", "dynasty")}
    return Text(text_of(row, "text"), row.place, meta_of(**about))


def _is_text(path: Path) -> bool:
    return kind_of(path) == "txt"


def _objects(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a file that has some; plain text has none."""
    return iter(()) if _is_text(path) else rows(path)


def _is_document(path: Path) -> bool:
    """A format with pages, a partial download of one, a book with tags, or text whose lines were wrapped."""
    if path.suffix.lower() in (*CONVERTERS, *SHEETS, ".md", *PARTIAL):
        return True
    return path.suffix.lower() == ".txt" and (_is_book(path) or _is_wrapped(path))


def _is_lines(path: Path) -> bool:
    return _is_text(path) and not _is_document(path)


def _is_book(path: Path) -> bool:
    with open_reader(path) as text:
        return is_classical(text.read(BEGIN))


def _is_wrapped(path: Path) -> bool:
    """Whether lines were broken at a width: mostly ASCII, none long, and few that end a sentence."""
    if not _is_text(path):
        return False
    with open_reader(path) as text:
        lines = [line.strip() for _, line in zip(range(400), text, strict=False)]
    full = [line for line in lines if line]
    if len(full) < 4 or "" not in lines:
        return False
    ascii_lines = sum(line.isascii() for line in full)
    ended = sum(line.endswith((".", "!", "?", '"')) for line in full)
    return ascii_lines > 0.9 * len(full) and max(map(len, full)) <= 120 and ended < 0.5 * len(full)


def _documents(paths: Sequence[Path]) -> Iterator[Outcome]:
    """The texts of documents; what was left out of them is said at the end, as it is less than a record."""
    dropped = Counter[str]()
    for path in paths:
        for found in documents(path, dropped=dropped):
            yield found if isinstance(found, BadRecord) else (found,)
    if dropped:
        listed = [f"{count} {reason}" for reason, count in dropped.most_common(LISTED)]
        listed += [f"{len(dropped) - LISTED} more kinds"] if len(dropped) > LISTED else []
        print_status(f"left out of the documents: {', '.join(listed)}")


LAYOUTS: dict[str, Layout] = {
    "document": Layout("pt", recognises=_is_document, joined=_documents),
    "lines": Layout("pt", ("text",), _text, rows=rows, recognises=_is_lines),
    "text-rows": Layout("pt", ("text",), _text, rows=_objects),
}
