"""Where a dataset is and what it looks like: `dataset_info.json` in the 2023 format, or a file by its path.

    "name": {
      "file_name": "a.json"            a file (or folder of files) under --dataset_dir; or
      "hf_hub_url": "owner/name"       a dataset of the Hugging Face hub; or
      "script_url": "script.py"        Python that makes the rows: `def rows(dataset_dir, split)` yields them;
                                       it runs with your rights, so only with --trust_dataset_script
      "file_sha1": "..."               checked against the file
      "columns": {"prompt": ..., "query": ..., "response": ..., "history": ...}   "" = there is no such column
      "ranking": true                  accepted; the rows themselves show whether they hold ranked answers
      "formatting": "alpaca"           alpaca, sharegpt, openai, text or exam; left out: detected
      "answer_form": "index_from_1"    how an exam's answers are written; left out: detected
      "speakers": {"Human": "user"}    marks in a question that part turns, {}: none; left out: detected
      "system_prompt": "..."           system message of records without one
    }

Of hf_hub_url, script_url and file_name the first that is given counts. A name that is not there may be one of the
catalogue (`NAME` or `NAME:PART`, once pulled) or the path of a file. What an entry does not say of the format is
decided by `carellama.data.detect_format`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from carellama.config.data import DataOptions
from carellama.config.environment import world
from carellama.data.catalogue.convert import records_file
from carellama.data.catalogue.entries import Split, entries, find
from carellama.data.column_names import EXAM, Columns
from carellama.data.convert import SHAPES
from carellama.data.detect_format import FIRST_ROWS, STAGE_FORMATS, Declared, detect_file, detect_rows
from carellama.data.exam_answers import FORMS
from carellama.data.file_format import KIND_NAMES, FileFormat
from carellama.data.readers import KINDS, BadRow, Row, digest, is_data_file, rows
from carellama.data.report import DataReport
from carellama.data.speakers import Speakers, named
from carellama.data.write import COLUMNS as WRITTEN
from carellama.errors import UserError, lookup, nearest, need, read_failure
from carellama.files import print_status
from carellama.records import BadRecord, JSONObject, Place, Record

log = logging.getLogger(__name__)
INFO = "dataset_info.json"
SKIP_HINT = "--on_bad_record skip leaves such rows out and counts them"
KEYS = (
    *("file_name", "hf_hub_url", "script_url", "file_sha1", "columns", "formatting"),
    *("ranking", "answer_form", "speakers", "system_prompt", "subset", "split", "licence"),
)
WANTED: dict[str, type] = {"columns": dict, "ranking": bool, "speakers": dict}  # all others are text
COLUMNS = tuple(one.name for one in fields(Columns) if one.name not in ("answer_form", "speakers"))


@dataclass(frozen=True)
class Dataset:
    """One dataset: where its rows come from, and how they are read."""

    name: str
    declared: Declared = field(default_factory=Declared)  # what its entry says of the format
    system: str | None = None
    files: tuple[Path, ...] = ()
    hub: str | None = None
    script: Path | None = None
    subset: str | None = None
    split: str = "train"
    folder: Path = Path()
    formats: Mapping[str, FileFormat] = field(default_factory=dict)  # of each file; of a hub or script: of all, ""
    licence: str | None = None  # as its entry declares it, for model cards
    checked: bool = False  # the files were read and have the SHA-1 of file_sha1

    def rows(self) -> Iterator[Row | BadRow]:
        """All rows, from the first at each call."""
        if self.hub:
            yield from self._hub_rows()
        elif self.script:
            yield from self._script_rows(self.script)
        else:
            for path in self.files:
                found = self.formats.get(str(path))
                yield from rows(path) if found is None else found.rows(path)

    def record(self, row: Row | BadRow, system: str | None = None) -> Record:
        """The record of one row; `BadRecord` when it has none."""
        return self.formats.get(row.place.file, self.format).record(row, self.system or system)

    def records(
        self, report: DataReport, *, skips: bool, system: str | None = None, limit: int | None = None
    ) -> Iterator[Record]:
        """Yield the records of all rows, or of the first `limit`, and count the rows in `report`.

        Raises `BadRecord` for a row that has no record, unless such rows are skipped.
        """
        report.row(self.name, 0)
        for row in itertools.islice(self.rows(), limit):
            report.row(self.name)
            try:
                record = self.record(row, system)
            except BadRecord as error:
                if not skips:
                    raise error.with_hint(SKIP_HINT) from error
                report.note(self.name, "skipped", error.place, error.reason)
            else:
                yield record

    @property
    def format(self) -> FileFormat:
        """The format of the rows: of several files, of the first that has rows."""
        assert self.formats, "the format is detected before records are made"
        return next(iter(self.formats.values()))

    def detected(self) -> Dataset:
        """This dataset with its format known. Raises `UserError` when it has no rows, or the format is not clear."""
        if self.files:
            found = [(str(path), detect_file(path, self.declared)) for path in self.files]
        else:
            found = [("", detect_rows(list(itertools.islice(self.rows(), FIRST_ROWS)), self.declared, self.name))]
        with_rows = [(path, one) for path, one in found if one.seen]
        if not with_rows:
            self._refuse_empty()
        for path, one in with_rows:
            if one.row_format is None:
                raise UserError(f"{path or self.where}: {one.problem}")
        first_path, first = with_rows[0]
        for path, one in with_rows[1:]:
            if None not in (one.kind, first.kind) and one.kind is not first.kind:
                kinds = f"{first_path} holds {KIND_NAMES[first.kind]}, {path} {KIND_NAMES[one.kind]}"  # type: ignore[index]
                raise UserError(f"dataset {self.name!r} mixes kinds of records: {kinds}; give each an entry of its own")
        return replace(self, formats=dict(with_rows))

    def _refuse_empty(self) -> None:
        bad = next((row for row in self.rows() if isinstance(row, BadRow)), None)
        if bad is not None:
            detail = f" ({bad.detail})" if bad.detail else ""
            raise UserError(
                f"dataset {self.name!r} has no usable row; the first is at {bad.place}: {bad.reason}{detail}"
            )
        raise UserError(f"dataset {self.name!r} is empty: {self.where} holds no record")

    def report_format(self) -> None:
        """Say what a person should know of a format that was detected: columns not used, rows that do not fit."""
        for path, one in self.formats.items() if world()[0] == 0 else ():
            if remarks := one.remarks():
                print_status(f"{path or self.name}: {one.describe()}; {'; '.join(remarks)}")

    def remarks(self) -> list[str]:
        """The same as lines of a report; with the file before each where there are several."""
        several = len(self.formats) > 1
        return [f"{path}: {line}" if several else line for path, one in self.formats.items() for line in one.remarks()]

    @property
    def where(self) -> str:
        """The place of the dataset, for messages."""
        return self.hub or str(self.script or ", ".join(map(str, self.files)))

    def digest(self) -> str:
        """A digest of the data as far as it can be known: the bytes of files, the name of a hub dataset."""
        parts: list[object] = [self.hub, self.subset, self.split, *(digest(path) for path in self.files)]
        if self.script:
            parts.append(digest(self.script))
        formats = list(self.formats.values())
        parts += [one.layout for one in formats if one.layout]
        parts += [repr((one.row_format, one.columns)) for one in formats[1:]]
        return hashlib.sha1(json.dumps(parts).encode(), usedforsecurity=False).hexdigest()

    def _hub_rows(self) -> Iterator[Row]:
        datasets = need("datasets", extra="hub", why=f"the hub dataset {self.hub}")
        try:
            stream = datasets.load_dataset(self.hub, self.subset, split=self.split, streaming=True)
            for number, row in enumerate(stream, 1):
                yield Row(row, Place(str(self.hub), number))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the hub dataset {self.hub}: {str(error).partition(chr(10))[0]}") from error

    def _script_rows(self, script: Path) -> Iterator[Row | BadRow]:
        spec = importlib.util.spec_from_file_location(f"dataset_script_{script.stem}", script)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not hasattr(module, "rows"):
            raise UserError(f"{script} must define rows(dataset_dir, split) that yields one object a record")
        for number, row in enumerate(module.rows(self.folder, self.split), 1):
            place = Place(str(script), number)
            yield Row(row, place) if isinstance(row, dict) else BadRow(place, "not an object", type(row).__name__)


def load_datasets(names: list[str], data: DataOptions) -> list[Dataset]:
    """Return the datasets of these names (or file paths): files are there, sums are right, none is empty."""
    folder = Path(data.dataset_dir)
    info = read_info(folder) if (folder / INFO).exists() else {}
    found = []
    for name in names:
        if name not in info and Path(name).is_file():
            found.append(Dataset(name, files=(Path(name),)).detected())
            found[-1].report_format()
            continue
        if name not in info and name.partition(":")[0] in entries():
            found.append(_of_catalogue(name, data))
            continue
        if name not in info and (Path(name).is_dir() or Path(name).suffix):
            what = "is a folder; name a file in it" if Path(name).is_dir() else "is no file"
            raise UserError(f"{name} {what}, and no dataset of {folder / INFO} or the catalogue has this name")
        if not info:
            raise UserError(f"no {INFO} in {folder} (--dataset_dir), no file {name!r}, and nothing of the catalogue")
        found.append(_dataset(name, lookup(info, name, f"dataset of {folder / INFO}"), folder, data).detected())
        found[-1].report_format()
    return found


def _of_catalogue(name: str, data: DataOptions) -> Dataset:
    """A dataset of the catalogue that was pulled: its converted records, whose format is known."""
    split: Split = "train" if data.split == "train" else "held_out"
    stage = find(name)[1].stage
    made = Declared(EXAM if stage == "exam" else WRITTEN, STAGE_FORMATS[stage], speakers=(), answer_form="letters")
    return Dataset(name, made, files=(records_file(name, split),)).detected()


def read_info(folder: Path) -> JSONObject:
    """Read and check `dataset_info.json`."""
    path = folder / INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: broken JSON ({error.msg})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {read_failure(error)}") from error
    if not isinstance(info, dict) or not all(isinstance(entry, dict) for entry in info.values()):
        raise UserError(f"{path} must hold an object with one entry for each dataset")
    return info


def _dataset(name: str, entry: JSONObject, folder: Path, data: DataOptions) -> Dataset:
    """Make the dataset of one entry."""
    where = f"{folder / INFO}, dataset {name!r}"
    for key in entry:
        if key not in KEYS:
            raise UserError(f"{where}: unknown key {key!r}.{nearest(key, KEYS)} Known: {', '.join(KEYS)}")
        wanted = WANTED.get(key, str)
        if not isinstance(entry[key], wanted):
            raise UserError(f"{where}: {key} must be {wanted.__name__}, not {type(entry[key]).__name__}")
    place = next((key for key in ("hf_hub_url", "script_url", "file_name") if key in entry), None)
    if place is None:
        raise UserError(f"{where}: give file_name, hf_hub_url or script_url")
    shape = entry.get("formatting")
    if shape is not None:
        lookup(SHAPES, shape, "formatting")
    form = entry.get("answer_form")
    if form is not None:
        lookup(dict.fromkeys(FORMS), form, "answer_form")
    made = Dataset(
        name=name,
        declared=Declared(
            _columns(entry.get("columns"), where),
            shape,
            _speakers(entry.get("speakers"), where),
            form,
            frozenset(key for key, column in (entry.get("columns") or {}).items() if not column),
        ),
        system=entry.get("system_prompt"),
        hub=entry["hf_hub_url"] if place == "hf_hub_url" else None,
        subset=entry.get("subset"),
        split=entry.get("split", data.split),
        licence=entry.get("licence"),
        folder=folder,
    )
    if place == "script_url":
        return replace(made, script=_script(entry["script_url"], folder, where, trusted=data.trust_dataset_script))
    if made.hub:
        return made
    path = folder / entry["file_name"]
    files = tuple(sorted(_files(path))) if path.is_dir() else (path,)
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise UserError(f"{where}: no file {path}")
    _check_sum(path, entry.get("file_sha1"))
    return replace(made, files=files, checked="file_sha1" in entry)


def _columns(given: JSONObject | None, where: str) -> Columns | None:
    """The columns that an entry names; None where it names none. `options` may be a list, a column for each."""
    if given is None:
        return None
    for key, column in given.items():
        if key not in COLUMNS:
            raise UserError(f"{where}: unknown column {key!r}.{nearest(key, COLUMNS)} Known: {', '.join(COLUMNS)}")
        several = key == "options" and isinstance(column, list) and all(isinstance(one, str) for one in column)
        if column is not None and not isinstance(column, str) and not several:
            raise UserError(f"{where}: column {key!r} must be a name, not {type(column).__name__}")
    named: JSONObject = {key: value or None for key, value in given.items()}
    if named.get("options"):
        named["options"] = (named["options"],) if isinstance(named["options"], str) else tuple(named["options"])
    return Columns(**{"query": None, "prompt": None, "response": None, **named})


def _speakers(given: JSONObject | None, where: str) -> Speakers | None:
    """The speaker marks of an entry; {}: a question is one turn, whatever marks it holds."""
    if given is None:
        return None
    for mark, role in given.items():
        if role not in ("user", "assistant") or not named(mark):
            raise UserError(f'{where}: speakers must name "user" or "assistant" for each mark, not {role!r}')
    return tuple(given.items())


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if is_data_file(path):
            yield path
        else:
            log.warning("%s is not read: not one of %s", path, ", ".join(KINDS))


def _script(name: str, folder: Path, where: str, *, trusted: bool) -> Path:
    choices = [folder / name, folder / f"{name}.py", folder / name / f"{Path(name).name}.py"]
    script = next((path for path in choices if path.is_file()), None)
    if script is None:
        raise UserError(f"{where}: no script {name!r} in {folder}")
    if not trusted:
        raise UserError(f"{where} runs the Python script {script}; read it, then give --trust_dataset_script")
    return script


def _check_sum(path: Path, expected: str | None) -> None:
    if path.is_dir():
        if expected:
            raise UserError(f"{path} is a folder: file_sha1 is the sum of one file")
        return
    if not expected:
        return
    found = digest(path)
    if found != expected.lower():
        raise UserError(f"{path} has the SHA-1 {found}, but {INFO} says {expected}: the file is damaged or another one")
