"""The token cache: encoded records on disk, made once, read by memory map.

    <cache>/<key>/shard-00000.arrow   Arrow file: input_ids list<int32>, labels list<int32>, record int64, good int64
                  shard-00001.arrow   its schema metadata holds the rows it covers and their report
                  complete.json       the report of all shards; written last

`key` is a digest of all that the tokens depend on: data, columns, template, tokenizer, lengths. Each shard is
written under a temporary name and renamed, so a killed run goes on after its last whole shard. Memory does
not grow with the data: rows are read, encoded by a few threads or processes at a time, and written.

    report = encode_rows(rows, encode, folder); store = open_store(folder)
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import pickle
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from carellama.config.environment import single_threaded_tokenizers
from carellama.data.report import DataReport
from carellama.data.rows import BadRow, Row, texts_in
from carellama.errors import UserError
from carellama.files import with_file_name, write_json
from carellama.records import Tokens

VERSION = 3  # of the tokens' meaning: raise it when the same input would be encoded otherwise
BATCH_ROWS = 100  # what one thread or process encodes at a time,
BATCH_CHARS = 2_000_000  # whichever comes first
HASHES = "hashes.npy"  # in the folder of a cache: a hash of each record
SHARD_BATCHES = 100  # batches a shard covers: what a killed run encodes again at the most

BatchEncoder = Callable[[Sequence[Row | BadRow]], tuple[pa.RecordBatch, DataReport]]

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32())),
        ("record", pa.int64()), ("good", pa.int64()),  # 0 or 1
    ]
)  # fmt: skip


class TokenStore:
    """All tokens of one encoded dataset, memory-mapped.

    `lengths` (N,) are the tokens of each entry, `records` (N,) the number of the input record each came from:
    a record that was split has several entries. `good` (N,) is `Tokens.good`.
    """

    def __init__(self, shards: Sequence[Path], name: str = "") -> None:
        self.shards, self.name = tuple(shards), name
        tables = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in shards]
        table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
        columns = zip(table["input_ids"].chunks, table["labels"].chunks, strict=True)
        self._chunks = [
            (_numbers(ids.values), _numbers(labels.values), _numbers(ids.offsets))
            for ids, labels in columns
            if len(ids)
        ]
        sizes = [np.diff(offsets) for *_, offsets in self._chunks]
        self._starts = np.cumsum([0, *map(len, sizes)])
        self.lengths: np.ndarray = np.concatenate(sizes) if sizes else np.zeros(0, dtype=np.int32)
        self.records, self.good = _joined(table["record"]), _joined(table["good"])

    def __len__(self) -> int:
        return len(self.lengths)

    def __reduce__(self) -> tuple[type[TokenStore], tuple[tuple[Path, ...], str]]:
        return TokenStore, (self.shards, self.name)  # a data loader's process maps the files itself

    def __getitem__(self, index: int) -> Tokens:
        chunk = int(np.searchsorted(self._starts, index, side="right")) - 1
        ids, labels, offsets = self._chunks[chunk]
        start, end = offsets[index - self._starts[chunk] : index - self._starts[chunk] + 2]
        source = f"{self.name} row {self.records[index] + 1}"
        return Tokens(ids[start:end], labels[start:end], bool(self.good[index]), source)

    def record_starts(self) -> np.ndarray:
        """Return the first entry of each record, in order, (R,)."""
        return np.flatnonzero(np.diff(self.records, prepend=-1))

    def record_hashes(self) -> np.ndarray:
        """Return a 64-bit hash of the tokens, labels and `good` of each record, (R,); kept beside the shards."""
        path = self.shards[0].parent / HASHES if self.shards else None
        starts = self.record_starts()
        if path is not None and path.exists():
            found: np.ndarray = np.load(path, allow_pickle=False)
            if len(found) == len(starts):
                return found
        made = np.zeros(len(starts), dtype=np.uint64)
        for number, (start, end) in enumerate(itertools.pairwise([*starts.tolist(), len(self)])):
            made[number] = record_hash(self[entry] for entry in range(start, end))
        if path is not None:
            temporary = path.with_suffix(f".{platform.node()}-{os.getpid()}.tmp")
            with contextlib.suppress(OSError), temporary.open("wb") as file:  # a cache that is read only has none
                np.save(file, made, allow_pickle=False)
                file.flush()
                temporary.replace(path)
        return made


def record_hash(entries: Iterable[Tokens]) -> int:
    """Return the 64-bit hash by which records are compared: of the tokens, labels and `good` of their entries."""
    digest = hashlib.blake2b(digest_size=8)
    for one in entries:
        digest.update(np.array([len(one), one.good], dtype=np.int64).tobytes())
        digest.update(one.input_ids.tobytes() + one.labels.tobytes())
    return int.from_bytes(digest.digest(), "little")


def encode_rows(
    rows: Iterator[Row | BadRow], encode: BatchEncoder, folder: Path, *, workers: int | None = None, name: str = ""
) -> DataReport:
    """Encode all rows into the shards of `folder`, going on after those that are there; return the report.

    `encode` makes an Arrow batch (of `SCHEMA`) and a report of a list of rows. It runs in a thread for each
    core (tokenising leaves Python free for the others), or as a copy in each of `workers` processes. Raises what
    `encode` raises, the shards before it being saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report, done, shard = DataReport(), 0, 0
    while covered := _read_metadata(shard_path(folder, shard)):
        report.merge(covered[1])
        done, shard = done + covered[0], shard + 1
    for _ in itertools.islice(rows, done):  # reading again is cheap beside encoding again
        pass
    with (
        _bar() as bar,
        single_threaded_tokenizers(),
        _executor(workers, encode) as executor,
        _settled_memory(),
    ):
        task = bar.add_task(f"encode {name}".strip(), total=None, completed=done)
        call = _encode_here if isinstance(executor, ProcessPoolExecutor) else encode
        encoded = _in_order(executor, call, _batches(rows), pending=2 * (workers or _threads()))
        while True:
            made, shard_report, first = [], DataReport(), done
            for count, batch, batch_report in itertools.islice(encoded, SHARD_BATCHES):
                made.append(_number_from(batch, done))
                done += count
                shard_report.merge(batch_report)
                bar.advance(task, count)
            if not made:
                break
            _write_shard(shard_path(folder, shard), made, {"rows": done - first, "report": shard_report.to_dict()})
            report.merge(shard_report)
            shard += 1
    write_json(folder / "complete.json", {"shards": shard, "report": report.to_dict()})
    return report


