"""How much each column of a matrix matters: an importance matrix, as llama.cpp's quantiser takes it.

    importance = load_importance(Path("imatrix.gguf"))
    quantize(source, target, "q4_K_M", importance)

A rounding error in a column counts by the mean of the squared inputs of that column (llama.cpp, tools/imatrix). Files
are those of llama.cpp: llama-imatrix writes them, and llama-quantize reads them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.errors import UserError, read_failure
from carellama.files import atomic_binary
from carellama.model.gguf.layout import (
    ARRAY,
    STRING,
    Layout,
    TensorPlace,
    pad,
    read_layout,
    string_value,
    uint32_value,
    write_head,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNK_TOKENS = 512  # read at once; llama.cpp's default
LONGEST_NAME, NAME = 256, re.compile(rb"[\w.]+")  # of a tensor
SUMS, COUNTS = ".in_sum2", ".counts"
# Mean squares that the quantiser of llama.cpp can compute with in float32, which has to hold their squares. A block of
# weights that count nothing becomes zeros or what is left of rounding: each column counts LEAST.
LEAST, MOST = 1e-12, 1e15
DATASETS, CHUNKS, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"


@dataclass(frozen=True)
class Importance:
    """The sums of squared inputs by the name of a .gguf's tensor: (matrices, columns), and tokens: (matrices,)."""

    sums: Mapping[str, NDArray[np.float32]]
    counts: Mapping[str, NDArray[np.float32]]
    datasets: tuple[str, ...] = ()
    chunks: int = 0

    def of(self, tensor: TensorPlace) -> NDArray[np.float32] | None:
        """The mean squares of a tensor, (matrices, columns); None: not measured.

        An expert that read nothing has 1. A column that was always 0 has `LEAST`: where all of a matrix are, they count
        alike.
        """
        import numpy as np

        if tensor.name not in self.sums:
            return None
        counts = self.counts[tensor.name][:, None]  # (1 or matrices, 1)
        sums = self.sums[tensor.name].reshape(tensor.matrices, tensor.columns)
        return np.maximum(_means(sums, counts), LEAST).astype(np.float32)

    def check(self, tensors: Collection[TensorPlace]) -> None:
        """Raise `UserError` for the importance matrix of another model."""
        known = {one.name: one for one in tensors}
        if not any(name in known for name in self.sums):
            raise UserError("this importance matrix has none of the model's tensors: it was measured on another model")
        for name, sums in self.sums.items():
            if name not in known:
                continue
            matrices, columns, counted = known[name].matrices, known[name].columns, len(self.counts[name])
            if sums.size != matrices * columns or counted not in (1, matrices):
                raise UserError(
                    f"the importance matrix has {counted} x {sums.size // counted} columns for {name}, and the model "
                    f"{matrices} x {columns}: it was measured on another model"
                )

    def facts(self) -> dict[str, bytes]:
        """What llama.cpp's quantiser writes into a .gguf about the matrix."""
        return {
            "quantize.imatrix.dataset": string_value(", ".join(self.datasets)),
            "quantize.imatrix.entries_count": uint32_value(len(self.sums)),
            "quantize.imatrix.chunks_count": uint32_value(self.chunks),
        }

    def save(self, path: Path) -> None:
        """Write it as llama.cpp's imatrix .gguf."""
        texts = b"".join(struct.pack("<Q", len(name.encode())) + name.encode() for name in self.datasets)
        metadata = {
            "general.type": string_value("imatrix"),
            DATASETS: struct.pack("<IIQ", ARRAY, STRING, len(self.datasets)) + texts,
            CHUNKS: uint32_value(self.chunks),
            CHUNK_SIZE: uint32_value(CHUNK_TOKENS),
        }
        arrays = {}
        for name in sorted(self.sums):
            matrices = len(self.counts[name])
            arrays[f"{name}{SUMS}"] = self.sums[name].reshape(matrices, -1)
            arrays[f"{name}{COUNTS}"] = self.counts[name].reshape(matrices, 1)
        tensors = [TensorPlace(name, array.shape[::-1], "F32", 0) for name, array in arrays.items()]
        layout = Layout(metadata, tuple(tensors))
        with atomic_binary(path) as file:
            write_head(file, layout, dict.fromkeys(arrays, "F32"))
            for array in arrays.values():
                file.write(array.astype("<f4").tobytes())
                pad(file, array.nbytes, layout.alignment)


def load_importance(path: Path) -> Importance:
    """Read llama.cpp's imatrix .gguf. Raises `UserError` for another file, and for sums that no inputs have."""
    import numpy as np

    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {read_failure(error)}") from error
    if _is_older_format(content):
        raise UserError(
            f"{path} is an importance matrix in llama.cpp's older format: convert it to GGUF with llama.cpp's "
            f"`llama-imatrix --in-file {path.name} -o imatrix.gguf`, and give that file"
        )
    layout = read_layout(path)
    if layout.fact("general.type") != "imatrix":
        raise UserError(
            f"{path} is no importance matrix in llama.cpp's GGUF form (general.type imatrix): make one with "
            "`carellama export --importance auto` or with llama-imatrix --output-format gguf"
        )
    found = {
        one.name: np.frombuffer(content, "<f4", one.weights, one.start) for one in layout.tensors if one.type == "F32"
    }
    names = [name.removesuffix(SUMS) for name in found if name.endswith(SUMS)]
    if not names or any(f"{name}{COUNTS}" not in found for name in names):
        raise UserError(f"{path} has no pairs of sums and counts in float32: it is no whole importance matrix")
    counts = {name: found[f"{name}{COUNTS}"] for name in names}
    sums = {name: _checked(found[f"{name}{SUMS}"], counts[name], f"{path}: {name}") for name in names}
    return Importance(sums, counts, tuple(layout.fact(DATASETS, whole=True) or ()), int(layout.fact(CHUNKS) or 0))


def _checked(sums: NDArray[np.float32], counts: NDArray[np.float32], what: str) -> NDArray[np.float32]:
    """The sums of a tensor, (matrices, columns). Raises `UserError` for what no squares of inputs add up to."""
    if not counts.size or not sums.size or sums.size % counts.size:
        raise UserError(f"{what} has {sums.size} sums for {counts.size} matrices: measure the importance matrix again")
    rows = sums.reshape(counts.size, -1)
    if not all((part >= 0).all() for part in (sums, counts)):  # what is not a number fails as well
        raise UserError(f"{what} has sums of squares that are negative or not numbers; measure the importance again")
    largest = float(_means(rows, counts[:, None]).max())
    if not largest <= MOST:
        raise UserError(
            f"{what} has a mean square of {largest:.2g}; llama.cpp's quantiser computes with at most {MOST:g}: measure "
            "the importance matrix again"
        )
    return rows


def _means(sums: NDArray[np.float32], counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean squares, as llama.cpp's quantiser takes them: 1 where nothing was counted."""
    import numpy as np

    return np.where(counts > 0, sums / np.where(counts > 0, counts, np.float32(1)), np.float32(1))


def _is_older_format(content: bytes) -> bool:
    """Whether a file is an `imatrix.dat`: a number of tensors, and of each its name with the length before it."""
    if len(content) < 8 or content.startswith(b"GGUF"):
        return False
    tensors, length = struct.unpack_from("<ii", content)
    name = content[8 : 8 + min(max(length, 0), LONGEST_NAME)]
    return tensors > 0 and length > 0 and len(name) == length and NAME.fullmatch(name) is not None
