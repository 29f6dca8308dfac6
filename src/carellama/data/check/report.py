"""What `carellama data check` found in a file, as lines for a terminal and as plain values for a program."""

from __future__ import annotations

import json
import shlex
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from carellama.data.file_format import PARTLY, FileFormat, counted_kind
from carellama.data.stats import Measurements, summary
from carellama.records import Place
from carellama.text import counted

WIDTH = 10  # of the labels
MOST_COLUMNS = 20  # that are named


@dataclass
class Problem:
    """How often something is wrong, and where first."""

    count: int = 0
    lines: list[int | str] = field(default_factory=list)  # text: with the sheet of a workbook
    detail: str = ""  # of the first case


@dataclass
class Check(Measurements):
    """What was found in one file."""

    path: Path
    kind: str = ""
    encoding: str = ""
    format: FileFormat = field(default_factory=FileFormat)
    datasets: tuple[str, ...] = ()  # of the catalogue, NAME or NAME:PART, that have files of this format
    columns: tuple[str, ...] = ()  # of most of the first rows
    errors: dict[str, Problem] = field(default_factory=dict)
    warnings: dict[str, Problem] = field(default_factory=dict)
    unended: int = 0
    answers: int = 0
    lines: array[int] = field(default_factory=lambda: array("q"))  # of each usable record
    hashes: array[int] = field(default_factory=lambda: array("q"))
    entry: dict[str, dict[str, object]] | None = None  # of dataset_info.json; None: no records, or to be converted
    most_shown: int = 20
    unit: str = "line"  # in which places are counted: line or row

    def error(self, line: int | Place, reason: str, detail: str = "") -> None:
        """Count a row that training refuses."""
        self._note(self.errors, line, reason, detail)

    def warn(self, line: int | Place, reason: str, detail: str = "") -> None:
        """Count something suspicious of a row."""
        self._note(self.warnings, line, reason, detail)

    def _note(self, table: dict[str, Problem], line: int | Place, reason: str, detail: str) -> None:
        problem = table.get(reason)
        if problem is None:
            problem = table[reason] = Problem(detail=detail)
        problem.count += 1
        if len(problem.lines) < self.most_shown:
            problem.lines.append(line if isinstance(line, int) else self._line_of(line))

    def _line_of(self, place: Place) -> int | str:
        """The line or row of a place, with the sheet of a workbook but its first."""
        sheet = place.file.removeprefix(str(self.path)).strip()
        return f"{place.line} {sheet}" if sheet.startswith("(sheet ") else place.line

    @property
    def command(self) -> str:
        """The command that converts the file, where a layout of the catalogue reads it."""
        path = shlex.quote(str(self.path))
        if self.datasets and self.format.layout != "document":
            return f"carellama data convert {self.datasets[0]} --from {path}"
        return f"carellama data convert {path}" if self.format.layout else ""


def lines(check: Check) -> list[str]:
    """The findings as lines; no text of the file is among them."""
    found = [str(check.path), _line("kind", ", ".join(part for part in (check.kind, check.encoding) if part) or "?")]
    kinds = ", ".join(counted_kind(count, kind) for kind, count in check.kinds.items())
    refused = sum(problem.count for problem in check.errors.values())
    found.append(
        _line("rows", f"{check.rows}, usable: {kinds or 'none'}" + (f"; errors: {refused}" if refused else ""))
    )
    found.append(_line("format", _format(check)))
    if check.format.unused:
        names = ", ".join(repr(name[:40]) for name in check.format.unused[:MOST_COLUMNS])
        found.append(_line("not used", f"column{'s' * (len(check.format.unused) > 1)} {names}"))
    if check.format.partly:
        found.append(_line("in part", f"{PARTLY} {', '.join(repr(name[:40]) for name in check.format.partly)}"))
    for label, sizes in check.measures:
        if any(sizes):
            found.append(
                _line(label, "median {median}, 95% up to {p95}, most {most} characters".format(**_sizes(sizes)))
            )
    if check.languages:
        measured = check.languages.total()
        shares = ", ".join(f"{name} {count / measured:.0%}" for name, count in check.languages.most_common())
        found.append(
            _line("language", shares + (f" (of {counted(measured, 'record')})" if measured < check.usable else ""))
        )
    unit = check.unit
    for label, table in (("errors", check.errors), ("warnings", check.warnings)):
        found.append(_line(label, "" if table else "none"))
        width = max((len(str(problem.count)) for problem in table.values()), default=0)
        for reason, problem in sorted(table.items(), key=lambda item: -item[1].count):
            found.append(f"    {problem.count:>{width}}  {reason}{_where(problem, unit)}")
    entry = check.entry
    if entry is not None:
        found.append("  dataset_info.json")
        found += [f"    {line[2:]}" for line in json.dumps(entry, ensure_ascii=False, indent=2).splitlines()[1:-1]]
    if check.command:
        found.append(_line("convert" if entry is None else "or", check.command))
    return found


def _line(label: str, text: str) -> str:
    return f"  {label:<{WIDTH}}{text}".rstrip()


def _format(check: Check) -> str:
    found = check.format
    if found.row_format is None:
        return found.problem or "no known format"
    if found.layout is None:
        marked = "; the questions are parted into turns at their speaker marks" if found.columns.speakers else ""
        return found.describe() + marked
    if found.layout == "document":
        return "no column names of rows, so its text is read as a document, for --stage pt"
    others = f" (also {', '.join(check.datasets[1:])})" if check.datasets[1:] else ""
    also = f"; also fits {', '.join(found.also)}" if found.also else ""
    return f"layout {found.layout} of the catalogue's dataset {check.datasets[0]}{others}{also}"


def _where(problem: Problem, unit: str) -> str:
    if not problem.lines:
        return f" ({problem.detail})"
    several = "s" if len(problem.lines) > 1 else ""
    more = ", ..." if problem.count > len(problem.lines) else ""
    detail = f" (first: {problem.detail})" if problem.detail else ""
    return f": {unit}{several} {', '.join(map(str, problem.lines))}{more}{detail}"


def _sizes(sizes: array[int]) -> dict[str, int]:
    _, median, high, _, most = summary(sizes)
    return {"median": round(median), "p95": round(high), "most": round(most)}


def to_dict(check: Check) -> dict[str, object]:
    """The findings as plain values, for --report."""

    def problems(table: dict[str, Problem]) -> dict[str, object]:
        return {
            reason: {"count": problem.count, "lines": problem.lines, "detail": problem.detail}
            for reason, problem in table.items()
        }

    return {
        "file": str(check.path),
        "kind": check.kind,
        "encoding": check.encoding,
        "rows": check.rows,
        "usable": dict(check.kinds),
        "shape": check.format.row_format if check.format.layout is None else None,
        "layout": check.format.layout,
        "columns": check.format.mapping,
        "columns_not_used": list(check.format.unused[:MOST_COLUMNS]),
        "columns_in_part": list(check.format.partly),
        "problem": check.format.problem,
        "catalogue": list(check.datasets),
        "convert": check.command or None,
        "errors": problems(check.errors),
        "warnings": problems(check.warnings),
        **{label: _sizes(sizes) for label, sizes in check.measures if any(sizes)},
        "languages": dict(check.languages),
        "dataset_info": check.entry,
    }
