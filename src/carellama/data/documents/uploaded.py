"""One file that a stranger sent, to text: what it is by its content, within limits of time, memory and length.

    read_apart(Path("/tmp/x/document"), "report.pdf", max_chars=18000)   # {"kind": "pdf", "text": ..., "cut": 0, ...}

A hostile file can make a reader loop or fill the memory. So `read_apart` reads in a process of its own, which the
system ends past its limits (on Linux; elsewhere the time alone is limited), and which the caller may kill. What cannot
be read is an `Unreadable` with a code, for which the caller has words; no code or message repeats the file's text.

Codes: file_empty, file_encrypted, file_damaged, file_no_text (a scan), file_picture, file_unsupported, file_too_slow,
file_too_big_inside. Warnings of a text that was read: wrong_extension, pages_without_text, pages_left_out,
pictures_left_out, headers_left_out.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from carellama.data.convert import BadRecord
from carellama.data.documents.extract import text_of_document
from carellama.data.documents.paragraphs import PICTURE, paragraphs
from carellama.data.file_bytes import compression_of
from carellama.data.file_type import CONTROL, MAX_CONTROL_SHARE, OLE
from carellama.errors import UserError, need
from carellama.records import JSONObject

Kind = Literal["pdf", "docx", "md", "txt"]
SECONDS = 40.0  # for one file, with the start of the process
MEMORY_BYTES = 2 << 30  # of address space
WRITTEN_BYTES = 64 << 20  # of a file on the disk
MAX_PAGES = 100  # of a PDF; of a longer one the first are read
PDF_HEAD = 1024  # bytes in which a PDF begins: some have others before
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")
HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")  # of telephones, behind 4 bytes
SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "pdf": (".pdf",),
    "docx": (".docx", ".docm"),
    "md": (".md", ".markdown"),
    "txt": (".txt", ".text", ".log", ".csv", ".tsv", ".json", ".xml", ".html", ".htm", ".yaml", ".yml", ".rst", ""),
}
START = "import sys; sys.path.append(sys.argv[1]); from carellama.data.documents.uploaded import main; main()"
NO_MEMORY = 3  # exit code


class Unreadable(UserError):
    """A file that cannot be read, with a code."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code, self.detail = code, detail


class Found(NamedTuple):
    """What was read of a file."""

    kind: Kind
    text: str
    warnings: list[JSONObject]
    pages: int | None = None


