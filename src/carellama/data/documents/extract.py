"""Documents to plain text for pretraining: docx, pdf, html, md, xlsx, pptx and text books.

    for found in documents(Path("guidelines/")): ...     # Text, or BadRecord for a file that cannot be read

markitdown reads the formats. Before it, `word`, `web_page` and `slides` write list numbers, boxes and cells as text
that it does not lose, and `pdf` marks raised numbers; behind it, `lines` joins wrapped lines and leaves out page
headers and numbers, and counts them. Classical books in their tagged layout become one text a section
(`carellama.data.documents.classical_books`). Pictures are not looked at: a scan needs OCR before this.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from carellama.data.convert import BadRecord
from carellama.data.documents import classical_books as books
from carellama.data.documents.paragraphs import NO_CODE, chunks, paragraphs
from carellama.data.documents.pdf import marked_text
from carellama.data.documents.slides import open_slides
from carellama.data.documents.web_page import open_web_page
from carellama.data.documents.word import open_word
from carellama.data.readers import whole_text
from carellama.data.spreadsheets import SUFFIXES as SHEETS
from carellama.data.spreadsheets import as_markdown
from carellama.errors import DataError, UserError, need
from carellama.records import Place, Text

CONVERTERS = {
    ".docx": "DocxConverter",
    ".pdf": "PdfConverter",
    ".html": "HtmlConverter",
    ".htm": "HtmlConverter",
    ".pptx": "PptxConverter",
}  # of markitdown, each taken by itself: none falls back to reading a damaged file as plain text
READ = (".txt", ".md")
SUFFIXES = (*CONVERTERS, *SHEETS, *READ)
PRINTED = (".docx", ".pdf", ".txt")  # may hold page headers and numbers
PARTIAL = (".downloading", ".crdownload", ".part", ".download")
CHUNK_CHARS = 4000  # of a record at the most, where the text has a place to divide it
CODELESS_SHARE = 0.2  # of the characters of a PDF: with more of them its text cannot be read

MARKDOWN = {
    "escape_asterisks": False,
    "escape_underscores": False,
    "strip": ["a", "b", "strong", "i", "em", "u"],  # weight and the targets of links; the words stay
    "sup_symbol": "<sup>",
    "sub_symbol": "<sub>",
    "table_infer_header": True,
}
RAISED = re.compile(r"<(su[pb])>(.*?)</\1>", re.DOTALL)
NEXT_RAISED = re.compile(r"</(su[pb])><\1>")
PLAIN = "0123456789+-−–=n"
FORMULA = re.compile(r"[\d+\-−–=n,，\s]+")  # 10 to the 9th, not a citation in brackets
SLIDE = re.compile(r"<!-- Slide number: \d+ -->")
RAISED_FORMS = {
    "sup": str.maketrans(PLAIN, "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻⁼ⁿ"),
    "sub": str.maketrans(PLAIN, "₀₁₂₃₄₅₆₇₈₉₊₋₋₋₌ₙ"),
}


def documents(
    path: Path, *, chunk_chars: int | None = CHUNK_CHARS, dropped: Counter[str] | None = None
) -> Iterator[Text | BadRecord]:
    """Yield the texts of a file, or of all files below a folder, in the order of their names.

    `dropped` counts what was left out, by reason. The line of a place is the number of the paragraph in the document,
    from 1; of a classical book, the line of the section. A file that cannot be read is a `BadRecord`, and the others
    go on. `UserError` where there is no such file, or markitdown is not installed.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    paths = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    for one in paths:
        try:
            yield from _document(one, chunk_chars, Counter() if dropped is None else dropped)
        except BadRecord as error:
            yield error


def _document(path: Path, chunk_chars: int | None, dropped: Counter[str]) -> Iterator[Text]:
    text, suffix, some = text_of_document(path, dropped), path.suffix.lower(), False
    if suffix == ".txt" and books.is_classical(text):
        for section in books.sections(text, dropped):
            for _, chunk in chunks([*filter(None, [section.title]), *section.paragraphs], chunk_chars):
                yield Text("\n".join(chunk), Place(str(path), section.line), section.meta)
                some = True
    else:
        for number, chunk in chunks(paragraphs(text, dropped, printed=suffix in PRINTED), chunk_chars):
            yield Text("\n".join(chunk), Place(str(path), number), {"title": path.stem})
            some = True
    if not some:
        hint = "a PDF without a text layer: recognise its pages first (OCR)" if suffix == ".pdf" else ""
        raise BadRecord(Place(str(path), 1), "no text in the document", hint)


def text_of_document(path: Path, dropped: Counter[str]) -> str:
    """The text of one document, as Markdown where its format has structure. `BadRecord` where it cannot be read."""
    suffix = path.suffix.lower()
    place = Place(str(path), 1)
    if suffix in PARTIAL:
        raise BadRecord(place, "a partial download", "download the file again")
    if suffix not in SUFFIXES:
        raise BadRecord(place, "not a document", f"{suffix or 'no suffix'}; known: {', '.join(SUFFIXES)}")
    try:
        if suffix in READ:
            return whole_text(path).replace("\r\n", "\n").replace("\r", "\n")
        # pandas, behind markitdown, changes sheets: the text NA to NaN, 1e-7 to 0.0
        text = as_markdown(path) if suffix in SHEETS else _converted(path, suffix, dropped)
    except (DataError, OSError) as error:
        raise BadRecord(place, "not readable as text", str(error)) from error
    except UserError:
        raise
    except Exception as error:  # each format has a library of its own, with errors of its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadRecord(place, f"a damaged or locked {suffix[1:]}", reason) from error
    if sum(len(mark) for mark in NO_CODE.findall(text)) > CODELESS_SHARE * len(text):
        raise BadRecord(place, "a PDF whose fonts do not say which characters they show", "recognise its pages (OCR)")
    return text


def _converted(path: Path, suffix: str, dropped: Counter[str]) -> str:
    """What markitdown makes of a file; it gets the bytes, and reaches no other file."""
    markitdown = need("markitdown", extra="documents", why=f"reading {suffix}")
    converters = need("markitdown.converters", extra="documents", why=f"reading {suffix}")
    if suffix == ".docx":
        stream = open_word(path, dropped)
    elif suffix in (".html", ".htm"):
        stream = open_web_page(path, dropped)
    elif suffix == ".pptx":
        stream = open_slides(path)
    elif suffix == ".pdf" and (marked := marked_text(path)) is not None:
        return _raised(marked)
    else:
        stream = io.BytesIO(path.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about what is unusual in a file
        converter = getattr(converters, CONVERTERS[suffix])()
        made = converter.convert(stream, markitdown.StreamInfo(extension=suffix, charset="utf-8"), **MARKDOWN)
    return _raised(SLIDE.sub("", str(made.markdown).replace("\r\n", "\n")))


def _raised(text: str) -> str:
    """Raised and lowered numbers as such characters: 10<sup>9</sup> must not become 109. The others lose the tags."""

    def form(found: re.Match[str]) -> str:
        return found[2].translate(RAISED_FORMS[found[1]]) if FORMULA.fullmatch(found[2]) else found[2]

    return RAISED.sub(form, NEXT_RAISED.sub("", text))
