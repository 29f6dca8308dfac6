"""`carellama data clean`: records in, records worth training on out, every removal counted and listed on demand.

    carellama data clean consult.jsonl --output clean.jsonl --removed removed.jsonl

Each record is read once: identifiers replaced, filters, exam questions; what is left waits in a temporary file beside
the output until the duplicates are known. Order is kept. Nothing of the memory grows with the texts. The temporary
files have no names, so that nothing stays of a run that is killed; the next run removes a half-written output.
"""

from __future__ import annotations

import json
import shlex
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal, TextIO, get_args

from carellama.config.data import DataOptions
from carellama.config.data_commands import CleanOptions
from carellama.config.options import split_commas
from carellama.config.reader import parse_options
from carellama.data.clean.account import Account, Removed
from carellama.data.clean.contamination import Exams
from carellama.data.clean.deidentify import deidentified
from carellama.data.clean.duplicates import Duplicates
from carellama.data.clean.exams import gather
from carellama.data.clean.filters import refusal
from carellama.data.convert import BadRecord, texts_of
from carellama.data.datasets import Dataset, load_datasets
from carellama.data.file_format import KIND_NAMES
from carellama.data.write import row_of
from carellama.errors import UserError, lookup
from carellama.files import atomic_write, refuse_existing, refuse_sources
from carellama.privacy.deidentify import Deidentifier
from carellama.records import Place, Record
from carellama.text import Language, counted

BATCH = 512  # records looked up among the exams at once

Numbered = tuple[int, Record]  # the number of the row in the input, over all datasets


def run(argv: Sequence[str]) -> None:
    """Clean, write the records, and print the account."""
    (arguments,) = parse_options((CleanOptions,), argv, "carellama data clean NAME_OR_FILE...", positional="names")
    account, written = clean(arguments)
    for line in account.report.lines():
        print(line)
    if arguments.deidentify:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(account.masked.items())) or "none"
        print(f"identifiers replaced ({arguments.deidentify}) in {counted(account.changed, 'row')}: {kinds}")
    print(f"{arguments.output}: {counted(written, 'record')}")
    print(f"next: carellama data check {shlex.quote(arguments.output)}")


def clean(arguments: CleanOptions) -> tuple[Account, int]:
    """Write the clean records of `arguments.names`; the account, and how many were written."""
    _check(arguments)
    output, listed = Path(arguments.output), Path(arguments.removed) if arguments.removed else None
    deidentifier = _deidentifier(arguments)
    datasets = load_datasets(arguments.names, DataOptions(dataset_dir=arguments.dataset_dir))
    _require_one_kind(datasets)
    for path in filter(None, (output, listed)):
        refuse_sources(path, (source for dataset in datasets for source in dataset.files))
    exams = Exams(arguments.exam_characters, arguments.exam_similarity)
    gather(arguments.exams or [], exams, catalogue=arguments.catalogue_exams)
    with ExitStack() as stack:
        for path in filter(None, (output, listed)):
            path.parent.mkdir(parents=True, exist_ok=True)
        removed = None
        if listed:
            file = stack.enter_context(TemporaryFile("w+b", dir=listed.parent))
            removed = Removed(file, with_text=arguments.removed_text)
        account = Account(removed)
        duplicates = Duplicates(stack.enter_context(TemporaryFile("w+b", dir=output.parent)), arguments.threshold)
        waiting = stack.enter_context(TemporaryFile("w+", encoding="utf-8", newline="\n", dir=output.parent))
        kept = Kept()
        for at, dataset in enumerate(datasets):
            for number, record in _useful(dataset, arguments, exams, deidentifier, account):
                duplicates.add(record)
                kept.add(at, number, record.place)
                waiting.write(json.dumps(row_of(record), ensure_ascii=False) + "\n")
        waiting.seek(0)
        with atomic_write(output) as written_file:
            written = _write_unique(written_file, waiting, kept, datasets, duplicates, account)
            if not written:
                raise UserError(f"no row is left of {', '.join(arguments.names)}: {'; '.join(account.report.lines())}")
            if removed and listed:
                with atomic_write(listed) as listing:
                    removed.write(listing)
    return account, written


@dataclass
class Kept:
    """Where the records that wait came from, by their number among these."""

    origins: array[int] = field(default_factory=lambda: array("I"))  # the dataset
    numbers: array[int] = field(default_factory=lambda: array("Q"))  # of the row in the input
    files: array[int] = field(default_factory=lambda: array("I"))  # the file, a number of `names`
    lines: array[int] = field(default_factory=lambda: array("Q"))
    rows: bytearray = field(default_factory=bytearray)  # 1 where `lines` counts rows
    names: list[str] = field(default_factory=list)

    def add(self, origin: int, number: int, place: Place) -> None:
        """Note the next record."""
        self.origins.append(origin)
        self.numbers.append(number)
        if not self.names or self.names[-1] != place.file:
            self.names.append(place.file)
        self.files.append(len(self.names) - 1)
        self.lines.append(place.line)
        self.rows.append(place.unit == "row")

    def place(self, number: int) -> Place:
        """Where a record was read."""
        unit: Literal["line", "row"] = "row" if self.rows[number] else "line"
        return Place(self.names[self.files[number]], self.lines[number], unit)


