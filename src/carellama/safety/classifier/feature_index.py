"""Which of the features that a classifier knows a text has: those of `classifier.features`, found all at once.

    index = FeatureIndex(("胸口", "chest pain"))
    index.of(["胸口痛", "my chest pain"])       # (array([0, 1]), array([0, 1])): features, and the part that has each

A sequence of characters is a number that they make, and one of words is a number made of those of its words; numbers
are looked up in a table. A feature comes as often as the text has it. Learning and scoring both read texts by this.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Codes = NDArray[np.uint64]
HAN_RUN = re.compile(r"[㐀-鿿]+")
LATIN_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:\.\d+)?")
HAN_LENGTHS, WORD_LENGTHS = (1, 2, 3), (1, 2, 3)
APART = (2, 3)  # places between two characters that are read without those between them: 胸?痛, 胸??痛
RUN_BEGIN, RUN_END = "^", "$"  # mark sequences at an end of a run of Chinese characters
STEM = 5  # letters of a longer word that count by themselves: vomit of vomiting
_HAN_BITS = 16  # of a character
_WORD_BITS = 21  # of the number of a word
_KIND_BIT = 48  # from which a code tells sequences, apart by 2 or 3, at a begin and at an end of a run
_KINDS = {kind: at << _KIND_BIT for at, kind in enumerate(("", "?", "??", RUN_BEGIN, RUN_END))}
_MIX = 0x9E3779B97F4A7C15  # of Fibonacci hashing (Knuth, volume 3, section 6.4)


def read_words(text: str) -> list[str]:
    """Return the words of a text of `normalize` in Latin letters, a number by how long it is: <2> for 38 and 12."""
    words = LATIN_WORD.findall(text)
    return [f"<{len(word.partition('.')[0])}>" if word[0].isdigit() else word for word in words]


class FeatureIndex:
    """Features by their numbers, which are their places in `names`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._numbers = {name: at for at, name in enumerate(names)}
        han = [(code, at) for name, at in self._numbers.items() if (code := _han_code(name)) is not None]
        self._han = _Table([code for code, _ in han], [at for _, at in han])
        pairs = [(name.split(" "), at) for name, at in self._numbers.items() if " " in name and name[0] != "{"]
        words: dict[str, int] = {}
        codes = [
            sum(words.setdefault(word, len(words) + 1) << _WORD_BITS * at for at, word in enumerate(pair))
            for pair, _ in pairs
        ]
        self._pairs = _Table(codes, [at for _, at in pairs])
        self._words = words  # those of pairs, from 1
        self._stems = {name[:-1]: at for name, at in self._numbers.items() if name[-1:] == "*"}

    def number(self, name: str) -> int | None:
        """Return the number of a feature, None if it is unknown."""
        return self._numbers.get(name)

    def of(self, parts: Sequence[str]) -> tuple[Ints, Ints]:
        """Return the known features of the parts of a text of `normalize`, and the part of each."""
        found = [*self._sequences(parts), *self._of_words(parts)]
        if not found:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        return np.concatenate([numbers for numbers, _ in found]), np.concatenate([owner for _, owner in found])

    def _sequences(self, parts: Sequence[str]) -> list[tuple[Ints, Ints]]:
        """Sequences of Chinese characters."""
        text = "\n".join(parts)  # across which no sequence is read
        if text.isascii():
            return []
        codes = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)
        owner = np.repeat(np.arange(len(parts)), [len(part) + 1 for part in parts])[:-1]
        is_han = (codes >= 0x3400) & (codes <= 0x9FFF)
        single = codes.astype(np.uint64)
        code, here = single, is_han
        found, owners = [], []

        def add(some: Codes, where: NDArray[np.bool_], kind: str) -> None:
            found.append(some[where] | np.uint64(_KINDS[kind]))
            owners.append(owner[: len(some)][where])

        begins = is_han & ~np.concatenate(([False], is_han[:-1]))
        ends = is_han & ~np.concatenate((is_han[1:], [False]))
        for length in HAN_LENGTHS:
            if length > 1:
                here = here[:-1] & is_han[length - 1 :]
                code = code[:-1] | (single[length - 1 :] << np.uint64(_HAN_BITS * (length - 1)))
            add(code, here, "")
            add(code, here & begins[: len(code)], RUN_BEGIN)
            add(code, here & ends[length - 1 :], RUN_END)
        whole = is_han
        for apart in range(1, max(APART) + 1):
            whole = whole[:-1] & is_han[apart:]  # no other character between them
            if apart in APART:
                add(single[:-apart] | (single[apart:] << np.uint64(_HAN_BITS)), whole, "?" * (apart - 1))
        return [self._han.find(np.concatenate(found), np.concatenate(owners))]

    def _of_words(self, parts: Sequence[str]) -> list[tuple[Ints, Ints]]:
        """Words in Latin letters, their stems, and pairs of them."""
        of_parts = [read_words(part) for part in parts]
        words = [*chain.from_iterable(of_parts)]
        if not words:
            return []
        owner = np.repeat(np.arange(len(parts)), [len(one) for one in of_parts])
        numbers, stems_of = self._numbers, self._stems
        single = np.array([numbers.get(word, -1) for word in words])
        stems = np.array([stems_of.get(word[:STEM], -1) if len(word) > STEM else -1 for word in words])
        row = np.array([self._words.get(word, 0) for word in words], dtype=np.uint64)
        found = [(single[single >= 0], owner[single >= 0]), (stems[stems >= 0], owner[stems >= 0])]
        code, here = row, row > 0
        for length in WORD_LENGTHS[1:]:
            last = length - 1
            here = here[:-1] & (row[last:] > 0) & (owner[:-last] == owner[last:])
            code = code[:-1] | (row[last:] << np.uint64(_WORD_BITS * last))
            found.append(self._pairs.find(code[here], owner[:-last][here]))
        return found


