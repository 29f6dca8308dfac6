"""Prepare a docx for markitdown: numbers as text, text boxes in their place, cells of a table as columns.

    open_word(Path("guideline.docx"), Counter())      # a docx that markitdown reads without loss

A docx stores "item of list 5, level 0"; the number that Word shows follows from numbering.xml: format, start, restart,
levels (ECMA-376 part 1, 17.9). Bullets stay list items. Departures: numbers in words (`cardinalText`, `ordinalText`)
and the formats of other scripts are written in digits and counted, and a picture as bullet is a bullet.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from carellama.data.documents.numbering import FORMATS
from carellama.data.documents.word_runs import open_runs, run_of
from carellama.errors import need

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
DOCUMENT = "word/document.xml"
NOTES = ("word/footnotes.xml", "word/endnotes.xml")
LEVELS = 9
NO_LIST = "0"  # the numId that takes a paragraph out of the list of its style
UNKNOWN_FORMAT = "number format that is not known, written in digits"
PIPE = re.compile(r"(?<!\\)\|")


def open_word(path: Path, dropped: Counter[str]) -> io.BytesIO:
    """The docx with its numbers as text, text boxes behind the paragraph that holds them, and no cells merged down.

    markitdown (through mammoth) numbers every list 1, 2, 3, leaves most boxes out, and rows under a merged cell would
    lack it and shift.
    """
    parse = need("defusedxml.ElementTree", extra="documents", why="reading .docx").fromstring
    made = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        names = set(source.namelist())
        numbering, styles = (
            parse(source.read(name)) if name in names else None for name in ("word/numbering.xml", "word/styles.xml")
        )
        for item in source.infolist():
            data = source.read(item)
            if item.filename in (DOCUMENT, *NOTES):
                root = parse(data)
                open_runs(root, dropped)
                if item.filename == DOCUMENT:
                    _open_boxes(root)
                    number_paragraphs(root, numbering, styles, dropped)
                    for text in (text for cell in root.iter(f"{W}tc") for text in cell.iter(f"{W}t")):
                        text.text = escape_pipes(text.text or "")
                    for properties in root.iter(f"{W}tcPr"):
                        for merged in properties.findall(f"{W}vMerge"):
                            properties.remove(merged)
                data = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
            target.writestr(item, data)
    made.seek(0)
    return made


def _open_boxes(element: Element) -> None:
    """Move the content of boxes behind the paragraphs that hold them, everywhere below an element."""
    behind: list[tuple[int, list[Element]]] = []
    for at, child in enumerate(element):
        _open_boxes(child)
        if child.tag == f"{W}p":
            found = [block for box in _boxes(child) for block in box]
            for box in child.iter(f"{W}txbxContent"):
                box.clear()
            if found:
                behind.append((at + 1, found))
    for at, blocks in reversed(behind):
        for block in reversed(blocks):
            element.insert(at, block)


def _boxes(element: Element) -> list[Element]:
    """The boxes below an element; of a box that is stored twice, for new and for old programs, the new form."""
    found: list[Element] = []
    for child in element:
        if child.tag == f"{W}txbxContent":
            found.append(child)
        elif child.tag != FALLBACK or not found:
            found += _boxes(child)
    return found


def escape_pipes(text: str) -> str:
    """Return the text of a table's cell for Markdown, where a pipe would begin another column."""
    return PIPE.sub(r"\\|", text)


@dataclass(frozen=True)
class Level:
    """One level of a list: how its number is written, and when it begins again."""

    number_format: str = "decimal"
    text: str = ""  # "%1.%2" stands for the numbers of the first two levels
    start: int = 1
    restart: int | None = None  # begins again after this level, counted from 1; None: after any above; 0: never
    legal: bool = False  # all numbers of its text in digits
    suffix: str = " "
    style: str | None = None  # the paragraph style that has this level


@dataclass(frozen=True)
class NumberedList:
    """What a numId stands for: the list whose numbers it continues, its levels, and those that start elsewhere."""

    abstract: str
    levels: dict[int, Level]
    starts: dict[int, int]  # level -> number at which it starts for this numId


