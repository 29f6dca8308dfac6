"""From options to examples: every row accounted for, held out by record, mixed and packed without a loss."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from carellama.config.reader import to_flags
from carellama.config.run import RunOptions
from carellama.data.convert import BadRecord
from carellama.data.encoding import token_cache as cache
from carellama.data.encoding.examples import Examples, metric_names
from carellama.data.encoding.prepare import conversations, prepare
from carellama.errors import UserError
from carellama.model.load import load_config
from carellama.model.tokenizer import load_tokenizer
from carellama.templates.template import get_template
from carellama.train import run as runs
from carellama.train.options import run_options
from carellama.train.session import Session


def config_of(folder: Path, *datasets: object, **options: object) -> RunOptions:
    """The options of a run on these datasets, its caches in `folder`."""
    given = {
        "model_name_or_path": "tiny",
        "dataset": ",".join(map(str, datasets)),
        "output_dir": folder / "out",
        "data_cache_dir": folder / "cache",
        "do_train": True,
    }
    given |= options
    return run_options(to_flags(given))


def prepared(options: RunOptions, model_folder: Path) -> Any:
    options = replace(options, model=replace(options.model, model_name_or_path=str(model_folder)))
    tokenizer = load_tokenizer(options.model)
    return prepare(options, tokenizer, get_template(options.data.template, tokenizer))


def rows_file(folder: Path, name: str, count: int, long: tuple[int, ...] = (), bad: tuple[int, ...] = ()) -> Path:
    """Conversations named `<name><number>`; some longer than a record may be, some without an answer."""
    rows = []
    for number in range(count):
        turns = [("user", f"{name}{number}?"), ("assistant", f"{name}{number}.")]
        if number in long:
            turns *= 12
        if number in bad:
            turns = turns[:1]
        rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def names_in(tiny_tokenizer):
    """The names of the records in some examples, one for each of their entries."""

    def names(examples: Examples | None) -> list[str]:
        assert examples is not None
        found = []
        for index in range(len(examples)):
            for tokens in examples[index]:
                text = tiny_tokenizer.decode(tokens.input_ids.tolist())
                found.append(text.split("user\n")[1].split("?")[0])
        return found

    return names


def test_each_record_is_an_example(tmp_path, tiny_folder, names_in):
    found = prepared(config_of(tmp_path, rows_file(tmp_path, "a", 9)), tiny_folder)
    assert names_in(found.train) == [f"a{number}" for number in range(9)]
    assert found.held_out is None and not found.packed
    (source,) = found.sources
    assert (source["rows"], source["used"], source["tokens"]) == (9, 9, found.train.tokens)


def test_the_licence_of_a_dataset_is_in_the_record(tmp_path, tiny_folder):
    rows_file(tmp_path, "a", 9)
    (tmp_path / "dataset_info.json").write_text(json.dumps({"own": {"file_name": "a.jsonl", "licence": "CC-BY-4.0"}}))
    (source,) = prepared(config_of(tmp_path, "own", dataset_dir=tmp_path), tiny_folder).sources
    assert source["licence"] == "CC-BY-4.0"


def test_a_bad_record_stops_with_file_line_and_what_to_do(tmp_path, tiny_folder):
    path = rows_file(tmp_path, "a", 9, bad=(4,))
    with pytest.raises(BadRecord, match=rf"{path}:5: no answer: .*--on_bad_record skip"):
        prepared(config_of(tmp_path, path), tiny_folder)


def test_a_skipped_record_is_counted_with_its_place(tmp_path, tiny_folder, names_in):
    path = rows_file(tmp_path, "a", 9, bad=(4, 7))
    with path.open("a") as file:
        file.write("{broken\n")
    found = prepared(config_of(tmp_path, path, on_bad_record="skip"), tiny_folder)
    report = found.report.to_dict()[str(path)]
    assert names_in(found.train) == [f"a{number}" for number in range(9) if number not in (4, 7)]
    assert (report["rows"], report["used"]) == (10, 7)
    assert report["skipped"]["no answer"] == {"count": 2, "first": [f"{path}:5", f"{path}:8"]}
    assert report["skipped"]["broken JSON"] == {"count": 1, "first": [f"{path}:10"]}


def test_shortened_and_split_records_are_counted(tmp_path, tiny_folder):
    path = rows_file(tmp_path, "a", 9, long=(3,))
    found = prepared(config_of(tmp_path, path, cutoff_len=100), tiny_folder)
    report = found.report.to_dict()[str(path)]
    assert report["used"] == 9 and not report["skipped"]
    assert [case["first"] for case in report["split"].values()] == [[f"{path}:4"]]
    assert len(found.train) > 9 and max(found.train.lengths) <= 100


def test_a_stage_takes_its_own_records(tmp_path, tiny_folder):
    (tmp_path / "t.txt").write_text("plain text\n")
    with pytest.raises(BadRecord, match=r"t\.txt:1: --stage sft takes conversations"):
        prepared(config_of(tmp_path, tmp_path / "t.txt"), tiny_folder)
    with pytest.raises(BadRecord, match=r"a\.jsonl:1: --stage pt takes plain text"):
        prepared(config_of(tmp_path, rows_file(tmp_path, "a", 2), stage="pt"), tiny_folder)


def test_what_is_longer_than_the_model_takes_is_cut_and_counted_with_its_line(tmp_path, tiny_folder):
    path = tmp_path / "long.jsonl"
    rows = [{"instruction": "Hello?", "output": "Yes. " * count} for count in (1, 2000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = config_of(tmp_path, path, model_name_or_path=tiny_folder, cutoff_len=4096)
    found = Session.open(options).prepared
    assert max(found.train.lengths) == load_config(options.model).max_position_embeddings < 4096
    assert [case["first"] for case in found.report.to_dict()[str(path)]["shortened"].values()] == [[f"{path}:2"]]


def test_answers_that_are_all_good_teach_kto_nothing_and_are_refused(tmp_path, tiny_folder):
    path = tmp_path / "judged.jsonl"
    rows = [{"instruction": f"Hello {number}?", "output": "Yes.", "good": True} for number in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(UserError, match=rf"all 3 of the data are good, from {path} row 1 on"):
        prepared(config_of(tmp_path, path, stage="kto"), tiny_folder)
    with path.open("a") as file:
        file.write(json.dumps(rows[0] | {"good": False}) + "\n")
    assert len(prepared(config_of(tmp_path, path, stage="kto"), tiny_folder).train) == 4


def test_a_row_with_one_answer_is_no_pair_and_is_refused_with_its_line(tmp_path, tiny_folder):
    path = tmp_path / "pairs.jsonl"
    rows = [{"instruction": "Hello?", "input": "", "output": answers} for answers in (["Yes.", "No."], ["Yes."])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(BadRecord, match=r"pairs\.jsonl:2: "):
        prepared(config_of(tmp_path, path, stage="rm"), tiny_folder)
    found = prepared(config_of(tmp_path, path, stage="rm", on_bad_record="skip"), tiny_folder)
    assert [case["first"] for case in found.report.to_dict()[str(path)]["skipped"].values()] == [[f"{path}:2"]]


def test_no_usable_row_is_an_error_with_the_reason(tmp_path, tiny_folder):
    path = rows_file(tmp_path, "a", 2, bad=(0, 1))
    with pytest.raises(UserError, match=r"no row could be used.*no answer"):
        prepared(config_of(tmp_path, path, on_bad_record="skip"), tiny_folder)


@pytest.mark.parametrize(("val_size", "held"), [(3, 3), (0.25, 3)])
def test_whole_records_are_held_out(tmp_path, tiny_folder, names_in, val_size, held):
    path = rows_file(tmp_path, "a", 12, long=(1, 2, 3, 5, 8))
    options = config_of(tmp_path, path, val_size=val_size, cutoff_len=100)
    found = prepared(options, tiny_folder)
    train, out = Counter(names_in(found.train)), Counter(names_in(found.held_out))
    assert len(out) == held and not set(out) & set(train)
    assert set(out) | set(train) == {f"a{number}" for number in range(12)}
    again = prepared(options, tiny_folder)
    assert names_in(again.held_out) == names_in(found.held_out)


def test_a_record_that_interleaving_repeats_is_held_out_everywhere(tmp_path, tiny_folder, names_in):
    paths = rows_file(tmp_path, "a", 4), rows_file(tmp_path, "b", 20)
    found = prepared(config_of(tmp_path, *paths, mix_strategy="interleave_over", val_size=6), tiny_folder)
    assert not set(names_in(found.train)) & set(names_in(found.held_out))


def copy_of(path: Path, name: str) -> Path:
    copy = path.with_name(name)
    copy.write_bytes(path.read_bytes())
    return copy


@pytest.mark.parametrize("strategy", ["concat", "interleave_over", "interleave_under"])
@pytest.mark.parametrize("apart", [False, True])
def test_equal_records_fall_on_one_side_and_are_counted(tmp_path, tiny_folder, names_in, caplog, strategy, apart):
    """D17: of 10 records twice in the data, all that were held out had their copy in training. T23: once each."""
    path = rows_file(tmp_path, "a", 10, long=(3,))
    paths = [path, copy_of(path, "again.jsonl")] if apart else [path]
    if not apart:
        path.write_text(path.read_text(encoding="utf-8") * 2, encoding="utf-8")
    found = prepared(config_of(tmp_path, *paths, val_size=4, mix_strategy=strategy, cutoff_len=100), tiny_folder)
    train, held = Counter(names_in(found.train)), Counter(names_in(found.held_out))
    assert len(held) == 4 and not set(held) & set(train) and len(train) == 6
    assert all(count == 1 for name, count in held.items() if name != "a3"), "evaluated once"
    said = [line for entry in found.report.datasets.values() for line in entry.said]
    assert "4 records held out for evaluation" in said and "4 copies of held-out records left out of training" in said
    assert "4 records are equal to held-out ones" in caplog.text


def test_held_out_records_of_a_mix_are_evaluated_once(tmp_path, tiny_folder, names_in):
    """T23: `--val_size 10 --mix_strategy interleave_over` evaluated each record of the small dataset four times."""
    paths = rows_file(tmp_path, "a", 5), rows_file(tmp_path, "b", 20)
    found = prepared(config_of(tmp_path, *paths, mix_strategy="interleave_over", val_size=10), tiny_folder)
    held = names_in(found.held_out)
    assert len(held) == len(set(held)) == 10
    assert set(held) | set(names_in(found.train)) == {*(f"a{n}" for n in range(5)), *(f"b{n}" for n in range(20))}


def test_an_epoch_takes_other_rows_of_the_larger_dataset(tmp_path, tiny_folder, names_in):
    """T24: `interleave_under` took the first 15 of 60 rows in every epoch, and the report said "used 60"."""
    paths = rows_file(tmp_path, "a", 60), rows_file(tmp_path, "b", 15)
    found = prepared(config_of(tmp_path, *paths, mix_strategy="interleave_under"), tiny_folder)
    seen: list[str] = []
    size = len(found.train)
    for epoch in range(4):
        found.train.set_epoch(epoch)
        names = names_in(found.train)
        assert len(names) == size and {name for name in names if name[0] == "b"} == {f"b{n}" for n in range(15)}
        seen += [name for name in names if name[0] == "a"]
    assert set(seen) == {f"a{n}" for n in range(60)} and max(Counter(seen).values()) <= 2
    first, second = found.report.to_dict().values()
    taken = size - 15
    assert first["said"] == [f"{taken} of 60 examples in an epoch (interleave_under), others in each"]
    assert "said" not in second
    packed = prepared(config_of(tmp_path, *paths, mix_strategy="interleave_under", packing=True), tiny_folder)
    (line, *_) = (entry.said for entry in packed.report.datasets.values())
    assert line[0].endswith("the same in each, as they are packed")


@pytest.mark.slow
def test_the_trainer_s_loader_begins_each_epoch_with_its_own_rows(tmp_path, tiny_folder, names_in):
    """T24: also in the processes of a loader that live on from epoch to epoch."""
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    paths = rows_file(tmp_path, "a", 12), rows_file(tmp_path, "b", 3)
    found = prepared(config_of(tmp_path, *paths, mix_strategy="interleave_under"), tiny_folder)
    loader = DataLoader(found.train, batch_size=2, num_workers=1, persistent_workers=True, collate_fn=list)
    loader = Accelerator(cpu=True).prepare_data_loader(loader)
    epochs = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        epochs.append({name for batch in loader for name in names_in(batch) if name[0] == "a"})
    assert epochs[0] == {"a0", "a1", "a2"} and epochs[1] == {"a3", "a4", "a5"}


def test_a_dataset_that_is_also_evaluated_is_counted_once(tmp_path, tiny_folder, caplog):
    """T13: "8 rows, 8 used" for a file of 4."""
    path = rows_file(tmp_path, "a", 4)
    found = prepared(config_of(tmp_path, path, eval_dataset=path), tiny_folder)
    assert [(entry.rows, entry.used) for entry in found.report.datasets.values()] == [(4, 4)]
    assert len(found.sources) == 1 and "4 of 4 records of --eval_dataset are also in the training data" in caplog.text
    found = prepared(config_of(tmp_path, path, eval_dataset=path, max_samples=3), tiny_folder)
    assert [(name.endswith("(evaluation)"), entry.rows) for name, entry in found.report.datasets.items()] == [
        (False, 3), (True, 4),
    ]  # fmt: skip


def test_a_dataset_that_is_named_twice_is_said(tmp_path, tiny_folder, caplog):
    path = rows_file(tmp_path, "a", 4)
    found = prepared(config_of(tmp_path, path, path), tiny_folder)
    assert len(found.train) == 8 and [entry.rows for entry in found.report.datasets.values()] == [4]
    assert "is named more than once: its records are used as often" in caplog.text


def test_max_samples_does_not_cut_what_is_evaluated(tmp_path, tiny_folder, names_in):
    """T26: `--max_samples 5 --eval_dataset E` evaluated 5 of E's 15 rows."""
    one, other = rows_file(tmp_path, "a", 9), rows_file(tmp_path, "b", 15)
    options = {"max_samples": 5, "eval_dataset": other}
    found = prepared(config_of(tmp_path, one, **options), tiny_folder)
    assert len(found.train) == 5 and len(found.held_out) == 15
    assert [entry.said for entry in found.report.datasets.values()] == [
        ["reading ended after 5 rows, as --max_samples says"], [],
    ]  # fmt: skip
    found = prepared(config_of(tmp_path, one, **options, max_eval_samples=4), tiny_folder)
    assert len(found.train) == 5 and names_in(found.held_out) == ["b0", "b1", "b2", "b3"]
    alone = {"do_train": False, "do_eval": True}
    assert len(prepared(config_of(tmp_path, other, max_samples=7, **alone), tiny_folder).held_out) == 7
    assert len(prepared(config_of(tmp_path, other, max_eval_samples=8, **alone), tiny_folder).held_out) == 8
    predict = {"do_train": False, "do_predict": True, "predict_with_generate": True}
    assert len(conversations(config_of(tmp_path, one, **options, **predict))) == 15
    assert len(conversations(config_of(tmp_path, other, max_samples=6, **predict))) == 6
    with pytest.raises(UserError, match="--max_eval_samples is for --eval_dataset"):
        config_of(tmp_path, one, val_size=2, max_eval_samples=4)


