"""Where everything lies in a .gguf, and the same file written with other tensors (ggml-org/ggml, docs/gguf.md).

    layout = read_layout(Path("model.gguf"))
    layout.tensors[0].name, layout.tensors[0].type      # "output_norm.weight", "F32"
    layout.fact("general.architecture")                 # "llama"

Metadata is kept as the bytes of the file, so that a rewritten file says exactly what the first one said. Little-endian
files of version 2 and 3 are read, and version 3 is written. `gguf.GGUFReader` reads them as well, but takes seconds for
a vocabulary.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from carellama.errors import UserError

ALIGNMENT = 32  # bytes between the beginnings of tensors, unless `general.alignment` says otherwise
STRING, ARRAY, UINT32 = 8, 9, 4  # numbers of value types
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
SCALAR_BYTES = {kind: struct.calcsize(f"<{form}") for kind, form in SCALARS.items()}


Bytes = mmap.mmap | bytes


@dataclass(frozen=True)
class GGMLType:
    """A number format of ggml: blocks of so many weights take so many bytes."""

    number: int
    name: str
    block: int
    block_bytes: int

    def row_bytes(self, columns: int) -> int:
        """Bytes of one row."""
        return columns // self.block * self.block_bytes


GGML_TYPES = {
    name: GGMLType(number, name, block, size)
    for number, name, block, size in (
        (0, "F32", 1, 4), (1, "F16", 1, 2), (2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20), (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24), (8, "Q8_0", 32, 34), (10, "Q2_K", 256, 84), (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144), (13, "Q5_K", 256, 176), (14, "Q6_K", 256, 210), (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66), (17, "IQ2_XS", 256, 74), (18, "IQ3_XXS", 256, 98), (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18), (21, "IQ3_S", 256, 110), (22, "IQ2_S", 256, 82), (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1), (25, "I16", 1, 2), (26, "I32", 1, 4), (27, "I64", 1, 8), (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56), (30, "BF16", 1, 2), (34, "TQ1_0", 256, 54), (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
    )
}  # fmt: skip
BY_NUMBER = {one.number: one for one in GGML_TYPES.values()}


@dataclass(frozen=True)
class TensorPlace:
    """One tensor of a file."""

    name: str
    dimensions: tuple[int, ...]  # the columns of a row first, as in the file
    type: str  # ggml's name of its number format; of one that is not known here its number
    start: int  # byte of the file at which its data begin

    @property
    def columns(self) -> int:
        """Weights in a row."""
        return self.dimensions[0]

    @property
    def rows(self) -> int:
        """Rows of one matrix."""
        return self.dimensions[1] if len(self.dimensions) > 1 else 1

    @property
    def matrices(self) -> int:
        """Matrices in the tensor: experts, or 1."""
        return math.prod(self.dimensions[2:])

    @property
    def size(self) -> int:
        """Bytes of its data; 0: its number format is not known here."""
        known = GGML_TYPES.get(self.type)
        return known.row_bytes(self.columns) * self.rows * self.matrices if known else 0

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return math.prod(self.dimensions)


@dataclass(frozen=True)
class Layout:
    """What a file holds: metadata by name, as bytes from the number of the value's type on, and tensors."""

    metadata: dict[str, bytes]
    tensors: tuple[TensorPlace, ...]
    alignment: int = ALIGNMENT

    def fact(self, name: str, *, whole: bool = False) -> Any:
        """A fact of the metadata; of an array the length, or all of it (`whole`). None: not stated."""
        return _decoded(self.metadata[name], whole=whole) if name in self.metadata else None

    def bytes_of(self, types: Mapping[str, str]) -> int:
        """Bytes of the file that these types (by tensor) would make, but for a few of padding."""
        sizes = (replace(one, type=types[one.name]).size + self.alignment for one in self.tensors)
        return len(_head(self.metadata, ())) + sum(sizes) + sum(64 + len(one.name) * 4 for one in self.tensors)