def _bar() -> Progress:
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}: {task.completed:,} rows"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _read_metadata(path: Path) -> tuple[int, DataReport] | None:
    """Return how many rows a shard covers, and their report; None for no shard, or a damaged one, to write again."""
    try:
        with pa.memory_map(str(path)) as file:
            found = json.loads(pa.ipc.open_file(file).schema.metadata[b"carellama"])
            return found["rows"], DataReport.from_dict(found["report"])
    except (FileNotFoundError, pa.ArrowInvalid):
        return None


def _batches(rows: Iterator[Row | BadRow]) -> Iterator[list[Row | BadRow]]:
    """Cut the rows into batches that are bounded in rows and in characters."""
    batch: list[Row | BadRow] = []
    chars = 0
    for row in rows:
        batch.append(row)
        chars += sum(map(len, texts_in(row.fields))) if isinstance(row, Row) else 0
        if len(batch) >= BATCH_ROWS or chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _threads() -> int:
    """As many as there are cores; what Python itself does for a record keeps more than eight waiting."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _executor(workers: int | None, encode: BatchEncoder) -> Executor:
    if workers is None or workers <= 1:
        return ThreadPoolExecutor(_threads())
    context = multiprocessing.get_context("spawn")  # forking a process with torch's threads may hang
    payload = pickle.dumps(encode)
    return ProcessPoolExecutor(workers, context, _begin, (logging.getLogger("bitsandbytes").level, payload))


_encode: BatchEncoder | None = None  # of this process, when it is a worker: set when it starts


def _begin(level: int, payload: bytes) -> None:
    """Start a worker: one library says less, as in this process, before what the worker needs imports it."""
    global _encode
    logging.getLogger("bitsandbytes").setLevel(level)
    _encode = pickle.loads(payload)


def _encode_here(rows: Sequence[Row | BadRow]) -> tuple[pa.RecordBatch, DataReport]:
    assert _encode is not None
    return _encode(rows)


def _in_order(
    executor: Executor, encode: BatchEncoder, batches: Iterator[list[Row | BadRow]], pending: int
) -> Iterator[tuple[int, pa.RecordBatch, DataReport]]:
    """`executor.map` with a bound on how many results wait in memory: (rows, result) of each batch."""
    waiting: deque[tuple[int, Future[tuple[pa.RecordBatch, DataReport]]]] = deque()
    try:
        for batch in batches:
            waiting.append((len(batch), executor.submit(encode, batch)))
            if len(waiting) > pending:
                count, future = waiting.popleft()
                yield count, *future.result()
        while waiting:
            count, future = waiting.popleft()
            yield count, *future.result()
    finally:
        for _, future in waiting:
            future.cancel()


@contextlib.contextmanager
def _settled_memory() -> Iterator[None]:
    """Keep the garbage collector away from what was there before: going through all of it takes a third of the time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _number_from(batch: pa.RecordBatch, start: int) -> pa.RecordBatch:
    """Make a batch's record numbers those of the whole dataset."""
    return batch.set_column(2, "record", _column(_numbers(batch["record"]) + start, pa.int64()))


