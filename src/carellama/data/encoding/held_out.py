"""Records held out of the training data, so that no copy of one is trained on.

    held = hold_out(stores, val_size=0.1, seed=42, width=1)    # held.train, held.entries, held.copies

Records are equal when their tokens are, whatever dataset they are in. A held-out record is evaluated once; its copies
are in neither part, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carellama.data.encoding.mixing import held_out
from carellama.data.encoding.token_cache import TokenStore


@dataclass(frozen=True)
class HeldOut:
    """The entries of each store that are left to train on, those held out as (store, entry) pairs, and counts."""

    train: list[np.ndarray]
    entries: np.ndarray  # (M, 2)
    copies: list[int]  # of each store: records equal to a held-out one, left out of both parts


def hold_out(stores: Sequence[TokenStore], val_size: float, seed: int, width: int = 1) -> HeldOut:
    """Hold out a share or a number of the different records of all stores. `width` neighbours are one entry."""
    groups = _groups([store.record_hashes() for store in stores])
    chosen = held_out(1 + max(int(own.max()) for own in groups), val_size, seed)
    train, entries, copies = [], [], []
    seen = np.zeros(0, dtype=np.int64)
    for number, (store, own) in enumerate(zip(stores, groups, strict=True)):
        out = np.isin(own, chosen)
        first = np.zeros(len(own), dtype=bool)
        first[np.unique(own, return_index=True)[1]] = True
        evaluated = out & first & ~np.isin(own, seen)
        seen = np.concatenate([seen, own[out]])
        record = record_of_entries(store, width)  # (N,)
        train.append(np.flatnonzero(~out[record]))
        kept = np.flatnonzero(evaluated[record])
        entries.append(np.column_stack([np.full(len(kept), number), kept]))
        copies.append(int((out & ~evaluated).sum()))
    return HeldOut(train, np.concatenate(entries), copies)


def record_of_entries(store: TokenStore, width: int = 1) -> np.ndarray:
    """Return the number, from 0 and without gaps, of the record that each entry of a store is of, (N,)."""
    number: np.ndarray = np.cumsum(np.diff(store.records, prepend=-1) != 0) - 1
    return number[::width]


def shared_records(store: TokenStore, others: Sequence[TokenStore]) -> int:
    """Count the records of a store that one of the others has too."""
    known = np.concatenate([other.record_hashes() for other in others])
    return int(np.isin(store.record_hashes(), known).sum())


def _groups(hashes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Number the different hashes in the order in which they occur; return the numbers of each array."""
    _, first, inverse = np.unique(np.concatenate(hashes), return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.split(rank[inverse], np.cumsum([len(own) for own in hashes])[:-1])
