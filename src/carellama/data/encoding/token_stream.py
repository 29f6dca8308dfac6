"""Training data without an end, encoded while training: for data too large, or too slow to come, to encode first.

    stream = TokenStream(datasets, encoders, mixing, account=folder)
    for example in stream: ...   # a list of Tokens, as `prepare.Examples` gives them; for ever

Each process, and each worker of its data loader, encodes every n-th row and shuffles within its own buffer. The
stream begins again with another shuffle when all was read, so no process waits for one that has less. It depends on
the seed and the number of processes and workers only: read again, it gives the same, which is how a killed run
goes on. What it reads in its first pass is accounted for in `account`, a file for each process and worker.

A data loader reads `FailingStream(stream)` with `collate_or_fail`: a `UserError` of the data, raised in a worker or
not, then comes out as a `Failure` in place of a batch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from carellama.config.environment import world
from carellama.data.datasets import Dataset
from carellama.data.encoding.mixing import check_probabilities, mix_streams
from carellama.data.encoding.pack import pack
from carellama.data.encoding.token_cache import record_hash
from carellama.data.readers import BadRow, Row
from carellama.data.report import KEPT_PLACES, Cases, DataReport
from carellama.errors import UserError
from carellama.files import write_json
from carellama.records import Place, Tokens
from carellama.text import counted

log = logging.getLogger(__name__)
ENCODED_ROWS = 128  # rows encoded at a time: what the first batch waits for

Item = TypeVar("Item")
RowsEncoder = Callable[[Sequence[Row | BadRow]], tuple[list[Tokens], list[int], DataReport]]


@dataclass(frozen=True)
class Mixing:
    """How records are ordered: see the options of the same names."""

    strategy: str
    probabilities: Sequence[float] | None
    seed: int
    buffer_size: int
    window: int | None  # tokens of a packed window
    max_samples: int | None
    width: int = 1  # tokens that are one example: the two answers of a pair


@dataclass(frozen=True, slots=True)
class Entry:
    """One record's tokens (several when it was split), and where it comes from."""

    dataset: int
    row: int
    tokens: list[Tokens]


@dataclass(slots=True)
class _Drawn:
    """A row that is held out, with its tokens, its report and the copies of it."""

    entry: Entry
    report: DataReport
    copies: list[tuple[int, Place]]


def row_hash(row: Row, seed: int) -> int:
    """Return a 64-bit hash of what a row holds, another for each seed; the order of its columns does not count."""
    text = json.dumps(row.fields, sort_keys=True, ensure_ascii=False, default=str)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=str(seed).encode())
    return int.from_bytes(digest.digest(), "little")


