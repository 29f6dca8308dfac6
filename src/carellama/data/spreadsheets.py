"""Spreadsheets (.xls, .xlsx, .ods) as rows under a header, or as Markdown tables; python-calamine reads them.

    for row in sheet_rows(Path("examples.xls")): ...

Values only: no formulas, no formats. A workbook is held in memory.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator
from pathlib import Path

from carellama.data.csv_reader import SAMPLE_ROWS, header_reason, repeated_reason
from carellama.data.rows import BadRow, Row
from carellama.errors import DataError, need
from carellama.records import Place

SUFFIXES = (".xls", ".xlsx", ".ods")


def _sheets(path: Path) -> Iterator[tuple[str, list[list[str]]]]:
    """Each sheet with its rows of texts, from the first row on. `DataError` for a file that is no whole workbook."""
    calamine = need("python_calamine", extra="documents", why="reading spreadsheets")
    try:
        with path.open("rb") as file, calamine.CalamineWorkbook.from_filelike(file) as book:  # whatever its name says
            for name in book.sheet_names:
                cells = book.get_sheet_by_name(name).to_python(skip_empty_area=False)
                yield name, [[_text(cell) for cell in row] for row in cells]
    except (calamine.CalamineError, OSError) as error:
        raise DataError(
            f"cannot read {path}: not a whole spreadsheet ({error or type(error).__name__}); save it again, or "
            "rename it if it is something else"
        ) from error


def _text(cell: object) -> str:
    if isinstance(cell, float) and cell.is_integer():  # a spreadsheet keeps all numbers so
        return str(int(cell))
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell).strip()


def sheet_rows(path: Path, expected: Collection[str] = ()) -> Iterator[Row | BadRow]:
    """Yield the rows of all sheets, each under its sheet's first row with a text; empty rows are no rows.

    A place is the row of its sheet. A value beyond the header makes a row a `BadRow`. Raises `DataError` for a sheet
    whose first row is not a header; `expected` are names that it may have.
    """
    for sheet, (_, cells) in enumerate(_sheets(path), 1):
        file = str(path) if sheet == 1 else f"{path} (sheet {sheet})"
        full = [(number, row) for number, row in enumerate(cells, 1) if any(row)]
        if not full:
            continue
        number, names = full[0]
        sample = [row for _, row in full[1 : SAMPLE_ROWS + 1]]
        reason = repeated_reason([name for name in names if name]) or header_reason(names, sample, expected)
        if reason:
            raise DataError(f"{Place(file, number, 'row')}: {reason}")
        for number, row in full[1:]:
            place = Place(file, number, "row")
            if any(text and not name for name, text in zip(names, row, strict=False)) or any(row[len(names) :]):
                yield BadRow(place, "a value under no header")
            else:
                yield Row({name: text for name, text in zip(names, row, strict=False) if name}, place)


def as_markdown(path: Path) -> str:
    """All sheets as Markdown tables under their names; empty rows and columns left out."""
    parts = []
    for name, rows in _sheets(path):
        full = [row for row in rows if any(row)]
        kept = [at for at in range(max(map(len, full), default=0)) if any(row[at] for row in full if at < len(row))]
        lines = ["| " + " | ".join(_cell(row[at]) if at < len(row) else "" for at in kept) + " |" for row in full]
        if lines:
            parts.append("\n".join([f"## {name}", "", lines[0], "|" + " --- |" * len(kept), *lines[1:]]))
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")
