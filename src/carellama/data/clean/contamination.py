"""Exam questions in training data: rows that hold a run of words of a question, or nearly all of it.

    exams = Exams(); exams.add("cmexam", question); exams.done()
    exams.found(["..."])   # per text: None, or Hit(exam, id, kind, similarity)

A row is contaminated where it shares 13 words in a row with a question's stem, as in GPT-3 (Brown et al. 2020,
arXiv:2005.14165, appendix C), or so many Chinese characters (`chinese`). A stem that is shorter counts when the row
holds the whole of it, from 8 English words or 12 Chinese characters on; one shorter still only together with the
options that follow it. Options alone never count: many are common phrases. Punctuation, width and case make no
difference.
A row that holds no such run but nearly all of a question, as `near_questions` measures it, counts too; not for stems
of fewer than 13 words or 20 characters, where a word more or less makes another question, unless the options follow.
Runs are 64-bit numbers in a sorted array: 12 bytes a run.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from carellama.data.clean.near_questions import SHINGLE, NearQuestions
from carellama.data.clean.runs import Keys, keys_of, places, runs_of
from carellama.records import Question
from carellama.text import is_chinese, words

ENGLISH, CHINESE = 13, 20  # words, characters of a run
SHORTEST_ENGLISH, SHORTEST_CHINESE = 8, 12  # of a stem that counts as a whole


@dataclass(frozen=True, slots=True)
class Hit:
    """The question a text holds: `kind` says what of it, `similarity` how much where it is not word for word."""

    exam: str
    id: str
    kind: str
    similarity: float | None = None


class Exams:
    """The questions of some exams. `chinese`: characters of a Chinese run; `similarity` 0: no near duplicates."""

    def __init__(self, chinese: int = CHINESE, similarity: float = 0.75) -> None:
        self.chinese = chinese
        self._near = NearQuestions(similarity) if similarity else None
        self.questions: list[tuple[str, str]] = []  # exam, id
        self._made: dict[int, tuple[array[int], array[int]]] = {}  # length -> keys, questions
        self._index: dict[int, tuple[Keys, npt.NDArray[np.uint32]]] = {}

    def add(self, exam: str, question: Question) -> None:
        """Take a question."""
        number = len(self.questions)
        self.questions.append((exam, question.id))
        stem = words(question.stem)
        if self._near is not None:
            fewest = (CHINESE if is_chinese(stem) else ENGLISH) - SHINGLE + 1
            if not self._near.add(number, [stem], fewest):
                self._near.add(number, [stem, *map(words, question.options.values())], fewest)
        length, shortest = self._lengths(stem)
        if len(stem) >= length:
            self._put(length, runs_of(keys_of(stem), length), number)
        elif len(stem) >= shortest:
            self._put(len(stem), runs_of(keys_of(stem), len(stem)), number)
        else:
            texts = list(question.options.items())
            for options in (
                " ".join(f"{letter} {text}" for letter, text in texts),
                " ".join(text for _, text in texts),
            ):
                whole = [*stem, *words(options)][:length]
                if stem and len(whole) == length:
                    self._put(length, runs_of(keys_of(whole), length), number)

    def _lengths(self, stem: Sequence[str]) -> tuple[int, int]:
        if is_chinese(stem):
            return self.chinese, min(SHORTEST_CHINESE, self.chinese)
        return ENGLISH, SHORTEST_ENGLISH

    def _put(self, length: int, keys: Keys, number: int) -> None:
        own, questions = self._made.setdefault(length, (array("Q"), array("I")))
        own.frombytes(keys.tobytes())
        questions.extend([number] * len(keys))

    def done(self) -> None:
        """Sort what was taken; to be called before `found`."""
        for length in list(self._made):
            made, numbers = self._made.pop(length)
            keys, first = np.unique(np.frombuffer(made, dtype=np.uint64), return_index=True)
            self._index[length] = keys, np.frombuffer(numbers, dtype=np.uint32)[first]
            del made, numbers, keys, first  # before the next is sorted
        if self._near is not None:
            self._near.done()

    def found(self, texts: Sequence[str]) -> list[Hit | None]:
        """For each text the question it holds, if any: the first in the text, longest runs first, then the nearest."""
        assert not self._made, "done() comes before found()"
        split = [words(text) for text in texts]
        owner = np.repeat(np.arange(len(texts)), np.array([len(one) for one in split], dtype=np.int64))
        keys = keys_of([word for one in split for word in one])
        hits: list[Hit | None] = [None] * len(texts)
        for length in sorted(self._index, reverse=True):
            known, numbers = self._index[length]
            runs = runs_of(keys, length)
            if not len(runs):
                continue
            place = np.minimum(places(known, runs), len(known) - 1)
            inside = owner[: len(runs)] == owner[length - 1 :]  # not from one text into the next
            for at in np.flatnonzero((known[place] == runs) & inside):
                if hits[owner[at]] is None:
                    exam, name = self.questions[numbers[place[at]]]
                    hits[owner[at]] = Hit(exam, name, f"{length} words or characters in a row")
        if self._near is not None:
            left = np.array([hit is None for hit in hits], dtype=np.bool_)[owner]
            for text, (number, share) in self._near.found(keys[left], owner[left]).items():
                hits[text] = Hit(*self.questions[number], "nearly the whole question", round(share, 3))
        return hits
