"""Encoded records by number, for a data loader: mixed, packed, others in each epoch where a mix leaves some out.

examples = mixed(stores, entries, "interleave_under", None, seed=42)   # examples[0], examples.set_epoch(1)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from carellama.data.encoding.mixing import mix
from carellama.data.encoding.pack import pack
from carellama.data.encoding.token_cache import TokenStore
from carellama.records import Tokens


@dataclass(frozen=True)
class Share:
    """How many entries of one dataset an epoch has, of how many."""

    taken: int
    size: int


class Examples:
    """Examples for a data loader: each a list of `Tokens` (a whole window, when packed).

    `order` (N, 2) are (store, position) pairs in the order of the mix. Position k of a store in epoch e is its entry
    `(e * taken + k) % size`, so that epochs that take a part of a store take one part after the other. Packed windows
    are the same in each epoch. `width` neighbours in a store are one entry (the two answers of a pair).
    """

    def __init__(
        self,
        stores: Sequence[TokenStore],
        entries: Sequence[np.ndarray],
        order: np.ndarray,
        window: int | None = None,
        width: int = 1,
    ) -> None:
        self.stores, self.width, self._entries, self._order = stores, width, entries, order
        taken = np.bincount(order[:, 0], minlength=len(stores)) if len(order) else np.zeros(len(stores), dtype=np.int64)
        self.shares = [Share(int(count), len(own)) for count, own in zip(taken, entries, strict=True)]
        whole = all(share.size == 0 or share.taken % share.size == 0 for share in self.shares)
        # shared with the processes of a data loader that live on from epoch to epoch
        self._epoch = None if whole or window else torch.zeros((), dtype=torch.int64).share_memory_()
        self.lengths = np.zeros(len(order), dtype=np.int64)  # of the first epoch
        for number, (store, own) in enumerate(zip(stores, entries, strict=True)):
            at = order[:, 0] == number
            lengths = store.lengths.reshape(-1, width).sum(1)[own]
            self.lengths[at] = lengths[order[at, 1] % max(len(own), 1)]
        self.windows = pack(self.lengths, window) if window else None

    @property
    def rotates(self) -> bool:
        """Whether epochs differ in what they hold."""
        return self._epoch is not None

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, from 0; the trainer's data loader calls this."""
        if self._epoch is not None:
            self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._order) if self.windows is None else len(self.windows)

    def __getitem__(self, index: int) -> list[Tokens]:
        epoch = 0 if self._epoch is None else int(self._epoch)
        chosen = [index] if self.windows is None else self.windows[index]
        found: list[Tokens] = []
        for store, position in self._order[chosen].tolist():
            share = self.shares[store]
            entry = int(self._entries[store][(epoch * share.taken + position) % share.size])
            found += (self.stores[store][entry * self.width + part] for part in range(self.width))
        return found

    @property
    def tokens(self) -> int:
        """All tokens of an epoch."""
        return int(self.lengths.sum())

    @property
    def parts(self) -> dict[str, slice]:
        """The examples of each store by its name in metrics, where several stand one after the other."""
        numbers = self._order[:, 0]
        if self.windows is not None or len(self.stores) < 2 or (np.diff(numbers) < 0).any():
            return {}
        ends = np.searchsorted(numbers, np.arange(len(self.stores) + 1))
        names = metric_names([store.name for store in self.stores])
        parts = zip(names, ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        return {name: slice(start, end) for name, start, end in parts if start < end}


def metric_names(datasets: Sequence[str]) -> list[str]:
    """Return a name for the metrics of each dataset: its own, of a file its stem; numbered where two are alike."""
    found: list[str] = []
    for name in datasets:
        plain = re.sub(r"\W+", "_", Path(name).stem if "/" in name or Path(name).suffix else name).strip("_")
        while plain in found or not plain:
            plain = f"{plain or 'dataset'}_{len(found) + 1}"
        found.append(plain)
    return found


def mixed(
    stores: Sequence[TokenStore],
    entries: Sequence[np.ndarray],
    strategy: str = "concat",
    probabilities: Sequence[float] | None = None,
    seed: int = 0,
    *,
    window: int | None = None,
    width: int = 1,
) -> Examples:
    """Return the entries of several stores as one set, mixed by a strategy of `mix`."""
    order = mix([len(own) for own in entries], strategy, probabilities, seed)
    for number in range(len(stores)):  # positions count on where a mix begins a store again
        at = order[:, 0] == number
        order[at, 1] = np.arange(int(at.sum()))
    return Examples(stores, entries, order, window, width)


def chosen(stores: Sequence[TokenStore], pairs: np.ndarray, width: int = 1) -> Examples:
    """Return the entries that (store, entry) pairs name, each once, in their order, store by store."""
    entries = [pairs[pairs[:, 0] == number, 1] for number in range(len(stores))]
    return mixed(stores, entries, width=width)
