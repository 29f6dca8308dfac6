"""`carellama data clean`: records in, records worth training on out, every removal counted and listed on demand.

    carellama data clean consult.jsonl --output clean.jsonl --removed removed.jsonl

Each record is read once: identifiers replaced, filters, exam questions; what is left waits in a temporary file beside
the output until the duplicates are known. Order is kept. Nothing of the memory grows with the texts.
"""

from __future__ import annotations

import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO, get_args

from carellama.config.data import DataArguments
from carellama.config.datasets import CleanArguments, ConvertArguments
from carellama.config.environment import dataset_home
from carellama.config.parse import parse
from carellama.data.catalogue.convert import Conversion, of_folder, planned
from carellama.data.catalogue.entries import entries
from carellama.data.clean.contamination import Exams
from carellama.data.clean.duplicates import Duplicates
from carellama.data.clean.filters import Bounds, refusal
from carellama.data.convert import BadRecord, texts_of
from carellama.data.report import DataReport
from carellama.data.sources import Dataset, load_datasets
from carellama.data.write import row_of
from carellama.disk import say, whole_file
from carellama.errors import UserError, lookup
from carellama.records import Chat, Message, Pair, Place, Question, Record, Text
from carellama.safety.privacy import Deidentifier
from carellama.text import Language

BATCH = 512  # records looked up among the exams at once


@dataclass
class Account:
    """What came of the rows, and the list of those removed where one is wanted."""

    listed: TextIO | None = None
    with_text: bool = False
    report: DataReport = field(default_factory=DataReport)
    masked: Counter[str] = field(default_factory=Counter)
    changed: int = 0

    def remove(self, dataset: str, place: Place, reason: str, row: dict[str, Any] | None = None, **more: Any) -> None:
        """Count a removed row, and list it; `row` is listed only where texts are wanted."""
        self.report.note(dataset, "skipped", place, reason)
        if self.listed is not None:
            entry = {"dataset": dataset, "place": str(place), "reason": reason, **more}
            if self.with_text and row is not None:
                entry["record"] = row
            self.listed.write(json.dumps(entry, ensure_ascii=False) + "\n")


def run(argv: Sequence[str]) -> None:
    """Clean, write the records, and print the account."""
    (arguments,) = parse((CleanArguments,), argv, "carellama data clean NAME_OR_FILE...", first="names")
    account, written = clean(arguments)
    for line in account.report.lines():
        print(line)
    if arguments.deidentify:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(account.masked.items())) or "none"
        print(f"identifiers replaced ({arguments.deidentify}) in {account.changed} rows: {kinds}")
    print(f"{arguments.output}: {written} records")


def clean(arguments: CleanArguments) -> tuple[Account, int]:
    """Write the clean records of `arguments.names`; the account, and how many were written."""
    bounds = _checked(arguments)
    output = Path(arguments.output)
    deidentifier = _deidentifier(arguments)
    datasets = load_datasets(arguments.names, DataArguments(dataset_dir=arguments.dataset_dir))
    exams = gather(arguments)
    output.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        file = stack.enter_context(whole_file(output))
        listed = stack.enter_context(whole_file(Path(arguments.removed))) if arguments.removed else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".clean-", dir=output.parent)))
        account = Account(listed, arguments.removed_text)
        duplicates = Duplicates(folder, arguments.threshold)
        stack.callback(duplicates.close)
        files: dict[str, int] = {}
        origin, names, lines = array("I"), array("I"), array("Q")
        # without a name: nothing of a patient's text stays when the process is killed
        with tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=output.parent) as waiting:
            for at, dataset in enumerate(datasets):
                for record in _useful(dataset, bounds, exams, deidentifier, account):
                    duplicates.add(record)
                    origin.append(at)
                    names.append(files.setdefault(record.place.file, len(files)))
                    lines.append(record.place.line)
                    waiting.write(json.dumps(row_of(record), ensure_ascii=False) + "\n")
            partners, similarity = duplicates.partners()
            known = list(files)
            waiting.seek(0)
            written = 0
            for number, line in enumerate(waiting):
                partner = int(partners[number])
                if partner < 0:
                    file.write(line)
                    written += 1
                    continue
                exact = similarity[number] == 1 and duplicates.exact(number, partner)
                account.remove(
                    datasets[origin[number]].name,
                    Place(known[names[number]], lines[number]),
                    "exact duplicate" if exact else "near duplicate",
                    json.loads(line) if arguments.removed_text else None,
                    partner=str(Place(known[names[partner]], lines[partner])),
                    similarity=round(float(similarity[number]), 3),
                )
        if not written:
            raise UserError(f"no row is left of {', '.join(arguments.names)}: {'; '.join(account.report.lines())}")
    return account, written


def _checked(arguments: CleanArguments) -> Bounds:
    """The bounds of the filters. `UserError` for options that can not be."""
    for path in filter(None, (arguments.output, arguments.removed)):
        if Path(path).exists() and not arguments.overwrite:
            raise UserError(f"{path} is there already: give --overwrite to replace it, or another name")
    if arguments.removed and Path(arguments.removed).resolve() == Path(arguments.output).resolve():
        raise UserError("--output and --removed name the same file")
    if arguments.removed_text and not arguments.removed:
        raise UserError("--removed_text needs --removed FILE, the list it goes into")
    if not 0 <= arguments.threshold <= 1:
        raise UserError(f"--threshold {arguments.threshold:g} is not between 0 and 1")
    if arguments.exam_characters < 8:
        raise UserError(f"--exam_characters {arguments.exam_characters} is below 8: common phrases are that long")
    languages = [name.strip() for name in (arguments.languages or "").split(",") if name.strip()]
    for name in languages:
        lookup(dict.fromkeys(get_args(Language)), name, "language")
    return Bounds(
        frozenset(languages),
        arguments.shortest_question,
        arguments.longest_question,
        arguments.shortest_answer,
        arguments.longest_answer,
        arguments.repetition,
        arguments.boilerplate,
    )


