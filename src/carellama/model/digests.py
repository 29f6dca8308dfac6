"""SHA256SUMS: the digests of all files of a folder, as coreutils' `sha256sum` writes and reads them.

    write_digests(Path("output_export"))     # then, there: sha256sum -c SHA256SUMS
    check_digests(Path("output_export"))     # ["model.safetensors: changed: ..."]; [] where all is as it was written

It tells damage from what was written; who wrote it is told by a signature (`carellama models verify`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from carellama.download.http import sha256_of
from carellama.errors import UserError, read_failure
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
    names, _ = files_of(folder)  # before the new file is there, under a temporary name
    with atomic_write(folder / DIGESTS) as file:
        for name in names:
            escaped = "".join(ESCAPES.get(sign, sign) for sign in name)
            mark = "" if escaped == name else "\\"
            file.write(f"{mark}{sha256_of(folder / name)}  {escaped}\n")


def check_digests(folder: Path) -> list[str]:
    """Return what is wrong with the files of a folder, a line for each; []: all are as SHA256SUMS says.

    Changed, missing and added files are named, and what is no file. Raises `UserError` where there is no SHA256SUMS, or
    it is none.
    """
    known = read_digests(folder)
    there, others = files_of(folder)
    faults = [f"{name}: missing, {DIGESTS} names it" for name in known if name not in {*there, *others}]
    faults += [f"{name}: {what}, so nobody can vouch for it" for name, what in others.items()]
    for name in there:
        if name not in known:
            faults.append(f"{name}: not in {DIGESTS}, so nobody has vouched for it")
        elif fault := compare_digest(folder / name, known[name]):
            faults.append(f"{name}: {fault}")
    return faults


def compare_digest(path: Path, expected: str) -> str:
    """What is wrong with a file whose SHA-256 is known; "" where it is as it was."""
    try:
        digest = sha256_of(path)
    except OSError as error:
        return f"cannot be read: {read_failure(error)}"
    return "" if digest == expected else f"changed or damaged: its SHA-256 is {digest} instead of {expected}"


def read_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that SHA256SUMS names. Raises `UserError` where there is none, or it is damaged.

    A name that leads out of the folder is refused.
    """
    path = folder / DIGESTS
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path} is no file")
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
        if known.setdefault(name := name.removeprefix("./"), digest.lower()) != digest.lower():
            raise UserError(f"{path}:{number}: {name} has another digest in an earlier line")
    if not known:
        raise UserError(f"{path} names no file")
    return known


def files_of(folder: Path) -> tuple[list[str], dict[str, str]]:
    """(relative names of all files that digests are for, sorted; what else lies there, each with what it is).

    A link to a file, as all files are in a snapshot of the hub's cache, is that file. What a link to a folder leads to
    is not looked at: it can lie anywhere, and lead back. / is between folders.
    """
    files, others = list[str](), dict[str, str]()

    def name_of(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    def unread(error: OSError) -> None:
        others[name_of(Path(error.filename))] = f"a folder that cannot be read ({read_failure(error)})"

    for parent, folders, names in os.walk(folder, onerror=unread):
        if Path(parent) == folder:
            folders[:], names = [[one for one in some if one not in OF_HUBS] for some in (folders, names)]
        for path in (Path(parent, one) for one in [*folders, *names]):
            if path.is_file():
                files.append(name_of(path))
            elif what := _kind_of(path):
                others[name_of(path)] = what
    return sorted(set(files) - {DIGESTS, SIGNATURE}), dict(sorted(others.items()))


def _kind_of(path: Path) -> str:
    """What lies in a folder and is no file; "" for a folder in it, whose files are looked at."""
    if path.is_symlink() and path.is_dir():
        return f"a link to a folder ({path.readlink()})"
    if path.is_symlink() and not path.exists():
        return f"a link to what is not there ({path.readlink()})"
    return "" if path.is_dir() else "no file (a pipe, a socket or a device)"
