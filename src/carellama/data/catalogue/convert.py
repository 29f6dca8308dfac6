"""`carellama data convert`: a dataset in its own layout, or any file or documents, to records in one JSON Lines file.

    carellama data convert cmedqa2:pairs --from ~/Downloads/cMedQA2 --output pairs.jsonl

Each file gets the first layout that fits it; counts in are counts out and counted skips. `records_file` does the
same for training, once, into the cache. The layouts are those of `carellama.data.catalogue.layouts`.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from carellama.config.data_commands import ConvertOptions
from carellama.config.environment import dataset_home
from carellama.config.reader import parse_options
from carellama.data.catalogue.entries import Entry, Part, Split, entries, find
from carellama.data.catalogue.layout import Layout, Outcome, first_row
from carellama.data.catalogue.layouts import LAYOUTS
from carellama.data.catalogue.named import files_of, paths_in
from carellama.data.convert import require_unicode
from carellama.data.detect_format import STAGE_KINDS, detect_file
from carellama.data.file_format import KIND_NAMES, FileFormat, counted_kind
from carellama.data.report import DataReport
from carellama.data.write import writer
from carellama.errors import UserError, nearest
from carellama.files import create_once, print_status, refuse_existing, write_json
from carellama.records import BadRecord, Record
from carellama.text import counted

ANOTHER_KIND = "another kind of file"
VERSION = 2  # of what the converters make; raise it when a layout's records change


@dataclass
class Conversion:
    """What becomes of some files: what reads each, which nothing reads, and which were left out."""

    name: str
    layouts: dict[str, list[Path]] = field(default_factory=dict)  # layout -> its files
    formats: dict[Path, FileFormat] = field(default_factory=dict)  # file -> its row format
    unread: dict[Path, str] = field(default_factory=dict)  # file -> why nothing reads it
    left_out: list[Path] = field(default_factory=list)  # files of a folder that its dataset does not name

    def outcomes(self) -> Iterator[Outcome]:
        """What each row gives: its records, or why it has none."""
        for path, found in self.formats.items():
            for row in found.rows(path):
                try:
                    yield (found.record(row),)
                except BadRecord as error:
                    yield error
        for name, paths in self.layouts.items():
            yield from LAYOUTS[name].convert(*paths)

    def by_kind(self) -> dict[str, Conversion]:
        """A conversion for each kind of record, so that no output mixes them."""
        found: dict[str, Conversion] = {}
        for path, one in self.formats.items():
            kind = "no records" if one.kind is None else KIND_NAMES[one.kind]
            found.setdefault(kind, Conversion(self.name)).formats[path] = one
        for name, paths in self.layouts.items():
            kind = KIND_NAMES[STAGE_KINDS[LAYOUTS[name].stage]]
            found.setdefault(kind, Conversion(self.name)).layouts[name] = paths
        return found

    def records(self, report: DataReport) -> Iterator[Record]:
        """All records in order, each row counted in `report`."""
        report.row(self.name, 0)
        for outcome in self.outcomes():
            report.row(self.name)
            try:
                if isinstance(outcome, BadRecord):
                    raise outcome
                for record in outcome:
                    require_unicode(record)
            except BadRecord as error:
                report.note(self.name, "skipped", error.place, error.reason)
            else:
                yield from outcome


def run(argv: Sequence[str]) -> None:
    """Convert, write the records, and print the account: a file for each kind of record."""
    (arguments,) = parse_options((ConvertOptions,), argv, "carellama data convert NAME_OR_FILE", positional="name")
    conversion = planned(arguments)
    outputs = _outputs(conversion, arguments)
    for path, reason in conversion.unread.items():
        print_status(f"not read: {path}: {reason}")
    if conversion.left_out:
        names = ", ".join(path.name for path in conversion.left_out[:5])
        more = ", ..." if len(conversion.left_out) > 5 else ""
        print_status(
            f"left out: {counted(len(conversion.left_out), 'file')} that {conversion.name} does not name: "
            f"{names}{more} "
            "(--from FILE converts a file of any name)"
        )
    for output, own in outputs.items():
        made = _written(own, output)
        print(f"{output}: {', '.join(counted_kind(count, kind) for kind, count in made.items())}")
        for kind in made:
            if kind != "exam questions":
                print(f"dataset_info.json: {json.dumps({output.stem: _info(output.name, kind)})}")
    print(f"next: carellama data check {' '.join(shlex.quote(str(output)) for output in outputs)}")


def _outputs(conversion: Conversion, arguments: ConvertOptions) -> dict[Path, Conversion]:
    """The files to write: one, or NAME-KIND for each kind of record. `UserError` for one that is there already."""
    output = Path(arguments.output or f"{Path(conversion.name.replace(':', '-')).name}.jsonl")
    kinds = conversion.by_kind()
    if len(kinds) > 1 and (useless := kinds.pop("no records", None)):
        conversion.unread |= dict.fromkeys(useless.formats, "no row of the first could be used")
    if len(kinds) == 1:
        found = {output: next(iter(kinds.values()))}
    else:
        found = {
            output.with_name(f"{output.stem}-{kind.replace(' ', '-')}{output.suffix}"): own
            for kind, own in kinds.items()
        }
    for path in found:
        sources = (source for paths in conversion.layouts.values() for source in paths)
        refuse_existing(path, (*sources, *conversion.formats), overwrite=arguments.overwrite)
    return found


def _written(conversion: Conversion, output: Path) -> dict[str, int]:
    """Write the records of one kind; how many of it there are."""
    report, made = DataReport(), Counter[str]()
    with writer(output) as write:
        for record in conversion.records(report):
            write(record)
            made[KIND_NAMES[type(record)]] += 1
        if not made:
            raise UserError(f"{conversion.name}: no row could be used; {'; '.join(report.lines())}")
    for name, paths in conversion.layouts.items():
        print_status(f"layout {name}: {', '.join(str(path) for path in paths[:5])}{', ...' if len(paths) > 5 else ''}")
    for path, found in conversion.formats.items():
        print_status("; ".join([f"{path}: {found.describe()}", *found.remarks()]))
    for line in report.lines():
        print_status(line)
    return made


def _info(file_name: str, kind: str) -> dict[str, object]:
    """The entry of dataset_info.json for a file that `writer` wrote."""
    if kind == "texts":
        return {"file_name": file_name, "columns": {"prompt": "text", "query": "", "response": "", "history": ""}}
    columns = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
    entry: dict[str, object] = {"file_name": file_name, "columns": {**columns, "system": "system"}}
    return entry | {"ranking": True} if kind == "preference pairs" else entry


def planned(arguments: ConvertOptions) -> Conversion:
    """Find the files and the layout of each. `UserError` where nothing can be converted."""
    given = Path(arguments.name).expanduser()
    name = arguments.name.partition(":")[0]
    if arguments.name and name not in entries():
        if given.exists() or given.suffix or "/" in arguments.name:
            return of_path(given, arguments)
        hint = nearest(name, entries())
        raise UserError(
            f"{name}: there is no such file or folder, and the catalogue has no dataset of this name.{hint}"
        )
    entry, part = find(arguments.name)
    if arguments.from_path is None:
        return of_folder(entry, part, pulled(entry), arguments.split)
    place = Path(arguments.from_path).expanduser()
    if not place.exists():
        raise UserError(f"--from {place}: there is no such file or folder")
    if place.is_dir():
        found = of_folder(entry, part, place, arguments.split)
        read = {path for paths in found.layouts.values() for path in paths} | set(found.unread)
        found.left_out = [path for path in paths_in(place) if path not in read]
        return found
    return of_file(arguments.name, entry, (part,) if ":" in arguments.name else entry.parts, place)


def of_file(name: str, entry: Entry, parts: Sequence[Part], path: Path) -> Conversion:
    """One file, whatever it is called, by the layouts of parts of a dataset. What is only held out has to be named."""
    parts = [part for part in parts if part.files] or parts
    try:
        return _fitted(name, [path], {layout: LAYOUTS[layout] for part in parts for layout in part.layouts})
    except UserError:
        for part in entry.parts:
            if part not in parts and any(_misfit(path, LAYOUTS[layout]) is None for layout in part.layouts):
                raise UserError(
                    f"{path} is not for training: to convert it all the same name its part, {entry.name}:{part.name}"
                ) from None
        raise


def pulled(entry: Entry) -> Path:
    """The folder of a dataset's fetched files; `UserError` where it was not fetched."""
    folder = dataset_home() / entry.name / "files"
    if not folder.is_dir():
        raise UserError(
            f"{entry.name} is in the catalogue, but not on this machine: carellama data pull {entry.name} "
            f"(files that you have: carellama data pull {entry.name} --from FOLDER)"
        )
    return folder


