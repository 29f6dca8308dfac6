"""Damage that real files have: each is an error or a counted bad row, never a traceback or a lost file."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import pytest

from carellama.config.data import DataOptions
from carellama.data.convert import BadRecord, Columns, convert
from carellama.data.datasets import load_datasets
from carellama.data.detect_format import Declared, detect_rows
from carellama.data.encoding.mixing import check_probabilities, mix
from carellama.data.readers import BadRow, Row, rows
from carellama.errors import UserError
from carellama.records import Place


def format_of(row, columns):
    return detect_rows([row], Declared(columns)).row_format or "alpaca"


def test_an_array_on_one_line_is_read_in_bounded_memory(tmp_path, monkeypatch):
    for module in ("file_bytes", "file_type", "json_reader"):
        monkeypatch.setattr(f"carellama.data.{module}.READ_BYTES", 1 << 14)
    record = json.dumps({"text": "x" * 1000})
    (tmp_path / "a.json").write_text("[" + ", ".join([record] * 4000) + "]")  # 4 MB
    peaks = []  # the least counts: what threads of other tests take meanwhile is counted as well
    for _ in range(3):
        tracemalloc.start()
        try:
            assert sum(1 for _ in rows(tmp_path / "a.json")) == 4000
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert min(peaks) < 500_000


def test_a_string_that_is_not_closed_is_not_looked_for_in_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr("carellama.data.json_reader.READ_BYTES", 100)
    monkeypatch.setattr("carellama.data.json_reader.MAX_RECORD_CHARS", 1000)
    (tmp_path / "a.json").write_text('[{"a": 1},\n{"a": "' + "\\u00e4" * 9000 + '"}]')
    with pytest.raises(UserError, match=r"a\.json:2: a record of more than 1,000 characters"):
        list(rows(tmp_path / "a.json"))


@pytest.mark.parametrize("line", ['{"a": ', '{"a": 1,}', '{"a": ' + "[" * 100_000])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_broken_line_costs_that_line_only(tmp_path, line, at):
    lines = ['{"a": 1}', '{"a": 2}']
    lines.insert(at, line)
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = list(rows(tmp_path / "a.jsonl"))
    assert [type(row) for row in found].index(BadRow) == at and len(found) == 3


def test_blank_lines_before_a_header(tmp_path):
    (tmp_path / "a.csv").write_text("\n\nq,a\n1,2\n")
    assert list(rows(tmp_path / "a.csv")) == [Row({"q": "1", "a": "2"}, Place(str(tmp_path / "a.csv"), 4))]


@pytest.mark.parametrize("at", [0.002, 0.3, 0.5, 0.99])
def test_damage_inside_a_gz(tmp_path, at):
    data = bytearray(gzip.compress(json.dumps([{"n": number} for number in range(9999)]).encode()))
    start = max(10, int(len(data) * at))  # behind the header
    data[start : start + 40] = b"\xff" * len(data[start : start + 40])
    (tmp_path / "a.json.gz").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.json\.gz"):
        list(rows(tmp_path / "a.json.gz"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"instruction": "q", "output": "\ud800"}, "not Unicode text"),
        ({"messages": [{"role": ["user"], "content": "q"}]}, "unknown role"),
        ({"dialogue": [1]}, "unknown role"),
        ({"messages": [{"role": "user", "content": [{"text": "q"}]}]}, "turn is not text"),
    ],
)
def test_a_wrong_type_is_a_reason(fields, reason):
    columns = Columns(messages="dialogue" if "dialogue" in fields else None)
    row = Row(fields, Place("a", 1))
    with pytest.raises(BadRecord) as caught:
        convert(row, columns, format_of(row, columns))
    assert caught.value.reason == reason


@pytest.mark.parametrize("column", ["conversations", "messages"])
@pytest.mark.parametrize(("role", "text"), [("role", "content"), ("from", "value")])
def test_the_keys_of_the_turns_tell_the_shape_whatever_the_column(column, role, text):
    row = Row({column: [{role: "user", text: "q"}, {role: "assistant", text: "a"}]}, Place("a", 1))
    assert len(convert(row, Columns(), format_of(row, Columns())).messages) == 2


def load(folder, entry, **files):
    for name, content in {"a.json": '[{"instruction": "q", "output": "a"}]', **files}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    (folder / "dataset_info.json").write_text(json.dumps({"d": entry}), encoding="utf-8")
    return load_datasets(["d"], DataOptions(dataset_dir=str(folder), trust_dataset_script=True))[0]


def test_the_seed_s_whole_format_is_taken(tmp_path):
    assert load(tmp_path, {"file_name": "a.json", "ranking": True}).files
    script = "def rows(dataset_dir, split):\n    yield {'instruction': 'q', 'output': 'a'}\n"
    found = load(tmp_path, {"script_url": "s.py", "file_name": "none.json"}, **{"s.py": script})
    assert found.script and not found.files  # script_url goes before file_name


@pytest.mark.parametrize(
    "entry",
    [{"file_name": 5}, {"file_name": "a.json", "file_sha1": 5}, {"file_name": "a.json", "columns": ["x"]},
     {"file_name": "a.json", "columns": {"prompt": 3}}, {"file_name": "a.json", "formatting": ["x"]}],
)  # fmt: skip
def test_a_wrong_type_in_dataset_info_is_a_user_error(tmp_path, entry):
    with pytest.raises(UserError, match="must be"):
        load(tmp_path, entry)


def test_a_dataset_info_with_a_byte_order_mark(tmp_path):
    load(tmp_path, {"file_name": "a.json"})
    info = tmp_path / "dataset_info.json"
    info.write_text(info.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert load_datasets(["d"], DataOptions(dataset_dir=str(tmp_path)))


def test_a_sum_of_a_folder_is_not_ignored(tmp_path):
    with pytest.raises(UserError, match="is a folder: "):
        load(tmp_path, {"file_name": "sub", "file_sha1": "0"}, **{"sub/a.json": '[{"text": "t"}]'})


def test_a_file_of_bad_rows_is_not_called_empty(tmp_path):
    with pytest.raises(UserError, match=r"a\.json, row 1: not an object"):
        load(tmp_path, {"file_name": "a.json"}, **{"a.json": "[1, 2]"})


def test_shares_as_people_write_them():
    assert len(mix([3, 5], "interleave_over", [0.5, 0.5000005], 0)) >= 8
    with pytest.raises(UserError, match="interleave_probs"):
        check_probabilities("interleave_over", [1.0, 0.0])
