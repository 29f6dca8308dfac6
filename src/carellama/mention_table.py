"""All mentions of a text at once, as arrays: the arithmetic below the lexicon of `carellama.rules`.

    codes = codes_of("chest pain")
    bases = Bases.of(*words.find("chest pain", codes), known=[])
    places, _ = table.find(bases, Distances(codes, ends=[]))
    places.rows(slot)             # the mentions of a concept, as numbers of `places.bases`, in order

A *unit* is what can be found by itself: a word, a number, or a term of several parts. A *slot* is what is asked for: a
concept, or a word that is a part of a term. A unit counts for its own slot and for those of all concepts that are made
of it, which is known before any text is read. The time grows with n log n of what is found, by sorting alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
from ahocorasick_rs import AhoCorasick
from numpy.typing import NDArray

Ints = NDArray[np.int64]
REPEATS = 40  # of one word at the beginning of a text, and at its end: what stands between is left out
GAP = 8  # words between two parts of a term; a Chinese character counts as a word
LETTERS_PER_WORD = 6  # of Latin script, with the space
LOOK_BACK = 4  # mentions that begin before another, among which the one that ended last is looked for
_LATIN = np.array([chr(code) in "abcdefghijklmnopqrstuvwxyz0123456789" for code in range(128)])
_SHIFT = 32  # bits of a place in a key
_LOW = (1 << _SHIFT) - 1


class Ragged:
    """Lists of different lengths, one behind the other."""

    def __init__(self, lists: Sequence[Iterable[int]]) -> None:
        made = [sorted(one) for one in lists]
        self._counts = np.array([len(one) for one in made], dtype=np.int64)
        self._begins = np.cumsum(self._counts) - self._counts
        self._values = np.array([value for one in made for value in one], dtype=np.int64)

    def of(self, lists: Ints) -> tuple[Ints, Ints]:
        """Return the values of lists, one list behind the other, and for each which of them it is from."""
        source, at = spread(self._begins[lists], self._counts[lists])
        return self._values[at], source


def codes_of(text: str) -> NDArray[np.integer]:
    """Return the code points of a text of `rules.normalize`: bytes where all are ASCII."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)


