"""Prepare a web page for markitdown: no menus, spanned cells filled, list numbers as text.

open_web_page(Path("guideline.html"), Counter())
"""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.data.documents.numbering import html_label
from carellama.data.documents.word import escape_pipes
from carellama.data.readers import whole_text
from carellama.errors import need

if TYPE_CHECKING:
    from bs4 import Tag

# What a browser shows as lines of their own and markitdown does not, so that numbers would run together.
IMPLIED_BLOCKS = ("option", "optgroup", "summary", "details", "legend", "fieldset", "textarea", "button", "figcaption",
                  "address", "section", "article", "aside", "header", "footer", "main", "center", "dir")  # fmt: skip


def open_web_page(path: Path, dropped: Counter[str]) -> io.BytesIO:
    """The web page as UTF-8 without its menus (`nav`), and with an empty cell below each that spans rows."""
    need("lxml", extra="documents", why="reading .html")  # it ends items and cells as a browser does: <li>a <li>b
    soup = need("bs4", extra="documents", why="reading .html").BeautifulSoup(whole_text(path), "lxml")
    for menu in soup("nav"):
        menu.extract()
        dropped["menu of a web page"] += 1
    for item in soup(IMPLIED_BLOCKS):
        item.name = "div"
    for formula in soup("math"):
        _open_formula(formula)
    for row in soup("tr"):
        for column, cell in enumerate(row.find_all(["td", "th"], recursive=False)):
            spans = [int(cell[name]) if str(cell.get(name, "")).isdigit() else 1 for name in ("rowspan", "colspan")]
            for below in row.find_next_siblings("tr")[: spans[0] - 1]:
                cells = below.find_all(["td", "th"], recursive=False)
                empty = soup.new_tag("td", colspan=str(spans[1]))
                if column < len(cells):
                    cells[column].insert_before(empty)
                else:
                    below.append(empty)
    for text in soup.find_all(string=re.compile(r"\|")):
        if text.find_parent(["td", "th"]) is not None:
            text.replace_with(escape_pipes(text))
    for numbered in soup("ol"):
        _number_items(numbered)
    return io.BytesIO(str(soup).encode())


def _open_formula(formula: Tag) -> None:
    """Write a formula in MathML in one line: m and a raised 2 must not become m2, nor a fraction its two numbers."""
    for copy in formula(["annotation", "annotation-xml"]):
        copy.extract()
    for scripts in formula(["msup", "msub", "msubsup"]):
        names = {"msup": ("sup",), "msub": ("sub",), "msubsup": ("sub", "sup")}[scripts.name]
        for child, name in zip(scripts.find_all(recursive=False)[1:], names, strict=False):
            child.name = name
    for fraction in formula("mfrac"):
        parts = fraction.find_all(recursive=False)
        for part in parts:
            if not part.get_text().strip().replace(".", "", 1).isalnum():
                part.insert(0, "(")
                part.append(")")
        if len(parts) == 2:
            parts[0].insert_after("/")
    for root in formula(["msqrt", "mroot"]):
        root.insert(0, "√(")
        root.append(")")


def _number_items(numbered: Tag) -> None:
    """Write the numbers of an ordered list, as a browser shows them, before its items, and make these paragraphs.

    (HTML, 4.4.5 and 4.4.8: start, reversed, type, and the value of an item.)
    """
    items = numbered.find_all("li", recursive=False)
    backwards = numbered.has_attr("reversed")
    number = _whole_number(numbered.get("start"), len(items) if backwards else 1)
    for item in items:
        number = _whole_number(item.get("value"), number)
        style = f"{numbered.get('style', '')};{item.get('style', '')}"
        named = re.findall(r"list-style(?:-type)?\s*:\s*([a-z-]+)", style)
        label = html_label(str(named[-1] if named else item.get("type") or numbered.get("type") or "1"), number)
        first = next((text for text in item.find_all(string=re.compile(r"\S")) if text.find_parent("li") is item), None)
        if first is None:
            item.insert(0, label)
        else:
            first.replace_with(f"{label} {first.lstrip()}" if label else str(first))
        number += -1 if backwards else 1
        item.name = "div"
    numbered.name = "div"


def _whole_number(text: object, default: int) -> int:
    return int(str(text)) if re.fullmatch(r"\s*-?\d+\s*", str(text)) else default
