"""Exam questions in training data: rows that hold a run of words of a question.

    exams = Exams(); exams.add("cmexam", question); exams.done()
    exams.found(["..."])   # per text: None, or Hit(exam, id, kind)

A row is contaminated where it shares 13 words in a row with a question's stem, as in GPT-3 (Brown et al. 2020,
arXiv:2005.14165, appendix C), or so many Chinese characters (`chinese`). A stem that is shorter counts when the row
holds the whole of it, from 8 English words or 12 Chinese characters on; one shorter still only together with the
options that follow it. Options alone never count: many are common phrases. Punctuation, width and case make no
difference.
Runs are 64-bit numbers in a sorted array: 12 bytes a run.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from carellama.records import Question
from carellama.text import HAN_CHARACTER, words

ENGLISH, CHINESE = 13, 20  # words, characters of a run
SHORTEST_ENGLISH, SHORTEST_CHINESE = 8, 12  # of a stem that counts as a whole
BASE = np.uint64(0x5851F42D4C957F2D)

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Hit:
    """The question a text holds: `kind` says of what."""

    exam: str
    id: str
    kind: str


class Exams:
    """The runs of words of all questions of some exams; `chinese` is the length of a Chinese run in characters."""

    def __init__(self, chinese: int = CHINESE) -> None:
        self.chinese = chinese
        self.questions: list[tuple[str, str]] = []  # exam, id
        self._made: dict[int, tuple[array[int], array[int]]] = {}  # length -> keys, questions
        self._index: dict[int, tuple[Keys, npt.NDArray[np.uint32]]] = {}

    def add(self, exam: str, question: Question) -> None:
        """Take a question."""
        number = len(self.questions)
        self.questions.append((exam, question.id))
        stem = words(question.stem)
        length, shortest = self._lengths(stem)
        if len(stem) >= length:
            self._put(length, _runs(_keys(stem), length), number)
        elif len(stem) >= shortest:
            self._put(len(stem), _runs(_keys(stem), len(stem)), number)
        else:
            texts = list(question.options.items())
            for options in (
                " ".join(f"{letter} {text}" for letter, text in texts),
                " ".join(text for _, text in texts),
            ):
                whole = [*stem, *words(options)][:length]
                if stem and len(whole) == length:
                    self._put(length, _runs(_keys(whole), length), number)

    def _lengths(self, stem: Sequence[str]) -> tuple[int, int]:
        chinese = 2 * sum(bool(HAN_CHARACTER.match(word)) for word in stem) > len(stem)
        return (self.chinese, min(SHORTEST_CHINESE, self.chinese)) if chinese else (ENGLISH, SHORTEST_ENGLISH)

    def _put(self, length: int, keys: Keys, number: int) -> None:
        own, questions = self._made.setdefault(length, (array("Q"), array("I")))
        own.frombytes(keys.tobytes())
        questions.extend([number] * len(keys))

    def done(self) -> None:
        """Sort what was taken; to be called before `found`."""
        for length, (made, numbers) in self._made.items():
            keys, first = np.unique(np.frombuffer(made, dtype=np.uint64), return_index=True)
            self._index[length] = keys, np.frombuffer(numbers, dtype=np.uint32)[first]
        self._made = {}

    def found(self, texts: Sequence[str]) -> list[Hit | None]:
        """For each text the question it holds, if any: the first in the text, longest runs first."""
        assert not self._made, "done() comes before found()"
        split = [words(text) for text in texts]
        owner = np.repeat(np.arange(len(texts)), [len(one) for one in split])
        keys = _keys([word for one in split for word in one])
        hits: list[Hit | None] = [None] * len(texts)
        for length in sorted(self._index, reverse=True):
            known, numbers = self._index[length]
            runs = _runs(keys, length)
            if not len(runs):
                continue
            place = np.minimum(np.searchsorted(known, runs), len(known) - 1)
            inside = owner[: len(runs)] == owner[length - 1 :]  # not from one text into the next
            for at in np.flatnonzero((known[place] == runs) & inside):
                if hits[owner[at]] is None:
                    exam, name = self.questions[numbers[place[at]]]
                    hits[owner[at]] = Hit(exam, name, f"{length} words or characters in a row")
        return hits


@lru_cache(maxsize=1 << 17)
def _key(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _keys(items: Sequence[str]) -> Keys:
    return np.fromiter(map(_key, items), dtype=np.uint64, count=len(items))


def _runs(keys: Keys, length: int) -> Keys:
    """The hash of each run of `length` words, shape (words - length + 1,): a polynomial modulo 2^64."""
    count = len(keys) - length + 1
    if count < 1:
        return np.zeros(0, dtype=np.uint64)
    found = np.zeros(count, dtype=np.uint64)
    for at in range(length):
        found = found * BASE + keys[at : at + count]
    return found
