"""Copies of a .gguf in 16 bits with one fault each, as a converter with a mistake would write them.

BROKEN["two matrices exchanged"](Path("model.f16.gguf"), Path("broken.gguf"))
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from carellama.model.gguf.layout import Layout, TensorPlace, read_layout, write_head


def exchanged(source: Path, target: Path) -> None:
    """Exchange a matrix of the first layer with the same one of the second."""
    shutil.copyfile(source, target)
    data, place = np.memmap(target, np.uint8, "r+"), places(source)
    one, other = (bytes_of(data, place[f"blk.{layer}.ffn_up.weight"]) for layer in (0, 1))
    one[:], other[:] = other.copy(), one.copy()
    data.flush()


def unpermuted(source: Path, target: Path) -> None:
    """Put the rows of one layer's keys back into the order of the folder; llama.cpp turns other pairs of them."""
    shutil.copyfile(source, target)
    layout = read_layout(source)
    place = places(source)["blk.0.attn_k.weight"]
    rows = bytes_of(np.memmap(target, np.uint8, "r+"), place).view(np.uint16).reshape(place.rows, place.columns)
    heads = int(layout.fact("llama.attention.head_count_kv"))
    halves = rows.reshape(heads, place.rows // heads // 2, 2, place.columns).swapaxes(1, 2)
    rows[:] = halves.reshape(rows.shape).copy()


def zeroed(source: Path, target: Path) -> None:
    """Lose a matrix, as a copy that was cut short and filled up."""
    shutil.copyfile(source, target)
    bytes_of(np.memmap(target, np.uint8, "r+"), places(source)["blk.0.ffn_down.weight"])[:] = 0


def other_base(source: Path, target: Path) -> None:
    """Turn positions by another base: transformers 5 renamed that setting, and older programs read 10,000."""
    layout = read_layout(source)
    value = layout.metadata["llama.rope.freq_base"][:4] + np.float32(500.0).tobytes()
    rewritten(source, target, replace(layout, metadata=layout.metadata | {"llama.rope.freq_base": value}))


BROKEN: dict[str, Callable[[Path, Path], None]] = {
    "two matrices exchanged": exchanged,
    "keys of a layer in another order": unpermuted,
    "a matrix lost": zeroed,
    "another base of positions": other_base,
}


def places(source: Path) -> dict[str, TensorPlace]:
    """Where the tensors of a file lie."""
    return {one.name: one for one in read_layout(source).tensors}


def bytes_of(data: np.ndarray, place: TensorPlace) -> np.ndarray:
    """The bytes of a tensor, to be changed in place."""
    return data[place.start : place.start + place.size]


def rewritten(source: Path, target: Path, layout: Layout) -> None:
    """Write a file with other metadata."""
    with target.open("wb") as file:
        write_head(file, layout, {one.name: one.type for one in layout.tensors})
        file.write(source.read_bytes()[min(one.start for one in layout.tensors) :])
