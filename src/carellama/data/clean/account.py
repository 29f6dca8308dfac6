"""The account of a cleaning: rows in, rows out, every removal counted, and listed in the order of the input.

    account.remove(17, "consult", place, "near duplicate", partner="consult.jsonl:3", similarity=0.9)
    with atomic_write(path) as file: account.listed.write(file)

The list waits in a file, as duplicates are known last but stand among the other rows.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import BinaryIO, TextIO

import numpy as np

from carellama.data.report import DataReport
from carellama.records import Place


class Removed:
    """The removed rows, which wait in `file`; `with_text`: with their texts."""

    def __init__(self, file: BinaryIO, *, with_text: bool) -> None:
        self.with_text = with_text
        self._file = file
        self._numbers, self._begins = array("Q"), array("Q")
        self._end = 0

    def add(self, number: int, entry: dict[str, object]) -> None:
        """Take a row, in any order; `number` is that of the row in the input."""
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        self._file.write(line)
        self._numbers.append(number)
        self._begins.append(self._end)
        self._end += len(line)

    def write(self, file: TextIO) -> None:
        """Write all rows as JSON Lines, in the order of the input."""
        for at in np.argsort(np.frombuffer(self._numbers, dtype=np.uint64), kind="stable"):
            self._file.seek(self._begins[at])
            file.write(self._file.readline().decode())


@dataclass
class Account:
    """What came of the rows, and the list of those removed where one is wanted."""

    listed: Removed | None = None
    report: DataReport = field(default_factory=DataReport)
    masked: Counter[str] = field(default_factory=Counter)
    changed: int = 0

    def remove(
        self, number: int, dataset: str, place: Place, reason: str, row: dict[str, object] | None = None, **more: object
    ) -> None:
        """Count a removed row, and list it; `row` is listed only where texts are wanted."""
        self.report.note(dataset, "skipped", place, reason)
        if self.listed is not None:
            entry = {"dataset": dataset, "place": str(place), "reason": reason, **more}
            if self.listed.with_text and row is not None:
                entry["record"] = row
            self.listed.add(number, entry)
