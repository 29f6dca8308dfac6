"""How many exam questions are still found in training data when some of their characters or words were edited.

    python benchmarks/edited_questions.py apollo_cmexam_test.jsonl apollo_medqa-usmle_test.jsonl

Each stem is edited at random (6 in 10 replaced, 2 added, 2 left out) and followed by an option, as in a row of
training data. Found by a shared run of words, or as nearly the whole question. `--rows FILES` also looks the questions
up in real training data and counts what is found there.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterable, Iterator

from carellama.config.data import DataOptions
from carellama.config.data_commands import ConvertOptions
from carellama.data.catalogue.convert import planned
from carellama.data.clean.contamination import Exams, Hit
from carellama.data.convert import BadRecord, texts_of
from carellama.data.datasets import load_datasets
from carellama.data.report import DataReport
from carellama.records import Question
from carellama.text import language

OTHERS = {"zh": list("的是有无性热痛咳血肺心肝肾胃药症"), "en": ["other"]}
LENGTHS = {"zh": (20, 30, 60, 100_000), "en": (13, 25, 100_000)}  # characters, words


def edited(stem: str, spoken: str, share: float, numbers: random.Random) -> str:
    """The stem with this share of its characters or words edited, at least one."""
    items = list(stem) if spoken == "zh" else stem.split(" ")
    for _ in range(max(1, round(share * len(items)))):
        at, other = numbers.randrange(len(items)), numbers.choice(OTHERS[spoken])
        how = numbers.random()
        if how < 0.6:
            items[at] = other
        elif how < 0.8:
            items.insert(at, other)
        else:
            del items[at]
    return ("" if spoken == "zh" else " ").join(items)


def texts(files: Iterable[str]) -> Iterator[str]:
    """All records of some files but exam questions, each as one text."""
    for file in files:
        (dataset,) = load_datasets([file], DataOptions())
        for row in dataset.rows():
            try:
                record = dataset.record(row)
            except BadRecord:
                continue
            if not isinstance(record, Question):
                yield "\n".join(texts_of(record))


def counts(hits: Iterable[Hit | None]) -> tuple[int, int]:
    """How many were found by a run of words, and how many as nearly the whole question."""
    found = [hit for hit in hits if hit is not None]
    near = sum(hit.similarity is not None for hit in found)
    return len(found) - near, near


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exams", nargs="+", help="files or names of exams")
    parser.add_argument("--rows", nargs="*", default=[], help="files of training data")
    parser.add_argument("--most", type=int, default=500, help="questions of a length that are edited")
    options = parser.parse_args()
    exams, questions = Exams(), []
    for name in options.exams:
        for record in planned(ConvertOptions(name=name)).records(DataReport()):
            if isinstance(record, Question):
                exams.add(name, record)
                questions.append(record)
    exams.done()
    print(f"{len(questions)} questions")
    numbers = random.Random(0)
    for spoken, lengths in LENGTHS.items():
        for low, high in itertools.pairwise(lengths):
            own = [one for one in questions if language(one.stem) == spoken and low <= _length(one.stem, spoken) < high]
            own = numbers.sample(own, min(options.most, len(own)))
            for share in (0.02, 0.04, 0.06, 0.08) if own else ():
                rows = [
                    f"{edited(one.stem, spoken, share, numbers)}\n{numbers.choice(list(one.options.values()))}"
                    for one in own
                ]
                run, near = (100 * count / len(own) for count in counts(exams.found(rows)))
                print(
                    f"{spoken} {low} to {high - 1}, n {len(own)}, {share:.0%} edited: {run:.1f}% run, {near:.1f}% near"
                )
    given = list(texts(options.rows))
    found = [hit for at in range(0, len(given), 512) for hit in exams.found(given[at : at + 512])]
    run, near = counts(found)
    print(f"{len(given)} rows of training data: {run} hold a run of a question, {near} nearly a whole one")


def _length(stem: str, spoken: str) -> int:
    return len(stem) if spoken == "zh" else len(stem.split(" "))


if __name__ == "__main__":
    main()
