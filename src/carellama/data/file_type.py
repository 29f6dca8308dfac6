"""What a file is, by its content: the name only decides where the content leaves it open.

    found = detect_file_type(Path("rows.csv"))   # FileType(type="json", notice="... holds JSON, and is read as JSON")

Archives, web pages, documents, git-lfs pointers and other files without rows are a `UserError` that names them and the
next thing to try. No text of the file is part of a message.
"""

from __future__ import annotations

import json
import logging
import re
import zipfile
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from carellama.data.csv_reader import excel_delimiter, find_delimiter, find_table
from carellama.data.file_bytes import (
    COMPRESSIONS,
    READ_BYTES,
    READ_ERRORS,
    compression_of,
    encoding_by_head,
    file_state,
    read_error,
    read_head,
)
from carellama.errors import DataError, UserError
from carellama.text import counted

log = logging.getLogger(__name__)
TypeName = Literal["json", "csv", "tsv", "txt", "parquet", "sheet"]
SUFFIXES: dict[str, TypeName] = {
    ".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "tsv", ".txt": "txt",
    ".parquet": "parquet", ".xlsx": "sheet", ".xls": "sheet", ".ods": "sheet",
}  # fmt: skip
NAMES: dict[TypeName, str] = {
    "json": "JSON", "csv": "comma-separated text", "tsv": "tab-separated text", "txt": "plain text",
    "parquet": "Parquet", "sheet": "a spreadsheet",
}  # fmt: skip
ENCODING_NAMES = {
    "utf-8": "UTF-8", "utf-8-sig": "UTF-8 with BOM", "utf-16": "UTF-16", "utf-16-le": "UTF-16 without BOM",
    "utf-16-be": "UTF-16 without BOM", "utf-32": "UTF-32", "gb18030": "GB18030",
}  # fmt: skip
PACKED = tuple(suffix for _, suffix in COMPRESSIONS.values())
KNOWN = f"{', '.join(SUFFIXES)} (and {', '.join(PACKED)})"
UNPACK = "unpack it and give the files in it"
CONVERT = "carellama data convert turns documents into texts to train on"
# First bytes of files that hold no rows: what they are, what to do.
FOREIGN = {
    b"%PDF": ("a PDF document", CONVERT),
    b"{\\rtf": ("an RTF document", "save it as .docx or .txt"),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", UNPACK),
    b"Rar!": ("a RAR archive", UNPACK),
    b"SQLite format 3\0": ("an SQLite database", "export the table as CSV"),
    b"ARROW1": ("an Arrow file", "save it as Parquet"),
    b"\xff\xff\xff\xff": ("an Arrow file", "save it as Parquet"),
    **dict.fromkeys((b"\x89PNG", b"\xff\xd8\xff", b"GIF8"), ("a picture", "give the text as .txt")),
    **dict.fromkeys(
        (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        ("a Python pickle, which can run code", "save the rows as JSON Lines"),
    ),
}
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # .xls, .doc, .ppt
LFS = b"version https://git-lfs.github.com/spec/"
WEB_PAGE = re.compile(r"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
# How rows begin, in an array or not; with single quotes, the reader says what is wrong.
JSON_OBJECTS = re.compile(r"""(?:\[\s*)?\{\s*(?:"(?:[^"\\\n]|\\.)*"\s*:|'[^'\n]*'\s*:|\})""")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
MAX_CONTROL_SHARE = 0.1  # of the characters of a text; beyond it the file is binary


@dataclass(frozen=True, slots=True)
class FileType:
    """The type of a file, and how its text is written. `notice` tells what differs from its name, "" if nothing."""

    type: TypeName
    compression: str = ""
    encoding: str = ""
    delimiter: str = ","  # of csv and tsv
    notice: str = ""


def data_suffix(name: str) -> str:
    """Return the suffix of a file name that tells its type, the one before .gz or another compression."""
    lower = name.lower()
    packed = next((suffix for suffix in PACKED if lower.endswith(suffix)), "")
    return Path(lower.removesuffix(packed)).suffix


def is_data_file(path: Path) -> bool:
    """Whether a file is called as one that holds rows."""
    return data_suffix(path.name) in SUFFIXES


def detect_file_type(path: Path) -> FileType:
    """Return what a file is. `UserError` for a file without rows, `DataError` for text that cannot be decoded."""
    try:
        return _detect(path, *file_state(path))
    except READ_ERRORS as error:
        raise read_error(path, error) from error


@cache
def say_notice(path: Path, notice: str) -> None:
    """Log what differs from a file's name or from the standard of its type, once in a process."""
    if notice:
        log.warning("%s %s", path, notice)


@lru_cache(maxsize=256)
def _detect(path: Path, _size: int, _changed: int) -> FileType:
    """Return the format of a file of this size and time of change, for which it is remembered."""
    with path.open("rb") as file:
        start = file.read(16)
    compression = compression_of(start)
    head = read_head(path, READ_BYTES)
    suffix = data_suffix(path.name)
    named = SUFFIXES.get(suffix)
    if not head and named is None:
        raise UserError(f"{path} is empty")
    notices = []
    if compression and not path.name.lower().endswith(dict(COMPRESSIONS.values())[compression]):
        notices.append(f"is compressed with {compression}, whatever its name says, and is read so")
    elif path.name.lower().endswith(PACKED) and not compression and head:
        notices.append("is not compressed, whatever its name says, and is read as it is")
    binary = _binary_type(path, head, compression)
    if binary is not None:
        if binary != named:
            notices.append(f"is {NAMES[binary]}, whatever its name says, and is read so")
        return FileType(binary, compression, notice="; ".join(notices))
    if named in ("parquet", "sheet") and head:
        raise UserError(f"cannot read {path}: the content is not {NAMES[named]}; save the file again, or rename it")
    encoding = encoding_by_head(head, path, whole=len(head) < READ_BYTES)
    text = head.decode(encoding, "ignore").removeprefix("\ufeff")
    _refuse_foreign_text(path, text)
    kind, delimiter = _text_type(path, text, named, cut=len(head) == READ_BYTES)
    if named is None or (kind != named and {kind, named} != {"csv", "tsv"}):
        what = f"a table separated by {_delimiter_name(delimiter)}" if delimiter in ";|" else NAMES[kind]
        notices.append(f"holds {what}, whatever its name says, and is read so")
    elif kind in ("csv", "tsv") and delimiter != {"csv": ",", "tsv": "\t"}[named]:
        notices.append(f"separates its columns with {_delimiter_name(delimiter)}, and is read so")
    if encoding not in ("utf-8", "utf-8-sig", "utf-16"):
        notices.append(f"is read as {ENCODING_NAMES[encoding]}")
    return FileType(kind, compression, encoding, delimiter, "; ".join(notices))


def _delimiter_name(delimiter: str) -> str:
    return {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "|"}[delimiter]


def _binary_type(path: Path, head: bytes, compression: str) -> TypeName | None:
    """Return the type of a binary file with rows, None for text; `UserError` for one without rows."""
    if head.startswith(b"PAR1"):
        if compression:
            raise UserError(f"{path} is a Parquet file compressed with {compression}: decompress it first")
        return "parquet"
    if head.startswith(OLE) or head.startswith(b"PK\x03\x04"):
        if compression:
            raise UserError(f"{path} is an archive compressed with {compression}: decompress it first")
        return _zip_type(path) if head.startswith(b"PK") else "sheet"
    if head[257:262] == b"ustar":
        raise UserError(f"{path} is a tar archive, not rows: {UNPACK}")
    for magic, (what, advice) in FOREIGN.items():
        if head.startswith(magic):
            raise UserError(f"{path} is {what}, not rows: {advice}")
    if head.startswith(LFS):
        size = re.search(rb"\nsize (\d+)", head)
        of = f" for a file of {int(size[1]):,} bytes" if size else ""
        raise UserError(
            f"{path} is a git-lfs pointer{of}, not the file: run `git lfs pull` in the repository, or download the "
            "file itself"
        )
    return None


def _zip_type(path: Path) -> TypeName:
    """Return "sheet" for a workbook; `UserError` for any other zip file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            kind = archive.read("mimetype")[:60] if "mimetype" in names else b""
    except (zipfile.BadZipFile, *READ_ERRORS) as error:
        raise UserError(f"cannot read {path}: a zip file or workbook that is not whole; copy it again") from error
    if any(name.startswith("xl/workbook.") for name in names) or b"spreadsheet" in kind:
        return "sheet"
    if any(name.startswith(("word/", "ppt/")) for name in names) or kind:
        raise UserError(f"{path} is a document, not rows: {CONVERT}")
    if any(name.endswith("data.pkl") for name in names):
        raise UserError(f"{path} is a file of PyTorch, not rows: save the rows as JSON Lines")
    files = sum(not name.endswith("/") for name in names)
    raise UserError(f"{path} is a zip archive of {counted(files, 'file')}, not rows: {UNPACK}")


def _refuse_foreign_text(path: Path, text: str) -> None:
    start = text.lstrip()[:1000]
    if data_suffix(path.name) in (".html", ".htm"):
        raise UserError(f"{path} is a web page, not rows: {CONVERT}")
    if WEB_PAGE.match(start) or (start.startswith("<?xml") and WEB_PAGE.search(start)):
        raise UserError(
            f"{path} is a web page, not rows (often an error page saved in place of a file): download the file again "
            "by its direct link, or carellama data pull"
        )
    if start.startswith(("<?xml", "<!--")):
        raise UserError(f"{path} is XML, not rows: save the rows as JSON Lines or CSV")
    sample = text[:65536]
    if len(CONTROL.findall(sample)) > MAX_CONTROL_SHARE * len(sample):
        raise UserError(f"{path} holds binary data, not rows; known: {KNOWN}")


def _text_type(path: Path, text: str, named: TypeName | None, *, cut: bool) -> tuple[TypeName, str]:
    """Return the type of a text by its beginning (`cut`: there is more of it), and the delimiter of a table."""
    start = text.lstrip()
    own = "\t" if named == "tsv" else ","
    if not start:
        return named or "txt", own
    if JSON_OBJECTS.match(start):
        return "json", own
    if named in ("csv", "tsv"):
        delimiter = excel_delimiter(text) or find_delimiter(text, own, cut=cut) or own
        return "tsv" if delimiter == "\t" else "csv", delimiter
    if named == "txt":
        if delimiter := excel_delimiter(text) or find_table(text, cut=cut):
            return "tsv" if delimiter == "\t" else "csv", delimiter
        return "txt", own
    if start[0] in "[{" or _is_json(start):
        return "json", own
    if delimiter := excel_delimiter(text) or find_delimiter(text, "", cut=cut):
        return "tsv" if delimiter == "\t" else "csv", delimiter
    if named == "json":
        line = text[: len(text) - len(start)].count("\n") + 1
        raise DataError(
            f"{path}:{line}: not JSON, which begins with {{ or [; save the rows as JSON Lines, or name a table .csv "
            "and plain text .txt"
        )
    if data_suffix(path.name) == ".md":
        raise UserError(f"{path} is a document, not rows: {CONVERT}")
    raise UserError(f"{path}: unknown file type {data_suffix(path.name) or 'without suffix'!r}; known: {KNOWN}")


def _is_json(start: str) -> bool:
    """Whether the first line, or all of the text, is a JSON value."""
    for text in (start.partition("\n")[0].strip().removesuffix(","), start):
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            continue
        return True
    return False
