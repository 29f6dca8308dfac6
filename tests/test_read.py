"""Files to rows: every form of the same records gives the same rows, each with the line it stands in."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from pathlib import Path

import pytest

from carellama.data.readers import BadRow, Row, digest, headless, keyed, rows, values
from carellama.errors import DataError, UserError

RECORDS = [
    {"q": "发烧三天了怎么办", "a": "多喝水，\n及时就医"},
    {"q": 'say "ah"', "a": "a, b\tc"},
    {"q": "café", "a": "x"},
]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def as_table(path: Path, delimiter: str) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["q", "a"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(RECORDS)
    return path


def fields(path: Path) -> list[dict]:
    return [row.fields for row in rows(path) if isinstance(row, Row)]


def lines(path: Path) -> list[int]:
    return [row.place.line for row in rows(path)]


def jsonl(ascii_only: bool = False) -> str:
    return "".join(json.dumps(record, ensure_ascii=ascii_only) + "\n" for record in RECORDS)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    "text",
    [
        jsonl(),
        jsonl(ascii_only=True),
        jsonl().replace("\n", "\r\n"),
        "\n\n" + jsonl().replace("\n", "\n\n"),
        json.dumps(RECORDS, ensure_ascii=False),
        json.dumps(RECORDS, indent=2),
        "\n".join(json.dumps(record, indent=2) for record in RECORDS),
    ],
)
def test_every_layout_of_json_gives_the_same_rows(tmp_path, name, text):
    assert fields(write(tmp_path / name, text)) == RECORDS


def test_tables_give_the_same_rows(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    assert fields(tmp_path / "a.parquet") == RECORDS
    assert fields(as_table(tmp_path / "a.csv", ",")) == RECORDS
    assert fields(as_table(tmp_path / "a.tsv", "\t")) == RECORDS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_encoding_gives_the_same_rows(tmp_path, encoding, packed):
    data = jsonl().encode(encoding)
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    path.write_bytes(gzip.compress(data) if packed else data)
    assert fields(path) == RECORDS


def test_places_are_the_lines_where_records_begin(tmp_path):
    assert lines(write(tmp_path / "a.jsonl", '\n{"a": 1}\n\n{"a": 2}\n')) == [2, 4]
    assert lines(write(tmp_path / "b.json", '[\n {\n  "a": 1\n },\n\n {"a": 2}, {"a": 3}\n]')) == [2, 6, 6]
    assert lines(write(tmp_path / "c.csv", 'q,a\n"x\ny",1\nz,2\n')) == [2, 4]
    assert lines(write(tmp_path / "d.txt", "one\n\n \nfour\n")) == [1, 4]


def test_text_keeps_separators_that_are_not_line_ends(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": "x\u2028y\x85z"}\n{"a": "w"}\n')
    assert fields(path) == [{"a": "x\u2028y\x85z"}, {"a": "w"}]


def test_an_array_far_larger_than_the_window_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("carellama.data.json_reader.READ_BYTES", 7)  # every value is cut by the window's end
    values = [{"n": 1234567, "t": True, "s": 'a"b\\\u4e2d' * k, "x": [None, -1.5e-7, {}]} for k in range(20)]
    path = write(tmp_path / "a.json", json.dumps(values, indent=1))
    text = path.read_text()
    assert fields(path) == values
    assert all(text.splitlines()[line - 1].strip() == "{" for line in lines(path))


def test_a_broken_line_is_one_bad_row(tmp_path):
    found = list(rows(write(tmp_path / "a.jsonl", '{"a": 1}\n{"a":\n[2]\n{"a": 3}\n')))
    assert [type(row) for row in found] == [Row, BadRow, BadRow, Row]
    assert [row.place.line for row in found] == [1, 2, 3, 4]


def test_a_row_with_too_many_or_too_few_fields_is_one_bad_row(tmp_path):
    found = list(rows(write(tmp_path / "a.csv", "q,a\n1,2\n1,2,3\n4\n5,6\n")))
    assert [type(row) for row in found] == [Row, BadRow, BadRow, Row]
    assert [row.place.line for row in found] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.json", '[\n{"a": 1},\n{"a": oops}]', 3),
        ("a.json", '[\n{"a": 1}\n{"a": 2}]', 3),
        ("a.json", '[\n{"a": 1},\n{"a": 2}\n', 4),
        ("a.json", '[{"a": 1}]\nmore', 2),
        ("a.csv", "q,q\n1,2\n", 1),
        ("a.csv", 'q,a\n1,2\n"x"y,3\n', 3),
    ],
)
def test_a_broken_file_is_an_error_with_its_line(tmp_path, name, text, line):
    with pytest.raises(DataError, match=rf"{name}:{line}: "):
        list(rows(write(tmp_path / name, text)))


def test_a_late_undecodable_byte_is_an_error_with_its_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl().encode() * 30_000 + b'{"a": "\xff"}\n')  # beyond the first chunk
    with pytest.raises(DataError, match=r":90001: "):
        list(rows(path))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.xls", b"x"),
        ("a.json.gz", gzip.compress(b"[1]" * 999, mtime=0)[:-9]),
        ("a.parquet", b"x"),
    ],
)
def test_what_can_not_be_read_is_a_user_error_that_names_the_file(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=name):
        list(rows(tmp_path / name))
    with pytest.raises(UserError, match=r"none\.json"):
        list(rows(tmp_path / "none.json"))


@pytest.mark.parametrize("text", ["", "\n \n", "[]"])
def test_nothing_is_no_rows(tmp_path, text):
    assert list(rows(write(tmp_path / "a.json", text))) == []


def test_digest_is_the_sha1_of_the_bytes(tmp_path):
    assert digest(write(tmp_path / "a.json", "[]")) == hashlib.sha1(b"[]").hexdigest()


def test_real_files_lose_no_row(real_data):
    path = real_data / "medicalgpt-finetune" / "medical_sft_1K_format.jsonl"
    expected = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    assert fields(path) == expected
    path = real_data / "medalpaca" / "medical_meadow_small.json"
    assert fields(path) == json.loads(path.read_text(encoding="utf-8"))


def test_values_that_are_not_objects_are_rows_of_one_field(tmp_path: Path) -> None:
    path = tmp_path / "dialogues.json"
    for text in ('[[["cough", "p"]],\n[["since when?", "d"]]]', '[["cough", "p"]]\n[["since when?", "d"]]\n'):
        path.write_text(text)
        found = [row for row in values(path) if isinstance(row, Row)]
        assert [row.fields for row in found] == [{"value": [["cough", "p"]]}, {"value": [["since when?", "d"]]}]
        assert [row.place.line for row in found] == [1, 2]


def test_an_object_keyed_by_id_has_a_row_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keyed.json"
    path.write_text('{"7": {"text": "cough"},\n "8": {"text": "fever"}, "9": 3}')
    first, second, third = keyed(path)
    assert isinstance(first, Row) and first.fields == {"key": "7", "text": "cough"}
    assert isinstance(second, Row) and second.place.line == 2 and isinstance(third, BadRow)
    path.write_text('{"7": {"text": "cough"}')
    with pytest.raises(DataError, match=r"keyed.json:1: found '' where ',' must follow"):
        list(keyed(path))
    path.write_text('{"7": {"text": "cough"}}\n{"8": {"text": "fever"}}')
    with pytest.raises(DataError, match=r"keyed.json:2: text after the end of the object"):
        list(keyed(path))


def test_a_csv_file_without_a_header_is_read_under_given_names(tmp_path: Path) -> None:
    path = tmp_path / "exam.csv"
    path.write_text('"Which, if any?",yes,no\nshort\n')
    good, bad = headless(path, ("question", "A", "B"))
    assert isinstance(good, Row) and good.fields == {"question": "Which, if any?", "A": "yes", "B": "no"}
    assert isinstance(bad, BadRow) and bad.reason == "wrong number of fields"
