"""The account of a dataset: what came in, what went on, and what was skipped, shortened or split, by reason.

Nothing is lost silently: `rows == used + skipped` holds for every dataset, and each reason keeps the file and
line of its first cases.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from carellama.records import JSONObject, Place
from carellama.text import counted

KEPT_PLACES = 5  # places remembered for each reason
Kind = Literal["skipped", "shortened", "split"]


@dataclass
class Cases:
    """How often something was done, and where first."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, count: int, places: list[str]) -> None:
        """Add so many cases with their first places."""
        self.count += count
        self.places = (self.places + places)[:KEPT_PLACES]


@dataclass
class DatasetReport:
    """The account of one dataset."""

    rows: int = 0
    used: int = 0
    done: dict[Kind, dict[str, Cases]] = field(default_factory=lambda: {"skipped": {}, "shortened": {}, "split": {}})
    shared: int = 0  # used records of a stream that are also evaluated on
    said: list[str] = field(default_factory=list)  # what an epoch takes of the records, and what is held out

    @property
    def skipped(self) -> int:
        """Rows of which nothing was used."""
        return sum(cases.count for cases in self.done["skipped"].values())


@dataclass
class DataReport:
    """Counts per dataset; reports of parts of a dataset can be merged in order."""

    datasets: dict[str, DatasetReport] = field(default_factory=dict)

    def row(self, dataset: str, count: int = 1) -> None:
        """Count rows that were read; they are used unless `note(..., "skipped", ...)` follows."""
        entry = self.datasets.setdefault(dataset, DatasetReport())
        entry.rows += count
        entry.used += count

    def note(self, dataset: str, kind: Kind, place: Place, reason: str) -> None:
        """Count something done to a row that was counted by `row`."""
        entry = self.datasets[dataset]
        entry.done[kind].setdefault(reason, Cases()).add(1, [str(place)])
        if kind == "skipped":
            entry.used -= 1

    @property
    def skipped(self) -> int:
        """Rows of all datasets of which nothing was used."""
        return sum(entry.skipped for entry in self.datasets.values())

    def say(self, dataset: str, line: str) -> None:
        """Add a line on what is made of the records of a dataset."""
        self.datasets[dataset].said.append(line)

    def say_all(self, dataset: str, lines: Iterable[str]) -> None:
        """Add lines, each once."""
        said = self.datasets[dataset].said
        said += [line for line in lines if line not in said]

    def add_dataset(
        self, name: str, other: DataReport, remarks: Iterable[str], limit: int | None, max_samples: int | None
    ) -> str:
        """Add the account of a dataset, as "NAME (evaluation)" if there is one of the name; return the name it has.

        `limit` rows were read at most: the value of --max_samples, if that is equal, else of --max_eval_samples.
        """
        given = name if name not in self.datasets else f"{name} (evaluation)"
        self.merge(DataReport({given: other.datasets[name]}))
        self.say_all(given, remarks)
        if other.datasets[name].rows == limit:
            option = "--max_samples" if limit == max_samples else "--max_eval_samples"
            self.say(given, f"reading ended after {counted(limit, 'row')}, as {option} says")
        return given

    def merge(self, other: DataReport) -> None:
        """Add the account of rows that come after those of this one."""
        for name, theirs in other.datasets.items():
            ours = self.datasets.setdefault(name, DatasetReport())
            ours.rows += theirs.rows
            ours.used += theirs.used
            ours.shared += theirs.shared
            ours.said += theirs.said
            for kind, reasons in theirs.done.items():
                for reason, cases in reasons.items():
                    ours.done[kind].setdefault(reason, Cases()).add(cases.count, cases.places)
            assert ours.rows == ours.used + ours.skipped, f"{name}: {ours.rows} rows are not accounted for"

    def lines(self) -> list[str]:
        """The account as lines for a log."""
        found = []
        for name, entry in self.datasets.items():
            found.append(f"{name}: {counted(entry.rows, 'row')}, {entry.used} used, {entry.skipped} skipped")
            for kind, reasons in entry.done.items():
                for reason, cases in reasons.items():
                    first = ", ".join(cases.places) + (", ..." if cases.count > len(cases.places) else "")
                    found.append(f"  {kind} {cases.count}: {reason} ({first})")
            found += [f"  {line}" for line in entry.said]
        return found

    def to_dict(self) -> JSONObject:
        """The account as plain values, for data_report.json."""
        return {
            name: {
                "rows": entry.rows,
                "used": entry.used,
                **{
                    kind: {reason: {"count": cases.count, "first": cases.places} for reason, cases in reasons.items()}
                    for kind, reasons in entry.done.items()
                },
                **({"shared": entry.shared} if entry.shared else {}),
                **({"said": entry.said} if entry.said else {}),
            }
            for name, entry in self.datasets.items()
        }

    @classmethod
    def from_dict(cls, values: JSONObject) -> DataReport:
        """The inverse of `to_dict`."""
        report = cls()
        for name, entry in values.items():
            done: dict[Kind, dict[str, Cases]] = {
                kind: {reason: Cases(cases["count"], list(cases["first"])) for reason, cases in entry[kind].items()}
                for kind in ("skipped", "shortened", "split")
            }
            report.datasets[name] = DatasetReport(
                entry["rows"], entry["used"], done, entry.get("shared", 0), list(entry.get("said", []))
            )
        return report