def _deidentifier(arguments: CleanArguments) -> Deidentifier | None:
    if arguments.secret_file and arguments.deidentify != "surrogate":
        raise UserError("--secret_file is for --deidentify surrogate")
    if not arguments.deidentify:
        return None
    secret = None
    if arguments.secret_file:
        try:
            secret = Path(arguments.secret_file).read_bytes()
        except OSError as error:
            raise UserError(f"can not read --secret_file {arguments.secret_file}: {error.strerror}") from error
        if len(secret) < 16:
            raise UserError(f"--secret_file {arguments.secret_file} holds {len(secret)} bytes; give at least 16")
    return Deidentifier(mode=arguments.deidentify, secret=secret)


def gather(arguments: CleanArguments) -> Exams:
    """The exams to keep out: those given, and those of the catalogue; says which of these are not here."""
    exams = Exams(arguments.exam_characters)
    for name in arguments.exams or []:
        _take(exams, name, planned(ConvertArguments(name=name)), needed=True)
    missing: list[str] = []
    for entry in entries().values() if arguments.catalogue_exams else ():
        folder = dataset_home() / entry.name / "files"
        for part in entry.parts:
            if part.stage != "exam":
                continue
            name = f"{entry.name}:{part.name}"
            if not folder.is_dir():
                missing.append(name)
                continue
            try:
                _take(exams, name, of_folder(entry, part, folder, "held_out" if part.held_out else "train"))
            except UserError as error:
                say(f"exam {name}: not checked for: {error}")
    if missing:
        say(f"not checked for, as they are not on this machine: {', '.join(missing)}")
    exams.done()
    say(f"{len(exams.questions)} exam questions are kept out")
    return exams


def _take(exams: Exams, name: str, conversion: Conversion, needed: bool = False) -> None:
    before, report = len(exams.questions), DataReport()
    for record in conversion.records(report):
        if isinstance(record, Question):
            exams.add(name, record)
    for path, reason in conversion.unread.items():
        say(f"exam {name}: not read: {path}: {reason}")
    if skipped := sum(entry.skipped for entry in report.datasets.values()):
        say(f"exam {name}: {skipped} rows are no question and were not checked for")
    if needed and len(exams.questions) == before:
        raise UserError(f"--exams {name} holds no exam question; see carellama data check {name} --stage exam")


def _useful(
    dataset: Dataset, bounds: Bounds, exams: Exams, deidentifier: Deidentifier | None, account: Account
) -> Iterator[Record]:
    """The records that pass the filters and hold no exam question."""
    account.report.row(dataset.name, 0)
    batch: list[Record] = []
    for row in dataset.rows():
        account.report.row(dataset.name)
        try:
            record = dataset.record(row)
            if deidentifier is not None:
                record = deidentified(record, deidentifier, account)
        except BadRecord as error:
            account.remove(dataset.name, error.place, error.reason)
            continue
        refused = refusal(record, bounds)
        if refused is not None:
            reason, detail = refused
            account.remove(dataset.name, record.place, reason, row_of(record), detail=detail)
            continue
        batch.append(record)
        if len(batch) == BATCH:
            yield from _unseen(dataset, batch, exams, account)
            batch = []
    yield from _unseen(dataset, batch, exams, account)


def _unseen(dataset: Dataset, batch: list[Record], exams: Exams, account: Account) -> Iterator[Record]:
    hits = exams.found(["\n".join(texts_of(record)) for record in batch])
    for record, hit in zip(batch, hits, strict=True):
        if hit is None:
            yield record
            continue
        more = {"exam": hit.exam, "question": hit.id, "detail": hit.kind}
        account.remove(dataset.name, record.place, "exam question", row_of(record), **more)


def deidentified(record: Record, deidentifier: Deidentifier, account: Account) -> Record:
    """The record without identifiers, numbered over all its texts; ids, letters and `meta` stay."""
    texts, counts = deidentifier.texts(texts_of(record))
    if not counts:
        return record
    changed = _with_texts(record, texts)
    account.masked.update(counts)
    account.changed += 1
    return changed


def _with_texts(record: Record, texts: Sequence[str]) -> Record:
    """The record with these in place of its `texts_of`."""
    if isinstance(record, Text):
        return replace(record, text=texts[0])
    if isinstance(record, Question):
        options = dict(zip(record.options, texts[1:], strict=False))
        return replace(record, stem=texts[0], options=options, explanation=texts[-1] if record.explanation else "")
    if isinstance(record, Chat):
        return replace(record, messages=_messages(record.messages, texts))
    assert isinstance(record, Pair)
    if texts[-1] == texts[-2]:
        raise BadRecord(record.place, "ranked answers differ in identifiers alone")
    return replace(record, prompt=_messages(record.prompt, texts), chosen=texts[-2], rejected=texts[-1])


def _messages(messages: Sequence[Message], texts: Sequence[str]) -> tuple[Message, ...]:
    return tuple(replace(message, content=text) for message, text in zip(messages, texts, strict=False))
