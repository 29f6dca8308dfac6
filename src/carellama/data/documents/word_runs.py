"""Write what markitdown leaves out of a docx as runs of text: moved text, fields, formulas, ruby, raised numbers.

    open_runs(root, Counter())       # root of word/document.xml or word/footnotes.xml, changed in place

A formula becomes one line (ECMA-376 part 1, 22.1): a fraction is "(a)/(b)", a root "√(a)". Charts and diagrams are
pictures with texts of their own; they are counted and not read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from carellama.data.documents.numbering import FORMATS

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
SPACE = "{http://www.w3.org/XML/1998/namespace}space"
# Around what Word shows as if they were not there; markitdown leaves out what is in them.
WRAPPERS = frozenset(f"{W}{name}" for name in ("moveTo", "fldSimple", "smartTag", "customXml", "dir", "bdo"))
BREAKS = {f"{W}cr": f"{W}br", f"{W}ptab": f"{W}tab"}  # which markitdown would join the words around
GONE = frozenset(f"{W}{name}" for name in ("moveFrom", "del"))
CHARTS = ("/chart}chart", "/diagram}relIds")
CHART = "chart or diagram, whose texts are not read"
RUBY = "reading above characters (ruby)"
EQ = re.compile(r"\s*eq\s+", re.IGNORECASE)
EQ_CIRCLE = re.compile(r"\\o\s*\\ac\s*\(\s*[○〇O]\s*[,;，；]\s*(\d{1,2})\s*\)", re.IGNORECASE)
EQ_FRACTION = re.compile(r"\\f\s*\(([^(),;，；\\]+)[,;，；]([^(),;，；\\]+)\)", re.IGNORECASE)
EQ_LEFT = "formula of a field (EQ), of which only its signs are kept"
RAISED_FROM = 2  # half points above or below the line, from which small print is an exponent or an index

Part = tuple[str, str]  # a text, and "superscript", "subscript" or ""


def open_runs(root: Element, dropped: Counter[str]) -> None:
    """Change the tree of a part of a docx so that all of its text stands in runs; `dropped` counts what is left out."""
    dropped.update(CHART for element in root.iter() if str(element.tag).endswith(CHARTS))
    for paragraph in root.iter(f"{W}p"):
        _open_eq_fields(paragraph, dropped)
    for element in root.iter():
        element.tag = BREAKS.get(element.tag, element.tag)
    _open(root, dropped)
    for properties in root.iter(f"{W}rPr"):
        _raise_by_position(properties)


def _open(element: Element, dropped: Counter[str]) -> None:
    """Replace wrappers by what they hold, formulas and ruby by runs, everywhere below an element."""
    made: list[Element] = []
    for child in list(element):
        if child.tag in GONE:
            made.append(child)
            continue
        if child.tag in (f"{M}oMath", f"{M}oMathPara"):
            made += [run_of(*part) for part in _formula(child) if part[0]]
            continue
        _open(child, dropped)
        if child.tag in WRAPPERS:
            made += [inner for inner in child if not str(inner.tag).endswith("Pr")]
        elif child.tag == f"{W}ruby":
            dropped[RUBY] += 1
            base = child.find(f"{W}rubyBase")
            made += [] if base is None else [text for run in base.iter(f"{W}r") for text in run]
        else:
            made.append(child)
    if len(made) != len(element) or any(one is not two for one, two in zip(made, element, strict=True)):
        element[:] = made


def _open_eq_fields(paragraph: Element, dropped: Counter[str]) -> None:
    """Write the formula of an EQ field, which has no result, as text: Word makes a number in a circle so."""
    parts: list[Element] = []  # the pieces of the instruction of one field
    for element in list(paragraph.iter()):
        if element.tag == f"{W}instrText":
            parts.append(element)
        if element.tag != f"{W}fldChar":
            continue
        instruction = "".join(part.text or "" for part in parts)
        if parts and EQ.match(instruction):
            for part in parts:
                part.tag, part.text = f"{W}t", ""
            parts[0].text = _eq_text(EQ.sub("", instruction, count=1), dropped)
        parts = []


def _eq_text(instruction: str, dropped: Counter[str]) -> str:
    text = EQ_CIRCLE.sub(lambda found: FORMATS["decimalEnclosedCircle"](int(found[1])), instruction)
    text = EQ_FRACTION.sub(lambda found: f"{found[1].strip()}/{found[2].strip()}", text)
    if "\\" in text:
        dropped[EQ_LEFT] += 1
        text = re.sub(r"\\[a-z]+\d*", " ", text, flags=re.IGNORECASE)
    return text.strip()


def run_of(text: str, align: str = "") -> Element:
    """A run of text; `align` is "superscript", "subscript" or ""."""
    run = ElementTree.Element(f"{W}r")
    if align:
        properties = ElementTree.SubElement(run, f"{W}rPr")
        ElementTree.SubElement(properties, f"{W}vertAlign", {f"{W}val": align})
    ElementTree.SubElement(run, f"{W}t", {SPACE: "preserve"}).text = text
    return run


def _raise_by_position(properties: Element) -> None:
    """Make an exponent of a number that is only moved up: 10 and a raised 9 would be read as 109."""
    position = properties.find(f"{W}position")
    if position is None or properties.find(f"{W}vertAlign") is not None:
        return
    try:
        half_points = int(position.get(f"{W}val", "0"))
    except ValueError:
        return
    if abs(half_points) >= RAISED_FROM:
        align = "superscript" if half_points > 0 else "subscript"
        ElementTree.SubElement(properties, f"{W}vertAlign", {f"{W}val": align})


def _formula(element: Element) -> Iterator[Part]:
    """Yield the parts of a formula in the order in which it is read."""
    name = str(element.tag).removeprefix(M)
    if element.tag in (f"{M}t", f"{W}t"):
        yield element.text or "", ""
    elif element.tag in GONE or name.endswith("Pr"):
        return
    elif name in FORMS:
        yield from FORMS[name](element)
    else:
        for child in element:
            yield from _formula(child)


def _inner(element: Element, name: str, align: str = "") -> list[Part]:
    """The parts of a child, raised or lowered where `align` says so."""
    child = element.find(f"{M}{name}")
    return [] if child is None else [(text, own or align) for text, own in _formula(child)]


def _grouped(parts: list[Part]) -> list[Part]:
    """The parts in brackets, unless they are one number or word."""
    text = "".join(text for text, _ in parts).strip()
    return parts if text.replace(".", "", 1).isalnum() else [("(", ""), *parts, (")", "")]


def _fraction(element: Element) -> list[Part]:
    return [*_grouped(_inner(element, "num")), ("/", ""), *_grouped(_inner(element, "den"))]


def _scripts(element: Element) -> list[Part]:
    return [*_inner(element, "e"), *_inner(element, "sub", "subscript"), *_inner(element, "sup", "superscript")]


def _root(element: Element) -> list[Part]:
    return [*_inner(element, "deg", "superscript"), ("√", ""), *_grouped(_inner(element, "e"))]


def _brackets(element: Element) -> list[Part]:
    def sign(name: str, usual: str) -> str:
        found = element.find(f"{M}dPr/{M}{name}")
        return usual if found is None else str(found.get(f"{M}val", usual))

    inner: list[Part] = []
    for child in element.findall(f"{M}e"):
        inner += [(sign("sepChr", "|"), "")] * bool(inner) + list(_formula(child))
    return [(sign("begChr", "("), ""), *inner, (sign("endChr", ")"), "")]


def _sum(element: Element) -> list[Part]:
    sign = element.find(f"{M}naryPr/{M}chr")
    return [("∫" if sign is None else sign.get(f"{M}val", "∫"), ""), *_scripts_first(element), *_inner(element, "e")]


def _scripts_first(element: Element) -> list[Part]:
    return [*_inner(element, "sub", "subscript"), *_inner(element, "sup", "superscript")]


def _prescripts(element: Element) -> list[Part]:
    return [*_scripts_first(element), *_inner(element, "e")]


FORMS: dict[str, Callable[[Element], list[Part]]] = {
    "f": _fraction, "sSup": _scripts, "sSub": _scripts, "sSubSup": _scripts, "sPre": _prescripts, "rad": _root,
    "d": _brackets, "nary": _sum,
}  # fmt: skip
