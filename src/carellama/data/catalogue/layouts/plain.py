"""Layouts of plain text, for pretraining: lines, paragraphs, books of the old texts, Word documents, web pages.

    LAYOUTS["book"].convert(Path("000-book.txt"))

A record is a line, a paragraph or a section; cutting to the length of a model is the trainer's. Nothing is fetched.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from carellama.data.catalogue.layout import Layout, text_of
from carellama.data.catalogue.layouts.answers import is_json_lines, tolerant
from carellama.data.read import BadRow, Row, encoding_of, kind_of, rows
from carellama.errors import UserError
from carellama.records import Place, Text

WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
LONGEST_DOCUMENT = 1 << 28  # bytes of unpacked XML
SECTION = 2000  # characters after which a document without headings begins a new record
HEADING = re.compile(r"^(?:heading|标题|title)?\s*\d?$", re.IGNORECASE)
NUMBERED = re.compile(
    r"^\s*(?:第[一二三四五六七八九十百\d]+[章节篇]|[一二三四五六七八九十]+[、.．]|[(（]?\d+(?:\.\d+)*[、.．)）\s])"
)
CLOSED = tuple("。！？；：.!?;:…”）)】")
HAN = "[\u3400-\u9fff，。；：、！？（）“”《》]"
SPACED = re.compile(f"(?<={HAN})[ \u3000]+(?={HAN})")
BOOK_FACTS = re.compile(r"^(书名|作者|朝代|年份)：\s*(.*?)\s*$", re.MULTILINE)
PAGE_NUMBER = re.compile(r"^[\s·\-—]*(?:第\s*)?\d{1,4}(?:\s*页)?[\s·\-—]*$")
HTML = (".html", ".htm")


def _text(row: Row) -> Text:
    about = {name: str(row.fields[name]) for name in ("title", "book", "author", "dynasty") if row.fields.get(name)}
    return Text(text_of(row, "text"), row.place, about)


def _is_text(path: Path) -> bool:
    return kind_of(path) == "txt" and path.suffix.lower() != ".gz" and not is_json_lines(path)


def _objects(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a file that has some; plain text has none."""
    return iter(()) if _is_text(path) else tolerant(path)


def _is_lines(path: Path) -> bool:
    return _is_text(path) and not _is_book(path) and not _is_wrapped(path)


def _is_wrapped(path: Path) -> bool:
    """Whether lines were broken at a width: mostly ASCII, none long, and few that end a sentence."""
    if not _is_text(path):
        return False
    with path.open(encoding=encoding_of(path)) as text:
        lines = [line.strip() for _, line in zip(range(400), text, strict=False)]
    full = [line for line in lines if line]
    if len(full) < 4 or "" not in lines:
        return False
    ascii_lines = sum(line.isascii() for line in full)
    ended = sum(line.endswith((".", "!", "?", '"')) for line in full)
    return ascii_lines > 0.9 * len(full) and max(map(len, full)) <= 120 and ended < 0.5 * len(full)


def _paragraphs(path: Path) -> Iterator[Row | BadRow]:
    """Lines up to an empty one, joined by a space."""
    held: list[str] = []
    start = 1
    with path.open(encoding=encoding_of(path)) as text:
        for number, line in enumerate(text, 1):
            if line := line.strip():
                start = start if held else number
                held.append(line)
            elif held:
                yield Row({"text": " ".join(held)}, Place(str(path), start))
                held = []
        if held:
            yield Row({"text": " ".join(held)}, Place(str(path), start))


def _is_book(path: Path) -> bool:
    if kind_of(path) != "txt" or path.suffix.lower() == ".gz":
        return False
    with path.open(encoding=encoding_of(path)) as text:
        return "<篇名>" in text.read(4096)


