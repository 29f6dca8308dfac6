"""From options to examples: every row accounted for, held out by record, mixed and packed without a loss."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from carellama import run as runs
from carellama.config.parse import as_flags
from carellama.config.run import RunConfig, run_config
from carellama.data import cache
from carellama.data.convert import BadRecord
from carellama.data.prepare import Examples, Prepared, conversations, prepare
from carellama.errors import UserError
from carellama.model.load import load_config, load_tokenizer
from carellama.template import get_template


def config_of(folder: Path, *datasets: object, **options: object) -> RunConfig:
    """The options of a run on these datasets, its caches in `folder`."""
    given = {
        "model_name_or_path": "tiny",
        "dataset": ",".join(map(str, datasets)),
        "output_dir": folder / "out",
        "data_cache_dir": folder / "cache",
        "do_train": True,
    }
    given |= options
    return run_config(as_flags(given))


def prepared(config: RunConfig, model_folder: Path) -> Prepared:
    config.model.model_name_or_path = str(model_folder)
    tokenizer = load_tokenizer(config.model)
    return prepare(config, tokenizer, get_template(config.data.template, tokenizer))


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
    config = config_of(tmp_path, path, model_name_or_path=tiny_folder, cutoff_len=4096)
    *_, found = runs.prepared_run(config)
    assert max(found.train.lengths) == load_config(config.model).max_position_embeddings < 4096
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
    config = config_of(tmp_path, path, val_size=val_size, cutoff_len=100)
    found = prepared(config, tiny_folder)
    train, out = Counter(names_in(found.train)), Counter(names_in(found.held_out))
    assert len(out) == held and not set(out) & set(train)
    assert set(out) | set(train) == {f"a{number}" for number in range(12)}
    again = prepared(config, tiny_folder)
    assert names_in(again.held_out) == names_in(found.held_out)


def test_a_record_that_interleaving_repeats_is_held_out_everywhere(tmp_path, tiny_folder, names_in):
    paths = rows_file(tmp_path, "a", 4), rows_file(tmp_path, "b", 20)
    found = prepared(config_of(tmp_path, *paths, mix_strategy="interleave_over", val_size=6), tiny_folder)
    assert not set(names_in(found.train)) & set(names_in(found.held_out))


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
    config = config_of(tmp_path, rows_file(tmp_path, "a", 4), do_train=False, do_eval=True)
    assert names_in(prepared(config, tiny_folder).held_out) == ["a0", "a1", "a2", "a3"]


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
    from carellama.data.prepare import RowEncoder

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
    changes = [{"template": "alpaca"}, {"cutoff_len": 64}, {"max_source_length": 99}, {"system_prompt": "s"}]
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
    config = config_of(tmp_path, rows_file(tmp_path, "a", 5), overwrite_cache=True)
    prepared(config, tiny_folder)
    monkeypatch.setattr(type(config.training), "local_process_index", property(lambda self: 1))
    prepared(config, tiny_folder)
    assert encoded_rows() == 5


def test_an_interrupted_encoding_has_the_report_of_a_whole_one(tmp_path, tiny_folder, monkeypatch):
    from carellama.data import prepare as module

    monkeypatch.setattr(cache, "BATCH_ROWS", 3)
    monkeypatch.setattr(cache, "SHARD_BATCHES", 2)
    path = rows_file(tmp_path, "a", 30, long=(2, 20), bad=(1, 16, 29))

    def config(name: str) -> RunConfig:
        return config_of(tmp_path, path, on_bad_record="skip", cutoff_len=100, data_cache_dir=tmp_path / name)

    whole = prepared(config("whole"), tiny_folder)
    encode, calls = module._encode, []

    def killed(rows):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return encode(rows)

    monkeypatch.setattr(module, "_encode", killed)
    with pytest.raises(KeyboardInterrupt):
        prepared(config("cut"), tiny_folder)
    calls.extend([1] * 9)
    resumed = prepared(config("cut"), tiny_folder)
    assert resumed.report.to_dict() == whole.report.to_dict()
    assert [resumed.train[n][0].input_ids.tolist() for n in range(len(resumed.train))] == [
        whole.train[n][0].input_ids.tolist() for n in range(len(whole.train))
    ]


def test_conversations_are_those_of_the_held_out_data(tmp_path):
    one, other = rows_file(tmp_path, "a", 4, bad=(1,)), rows_file(tmp_path, "b", 3)
    config = config_of(tmp_path, one, eval_dataset=other)
    assert [chat.response for chat in conversations(config)] == ["b0.", "b1.", "b2."]
    config = config_of(tmp_path, one, on_bad_record="skip")
    assert [chat.response for chat in conversations(config)] == ["a0.", "a2.", "a3."]


@pytest.mark.parametrize(
    "name",
    [
        "medicalgpt-finetune/medical_sft_1K_format.jsonl",
        "medalpaca/medical_meadow_small.json",
        "genmedgpt-5k/chatdoctor5k.json",
    ],
)
def test_no_row_of_a_real_file_is_lost(real_data, tmp_path, tiny_folder, name):
    config = config_of(tmp_path, real_data / name, on_bad_record="skip", max_samples=300)
    found = prepared(config, tiny_folder)
    (entry,) = found.report.datasets.values()
    assert entry.rows == entry.used + entry.skipped == 300 and entry.used > 270
    records = {int(record) for store in found.train.stores for record in store.records}
    assert len(records) == entry.used