def read_apart(
    path: Path,
    name: str,
    *,
    max_chars: int,
    max_pages: int = MAX_PAGES,
    seconds: float = SECONDS,
    on_start: Callable[[subprocess.Popen[bytes]], None] = lambda _: None,
) -> JSONObject:
    """Read a file in a process of its own: kind, text, chars, cut, warnings, and pages of a PDF.

    `name` is what the sender calls it: its suffix is held against the content. `cut` is the number of characters past
    `max_chars` that were left out. `on_start` gets the process, which may be killed. Raises `Unreadable`.
    """
    wish = {"path": str(path), "suffix": Path(name).suffix[:16], "chars": max_chars, "pages": max_pages}
    root = str(Path(__file__).parents[3])
    with subprocess.Popen(
        [sys.executable, "-P", "-c", START, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libraries write texts of the file there
        start_new_session=True,
    ) as child:
        on_start(child)
        try:
            out, _ = child.communicate(json.dumps({**wish, "seconds": seconds}).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Unreadable("file_too_slow", f"not read within {seconds:g} s") from None
        finally:
            child.kill()
    return _answer(out, child.returncode)


def _answer(out: bytes, code: int) -> JSONObject:
    """What the process said, or why it said nothing."""
    if code == 0 and out:
        answer: JSONObject = json.loads(out)
        if "code" in answer:
            raise Unreadable(answer["code"], answer["detail"])
        return answer
    if code in (-signal.SIGALRM, -signal.SIGXCPU):
        raise Unreadable("file_too_slow", "the time for one file was over")
    if code == NO_MEMORY:
        raise Unreadable("file_too_big_inside", f"more than {MEMORY_BYTES >> 20:,} MB of memory are needed")
    raise Unreadable("file_damaged", f"its reader ended with code {code}")


def main() -> None:
    """The process: a wish as JSON on stdin, the answer on stdout."""
    wish = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print
    _limit(wish["seconds"])
    try:
        answer = answer_for(Path(wish["path"]), wish["suffix"], wish["chars"], wish["pages"])
    except Unreadable as error:
        answer = {"code": error.code, "detail": error.detail}
    except (MemoryError, RecursionError):
        os._exit(NO_MEMORY)
    with answers:
        json.dump(answer, answers, ensure_ascii=False)
    answers.close()
    os._exit(0)  # no library's threads are waited for


def _limit(seconds: float) -> None:
    """Limit this process, which does not outlive its time even where its parent is gone."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_FSIZE, (WRITTEN_BYTES, WRITTEN_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the text
        signal.setitimer(signal.ITIMER_REAL, seconds)
        os.nice(10)  # answers of the model come first


def answer_for(path: Path, suffix: str, max_chars: int, max_pages: int) -> JSONObject:
    """Read a file here and now. Raises `Unreadable`."""
    found = read_upload(path, suffix, max_pages)
    text = found.text[:max_chars]
    answer: JSONObject = {
        "kind": found.kind,
        "text": text,
        "chars": len(text),
        "cut": len(found.text) - len(text),
        "warnings": found.warnings,
    }
    return answer if found.pages is None else {**answer, "pages": found.pages}


def read_upload(path: Path, suffix: str, max_pages: int = MAX_PAGES) -> Found:
    """The text of a file. Raises `Unreadable`."""
    kind = kind_of(path, suffix)
    warnings: list[JSONObject] = []
    given = suffix.lower()
    if given not in SUFFIXES[kind] and not (kind in ("md", "txt") and given in (*SUFFIXES["md"], *SUFFIXES["txt"])):
        warnings.append({"code": "wrong_extension", "given": suffix.lstrip(".") or "-", "found": kind})
    pages = None
    path = path.rename(path.with_suffix(f".{kind}"))
    if kind == "pdf":
        pages = _prepare_pdf(path, max_pages, warnings)
    dropped: Counter[str] = Counter()
    try:
        text = text_of_document(path, dropped)
        if kind == "pdf":
            text = "\n".join(map(_one_space, paragraphs(text, dropped)))
        elif kind == "docx":
            text, dropped["picture"] = PICTURE.subn("", text)
    except BadRecord as error:
        raise _unreadable(error) from error
    if not text.strip():
        raise Unreadable("file_no_text" if kind in ("pdf", "docx") else "file_empty")
    for code, reasons in (("pictures_left_out", ("picture",)), ("headers_left_out", ("page",))):
        if count := sum(times for reason, times in dropped.items() if reason.startswith(reasons)):
            warnings.append({"code": code, "count": count})
    return Found(kind, text.removeprefix("\ufeff").replace("\0", ""), warnings, pages)


def kind_of(path: Path, suffix: str) -> Kind:
    """What a file is, by its content; its name tells Markdown from plain text alone. Raises `Unreadable`."""
    content = path.read_bytes()
    if not content.strip(b"\0 \t\r\n\xef\xbb\xbf"):
        raise Unreadable("file_empty")
    if b"%PDF-" in content[:PDF_HEAD]:
        return "pdf"
    if content.startswith(PICTURES) or content[4:12] in HEIC or content[8:12] == b"WEBP":
        raise Unreadable("file_picture")
    if content.startswith(OLE):  # Office encrypts a docx into such a file
        locked = "EncryptedPackage".encode("utf-16-le") in content
        raise Unreadable("file_encrypted" if locked else "file_unsupported", "an Office file of before 2007")
    if content.startswith(b"PK\x03\x04"):
        return _kind_of_zip(content)
    if compression_of(content[:16]):
        raise Unreadable("file_unsupported", "a compressed file")
    sample = content[:65536]
    if not sample.startswith((b"\xff\xfe", b"\xfe\xff")) and b"\0" not in sample:
        marks = CONTROL.findall(sample.decode("latin-1"))
        if len(marks) > MAX_CONTROL_SHARE * len(sample):
            raise Unreadable("file_unsupported", "binary data")
    return "md" if suffix.lower() in SUFFIXES["md"] else "txt"


def _kind_of_zip(content: bytes) -> Kind:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise Unreadable("file_damaged", "a zip file that is not whole") from error
    if "word/document.xml" in names:
        return "docx"
    raise Unreadable("file_unsupported", "a zip file that is no docx")


def _prepare_pdf(path: Path, most: int, warnings: list[JSONObject]) -> int:
    """Count the pages and those without text, and leave the first `most` in the file. Raises `Unreadable`."""
    pdfium = need("pypdfium2", extra="documents", why="reading .pdf")  # which markitdown's reader of PDF needs too
    try:
        document = pdfium.PdfDocument(path)
    except pdfium.PdfiumError as error:
        code = "file_encrypted" if "password" in str(error).lower() else "file_damaged"
        raise Unreadable(code, "not opened as a PDF") from error
    count = len(document)
    read = min(count, most)
    blank = sum(not _has_text(document, number) for number in range(read))
    if blank == read:
        raise Unreadable("file_no_text", f"pages: {count}")
    if blank:
        warnings.append({"code": "pages_without_text", "count": blank})
    if count > most:
        warnings.append({"code": "pages_left_out", "count": count - most})
        first = pdfium.PdfDocument.new()
        first.import_pages(document, list(range(most)))
        document.close()
        first.save(path)
    return count


def _has_text(document: object, number: int) -> bool:
    page = document[number]  # type: ignore[index]
    text = page.get_textpage()
    found = bool(text.get_text_range().strip())
    text.close()
    page.close()
    return found


def _one_space(line: str) -> str:
    """A line whose words a PDF places apart; the cells of a table stay as they are."""
    return line if line.startswith("|") else re.sub(r"(?<=\S) {2,}(?=\S)", " ", line)


def _unreadable(error: BadRecord) -> Unreadable:
    """The code for what the readers say."""
    words = str(error)
    if "fonts do not say" in words:
        return Unreadable("file_no_text", "its fonts do not say which characters they show")
    if "not readable as text" in words:
        return Unreadable("file_unsupported", "neither UTF-8, UTF-16 nor GB18030")
    return Unreadable("file_damaged")
