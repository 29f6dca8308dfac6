"""Files that are not what their names say, or damaged (D13): read where that is safe, else refused with what to do.

One line a kind of damage; what `data check` and what training say of it are the same. No text of a patient is said.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import logging
import lzma
import re
import subprocess
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

import preloaded
from carellama.config.data import DataOptions
from carellama.config.data_commands import CheckOptions
from carellama.data.check.check import checked, files_of
from carellama.data.check.report import lines
from carellama.data.datasets import load_datasets
from carellama.errors import UserError

WORDS = "咳嗽怎么办"  # a patient's, which no message may repeat
ROWS = [{"instruction": f"{WORDS}{number}？", "output": f"请多休息，{WORDS}{number}。"} for number in range(20)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
ARRAY = json.dumps(ROWS, ensure_ascii=False)
PRETTY = json.dumps(ROWS, ensure_ascii=False, indent=1)


def table(delimiter: str, header: str = "instruction,output") -> str:
    names = header.replace(",", delimiter) + "\n" if header else ""
    return names + "".join(delimiter.join(row.values()) + "\n" for row in ROWS)


def sheet(header: tuple[str, ...] = ("instruction", "output")) -> bytes:
    import openpyxl

    book, file = openpyxl.Workbook(), io.BytesIO()
    for row in (header, *(tuple(row.values()) for row in ROWS)):
        book.active.append(row)
    book.save(file)
    return file.getvalue()


def zipped(**files: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/"), text)
    return file.getvalue()


def parquet(*, twice: bool = False) -> bytes:
    from pyarrow import parquet as format

    sink, rows = pa.BufferOutputStream(), pa.Table.from_pylist(ROWS)
    format.write_table(pa.Table.from_arrays(rows.columns, ["output", "output"]) if twice else rows, sink)
    return sink.getvalue().to_pybytes()


def zstandard(text: str) -> bytes:
    return pa.compress(text.encode(), "zstd", asbytes=True)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
DEEP = "[" * 10_000 + "]" * 10_000
# name, content, rows that are read, what is said (by check and by training; "" for nothing)
CASES: list[tuple[str, str | bytes, int, str]] = [
    ("jsonl.csv", LINES, 20, "holds JSON"),
    ("array.csv", PRETTY, 20, "holds JSON"),
    ("jsonl.tsv", LINES, 20, "holds JSON"),
    ("jsonl.txt", LINES, 20, "holds JSON"),
    ("csv.json", table(","), 20, "holds comma-separated text"),
    ("tsv.jsonl", table("\t"), 20, "holds tab-separated text"),
    ("prose.json", f"{WORDS}？\n请休息。\n", 0, "not JSON.*JSON Lines"),
    ("semicolon.csv", table(";"), 20, "semicolons"),
    ("tab.csv", table("\t"), 20, "tabs"),
    ("comma.tsv", table(","), 20, "commas"),
    ("bar.csv", table("|"), 20, r"with \|"),
    ("excel.csv", "sep=;\r\n" + table(";").replace("\n", "\r\n"), 20, "semicolons"),
    ("headless.csv", table(",", header=""), 0, "does not look like a header.*names of the columns"),
    ("headless_short.csv", f"{WORDS},休息\n" + table(",", header=""), 0, "does not look like a header"),
    ("headless_names.csv", "Ann Lee,cough\n" + table(",", header=""), 0, "does not look like a header"),
    ("english_names.csv", "ask1,say1\n" + table(",", header=""), 0, "no column|columns|format"),
    ("same_columns.csv", "instruction,output,output\n咳嗽,a,b\n", 0, "columns 2 and 3 have the same name.*rename"),
    ("same_words.csv", f"{WORDS},{WORDS}\na,b\n", 0, "columns 1 and 2 have the same name; rename"),
    ("open_quote.csv", f'instruction,output\n"{WORDS},b\nc,d\n', 0, "a quote is opened.*close it"),
    ("inner_quote.csv", f'instruction,output\na,b\n"{WORDS}" x,b\n', 1, "text follows a closing quote.*twice"),
    ("short_row.csv", "instruction,output\na,b\nc\nd,e,f\n", 1, "wrong number of fields"),
    ("nul.csv", "instruction,output\nc\0ough,b\na,b\n", 1, "NUL character"),
    ("nul.jsonl", LINES + "\0\0\0\n", 20, "broken JSON"),
    ("nul_escape.jsonl", LINES + '{"instruction":"a\\u0000b","output":"c"}\n', 21, "NUL characters in texts"),
    ("no_nul.jsonl", LINES + '{"instruction":"a\\\\u0000b","output":"c"}\n', 21, ""),
    ("nul.json", '[{"instruction":"a\\u0000b","output":"c"},\n' + ARRAY[1:], 21, "NUL characters in texts"),
    ("two_tables.csv", table(",") * 2, 40, "the header again.*remove"),
    ("two_marks.jsonl", ("\ufeff" + LINES) * 2, 40, ""),
    ("same_columns.parquet", parquet(twice=True), 0, "columns 1 and 2 have the same name.*rename"),
    ("bom.csv", "\ufeff" + table(","), 20, ""),
    ("crlf.jsonl", LINES.replace("\n", "\r\n"), 20, ""),
    ("cr.jsonl", LINES.replace("\n", "\r"), 20, ""),
    ("bom.json", "\ufeff" + ARRAY, 20, ""),
    ("utf16.json", ARRAY.encode("utf-16"), 20, ""),
    ("utf16le.json", PRETTY.encode("utf-16-le"), 20, "UTF-16 without BOM"),
    ("utf16be.csv", table(",").encode("utf-16-be"), 20, "UTF-16 without BOM"),
    ("utf32.jsonl", LINES.encode("utf-32"), 20, "UTF-32"),
    ("gb.jsonl", LINES.encode("gb18030"), 20, "GB18030"),
    ("latin.csv", "instruction,output\nna\xefve caf\xe9 d\xe9j\xe0,b\n".encode("latin-1"), 0, "not UTF-8.*save"),
    ("big5.csv", table(",").replace("请", "請").encode("big5", "ignore"), 0, "not UTF-8.*save"),
    ("mixed.jsonl", LINES.encode() + ROWS[0]["output"].encode("gb18030"), 0, "not UTF-8.*save"),
    ("book.json", sheet(), 20, "is a spreadsheet"),
    ("book.xlsx", sheet(), 20, ""),
    ("headless.xlsx", sheet(tuple(ROWS[0].values())), 0, "does not look like a header"),
    ("not_a_book.xlsx", LINES, 0, "not a (whole )?spreadsheet.*rename"),
    ("parquet.json", parquet(), 20, "is Parquet"),
    ("cut.parquet", parquet()[:-9], 0, "Parquet file is damaged.*copy"),
    ("archive.zip", zipped(a__json=ARRAY, b="x"), 0, "zip archive of 2 files.*unpack"),
    ("archive.json", zipped(a=ARRAY), 0, "zip archive of 1 file.*unpack"),
    ("document.json", zipped(word__document="x"), 0, "is a document.*data convert"),
    ("packed.json", gzip.compress(ARRAY.encode()), 20, "compressed with gzip"),
    ("packed.jsonl.zst", zstandard(LINES), 20, ""),
    ("zstd.json", zstandard(ARRAY), 20, "compressed with Zstandard"),
    ("packed.csv.bz2", bz2.compress(table(",").encode()), 20, ""),
    ("packed.jsonl.xz", lzma.compress(LINES.encode()), 20, ""),
    ("plain.jsonl.gz", LINES, 20, "is not compressed"),
    ("cut.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-30], 0, "ends in the middle; copy"),
    ("page.json", "<!DOCTYPE html><html><body>404: Not Found</body></html>", 0, "web page.*download"),
    ("page.csv", "\n <html><body>Sign in</body></html>", 0, "web page.*download"),
    ("page.xml", '<?xml version="1.0"?><rows/>', 0, "is XML.*JSON Lines"),
    ("pointer.json", LFS, 0, "git-lfs pointer for a file of 12,345 bytes.*git lfs pull"),
    ("pointer.parquet", LFS, 0, "git-lfs pointer.*git lfs pull"),
    ("pickle.json", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00]", 0, "pickle.*JSON Lines"),
    ("paper.json", b"%PDF-1.7 x", 0, "PDF document.*data convert"),
    ("base.json", b"SQLite format 3\0" + bytes(99), 0, "SQLite database.*CSV"),
    ("binary.txt", bytes(range(32)) * 9, 0, "binary data"),
    ("wrapped.json", json.dumps({"version": 1, "data": ROWS}), 20, 'under the key "data"'),
    ("wrapped_pretty.json", json.dumps({"data": ROWS, "version": 1}, indent=1), 20, 'under the key "data"'),
    ("splits.json", json.dumps({"train": ROWS, "test": ROWS}), 20, "several lists of objects"),
    ("splits_2.json", json.dumps({"test": ROWS, "train": ROWS}), 0, "several lists of objects"),
    ("deep.json", DEEP, 0, "nested too deeply"),
    ("deep.jsonl", f'{{"instruction":"a","output":"b","x":{DEEP}}}\n' + LINES, 20, "nested too deeply"),
    ("twice.jsonl", LINES + '{"instruction":"a","instruction":"b","output":"c"}\n', 20, "a key occurs twice"),
    ("twice.json", '[{"instruction":"a","output":"b"}, {"output":"c","output":"d"}]', 1, "a key occurs twice"),
    ("one_line.json", ARRAY[:-1] + ", 5, [1]]", 20, "not an object.*rows 21, 22|row 21: not an object"),
    ("one_line_cut.json", ARRAY[:-9], 19, "row 20: .*ends inside this record|ends inside this record.*row 20"),
    ("cut.json", PRETTY[:-9], 19, "ends inside this record; copy"),
    ("not_closed.json", PRETTY[:-2], 20, "not closed.*copy"),
    ("cut.jsonl", LINES[:-9], 19, "ends inside this record; copy"),
    ("nan.jsonl", LINES + '{"instruction":"a","input":NaN,"output":"b"}\n', 21, "NaN.*missing value"),
    ("infinity.jsonl", LINES + '{"instruction":"a","output":Infinity}\n', 20, "column 'output' is not text"),
    ("comma.json", PRETTY[:-2] + ",\n]", 20, "comma behind the last row"),
    ("commas.jsonl", LINES.replace("}\n", "},\n"), 20, "commas between its objects"),
    ("quotes.json", str(ROWS), 0, "single quotes.*json.dumps"),
    ("arrays.json", ARRAY + "\n" + ARRAY, 40, "several arrays"),
    ("array_of_arrays.json", '[["q", "a"], ["q", "a"]]', 0, "not an object"),
    ("after.json", ARRAY + "\nmore", 20, "text after the end of the array"),
    ("empty.json", "", 0, "holds no r|is empty"),
    ("blank.csv", "\n\n", 0, "holds no r|is empty"),
    ("header.csv", "instruction,output\n", 0, "holds no r|is empty"),
]  # fmt: skip


def said_by_check(path: Path) -> tuple[int, str]:
    """(usable rows, all that is said)."""
    try:
        (file,) = files_of([str(path)])
        found = checked(file, CheckOptions(files=[str(path)]))
    except UserError as error:
        return 0, str(error)
    return found.usable, "\n".join(lines(found))


def said_by_training(path: Path) -> tuple[int, str]:
    usable, said = 0, []
    try:
        (dataset,) = load_datasets([str(path)], DataOptions(dataset_dir=str(path.parent / "none")))
        for row in dataset.rows():
            try:
                dataset.record(row)
                usable += 1
            except UserError as error:
                said.append(str(error))
    except UserError as error:
        said.append(str(error))
    return usable, "\n".join(said)


@pytest.mark.parametrize(("name", "content", "usable", "message"), CASES, ids=[case[0] for case in CASES])
def test_a_damaged_file_is_read_or_refused_with_what_to_do(tmp_path, caplog, name, content, usable, message):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    caplog.set_level(logging.WARNING)
    for look in (said_by_check, said_by_training):
        found, said = look(path)
        said = said.replace(str(path), "FILE") + caplog.text.replace(str(path), "FILE")
        assert found == usable, (look.__name__, said)
        assert re.search(message, said, re.DOTALL), (look.__name__, said)
        assert WORDS not in said, look.__name__
        if not message:
            assert not caplog.text


def test_a_folder_without_rows_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"holds no file that can be checked; known: \.json"):
        files_of([str(tmp_path)])
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        load_datasets([str(tmp_path)], DataOptions(dataset_dir=str(tmp_path)))


def test_a_notice_is_said_once_however_often_a_file_is_read(tmp_path, caplog):
    path = tmp_path / "rows.csv"
    path.write_text(LINES, encoding="utf-8")
    for _ in range(3):
        said_by_training(path)
    assert caplog.text.count("holds JSON") == 1


@pytest.mark.slow
def test_the_commands_refuse_in_one_line(tmp_path, tiny_folder):
    files = {"pointer.json": LFS, "headless.csv": table(",", header="")}
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    train = ["train", "--model_name_or_path", str(tiny_folder), "--output_dir", "out", "--dataset"]
    for words, name, message in (
        (["data", "check"], "headless.csv", "does not look like a header"),
        (train, "pointer.json", "git lfs pull"),
    ):
        command = [preloaded.python(), "-m", "carellama", *words, name]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        said = found.stdout + found.stderr
        assert found.returncode and message in said and "Traceback" not in said and WORDS not in said
