"""Exam questions that were slightly edited: which of them a text holds nearly whole.

    near = NearQuestions(similarity=0.75); near.add(0, [stem_words, option_words], 11); near.done()
    near.found(keys, owner)   # {text: (number of the question, share of its runs)}

What is measured is containment (Broder 1997, "On the resemblance and containment of documents"): the share of the
question's runs of three words (Chinese: characters) that stand close together in the text. The resemblance that
MinHash estimates would not do: a conversation is much longer than the question in it, and shares little of its whole.
A question is its stem; one whose stem is short is its stem and options, whose order does not matter, and half of the
stem has to be there.

1. Runs of five words of all questions lie in a sorted array; those that more than `COMMON` questions have are left out.
   A replaced word takes three runs of three and five of five, so at the containment c a question keeps at least about
   1 - 5/3 (1 - c) of its runs of five. Those that have so many in the text (with some slack) are compared.
2. Compared means: its runs of three words are counted where they are densest in the text, in a stretch half as long
   again as the question, so that a long text that has them here and there is not taken for one that holds it.

Single letters from a to h do not count as words: they name options. It takes about 12 bytes a word of the questions.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from carellama.data.clean.runs import BASE, Keys, keys_of, places, runs_of
from carellama.text import ngrams

SHINGLE, ANCHOR = 3, 5  # words of the runs that are counted, and of those by which candidates are found
COMMON = 100  # questions that may share a run by which candidates are found
SLACK = 0.7  # of the five-word runs that are left at the least by even replacements
STRETCH = 1.5  # of a question's length in the text
STEM = 0.5  # of the stem's runs where a question is its stem and options
LETTERS = frozenset("abcdefgh")
CHUNK = 10_000  # questions whose runs are made at once
UPPER = np.uint64(0xFFFFFFFF00000000)
END = 0  # stands between stem and options and behind a question

Numbers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]


class NearQuestions:
    """The words of many questions; `similarity` is the containment from which a text holds one."""

    def __init__(self, similarity: float = 0.75) -> None:
        self.similarity = similarity
        self._made = array("I")  # words in 32 bits
        self._begins = array("Q", [0])
        self._stems = array("I")  # words of the stem where options belong to the question, else 0
        self._numbers = array("I")  # of the questions, as the caller counts them
        self._anchors = np.zeros(0, np.uint32)  # runs by which candidates are found, sorted; whose they are
        self._owners = np.zeros(0, np.uint32)

    def add(self, number: int, parts: Sequence[Sequence[str]], fewest: int) -> bool:
        """Take a question, the words of its stem and of each option that belongs to it, unless it is too short.

        It is too short with less than `fewest` different runs of three words. Whether it was taken.
        """
        parts = [[word for word in part if word not in LETTERS] for part in parts]
        runs = {run for part in parts for run in ngrams(part, SHINGLE)}
        if len(runs) < fewest or len(parts[0]) < SHINGLE:
            return False
        for part in parts:
            self._made.frombytes(_short(keys_of(part)).tobytes())
            self._made.append(END)
        self._begins.append(len(self._made))
        self._stems.append(len(parts[0]) if len(parts) > 1 else 0)
        self._numbers.append(number)
        return True

    def done(self) -> None:
        """Sort what was taken; to be called before `found`."""
        self._words = np.frombuffer(self._made, dtype=np.uint32)
        self._bounds = np.frombuffer(self._begins, dtype=np.uint64).astype(np.int64)
        count = len(self._numbers)
        pairs = np.zeros(len(self._words), dtype=np.uint64)  # a run in the upper half, its question in the lower
        filled = 0
        for first in range(0, count, CHUNK):
            last = min(first + CHUNK, count)
            words = self._words[self._bounds[first] : self._bounds[last]]
            runs, whole = _runs(words, ANCHOR)
            whose = np.repeat(np.arange(first, last, dtype=np.uint64), np.diff(self._bounds[first : last + 1]))
            runs = (runs[whole] & UPPER) | whose[: len(runs)][whole]
            pairs[filled : filled + len(runs)] = runs
            filled += len(runs)
        pairs = pairs[:filled]
        pairs.sort()
        owners, pairs = pairs.astype(np.uint32), np.right_shift(pairs, np.uint64(32), out=pairs)
        anchors = pairs.astype(np.uint32)
        del pairs
        common = np.unique(anchors[COMMON:][anchors[COMMON:] == anchors[:-COMMON]])
        rare = np.ones(len(anchors), dtype=np.bool_)
        for begin, end in zip(*(np.searchsorted(anchors, common, side) for side in ("left", "right")), strict=True):
            rare[begin:end] = False
        self._anchors, self._owners = anchors[rare], owners[rare]
        left = np.bincount(self._owners, minlength=count)
        share = SLACK * max(0.1, 1 - ANCHOR / SHINGLE * (1 - self.similarity))
        self._needed = np.maximum(1, np.ceil(share * left)).astype(np.int64)

    def found(self, keys: Keys, owner: Numbers) -> dict[int, tuple[int, float]]:
        """For each text that holds a question: the question and how much of it; the one most of which is there.

        `keys` are the words of all texts, `owner` the number of the text of each, both of shape (words,).
        """
        if not len(self._anchors):
            return {}
        kept = ~np.isin(keys, keys_of(sorted(LETTERS)))
        words, owner = _short(keys[kept]), owner[kept]
        best: dict[int, tuple[int, float]] = {}
        for text, question in self._candidates(words, owner):
            begin, end = np.searchsorted(owner, [text, text + 1])
            share = self._contained(question, runs_of(_wide(words[begin:end]), SHINGLE))
            if share >= self.similarity and share > best.get(text, (0, 0.0))[1]:
                best[text] = int(self._numbers[question]), share
        return best

    def _candidates(self, words: Words, owner: Numbers) -> list[tuple[int, int]]:
        """Pairs of a text and a question that have enough runs in common."""
        anchors = _short(runs_of(_wide(words), ANCHOR))
        inside = owner[: len(anchors)] == owner[ANCHOR - 1 :]
        anchors, texts = anchors[inside], owner[: len(inside)][inside]
        first = places(self._anchors, anchors)
        there = self._anchors[np.minimum(first, len(self._anchors) - 1)] == anchors
        anchors, texts, first = anchors[there], texts[there], first[there]
        times = np.searchsorted(self._anchors, anchors, side="right") - first
        within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        questions = self._owners[np.repeat(first, times) + within].astype(np.int64)
        pairs, shared = np.unique(np.repeat(texts, times) * len(self._numbers) + questions, return_counts=True)
        pairs = pairs[shared >= self._needed[pairs % len(self._numbers)]]
        return [divmod(int(pair), len(self._numbers)) for pair in pairs]

    def _contained(self, question: int, text: Keys) -> float:
        """The share of a question's runs that a stretch of a text holds."""
        own = self._words[self._bounds[question] : self._bounds[question + 1]]
        runs, whole = _runs(own, SHINGLE)
        known = np.unique(runs[whole])
        there = np.flatnonzero(np.isin(text, known))
        if not len(there):
            return 0.0
        ends = np.searchsorted(there, there + int(STRETCH * len(own)))
        begin = int(np.argmax(ends - np.arange(len(there))))
        held = np.unique(text[there[begin : ends[begin]]])
        if stem := self._stems[question]:
            asked = np.unique(runs[: stem - SHINGLE + 1])
            if np.isin(asked, held).mean() < STEM:
                return 0.0
        return len(held) / len(known)


def _short(keys: Keys) -> Words:
    """The upper half of each number."""
    return (keys >> np.uint64(32)).astype(np.uint32)


def _wide(words: Words) -> Keys:
    """The words again in all bits of a number."""
    return words.astype(np.uint64) * BASE


def _runs(words: Words, length: int) -> tuple[Keys, npt.NDArray[np.bool_]]:
    """The runs of many parts, and which of them go over no `END`."""
    runs = runs_of(_wide(words), length)
    ends = np.concatenate(([0], np.cumsum(words == END)))
    return runs, ends[length : length + len(runs)] == ends[: len(runs)]
