"""Documents to text: nothing is lost but what is counted, wrapped lines are whole again, boxes and tables stay."""

from __future__ import annotations

import gzip
import re
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from carellama.data.convert import BadRecord
from carellama.data.documents.extract import documents, text_of_document
from carellama.data.documents.paragraphs import chunks, paragraphs
from carellama.errors import UserError
from carellama.records import Text

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def run(text: str) -> str:
    return f"<w:r><w:t>{text}</w:t></w:r>"


def docx(path: Path, body: str) -> Path:
    """The smallest Word file with this body."""
    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/><Override PartName="/word/document.xml" ContentType='
        '"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>',
        "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        '<Relationship Id="rId1" Target="word/document.xml" Type='
        '"http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"/></Relationships>',
        "word/document.xml": f'<w:document xmlns:w="{W}" '
        'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
        f"<w:body>{body}</w:body></w:document>",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>{text}')
    return path


def texts(path: Path, **kwargs) -> list[str]:
    found = list(documents(path, **kwargs))
    assert all(isinstance(one, Text) for one in found), found
    return [one.text for one in found]


BOX = (
    "<w:p><w:r><w:t>框前一段。</w:t></w:r><w:r><mc:AlternateContent>"
    "<mc:Choice Requires='wps'><w:drawing><w:txbxContent><w:p>{0}</w:p></w:txbxContent></w:drawing></mc:Choice>"
    "<mc:Fallback><w:pict><w:txbxContent><w:p>{0}</w:p></w:txbxContent></w:pict></mc:Fallback>"
    "</mc:AlternateContent></w:r></w:p><w:p>{1}</w:p>"
).format(run("框里的提示。"), run("框后一段。"))


def test_a_text_box_is_kept_once_and_in_its_place(tmp_path: Path) -> None:
    assert texts(docx(tmp_path / "a.docx", BOX)) == ["框前一段。\n框里的提示。\n框后一段。"]


def test_a_table_is_kept_as_rows(tmp_path: Path) -> None:
    cell = "<w:tc><w:p>{}</w:p></w:tc>".format
    rows = "".join(
        f"<w:tr>{cell(run(left))}{cell(run(right))}</w:tr>" for left, right in [("分级", "血压"), ("一级", "偏高")]
    )
    (text,) = texts(docx(tmp_path / "a.docx", f"<w:p>{run('见下表。')}</w:p><w:tbl>{rows}</w:tbl>"))
    assert re.search(r"\| 分级 \| 血压 \|", text) and re.search(r"\| 一级 \| 偏高 \|", text)


def test_cells_merged_down_leave_an_empty_cell_so_that_no_row_shifts(tmp_path: Path) -> None:
    cell = "<w:tc><w:tcPr>{}</w:tcPr><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:tc>".format
    begun, merged = "<w:vMerge w:val='restart'/>", "<w:vMerge/>"
    first = cell("", "分级") + cell("", "指标") + cell("", "单位")
    second = cell(begun, "一级") + cell("", "收缩压") + cell("", "毫米汞柱")
    third = cell(merged, "") + cell("", "舒张压") + cell("", "毫米汞柱")
    rows = "".join(f"<w:tr>{row}</w:tr>" for row in (first, second, third))
    (text,) = texts(docx(tmp_path / "a.docx", f"<w:tbl>{rows}</w:tbl>"))
    page = tmp_path / "a.html"
    page.write_text(
        "<table><tr><th>分级</th><th>指标</th><th>单位</th></tr>"
        "<tr><td rowspan=2>一级</td><td>收缩压</td><td>毫米汞柱</td></tr>"
        "<tr><td>舒张压</td><td>毫米汞柱</td></tr></table>",
        encoding="gb18030",
    )
    expected = [
        "| 分级 | 指标 | 单位 |",
        "| --- | --- | --- |",
        "| 一级 | 收缩压 | 毫米汞柱 |",
        "| | 舒张压 | 毫米汞柱 |",
    ]
    assert text.split("\n") == texts(page)[0].split("\n") == expected


def test_raised_numbers_do_not_become_other_numbers_and_signs_are_not_escaped(tmp_path: Path) -> None:
    raised = "<w:r><w:rPr><w:vertAlign w:val='{}'/></w:rPr><w:t>{}</w:t></w:r>".format
    body = run("低于10") + raised("superscript", "9") + run("/L，CO") + raised("subscript", "2") + run("，P*，a_b")
    assert texts(docx(tmp_path / "a.docx", f"<w:p>{body}{raised('superscript', '[1]')}</w:p>")) == [
        "低于10⁹/L，CO₂，P*，a_b[1]"
    ]


