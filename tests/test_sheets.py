"""Spreadsheets: rows under a header, tables, and refusals with the reason."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from carellama.data.catalogue.layouts import LAYOUTS
from carellama.data.documents.extract import documents
from carellama.data.readers import BadRow, Row
from carellama.data.spreadsheets import as_markdown, sheet_rows
from carellama.errors import UserError
from carellama.records import Text


def workbook(path: Path, **sheets: list[list[object]]) -> Path:
    import openpyxl

    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_rows_have_the_names_of_their_sheets_header(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "a.xlsx",
        first=[[], ["drug", None, "tablets"], ["A", None, 2], [None, None, None], ["B", "stray", 1.5]],
        second=[["day"], [datetime.date(2024, 5, 6)]],
    )
    first, bad, second = sheet_rows(path)
    assert isinstance(first, Row) and first.fields == {"drug": "A", "tablets": "2"} and first.place.line == 3
    assert isinstance(bad, BadRow) and (bad.place.line, bad.reason) == (5, "a value under no header")
    assert isinstance(second, Row) and second.fields["day"].startswith("2024-05-06")


def test_a_table_keeps_its_rows_and_loses_empty_ones(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", doses=[["drug", None, "per day"], [], ["A|B", None, "2\ntimes"]])
    assert as_markdown(path) == "## doses\n\n| drug | per day |\n| --- | --- |\n| A\\|B | 2 times |"


def test_questions_with_answers_of_models_are_conversations(tmp_path: Path) -> None:
    rows: list[list[object]] = [["问题", "甲模型", "乙模型"], ["<s>问：\n咳嗽怎么办？\n答：\n", "不知道。", "多喝水。"]]
    path = workbook(tmp_path / "renamed.xlsx", 对比=rows)
    layout = LAYOUTS["answered-sheet"]
    assert layout.fits(path)
    ((chat,),) = layout.convert(path)  # type: ignore[misc]
    assert [message.content for message in chat.messages] == ["咳嗽怎么办？", "多喝水。"]
    assert chat.meta == {"model": "乙模型"}
    assert not layout.fits(workbook(tmp_path / "b.xlsx", other=[["drug", "dose"], ["A", 2]]))


def test_what_is_no_workbook_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xls"
    path.write_text("<html>")
    with pytest.raises(UserError, match=r"a\.xls: not a whole spreadsheet"):
        list(sheet_rows(path))
    (refused,) = documents(path)
    assert not isinstance(refused, Text) and "a.xls" in str(refused)


def test_an_old_workbook_is_a_document(real_data: Path) -> None:
    found = list(documents(real_data / "shennong-tcm" / "ShenNong-TCM-LLM_test_examples.xls"))
    assert found and all(isinstance(one, Text) for one in found)
