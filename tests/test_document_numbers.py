"""Numbers of documents come out as the document shows them: lists, headings, exponents, cells, pages."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import pytest

from carellama.data.documents.numbering import FORMATS
from carellama.data.documents.paragraphs import paragraphs
from carellama.data.documents.slides import label_of
from test_documents import W, docx, run, texts


def numbered(number_id: int, level: int, text: str) -> str:
    numbering = f"<w:numPr><w:ilvl w:val='{level}'/><w:numId w:val='{number_id}'/></w:numPr>"
    return f"<w:p><w:pPr>{numbering}</w:pPr>{run(text)}</w:p>"


def level(index: int, number_format: str, text: str, start: int = 1, more: str = "") -> str:
    return (
        f"<w:lvl w:ilvl='{index}'><w:start w:val='{start}'/><w:numFmt w:val='{number_format}'/>{more}"
        f"<w:lvlText w:val='{text}'/></w:lvl>"
    )


def with_part(path: Path, name: str, body: str) -> None:
    """Add numbering or styles to a docx, and their relation to the document."""
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"word/{name}.xml", f'<w:{name} xmlns:w="{W}">{body}</w:{name}>')
        if "word/_rels/document.xml.rels" not in archive.namelist():
            parts = "".join(
                f'<Relationship Id="{part}" Type="{relations}/{part}" Target="{part}.xml"/>'
                for part in ("numbering", "styles")
            )
            archive.writestr(
                "word/_rels/document.xml.rels",
                f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{parts}'
                "</Relationships>",
            )


def numbered_docx(path: Path, body: str, numbering: str, styles: str = "") -> Path:
    docx(path, body)
    with_part(path, "numbering", numbering)
    with_part(path, "styles", styles)
    return path


def lists(*abstracts: str, overrides: str = "") -> str:
    """numbering.xml in which the list and the numId 1, 2, ... are these levels."""
    found = "".join(
        f"<w:abstractNum w:abstractNumId='{at}'>{levels}</w:abstractNum>" for at, levels in enumerate(abstracts, 1)
    )
    numbers = "".join(
        f"<w:num w:numId='{at}'><w:abstractNumId w:val='{at}'/></w:num>" for at in range(1, len(abstracts) + 1)
    )
    return found + numbers + overrides


@pytest.mark.parametrize(
    ("number_format", "text", "start", "shown"),
    [
        ("decimal", "(%1)", 1, ["(1)", "(2)"]), ("decimalEnclosedCircle", "%1", 20, ["⑳", "㉑"]),
        ("chineseCounting", "%1、", 3, ["三、", "四、"]),
        ("chineseCountingThousand", "第%1条", 19, ["第十九条", "第二十条"]),
        ("decimal", "[%1]", 16, ["[16]", "[17]"]), ("lowerLetter", "%1)", 26, ["z)", "aa)"]),
        ("upperRoman", "%1.", 3, ["III.", "IV."]), ("decimalZero", "%1.", 9, ["09.", "10."]),
        ("ideographTraditional", "%1、", 1, ["甲、", "乙、"]),
        ("chineseLegalSimplified", "%1、", 10, ["壹拾、", "壹拾壹、"]),
        ("upperLetter", "表%1", 1, ["表A", "表B"]), ("decimal", "LDL-C V 2.%1", 6, ["LDL-C V 2.6", "LDL-C V 2.7"]),
        ("none", "", 1, ["", ""]), ("hebrew1", "%1.", 4, ["4.", "5."]),
    ],
)  # fmt: skip
def test_the_number_that_word_shows_stands_before_the_text(
    tmp_path: Path, number_format: str, text: str, start: int, shown: list[str]
) -> None:
    """Each list came out as 1. 2. 3."""
    body = numbered(1, 0, "禁食") + numbered(1, 0, "补液")
    path = numbered_docx(tmp_path / "a.docx", body, lists(level(0, number_format, text, start)))
    dropped = Counter[str]()
    gap = "" if shown[0].endswith(("、", "条")) else " "  # Chinese has no space behind these
    expected = "\n".join(f"{label}{gap}{words}".strip() for label, words in zip(shown, ["禁食", "补液"], strict=True))
    assert texts(path, dropped=dropped) == [expected]
    assert bool(dropped) == (number_format not in FORMATS)


def test_levels_restart_and_lists_continue_as_in_word(tmp_path: Path) -> None:
    """Numbers ran on across headings, and levels were lost."""
    levels = level(0, "decimal", "%1.") + level(1, "decimal", "%1.%2") + level(2, "lowerLetter", "%3)")
    legal = level(0, "upperRoman", "%1") + level(1, "decimal", "%1.%2", more="<w:isLgl/>")
    restarted = "<w:num w:numId='7'><w:abstractNumId w:val='1'/><w:lvlOverride w:ilvl='0'><w:startOverride w:val='1'/>"
    overrides = f"{restarted}</w:lvlOverride></w:num>"
    body = "".join(
        numbered(*item)
        for item in [
            (1, 0, "a"), (1, 1, "b"), (1, 1, "c"), (1, 2, "d"), (1, 0, "e"), (1, 1, "f"), (1, 2, "g"),
            (7, 0, "h"), (7, 0, "i"), (1, 0, "j"), (2, 0, "k"), (2, 1, "l"), (2, 0, "m"), (2, 1, "n"), (0, 0, "o"),
        ]
    )  # fmt: skip
    path = numbered_docx(tmp_path / "a.docx", body, lists(levels, legal, overrides=overrides))
    (text,) = texts(path)
    assert text.split("\n") == [
        "1. a", "1.1 b", "1.2 c", "a) d", "2. e", "2.1 f", "a) g",
        "1. h", "2. i", "3. j", "I k", "1.1 l", "II m", "2.1 n", "o",
    ]  # fmt: skip


def test_headings_are_numbered_by_their_style_and_bullets_stay_bullets(tmp_path: Path) -> None:
    styles = (
        "<w:style w:type='paragraph' w:styleId='H1'><w:name w:val='heading 1'/><w:pPr><w:numPr><w:numId w:val='1'/>"
        "</w:numPr></w:pPr></w:style>"
        "<w:style w:type='paragraph' w:styleId='H2'><w:name w:val='heading 2'/><w:basedOn w:val='H1'/><w:pPr><w:numPr>"
        "<w:ilvl w:val='1'/></w:numPr></w:pPr></w:style>"
    )
    levels = level(0, "decimal", "%1", 2, "<w:pStyle w:val='H1'/>") + level(1, "decimal", "%1.%2", 6)
    body = "".join(
        f"<w:p><w:pPr><w:pStyle w:val='{style}'/></w:pPr>{run(text)}</w:p>"
        for style, text in (("H1", "血脂"), ("H2", "LDL-C"))
    )
    path = numbered_docx(
        tmp_path / "a.docx", body + numbered(2, 0, "鱼"), lists(levels, level(0, "bullet", "●")), styles
    )
    (text,) = texts(path)
    assert text.split("\n") == ["# 2 血脂", "## 2.6 LDL-C", "* 鱼"]


def test_the_lists_of_a_web_page_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text(
        "<ol type='a' start='3'><li>甲</li><li><p>乙</p></li><li value='9'>丙<ul><li>点</li></ul></li></ol>"
        "<ol reversed><li>x</li><li>y</li></ol><ol style='list-style-type: upper-roman'><li>u</li></ol>",
        encoding="utf-8",
    )
    (text,) = texts(path)
    assert text.split("\n") == ["c. 甲", "d. 乙", "i. 丙", "* 点", "2. x", "1. y", "I. u"]


def test_a_pipe_in_a_cell_is_no_other_column(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text("<table><tr><td>是|否</td><td>1~2片</td></tr></table>", encoding="utf-8")
    cells = "".join(f"<w:tc><w:p>{run(text)}</w:p></w:tc>" for text in ("是|否", "1~2片"))
    word = docx(tmp_path / "a.docx", f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>")
    for path in (page, word):
        assert texts(path)[0].split("\n")[0] == r"| 是\|否 | 1~2片 |", path


def test_slides_show_their_numbers() -> None:
    assert [label_of(scheme, 3) for scheme in ("alphaLcParenR", "arabicParenBoth", "romanUcPeriod", "arabicPlain")] == [
        "c)", "(3)", "III.", "3",
    ]  # fmt: skip


def test_numbered_paragraphs_of_a_slide(tmp_path: Path) -> None:
    pptx = pytest.importorskip("pptx")
    show = pptx.Presentation()
    frame = show.slides.add_slide(show.slide_layouts[1]).placeholders[1].text_frame
    items = [("禁食", 0), ("补液", 0), ("晶体", 1), ("胶体", 1), ("随访", 0)]
    for at, (words, depth) in enumerate(items):
        paragraph = frame.paragraphs[0] if at == 0 else frame.add_paragraph()
        paragraph.text, paragraph.level = words, depth
        properties = paragraph._p.get_or_add_pPr()
        name = "{http://schemas.openxmlformats.org/drawingml/2006/main}buAutoNum"
        kind = {"type": "alphaLcParenR"} if depth else {"type": "arabicParenBoth", "startAt": "3"}
        properties.append(properties.makeelement(name, kind))
    show.save(tmp_path / "a.pptx")
    (text,) = texts(tmp_path / "a.pptx")
    assert text.split("\n") == ["(3) 禁食", "(4) 补液", "a) 晶体", "b) 胶体", "(5) 随访"]


def pdf(path: Path, stream: bytes) -> Path:
    """The smallest PDF of one page."""
    objects = [
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(stream), stream),
        b"<< /Type /Page /Parent 4 0 R /MediaBox [0 0 595 842] /Contents 2 0 R "
        b"/Resources << /Font << /F1 1 0 R >> >> >>",
        b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
        b"<< /Type /Catalog /Pages 4 0 R >>",
    ]
    written, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(written))
        written += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"trailer << /Size 6 /Root 5 0 R >>\nstartxref\n%d\n%%%%EOF" % len(written)
    path.write_bytes(written + b"xref\n0 6\n0000000000 65535 f \n" + table + end)
    return path


def test_an_exponent_of_a_pdf_is_no_digit_of_the_number(tmp_path: Path) -> None:
    """16 x 10 to the 9th came out as 16 x 109."""
    stream = (
        b"BT /F1 12 Tf 50 700 Td (White cells 16 x 10) Tj /F1 7 Tf 5 Ts (9) Tj 0 Ts /F1 12 Tf (/L, then H) Tj "
        b"/F1 7 Tf -2 Ts (2) Tj 0 Ts /F1 12 Tf (O, 1~2 times.) Tj ET"
    )
    assert texts(pdf(tmp_path / "a.pdf", stream)) == ["White cells 16 x 10⁹/L, then H₂O, 1~2 times."]


def test_cells_of_a_spreadsheet_stay_as_they_are(tmp_path: Path) -> None:
    """The text NA became NaN, 1e-7 became 0.0."""
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [["药", "剂量"], ["NA", 1e-7], ["B", None], ["1_000", 5], ["007", "5*10mg|x"]]:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    (text,) = texts(tmp_path / "a.xlsx")
    assert text.split("\n")[3:] == ["| NA | 1e-07 |", "| B | |", "| 1_000 | 5 |", r"| 007 | 5*10mg\|x |"]


def page_of(heading: str, number: int, footer: str) -> str:
    lines = "\n".join(f"这一行是第{number}部分的正文，说的是第{at}件事，写得足够长，不是页眉。" for at in range(8))
    return f"{heading}\n{lines}\n{footer}\n{number}"


def test_headings_that_differ_by_a_number_are_no_page_headers_and_what_goes_is_listed() -> None:
    pages = [page_of(f"第{number}节 治疗建议", number, "中华杂志2024年") for number in range(1, 5)]
    dropped = Counter[str]()
    found = "\n".join(paragraphs("\f".join(pages), dropped))
    assert all(f"第{number}节治疗建议" in found for number in range(1, 5))
    assert dropped == {'page header or footer "中华杂志2024年"': 4, "page number": 4}


def test_a_header_may_hold_the_number_of_its_page() -> None:
    pages = [page_of(f"{number + 10} 高血压指南", number, "") for number in range(1, 5)]
    dropped = Counter[str]()
    assert "指南" not in "\n".join(paragraphs("\f".join(pages), dropped))
    assert dropped['page header or footer "高血压指南"'] == 4


def test_a_line_that_also_stands_within_pages_is_no_header() -> None:
    pages = [page_of("建议早期经口进食", number, "建议早期经口进食") for number in range(1, 5)]
    pages[2] = pages[2].replace("说的是第3件事", "说的是第3件事\n建议早期经口进食\n")
    dropped = Counter[str]()
    assert "\n".join(paragraphs("\f".join(pages), dropped)).count("建议早期经口进食") == 9
