"""A .gguf of 16 or 32 bits made smaller, with llama.cpp's own arithmetic: `ggml_quantize_chunk`.

    quantize(Path("model.f16.gguf"), Path("model.q4_K_M.gguf"), "q4_K_M", None)     # {"Q4_K": 145, "Q6_K": 25, ...}

xllamacpp's library has llama.cpp's function for one tensor, and not the one for a whole file; which tensor gets which
number format is `carellama.model.gguf.tensor_types`. The source is memory-mapped, and pieces of some million weights
are worked on in threads, so that memory stays the same whatever the model's size. The file appears when it is whole.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carellama.errors import UserError, lookup, need
from carellama.files import atomic_binary, print_status
from carellama.hardware import physical_cores
from carellama.model.gguf.importance import Importance
from carellama.model.gguf.layout import (
    GGML_TYPES,
    Layout,
    TensorPlace,
    pad,
    parts,
    read_layout,
    uint32_value,
    write_head,
)
from carellama.model.gguf.tensor_types import EMBEDDINGS, FILE_TYPES, FLOATS, OUTPUT, shape_of, tensor_types
from carellama.model.paths import check_space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PIECE_WEIGHTS = 1 << 21  # worked on by a thread at a time: 8 MB in float32
COPIED_BYTES = 1 << 24
QUANTIZATION_VERSION = 2  # ggml.h, GGML_QNT_VERSION
FUNCTION = "ggml_quantize_chunk"


def quantize(
    source: Path, target: Path, gguf_type: str, importance: Importance | None = None, *, threads: int | None = None
) -> dict[str, int]:
    """Write `source` to `target` in a format of `FILE_TYPES`; return how many tensors have which number format.

    importance: which columns of a matrix matter most. Raises `UserError` for a file that is damaged or quantised
    already, weights that are not numbers, an importance matrix of another model, a full disk, and where the function
    is not to be had.
    """
    import numpy as np

    lookup(FILE_TYPES, gguf_type, "gguf_type")
    threads = threads or physical_cores()
    layout = read_layout(source)
    shape = shape_of(layout)
    types = tensor_types(layout.tensors, shape, gguf_type, importance=importance is not None)
    _check(source, layout, types)
    if importance:
        importance.check(layout.tensors)
        rounded = [one.name for one in layout.tensors if types[one.name] not in (*FLOATS, "Q8_0", one.type)]
        _say_unmeasured(gguf_type, rounded, importance)
    made = replace(layout, metadata=layout.metadata | _facts(gguf_type, importance))
    check_space(target, made.bytes_of(types))
    if any(types[one.name] not in (*FLOATS, one.type) for one in layout.tensors):
        library()  # before anything is written
    data = np.memmap(source, np.uint8, "r")
    with (
        atomic_binary(target) as file,
        ThreadPoolExecutor(threads) as pool,
    ):
        write_head(file, made, types)
        for one in layout.tensors:
            weights = importance.of(one) if importance else None
            for content in _contents(data, one, types[one.name], weights, pool, at_once=2 * threads):
                file.write(content)
            pad(file, replace(one, type=types[one.name]).size, layout.alignment)
    return dict(Counter(types.values()))


def type_counts(path: Path) -> dict[str, int]:
    """How many tensors of a .gguf have which number format. Raises `UserError` for a damaged file."""
    return dict(Counter(one.type for one in read_layout(path).tensors))


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """llama.cpp's library within the package xllamacpp. Raises `UserError` where there is none with the function."""
    found = importlib.util.find_spec("xllamacpp")
    if found is None:
        need("xllamacpp", extra="llamacpp", why="quantising a .gguf")
    folders = [Path(place) for place in (found and found.submodule_search_locations) or ()]
    files = [file for folder in folders for kind in ("so", "dylib", "dll", "pyd") for file in folder.glob(f"*.{kind}")]
    for file in files:
        try:
            loaded = ctypes.CDLL(str(file))
            function = getattr(loaded, FUNCTION)
        except (OSError, AttributeError):
            continue
        function.restype = ctypes.c_size_t
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        function.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
        return loaded
    raise UserError(
        f"the library of xllamacpp in {', '.join(map(str, folders))} does not give out {FUNCTION}: "
        "only f16 can be written; install another version, as `pip install -U xllamacpp`"
    )


