"""Files of weights: what tells an adapter from a whole model, and a fingerprint by which other weights are known.

    is_adapter(Path("output"))          # whether the folder holds an adapter
    fingerprint("models/base")          # "3f0c...": other digits for other weights; None: no files of a known kind

A fingerprint reads some KB of each file, not the file: its size, its header and a piece of each tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

ADAPTER = "adapter_config.json"  # marks the folder of an adapter
PIECE_BYTES = 512
MOST_PIECES = 512  # of a file; of more tensors some are read, evenly
LARGEST_HEADER = 100_000_000  # bytes, as safetensors itself allows


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, rather than a whole model."""
    return (folder / ADAPTER).is_file()


def fingerprint(place: str | Path) -> str | None:
    """The fingerprint of a folder's safetensors, or of a .gguf file; None: there are none (the name of a hub's model).

    Raises nothing: a file that cannot be read is refused where its weights are loaded.
    """
    path = Path(place).expanduser()
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] * (path.suffix == ".gguf")
    digest = hashlib.sha256()
    try:
        for file in files:
            for piece in _pieces(file):
                digest.update(piece)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return digest.hexdigest()[:32] if files else None


def _pieces(path: Path) -> Iterator[bytes]:
    """The size, the header and a piece from the middle of each tensor; of a .gguf file pieces at even distances."""
    size = path.stat().st_size
    yield str(size).encode()
    with path.open("rb") as file:
        if path.suffix == ".gguf":
            middles = [size * number // MOST_PIECES for number in range(MOST_PIECES)]
        else:
            header = file.read(min(int.from_bytes(file.read(8), "little"), LARGEST_HEADER))
            yield header
            tensors = [one["data_offsets"] for name, one in json.loads(header).items() if name != "__metadata__"]
            middles = [8 + len(header) + (start + end) // 2 for start, end in sorted(tensors)]
            middles = middles[:: -(-len(middles) // MOST_PIECES) or 1]
        for middle in middles:
            file.seek(middle)
            yield file.read(PIECE_BYTES)
