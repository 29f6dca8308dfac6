"""Line coverage of the package, measured by slipcover in the tests' processes and in the commands that they fork.

    python -m slipcover --source src/carellama --silent -m pytest -n 2

`make check` runs the tests so. The report names the share of lines that ran, by room, and fails the session below
`LEAST`. A command that a test starts with `sys.executable`, or that is killed, is not measured.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

LEAST = 92.0  # percent of the package's lines


class ForkCoverage:
    """The lines that a server of forks and its children run, one file for each process."""

    def __init__(self) -> None:
        import slipcover

        sources = os.environ["SLIPCOVER_SOURCE"].split(",")
        self.folder = Path(os.environ["SLIPCOVER_COVERAGE_DIR"])
        self.lines = slipcover.Slipcover(source=sources, exclude_lines=[], d_miss_threshold=10_000)
        slipcover.ImportManager(self.lines, slipcover.FileMatcher(sources=sources)).__enter__()

    def begin(self) -> None:
        """Forget, in a child, what the server ran."""
        self.lines.signal_child_process()

    def write(self) -> None:
        """Write which lines ran in this process."""
        files = self.lines.get_coverage()["files"]
        ran = {file: lines["executed_lines"] for file, lines in files.items() if lines["executed_lines"]}
        file = self.folder / f"fork-{os.getpid()}.json"
        try:
            file.write_text(json.dumps(ran), encoding="utf-8")
        except OSError:  # a test has limited the size of the files of this process
            file.unlink(missing_ok=True)


def enabled() -> bool:
    """Return whether the lines are measured in this session and all its processes share a folder."""
    return bool(os.environ.get("SLIPCOVER_ENABLED") and os.environ.get("SLIPCOVER_COVERAGE_DIR"))


def by_room(folder: Path) -> dict[str, tuple[int, int]]:
    """Return for each room of the package how many lines ran, and how many there are."""
    merged: dict[str, Any] = json.loads((folder / "merged.json").read_text(encoding="utf-8"))["files"]
    ran = {str(Path(file).resolve()): set(lines["executed_lines"]) for file, lines in merged.items()}
    every = {file: ran[file] | set(merged[name]["missing_lines"]) for file, name in zip(ran, merged, strict=True)}
    for one in folder.glob("fork-*.json"):
        for file, lines in json.loads(one.read_text(encoding="utf-8")).items():
            if (name := str(Path(file).resolve())) in ran:
                ran[name].update(lines)
    total: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    for file, lines in every.items():
        parts = Path(file).parts
        within = parts[len(parts) - parts[::-1].index("carellama") : -1]
        room = "/".join(within) or "."
        total[room] += len(lines)
        covered[room] += len(lines & ran[file])
    return {room: (covered[room], total[room]) for room in sorted(total)}


def percent(rooms: dict[str, tuple[int, int]]) -> float:
    """Return the share of all lines that ran, in percent."""
    return 100 * sum(ran for ran, _ in rooms.values()) / sum(of for _, of in rooms.values())


def report(rooms: dict[str, tuple[int, int]]) -> str:
    """Return the report: a line for each room, the total last."""
    rows = [f"{100 * ran / of:6.1f}%  {ran:6,} of {of:6,}  {room}" for room, (ran, of) in rooms.items() if of]
    ran, of = (sum(column) for column in zip(*rooms.values(), strict=True))
    return "\n".join([*rows, f"{100 * ran / of:6.1f}%  {ran:6,} of {of:6,}  the package (at least {LEAST:g}%)"])