@dataclass
class Counters:
    """The current numbers of one list; several numIds may continue it."""

    numbers: list[int | None] = field(default_factory=lambda: [None] * LEVELS)
    started: set[tuple[str, int]] = field(default_factory=set)  # (numId, level) whose own start was applied

    def advance(self, number_id: str, numbered: NumberedList, level: int) -> None:
        """Count one paragraph of a level, and begin the deeper levels again."""
        definition = numbered.levels.get(level, Level())
        current = self.numbers[level]
        start = numbered.starts.get(level)
        if start is not None and (number_id, level) not in self.started:
            self.started.add((number_id, level))
            current = None
        self.numbers[level] = (definition.start if start is None else start) if current is None else current + 1
        for deeper in range(level + 1, LEVELS):
            restart = numbered.levels.get(deeper, Level()).restart
            if restart is None or (restart > 0 and level < restart):
                self.numbers[deeper] = None
        for above in range(level):  # a level that no paragraph has yet shows its start
            if self.numbers[above] is None:
                self.numbers[above] = numbered.levels.get(above, Level()).start


def number_paragraphs(
    document: Element, numbering: Element | None, styles: Element | None, dropped: Counter[str]
) -> None:
    """Put the shown number before the text of each numbered paragraph, and take the paragraph out of its list.

    `document`, `numbering` and `styles` are the roots of word/document.xml, numbering.xml and styles.xml. A format
    that is not known is counted in `dropped`.
    """
    if numbering is None:
        return
    lists = read_lists(numbering)
    by_style = _Styles(styles, lists)
    counters: dict[str, Counters] = {}
    for paragraph in document.iter(f"{W}p"):
        number_id, level = by_style.numbering_of(paragraph)
        numbered = lists.get(number_id or NO_LIST)
        if numbered is None or number_id is None or not 0 <= level < LEVELS:
            continue
        counted = counters.setdefault(numbered.abstract, Counters())
        counted.advance(number_id, numbered, level)
        definition = numbered.levels.get(level, Level())
        if definition.number_format == "bullet":
            _set_list(paragraph, number_id, level)
            continue
        label = format_label(numbered, level, counted.numbers, dropped)
        _set_list(paragraph, NO_LIST, 0)
        if label:
            paragraph.insert(1, run_of(label + definition.suffix))  # behind its properties


def format_label(
    numbered: NumberedList, level: int, numbers: list[int | None], dropped: Counter[str] | None = None
) -> str:
    """Return the number of a paragraph as Word shows it, e.g. "(1)", "三、", "2.6"."""
    definition = numbered.levels.get(level, Level())
    text = definition.text
    for index in range(LEVELS):
        if f"%{index + 1}" not in text:
            continue
        shown = numbered.levels.get(index, Level())
        name = "decimal" if definition.legal and index < level else shown.number_format
        name = "decimal" if definition.legal and name != "decimalZero" else name
        if name not in FORMATS and dropped is not None:
            dropped[UNKNOWN_FORMAT] += 1
        number = numbers[index]
        text = text.replace(f"%{index + 1}", FORMATS.get(name, str)(shown.start if number is None else number))
    return text.strip()


def read_lists(numbering: Element) -> dict[str, NumberedList]:
    """Return the lists of numbering.xml by numId."""
    abstracts = {str(one.get(f"{W}abstractNumId")): one for one in numbering.iter(f"{W}abstractNum")}
    by_style = {  # a list that only names a style has the levels of the list that defines this style
        link.get(f"{W}val"): one for one in abstracts.values() if (link := one.find(f"{W}styleLink")) is not None
    }
    lists: dict[str, NumberedList] = {}
    for number in numbering.iter(f"{W}num"):
        name = _child(number, "abstractNumId") or ""
        abstract = abstracts.get(name)
        if abstract is None:
            continue
        style = _child(abstract, "numStyleLink")
        if style is not None and style in by_style:
            abstract = by_style[style]
            name = str(abstract.get(f"{W}abstractNumId"))
        levels = dict(map(_level, abstract.iter(f"{W}lvl")))
        starts: dict[int, int] = {}
        for override in number.iter(f"{W}lvlOverride"):
            index = _number(override.get(f"{W}ilvl"), 0)
            start = _child(override, "startOverride")
            for element in override.iter(f"{W}lvl"):
                levels.update([_level(element)])
                starts.setdefault(index, levels[index].start)
            if start is not None:
                starts[index] = _number(start, 1)
        lists[number.get(f"{W}numId") or ""] = NumberedList(name, levels, starts)
    return lists


