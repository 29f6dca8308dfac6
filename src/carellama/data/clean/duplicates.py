"""Exact and near duplicates among many records, in bounded memory.

    found = Duplicates(tempfile.TemporaryFile(), threshold=0.8)
    for record in records: found.add(record)
    partner, similarity = found.partners()   # per record: the number of the one that stays, -1 where it stays itself

Exact: the same texts but for case, width, punctuation and white space. Near: MinHash (rensa) over runs of three words,
where a Chinese character is a word, of all but the system message. Records that are alike directly or through others
are one group, as in Lee et al. 2022 (arXiv:2107.06499); its first stays. It does not see paraphrases.

128 values a record, in 21 bands of 6: two records of Jaccard similarity s share a band with the probability
1 - (1 - s^6)^21, which is 0.28 at 0.5, 0.92 at 0.7, 0.998 at 0.8. What shares a band is compared by all values.
The values lie in `file`, 512 bytes a record; a record takes 40 bytes of memory besides.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from carellama.data.convert import texts_of
from carellama.errors import need
from carellama.records import Chat, Pair, Record
from carellama.text import folded, ngrams, words

VALUES, BANDS, DEPTH = 128, 21, 6  # values of a signature; bands of so many values
SHINGLE = 3  # words of a run
FEWEST = 8  # runs below which texts are compared exactly only: a word more or less would be half of it
BATCH = 1024  # records whose signatures are made at once
CHUNK = 1 << 16  # signatures read at once
SEED = 42
MIX = np.uint64(0x9E3779B97F4A7C15)

Numbers = npt.NDArray[np.int64]


class Duplicates:
    """Takes records one by one, then says which are duplicates of which. `threshold` 0: exact duplicates only."""

    def __init__(self, file: BinaryIO, threshold: float = 0.8) -> None:
        self.threshold = threshold
        self._minhash = need("rensa", extra="clean", why="near duplicates").RMinHash if threshold else None
        self._file = file
        self._exact = array("Q")
        self._long = bytearray()  # whether a record has enough runs for near duplicates
        self._waiting: list[list[str]] = []

    def add(self, record: Record) -> None:
        """Take the next record."""
        text = "\x1f".join(folded(text) for text in texts_of(record))
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        self._exact.extend((int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")))
        if self._minhash is None:
            return
        runs = [" ".join(run) for run in ngrams(words(spoken(record)), SHINGLE)]
        self._long.append(len(set(runs)) >= FEWEST)
        self._waiting.append(runs)
        if len(self._waiting) == BATCH:
            self._sign()

    def _sign(self) -> None:
        if self._waiting and self._minhash is not None:
            signatures = self._minhash.digests_from_token_sets(self._waiting, num_perm=VALUES, seed=SEED)
            np.asarray(signatures, dtype=np.uint32).tofile(self._file)
            self._waiting = []

    def partners(self) -> tuple[Numbers, npt.NDArray[np.float32]]:
        """Per record: the number of the record that stays for it (-1: it stays), and how similar (1: exact)."""
        exact = np.frombuffer(self._exact, dtype=np.uint64).reshape(-1, 2)
        count = len(exact)
        similarity = np.zeros(count, dtype=np.float32)
        order = np.lexsort(exact.T)  # stable: equal ones in the order of the input
        ordered = exact[order]
        fresh = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))[:count]
        parent = np.empty(count, dtype=np.int64)
        parent[order] = order[fresh][np.cumsum(fresh) - 1]
        same = parent != np.arange(count)
        if self._minhash is not None and count:
            self._near(parent, same)
        roots = np.array([_root(parent, number) for number in range(count)], dtype=np.int64)
        moved = np.flatnonzero(roots != np.arange(count))
        for number in moved:
            alike = (exact[number] == exact[roots[number]]).all()
            similarity[number] = 1.0 if alike else self._agreement(int(number), int(roots[number]))
        roots[roots == np.arange(count)] = -1
        return roots, similarity

    def exact(self, one: int, other: int) -> bool:
        """Whether two records are exact duplicates."""
        return self._exact[2 * one : 2 * one + 2] == self._exact[2 * other : 2 * other + 2]

    def _agreement(self, one: int, other: int) -> float:
        # an exact duplicate of a near duplicate shares the latter's text, so its own signature serves
        return float((self._signatures[one] == self._signatures[other]).mean())

    def _near(self, parent: Numbers, same: npt.NDArray[np.bool_]) -> None:
        self._sign()
        self._file.flush()
        self._signatures = np.memmap(self._file, dtype=np.uint32, mode="r", shape=(len(parent), VALUES))
        usable = np.flatnonzero(np.frombuffer(bytes(self._long), dtype=np.bool_) & ~same)
        for band in range(BANDS):
            keys = np.concatenate(
                [self._keys(usable[at : at + CHUNK], band) for at in range(0, len(usable), CHUNK)]
                or [np.zeros(0, np.uint64)]
            )
            order = np.argsort(keys, kind="stable")  # within a group in the order of the input
            keys = keys[order]
            edges = np.flatnonzero(keys[1:] != keys[:-1]) + 1
            bounds = np.concatenate(([0], edges, [len(keys)]))
            for group in np.flatnonzero(np.diff(bounds) > 1):
                self._group(usable[order[bounds[group] : bounds[group + 1]]], parent)

    def _keys(self, numbers: Numbers, band: int) -> npt.NDArray[np.uint64]:
        values = np.asarray(self._signatures[numbers, band * DEPTH : (band + 1) * DEPTH], dtype=np.uint64)
        keys = np.zeros(len(numbers), dtype=np.uint64)
        for column in values.T:
            keys = (keys ^ column) * MIX
            keys ^= keys >> np.uint64(29)
        return keys

    def _group(self, numbers: Numbers, parent: Numbers) -> None:
        """Join each record of a band's group to the first before it that is alike; those with none lead."""
        leaders = [int(numbers[0])]
        signatures = np.array(self._signatures[numbers[:1]])
        for number in map(int, numbers[1:]):
            if _root(parent, number) == _root(parent, leaders[0]):  # by an earlier band
                continue
            own = np.array(self._signatures[number])
            alike = np.flatnonzero((signatures == own).mean(axis=1) >= self.threshold)
            if len(alike):
                _join(parent, leaders[int(alike[0])], number)
            else:
                leaders.append(number)
                signatures = np.vstack((signatures, own))


def spoken(record: Record) -> str:
    """All texts of a record but the system message, which many records share."""
    if isinstance(record, (Chat, Pair)):
        turns = record.messages if isinstance(record, Chat) else record.prompt
        texts = [turn.content for turn in turns if turn.role != "system"]
        return "\n".join(texts + ([record.chosen, record.rejected] if isinstance(record, Pair) else []))
    return "\n".join(texts_of(record))


def _root(parent: Numbers, number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = int(parent[number])
    return number


def _join(parent: Numbers, one: int, other: int) -> None:
    """Make two groups one, with the first record of both as its root."""
    one, other = sorted((_root(parent, one), _root(parent, other)))
    parent[other] = one
