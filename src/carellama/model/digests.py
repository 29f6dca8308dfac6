"""SHA256SUMS: the digests of all files of a folder, as coreutils' `sha256sum` writes and reads them.

    write_digests(Path("output_export"))     # then, there: sha256sum -c SHA256SUMS
    check_digests(Path("output_export"))     # ["model.safetensors: changed: ..."]; [] where all is as it was written

It tells damage from what was written; who wrote it is told by a signature (`carellama models verify`).
"""

from __future__ import annotations

import re
from pathlib import Path

from carellama.download.http import sha256_of
from carellama.errors import UserError
from carellama.files import atomic_write

DIGESTS = "SHA256SUMS"
SIGNATURE = "model.sig"  # the name that model-signing gives its file
LINE = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
# What the programs of hubs and of Git put beside the files that they fetch.
OF_HUBS = (".git", ".gitattributes", ".cache", ".msc", ".mdl", ".mv", "._____temp")
ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
SIGNS = {after: before for before, after in ESCAPES.items()}


def write_digests(folder: Path) -> None:
    """Write SHA256SUMS of all files of a folder and of its subfolders, by their relative names, sorted."""
    names = files_of(folder)  # before the new file is there, under a temporary name
    with atomic_write(folder / DIGESTS) as file:
        for name in names:
            escaped = "".join(ESCAPES.get(sign, sign) for sign in name)
            mark = "" if escaped == name else "\\"
            file.write(f"{mark}{sha256_of(folder / name)}  {escaped}\n")


def check_digests(folder: Path) -> list[str]:
    """Return what is wrong with the files of a folder, a line for each; []: all are as SHA256SUMS says.

    Changed, missing and added files are named. Raises `UserError` where there is no SHA256SUMS, or it is none.
    """
    known = read_digests(folder)
    there = files_of(folder)
    faults = [f"{name}: missing, {DIGESTS} names it" for name in known if name not in there]
    for name in there:
        if name not in known:
            faults.append(f"{name}: not in {DIGESTS}, so nobody has vouched for it")
        elif (digest := sha256_of(folder / name)) != known[name]:
            faults.append(f"{name}: changed or damaged: its SHA-256 is {digest} instead of {known[name]}")
    return faults


def read_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that SHA256SUMS names. Raises `UserError` where there is none, or it is damaged.

    A name that leads out of the folder is refused.
    """
    path = folder / DIGESTS
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except FileNotFoundError:
        raise UserError(
            f"{folder} has no {DIGESTS}, so there is nothing to compare its files with; carellama export writes one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    known: dict[str, str] = {}
    for number, line in enumerate(lines if lines != [""] else [], 1):
        found = LINE.fullmatch(line)
        if found is None:
            raise UserError(f"{path}:{number}: no line of sha256sum (64 hexadecimal digits, two spaces, a file name)")
        escaped, digest, name = found.groups()
        if escaped:
            name = re.sub(r"\\.", lambda sign: SIGNS.get(sign[0], sign[0]), name)
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{path}:{number}: {name} leads out of the folder")
        known[name.removeprefix("./")] = digest.lower()
    if not known:
        raise UserError(f"{path} names no file")
    return known


def files_of(folder: Path) -> list[str]:
    """The relative names of all files that digests are for, sorted; / between folders."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    own = (DIGESTS, SIGNATURE)
    return sorted(name.as_posix() for name in found if name.parts[0] not in OF_HUBS and name.as_posix() not in own)
