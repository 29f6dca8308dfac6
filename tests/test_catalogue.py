"""The catalogue as a whole: its entries are sound, and any of its datasets goes from files to training."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from carellama.config.data import DataOptions
from carellama.data.catalogue.convert import run
from carellama.data.catalogue.entries import entries, find
from carellama.data.catalogue.layouts import LAYOUTS
from carellama.data.datasets import load_datasets
from carellama.errors import UserError

ROWS = [
    {"query": "<s>问：\n感冒了要吃药吗？\n答：\n", "response": "多数人多休息、多喝水就会好。"},
    {"query": "", "response": "没有问题的回答。"},
    {"query": "头痛三天了。", "response": "请尽快就医检查。"},
]


@pytest.fixture
def consult(tmp_path: Path) -> Path:
    path = tmp_path / "anything.json"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return path


def pull(home: Path, name: str, file: Path) -> None:
    folder = home / "datasets" / name / "files"
    folder.mkdir(parents=True)
    (folder / "ChatMed_Consult-v0.3.json").write_bytes(file.read_bytes())


def test_entries_name_layouts_that_are_there_and_of_their_stage() -> None:
    assert entries()
    for entry in entries().values():
        assert entry.hosts and entry.parts and entry.licence, entry.name
        assert not entry.same_as or entry.same_as in entries(), entry.name
        for part in entry.parts:
            assert part.layouts and set(part.layouts) <= set(LAYOUTS), f"{entry.name}:{part.name}"
            assert {LAYOUTS[name].stage for name in part.layouts} == {part.stage}, f"{entry.name}:{part.name}"
            assert find(f"{entry.name}:{part.name}") == (entry, part)


def test_every_layout_belongs_to_an_entry() -> None:
    used = {name for entry in entries().values() for part in entry.parts for name in part.layouts}
    assert used == set(LAYOUTS)


def test_a_file_of_any_name_is_converted_and_accounted_for(tmp_path: Path, consult: Path, capsys) -> None:
    output = tmp_path / "out.jsonl"
    run(["chatmed-consult", "--from_path", str(consult), "--output", str(output)])
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["instruction"] for row in rows] == ["感冒了要吃药吗？", "头痛三天了。"]
    said = capsys.readouterr()
    assert "3 rows, 2 used, 1 skipped" in said.err and f"{consult}:2" in said.err
    assert "2 conversations" in said.out


def test_the_printed_entry_of_dataset_info_reads_the_output(tmp_path: Path, consult: Path, capsys) -> None:
    run(["chatmed-consult", "--from_path", str(consult), "--output", str(tmp_path / "out.jsonl")])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("dataset_info.json: "))
    (tmp_path / "dataset_info.json").write_text(line.partition(": ")[2])
    (dataset,) = load_datasets(["out"], DataOptions(dataset_dir=str(tmp_path)))
    assert [dataset.record(row).response for row in dataset.rows()] == [ROWS[0]["response"], ROWS[2]["response"]]


def test_an_output_is_not_replaced_unasked(tmp_path: Path, consult: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("mine")
    with pytest.raises(UserError, match="--overwrite"):
        run(["chatmed-consult", "--from_path", str(consult), "--output", str(output)])
    assert output.read_text() == "mine"


def test_another_layout_names_the_field_and_the_row(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('\n{"query": "a", "reply": "b"}\n')
    with pytest.raises(UserError, match=r"other\.json:2 has no 'response'"):
        run(["chatmed-consult", "--from_path", str(path), "--output", str(tmp_path / "out.jsonl")])
    assert not (tmp_path / "out.jsonl").exists()


def test_a_pulled_dataset_is_trained_on_by_its_name(tmp_path: Path, consult: Path, monkeypatch) -> None:
    monkeypatch.setenv("CARELLAMA_CACHE", str(tmp_path / "home"))
    with pytest.raises(UserError, match="carellama data pull chatmed-consult"):
        load_datasets(["chatmed-consult"], DataOptions(dataset_dir=str(tmp_path)))
    pull(tmp_path / "home", "chatmed-consult", consult)
    (dataset,) = load_datasets(["chatmed-consult"], DataOptions(dataset_dir=str(tmp_path)))
    assert [dataset.record(row).response for row in dataset.rows()] == [ROWS[0]["response"], ROWS[2]["response"]]
    made = dataset.files[0]
    report = json.loads((made.parent / "report.json").read_text())["chatmed-consult:consult"]
    assert (report["rows"], report["used"]) == (3, 2)
    (again,) = load_datasets(["chatmed-consult:consult"], DataOptions(dataset_dir=str(tmp_path)))
    assert again.files == (made,), "converted twice"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chatmed"], "Did you mean 'chatmed-consult'"),
        (["chatmed-consult:pairs"], "part of chatmed-consult"),
        (["chatmed-consult", "--from_path", "nowhere"], "no such file or folder"),
        (["nowhere.json"], "nowhere.json: there is no such file or folder, and no dataset"),
        (["empty"], "empty holds no files"),
        (["bare.json"], "bare.json: no row can be read"),
        (["picture.json"], "picture.json is a picture, not rows: give the text as .txt"),
        (["good.jsonl", "--output", "empty"], "--output empty is a folder"),
        (["good.jsonl", "--output", "good.jsonl/x"], "cannot write good.jsonl/x: "),
        (["good.jsonl", "--split", "held_out"], "good.jsonl is taken whole"),
        (["good.jsonl", "--from", "good.jsonl"], "give it alone, without --from"),
        (["meddg", "--from", "picture.docx"], "picture.docx is a picture, not rows: give the text as .txt"),
        (["chatmed-consult"], "carellama data pull chatmed-consult"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, monkeypatch, words: list[str], message: str) -> None:
    monkeypatch.setenv("CARELLAMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare.json").write_bytes(b"")
    for name in ("picture.json", "picture.docx"):
        (tmp_path / name).write_bytes(b"\x89PNG\xff\xff\x00")
    (tmp_path / "good.jsonl").write_text('{"instruction": "a?", "output": "b"}\n')
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        run(words)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before, "something was left behind"


def test_files_of_no_dataset_are_read_by_their_shape(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("instruction,output\nWhat helps a cough?,Honey may soothe it.\n")
    run([str(path), "--output", str(tmp_path / "out.jsonl")])
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert row == {"instruction": "What helps a cough?", "input": "", "output": "Honey may soothe it.", "history": []}


def test_a_folder_is_converted_as_far_as_its_files_are_data(tmp_path: Path, capsys) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.py").write_text("x = 1\n")
    (tmp_path / "in" / "a.jsonl").write_text('{"instruction": "a?", "output": "b"}\n')
    run([str(tmp_path / "in"), "--output", str(tmp_path / "out.jsonl")])
    said = capsys.readouterr()
    assert "1 conversation" in said.out and "not read: " in said.err and "notes.py: unknown file type '.py'" in said.err


def test_what_a_killed_process_left_of_an_output_goes(tmp_path: Path, consult: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = tmp_path / f".out.jsonl.{platform.node()}-{gone.stdout.strip()}.tmp"
    other = tmp_path / f".out.jsonl.{platform.node()}-{os.getppid()}.tmp"
    left.write_text("of a killed process")
    other.write_text("of a running one")
    run(["chatmed-consult", "--from", str(consult), "--output", str(tmp_path / "out.jsonl")])
    assert not left.exists() and other.exists()


def test_nearly_all_real_files_convert(tmp_path: Path, real_data: Path) -> None:
    """Files of the datasets' own layouts: each row is a record or a counted skip, and most rows are records."""
    outcomes = Counter[str]()
    for name in entries():
        for file in sorted((real_data / name).glob("*")) if (real_data / name).is_dir() else []:
            try:
                run([name, "--from_path", str(file), "--output", str(tmp_path / "out.jsonl"), "--overwrite"])
                outcomes["converted"] += 1
            except UserError as error:
                assert str(file) in str(error) or "no row could be used" in str(error), error
                outcomes["refused"] += 1
    assert outcomes["converted"] > outcomes["refused"], outcomes
