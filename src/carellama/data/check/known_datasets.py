"""Which datasets of the catalogue have files of a format: a hint for `carellama data check`, never a decision.

    datasets_for(path, found, first_rows)        # ("cmexam", "cmb:exam")

The dataset in whose folder a file is, or whose files are so called, comes first.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from carellama.data.catalogue.entries import entries
from carellama.data.catalogue.layouts import LAYOUTS
from carellama.data.file_format import FileFormat
from carellama.data.readers import Row
from carellama.data.readers import rows as read_rows


def datasets_for(path: Path, found: FileFormat, first: Sequence[Row]) -> tuple[str, ...]:
    """Return NAME or NAME:PART of the datasets of a layout; of a row format, the one that the file is likely of."""
    likely = _layouts(path)
    if found.layout is not None:
        return tuple(dict.fromkeys(dataset for _, dataset, name in likely if name == found.layout))
    for unlikely, dataset, name in likely:
        layout = LAYOUTS.get(name)
        if all(unlikely) or layout is None or layout.recognises is not None or layout.rows is not read_rows:
            continue
        if first and layout.fields and set(layout.fields) <= set(first[0].fields):
            return (dataset,)
    return ()


def _layouts(path: Path) -> list[tuple[tuple[bool, bool], str, str]]:
    """(are folder and file called otherwise, NAME or NAME:PART, layout) of the catalogue, the likeliest first."""
    found = []
    for name, entry in entries().items():
        for number, part in enumerate(entry.parts):
            patterns = [one for one in part.patterns("train", "held_out") if len(Path(one).stem.strip("*?_-.")) > 3]
            called = any(fnmatch.fnmatch(path.name, pattern.rpartition("/")[2]) for pattern in patterns)
            unlikely = (name not in path.absolute().parts, not called)
            found += [(unlikely, f"{name}:{part.name}" if number else name, layout) for layout in part.layouts]
    return sorted(found, key=lambda one: one[0])