WRAPPED = """Asthma is a long-term condition of the airways that makes
breathing harder at times. It can not be cured, but treat-
ment keeps most people free of symptoms.

Inhalers
Two kinds are used: one relieves symptoms at once, the
other prevents them when it is taken every day.
- shake the inhaler
- breathe out
"""


def test_wrapped_lines_are_joined_and_lists_and_headings_are_not() -> None:
    assert paragraphs(WRAPPED, Counter()) == [
        "Asthma is a long-term condition of the airways that makes breathing harder at times. It can not be cured, but "
        "treatment keeps most people free of symptoms.",
        "Inhalers",
        "Two kinds are used: one relieves symptoms at once, the other prevents them when it is taken every day.",
        "- shake the inhaler",
        "- breathe out",
    ]


def test_chinese_is_joined_without_spaces() -> None:
    lines = [
        "哮喘是一种慢性气道疾病，发作时出现喘息、气",
        "急、胸闷或咳嗽，常在夜间加重，多数患者可以自",
        "行缓解或 经治疗缓解。",
    ]
    (joined,) = paragraphs("\n".join(lines), Counter())
    assert joined == "".join(lines).replace(" ", "")


def test_page_headers_and_numbers_are_dropped_counted_and_the_sentence_goes_on() -> None:
    full = "血压应在安静休息至少五分钟后测量，连续测量两次，每次间隔一分钟，取平均值，并把结果记在本子上。"
    half = "血压应在安静休息后测量，测量前半小时内不要吸烟，也不要喝咖啡或者"
    rest = "浓茶，袖带与心脏同高，测量时不要说话。"
    body = "\n\n".join([full] * 8 + [half])
    text = "\n\n".join(f"{body}\n\n某某指南 2020 版\n\n第 {page} 页\n\n{rest}" for page in range(1, 5))
    dropped = Counter[str]()
    assert paragraphs(text, dropped) == ([full] * 8 + [half + rest]) * 4
    assert dropped == {'page header or footer "某某指南2020版"': 4, "page number": 4}


def test_headers_and_numbers_of_marked_pages_are_those_at_their_edges() -> None:
    words = ["rest", "water", "sleep", "food"]
    pages = [
        f"A guideline for tests\n\nOn this page we write about {word}, which everybody needs\n"
        "every day of the year, and more of it in the days\nof a cold. In the table stand these numbers and\n"
        f"no others:\n500\n2{number}0\n120/80\nand after the table the text goes on for a few more\n"
        f"lines, to the end of the page of {word}, and on the\n\n{number}\n"
        for number, word in enumerate(words, 7)
    ]
    dropped = Counter[str]()
    found = "\n".join(paragraphs("\f".join(pages), dropped))
    assert dropped == {'page header or footer "a guideline for tests"': 4, "page number": 4}
    assert found.count("500") == found.count("120/80") == 4 and "tests" not in found
    assert "of rest, and on the On this page we write about water" in found


@pytest.mark.parametrize("printed", [True, False])
def test_numbers_and_headings_that_may_be_content_stay(printed: bool) -> None:
    """Doses in lines of their own, and the headings of a leaflet between items without a full stop."""
    leaflet = "\n".join(
        f"{name}\nDose in mg\n{dose}\n{dose + 1}\n120/80\nSide effects\n"
        "- may cause nausea in the first days of treatment"
        for name, dose in [("Firstine", 250), ("Secondine", 251), ("Thirdine", 252)]
    )
    dropped = Counter[str]()
    assert paragraphs(leaflet, dropped, printed=printed) == leaflet.split("\n") and not dropped


def test_lines_that_were_never_wrapped_stay_apart() -> None:
    """A paragraph a line, as long as they are: only a line of a page can be full."""
    text = "\n".join("这一段写得很长，说的是如何照顾发热的病人，" * 12 + f"这是第{number}段。" for number in "一二三")
    assert paragraphs(text, Counter()) == text.split("\n")


def test_a_heading_of_every_chapter_is_no_page_header() -> None:
    text = "\n".join(f"疾病{name}\n临床表现\n主要表现为发热和咳嗽，少数人有气促和胸痛。" for name in "甲乙丙丁")
    dropped = Counter[str]()
    assert "\n".join(paragraphs(text, dropped)).count("临床表现") == 4 and not dropped


@pytest.mark.parametrize("most", [None, 1, 10, 50])
def test_chunks_hold_every_paragraph_once_in_order(most: int | None) -> None:
    kept = ["# 一", "a" * 8, "b" * 30, "# 二", "c", "| d |", "e" * 12]
    found = list(chunks(kept, most))
    assert [paragraph for _, chunk in found for paragraph in chunk] == kept
    assert all(len(chunk) == 1 or sum(map(len, chunk)) <= (most or 10**9) for _, chunk in found)
    assert all(kept[number - 1] == chunk[0] for number, chunk in found)


