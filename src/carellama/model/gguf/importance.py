"""How much each column of a matrix matters: an importance matrix, as llama.cpp's quantiser takes it.

    importance = load_importance(Path("imatrix.gguf"))
    quantize(source, target, "q4_K_M", importance)

A rounding error in a column counts by the mean of the squared inputs of that column (llama.cpp, tools/imatrix). Files
are those of llama.cpp: llama-imatrix writes them, and llama-quantize reads them.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.errors import UserError
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
SUMS, COUNTS = ".in_sum2", ".counts"
DATASETS, CHUNKS, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"


@dataclass(frozen=True)
class Importance:
    """The sums of squared inputs by the name of a .gguf's tensor: (matrices, columns), and tokens: (matrices,)."""

    sums: Mapping[str, NDArray[np.float32]]
    counts: Mapping[str, NDArray[np.float32]]
    datasets: tuple[str, ...] = ()
    chunks: int = 0

    def of(self, tensor: TensorPlace) -> NDArray[np.float32] | None:
        """The mean squares of a tensor, (matrices, columns); None: not measured. An expert that read nothing has 1."""
        import numpy as np

        if tensor.name not in self.sums:
            return None
        counts = self.counts[tensor.name][:, None]  # (1 or matrices, 1)
        sums = self.sums[tensor.name].reshape(tensor.matrices, tensor.columns)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.float32(1)).astype(np.float32)

    def check(self, tensors: Collection[TensorPlace]) -> None:
        """Raise `UserError` for the importance matrix of another model."""
        known = {one.name: one for one in tensors}
        if not any(name in known for name in self.sums):
            raise UserError("this importance matrix has none of the model's tensors: it was measured on another model")
        for name, sums in self.sums.items():
            size = known[name].matrices * known[name].columns if name in known else sums.size
            if sums.size != size:
                raise UserError(
                    f"the importance matrix has {sums.size} columns for {name}, and the model {size}: "
                    "it was measured on another model"
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
    """Read llama.cpp's imatrix .gguf. Raises `UserError` for another file, and for numbers that are none."""
    import numpy as np

    layout = read_layout(path)
    if layout.fact("general.type") != "imatrix":
        raise UserError(
            f"{path} is no importance matrix in llama.cpp's GGUF form (general.type imatrix): make one with "
            "`carellama export --importance auto` or with llama-imatrix --output-format gguf"
        )
    content = path.read_bytes()
    found = {one.name: np.frombuffer(content, "<f4", one.size // 4, one.start) for one in layout.tensors}
    names = [name.removesuffix(SUMS) for name in found if name.endswith(SUMS)]
    if not names or any(f"{name}{COUNTS}" not in found for name in names):
        raise UserError(f"{path} has no pairs of sums and counts: it is no whole importance matrix")
    if not all(np.isfinite(found[f"{name}{part}"]).all() for name in names for part in (SUMS, COUNTS)):
        raise UserError(f"{path} holds values that are not numbers; measure the importance matrix again")
    counts = {name: found[f"{name}{COUNTS}"] for name in names}
    sums = {name: found[f"{name}{SUMS}"].reshape(len(counts[name]), -1) for name in names}
    return Importance(sums, counts, tuple(layout.fact(DATASETS, whole=True) or ()), int(layout.fact(CHUNKS) or 0))