def quantize_rows(
    values: NDArray[np.float32], kind: str, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Return the bytes of rows of float32, (rows, columns), in a number format; `importance`: (columns,)."""
    import numpy as np

    rows, columns = values.shape
    values = np.ascontiguousarray(values, np.float32)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    made = np.empty(GGML_TYPES[kind].row_bytes(columns) * rows, np.uint8)
    pointer = None if weights is None else weights.ctypes.data
    function = getattr(library(), FUNCTION)
    written = function(GGML_TYPES[kind].number, values.ctypes.data, made.ctypes.data, 0, rows, columns, pointer)
    assert written == made.nbytes, f"{FUNCTION} wrote {written} bytes of {made.nbytes}"
    return made


def _check(source: Path, layout: Layout, types: dict[str, str]) -> None:
    """Refuse to quantise what has been quantised, and what could not be copied whole."""
    for one in layout.tensors:
        if one.type not in GGML_TYPES:
            raise UserError(f"{source}: {one.name} has number format {one.type}, which is not known here")
        if one.type not in FLOATS and types[one.name] != one.type:
            raise UserError(
                f"{source} is quantised already ({one.name} is {one.type}), and rounding twice loses more: "
                "give the model's folder, or its .gguf in f16, bf16 or f32"
            )


def _say_unmeasured(gguf_type: str, names: Sequence[str], importance: Importance) -> None:
    """Say how many of the tensors that are rounded the matrix does not know; llama-imatrix leaves out two of them."""
    asked = [name for name in names if name not in (OUTPUT, *EMBEDDINGS)]
    if unknown := [name for name in asked if name not in importance.sums]:
        print_status(
            f"{gguf_type}: the importance matrix does not know {len(unknown)} of {len(asked)} tensors (the first: "
            f"{unknown[0]}); they are rounded without it"
        )


def _facts(gguf_type: str, importance: Importance | None) -> dict[str, bytes]:
    """What the metadata say of the format."""
    facts = {"general.file_type": uint32_value(FILE_TYPES[gguf_type].number)}
    if gguf_type != "f16":
        facts["general.quantization_version"] = uint32_value(QUANTIZATION_VERSION)
    return facts | (importance.facts() if importance else {})


def _contents(
    data: NDArray[np.uint8],
    tensor: TensorPlace,
    kind: str,
    weights: NDArray[np.float32] | None,
    pool: ThreadPoolExecutor,
    *,
    at_once: int,
) -> Iterator[bytes]:
    """Give the bytes of a tensor in a number format; `weights`: (matrices, columns) of the importance matrix."""
    if kind == tensor.type:
        for begin, end in parts(tensor.size, COPIED_BYTES):
            yield data[tensor.start + begin : tensor.start + end].tobytes()
        return

    def convert(piece: tuple[int, int, int]) -> bytes:
        matrix, first, last = piece
        values = _floats(data, tensor, matrix * tensor.rows + first, last - first)
        return _in_format(values, kind, None if weights is None else weights[matrix], tensor.name)

    pieces = _pieces(tensor)
    while batch := list(islice(pieces, at_once)):
        yield from pool.map(convert, batch)


def _pieces(tensor: TensorPlace) -> Iterator[tuple[int, int, int]]:
    """(matrix, first row, row behind the last)."""
    rows = max(1, PIECE_WEIGHTS // tensor.columns)
    for matrix in range(tensor.matrices):
        for first, last in parts(tensor.rows, rows):
            yield matrix, first, last


def _floats(data: NDArray[np.uint8], tensor: TensorPlace, row: int, rows: int) -> NDArray[np.float32]:
    """Rows of a tensor in float32, (rows, columns)."""
    import numpy as np

    width = GGML_TYPES[tensor.type].row_bytes(tensor.columns)
    stored = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[tensor.type]
    found: NDArray[Any] = data[tensor.start + row * width :][: rows * width].view(stored)
    if tensor.type == "BF16":  # the upper half of a float32
        found = (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(np.float32, copy=False).reshape(rows, tensor.columns)


def _in_format(values: NDArray[np.float32], kind: str, weights: NDArray[np.float32] | None, name: str) -> bytes:
    import numpy as np

    if not math.isfinite(float(np.abs(values).max(initial=0))):
        raise UserError(f"{name} holds weights that are not numbers, as after a training that diverged")
    if kind == "F16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise UserError(f"{name} holds weights above 65,504, the largest number of f16: take q8_0 or smaller")
        return half.tobytes()
    return quantize_rows(values, kind, weights).tobytes()