def spread(begins: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Return for runs of whole numbers which run each is of, and the numbers."""
    source = np.repeat(np.arange(len(counts)), counts)
    return source, np.arange(len(source)) + (begins - (np.cumsum(counts) - counts))[source]


class Words:
    """The words and phrases of a lexicon. Raises `ValueError` for none that is a word.

    `units`: of each word. `latin_starts`, `latin_ends`: whether a Latin word begins and ends where it does. `negates`:
    whether it says that something is not, which a longer word within the text may cut short.
    """

    def __init__(
        self,
        words: Sequence[str],
        units: Sequence[int],
        latin_starts: Sequence[bool],
        latin_ends: Sequence[bool],
        negates: Sequence[bool],
    ) -> None:
        self._automaton = AhoCorasick(words)
        self._units = np.array(units, dtype=np.int64)
        self._latin_starts, self._latin_ends = np.array(latin_starts, dtype=bool), np.array(latin_ends, dtype=bool)
        self._negates = np.array(negates, dtype=bool)

    def find(self, text: str, codes: NDArray[np.integer]) -> tuple[Ints, Ints, Ints]:
        """Return the unit of each word that a text has, its start and its end; `codes` are those of the characters."""
        matches = self._automaton.find_matches_as_indexes(text, overlapping=True)
        flat = np.fromiter(chain.from_iterable(matches), np.int64, 3 * len(matches))
        words, starts, ends = flat[::3], flat[1::3], flat[2::3]
        latin = np.zeros(len(codes) + 2, dtype=bool)  # one before the text, and one behind it
        latin[1:-1] = _LATIN[np.minimum(codes, 127)]
        whole = ~((self._latin_starts[words] & latin[starts]) | (self._latin_ends[words] & latin[ends + 1]))
        for at in np.flatnonzero(whole & self._negates[words]).tolist():
            whole[at] = not _is_cut(matches, at)
        units, starts, ends = self._units[words[whole]], starts[whole], ends[whole]
        few = _first_and_last(units)
        return units[few], starts[few], ends[few]


def _first_and_last(units: Ints) -> Ints | slice:
    """Which places of a list to keep, so that of each unit the first and the last `REPEATS` are there."""
    order = np.argsort(units, kind="stable")
    ordered = units[order]
    before, here, behind = ordered[: -2 * REPEATS], ordered[REPEATS:-REPEATS], ordered[2 * REPEATS :]
    between = np.flatnonzero((before == here) & (here == behind))
    return np.sort(np.delete(order, between + REPEATS)) if len(between) else slice(None)


def _is_cut(matches: Sequence[tuple[int, int, int]], at: int) -> bool:
    """Whether a longer word begins within a match and ends after it: 没有呼吸 in 没有呼吸困难. Matches end in order."""
    _, start, end = matches[at]
    for _, other_start, other_end in matches[at + 1 : at + 40]:
        if other_end > end + 8:
            return False
        if start < other_start < end < other_end and other_end - other_start > 2:
            return True
    return False


class Distances:
    """How many words stand between two places of a text, and whether a sentence ends there."""

    def __init__(self, codes: NDArray[np.integer], ends: Sequence[int]) -> None:
        self._ends = np.array(ends, dtype=np.int64)
        self._bytes: Ints | None = None  # of UTF-8 up to each place, more than one for each character
        if codes.dtype != np.uint8:
            more = (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
            self._bytes = np.concatenate(([0], np.cumsum(more)))

    def close(self, begins: Ints, ends: Ints) -> NDArray[np.bool_]:
        """Return where at most `GAP` words stand between, and no end of a sentence; `begins` may be after `ends`."""
        letters = ends - begins
        if self._bytes is None:
            near = letters <= GAP * LETTERS_PER_WORD
        else:
            wide = (self._bytes[ends] - self._bytes[begins]) / 2
            near = wide + np.maximum(0.0, letters - wide) / LETTERS_PER_WORD <= GAP
            near &= letters <= GAP * LETTERS_PER_WORD
        near &= letters >= 0
        if len(self._ends):
            near &= np.searchsorted(self._ends, begins) == np.searchsorted(self._ends, ends)
        return near


@dataclass(frozen=True, slots=True)
class Bases:
    """What was found, in the order of the places: half-open offsets, a number or NaN, and what it is made of, or -1."""

    units: Ints
    starts: Ints
    ends: Ints
    values: NDArray[np.float64]
    lefts: Ints
    rights: Ints

    @classmethod
    def of(cls, units: Ints, starts: Ints, ends: Ints, known: Sequence[tuple[int, int, int, float | None]]) -> Bases:
        """Return words by unit, start and end, behind what is `known` so, with a number if any."""
        values = np.full(len(known) + len(units), np.nan)
        if known:
            given = np.array([one[:3] for one in known], dtype=np.int64).T
            units, starts, ends = (np.concatenate(pair) for pair in zip(given, (units, starts, ends), strict=True))
            values[: len(known)] = [one[3] if one[3] is not None else np.nan for one in known]
        none = np.full(len(units), -1)
        return cls(units, starts, ends, values, none, none)

    def sorted(self) -> tuple[Bases, Ints]:
        """Return them in the order of their places, those of one place as they are; and where each went."""
        order = np.argsort((self.starts << _SHIFT) | self.ends, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        lefts, rights = self.lefts[order], self.rights[order]
        made = lefts >= 0
        if made.any():
            lefts[made], rights[made] = rank[lefts[made]], rank[rights[made]]
        return Bases(self.units[order], self.starts[order], self.ends[order], self.values[order], lefts, rights), rank

    def joined_by(self, other: Bases) -> Bases:
        """Return these and others, whose parts are among these."""
        return Bases(*(np.concatenate((getattr(self, name), getattr(other, name))) for name in Bases.__slots__))


class SlotMentions:
    """The mentions of each slot, as numbers of `bases`."""

    def __init__(self, bases: Bases, slots: Ints, rows: Ints, count: int) -> None:
        keys = np.sort((slots << _SHIFT) | rows)
        self.bases = bases
        self.keys = keys
        self.counts = np.bincount(keys >> _SHIFT, minlength=count)
        self.begins = np.concatenate(([0], np.cumsum(self.counts)))
        self._rows: Ints = keys & _LOW

    def rows(self, slot: int) -> Ints:
        """Return the mentions of a slot in order."""
        return self._rows[self.begins[slot] : self.begins[slot + 1]]

    def at(self, places: Ints) -> Ints:
        """Return the mentions at places of the table."""
        return self._rows[places]

    def first(self, slots: Ints, starts: Ints, side: Literal["left", "right"]) -> Ints:
        """Return for each slot the place in the table of its first mention that begins at a start, or behind it."""
        rank = np.searchsorted(self.bases.starts, starts, side=side)
        return np.searchsorted(self.keys, (slots << _SHIFT) | rank).astype(np.int64, copy=False)


@dataclass(frozen=True, slots=True)
class Term:
    """A term of several parts, as slots; `unit` is that of its concept."""

    unit: int
    parts: tuple[int, ...]
    ordered: bool
    level: int  # 0: no part is made of a term of several parts, 1: one is made of one of level 0, ...


class TermTable:
    """What counts for what, and the terms of several parts. `reached`: the slots that each unit counts for."""

    def __init__(self, reached: Sequence[Iterable[int]], terms: Sequence[Term], slots: int) -> None:
        self.reached, self.terms, self.slots = reached, terms, slots  # as given
        self.nothing = len(reached)  # the unit of what counts for no slot
        reached = [*reached, ()]
        self._reached = Ragged(reached)
        levels = [[term for term in terms if term.level == level] for level in sorted({one.level for one in terms})]
        of_level = [{part for term in level for part in term.parts} for level in levels]
        self._levels = [
            (_Terms(level), Ragged([parts.intersection(one) for one in reached]))
            for level, parts in zip(levels, of_level, strict=True)
        ]

    def find(self, bases: Bases, distances: Distances) -> tuple[SlotMentions, Ints]:
        """Return all mentions, and where each of the bases went."""
        bases, went = bases.sorted()
        for terms, reached in self._levels:
            slots, rows = reached.of(bases.units)
            if len(slots) < 2:
                continue  # no term has all its parts
            made = terms.join(SlotMentions(bases, slots, rows, self.slots), distances, self.nothing)
            if made is not None:
                bases, rank = bases.joined_by(made).sorted()
                went = rank[went]
        slots, rows = self._reached.of(bases.units)
        return SlotMentions(bases, slots, rows, self.slots), went


class _Terms:
    """Terms of one level, by their parts: those with fewer parts than others have their last part twice."""

    def __init__(self, terms: Sequence[Term]) -> None:
        longest = max(len(term.parts) for term in terms)
        self._parts = np.array([(*term.parts, *[term.parts[-1]] * (longest - len(term.parts))) for term in terms])
        self._sizes = np.array([len(term.parts) for term in terms])
        self._units = np.array([term.unit for term in terms])
        self._ordered = np.array([term.ordered for term in terms])

    def join(self, places: SlotMentions, distances: Distances, nothing: int) -> Bases | None:
        """Return each first part with the nearest of every next part, None if there are none.

        What is only the beginning of a term gets the unit `nothing`.
        """
        able = np.flatnonzero((places.counts > 0)[self._parts].all(axis=1))
        if not len(able):
            return None
        bases = places.bases
        source, at = spread(places.begins[self._parts[able, 0]], places.counts[self._parts[able, 0]])
        terms, lefts = able[source], places.at(at)
        starts, ends, values = bases.starts[lefts], bases.ends[lefts], bases.values[lefts]
        made: Bases | None = None
        for step in range(1, self._parts.shape[1]):
            slots = self._parts[terms, step]
            rights = _nearest(places, distances, slots, starts, ends, self._ordered[terms])
            found = np.flatnonzero((rights >= 0) & (self._sizes[terms] > step))
            if not len(found):
                break
            terms, lefts, rights, values = terms[found], lefts[found], rights[found], values[found]
            starts, ends = np.minimum(starts[found], bases.starts[rights]), np.maximum(ends[found], bases.ends[rights])
            values = np.where(np.isnan(bases.values[rights]), values, bases.values[rights])
            units = np.where(self._sizes[terms] == step + 1, self._units[terms], nothing)
            here = Bases(units, starts, ends, values, lefts, rights)
            lefts = len(bases.units) + (len(made.units) if made else 0) + np.arange(len(terms))
            made = made.joined_by(here) if made else here
        return made


def _nearest(
    places: SlotMentions, distances: Distances, slots: Ints, starts: Ints, ends: Ints, ordered: NDArray[np.bool_]
) -> Ints:
    """The nearest mention of each slot that begins where another ends, or later; else the one before, if it may."""
    bases = places.bases
    at = places.first(slots, ends, "left")
    behind = places.at(np.minimum(at, len(places.keys) - 1))
    found = (at < places.begins[slots + 1]) & distances.close(ends, bases.starts[behind])
    nearest = np.where(found, behind, -1)
    rest = np.flatnonzero(~found & ~ordered)
    if len(rest):
        slots, starts = slots[rest], starts[rest]
        at = places.first(slots, starts, "right")[:, None] - np.arange(1, LOOK_BACK + 1)  # (rest, LOOK_BACK)
        before = places.at(np.maximum(at, 0))
        close = (at >= places.begins[slots][:, None]) & distances.close(bases.ends[before], starts[:, None])
        best = close.argmax(axis=1)
        each = np.arange(len(rest))
        nearest[rest] = np.where(close[each, best], before[each, best], -1)
    return nearest
