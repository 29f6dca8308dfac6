"""Documents to plain text for pretraining: docx, pdf, html, md, xlsx, pptx and text books.

    for found in documents(Path("guidelines/")): ...     # Text, or BadRecord for a file that can not be read

markitdown reads the formats; here lines that were wrapped are joined again, page headers and numbers are left out
(and counted), boxes and tables are kept. A scanned page without text is not recognised (OCR comes before this).
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from carellama.data.convert import BadRecord
from carellama.data.read import encoding_of
from carellama.errors import DataError, UserError, need
from carellama.records import Place, Text
from carellama.text import HAN, folded

CONVERTED = (".docx", ".pdf", ".html", ".htm", ".pptx", ".xlsx")  # through markitdown
READ = (".txt", ".md")
SUFFIXES = (*CONVERTED, *READ)
CHUNK_CHARS = 4000  # of a record at the most, where the text has a place to divide it
REPEATS = 3  # a short line that stands so often is a page header or footer
HEADER_CHARS = 40
SHORTEST_WRAPPED = 20  # characters of a full line: no book has narrower ones

PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
PAGE_NUMBER = re.compile(
    r"(?i)^(?:[-–—·\s]*\d{1,4}[-–—·\s]*|第\s*\d+\s*页(?:\s*[/，共]*\s*\d*\s*页?)?|page\s+\d+(?:\s+of\s+\d+)?|\d+\s*/\s*\d+)$"
)
BLOCK = re.compile(
    r"^\s*(?:#|\||[-*+•●○■□◆]\s|>|\d{1,3}[.、)）]|[(（][\d一二三四五六七八九十]{1,3}[)）]|[一二三四五六七八九十]{1,3}、"
    r"|第.{1,4}[章节篇条])"
)
SITE = re.compile(r"^(?:https?://|www\.)?[\w@-]+(?:\.[\w@-]+)+/?$")
ENDED = re.compile(r"[。！？；：.!?;:|”\"」』）)]\s*$")
SPACE_IN_CHINESE = re.compile(rf"(?<=[{HAN}，。；：、！？（）“”《》])[ \t\u3000]+(?=[{HAN}，。；：、！？（）“”《》])")
CHINESE_END = re.compile(rf"[{HAN}，。；：、！？）”》]$")
CHINESE_BEGIN = re.compile(rf"[{HAN}，。；：、！？（“《]")
WORD_DIVIDED = re.compile(r"(?<=[a-z])-$")
MARKDOWN_WEIGHT = re.compile(r"\*\*|__")
W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"


def documents(
    path: Path, *, chunk_chars: int | None = CHUNK_CHARS, dropped: Counter[str] | None = None
) -> Iterator[Text | BadRecord]:
    """Yield the texts of a file, or of all files below a folder, in the order of their names.

    `dropped` counts the lines that were left out, by reason. The line of a place is that of the paragraph, from 1. A
    file that can not be read is a `BadRecord`, and the others go on.
    """
    paths = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    for one in paths:
        try:
            yield from _document(one, chunk_chars, Counter() if dropped is None else dropped)
        except BadRecord as error:
            yield error


def _document(path: Path, chunk_chars: int | None, dropped: Counter[str]) -> Iterator[Text]:
    text = text_of_document(path)
    kept = paragraphs(text, dropped)
    if not kept:
        hint = "a PDF without a text layer: recognise its pages first (OCR)" if path.suffix.lower() == ".pdf" else ""
        raise BadRecord(Place(str(path), 1), "no text in the document", hint)
    number = 1
    for chunk in chunks(kept, chunk_chars):
        yield Text("\n".join(chunk), Place(str(path), number), {"title": path.stem})
        number += len(chunk)


def text_of_document(path: Path) -> str:
    """The text of one document, as Markdown where its format has structure. `BadRecord` where it can not be read."""
    suffix = path.suffix.lower()
    place = Place(str(path), 1)
    if suffix in READ:
        try:
            return path.read_bytes().decode(encoding_of(path)).replace("\r\n", "\n").replace("\r", "\n")
        except (DataError, OSError) as error:
            raise BadRecord(place, "not readable as text", str(error)) from error
    if suffix not in CONVERTED:
        raise BadRecord(place, "not a document", f"{suffix or 'no suffix'}; known: {', '.join(SUFFIXES)}")
    markitdown = need("markitdown", extra="documents", why=f"reading {suffix}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of optional formats that are not asked for
            reader = markitdown.MarkItDown(enable_plugins=False)
            if suffix == ".docx":
                info = markitdown.StreamInfo(extension=".docx", filename=path.name)
                return str(reader.convert_stream(_boxes_opened(path), stream_info=info).text_content)
            return str(reader.convert_local(str(path)).text_content)
    except UserError:
        raise
    except Exception as error:  # each format has a library of its own, with errors of its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadRecord(place, f"a damaged or locked {suffix[1:]}", reason) from error


def _boxes_opened(path: Path) -> io.BytesIO:
    """The docx with the paragraphs of text boxes put behind the paragraph that holds the box.

    markitdown (through mammoth) leaves most boxes out.
    """
    from xml.etree import ElementTree

    parse = need("defusedxml.ElementTree", extra="documents", why="reading .docx").fromstring
    made = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename == "word/document.xml":
                root = parse(data)
                _open_boxes(root)
                data = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
            target.writestr(item, data)
    made.seek(0)
    return made


def _open_boxes(element: Any) -> None:
    """Move the content of boxes behind the paragraphs that hold them, everywhere below an element."""
    behind: list[tuple[int, list[Any]]] = []
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


def _boxes(element: Any) -> list[Any]:
    """The boxes below an element; of a box that is stored twice, for new and for old programs, the new form."""
    found: list[Any] = []
    for child in element:
        if child.tag == f"{W}txbxContent":
            found.append(child)
        elif child.tag != FALLBACK or not found:
            found += _boxes(child)
    return found


def paragraphs(text: str, dropped: Counter[str]) -> list[str]:
    """The paragraphs of a text: wrapped lines joined, page headers and numbers left out and counted."""
    pictures = len(PICTURE.findall(text))
    if pictures:
        dropped["picture"] += pictures
    lines = [_cleaned(line) for line in PICTURE.sub("", text).replace("\f", "\n\n").split("\n")]
    headers = _page_headers(lines)
    kept: list[str] = []
    cut = False  # a page ended within a sentence: what comes next goes on with it
    for line in lines:
        if cut and not line:
            continue
        header = "page header or footer" if folded(line) in headers else ""
        reason = "page number" if PAGE_NUMBER.match(line) else header
        if not reason or line.startswith(("|", "#")):
            kept.append(line)
            cut = False
            continue
        dropped[reason] += 1
        said = next((one for one in reversed(kept) if one), "")
        cut = bool(said) and not ENDED.search(said)
        while cut and not kept[-1]:
            kept.pop()
    return _joined(kept)


def _page_headers(lines: Sequence[str]) -> set[str]:
    """Short lines that stand again and again, and cut sentences in two; folded.

    A heading of every chapter stands as often, but behind the end of a sentence.
    """
    times, cuts = Counter[str](), Counter[str]()
    before = ""
    for line in lines:
        if not line:
            continue
        if len(line) <= HEADER_CHARS and not line.startswith(("|", "#")):
            key = folded(line)
            times[key] += 1
            cuts[key] += bool(SITE.match(line)) or (len(before) > HEADER_CHARS // 2 and not ENDED.search(before))
        before = line
    return {key for key, count in times.items() if key and count >= REPEATS and cuts[key] >= 2}


def _cleaned(line: str) -> str:
    return SPACE_IN_CHINESE.sub("", MARKDOWN_WEIGHT.sub("", line)).strip(" \t\u3000\xa0")


def _joined(lines: Sequence[str]) -> list[str]:
    """Lines to paragraphs: they end at blank lines, before list items, headings and tables, and at short lines.

    A line was wrapped when it is more than half as long as the long lines of the document, and does not end a
    sentence or is as long as they are. After a blank line nothing goes on, except where a page header was taken out.
    """
    lengths = sorted(len(line) for line in lines if line and not line.startswith(("|", "#")))
    usual = max(SHORTEST_WRAPPED, lengths[int(len(lengths) * 0.9)] if lengths else 0)
    found: list[str] = []
    last = 0  # length of the line before, 0 where nothing can go on
    for line in lines:
        if not line:
            last = 0
            continue
        wrapped = last > 0.5 * usual and (not ENDED.search(found[-1]) or last >= 0.9 * usual)
        if wrapped and not BLOCK.match(line) and not found[-1].startswith("|"):
            found[-1] = _with(found[-1], line)
        else:
            found.append(line)
        last = 0 if line.startswith("#") else len(line)
    return found


def _with(before: str, line: str) -> str:
    """Chinese goes on without a space, English with one, and a divided word is whole again."""
    if WORD_DIVIDED.search(before) and line[:1].islower():
        return before[:-1] + line
    between = (
        ""
        if re.search(rf"[{HAN}，。；：、！？）”》]$", before) or re.match(rf"[{HAN}，。；：、！？（“《]", line)
        else " "
    )
    return f"{before}{between}{line}"


def chunks(kept: Sequence[str], most_chars: int | None) -> Iterator[list[str]]:
    """Runs of paragraphs of at most so many characters, divided before a heading where that is near the end.

    A paragraph that is longer stays whole: encoding divides it at tokens. The rows of a table stay together with the
    rows before them unless the table alone is too long.
    """
    chunk: list[str] = []
    size = 0
    for paragraph in kept:
        full = most_chars is not None and size + len(paragraph) > most_chars
        section = most_chars is not None and paragraph.startswith("#") and size > most_chars // 2
        if chunk and (full or section):
            yield chunk
            chunk, size = [], 0
        chunk.append(paragraph)
        size += len(paragraph) + 1
    if chunk:
        yield chunk