def of_folder(entry: Entry, part: Part, folder: Path, split: Split) -> Conversion:
    """The files of a part in a folder: those its patterns name, else (named otherwise) all that its layouts fit."""
    patterns = part.patterns(split)
    if not patterns:
        what = "that are held out for evaluation" if split == "held_out" else "to train on: --split held_out"
        raise UserError(f"{entry.name}:{part.name} has no files {what}")
    found = files_of(part, folder, split)
    if not found:
        other: Split = "held_out" if split == "train" else "train"
        there = (
            f" (those here are {'held out: --split held_out' if other == 'held_out' else 'to train on: --split train'})"
            if files_of(part, folder, other)
            else ""
        )
        raise UserError(
            f"{folder} has no file of {entry.name}:{part.name}, whose files are called {', '.join(patterns)}{there}; "
            "convert a file of another name with --from FILE"
        )
    return _fitted(f"{entry.name}:{part.name}", found, {name: LAYOUTS[name] for name in part.layouts})


def of_path(place: Path, arguments: ConvertOptions) -> Conversion:
    """A file or folder given instead of a dataset's name. `UserError` where it is not there, or with options of one."""
    if not place.exists():
        raise UserError(f"{place}: there is no such file or folder, and no dataset of the catalogue of this name")
    if arguments.from_path is not None:
        raise UserError(f"{place} is a file or folder, not a dataset of the catalogue: give it alone, without --from")
    if arguments.split != "train":
        raise UserError(f"--split {arguments.split} belongs to a dataset of the catalogue; {place} is taken whole")
    return of_unknown(place)