def _sections(path: Path) -> Iterator[Row | BadRow]:
    """The sections of a book of the old medicine: "<目录>chapter", "<篇名>title", "内容：" or "属性：" and lines.

    Lines broken at a width are joined; the facts of the book (书名, 作者, 朝代) go with each section. `□` and `■`,
    which stand for characters that were lost, stay.
    """
    with path.open(encoding=encoding_of(path)) as file:  # CRLF, CR and LF, mixed, are all one line break here
        text = file.read()
    pieces = re.split(r"^(?:<目录>(.*)\n+)?<篇名>(.*)$", text, flags=re.MULTILINE)
    facts = dict(BOOK_FACTS.findall(pieces[3] if len(pieces) > 3 else ""))
    line = 1 + pieces[0].count("\n")
    about = {"book": facts.get("书名", ""), "author": facts.get("作者", ""), "dynasty": facts.get("朝代", "")}
    for at in range(1, len(pieces), 3):
        chapter, title, body = (piece or "" for piece in pieces[at : at + 3])
        place = Place(str(path), line + 1)
        line += body.count("\n") + bool(chapter)
        if at == 1 and facts:
            body = BOOK_FACTS.sub("", body)
        content = _unwrapped(re.sub(r"<目录>.*", "", body))
        if content:
            heading = " ".join(part.strip() for part in (chapter, title) if part.strip())
            yield Row({"text": f"{heading}\n{content}", "title": title.strip(), **about}, place)
        elif at > 1:
            yield BadRow(place, "a title without text")


def _unwrapped(body: str) -> str:
    """Lines joined without a space; an empty line or a two-character indent begins a new paragraph."""
    body = re.sub(r"^(?:内容|属性)：", "", body.strip()).replace("∶", "：")
    body = re.sub(r"\\x(.*?)\\x\s*", r"\1\n\n", body).replace("\\x", "")  # marks of a heading or a source
    paragraphs: list[str] = []
    fresh = True
    for line in body.split("\n"):
        if not line.strip():
            fresh = True
        elif fresh or line.startswith("\u3000\u3000"):
            paragraphs.append(line.strip())
            fresh = False
        else:
            paragraphs[-1] += line.strip()
    return "\n".join(paragraphs)


def _is_document(path: Path) -> bool:
    return path.suffix.lower() == ".docx" and zipfile.is_zipfile(path)


def _document_sections(path: Path) -> Iterator[Row | BadRow]:
    """The sections of a Word file, by its headings, else of about `SECTION` characters; a row a section.

    Lines that OCR broke are joined, headers repeated in the text and page numbers left out (each counted).
    """
    lines = _document_lines(path)
    seen = Counter(text for text, _ in lines)
    held: list[str] = []
    start, after_heading = 1, False  # a heading does not stand alone
    for number, (text, heading) in enumerate(lines, 1):
        place = Place(str(path), number)
        if PAGE_NUMBER.match(text) or (seen[text] > 3 and _is_running_head(text, heading)):
            yield BadRow(place, "a page number or a header that is repeated")
            continue
        full = sum(map(len, held)) >= SECTION and (held[-1].endswith(CLOSED) or bool(NUMBERED.match(text)))
        if held and (full or (heading and not after_heading)):
            yield Row({"text": _joined(held)}, Place(str(path), start))
            held = []
        start = start if held else number
        held.append(text)
        after_heading = heading
    if held:
        yield Row({"text": _joined(held)}, Place(str(path), start))


def _is_running_head(text: str, heading: bool) -> bool:
    """Whether a line that is there often may be a header or footer: short, no heading, item or beginning of a list."""
    return not heading and len(text) < 60 and not text.endswith(CLOSED) and not NUMBERED.match(text)


def _joined(lines: list[str]) -> str:
    """Lines to paragraphs: one that stops in the middle of a sentence goes on in the next."""
    joined = [lines[0]]
    for line in lines[1:]:
        broken = len(joined[-1]) > 20 and not joined[-1].endswith(CLOSED) and not NUMBERED.match(line)
        if broken and "\t" not in joined[-1] + line:  # a table's rows stay rows
            space = " " if joined[-1][-1].isascii() and line[0].isascii() else ""
            joined[-1] += space + line
        else:
            joined.append(line)
    return "\n".join(joined)