def test_several_evaluated_datasets_are_told_apart(tmp_path, tiny_folder, names_in):
    """T27: `--eval_dataset A,B` gave one loss for both."""
    paths = [rows_file(tmp_path, name, count) for name, count in (("a", 4), ("b", 3), ("c", 2))]
    found = prepared(config_of(tmp_path, paths[0], eval_dataset=f"{paths[1]},{paths[2]}"), tiny_folder)
    names = names_in(found.held_out)
    assert {name: names[where] for name, where in found.parts.items()} == {"b": ["b0", "b1", "b2"], "c": ["c0", "c1"]}
    assert prepared(config_of(tmp_path, paths[0], eval_dataset=paths[1]), tiny_folder).parts == {}
    assert metric_names(["x/b.jsonl", "y/b.jsonl", "my data"]) == ["b", "b_2", "my_data"]


@pytest.mark.slow
def test_each_evaluated_dataset_has_a_loss_of_its_own(tmp_path, tiny_folder):
    """T27: and one for all of them, which lies between."""
    paths = [rows_file(tmp_path, name, count) for name, count in (("b", 3), ("c", 5))]
    options = {"model_name_or_path": tiny_folder, "do_train": False, "do_eval": True, "bf16": False}
    found = runs.run(config_of(tmp_path, ",".join(map(str, paths)), **options))
    assert [found[f"eval_{name}samples"] for name in ("", "b_", "c_")] == [8, 3, 5]
    low, high = sorted((found["eval_b_loss"], found["eval_c_loss"]))
    assert low < found["eval_loss"] < high
    for path, name in zip(paths, "bc", strict=True):
        alone = runs.run(config_of(tmp_path, path, **options))
        assert alone["eval_loss"] == pytest.approx(found[f"eval_{name}_loss"], rel=1e-5)
        assert "eval_b_loss" not in alone


