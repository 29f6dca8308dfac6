"""The files of a dataset on this machine: copied from a folder or unpacked, published with their record, or missing.

take(entry, Path("~/Downloads").expanduser(), dataset_home() / entry.name)
"""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NotRequired, TypedDict

from carellama.data.catalogue.entries import Entry
from carellama.data.catalogue.named import fits, next_step, paths_in
from carellama.download import hosts
from carellama.download.http import DownloadError, check_free_space, sha256_of
from carellama.errors import UserError
from carellama.files import write_json
from carellama.text import counted


class Content(TypedDict):
    """Size and sum of a file."""

    bytes: int
    sha256: str


# The file that a file of a dataset came as, or was unpacked from.
Origin = TypedDict(
    "Origin",
    {"name": str, "holds": NotRequired[str], "url": str, "from": NotRequired[str], "bytes": int, "sha256": str},
)


class PulledFile(Content):
    """A file of a dataset on this machine."""

    of: Origin


Files = dict[str, PulledFile]  # by their paths in the folder of files


class Source(TypedDict):
    """Where files came from: a host, or a folder ("local")."""

    source: str
    repo: str
    revision: str
    holds: str


class PullRecord(TypedDict, total=False):
    """What `pulled.json` says."""

    name: str
    sources: list[Source]
    time: str
    licence: str
    terms: str
    accepted: bool
    files: Files