def _level(element: Element) -> tuple[int, Level]:
    """The index of a `w:lvl`, and the level."""
    restart = _child(element, "lvlRestart")
    suffix = _child(element, "suff")
    legal = element.find(f"{W}isLgl")
    return _number(element.get(f"{W}ilvl"), 0), Level(
        number_format=_format_of(element),
        text=_child(element, "lvlText") or "",
        start=_number(_child(element, "start"), 0),  # 17.9.25: 0 where it is left out
        restart=None if restart is None else _number(restart, 0),
        legal=legal is not None and legal.get(f"{W}val", "1") not in ("0", "false", "off"),
        suffix="" if suffix == "nothing" else " ",
        style=_child(element, "pStyle"),
    )


def _format_of(element: Element) -> str:
    """The format of a level; newer programs write theirs as an alternative for older ones."""
    found = [str(one.get(f"{W}val")) for one in element.iter(f"{W}numFmt") if one.get(f"{W}val")]
    known = [name for name in found if name in FORMATS or name == "bullet"]
    return (known or found or ["decimal"])[0]


class _Styles:
    """The numbering that paragraph styles bring with them."""

    def __init__(self, styles: Element | None, lists: dict[str, NumberedList]) -> None:
        found = [] if styles is None else list(styles.iter(f"{W}style"))
        self.styles = {one.get(f"{W}styleId"): one for one in found}
        self.default = next((one.get(f"{W}styleId") for one in found if _is_default_paragraph(one)), None)
        self.lists = lists

    def numbering_of(self, paragraph: Element) -> tuple[str | None, int]:
        """(numId or None, level) of a paragraph: its own, else that of its style or of the style this is based on."""
        properties = paragraph.find(f"{W}pPr")
        number_id, level = _numbering(properties)
        style = (None if properties is None else _child(properties, "pStyle")) or self.default
        if number_id is not None and level is not None:
            return number_id, level
        seen: set[str] = set()
        while style is not None and style in self.styles and style not in seen:
            seen.add(style)
            element = self.styles[style]
            from_style, style_level = _numbering(element.find(f"{W}pPr"))
            if number_id is None and from_style is not None:
                number_id = from_style
                levels = self.lists[from_style].levels if from_style in self.lists else {}
                own = next((index for index, one in levels.items() if one.style in seen), None)
                level = level if level is not None else own
            level = style_level if level is None else level
            if number_id is not None and level is not None:
                break
            style = _child(element, "basedOn")
        return number_id, level or 0


def _is_default_paragraph(style: Element) -> bool:
    return style.get(f"{W}type") == "paragraph" and style.get(f"{W}default") in ("1", "true", "on")


def _numbering(properties: Element | None) -> tuple[str | None, int | None]:
    """(numId, level) of `w:pPr`, None each where it is not given."""
    found = None if properties is None else properties.find(f"{W}numPr")
    if found is None:
        return None, None
    level = _child(found, "ilvl")
    return _child(found, "numId"), None if level is None else _number(level, 0)


def _set_list(paragraph: Element, number_id: str, level: int) -> None:
    """Put a paragraph into a list by itself, whatever its style says; `NO_LIST` takes it out of any."""
    properties = paragraph.find(f"{W}pPr")
    if properties is None:
        properties = paragraph.makeelement(f"{W}pPr", {})
        paragraph.insert(0, properties)
    for found in properties.findall(f"{W}numPr"):
        properties.remove(found)
    numbering = ElementTree.SubElement(properties, f"{W}numPr")
    ElementTree.SubElement(numbering, f"{W}ilvl", {f"{W}val": str(level)})
    ElementTree.SubElement(numbering, f"{W}numId", {f"{W}val": number_id})


def _child(element: Element, name: str) -> str | None:
    """The `w:val` of a child; None where there is no such child."""
    found = element.find(f"{W}{name}")
    return None if found is None else found.get(f"{W}val")


def _number(text: str | None, default: int) -> int:
    try:
        return int(text or "")
    except ValueError:
        return default
