"""Prepare a pptx for markitdown: numbers of lists as text, raised numbers marked, cells of a table as columns.

    open_slides(Path("lecture.pptx"))

A slide stores "numbered, a) b) c), from 3"; PowerPoint works out the number (ECMA-376 part 1, 21.1.2.4.1). Numbering
that a paragraph has only from the layout of its slide is not resolved.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from carellama.data.documents.numbering import FORMATS
from carellama.data.documents.word import escape_pipes
from carellama.errors import need

A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
SLIDE = re.compile(r"ppt/slides/slide\d+\.xml")
SCHEMES = {  # the beginning of ST_TextAutonumberScheme: format
    "alphaLc": "lowerLetter", "alphaUc": "upperLetter", "arabicDb": "decimalFullWidth", "arabic": "decimal",
    "romanLc": "lowerRoman", "romanUc": "upperRoman", "circleNum": "decimalEnclosedCircle", "ea1": "chineseCounting",
}  # fmt: skip
ENDINGS = {"ParenBoth": "({})", "ParenR": "{})", "Period": "{}.", "Minus": "{}-"}  # anything else: the bare number


def open_slides(path: Path) -> io.BytesIO:
    """Return the pptx with its list numbers as text."""
    parse = need("defusedxml.ElementTree", extra="documents", why="reading .pptx").fromstring
    made = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        for item in source.infolist():
            data = source.read(item)
            if SLIDE.fullmatch(item.filename):
                root = parse(data)
                for body in (element for element in root.iter() if element.tag.endswith("}txBody")):
                    _number_paragraphs(body)
                for run in root.iter(f"{A}r"):
                    _raise(run)
                for text in (text for cell in root.iter(f"{A}tc") for text in cell.iter(f"{A}t")):
                    text.text = escape_pipes(text.text or "")
                data = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
            target.writestr(item, data)
    made.seek(0)
    return made


def _raise(run: Element) -> None:
    """Mark the text of a raised or lowered run: 10 and a raised 9 would be read as 109."""
    properties, text = run.find(f"{A}rPr"), run.find(f"{A}t")
    baseline = "" if properties is None else properties.get("baseline", "")
    if re.search("[1-9]", baseline) and text is not None and text.text:
        tag = "sub" if baseline.startswith("-") else "sup"
        text.text = f"<{tag}>{text.text}</{tag}>"


def _number_paragraphs(body: Element) -> None:
    """Put the number before the text of each numbered paragraph of one text body.

    A level counts on while its scheme and start stay the same; any other paragraph of this level or above ends it.
    """
    running: dict[int, tuple[tuple[str, int], int]] = {}  # level -> (scheme and start, last number)
    for paragraph in body.findall(f"{A}p"):
        properties = paragraph.find(f"{A}pPr")
        level = int(properties.get("lvl", "0")) if properties is not None else 0
        numbered = None if properties is None else properties.find(f"{A}buAutoNum")
        running = {above: state for above, state in running.items() if above <= level}
        if not any((text.text or "").strip() for text in paragraph.iter(f"{A}t")):
            continue  # PowerPoint shows no number before an empty paragraph
        if numbered is None:
            running.pop(level, None)
            continue
        kind = (numbered.get("type", "arabicPeriod"), int(numbered.get("startAt", "1")))
        before = running.get(level)
        number = before[1] + 1 if before is not None and before[0] == kind else kind[1]
        running[level] = (kind, number)
        text = next(text for text in paragraph.iter(f"{A}t") if (text.text or "").strip())
        text.text = f"{label_of(kind[0], number)} {(text.text or '').lstrip()}"


def label_of(scheme: str, number: int) -> str:
    """Return a number as a scheme of PowerPoint shows it: ("alphaLcParenR", 3) is "c)"."""
    name = next((name for begin, name in SCHEMES.items() if scheme.startswith(begin)), "decimal")
    ending = next((pattern for end, pattern in ENDINGS.items() if scheme.endswith(end)), "{}")
    return ending.format(FORMATS[name](number))
