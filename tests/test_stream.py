"""Streams: every record once an epoch, divided without loss, the same when read again, accounted for."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from carellama.data import stream
from carellama.data.convert import BadRecord
from carellama.data.stream import FailingStream, Failure, TokenStream, collate_or_fail
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


def test_the_first_records_are_held_out(tmp_path, stream_of, names):
    path = rows_file(tmp_path, "a", 20, bad=(1,), long=(2,))
    found = stream_of(path, val_size=3, on_bad_record="skip", cutoff_len=100)
    held = names(found.held_out)
    assert set(held) == {"a0", "a2", "a3"} and len(held) > 3, "a split record is held out whole"
    assert Counter(names(found.train, 32)) == Counter({f"a{n}": 2 for n in range(4, 20)})
    found.settle()
    (report,) = found.report.to_dict().values()
    assert (report["rows"], report["used"], len(report["skipped"])) == (20, 19, 1)
    with pytest.raises(UserError, match="--val_size 30"):
        stream_of(path, val_size=30, on_bad_record="skip")


def test_another_dataset_can_be_held_out(tmp_path, stream_of, names):
    found = stream_of(rows_file(tmp_path, "a", 4), eval_dataset=rows_file(tmp_path, "b", 3))
    assert names([found.held_out[index] for index in range(3)]) == ["b0", "b1", "b2"]


def test_streams_are_mixed_as_asked(tmp_path, stream_of, names):
    paths = rows_file(tmp_path, "a", 2), rows_file(tmp_path, "b", 4)

    def order(strategy: str, count: int) -> str:
        return " ".join(names(stream_of(*paths, mix_strategy=strategy, buffer_size=1).train, count))

    assert order("concat", 6) == "a0 a1 b0 b1 b2 b3"
    assert order("interleave_under", 3) == "a0 b0 a1"
    assert order("interleave_over", 8) == "a0 b0 a1 b1 a0 b2 a1 b3"


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
    assert set(names(stream_of(path, max_samples=2).train, 20)) == {"a0", "a1"}
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
    from carellama.run import run

    def run_of(path: Path, name: str, **options):
        given = {"streaming": True, "max_steps": 6, "save_steps": 2, "logging_steps": 1, "bf16": False}
        given |= {"output_dir": tmp_path / name, "on_bad_record": "skip", "per_device_train_batch_size": 3}
        given |= {"model_name_or_path": tiny_folder, "lora_dropout": 0.1, "buffer_size": 9}
        run(config_of(tmp_path, path, **given | options))
        return losses(tmp_path / name), json.loads((tmp_path / name / "data_report.json").read_text())

    return run_of


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_losses(tmp_path, run_of, monkeypatch):
    from carellama.train.trainer import RowTrainer

    path = rows_file(tmp_path, "a", 30, bad=(2,))
    whole, report = run_of(path, "whole")
    assert [(entry["rows"], entry["used"]) for entry in report.values()] == [(30, 29)]
    step = RowTrainer.compute_loss

    def killed(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(RowTrainer, "compute_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        run_of(path, "cut")
    monkeypatch.setattr(RowTrainer, "compute_loss", step)
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
    assert first.endswith(f"with that option, or once this is mended, the same command goes on from {checkpoint}")
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