def test_another_dataset_can_be_held_out(tmp_path, tiny_folder, names_in):
    one, other = rows_file(tmp_path, "a", 4), rows_file(tmp_path, "b", 3)
    found = prepared(config_of(tmp_path, one, eval_dataset=other), tiny_folder)
    assert names_in(found.train) == ["a0", "a1", "a2", "a3"] and names_in(found.held_out) == [
        "b0",
        "b1",
        "b2",
    ]
    assert [source["name"] for source in found.sources] == [str(one), str(other)]


def test_evaluation_alone_takes_everything(tmp_path, tiny_folder, names_in):
    options = config_of(tmp_path, rows_file(tmp_path, "a", 4), do_train=False, do_eval=True)
    assert names_in(prepared(options, tiny_folder).held_out) == ["a0", "a1", "a2", "a3"]


def test_datasets_are_mixed_as_asked(tmp_path, tiny_folder, names_in):
    paths = rows_file(tmp_path, "a", 2), rows_file(tmp_path, "b", 4)

    def order(strategy: str) -> str:
        found = prepared(config_of(tmp_path, *paths, mix_strategy=strategy), tiny_folder)
        return " ".join(names_in(found.train))

    assert order("concat") == "a0 a1 b0 b1 b2 b3"
    assert order("interleave_under") == "a0 b0 a1"
    assert order("interleave_over") == "a0 b0 a1 b1 a0 b2 a1 b3"


