"""dataset_info.json in the seed's format, and files given by their path."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from carellama.config.data import DataOptions
from carellama.data.datasets import load_datasets
from carellama.errors import UserError

ROW = {"instruction": "q", "output": "a"}
ROWS = json.dumps([ROW])
SCRIPT = "def rows(dataset_dir, split):\n    yield {'instruction': split, 'output': 'a'}\n"


def loaded(folder: Path, *names: str, **options):
    return load_datasets(list(names) or ["d"], DataOptions(dataset_dir=str(folder), **options))


def folder_of(folder: Path, entry: dict | str, **files: str) -> Path:
    info = entry if isinstance(entry, str) else json.dumps({"d": entry})
    for name, text in {"a.json": ROWS, "dataset_info.json": info, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def fields(dataset) -> list[dict]:
    return [row.fields for row in dataset.rows()]


def test_named_columns_and_a_system_prompt_reach_the_record(tmp_path):
    columns = {"prompt": "ask", "query": "", "response": "reply", "history": ""}
    entry = {"file_name": "b.jsonl", "columns": columns, "system_prompt": "s"}
    row = {"ask": "q", "reply": "a", "input": "not named", "history": "not named"}
    (dataset,) = loaded(folder_of(tmp_path, entry, **{"b.jsonl": json.dumps(row)}))
    record = dataset.record(next(dataset.rows()), "the run's")
    assert [message.content for message in record.messages] == ["s", "q", "a"]


def test_rows_can_be_read_again(tmp_path):
    (dataset,) = loaded(folder_of(tmp_path, {"file_name": "a.json"}))
    assert fields(dataset) == fields(dataset) == [ROW]


def test_several_datasets_keep_their_order(tmp_path):
    entry = {"file_name": "a.json"}
    folder = folder_of(tmp_path, json.dumps({"x": entry, "y": entry}))
    assert [dataset.name for dataset in loaded(folder, "y", "x")] == ["y", "x"]


def test_a_file_by_its_path_needs_no_dataset_info(tmp_path):
    (tmp_path / "a.json").write_text(ROWS)
    (dataset,) = loaded(tmp_path / "elsewhere", str(tmp_path / "a.json"))
    assert (dataset.format.row_format, fields(dataset)) == ("alpaca", [ROW])


def test_a_folder_of_files_is_read_by_name(tmp_path):
    files = {"sub/b.json": ROWS, "sub/a.jsonl": json.dumps({"instruction": "first", "output": "a"})}
    (dataset,) = loaded(folder_of(tmp_path, {"file_name": "sub"}, **files))
    assert [row["instruction"] for row in fields(dataset)] == ["first", "q"]


def test_the_sum_is_checked_and_both_are_named(tmp_path):
    right, wrong = hashlib.sha1(ROWS.encode()).hexdigest(), "0" * 40
    (dataset,) = loaded(folder_of(tmp_path, {"file_name": "a.json", "file_sha1": right}))
    assert fields(dataset) == [ROW]
    with pytest.raises(UserError, match=f"{right}.*{wrong}"):
        loaded(folder_of(tmp_path, {"file_name": "a.json", "file_sha1": wrong}))


def test_a_missing_sum_is_no_news(tmp_path, caplog):
    """T18: every run said "no file_sha1"."""
    caplog.set_level("INFO")
    loaded(folder_of(tmp_path, {"file_name": "a.json"}), "d")
    assert not caplog.text


def test_a_script_runs_only_when_trusted(tmp_path):
    ran = tmp_path / "ran"
    marks = f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n{SCRIPT}"
    folder = folder_of(tmp_path, {"script_url": "s.py"}, **{"s.py": marks})
    with pytest.raises(UserError, match="--trust_dataset_script"):
        loaded(folder)
    assert not ran.exists()
    (dataset,) = loaded(folder, trust_dataset_script=True, split="test")
    assert fields(dataset) == [{"instruction": "test", "output": "a"}]


def test_the_digest_follows_the_data_and_not_its_place(tmp_path):
    (one,) = loaded(folder_of(tmp_path / "one", {"file_name": "a.json"}))
    (two,) = loaded(folder_of(tmp_path / "two", {"file_name": "a.json"}))
    assert one.digest() == two.digest()
    (tmp_path / "two" / "a.json").write_text(ROWS + " ")
    assert one.digest() != two.digest()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file_name": "none.json"}, r"none\.json"),
        ({}, "file_name"),
        ({"file_name": "a.json", "colums": {}}, "'columns'"),
        ({"file_name": "a.json", "columns": {"promt": "x"}}, "'prompt'"),
        ({"file_name": "a.json", "formatting": "alpca"}, "'alpaca'"),
        ('{"d": {\n"file_name" 3}}', r"dataset_info\.json:2: "),
        ("[]", "must hold an object"),
    ],
)
def test_a_mistake_in_dataset_info_says_what_and_where(tmp_path, entry, message):
    with pytest.raises(UserError, match=message):
        loaded(folder_of(tmp_path, entry))


def test_an_unknown_name_gives_the_nearest(tmp_path):
    folder = folder_of(tmp_path, json.dumps({"consult_en": {"file_name": "a.json"}}))
    with pytest.raises(UserError, match="Did you mean 'consult_en'"):
        loaded(folder, "consult_n")


def test_an_empty_dataset_is_an_error(tmp_path):
    with pytest.raises(UserError, match="empty"):
        loaded(folder_of(tmp_path, {"file_name": "a.json"}, **{"a.json": "[]"}))


def test_the_datasets_of_this_project_all_become_records():
    folder = Path(__file__).resolve().parent.parent / "data"
    names = list(json.loads((folder / "dataset_info.json").read_text(encoding="utf-8")))
    assert names
    for dataset in loaded(folder, *names):
        assert all(dataset.record(row) for row in dataset.rows()), dataset.name
