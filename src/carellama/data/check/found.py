"""What `carellama data check` found in a file, as lines for a terminal and as plain values for a program."""

from __future__ import annotations

import json
from array import array
from typing import Any

import numpy as np

from carellama.data.check.run import Check, Problem

WIDTH = 10  # of the labels
MOST_COLUMNS = 20  # that are named


def lines(check: Check) -> list[str]:
    """The findings as lines; no text of the file is among them."""
    found = [str(check.path), _line("kind", ", ".join(part for part in (check.kind, check.encoding) if part) or "?")]
    kinds = ", ".join(f"{count} {kind}" for kind, count in check.kinds.items())
    refused = sum(problem.count for problem in check.errors.values())
    found.append(
        _line("rows", f"{check.rows}, usable: {kinds or 'none'}" + (f"; errors: {refused}" if refused else ""))
    )
    found.append(_line("shape", _shape(check)))
    for label, sizes in (("asked", check.asked), ("answered", check.answered)):
        if sizes:
            found.append(
                _line(label, "median {median}, 95% up to {p95}, most {most} characters".format(**_sizes(sizes)))
            )
    if check.languages:
        measured = check.languages.total()
        shares = ", ".join(f"{name} {count / measured:.0%}" for name, count in check.languages.most_common())
        found.append(_line("language", shares + (f" (of {measured} records)" if measured < check.usable else "")))
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


def _shape(check: Check) -> str:
    guess = check.guess
    if guess.shape is None and guess.datasets:
        others = f" (also {', '.join(guess.datasets[1:])})" if guess.datasets[1:] else ""
        return f"layout of the catalogue's dataset {guess.datasets[0]}{others}"
    if guess.shape is None:
        return f"none that is known{_columns(check)}"
    mapping = ", ".join(f"{what} = {column!r}" for what, column in guess.mapping.items())
    return f"{guess.shape} ({mapping})"


def _columns(check: Check) -> str:
    """The columns of a file of no known shape, where they are sure to be names and not texts or patients' numbers."""
    if check.columns and check.kind.startswith(("CSV", "TSV")):
        return f": {len(check.columns)} columns; the first line must name them, such as question and answer"
    if check.rows == 1 and len(check.columns) > 1:
        return ": the file is one object; rows stand in an array, or one a line"
    if not check.columns or len(check.columns) > MOST_COLUMNS:
        return ""
    return f": it has {', '.join(repr(name[:40]) for name in check.columns)}; name them in dataset_info.json"


def _where(problem: Problem, unit: str) -> str:
    if not problem.lines:
        return f" ({problem.detail})"
    several = "s" if len(problem.lines) > 1 else ""
    more = ", ..." if problem.count > len(problem.lines) else ""
    detail = f" (first: {problem.detail})" if problem.detail else ""
    return f": {unit}{several} {', '.join(map(str, problem.lines))}{more}{detail}"


def _sizes(sizes: array[int]) -> dict[str, int]:
    values = np.frombuffer(sizes, dtype=np.uint32)
    median, most = np.percentile(values, (50, 95))
    return {"median": int(median), "p95": int(most), "most": int(values.max())}


def to_dict(check: Check) -> dict[str, Any]:
    """The findings as plain values, for --report."""

    def problems(table: dict[str, Problem]) -> dict[str, Any]:
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
        "shape": check.guess.shape,
        "columns": check.guess.mapping if check.guess.shape else {},
        "catalogue": list(check.guess.datasets),
        "convert": check.command or None,
        "errors": problems(check.errors),
        "warnings": problems(check.warnings),
        "asked": _sizes(check.asked) if check.asked else None,
        "answered": _sizes(check.answered) if check.answered else None,
        "languages": dict(check.languages),
        "dataset_info": check.entry,
    }