class TokenStream(IterableDataset):
    """Examples for ever: in each epoch every record once, or as the mix takes them.

    Rows whose `row_hash` is in `held` are held out.
    """

    def __init__(
        self, datasets: Sequence[Dataset], encoders: Sequence[RowsEncoder], mixing: Mixing, account: Path
    ) -> None:
        self.datasets, self.encoders, self.mixing = datasets, encoders, mixing
        self.account = account
        self.held: frozenset[int] = frozenset()
        self.evaluated: frozenset[int] = frozenset()  # `record_hash` of records that training is evaluated on

    def __iter__(self) -> Iterator[list[Tokens]]:
        shard, shards = shard_of_this_process()
        return self._read(shard, shards, _Account(self.account / f"{shard}.json"))

    def first(self) -> list[Tokens]:
        """The first example of this process, to be looked at: it is not accounted for."""
        return next(self._read(*shard_of_this_process(), _Account(None)))

    def _read(self, shard: int, shards: int, account: _Account) -> Iterator[list[Tokens]]:
        """The examples of one shard, for ever."""
        for epoch in itertools.count():
            examples = self._examples(self.entries(shard, shards, epoch, account), (epoch, shard))
            first = next(examples, None)
            if first is None:
                raise UserError(
                    f"--streaming: part {shard + 1} of {shards} of the data has no usable record; "
                    "use fewer processes or --dataloader_num_workers, or leave --streaming out"
                )
            yield first
            yield from examples

    def entries(self, shard: int, shards: int, epoch: int, account: _Account) -> Iterator[Entry]:
        """The records of one shard: of one epoch, in the order of their files, or interleaved without end.

        Interleaved datasets have no common epoch: each begins again when it is used up, so that all of it is used.
        """
        mixing = self.mixing
        parts = [_Part(self, number, shard, shards, epoch, account) for number in range(len(self.datasets))]
        if mixing.strategy == "concat":
            return itertools.chain.from_iterable(parts)
        check_probabilities(mixing.strategy, mixing.probabilities)
        return mix_streams(parts, mixing.probabilities, mixing.seed)

    def hold_out(self, count: int) -> tuple[list[list[Tokens]], DataReport]:
        """Take `count` different records of all datasets out of the stream; return their examples and report.

        Reads all rows once, without encoding them, and draws those with the smallest hashes: the same ones in any
        order of the files, and each copy of a row with it.
        """
        log.info("--val_size %d: reading all rows once to draw the held-out records", count)
        drawn: dict[int, _Drawn] = {}
        largest = 0  # of the hashes that are drawn
        left = 0  # rows that are not drawn
        for number in range(len(self.datasets)):
            for at, row in enumerate(self.rows(number)):
                if not isinstance(row, Row):
                    continue
                key = row_hash(row, self.mixing.seed)
                if key in drawn:
                    drawn[key].copies.append((number, row.place))
                    continue
                if len(drawn) == count and key > largest:
                    left += 1
                    continue
                tokens, _, report = self.encoders[number]([row])
                if not tokens:
                    continue
                drawn[key] = _Drawn(self.entry(number, at, tokens), report, [])
                if len(drawn) > count:
                    del drawn[largest]
                    left += 1
                largest = max(drawn)
        if len(drawn) < count or not left:
            raise UserError(
                f"--val_size {count}: the data has {len(drawn) + left} different usable records; leave some to train on"
            )
        self.held = frozenset(drawn)
        return self._held_examples(drawn)

    def _held_examples(self, drawn: dict[int, _Drawn]) -> tuple[list[list[Tokens]], DataReport]:
        """The examples of the rows that were drawn, in the order of the files, and the report of them and their
        copies."""
        report, examples = DataReport(), list[list[Tokens]]()
        for one in sorted(drawn.values(), key=lambda one: (one.entry.dataset, one.entry.row)):
            report.merge(one.report)
            examples += self._of(one.entry)
        for one in drawn.values():
            for number, place in one.copies:
                name = self.datasets[number].name
                report.row(name)
                report.note(name, "skipped", place, "a copy of a held-out record")
        for number, dataset in enumerate(self.datasets):
            if count := sum(one.entry.dataset == number for one in drawn.values()):
                report.say(dataset.name, f"{counted(count, 'record')} held out for evaluation")
        return examples, report

    def counted(self) -> DataReport:
        """What all processes and workers have read so far in their first pass."""
        report = DataReport()
        first: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)  # of all parts, not of the first one
        for path in sorted(self.account.glob("*.json"), key=lambda path: int(path.stem)):
            part = DataReport.from_dict(json.loads(path.read_text(encoding="utf-8")))
            report.merge(part)
            for case, cases in _cases(part):
                first[case] += cases.places
        for case, cases in _cases(report):
            cases.places = sorted(first[case], key=_file_and_line)[:KEPT_PLACES]
        return report

    def forget(self) -> None:
        """Remove the accounts of the processes."""
        shutil.rmtree(self.account, ignore_errors=True)

    def rows(self, number: int) -> Iterator[Row | BadRow]:
        """Return the rows of a dataset, from its first."""
        return itertools.islice(self.datasets[number].rows(), self.mixing.max_samples)

    def _examples(self, entries: Iterator[Entry], key: tuple[int, int]) -> Iterator[list[Tokens]]:
        numbers = np.random.default_rng([self.mixing.seed, *key])
        examples = (example for entry in entries for example in self._of(entry))
        if self.mixing.window is None:
            yield from shuffled(examples, self.mixing.buffer_size, numbers)
            return
        tokens = (tokens for example in examples for tokens in example)
        while buffer := list(itertools.islice(tokens, self.mixing.buffer_size)):
            buffer = [buffer[index] for index in numbers.permutation(len(buffer))]
            windows = pack([len(one) for one in buffer], self.mixing.window)
            for index in numbers.permutation(len(windows)):
                yield [buffer[at] for at in windows[index]]

    def entry(self, number: int, row: int, tokens: Sequence[Tokens]) -> Entry:
        """Return the entry of a row of a dataset, its tokens with the name of the row."""
        source = f"{self.datasets[number].name} row {row + 1}"
        return Entry(number, row, [replace(one, source=source) for one in tokens])

    def _of(self, entry: Entry) -> Iterator[list[Tokens]]:
        """The examples of one record."""
        width = self.mixing.width
        return (entry.tokens[at : at + width] for at in range(0, len(entry.tokens), width))


