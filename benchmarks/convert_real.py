"""Every file of a folder of real datasets through the converter of its dataset: rows in, records out, skips by reason.

    python benchmarks/convert_real.py ~/datasets       # holds one folder a dataset, named as in the catalogue

The files are other people's and are not part of this repository. Nothing is written.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from carellama.config.data_commands import ConvertOptions
from carellama.data.catalogue.convert import kind_of, planned
from carellama.data.catalogue.entries import entries
from carellama.data.report import DataReport
from carellama.errors import UserError


def main() -> None:
    """Print a table in Markdown."""
    root = Path(sys.argv[1]).expanduser()
    print("| dataset | file | layout | rows | records | skipped |\n| --- | --- | --- | ---: | ---: | --- |")
    for name in entries():
        if not (root / name).is_dir():
            print(f"| {name} | no file here | | | | |")
            continue
        for file in sorted((root / name).iterdir()):
            print(f"| {name} | {file.name} | {' | '.join(outcome(name, file))} |", flush=True)


def outcome(name: str, file: Path) -> tuple[str, str, str, str]:
    """(layout, rows, records by kind, skipped by reason) of one file."""
    report = DataReport()
    made = Counter[str]()
    try:
        conversion = planned(ConvertOptions(name=name, from_path=str(file)))
        for record in conversion.records(report):
            made[kind_of(record)] += 1
    except UserError as error:
        return "none", "", "", str(error).replace(str(file), "").replace("|", "/")[:160]
    (counts,) = report.datasets.values()
    skipped = ", ".join(f"{cases.count} {reason}" for reason, cases in counts.done["skipped"].items())
    kinds = ", ".join(f"{count} {kind}" for kind, count in made.items())
    return ", ".join(conversion.layouts), str(counts.rows), kinds, skipped


if __name__ == "__main__":
    main()