def _document_lines(path: Path) -> list[tuple[str, bool]]:
    """(text, whether it is a heading) of each paragraph and table row of a Word file, text boxes among them."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("word/document.xml").file_size > LONGEST_DOCUMENT:
                raise UserError(f"{path}: a document of more than {LONGEST_DOCUMENT:,} bytes; split it")
            content = archive.read("word/document.xml")
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise UserError(f"{path}: its XML declares entities, which a Word file never does")
        body = ElementTree.fromstring(content)
    except (OSError, KeyError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise UserError(f"can not read {path} as a Word file: {error}") from error
    return [(text, heading) for text, heading in _blocks(body) if text]


def _blocks(node: ElementTree.Element) -> Iterator[tuple[str, bool]]:
    for child in node:
        if child.tag == FALLBACK:  # the same text box once more, for old readers
            continue
        if child.tag == f"{WORD}tr":
            cells = [" ".join(text for text, _ in _blocks(cell)) for cell in child.findall(f"{WORD}tc")]
            yield "\t".join(cell.strip() for cell in cells).strip(), False
        elif child.tag == f"{WORD}p":
            boxes: list[ElementTree.Element] = []
            text = SPACED.sub("", "".join(_runs(child, boxes))).strip()
            yield text, _is_heading(child)
            for box in boxes:
                yield from _blocks(box)
        else:
            yield from _blocks(child)


def _runs(node: ElementTree.Element, boxes: list[ElementTree.Element]) -> Iterator[str]:
    """The texts of a paragraph; text boxes in it are kept for later."""
    for child in node:
        if child.tag == f"{WORD}txbxContent":
            boxes.append(child)
        elif child.tag == f"{WORD}t":
            yield child.text or ""
        elif child.tag in (f"{WORD}tab", f"{WORD}br", f"{WORD}cr"):
            yield " "
        elif child.tag != FALLBACK:
            yield from _runs(child, boxes)


def _is_heading(paragraph: ElementTree.Element) -> bool:
    properties = paragraph.find(f"{WORD}pPr")
    if properties is None:
        return False
    style = properties.find(f"{WORD}pStyle")
    named = style is not None and HEADING.match(style.get(f"{WORD}val", "-")) is not None
    return named or properties.find(f"{WORD}outlineLvl") is not None


class _Page(HTMLParser):
    """The text of a web page, without scripts, styles and menus."""

    SILENT = ("script", "style", "nav", "header", "footer", "noscript")
    BLOCKS = ("p", "br", "div", "li", "tr", "h1", "h2", "h3", "h4", "td", "section", "article")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.silent += tag in self.SILENT
        if tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.silent -= tag in self.SILENT and self.silent > 0
        if tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.pieces.append(re.sub(r"\s+", " ", data))


def _page(path: Path) -> Iterator[Row | BadRow]:
    """One row: the text of a saved web page."""
    page = _Page()
    page.feed(path.read_text(encoding=encoding_of(path)))
    lines = (line.strip() for line in "".join(page.pieces).split("\n"))
    if text := "\n".join(line for line in lines if line):
        yield Row({"text": text}, Place(str(path), 1))
    else:
        yield BadRow(Place(str(path), 1), "a page without text")


LAYOUTS: dict[str, Layout] = {
    "book": Layout("pt", ("text",), _text, rows=_sections, recognises=_is_book),
    "word-document": Layout("pt", ("text",), _text, rows=_document_sections, recognises=_is_document),
    "web-page": Layout("pt", ("text",), _text, rows=_page, recognises=lambda path: path.suffix.lower() in HTML),
    "wrapped-lines": Layout("pt", ("text",), _text, rows=_paragraphs, recognises=_is_wrapped),
    "lines": Layout("pt", ("text",), _text, rows=rows, recognises=_is_lines),
    "text-rows": Layout("pt", ("text",), _text, rows=_objects),
}