def read_layout(path: Path) -> Layout:
    """Read what a .gguf holds. Raises `UserError` for a damaged file, and for one that ends before its weights do."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", data)
            if magic != b"GGUF" or version not in (2, 3):
                raise UserError(f"{path} is not a GGUF file of version 2 or 3")
            at, metadata = 24, dict[str, bytes]()
            for _ in range(pairs):
                name, at = _string(data, at)
                end = _value_end(data, at + 4, struct.unpack_from("<I", data, at)[0])
                metadata[name], at = data[at:end], end
            found, at = _tensors(data, at, tensors)
            size = len(data)
        alignment = int(_decoded(metadata["general.alignment"])) if "general.alignment" in metadata else ALIGNMENT
        begin = padded(at, alignment)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (struct.error, KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    placed = tuple([replace(one, start=begin + one.start) for one in found])
    needed = max((one.start + one.size for one in placed), default=0)  # a vocabulary alone has no weights
    if size < needed:
        raise UserError(f"{path} is cut short: it has {size:,} bytes, and its tensors take {needed:,}; fetch it again")
    return Layout(metadata, placed, alignment)


def padded(at: int, alignment: int) -> int:
    """The next byte at which a tensor may begin."""
    return -(-at // alignment) * alignment


def write_head(file: BinaryIO, layout: Layout, types: Mapping[str, str]) -> None:
    """Write all that comes before the weights: `types` are the number formats by tensor."""
    tensors = [replace(one, type=types[one.name]) for one in layout.tensors]
    head = _head(layout.metadata, tensors, layout.alignment)
    file.write(head + bytes(padded(len(head), layout.alignment) - len(head)))


def pad(file: BinaryIO, written: int, alignment: int) -> None:
    """Write zeros up to where the next tensor may begin."""
    file.write(bytes(padded(written, alignment) - written))


def string_value(text: str) -> bytes:
    """A string as a metadata value."""
    return struct.pack("<I", STRING) + _text(text)


def uint32_value(number: int) -> bytes:
    """A number as a metadata value."""
    return struct.pack("<II", UINT32, number)


def _head(metadata: Mapping[str, bytes], tensors: Sequence[TensorPlace], alignment: int = ALIGNMENT) -> bytes:
    parts = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))]
    parts += [_text(name) + value for name, value in metadata.items()]
    offset = 0
    for one in tensors:
        kind = GGML_TYPES[one.type].number
        count = len(one.dimensions)
        parts.append(_text(one.name) + struct.pack(f"<I{count}QIQ", count, *one.dimensions, kind, offset))
        offset += padded(one.size, alignment)
    return b"".join(parts)


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _decoded(value: bytes, *, whole: bool = False) -> Any:
    """A metadata value, of which the number of its type is the beginning; an array gives its length, or itself."""
    kind = struct.unpack_from("<I", value)[0]
    if kind == STRING:
        return _string(value, 4)[0]
    if kind != ARRAY:
        return struct.unpack_from(f"<{SCALARS[kind]}", value, 4)[0]
    of, length = struct.unpack_from("<IQ", value, 4)
    if not whole:
        return length
    if of in SCALARS:
        return list(struct.unpack_from(f"<{length}{SCALARS[of]}", value, 16))
    found, at = [], 16
    for _ in range(length):
        end = _value_end(value, at, of)
        found.append(_decoded(struct.pack("<I", of) + value[at:end], whole=True))
        at = end
    return found


def _string(data: Bytes, at: int) -> tuple[str, int]:
    length = struct.unpack_from("<Q", data, at)[0]
    end = at + 8 + length
    if end > len(data):
        raise ValueError("a name reaches beyond its end")
    return data[at + 8 : end].decode("utf-8"), end


def _value_end(data: Bytes, at: int, kind: int) -> int:
    """The byte behind a metadata value that begins at `at`."""
    if kind == STRING:
        end = at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    elif kind == ARRAY:
        of, length = struct.unpack_from("<IQ", data, at)
        end = at + 12
        if of in SCALAR_BYTES:
            end += length * SCALAR_BYTES[of]
        else:
            for _ in range(length):
                end = _value_end(data, end, of)
    else:
        end = at + SCALAR_BYTES[kind]
    if end > len(data):
        raise ValueError("a value reaches beyond its end")
    return end


def _tensors(data: Bytes, at: int, count: int) -> tuple[list[TensorPlace], int]:
    """The tensors, with their starts counted from the first one, and the byte behind their list."""
    found = []
    for _ in range(count):
        name, at = _string(data, at)
        size = struct.unpack_from("<I", data, at)[0]
        *dimensions, kind, start = struct.unpack_from(f"<{size}QIQ", data, at + 4)
        at += 4 + 8 * size + 12
        known = BY_NUMBER.get(kind)
        found.append(TensorPlace(name, tuple(dimensions), known.name if known else str(kind), start))
    return found, at


def parts(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut a length into pieces: (begin, end)."""
    for begin in range(0, total, size):
        yield begin, min(begin + size, total)
