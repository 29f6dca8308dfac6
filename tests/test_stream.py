"""Streams: every record once an epoch, divided without loss, the same when read again, accounted for."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch.utils.data import DataLoader

from carellama.data.convert import BadRecord
from carellama.data.encoding import token_stream as stream
from carellama.data.encoding.token_stream import FailingStream, Failure, TokenStream, collate_or_fail
from carellama.errors import UserError
from test_prepare import config_of, prepared, rows_file


@pytest.fixture
def stream_of(tmp_path, tiny_folder):
    """Prepare a streamed run on these files."""

    def make(*paths: Path, **options):
        options = {"buffer_size": 8} | options
        return prepared(config_of(tmp_path, *paths, streaming=True, max_steps=5, **options), tiny_folder)

    return make


@pytest.fixture
def names(tiny_tokenizer):
    """The names of the records in so many examples."""

    def names(examples, count: int | None = None) -> list[str]:
        tokens = [one for example in itertools.islice(examples, count) for one in example]
        return [tiny_tokenizer.decode(one.input_ids.tolist()).split("user\n")[1].split("?")[0] for one in tokens]

    return names


def split(examples: list[str], size: int) -> list[list[str]]:
    return [examples[at : at + size] for at in range(0, len(examples), size)]


def test_each_epoch_has_every_record_once_in_another_order(tmp_path, stream_of, names):
    found = stream_of(rows_file(tmp_path, "a", 30))
    epochs = split(names(found.train, 90), 30)
    assert all(sorted(epoch) == sorted(f"a{n}" for n in range(30)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_it_is_the_same_when_read_again_and_another_with_another_seed(tmp_path, stream_of, names):
    path = rows_file(tmp_path, "a", 30)
    found = stream_of(path)
    assert names(found.train, 50) == names(found.train, 50) == names(stream_of(path).train, 50)
    assert names(found.train, 50) != names(stream_of(path, seed=7).train, 50)


def test_a_record_moves_no_further_forward_than_the_buffer(tmp_path, stream_of, names):
    order = names(stream_of(rows_file(tmp_path, "a", 60), buffer_size=5).train, 60)
    assert all(int(name[1:]) <= at + 5 for at, name in enumerate(order))
    assert names(stream_of(rows_file(tmp_path, "a", 60), buffer_size=1).train, 60) == [f"a{n}" for n in range(60)]


@pytest.mark.parametrize(("processes", "workers"), [(2, 1), (2, 2), (1, 3)])
def test_processes_and_workers_divide_the_records(tmp_path, stream_of, names, monkeypatch, processes, workers):
    from types import SimpleNamespace

    bad = (3, 4, 5, 6, 8, 17)
    found = stream_of(rows_file(tmp_path, "a", 26, bad=bad), on_bad_record="skip")
    seen: list[str] = []
    for rank in range(processes):
        for worker in range(workers):
            monkeypatch.setattr(stream, "world", lambda rank=rank: (rank, processes))
            info = SimpleNamespace(id=worker, num_workers=workers)
            monkeypatch.setattr(stream, "get_worker_info", lambda info=info: info)
            number, shards = stream.shard_of_this_process()
            mine = len([row for row in range(number, 26, shards) if row not in bad])
            seen += names(found.train, mine)
    assert sorted(seen) == sorted(f"a{n}" for n in range(26) if n not in bad)
    found.settle()
    (report,) = found.report.to_dict().values()
    skipped = report["skipped"]["no answer"]
    assert (report["rows"], report["used"], skipped["count"]) == (26, 20, 6)
    assert [int(place.rpartition(":")[2]) for place in skipped["first"]] == [4, 5, 6, 7, 9]


@pytest.mark.slow
def test_a_data_loader_with_workers_loses_nothing(tmp_path, stream_of, names):
    found = stream_of(rows_file(tmp_path, "a", 24))
    loader = DataLoader(found.train, batch_size=4, num_workers=2, collate_fn=lambda batch: batch)
    batches = list(itertools.islice(loader, 6))
    assert sorted(name for batch in batches for name in names(batch)) == sorted(f"a{n}" for n in range(24))


def test_held_out_records_are_drawn_over_all_datasets(tmp_path, stream_of, names):
    """T25: `--val_size 6` took the first rows of the first dataset."""
    one, other = rows_file(tmp_path, "a", 20, bad=(1,), long=(2,)), rows_file(tmp_path, "b", 20)
    options = {"val_size": 8, "on_bad_record": "skip", "cutoff_len": 100}
    found = stream_of(one, other, **options)
    held = set(names(found.held_out))
    assert len(held) == 8 and {name[0] for name in held} == {"a", "b"}
    assert held != {f"a{n}" for n in (0, *range(2, 9))}, "not the first ones"
    assert set(names(stream_of(other, one, **options).held_out)) == held, "whatever the order of the files"
    assert set(names(stream_of(one, other, seed=1, **options).held_out)) != held
    train = names(found.train, 80)
    assert set(train) == {f"{file}{n}" for file in "ab" for n in range(20) if (file, n) != ("a", 1)} - held
    found.settle()
    reports = found.report.to_dict().values()
    assert [(report["rows"], report["used"]) for report in reports] == [(20, 19), (20, 20)]
    with pytest.raises(UserError, match="--val_size 39: the data has 39 different usable records"):
        stream_of(one, other, **options | {"val_size": 39})


def test_copies_of_held_out_records_are_not_streamed(tmp_path, stream_of, names):
    """D17: records that are twice in the data were trained on and held out."""
    one, other = rows_file(tmp_path, "a", 10), tmp_path / "copy.jsonl"
    other.write_text(one.read_text(encoding="utf-8"), encoding="utf-8")
    found = stream_of(one, other, val_size=4)
    held = names(found.held_out)
    assert len(held) == len(set(held)) == 4
    assert not set(held) & set(names(found.train, 60))
    found.settle()
    (first, second) = found.report.to_dict().values()
    assert (first["used"], second["used"]) == (10, 6) and first["said"] == ["4 records held out for evaluation"]
    assert second["skipped"]["a copy of a held-out record"]["count"] == 4


class CountingFile(io.FileIO):
    """A file that counts what is read of it, by its name."""

    read_bytes: ClassVar[Counter[str]] = Counter()

    def readinto(self, buffer):
        count = super().readinto(buffer)
        self.read_bytes[Path(str(self.name)).name] += count or 0
        return count


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_read_once_an_epoch_and_its_beginning_before(tmp_path, stream_of, monkeypatch, packed):
    """D21: each file was read whole two or three times before its first row, and again for each epoch and worker."""
    path = rows_file(tmp_path, "a", 200)
    filler = "".join(json.dumps({"note": "x" * 9000}) + "\n" for _ in range(500))  # 4 MB
    text = path.read_text(encoding="utf-8") + filler
    path.write_text(text, encoding="utf-8")
    if packed:
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(gzip.compress(text.encode(), 1))
    os.utime(path, (1, 1))  # not just written
    size = path.stat().st_size
    plain = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode="r", *words, **more: io.BufferedReader(CountingFile(self, "rb"))
        if mode == "rb" else plain(self, mode, *words, **more),
    )  # fmt: skip
    CountingFile.read_bytes.clear()
    found = stream_of(path, on_bad_record="skip", buffer_size=1)
    found.train.first()
    before = CountingFile.read_bytes[path.name]
    assert before < (4 * size if packed else 2e6), "the beginning: to detect, to look, to begin"
    CountingFile.read_bytes.clear()
    epochs = list(itertools.islice(found.train, 401))
    assert len(epochs) == 401 and 2 * size <= CountingFile.read_bytes[path.name] < 2 * size + 1.2e6


def test_another_dataset_can_be_held_out(tmp_path, stream_of, names):
    found = stream_of(rows_file(tmp_path, "a", 4), eval_dataset=rows_file(tmp_path, "b", 3))
    assert names([found.held_out[index] for index in range(3)]) == ["b0", "b1", "b2"]


def test_streams_are_mixed_as_asked(tmp_path, stream_of, names):
    """T24: interleaved, the same first rows of the larger dataset came in every epoch."""
    paths = rows_file(tmp_path, "a", 2), rows_file(tmp_path, "b", 4)

    def order(strategy: str, count: int) -> str:
        return " ".join(names(stream_of(*paths, mix_strategy=strategy, buffer_size=1).train, count))

    assert order("concat", 8) == "a0 a1 b0 b1 b2 b3 a0 a1"
    assert order("interleave_under", 9) == "a0 b0 a1 b1 a0 b2 a1 b3 a0"
    assert order("interleave_over", 9) == "a0 b0 a1 b1 a0 b2 a1 b3 a0"


def test_rows_that_interleaving_repeats_are_counted_once(tmp_path, stream_of, names):
    one, other = rows_file(tmp_path, "a", 2), rows_file(tmp_path, "b", 9)
    found = stream_of(one, other, mix_strategy="interleave_over")
    names(found.train, 100)
    found.settle()
    assert [(entry.rows, entry.used) for entry in found.report.datasets.values()] == [(2, 2), (9, 9)]
    assert [source["rows"] for source in found.sources] == [2, 9]
    assert not found.train.account.exists()


def test_packed_windows_hold_every_record_once(tmp_path, stream_of, names):
    found = stream_of(rows_file(tmp_path, "a", 40), packing=True, cutoff_len=200, buffer_size=20)
    windows: list[list] = []
    while sum(map(len, windows)) < 40:
        windows = list(itertools.islice(found.train, len(windows) + 1))
    assert sorted(names(windows)) == sorted(f"a{n}" for n in range(40))
    assert len(windows) < 15 and all(sum(map(len, window)) <= 200 for window in windows)


def test_max_samples_and_empty_parts(tmp_path, stream_of, names, monkeypatch):
    path = rows_file(tmp_path, "a", 9)
    found = stream_of(path, max_samples=2)
    assert set(names(found.train, 20)) == {"a0", "a1"}
    found.settle()
    assert found.report.datasets[str(path)].said == ["reading ended after 2 rows at most, as --max_samples says"]
    monkeypatch.setattr(stream, "world", lambda: (4, 5))
    with pytest.raises(UserError, match="part 5 of 5 of the data has no usable record"):
        next(iter(stream_of(path, max_samples=2).train))


def test_a_bad_record_stops_with_its_place(tmp_path, stream_of):
    path = rows_file(tmp_path, "a", 9, bad=(4,))
    with pytest.raises(BadRecord, match=rf"{path}:5: no answer: .*--on_bad_record skip"):
        next(iter(stream_of(path).train))


def test_an_example_that_is_looked_at_is_not_counted(tmp_path, stream_of, names):
    found = stream_of(rows_file(tmp_path, "a", 9), buffer_size=1)
    assert names([found.first()]) == ["a0"] and not found.train.account.exists()


def test_a_bad_record_comes_out_of_a_loader_as_a_failure_for_ever(tmp_path, stream_of, names, monkeypatch):
    monkeypatch.setattr(stream, "ENCODED_ROWS", 2)
    found = stream_of(rows_file(tmp_path, "a", 9, bad=(4,)), buffer_size=1)
    given = list(itertools.islice(FailingStream(found.train), 6))
    assert names(given[:3]) == ["a0", "a1", "a2"], "the buffer is lost, to be read again"
    assert all(isinstance(failure, Failure) and "a.jsonl:5: no answer" in failure.message for failure in given[3:])
    assert collate_or_fail(len, given[:3]) == 3 and collate_or_fail(len, given[1:5]) is given[3]


def test_evaluation_alone_is_encoded_first(tmp_path, tiny_folder):
    config = config_of(tmp_path, rows_file(tmp_path, "a", 4), streaming=True, do_train=False, do_eval=True)
    found = prepared(config, tiny_folder)
    assert not isinstance(found.train, TokenStream) and found.held_out is not None and len(found.held_out) == 4


def losses(folder: Path) -> list[float]:
    lines = (folder / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]


@pytest.fixture
def run_of(tmp_path, tiny_folder):
    """Run a streamed training into a folder and return its losses and its account of the data."""
    from carellama.train.run import run

    def run_of(path: Path, name: str, **options):
        given: dict[str, Any] = {"streaming": True, "max_steps": 6, "save_steps": 2, "logging_steps": 1, "bf16": False}
        given |= {"output_dir": tmp_path / name, "on_bad_record": "skip", "per_device_train_batch_size": 3}
        given |= {"model_name_or_path": tiny_folder, "lora_dropout": 0.1, "buffer_size": 9}
        run(config_of(tmp_path, path, **given | options))
        return losses(tmp_path / name), json.loads((tmp_path / name / "data_report.json").read_text())

    return run_of


@pytest.mark.slow
def test_a_stream_resumes_with_the_workers_and_files_that_it_had(tmp_path, run_of, monkeypatch):
    """T28: resumed with other workers, 41 of 62 records were trained on again; a file that changed was not noticed."""
    from carellama.train.trainer import PackedTrainer

    path, step = rows_file(tmp_path, "a", 30), PackedTrainer.compute_loss

    def killed(self, *args, **kwargs):
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(PackedTrainer, "compute_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        run_of(path, "cut")
    with pytest.raises(UserError, match=r"--dataloader_num_workers \(0, now 2\)"):
        run_of(path, "cut", dataloader_num_workers=2)
    rows_file(tmp_path, "a", 31)
    with pytest.raises(UserError, match=r"dataset contents \(.*a\.jsonl\)"):
        run_of(path, "cut")


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_losses(tmp_path, run_of, monkeypatch):
    from carellama.train.trainer import PackedTrainer

    path = rows_file(tmp_path, "a", 30, bad=(2,))
    whole, report = run_of(path, "whole")
    assert [(entry["rows"], entry["used"]) for entry in report.values()] == [(30, 29)]
    step = PackedTrainer.compute_loss

    def killed(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(PackedTrainer, "compute_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        run_of(path, "cut")
    monkeypatch.setattr(PackedTrainer, "compute_loss", step)
    assert run_of(path, "cut") == (whole, report) and len(whole) == 6


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_record_met_while_training_loses_nothing_learned(tmp_path, run_of, monkeypatch, caplog, workers):
    monkeypatch.setattr(stream, "ENCODED_ROWS", 4)
    path = rows_file(tmp_path, "a", 30, bad=(18,))
    options = {"buffer_size": 2, "dataloader_num_workers": workers, "save_steps": 3, "max_steps": 12}
    whole = run_of(path, "whole", **options)
    caplog.clear()
    for _ in range(2):  # the second time nothing new is learned
        with pytest.raises(SystemExit) as left:
            run_of(path, "cut", on_bad_record="error", **options)
        assert left.value.code == 2
    first, again = (text for text in caplog.messages if text.startswith("error"))
    (checkpoint,) = (tmp_path / "cut").glob("checkpoint-[!3]")
    assert first.startswith(f"error: {path}:19: no answer: ") and first == again and "Traceback" not in caplog.text
    assert first.endswith(f"with that option, or when the cause is fixed, the same command goes on from {checkpoint}")
    assert sorted(path.name for path in checkpoint.iterdir()) == sorted(
        path.name for path in (tmp_path / "whole/checkpoint-3").iterdir()
    )
    (report,) = json.loads((tmp_path / "cut/data_report.json").read_text()).values()
    assert 15 < report["rows"] == report["used"] < 30
    assert run_of(path, "cut", **options) == whole


@pytest.mark.slow
def test_a_stopped_run_keeps_its_last_checkpoint_beside_the_best(tmp_path, run_of, monkeypatch):
    monkeypatch.setattr(stream, "ENCODED_ROWS", 4)
    best = {"eval_strategy": "steps", "eval_steps": 3, "save_steps": 3, "load_best_model_at_end": True}
    best |= {"save_total_limit": 1, "eval_dataset": rows_file(tmp_path, "b", 3), "on_bad_record": "error"}
    with pytest.raises(SystemExit):
        run_of(rows_file(tmp_path, "a", 30, bad=(18,)), "cut", buffer_size=2, **best)
    assert sorted(path.name for path in (tmp_path / "cut").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_records_that_are_evaluated_too_are_counted(tmp_path, stream_of, caplog):
    """Only the path without --streaming counted them."""
    one, other = rows_file(tmp_path, "a", 6), tmp_path / "b.jsonl"
    other.write_text("".join(one.read_text().splitlines(keepends=True)[:2]))
    found = stream_of(one, eval_dataset=other)
    list(itertools.islice(found.train, 6))
    found.settle()
    line = "2 records of those read also in --eval_dataset"
    assert found.report.datasets[str(one)].said == [line] and line in caplog.text
    assert found.report.to_dict()[str(one)]["shared"] == 2
