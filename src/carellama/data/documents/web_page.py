"""Prepare a web page for markitdown: no menus, spanned cells filled, list numbers as text.

open_web_page(Path("guideline.html"), Counter())
"""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path
from typing import Any

from carellama.data.documents.numbering import html_label
from carellama.data.documents.word import escape_pipes
from carellama.data.read import encoding_of
from carellama.errors import need


def open_web_page(path: Path, dropped: Counter[str]) -> io.BytesIO:
    """The web page as UTF-8 without its menus (`nav`), and with an empty cell below each that spans rows."""
    soup = need("bs4", extra="documents", why="reading .html").BeautifulSoup(
        path.read_bytes().decode(encoding_of(path)), "html.parser"
    )
    for menu in soup("nav"):
        menu.extract()
        dropped["menu of a web page"] += 1
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


def _number_items(numbered: Any) -> None:
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
        label = html_label(named[-1] if named else item.get("type") or numbered.get("type") or "1", number)
        first = next((text for text in item.find_all(string=re.compile(r"\S")) if text.find_parent("li") is item), None)
        if first is None:
            item.insert(0, label)
        else:
            first.replace_with(f"{label} {first.lstrip()}" if label else str(first))
        number += -1 if backwards else 1
        item.name = "div"
    numbered.name = "div"


def _whole_number(text: Any, default: int) -> int:
    return int(text) if re.fullmatch(r"\s*-?\d+\s*", str(text)) else default
