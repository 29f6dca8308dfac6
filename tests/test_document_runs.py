"""Documents whose numbers markitdown loses or joins: moved text, fields, formulas, raised print, cells without ends."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import pytest

from carellama.data.documents.extract import documents
from test_documents import W, docx, texts

SPACE = 'xml:space="preserve"'


def paragraph(*runs: str) -> str:
    return f"<w:p>{''.join(runs)}</w:p>"


def run(text: str, properties: str = "") -> str:
    return f"<w:r><w:rPr>{properties}</w:rPr><w:t {SPACE}>{text}</w:t></w:r>"


def within(name: str, *inner: str) -> str:
    return f"<w:{name}>{''.join(inner)}</w:{name}>"


def field(instruction: str) -> str:
    kinds = [f"<w:r><w:fldChar w:fldCharType='{kind}'/></w:r>" for kind in ("begin", "end")]
    return (
        kinds[0]
        + "".join(f"<w:r><w:instrText>{part}</w:instrText></w:r>" for part in instruction.split("|"))
        + kinds[1]
    )


def formula(body: str) -> str:
    return f'<m:oMath xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math">{body}</m:oMath>'


def math(text: str) -> str:
    return f"<m:r><m:t>{text}</m:t></m:r>"


SQUARE = f"<m:sSup><m:e>{math('m')}</m:e><m:sup>{math('2')}</m:sup></m:sSup>"


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (paragraph(within("moveFrom", run("old 7")), within("moveTo", run("new 7"))), "new 7"),
        (paragraph(run("Table "), "<w:fldSimple w:instr='SEQ Table'>" + run("4") + "</w:fldSimple>"), "Table 4"),
        (paragraph("<w:bdo w:val='ltr'>" + run("38.5") + "</w:bdo>", run("℃")), "38.5℃"),
        (paragraph(run("10"), run("9", "<w:position w:val='6'/>"), run("/L")), "10⁹/L"),
        (paragraph(run("H"), run("2", "<w:position w:val='-4'/>"), run("O")), "H₂O"),
        (paragraph(field("eq \\o\\a|c(○,3)"), run(" third")), "③ third"),
        (paragraph(field("EQ \\F(1,2)"), run(" tablet")), "1/2 tablet"),
        (paragraph(formula(f"<m:f><m:num>{math('kg')}</m:num><m:den>{SQUARE}</m:den></m:f>")), "kg/m²"),
        (paragraph(formula(f"<m:rad><m:deg/><m:e>{math('a+1')}</m:e></m:rad>")), "√(a+1)"),
        (paragraph(formula(f"<m:d><m:e>{math('1.5')}</m:e><m:e>{math('2')}</m:e></m:d>")), "(1.5|2)"),
        (paragraph(formula(f"<m:nary><m:sub>{math('1')}</m:sub><m:sup/><m:e>{math('x')}</m:e></m:nary>")), "∫₁x"),
        (paragraph(within("r", within("ruby", within("rt", run("shao")), within("rubyBase", run("烧39"))))), "烧39"),
        (paragraph("<w:r><w:t>5</w:t><w:cr/><w:t>10 mg</w:t></w:r>"), "5\n10 mg"),
    ],
)  # fmt: skip
def test_a_docx_keeps_what_word_shows(body: str, shown: str, tmp_path: Path) -> None:
    """All of it was lost without a word, or its numbers ran together: 10 and a raised 9 were 109."""
    assert texts(docx(tmp_path / "a.docx", body)) == [shown]


def test_what_is_not_read_of_a_docx_is_counted(tmp_path: Path) -> None:
    chart = (
        '<w:r><w:drawing><c:chart xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart"/></w:drawing></w:r>'
    )
    dropped: Counter[str] = Counter()
    list(documents(docx(tmp_path / "a.docx", paragraph(run("Figure 1"), chart, field("eq \\x(5)"))), dropped=dropped))
    assert dropped == {
        "chart or diagram, whose texts are not read": 1, "formula of a field (EQ), of which only its signs are kept": 1,
    }  # fmt: skip


def test_footnotes_are_read_as_the_text_is(tmp_path: Path) -> None:
    path = docx(tmp_path / "a.docx", paragraph(run("5 mg"), "<w:r><w:footnoteReference w:id='2'/></w:r>"))
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    note = paragraph("<w:moveTo>" + run("not above 20 mg") + "</w:moveTo>")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(
            "word/footnotes.xml", f'<w:footnotes xmlns:w="{W}"><w:footnote w:id="2">{note}</w:footnote></w:footnotes>'
        )
        archive.writestr(
            "word/_rels/document.xml.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            f'<Relationship Id="r1" Type="{relations}/footnotes" Target="footnotes.xml"/></Relationships>',
        )
    assert "not above 20 mg" in texts(path)[0]


@pytest.mark.parametrize(
    ("body", "kept", "joined"),
    [
        ("<ol start=5><li>rest<li>drink</ol>", ["5. rest", "6. drink"], ""),
        ("<table><tr><th>a<th>b<tr><td>5<td>10</table>", ["| a | b |", "| 5 | 10 |"], ""),
        ("<select><option>5 mg</option><option>10 mg</option></select>", ["5 mg", "10 mg"], "mg10"),
        ("<section>1</section><section>2</section>", ["1", "2"], "12"),
        ("<math><mfrac><mi>kg</mi><msup><mi>m</mi><mn>2</mn></msup></mfrac></math>", ["kg/m²"], "kgm2"),
        ("<p><math><msqrt><mn>16</mn></msqrt><annotation>x 9</annotation></math></p>", ["√(16)"], "x 9"),
    ],
)  # fmt: skip
def test_a_web_page_keeps_its_numbers_apart(body: str, kept: list[str], joined: str, tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text(f"<html><body>{body}</body></html>", encoding="utf-8")
    (text,) = texts(path)
    assert all(one in text for one in kept) and (not joined or joined not in text)


def test_a_raised_number_of_a_slide_is_no_digit(tmp_path: Path) -> None:
    pptx = pytest.importorskip("pptx")
    show = pptx.Presentation()
    line = show.slides.add_slide(show.slide_layouts[6]).shapes.add_textbox(0, 0, 9, 9).text_frame.paragraphs[0]
    for text, baseline in (("10", ""), ("9", "30000"), ("/L, H", "0"), ("2", "-25000"), ("O", "")):
        one = line.add_run()
        one.text = text
        if baseline:
            one.font._element.set("baseline", baseline)
    show.save(tmp_path / "a.pptx")
    assert texts(tmp_path / "a.pptx") == ["10⁹/L, H₂O"]
