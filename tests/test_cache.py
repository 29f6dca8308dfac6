"""The token cache: made once, gone on with after an interruption, never half written."""

from __future__ import annotations

import json
import os
import pickle
import platform
from pathlib import Path

import pyarrow as pa
import pytest

from carellama.data.encoding import token_cache as cache
from carellama.data.encoding.token_cache import SCHEMA, TokenStore, encode_rows, finished, open_store, shard_path
from carellama.data.readers import Row
from carellama.data.report import DataReport
from carellama.errors import UserError
from carellama.records import Place


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(cache, "BATCH_ROWS", 5)
    monkeypatch.setattr(cache, "SHARD_BATCHES", 2)


def rows(count: int) -> list[Row]:
    return [Row({"text": "x" * number}, Place("a.jsonl", number + 1)) for number in range(count)]


def encode(batch) -> tuple[pa.RecordBatch, DataReport]:
    """Row n has n+1 tokens n; every seventh is skipped; every fifth gives two entries."""
    report = DataReport()
    made: list[tuple[list[int], list[int], int, int]] = []
    for at, row in enumerate(batch):
        number = len(row.fields["text"])
        report.row("d")
        if number % 7 == 6:
            report.note("d", "skipped", row.place, "seventh")
        else:
            entry = ([number] * (number + 1), [-100] + [number] * number, at, 1)
            made += [entry, entry] if number % 5 == 4 else [entry]
    columns = [
        pa.array(list(column), field.type) for column, field in zip(zip(*made, strict=True), SCHEMA, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA), report


def failing_at(row: int, error: BaseException):
    def failing(batch):
        if any(len(one.fields["text"]) == row for one in batch):
            raise error
        return encode(batch)

    return failing


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def whole(folder: Path, count: int = 33) -> DataReport:
    return encode_rows(iter(rows(count)), encode, folder)


def test_entries_come_back_with_their_records(tmp_path):
    report = whole(tmp_path)
    store = open_store(tmp_path)
    expected = [n for n in range(33) if n % 7 != 6 for _ in range(2 if n % 5 == 4 else 1)]
    assert store.records.tolist() == expected and store.lengths.tolist() == [n + 1 for n in expected]
    assert [store[index].input_ids.tolist() for index in range(len(store))] == [[n] * (n + 1) for n in expected]
    assert (report.datasets["d"].rows, report.datasets["d"].skipped) == (33, 4)
    assert finished(tmp_path).to_dict() == report.to_dict()
    copy: TokenStore = pickle.loads(pickle.dumps(store))  # for a data loader's processes
    assert copy[7].input_ids.tolist() == store[7].input_ids.tolist()


@pytest.mark.parametrize("at", [0, 4, 10, 19, 20, 32])
def test_an_interrupted_encoding_goes_on_to_the_same_bytes(tmp_path, at):
    report = whole(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        encode_rows(iter(rows(33)), failing_at(at, KeyboardInterrupt()), tmp_path / "cut")
    assert finished(tmp_path / "cut") is None
    kept = files(tmp_path / "cut")
    assert list(kept) == [f"shard-{number:05d}.arrow" for number in range(at // 10)]
    seen = []

    def counting(batch):
        seen.extend(batch)
        return encode(batch)

    assert encode_rows(iter(rows(33)), counting, tmp_path / "cut").to_dict() == report.to_dict()
    assert len(seen) == 33 - at // 10 * 10, "what lies in whole shards is not encoded again"
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_a_full_disk_leaves_no_half_shard(tmp_path, monkeypatch):
    replaced = []
    replace = Path.replace

    def full(self, target):
        replaced.append(target)
        if len(replaced) == 2:
            raise OSError(28, "No space left on device", str(self))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        whole(tmp_path)
    assert list(files(tmp_path)) == ["shard-00000.arrow"]
    monkeypatch.undo()


def test_a_disk_that_fills_up_while_writing_is_an_os_error_with_its_number(tmp_path, monkeypatch):
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("no /dev/full here")
    monkeypatch.setattr(cache, "BATCH_ROWS", 5000)
    (tmp_path / f"shard-00000.{platform.node()}-{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        encode_rows(iter(rows(400)), encode, tmp_path)
    assert caught.value.errno == 28
    assert not files(tmp_path)


def test_a_damaged_shard_of_an_unfinished_encoding_is_made_anew(tmp_path):
    report = whole(tmp_path)
    good = files(tmp_path)
    (tmp_path / "complete.json").unlink()
    for damage in (b"", good["shard-00001.arrow"][:100]):
        shard_path(tmp_path, 1).write_bytes(damage)
        assert whole(tmp_path).to_dict() == report.to_dict()
        assert files(tmp_path) == good


def test_a_damaged_finished_cache_says_what_to_do(tmp_path):
    whole(tmp_path)
    shard_path(tmp_path, 0).write_bytes(b"")
    with pytest.raises(UserError, match="--overwrite_cache"):
        open_store(tmp_path)
    shard_path(tmp_path, 0).unlink()
    with pytest.raises(UserError, match=r"shard 0 is missing.*--overwrite_cache"):
        finished(tmp_path)
    (tmp_path / "complete.json").write_text("{")
    with pytest.raises(UserError, match="--overwrite_cache"):
        finished(tmp_path)


def test_an_error_is_raised_and_the_shards_before_it_are_kept(tmp_path):
    with pytest.raises(ValueError, match="bad"):
        encode_rows(iter(rows(33)), failing_at(25, ValueError("bad")), tmp_path)
    assert list(files(tmp_path)) == ["shard-00000.arrow", "shard-00001.arrow"]


def test_a_batch_is_bounded_in_characters_wherever_they_stand(monkeypatch):
    monkeypatch.setattr(cache, "BATCH_ROWS", 100)
    monkeypatch.setattr(cache, "BATCH_CHARS", 1000)
    flat = [Row({"text": "x" * 400}, Place("a", 1))] * 9
    nested = [Row({"messages": [{"role": "user", "content": "x" * 396}]}, Place("a", 1))] * 9
    for found in (flat, nested):
        assert [len(batch) for batch in cache._batches(iter(found))] == [3, 3, 3]


def test_nothing_is_an_empty_store(tmp_path):
    encode_rows(iter([]), encode, tmp_path)
    assert len(open_store(tmp_path)) == 0
    assert json.loads((tmp_path / "complete.json").read_text())["shards"] == 0


@pytest.mark.slow
def test_processes_make_the_same_tokens_as_threads(tmp_path, tiny_folder, monkeypatch):
    from test_prepare import config_of, prepared

    data = [{"instruction": f"Q {n} " * (n % 40 + 1), "output": f"A {n}"} for n in range(1, 60)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in data), encoding="utf-8")
    found = {}
    for name, workers in (("threads", None), ("processes", 2)):
        config = config_of(
            tmp_path, tmp_path / "a.jsonl", data_cache_dir=tmp_path / name, preprocessing_num_workers=workers
        )
        found[name] = prepared(config, tiny_folder)
    one, other = found["threads"].train, found["processes"].train
    assert [one[n][0].input_ids.tolist() for n in range(len(one))] == [
        other[n][0].input_ids.tolist() for n in range(len(other))
    ]
    assert found["threads"].report.to_dict() == found["processes"].report.to_dict()


def test_a_worker_is_as_quiet_as_the_process_that_starts_it(monkeypatch):
    """Each worker of --preprocessing_num_workers printed bitsandbytes' line on a kernel that it does without."""
    import logging

    from carellama.data.encoding import token_cache as cache

    logger = logging.getLogger("bitsandbytes")
    monkeypatch.setattr(logger, "level", logging.ERROR)
    with cache._executor(2, encode) as executor:
        assert executor.submit(level_of, "bitsandbytes").result() == logging.ERROR


def level_of(name: str) -> int:
    """The level of a logger in this process."""
    import logging

    return logging.getLogger(name).level
