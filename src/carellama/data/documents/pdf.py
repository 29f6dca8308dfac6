"""The text of a PDF with its raised and lowered numbers marked: 10<sup>9</sup>, H<sub>2</sub>O.

    marked_text(Path("guideline.pdf"))      # None where the PDF has none

A PDF places characters; it does not say that a 9 is an exponent. A number is raised or lowered when it is printed
smaller than its line and its foot is above or below that of the line. Without this, 16×10⁹/L reads as 16×109/L.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from carellama.errors import need

SMALLER = 0.85  # of the size of the line's characters
RAISED, LOWERED = 0.12, -0.04  # of the size of the line's characters, from foot to foot
NUMBER = re.compile(r"[+\-−–]?\d[\d+\-−–,]*|\d*[+\-−–]")  # an exponent, an index, a charge


def marked_text(path: Path) -> str | None:
    """Return the text with `<sup>` and `<sub>`, a form feed after each page; None where no number is raised."""
    pages = need("pdfminer.high_level", extra="documents", why="reading .pdf").extract_pages
    layout = need("pdfminer.layout", extra="documents", why="reading .pdf")
    text = "".join(f"{_container(page, layout)}\f" for page in pages(path, laparams=layout.LAParams()))
    return text if re.search(r"<su[pb]>", text) else None


def _container(container: Any, layout: Any) -> str:
    """The text of a page, a box, a line or a figure, as pdfminer's own converter writes it."""
    if isinstance(container, layout.LTTextLine):
        return "".join(_line(container, layout))
    if not isinstance(container, layout.LTContainer):
        return str(container.get_text()) if isinstance(container, layout.LTText) else ""
    text = "".join(_container(part, layout) for part in container)
    return f"{text}\n" if isinstance(container, layout.LTTextBox) else text


def _line(line: Any, layout: Any) -> Iterator[str]:
    """Runs of characters of a line, those of raised and lowered numbers in tags."""
    characters = [part for part in line if isinstance(part, layout.LTChar) and part.get_text().strip()]
    size = max((part.size for part in characters), default=0.0)
    full = [part for part in characters if part.size > SMALLER * size]
    foot = median(part.y0 for part in full) if full else 0.0

    def position(part: Any) -> str:
        if not isinstance(part, layout.LTChar) or part.size > SMALLER * size or not part.upright:
            return ""
        shift = (part.y0 - foot) / size
        return "sup" if shift > RAISED else "sub" if shift < LOWERED else ""

    for tag, run in groupby(line, key=position):
        text = "".join(part.get_text() for part in run)
        yield f"<{tag}>{text}</{tag}>" if tag and NUMBER.fullmatch(text.strip()) else text