def _han_code(name: str) -> int | None:
    """The number of a sequence of Chinese characters; None: it is none."""
    kind, characters = "", name
    if name[0] == RUN_BEGIN:
        kind, characters = RUN_BEGIN, name[1:]
    elif name[-1] == RUN_END:
        kind, characters = RUN_END, name[:-1]
    elif "?" in name[1:-1]:
        kind, characters = name[1:-1], name[0] + name[-1]
    if kind not in _KINDS or not HAN_RUN.fullmatch(characters):
        return None
    return _KINDS[kind] | sum(ord(character) << _HAN_BITS * at for at, character in enumerate(characters))


class _Table:
    """Numbers of codes, looked up for many codes at once: tables of which each has what had no place in the last."""

    def __init__(self, codes: Sequence[int], numbers: Sequence[int]) -> None:
        self._codes = np.array(codes, dtype=np.uint64)
        self._numbers = np.array(numbers, dtype=np.int64)
        self._levels: list[tuple[np.uint64, np.uint64, NDArray[np.int32]]] = []
        left = np.arange(len(codes), dtype=np.int32)
        while len(left):
            bits = (4 * len(left)).bit_length()
            factor, shift = np.uint64((_MIX + 2 * len(self._levels)) % 2**64), np.uint64(64 - bits)
            slots = self._codes[left] * factor >> shift
            table = np.full(1 << bits, -1, dtype=np.int32)
            table[slots] = left  # the last of each slot stays
            self._levels.append((factor, shift, table))
            left = left[table[slots] != left]

    def find(self, codes: Codes, owner: Ints) -> tuple[Ints, Ints]:
        """Return the numbers of the codes that are known, and the owner of each."""
        found, owners = [], []
        for factor, shift, table in self._levels:
            at = table[codes * factor >> shift]
            same = (self._codes[at] == codes) & (at >= 0)
            found.append(self._numbers[at[same]])
            owners.append(owner[same])
            rest = np.flatnonzero(~same & (at >= 0))
            if not len(rest):
                break
            codes, owner = codes[rest], owner[rest]
        return np.concatenate(found or [np.empty(0, dtype=np.int64)]), np.concatenate(owners or [owner[:0]])