def read_record(folder: Path) -> PullRecord:
    """Return what `pulled.json` of a folder says; empty where there is none or it is damaged: all is fetched again."""
    try:
        record: PullRecord = json.loads((folder / "pulled.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def take(entry: Entry, place: Path, home: Path) -> None:
    """Copy into the dataset's folder what belongs to it of a folder (or one file), and say what is missing."""
    base = place if place.is_dir() else place.parent
    there = paths_in(place) if place.is_dir() else [place]
    mine = [path for path in there if _belongs(entry, path.relative_to(base).as_posix())]
    if not mine:
        what = f"{place} has no file" if place.is_dir() else f"{place} is not called as a file"
        raise UserError(
            f"{what} of {entry.name}, whose files are called {', '.join(expected(entry))}; "
            f"to convert a file of another name: carellama data convert {entry.name} --from FILE"
        )
    incoming = home / "incoming"
    incoming.mkdir(parents=True, exist_ok=True)
    files: Files = {}
    try:
        for path in mine:
            files |= _copy_in(path, path.relative_to(base).as_posix(), incoming)
    except DownloadError as error:
        raise UserError(str(error)) from error
    before = {name: own for name, own in read_record(home).get("files", {}).items() if (home / "files" / name).exists()}
    for line in missing(entry, [*before, *files]):
        print(line)
    publish(entry, home, before | files, [{"source": "local", "repo": str(place), "revision": "", "holds": ""}])


def publish(entry: Entry, home: Path, files: Files, sources: list[Source]) -> None:
    """Move what waits in `incoming` into `files`, and write pulled.json."""
    incoming, target = home / "incoming", home / "files"
    for name in files:
        if (incoming / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (incoming / name).replace(target / name)
    record: PullRecord = {
        "name": entry.name,
        "sources": sources,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "licence": entry.licence,
        "terms": entry.terms,
        "accepted": entry.accept,
        "files": files,
    }
    write_json(home / "pulled.json", record)
    shutil.rmtree(incoming, ignore_errors=True)
    total = sum(own["bytes"] for own in files.values())
    print(f"{entry.name}: {counted(len(files), 'file')}, {counted(total, 'byte')} in {target}")
    print(f"next: {next_step(entry, target)}")


def expected(entry: Entry) -> list[str]:
    """The names or patterns of the files that a person should have: its parts', else its hosts'."""
    own = [name for part in entry.parts for name in part.patterns("train", "held_out") if name != "*"]
    return list(dict.fromkeys(own or [name for host in entry.hosts for name in host.files])) or ["*"]


def missing(entry: Entry, names: Sequence[str]) -> list[str]:
    """A line for each part that has none of its files among `names`; a file of an exact name is missed by itself."""
    lines = []
    for part in entry.parts:
        for what, groups in (("", part.groups("train")), (", held out", part.groups("held_out"))):
            held_out = [] if what else part.patterns("held_out")
            usable = [name for name in names if not any(fits(name, pattern) for pattern in held_out)]
            found = [group for group in groups if any(fits(name, own) for name in usable for own in group)]
            exact = [group for group in groups if group not in found and not any(map(hosts.is_pattern, group))]
            lost = exact if found else list(groups)
            if lost:
                wanted = ", ".join(" or ".join(group) for group in lost)
                lines.append(f"missing: {wanted} ({entry.name}:{part.name}{what}; see {entry.homepage})")
    return lines


def _belongs(entry: Entry, name: str) -> bool:
    patterns = [pattern for part in entry.parts for pattern in part.patterns("train", "held_out")]
    patterns += [pattern for host in entry.hosts for pattern in host.files]
    return any(fits(name, form) for pattern in patterns for form in (pattern, pattern.rpartition("/")[2]))


def _copy_in(path: Path, name: str, incoming: Path) -> Files:
    size, sha256 = path.stat().st_size, sha256_of(path)
    of: Origin = {"name": name, "url": path.resolve().as_uri(), "bytes": size, "sha256": sha256}
    if name.lower().endswith(".zip"):
        members = unpack(path, incoming, name)
        print(f"unpacked {name} ({counted(len(members), 'file')})")
        return {member: {**own, "of": of} for member, own in members.items()}
    check_free_space(size, incoming)
    target = incoming / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    print(f"copied {name} ({counted(size, 'byte')})")
    return {name: {"bytes": size, "sha256": sha256, "of": of}}


def unpack(archive: Path, folder: Path, name: str | None = None) -> dict[str, Content]:
    """Unpack a zip to `folder`/its name without `.zip`; {path in folder: its bytes and SHA-256}.

    Raises `DownloadError` for a file that is no zip, is encrypted, or has a member that leads out of its folder.
    """
    name = name or archive.relative_to(folder).as_posix()
    target = folder / name[: -len(".zip")]
    target.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Content] = {}
    try:
        with (
            zipfile.ZipFile(archive) as packed,
            tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder) as making,
        ):
            members = {_name_of(info): info for info in packed.infolist() if not info.is_dir()}
            members = {path: info for path, info in members.items() if not _litter(path)}
            for path, info in members.items():
                hosts.safe_relative_path(path)
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise DownloadError(f"{archive.name} holds a link ({path}), which is not unpacked")
            check_free_space(sum(info.file_size for info in members.values()), folder)
            for path, info in members.items():
                out = Path(making) / "all" / hosts.safe_relative_path(path)
                out.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(info) as source, out.open("wb") as file:
                    shutil.copyfileobj(source, file)
                inside = f"{name[: -len('.zip')]}/{hosts.safe_relative_path(path).as_posix()}"
                found[inside] = {"bytes": out.stat().st_size, "sha256": sha256_of(out)}
            if not found:
                raise DownloadError(f"{archive.name} holds no files")
            if target.exists():
                shutil.rmtree(target)
            (Path(making) / "all").replace(target)
    except zipfile.BadZipFile as error:
        raise DownloadError(f"{archive.name} is not a whole zip: {error}") from error
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or packed in a way that Python does not know
        raise DownloadError(f"{archive.name} cannot be unpacked: {error}") from error
    return found


def _litter(path: str) -> bool:
    return path.startswith("__MACOSX/") or path.rpartition("/")[2] in (".DS_Store", "Thumbs.db")


def _name_of(info: zipfile.ZipInfo) -> str:
    """A member's name; archives from Chinese Windows write it in GBK without saying so."""
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename
    try:
        return info.filename.encode("cp437").decode("gb18030")
    except UnicodeError:
        return info.filename