def test_max_samples_is_of_each_dataset(tmp_path, tiny_folder, names_in):
    paths = rows_file(tmp_path, "a", 9), rows_file(tmp_path, "b", 9)
    found = prepared(config_of(tmp_path, *paths, max_samples=2), tiny_folder)
    assert names_in(found.train) == ["a0", "a1", "b0", "b1"]
    assert [entry["rows"] for entry in found.report.to_dict().values()] == [2, 2]


def test_packed_windows_hold_every_record_once(tmp_path, tiny_folder, names_in):
    path = rows_file(tmp_path, "a", 30)
    alone = prepared(config_of(tmp_path, path, cutoff_len=200), tiny_folder)
    packed = prepared(config_of(tmp_path, path, cutoff_len=200, packing=True), tiny_folder)
    assert packed.packed and len(packed.train) < len(alone.train) / 3
    assert sorted(names_in(packed.train)) == sorted(names_in(alone.train))
    sizes = [sum(map(len, packed.train[index])) for index in range(len(packed.train))]
    assert max(sizes) <= 200 and sum(sizes) == alone.train.tokens


def test_plain_text_is_packed_unless_told(tmp_path, tiny_folder):
    (tmp_path / "t.txt").write_text("A line of text.\n" * 20)
    assert prepared(config_of(tmp_path, tmp_path / "t.txt", stage="pt"), tiny_folder).packed
    assert not prepared(config_of(tmp_path, tmp_path / "t.txt", stage="pt", packing=False), tiny_folder).packed


