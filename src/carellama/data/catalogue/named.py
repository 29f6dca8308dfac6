"""Which files of a folder belong to a part of a dataset, and the next command to type for them.

    files_of(part, Path("files"), "train")

Only names count here; whether a file has a layout of the part is seen when it is converted.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from pathlib import Path

from carellama.data.catalogue.entries import Entry, Part, Split
from carellama.errors import UserError


def fits(name: str, pattern: str) -> bool:
    """Whether a path in a dataset's folder, or its last step alone, has a pattern."""
    return fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name.rpartition("/")[2], pattern)


def paths_in(folder: Path) -> list[Path]:
    """All files of a folder and its folders, without those whose name, or whose folder's name, begins with a dot.

    Raises `UserError` for a folder that cannot be read.
    """
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"cannot read the folder {folder}: permission denied")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(step.startswith(".") for step in path.relative_to(folder).parts)
    )


def files_of(part: Part, folder: Path, split: Split) -> list[Path]:
    """The files of a folder that a part names for a split. Nothing that is held out is among those to train on."""
    there = {path.relative_to(folder).as_posix(): path for path in paths_in(folder)}
    names = named(part, there, split)
    return [path for name, path in there.items() if name in names]


def named(part: Part, names: Iterable[str], split: Split) -> set[str]:
    """Those of the names that a part has for a split: of patterns that name the same rows, the first found."""
    usable = list(names)
    if split == "train":
        usable = [name for name in usable if not any(fits(name, pattern) for pattern in part.patterns("held_out"))]
    found: set[str] = set()
    for group in part.groups(split):
        fitting = ({name for name in usable if fits(name, pattern)} for pattern in group)
        found |= next(filter(None, fitting), set())
    return found


def next_step(entry: Entry, folder: Path) -> str:
    """The command to type once the files are there: the first part with files to train on, else one held out."""
    splits: tuple[Split, Split] = ("train", "held_out")
    for split in splits:
        for part in entry.parts:
            if files_of(part, folder, split):
                name = entry.name if part is entry.parts[0] else f"{entry.name}:{part.name}"
                return f"carellama data convert {name}{'' if split == 'train' else ' --split held_out'}"
    return f"carellama data convert {entry.name} --from FILE (no file here is called as its parts expect)"