def of_unknown(place: Path) -> Conversion:
    """A file, or all files of a folder, that belong to no named dataset: read as `detect_file` says."""
    paths = paths_in(place) if place.is_dir() else [place]
    if not paths:
        raise UserError(f"{place} holds no files")
    found = Conversion(place.resolve().stem)
    for path in paths:
        try:
            detected = detect_file(path)
        except UserError as error:
            found.unread[path] = str(error).removeprefix(f"{path}: ")
            continue
        if detected.row_format is None:
            found.unread[path] = detected.problem
        elif detected.layout is not None:
            found.layouts.setdefault(detected.layout, []).append(path)
        else:
            found.formats[path] = detected
    if not found.layouts and not found.formats:
        file, reason = next(iter(found.unread.items()))
        others = f"; and {counted(len(found.unread) - 1, 'other file')}" if len(found.unread) > 1 else ""
        raise UserError(f"{reason if str(file) in reason else f'{file}: {reason}'}{others}")
    return found


def _fitted(name: str, paths: Sequence[Path], layouts: Mapping[str, Layout]) -> Conversion:
    """Give each file the first layout that fits; `UserError` where none fits any."""
    found = Conversion(name)
    for path in paths:
        misfits = []
        for layout_name, layout in layouts.items():
            misfit = _misfit(path, layout)
            if misfit is None:
                found.layouts.setdefault(layout_name, []).append(path)
                break
            misfits.append(f"{layout_name}: {misfit}")
        else:
            found.unread[path] = _why(misfits)
    if not found.layouts:
        file, reason = next(((str(path), why) for path, why in found.unread.items()), (name, "no files"))
        others = f" and {counted(len(found.unread) - 1, 'other file')}" if len(found.unread) > 1 else ""
        raise UserError(f"{file} has no layout of {name} ({reason}){others}; see carellama data check")
    return found


def _why(misfits: Sequence[str]) -> str:
    """Why no layout fits, from "layout: reason" of each: once where all say the same (a file that is not text)."""
    reasons = dict.fromkeys(misfit.partition(": ")[2] for misfit in misfits)
    telling = [reason for reason in reasons if reason != ANOTHER_KIND]
    if len(telling) == 1 or len(reasons) == 1:
        return telling[0] if telling else ANOTHER_KIND
    return "; ".join(misfits[:4])


def _misfit(path: Path, layout: Layout) -> str | None:
    """Why a file does not have a layout: the first field that is missing and the row; None where it has it."""
    try:
        if layout.fits(path):
            return None
        if layout.recognises is not None:
            return ANOTHER_KIND
        first = first_row(path, layout.rows)
    except UserError as error:
        return str(error)
    if first is None:
        return "no row can be read"
    missing = next((name for name in layout.fields if name not in first.fields), None)
    return f"{first.place} has no {missing!r}, it has {', '.join(map(repr, list(first.fields)[:8]))}"


def records_file(name: str, split: Split) -> Path:
    """The records of a fetched dataset as JSON Lines, converted on first use; the account lies beside them."""
    entry, part = find(name)
    folder = pulled(entry)
    conversion = of_folder(entry, part, folder, split)
    paths = [path for files in conversion.layouts.values() for path in files]
    stamps = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    key = hashlib.sha256(json.dumps([VERSION, sorted(conversion.layouts), *stamps]).encode()).hexdigest()
    target = folder.parent / "records" / f"{part.name}-{split}-{key[:12]}"
    with create_once(target) as making:
        if making:
            print_status(f"converting {name} ({split})")
            report = DataReport()
            with writer(making / "records.jsonl") as write:
                for record in conversion.records(report):
                    write(record)
            write_json(making / "report.json", report.to_dict())
            for line in report.lines():
                print_status(line)
    return target / "records.jsonl"