@pytest.fixture
def encoded_rows(monkeypatch):
    """How many rows were encoded so far."""
    from carellama.data.encoding.prepare import RowEncoder

    seen: list[int] = []
    call = RowEncoder.__call__

    def counting(self, rows):
        seen.extend([1] * len(rows))
        return call(self, rows)

    monkeypatch.setattr(RowEncoder, "__call__", counting)
    return lambda: len(seen)


def test_the_cache_is_used_until_something_changes(tmp_path, tiny_folder, encoded_rows):
    path = rows_file(tmp_path, "a", 5)

    def run(**options) -> int:
        before = encoded_rows()
        prepared(config_of(tmp_path, path, **options), tiny_folder)
        return encoded_rows() - before

    assert run() == 5
    assert run() == 0 and run(seed=7) == 0 and run(val_size=1) == 0
    changes: list[dict[str, Any]] = [
        {"template": "alpaca"},
        {"cutoff_len": 64},
        {"max_source_length": 99},
        {"system_prompt": "s"},
    ]
    for change in [*changes, {"max_samples": 4}]:
        assert run(**change) > 0 and run(**change) == 0
    assert run(overwrite_cache=True) == 5
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    assert run() == 6


def test_another_tokenizer_has_another_cache(tmp_path, tiny_folder, tiny_tokenizer, encoded_rows):
    path = rows_file(tmp_path, "a", 5)
    prepared(config_of(tmp_path, path), tiny_folder)
    from conftest import make_tokenizer

    other = make_tokenizer()
    other.add_tokens(["asthma"])
    prepare(config_of(tmp_path, path), other, get_template(None, other))
    assert encoded_rows() == 10


