"""How many sentences of answers the checks find, and how many they mark wrongly; and the weights of their classifier.

    python benchmarks/answer_checks.py data/answers/test.jsonl
    python benchmarks/answer_checks.py data/answers/practice.jsonl --folds 5
    python benchmarks/answer_checks.py data/answers/practice.jsonl --train src/carellama/safety/answers/answers.tsv.gz
    python benchmarks/answer_checks.py data/answers/practice.jsonl --cost

A line of FILE: {"id", "language", "kind", "said", "text"}; `kind` is that of the sentence `text`, or "none"; `said` is
what the person wrote before. `--folds`: each sentence is read with weights that were learned without its part, so that
the classifier has not seen it (the rules were written with sentences of the practice file in view). `--train`
chooses the thresholds in the same way. `--cost` streams answers made of the sentences that claim nothing, with the
layer and without, and prints what it costs: processor time, the least of several rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from carellama.engine.base import OnEvent, Piece, PreparedPrompt, Reply, RequestHandle, Sampling
from carellama.engine.scripted import ScriptedEngine
from carellama.evaluate.table import aligned
from carellama.intervals import wilson
from carellama.records import Message
from carellama.rules import Mentions, normalize
from carellama.safety.answers.checks import AnswerChecks
from carellama.safety.answers.classifier import (
    KINDS,
    AnswerClassifier,
    features,
    fit_answers,
    load_answer_classifier,
    may_be,
)
from carellama.safety.layer import SafetyLayer
from carellama.safety.screened import submit_screened

LEAST, PENALTY = 2, 0.15
ROUNDS = 7
COSTS = (
    (
        "en",
        4,
        " ",
        ("What helps against a cough?", "I am 32 weeks pregnant and take warfarin. What helps against a cough?"),
    ),
    ("zh", 2, "", ("咳嗽怎么办？", "我怀孕32周，在吃华法林，咳嗽怎么办？")),
)
FALSE_ALARMS = {"diagnosis": 0.0035, "dose": 0.010, "stop_medicine": 0.0035, "cure": 0.0035, "claims_doctor": 0.007}


@dataclass(frozen=True)
class Sentence:
    """A sentence of an answer, and what it is."""

    language: str
    kind: str
    said: str
    text: str

    def part(self, folds: int) -> int:
        """The part of a cross-validation that it is in."""
        return int(hashlib.sha256(self.text.encode()).hexdigest(), 16) % folds

    def read(self) -> tuple[str, Mentions]:
        """The text as it is matched, and what it names."""
        plain = normalize(self.text)
        return plain, AnswerChecks(KINDS, self.said, NOTHING).mentions(plain)


NOTHING = AnswerClassifier({}, (-0.5,) * len(KINDS), (0.0,) * len(KINDS))  # rules alone


def read(files: Sequence[Path]) -> list[Sentence]:
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [Sentence(*(row[key] for key in ("language", "kind", "said", "text"))) for row in map(json.loads, lines)]


def learn(sentences: Sequence[Sentence], penalty: float) -> AnswerClassifier:
    kinds = [one.kind for one in sentences]
    return fit_answers([one.read() for one in sentences], kinds, least=LEAST, penalty=penalty)


def cross_validated(sentences: Sequence[Sentence], folds: int, penalty: float) -> list[AnswerClassifier]:
    """Return the classifier of each part: learned from the others."""
    return [learn([one for one in sentences if one.part(folds) != part], penalty) for part in range(folds)]


def thresholds(sentences: Sequence[Sentence], folds: int, made: Sequence[AnswerClassifier]) -> tuple[float, ...]:
    """Return the lowest threshold of each kind that keeps its share of false alarms."""
    scores: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for one in sentences:
        if one.kind == "none":
            plain, mentions = one.read()
            of_one = made[one.part(folds)].scores(features(plain, mentions))
            for kind in KINDS:
                scores[kind].append(of_one[kind] if kind in may_be(plain, mentions) else -99.0)
    limits = []
    for kind in KINDS:
        ordered = sorted(scores[kind], reverse=True)
        limits.append(round(ordered[int(FALSE_ALARMS[kind] * len(ordered))] + 0.02, 3))
    return tuple(max(limit, -1.5) for limit in limits)


def table(sentences: Sequence[Sentence], found: Sequence[set[str]]) -> str:
    rows = [["kind", "language", "sentences", "marked", "share", "95%", "marked as another kind"]]
    for kind in (*KINDS, "none"):
        for language in ("en", "zh", "both"):
            of = [
                got
                for one, got in zip(sentences, found, strict=True)
                if one.kind == kind and language in (one.language, "both")
            ]
            if of:
                hits = sum(bool(got) if kind == "none" else kind in got for got in of)
                low, high = wilson(hits, len(of))
                others = "" if kind == "none" else str(sum(bool(got - {kind}) for got in of))
                rows.append(
                    [kind, language, str(len(of)), str(hits), f"{hits / len(of):.1%}", f"{low:.1%}-{high:.1%}", others]
                )
    return aligned(rows)


def marked(one: Sentence, classifier: AnswerClassifier) -> set[str]:
    return {claim.kind for claim in AnswerChecks(KINDS, one.said, classifier).find(one.text)}


def cost(sentences: Sequence[Sentence]) -> str:
    """Return the processor time of the layer for a piece of an answer (4 Latin letters, 2 Chinese characters)."""
    prompt = PreparedPrompt(messages=(), text="", ids=(), tokens=0)
    layer, rows = SafetyLayer("on"), [["language", "question", "pieces of an answer", "us a piece", "ms an answer"]]
    for language, size, space, questions in COSTS:
        plain = [one.text for one in sentences if (one.language, one.kind) == (language, "none")]
        texts = [space.join(plain[begin : begin + 12]) for begin in range(0, len(plain), 12)]
        answers = [[Piece(text[at : at + size]) for at in range(0, len(text), size)] for text in texts]
        for question in questions:
            screening, spent = layer.screen([Message("user", question)]), {True: 9.0, False: 9.0}
            for on in (True, False) * ROUNDS:
                begin = time.process_time()
                for pieces in answers:
                    engine = _Pieces(pieces)
                    submit = partial(submit_screened, screening, engine) if on else engine.submit
                    submit(prompt, Sampling(), lambda event: None)
                spent[on] = min(spent[on], time.process_time() - begin)
            count, extra = sum(map(len, answers)), spent[True] - spent[False]
            per = [f"{count / len(answers):.0f}", f"{1e6 * extra / count:.1f}", f"{1e3 * extra / len(answers):.2f}"]
            rows.append([language, question, *per])
    return aligned(rows)


class _Pieces(ScriptedEngine):
    """Streams pieces that are made already."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        super().__init__("")
        self.pieces = pieces

    def submit(self, prompt: PreparedPrompt, sampling: Sampling, on_event: OnEvent) -> RequestHandle:
        for piece in self.pieces:
            on_event(piece)
        on_event(Reply("", "stop", 1, len(self.pieces)))
        return self

    def cancel(self) -> None:
        """It is over already."""

    def join(self) -> None:
        """It is over already."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--penalty", type=float, default=PENALTY)
    parser.add_argument("--train", type=Path, help="file of weights to write")
    parser.add_argument("--cost", action="store_true", help="print what the layer costs, and nothing else")
    parser.add_argument("--rules_only", action="store_true")
    parser.add_argument("--misses", action="store_true", help="print what is missed and what is marked wrongly")
    options = parser.parse_args()
    sentences = read(options.files)
    if options.cost:
        print(cost(sentences))
        return
    folds = options.folds or (10 if options.train else 0)
    if folds:
        made = cross_validated(sentences, folds, options.penalty)
        limits = thresholds(sentences, folds, made)
        made = [replace(one, threshold=limits) for one in made]
        readers = [made[one.part(folds)] for one in sentences]
        print("thresholds:", *(f"{kind} {limit:.2f}" for kind, limit in zip(KINDS, limits, strict=True)))
    else:
        readers = [NOTHING if options.rules_only else load_answer_classifier()] * len(sentences)
    marked(sentences[0], readers[0])  # reads the files of rules
    begin = time.perf_counter()
    found = [marked(one, reader) for one, reader in zip(sentences, readers, strict=True)]
    spent = (time.perf_counter() - begin) / len(sentences)
    print(table(sentences, found))
    print(f"{spent * 1000:.2f} ms a sentence")
    if options.misses:
        for one, got in zip(sentences, found, strict=True):
            if got != ({one.kind} - {"none"}):
                print(one.kind, sorted(got), one.text, "|", one.said)
    if options.train:
        replace(learn(sentences, options.penalty), threshold=limits).save(options.train)


if __name__ == "__main__":
    main()