def test_a_paragraph_that_is_too_long_is_divided_at_sentences_and_a_row_never() -> None:
    kept = ["先写一句。" * 50, "| 很长的一格。 " * 30, "Take 0.5 mg, e.g. in the morning. " * 20]
    found = list(chunks(kept, 60))
    assert "".join("".join(chunk) for _, chunk in found) == "".join(kept)
    assert (2, [kept[1]]) in found and [number for number, _ in found] == sorted(number for number, _ in found)
    assert all(len("".join(chunk)) <= 60 and chunk[-1].rstrip().endswith(("。", ".")) for at, chunk in found if at != 2)


def test_line_ends_and_encodings_of_text_books(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes("第一章 总论\r\n人体以气血为本。\r经络内外相连。\n".encode("gb18030"))
    assert texts(path) == ["第一章总论\n人体以气血为本。\n经络内外相连。"]


def test_a_classical_book_is_a_text_a_section(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes("<篇名>试写\r\n作者：某甲\r\n<目录>\r\r\n\n<篇名>甘草\r\n内容：味甘。 \r\n".encode("gb18030"))
    (text,) = documents(path)
    assert isinstance(text, Text) and text.text == "甘草\n味甘。" and text.meta == {"author": "某甲"}


def test_pages_of_a_site_lose_their_markup(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<head><style>p{}</style></head><body><h1>Cough</h1><p>Drink <b>enough</b>.</p></body>")
    assert texts(path) == ["# Cough\nDrink enough."]


def test_no_such_file_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        next(documents(tmp_path / "none"))


def test_one_bad_file_does_not_stop_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"not a zip")
    (tmp_path / "b.txt").write_text("Fine.")
    (tmp_path / "c.zzz").write_text("?")
    (tmp_path / "d.txt").write_text(" \n")
    (tmp_path / "e.pdf").write_bytes(b"%PDF-1.4\ndamaged")  # not to be read as plain text
    (tmp_path / "f.txt.baiduyun.downloading").write_bytes(b"half")
    found = list(documents(tmp_path))
    assert [one.text for one in found if isinstance(one, Text)] == ["Fine."]
    reasons = {Path(one.place.file).name: one.reason for one in found if isinstance(one, BadRecord)}
    assert reasons == {
        "a.docx": "a damaged or locked docx",
        "c.zzz": "not a document",
        "d.txt": "no text in the document",
        "e.pdf": "a damaged or locked pdf",
        "f.txt.baiduyun.downloading": "a partial download",
    }


def test_pdf_text_is_read_and_a_pdf_of_pictures_is_named(tmp_path: Path) -> None:
    pyplot = pytest.importorskip("matplotlib.figure")
    for name, words in (("text", "Take a rest when you have a cold."), ("picture", "")):
        figure = pyplot.Figure()
        figure.text(0.1, 0.5, words)
        figure.savefig(tmp_path / f"{name}.pdf")
    assert "Take a rest when you have a cold." in texts(tmp_path / "text.pdf")[0]
    (bad,) = documents(tmp_path / "picture.pdf")
    assert isinstance(bad, BadRecord) and "OCR" in bad.detail


def test_real_guidelines_lose_nothing_uncounted(real_data: Path) -> None:
    """All letters of the body are in the texts; missing at most what the dropped lines can hold."""
    parse = pytest.importorskip("defusedxml.ElementTree").fromstring
    fallback = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"

    def said(element) -> str:
        parts = [child for child in element if child.tag != fallback]
        return "".join((part.text or "") if part.tag == f"{{{W}}}t" else said(part) for part in parts)

    files = sorted((real_data / "llm-pretrain-finetune-pretrain").glob("*.docx"))
    assert files
    for file in files:
        dropped = Counter[str]()
        found = unicodedata.normalize("NFKC", "".join(texts(file, dropped=dropped)))  # raised numbers are raised forms
        body = unicodedata.normalize("NFKC", said(parse(zipfile.ZipFile(file).read("word/document.xml"))))
        raw = Counter(re.sub(r"\s", "", body))
        missing = (raw - Counter(re.sub(r"\s", "", found))).total()
        lines = sum(count for reason, count in dropped.items() if reason.startswith("page "))
        assert missing <= 40 * lines, (file.name, missing, dropped)


@pytest.mark.parametrize(("name", "written"), [("a.txt", "发烧三天"), ("a.html", "<p>发烧三天</p>")])
def test_a_compressed_text_is_read_decompressed(tmp_path: Path, name: str, written: str) -> None:
    """It was called damaged, or locked: its encoding is that of the text, its bytes were those of gzip."""
    (tmp_path / name).write_bytes(gzip.compress(written.encode("gb18030")))
    assert text_of_document(tmp_path / name, Counter()) == "发烧三天"