def test_processes_that_wait_do_not_empty_the_cache(tmp_path, tiny_folder, encoded_rows, monkeypatch):
    options = config_of(tmp_path, rows_file(tmp_path, "a", 5), overwrite_cache=True)
    prepared(options, tiny_folder)
    monkeypatch.setattr(type(options.training), "local_process_index", property(lambda self: 1))
    prepared(options, tiny_folder)
    assert encoded_rows() == 5


def test_an_interrupted_encoding_has_the_report_of_a_whole_one(tmp_path, tiny_folder, monkeypatch):
    from carellama.data.encoding.prepare import RowEncoder

    monkeypatch.setattr(cache, "BATCH_ROWS", 3)
    monkeypatch.setattr(cache, "SHARD_BATCHES", 2)
    path = rows_file(tmp_path, "a", 30, long=(2, 20), bad=(1, 16, 29))

    def options(name: str) -> RunOptions:
        return config_of(tmp_path, path, on_bad_record="skip", cutoff_len=100, data_cache_dir=tmp_path / name)

    whole = prepared(options("whole"), tiny_folder)
    encode, calls = RowEncoder.__call__, []

    def killed(self, rows):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return encode(self, rows)

    monkeypatch.setattr(RowEncoder, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        prepared(options("cut"), tiny_folder)
    calls.extend([1] * 9)
    resumed = prepared(options("cut"), tiny_folder)
    assert resumed.report.to_dict() == whole.report.to_dict()
    assert [resumed.train[n][0].input_ids.tolist() for n in range(len(resumed.train))] == [
        whole.train[n][0].input_ids.tolist() for n in range(len(whole.train))
    ]


def test_conversations_are_those_of_the_held_out_data(tmp_path):
    one, other = rows_file(tmp_path, "a", 4, bad=(1,)), rows_file(tmp_path, "b", 3)
    options = config_of(tmp_path, one, eval_dataset=other)
    assert [chat.response for chat in conversations(options)] == ["b0.", "b1.", "b2."]
    options = config_of(tmp_path, one, on_bad_record="skip")
    assert [chat.response for chat in conversations(options)] == ["a0.", "a2.", "a3."]


@pytest.mark.parametrize(
    "name",
    [
        "medicalgpt-finetune/medical_sft_1K_format.jsonl",
        "medalpaca/medical_meadow_small.json",
        "genmedgpt-5k/chatdoctor5k.json",
    ],
)
def test_no_row_of_a_real_file_is_lost(real_data, tmp_path, tiny_folder, name):
    options = config_of(tmp_path, real_data / name, on_bad_record="skip", max_samples=300)
    found = prepared(options, tiny_folder)
    (entry,) = found.report.datasets.values()
    assert entry.rows == entry.used + entry.skipped == 300 and entry.used > 270
    records = {int(record) for store in found.train.stores for record in store.records}
    assert len(records) == entry.used
