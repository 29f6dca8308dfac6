"""Files as bytes and as text: decompressed, decoded and checked while they are read, once.

    with open_text(Path("consult.jsonl.gz")) as text: ...

gzip, bzip2, xz and Zstandard are recognised by the first bytes. A text is UTF-8 (with or without a byte order mark),
UTF-16 or UTF-32 (with a mark; UTF-16 also without one), or GB18030. The encoding is chosen by the first `READ_BYTES`
bytes that are not ASCII; each later byte is checked when it is read, and a wrong one is a `DataError` with its line.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import io
import lzma
import time
import zlib
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TextIO

from carellama.errors import DataError, UserError, read_failure

READ_BYTES = 1 << 20  # read at a time
FIRST_BYTES = 1 << 16  # read first
UTF8_SAMPLE_BYTES = 64  # non-ASCII bytes of valid UTF-8 before a bad one: it is damaged UTF-8, not GB18030
COMMON_SHARE = 0.8  # of the non-ASCII characters of GB18030 text that GB2312 has; of other encodings read so, fewer
READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)  # what damage inside a compressed file raises
COMPRESSIONS = {  # first bytes -> name, suffix
    b"\x1f\x8b": ("gzip", ".gz"),
    b"BZh": ("bzip2", ".bz2"),
    b"\xfd7zXZ\x00": ("xz", ".xz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", ".zst"),
}
# UTF-32 first: its little-endian mark begins with that of UTF-16
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_error(path: Path, error: Exception) -> UserError:
    """Return the error for a file that cannot be read: where it ends too early, the advice to copy it again."""
    early = isinstance(error, EOFError) or "truncated" in str(error).lower()
    if early:
        return UserError(f"cannot read {path}: the compressed file ends in the middle; copy or download it again")
    if isinstance(error, OSError) and error.errno is not None:
        return UserError(f"cannot read {path}: {error.strerror}")
    return UserError(f"cannot read {path}: the compressed data is damaged ({error}); copy or download it again")


def compression_of(start: bytes) -> str:
    """Return the name of the compression that these first bytes of a file tell of, "" for none."""
    return next((name for magic, (name, _) in COMPRESSIONS.items() if start.startswith(magic)), "")


def open_bytes(path: Path) -> io.BufferedIOBase:
    """Open a file, decompressed. Raises `OSError` and, while reading, any of `READ_ERRORS`."""
    file = path.open("rb")
    name = compression_of(file.peek(8)[:8])
    if name == "gzip":
        return gzip.GzipFile(fileobj=file)
    if name == "bzip2":
        return bz2.BZ2File(file)
    if name == "xz":
        return lzma.LZMAFile(file)
    if name == "Zstandard":
        import pyarrow as pa

        stream: io.BufferedIOBase = pa.CompressedInputStream(file, "zstd")
        return stream
    return file


def read_head(path: Path, size: int) -> bytes:
    """Return the first bytes of a file, decompressed; of a damaged one those before the damage."""
    file = open_bytes(path)
    parts, length = [], 0
    try:
        while length < size and (part := file.read(size - length)):
            parts.append(part)
            length += len(part)
    except READ_ERRORS:
        if not parts:
            raise
    finally:
        file.close()
    return b"".join(parts)


def file_state(path: Path) -> tuple[int, int]:
    """Return size and time of change of a file, by which what was seen of it is remembered.

    A file that was written within the last two seconds is given a state of its own: it may be written again without
    a change of either.
    """
    state = path.stat()
    recent = time.time_ns() - state.st_mtime_ns < 2 * 10**9
    return state.st_size, -time.monotonic_ns() if recent else state.st_mtime_ns


def sha1_of(path: Path) -> str:
    """Return the SHA-1 of a file's bytes, in hex: the checksum of `file_sha1`. A file is read once for it."""
    try:
        return _sha1(path, *file_state(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {read_failure(error)}") from error


@lru_cache(maxsize=256)
def _sha1(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.sha1, usedforsecurity=False)).hexdigest()


def encoding_by_head(head: bytes, path: Path, *, whole: bool = False) -> str:
    """Return the encoding that the first bytes of a text file show: utf-8 where they are ASCII.

    `whole` says that the file has no more bytes. Raises `DataError` with the line of a byte that fits none.
    """
    for mark, name in MARKS:
        if head.startswith(mark):
            return name
    if wide := _utf16_without_mark(head):
        return wide
    bad = _first_invalid(head, "utf-8", whole=whole)
    if bad is None:
        return "utf-8"
    wide_bytes = sum(byte > 127 for byte in head[:bad])
    if wide_bytes < UTF8_SAMPLE_BYTES and _is_gb18030(head, whole=whole):
        return "gb18030"
    raise DataError(
        f"{path}:{head.count(10, 0, bad) + 1}: not UTF-8 (and not GB18030); save the file as UTF-8, or correct that "
        "line"
    )


def _first_invalid(data: bytes, encoding: str, *, whole: bool) -> int | None:
    """Return the position of the first byte that is not of this encoding, None where all are."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(data, final=whole)
    except UnicodeDecodeError as error:
        return error.start
    return None


def _is_gb18030(data: bytes, *, whole: bool) -> bool:
    """Whether bytes decode as GB18030 and give common characters: Latin-1 or Big5 read so gives rare ones."""
    try:
        text = codecs.getincrementaldecoder("gb18030")().decode(data, final=whole)
    except UnicodeDecodeError:
        return False
    wide = [character for character in text if character > "\x7f"]
    common = len("".join(wide).encode("gb2312", "ignore")) / 2
    return common >= COMMON_SHARE * len(wide)


def _utf16_without_mark(head: bytes) -> str:
    """Return utf-16-le or utf-16-be where every second byte of much of the text is zero, else ""."""
    sample = head[:4096]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    most, least, name = (odd, even, "utf-16-le") if odd > even else (even, odd, "utf-16-be")
    if most < 4 or most < len(sample) / 20 or least > most / 20:
        return ""
    if _first_invalid(sample[: len(sample) // 2 * 2], name, whole=False) is not None:
        return ""
    return name


class _Utf8Bytes(io.RawIOBase):
    """The bytes of a text file as UTF-8, each checked. The encoding is chosen at the first bytes that are not ASCII."""

    def __init__(self, file: io.BufferedIOBase, path: Path, encoding: str | None = None) -> None:
        self._file, self._path = file, path
        self._encoding = encoding or ""
        self._decoder: codecs.IncrementalDecoder | None = None  # None: all was ASCII so far
        if encoding:
            self._decoder = codecs.getincrementaldecoder(encoding)()
        self._lines = 1
        self._ready, self._at = b"", 0
        self._first, self._ended = True, False

    def readable(self) -> bool:
        """Return True: bytes can be read."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read UTF-8 into `buffer` and return how many bytes."""
        while self._at >= len(self._ready):
            if self._ended:
                return 0
            self._ready, self._at = self._decoded(self._read_chunk()), 0
        part = self._ready[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()

    def _read_chunk(self) -> bytes:
        """Return `READ_BYTES` bytes, fewer at the first time (who looks at one row needs no more) and at the end."""
        size = min(FIRST_BYTES, READ_BYTES) if self._first else READ_BYTES
        parts, length = [], 0
        while length < size and (part := self._file.read(size - length)):
            parts.append(part)
            length += len(part)
        self._ended = length < size
        return b"".join(parts)

    def _decoded(self, chunk: bytes) -> bytes:
        undecided = self._decoder is None
        if undecided and (not chunk.isascii() or (self._first and b"\0" in chunk)):  # UTF-16 may be all ASCII bytes
            self._encoding = self._encoding_of(chunk)
            self._decoder = codecs.getincrementaldecoder(self._encoding)()
        self._first = False
        if self._decoder is None:
            self._lines += chunk.count(10)
            return chunk
        try:
            text = self._decoder.decode(chunk, final=self._ended)
        except UnicodeDecodeError as error:
            line = self._lines + error.object[: error.start].count(10)
            name = self._encoding.upper().removesuffix("-SIG")
            raise DataError(
                f"{self._path}:{line}: not {name}, as the text before it is; save the file in one encoding, or correct "
                "that line"
            ) from error
        self._lines += text.count("\n")
        return text.encode()

    def _encoding_of(self, chunk: bytes) -> str:
        try:
            return encoding_by_head(chunk, self._path, whole=self._ended)
        except DataError as error:
            if self._lines == 1:
                raise
            line, _, reason = str(error).removeprefix(f"{self._path}:").partition(":")
            raise DataError(f"{self._path}:{self._lines - 1 + int(line)}:{reason}") from error


def open_text(path: Path, newline: str | None = None, encoding: str | None = None) -> TextIO:
    """Open a text file, decompressed and decoded; `newline` as for `open`, `encoding` None: it is detected.

    Reading raises `DataError` with the line of a byte that is not of the file's encoding, and `READ_ERRORS`.
    """
    raw = _Utf8Bytes(open_bytes(path), path, encoding)
    return io.TextIOWrapper(io.BufferedReader(raw, 1 << 16), encoding="utf-8", newline=newline)
