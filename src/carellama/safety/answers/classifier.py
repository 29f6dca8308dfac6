"""What is read beside the rules of answers: a linear classifier for each kind, over words and what they name.

    classifier = load_answer_classifier()
    classifier.margins(features(plain, mentions))     # {"diagnosis": 1.2, ...}: from 0 on it is that kind

A disease, medicine or amount (`safety.answers.terms`) counts as one word, whichever it is, so that
"you have <disease>" is learned from a few texts. Features are sequences of one to three words or Chinese characters,
words with a named thing near them, and pairs of concepts of `answer_rules.yaml` in their order. Weights are a readable
table, `answers.tsv.gz`: a feature and a weight of each kind a line. `benchmarks/answer_checks.py --train` makes it. It
gives no reason, and names no rule.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from carellama.engine.base import AnswerKind
from carellama.errors import UserError
from carellama.rules import Mentions
from carellama.safety.classifier.classifier import BIAS, THRESHOLD, Classifier, fit, table_lines, write_table

WEIGHTS = "answers/answers.tsv.gz"
KINDS: tuple[AnswerKind, ...] = ("diagnosis", "dose", "stop_medicine", "cure", "claims_doctor")
# In the order of their marks: where two things named overlap, the first of the list is taken.
MARKS = {
    "dose": "<a>",
    "stated_dose": "<b>",
    "disease": "<d>",
    "stated_disease": "<s>",
    "medicine": "<m>",
    "frequency": "<f>",
}
NEAR = 8  # words between a named thing and a word that is a pair with it
ENOUGH = 40  # features of a sentence, below which it counts as if it had so many
_TOKEN = re.compile(r"<[a-z]>|[㐀-鿿]|[a-z]+(?:'[a-z]+)?|\d+(?:\.\d+)?%?|[?!:|#\[]")


class Gate(NamedTuple):
    """What a sentence must name to be of a kind at all (one of each), and what it must not."""

    needs: tuple[tuple[str, ...], ...]
    unless: tuple[str, ...]


# Concepts of `answer_rules.yaml`, and terms. A sentence that does not pass is not judged by the classifier.
GATES: Mapping[AnswerKind, Gate] = {
    "diagnosis": Gate((("disease",),), ("unsure",)),
    "dose": Gate((("dose", "frequency"), ("dose", "medicine")), ("cited", "not_taken")),
    "stop_medicine": Gate((("medicine",),), ("asks_first", "keeps_on")),
    "cure": Gate((), ("cure_denied",)),
    "claims_doctor": Gate((("speaker",),), ("not_i",)),
}


def features(plain: str, mentions: Mentions) -> set[str]:
    """Return the features of a sentence, a text of `normalize`; `mentions` are those of its rules and of its terms."""
    words = ["^", *_TOKEN.findall(_masked(plain, mentions)), "$"]
    words = ["<n>" if word[0].isdigit() and not word.endswith("%") else word for word in words]
    found = {*words, *map("_".join, pairwise(words)), *map("_".join, zip(words, words[1:], words[2:], strict=False))}
    found.update(f"{word[:5]}*" for word in words if len(word) > 5)
    for at, word in enumerate(words):
        if word[0] == "<":
            found.update(f"{before}..{word}" for before in words[max(0, at - NEAR) : at])
            found.update(f"{word}..{after}" for after in words[at + 1 : at + 1 + NEAR])
    found.update(_pairs(mentions))
    return found


def _pairs(mentions: Mentions) -> Iterator[str]:
    """The concepts of a sentence, and each two of them in the order in which they are first said."""
    first = sorted((ones[0].start, name) for name, ones in mentions.items() if ones and name[0] != "_")
    names = [name for _, name in first]
    yield from (f"{{{name}}}" for name in names)
    yield from (f"{{{one}>{other}}}" for at, one in enumerate(names) for other in names[at + 1 :])


def _masked(plain: str, mentions: Mentions) -> str:
    """The text with a mark for each thing that it names."""
    named = [
        (one.start, rank, -one.end, mark)
        for rank, (name, mark) in enumerate(MARKS.items())
        for one in mentions.get(name, ())
    ]
    parts, at = [], 0
    for start, _, end, mark in sorted(named):
        if start >= at:
            parts += [plain[at:start], mark]
            at = -end
        elif -end > at:
            at = -end
    return "".join((*parts, plain[at:]))


def is_question(plain: str) -> bool:
    """Return whether a text of `normalize` ends in a question mark."""
    return plain.rstrip(" \n\"'”’」』)*_").endswith("?")


def may_be(plain: str, mentions: Mentions, *, strict: bool = True) -> set[AnswerKind]:
    """Return the kinds that a sentence can be at all; a question claims nothing.

    `strict`: with what the gates do not let pass. A dose that the person stated is none, nor how often it is taken.
    """
    if is_question(plain):
        return set()
    open_to: set[AnswerKind] = {
        kind
        for kind, (needs, unless) in GATES.items()
        if all(any(name in mentions for name in names) for names in needs)
        and not (strict and any(name in mentions for name in unless))
    }
    if "stated_dose" in mentions and "dose" not in mentions:
        open_to.discard("dose")
    return open_to


@dataclass(frozen=True)
class AnswerClassifier:
    """Weights of features by kind, in the order of `KINDS`; the score of a kind is a log-odds."""

    weights: Mapping[str, tuple[float, ...]]
    bias: tuple[float, ...]
    threshold: tuple[float, ...]

    def scores(self, found: Collection[str], kinds: Collection[AnswerKind] = KINDS) -> dict[AnswerKind, float]:
        """Return the log-odds of each of these kinds."""
        known = [weights for weights in map(self.weights.get, found) if weights is not None]
        length = math.sqrt(max(len(known), ENOUGH))
        return {
            kind: bias + sum(weights[at] for weights in known) / length
            for at, (kind, bias) in enumerate(zip(KINDS, self.bias, strict=True))
            if kind in kinds
        }

    def margins(self, found: Collection[str], kinds: Collection[AnswerKind] = KINDS) -> dict[AnswerKind, float]:
        """Return by how much the score of each of these kinds is above its threshold."""
        scores = self.scores(found, kinds)
        return {kind: scores[kind] - limit for kind, limit in zip(KINDS, self.threshold, strict=True) if kind in scores}

    def save(self, path: Path) -> None:
        """Write the table, sorted by feature."""
        rows = [(BIAS, self.bias), (THRESHOLD, self.threshold), *sorted(self.weights.items())]
        write_table(path, ["\t".join((name, *(f"{value:.3f}" for value in values))) for name, values in rows])


def read_answer_classifier(data: bytes, name: str) -> AnswerClassifier:
    """Read a table of weights. Raises `UserError` with the line that is none."""
    weights: dict[str, tuple[float, ...]] = {}
    for number, line in enumerate(table_lines(data, name, "benchmarks/answer_checks.py --train"), 1):
        feature, *values = line.split("\t")
        try:
            weights[feature] = tuple(map(float, values))
        except ValueError:
            values = []
        if len(values) != len(KINDS):
            raise UserError(
                f"{name}, line {number}: a feature and {len(KINDS)} numbers are expected, with tabs between"
            )
    if not weights.keys() >= {BIAS, THRESHOLD}:
        raise UserError(f"{name} has no lines {BIAS} and {THRESHOLD}; benchmarks/answer_checks.py --train writes them")
    bias, threshold = weights.pop(BIAS), weights.pop(THRESHOLD)
    return AnswerClassifier(weights, bias, threshold)


@cache
def load_answer_classifier() -> AnswerClassifier:
    """Return the classifier that CareLlama ships. Raises `UserError`."""
    return read_answer_classifier(resources.files("carellama.safety").joinpath(WEIGHTS).read_bytes(), WEIGHTS)


def fit_answers(
    sentences: Sequence[tuple[str, Mentions]], kinds: Sequence[str], *, least: int, penalty: float
) -> AnswerClassifier:
    """Return the classifier of sentences and their kinds, with all thresholds at even odds.

    A kind is learned from the sentences that pass its gate. `least`: of them, how many a feature must be in. `penalty`:
    of the squared weights, over their number.
    """
    found = [[(0, name) for name in features(plain, mentions)] for plain, mentions in sentences]
    open_to = [may_be(plain, mentions, strict=False) for plain, mentions in sentences]
    made: list[Classifier] = []
    for kind in KINDS:
        rows = [row for row, passed in enumerate(open_to) if kind in passed]
        if not any(kinds[row] == kind for row in rows):
            raise UserError(f"no sentence of the kind {kind} passes its gate; the classifier cannot learn it")
        signs, labels = [found[row] for row in rows], [kinds[row] == kind for row in rows]
        made.append(fit([""] * len(rows), labels, signs, least=least, penalty=penalty))
    names = sorted({name for one in made for name in one.weights})
    weights = {name: tuple(one.weights.get(name, 0.0) for one in made) for name in names}
    return AnswerClassifier(weights, tuple(one.bias for one in made), (0.0,) * len(KINDS))