def batch_of(tokens: Sequence[Tokens], records: Sequence[int]) -> pa.RecordBatch:
    """Lay tokens out as Arrow lists over NumPy's memory, without a Python object for each id."""
    offsets = _column(np.cumsum([0, *map(len, tokens)]).astype(np.int32), pa.int32())
    nothing = [np.zeros(0, dtype=np.int32)]
    ids = _column(np.concatenate([one.input_ids for one in tokens] or nothing), pa.int32())
    labels = _column(np.concatenate([one.labels for one in tokens] or nothing), pa.int32())
    lists = [pa.ListArray.from_arrays(offsets, values) for values in (ids, labels)]
    numbers = _column(np.array(records, dtype=np.int64), pa.int64())
    good = _column(np.array([one.good for one in tokens], dtype=np.int64), pa.int64())
    return pa.RecordBatch.from_arrays([*lists, numbers, good], schema=SCHEMA)


# `pa.array` and `to_numpy` of a chunked column import pandas where there is one, which takes half a second.
def _column(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """The same memory as Arrow sees it."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def _numbers(column: pa.Array) -> np.ndarray:
    """The same memory as NumPy sees it."""
    kind = np.int64 if column.type == pa.int64() else np.int32
    return np.frombuffer(column.buffers()[1], dtype=kind)[column.offset : column.offset + len(column)]


def _joined(column: pa.ChunkedArray) -> np.ndarray:
    parts = [_numbers(part) for part in column.chunks if len(part)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _write_shard(path: Path, batches: Sequence[pa.RecordBatch], metadata: Mapping[str, object]) -> None:
    temporary = path.with_suffix(f".{platform.node()}-{os.getpid()}.tmp")  # the first process of each node encodes
    schema = SCHEMA.with_metadata({"carellama": json.dumps(metadata, ensure_ascii=False)})
    try:
        with with_file_name(path), pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            table = pa.Table.from_batches(batches, SCHEMA).combine_chunks()  # one stretch of memory a shard
            writer.write_table(table.replace_schema_metadata(schema.metadata))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"shard-{number:05d}.arrow"


def finished(folder: Path) -> DataReport | None:
    """The report of a finished cache folder, else None."""
    try:
        complete = json.loads((folder / "complete.json").read_text(encoding="utf-8"))
        shards, report = complete["shards"], DataReport.from_dict(complete["report"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from error
    missing = [number for number in range(shards) if not shard_path(folder, number).exists()]
    if missing:
        raise _damaged(folder, f"shard {missing[0]} is missing")
    return report


def _damaged(folder: Path, what: object) -> UserError:
    return UserError(f"the token cache {folder} is damaged ({what}); run again with --overwrite_cache")


def open_store(folder: Path, name: str = "") -> TokenStore:
    """Open a finished cache folder; `name` is the dataset's."""
    try:
        return TokenStore(sorted(folder.glob("shard-*.arrow")), name)
    except pa.ArrowInvalid as error:
        raise _damaged(folder, error) from error


def key_of(*parts: object) -> str:
    """A digest of all that the tokens depend on (anything JSON can write)."""
    text = json.dumps([VERSION, *parts], sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