@dataclass(frozen=True, slots=True)
class Failure:
    """What comes in place of examples, and of a batch, once the data cannot be used.

    It is not raised where it happens: an exception that leaves a worker of a data loader arrives as another one,
    with the worker's traceback in its text.
    """

    message: str


class FailingStream(IterableDataset):
    """The examples of a stream; after a `UserError` a `Failure`, again and again, as a resumed run skips batches."""

    def __init__(self, stream: TokenStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[list[Tokens] | Failure]:
        try:
            yield from self.stream
        except UserError as error:
            failure = Failure(str(error))
        while True:
            yield failure


def collate_or_fail(
    collate: Callable[[Sequence[list[Tokens]]], object], examples: Sequence[list[Tokens] | Failure]
) -> object:
    """The batch of these examples, or the `Failure` among them."""
    found: list[list[Tokens]] = []
    for example in examples:
        if isinstance(example, Failure):
            return example
        found.append(example)
    return collate(found)


class _Part(Iterable[Entry]):
    """One shard of one dataset; each iteration reads it again (interleaving may repeat a small one)."""

    def __init__(
        self, stream: TokenStream, number: int, shard: int, shards: int, epoch: int, account: _Account
    ) -> None:
        self.stream, self.number, self.shard, self.shards = stream, number, shard, shards
        self.account: _Account | None = account if epoch == 0 else None

    def __iter__(self) -> Iterator[Entry]:
        account, self.account = self.account, None  # a second pass is not counted again
        numbered: Iterator[tuple[int, Row | BadRow]] = enumerate(self.stream.rows(self.number))
        if held := self.stream.held:
            seed = self.stream.mixing.seed
            numbered = (
                (at, row) for at, row in numbered if not isinstance(row, Row) or row_hash(row, seed) not in held
            )
        mine = itertools.islice(numbered, self.shard, None, self.shards)
        while batch := list(itertools.islice(mine, ENCODED_ROWS)):
            tokens, origins, report = self.stream.encoders[self.number]([row for _, row in batch])
            records = [
                (batch[origin][0], [one for _, one in group])
                for origin, group in itertools.groupby(zip(origins, tokens, strict=True), key=lambda pair: pair[0])
            ]
            if account:
                if evaluated := self.stream.evaluated:
                    shared = sum(record_hash(entries) in evaluated for _, entries in records)
                    report.datasets[self.stream.datasets[self.number].name].shared += shared
                account.add(report)
            for row, entries in records:
                yield self.stream.entry(self.number, row, entries)


class _Account:
    """The report of one process, kept in a file where the others can read it; None: kept in memory only."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.report = DataReport()

    def add(self, report: DataReport) -> None:
        """Add the account of some rows."""
        self.report.merge(report)
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, self.report.to_dict())


def shard_of_this_process() -> tuple[int, int]:
    """(number, count) of the parts that processes and their data loaders' workers divide the rows into."""
    rank, processes = world()
    worker = get_worker_info()
    workers = worker.num_workers if worker else 1
    return rank * workers + (worker.id if worker else 0), processes * workers


def shuffled(items: Iterable[Item], size: int, numbers: np.random.Generator) -> Iterator[Item]:
    """Yield all items, each from a buffer of so many, drawn at random."""
    buffer: list[Item] = []
    for item in items:
        if len(buffer) < size:
            buffer.append(item)
            continue
        at = int(numbers.integers(size))
        yield buffer[at]
        buffer[at] = item
    for index in numbers.permutation(len(buffer)):
        yield buffer[index]


def _cases(report: DataReport) -> Iterator[tuple[tuple[str, str, str], Cases]]:
    """All cases of a report, each with its dataset, kind and reason."""
    for name, entry in report.datasets.items():
        for kind, reasons in entry.done.items():
            for reason, cases in reasons.items():
                yield (name, kind, reason), cases


def _file_and_line(place: str) -> tuple[str, int]:
    """Split a `Place` that was written: file and line, or file and row."""
    file, _, line = place.rpartition(", row ") if ", row " in place else place.rpartition(":")
    return file, int(line)
