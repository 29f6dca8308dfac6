"""A row of a file, or the piece of a file that is none.

Row({"question": "...", "answer": "..."}, Place("clinic.jsonl", 3))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from carellama.records import JSONObject, Place

NUL = "a NUL character in the row, where the file is damaged; remove it"


def texts_in(value: object) -> Iterator[str]:
    """Yield the texts of a value, also those within lists and objects."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_in(part)


@dataclass(frozen=True, slots=True)
class Row:
    """One record as it stands in a file."""

    fields: JSONObject
    place: Place


@dataclass(frozen=True, slots=True)
class BadRow:
    """A piece of a file that is not a record; the rows after it can still be read.

    `reason` is a fixed text that quotes nothing of the file; `detail` may name columns and types.
    """

    place: Place
    reason: str
    detail: str = ""