def _write_unique(
    file: TextIO, waiting: TextIO, kept: Kept, datasets: Sequence[Dataset], duplicates: Duplicates, account: Account
) -> int:
    """Write what is no duplicate; how many that were."""
    partners, similarity = duplicates.partners()
    written = 0
    for number, line in enumerate(waiting):
        partner = int(partners[number])
        if partner < 0:
            file.write(line)
            written += 1
            continue
        exact = similarity[number] == 1 and duplicates.exact(number, partner)
        account.remove(
            kept.numbers[number],
            datasets[kept.origins[number]].name,
            kept.place(number),
            "exact duplicate" if exact else "near duplicate",
            json.loads(line) if account.listed and account.listed.with_text else None,
            partner=str(kept.place(partner)),
            similarity=round(float(similarity[number]), 3),
        )
    return written


def _check(arguments: CleanOptions) -> None:
    """Raise `UserError` for options that cannot be."""
    for path, name in ((arguments.output, "output"), (arguments.removed, "removed")):
        if path is not None:
            refuse_existing(Path(path), map(Path, arguments.names), overwrite=arguments.overwrite, option=name)
    if arguments.removed and Path(arguments.removed).resolve() == Path(arguments.output).resolve():
        raise UserError("--output and --removed name the same file")
    if arguments.removed_text and not arguments.removed:
        raise UserError("--removed_text needs --removed FILE, the list it goes into")
    if not (arguments.exam_similarity == 0 or 0.5 <= arguments.exam_similarity <= 1):
        raise UserError(f"--exam_similarity {arguments.exam_similarity:g} is neither 0 nor between 0.5 and 1")
    for name in split_commas(arguments.languages):
        lookup(dict.fromkeys(get_args(Language)), name, "language")


def _require_one_kind(datasets: Sequence[Dataset]) -> None:
    """Raise `UserError` where texts, conversations or exam questions would come into one file."""
    found = {KIND_NAMES[dataset.format.kind]: dataset.name for dataset in datasets if dataset.format.kind is not None}
    if len(found) > 1:
        holding = " and ".join(f"{name} holds {kind}" for kind, name in found.items())
        raise UserError(f"{holding}: a file of both cannot be read again; clean each kind into its own --output")


def _deidentifier(arguments: CleanOptions) -> Deidentifier | None:
    if arguments.secret_file and arguments.deidentify != "surrogate":
        raise UserError("--secret_file is for --deidentify surrogate")
    if not arguments.deidentify:
        return None
    secret = None
    if arguments.secret_file:
        try:
            secret = Path(arguments.secret_file).read_bytes()
        except OSError as error:
            raise UserError(f"cannot read --secret_file {arguments.secret_file}: {error.strerror}") from error
        if len(secret) < 16:
            raise UserError(
                f"--secret_file {arguments.secret_file} holds {counted(len(secret), 'byte')}; give at least 16"
            )
    return Deidentifier(mode=arguments.deidentify, secret=secret)


def _useful(
    dataset: Dataset, bounds: CleanOptions, exams: Exams, deidentifier: Deidentifier | None, account: Account
) -> Iterator[Numbered]:
    """The records that pass the filters and hold no exam question."""
    first = sum(entry.rows for entry in account.report.datasets.values())
    account.report.row(dataset.name, 0)
    batch: list[Numbered] = []
    for number, row in enumerate(dataset.rows(), first):
        account.report.row(dataset.name)
        try:
            record = dataset.record(row)
            if deidentifier is not None:
                record = _masked(record, deidentifier, account)
        except BadRecord as error:
            account.remove(number, dataset.name, error.place, error.reason)
            continue
        if refused := refusal(record, bounds):
            reason, detail = refused
            account.remove(number, dataset.name, record.place, reason, row_of(record), detail=detail)
            continue
        batch.append((number, record))
        if len(batch) == BATCH:
            yield from _unseen(dataset, batch, exams, account)
            batch = []
    yield from _unseen(dataset, batch, exams, account)


def _masked(record: Record, deidentifier: Deidentifier, account: Account) -> Record:
    before = account.masked.total()
    changed = deidentified(record, deidentifier, account.masked)
    account.changed += account.masked.total() > before
    return changed


def _unseen(dataset: Dataset, batch: list[Numbered], exams: Exams, account: Account) -> Iterator[Numbered]:
    hits = exams.found(["\n".join(texts_of(record)) for _, record in batch])
    for (number, record), hit in zip(batch, hits, strict=True):
        if hit is None:
            yield number, record
            continue
        reason = "exam question" if hit.similarity is None else "near an exam question"
        more: dict[str, str | float] = {"exam": hit.exam, "question": hit.id, "detail": hit.kind}
        if hit.similarity is not None:
            more["similarity"] = hit.similarity
        account.remove(number, dataset.name, record.place, reason, row_of(record), **more)
