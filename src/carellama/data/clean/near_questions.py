"""Exam questions that were slightly edited: which of them a text holds nearly whole.

    near = NearQuestions(similarity=0.75); near.add(0, [stem_words, option_words], 11); near.done()
    near.found(keys, owner)   # {text: (number of the question, share of its runs)}

What is measured is containment (Broder 1997, "On the resemblance and containment of documents"): the share of the
question's runs of three words (Chinese: characters) that stand close together in the text. The resemblance that
MinHash estimates would not do: a conversation is much longer than the question in it, and shares little of its whole.
A question is its stem; one whose stem is short is its stem and options, whose order does not matter, and half of the
stem has to be there.

1. Runs of five words of all questions lie in a sorted array. At a containment of 0.7 or more a tenth of the words at
   the most were replaced, so a share of these runs is left. Runs that more than `COMMON` questions have say nothing.
2. A question of which a quarter of these runs is in the text is compared: its runs of three words are counted where
   they are densest, in a stretch half as long again as the question, so that a long text that has them here and there
   is not taken for one that holds the question.

Single letters from a to h do not count as words: they name options. It takes about 16 bytes a word of the questions.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from carellama.data.clean.runs import Keys, keys_of, runs_of
from carellama.text import ngrams

SHINGLE, ANCHOR = 3, 5  # words of the runs that are counted, and of those by which candidates are found
COMMON = 100  # questions that may share a run by which candidates are found
CANDIDATE = 0.25  # of a question's such runs
STRETCH = 1.5  # of a question's length in the text
STEM = 0.5  # of the stem's runs where a question is its stem and options
LETTERS = frozenset("abcdefgh")
END = np.uint64(0)  # stands between stem and options and behind a question

Numbers = npt.NDArray[np.int64]


class NearQuestions:
    """The words of many questions; `similarity` is the containment from which a text holds one."""

    def __init__(self, similarity: float = 0.75) -> None:
        self.similarity = similarity
        self._made = array("Q")
        self._begins = array("Q", [0])
        self._stems = array("H")  # words of the stem where options belong to the question, else 0
        self._numbers = array("I")  # of the questions, as the caller counts them
        self._anchors = np.zeros(0, np.uint64)  # runs by which candidates are found, sorted; whose they are
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
            self._made.frombytes(keys_of(part).tobytes())
            self._made.append(int(END))
        self._begins.append(len(self._made))
        self._stems.append(len(parts[0]) if len(parts) > 1 else 0)
        self._numbers.append(number)
        return True

    def done(self) -> None:
        """Sort what was taken; to be called before `found`."""
        self._words = np.frombuffer(self._made, dtype=np.uint64)
        self._bounds = np.frombuffer(self._begins, dtype=np.uint64).astype(np.int64)
        count = len(self._numbers)
        anchors, whole = _runs(self._words, ANCHOR)
        owners = np.repeat(np.arange(count, dtype=np.uint32), np.diff(self._bounds))[: len(anchors)][whole]
        anchors = anchors[whole]
        order = np.argsort(anchors, kind="stable")
        anchors, owners = anchors[order], owners[order]
        first = np.flatnonzero(np.concatenate(([True], anchors[1:] != anchors[:-1])))[: len(anchors)]
        times = np.diff(np.append(first, len(anchors)))
        rare = np.repeat(times <= COMMON, times)
        self._anchors, self._owners = anchors[rare], owners[rare]
        left = np.bincount(self._owners, minlength=count)
        self._needed = np.maximum(1, np.ceil(CANDIDATE * left)).astype(np.int64)

    def found(self, keys: Keys, owner: Numbers) -> dict[int, tuple[int, float]]:
        """For each text that holds a question: the question and how much of it; the one most of which is there.

        `keys` are the words of all texts, `owner` the number of the text of each, both of shape (words,).
        """
        if not len(self._anchors):
            return {}
        kept = ~np.isin(keys, keys_of(sorted(LETTERS)))
        keys, owner = keys[kept], owner[kept]
        best: dict[int, tuple[int, float]] = {}
        for text, question in self._candidates(keys, owner):
            begin, end = np.searchsorted(owner, [text, text + 1])
            share = self._contained(question, runs_of(keys[begin:end], SHINGLE))
            if share >= self.similarity and share > best.get(text, (0, 0.0))[1]:
                best[text] = int(self._numbers[question]), share
        return best

    def _candidates(self, keys: Keys, owner: Numbers) -> list[tuple[int, int]]:
        """Pairs of a text and a question that have enough runs in common."""
        anchors = runs_of(keys, ANCHOR)
        inside = owner[: len(anchors)] == owner[ANCHOR - 1 :]
        anchors, texts = anchors[inside], owner[: len(inside)][inside]
        first = np.searchsorted(self._anchors, anchors)
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
        places = np.flatnonzero(np.isin(text, known))
        if not len(places):
            return 0.0
        ends = np.searchsorted(places, places + int(STRETCH * len(own)))
        begin = int(np.argmax(ends - np.arange(len(places))))
        held = np.unique(text[places[begin : ends[begin]]])
        if stem := self._stems[question]:
            asked = np.unique(runs[: stem - SHINGLE + 1])
            if np.isin(asked, held).mean() < STEM:
                return 0.0
        return len(held) / len(known)


def _runs(keys: Keys, length: int) -> tuple[Keys, npt.NDArray[np.bool_]]:
    """The runs of many parts, and which of them go over no `END`."""
    runs = runs_of(keys, length)
    ends = np.concatenate(([0], np.cumsum(keys == END)))
    return runs, ends[length : length + len(runs)] == ends[: len(runs)]
