"""Several datasets into one order, and records held out of it; both exactly repeatable by the seed.

    order = mix([1000, 200], "interleave_under", [0.8, 0.2], seed=42)   # (N, 2) pairs: dataset, entry

It knows sizes and streams, not what is in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from carellama.errors import UserError
from carellama.text import counted

Item = TypeVar("Item")


def turns(datasets: int, probabilities: Sequence[float] | None, seed: int) -> Iterator[int]:
    """Whose turn it is, without end: in rotation, or drawn with these probabilities."""
    if probabilities is None:
        while True:
            yield from range(datasets)
    numbers = np.random.default_rng(seed)
    shares = np.array(probabilities) / sum(probabilities)  # numpy wants the sum closer to 1 than people write it
    while True:
        yield from numbers.choice(datasets, size=1024, p=shares).tolist()


def check_probabilities(strategy: str, probabilities: Sequence[float] | None) -> None:
    """Raise `UserError` for a share of 0 where all datasets are to be used up."""
    if probabilities is not None and strategy == "interleave_over" and not all(probabilities):
        raise UserError("--interleave_probs has a 0: with interleave_over that dataset would never be used up")


def mix(sizes: Sequence[int], strategy: str, probabilities: Sequence[float] | None, seed: int) -> np.ndarray:
    """Return (dataset, entry) pairs, shape (N, 2).

    concat: one dataset after the other. interleave_under: in turn, until one is used up (the largest are not
    used whole). interleave_over: in turn, until each was used up once (the smallest begin again and repeat).
    """
    if strategy == "concat":
        parts = [np.column_stack([np.full(size, number), np.arange(size)]) for number, size in enumerate(sizes)]
        return np.concatenate([np.zeros((0, 2), dtype=np.int64), *parts])
    check_probabilities(strategy, probabilities)
    if not all(sizes):
        raise UserError("one of the datasets is empty: it cannot be interleaved")
    pairs = _interleave(sizes, strategy, turns(len(sizes), probabilities, seed))
    return np.fromiter(pairs, dtype=np.dtype((np.int64, 2)))


def _interleave(sizes: Sequence[int], strategy: str, order: Iterator[int]) -> Iterator[tuple[int, int]]:
    at = [0] * len(sizes)
    full = set[int]()
    for turn in order:
        yield turn, at[turn] % sizes[turn]
        at[turn] += 1
        if at[turn] >= sizes[turn]:
            full.add(turn)
            if strategy == "interleave_under" or len(full) == len(sizes):
                return


def mix_streams(streams: Sequence[Iterable[Item]], probabilities: Sequence[float] | None, seed: int) -> Iterator[Item]:
    """Yield items of several streams in turn, without end: a stream that is used up begins again.

    Each stream gives a fresh iterator whenever it is iterated. Raises `UserError` for one that has no items.
    """
    running = [iter(stream) for stream in streams]
    nothing = object()
    for turn in turns(len(streams), probabilities, seed):
        item = next(running[turn], nothing)
        if item is nothing:
            running[turn] = iter(streams[turn])
            item = next(running[turn], nothing)
        if item is nothing:
            raise UserError(
                f"dataset {turn + 1} of {len(streams)} has no usable record for this process or worker, so it cannot "
                "be interleaved; use fewer processes or --dataloader_num_workers, or leave --streaming out"
            )
        yield item  # type: ignore[misc]


def held_out(records: int, val_size: float, seed: int) -> np.ndarray:
    """Return the numbers of the held-out records, sorted: a share of them below 1, else so many."""
    wanted = round(records * val_size) if val_size < 1 else int(val_size)
    if val_size and not 0 < wanted < records:
        raise UserError(
            f"--val_size {val_size:g} of {counted(records, 'record')} would hold out {wanted}; leave some on both sides"
        )
    chosen: np.ndarray = np.sort(np.random.default_rng(seed).permutation(records)[:wanted])
    return chosen
