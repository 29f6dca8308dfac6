"""How many of the labelled identifiers are found, and how many of the found ones are right; and at what rate.

    python benchmarks/identifiers.py

The sentences are `tests/identifiers_zh.jsonl` and `tests/identifiers_en.jsonl`. A labelled identifier counts as found
when each of its characters (spaces aside) lies in something found, of whatever kind; what is found counts as right when
it overlaps a labelled one. Half of the sentences hold no identifier, only what looks like one. `--show` prints the
misses, `--part later` or `--part "round 3"` takes those written after the patterns.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from carellama.privacy.deidentify import Deidentifier
from carellama.privacy.detect import find_identifiers
from carellama.privacy.kinds import KINDS, Identifier

SETS = Path(__file__).resolve().parent.parent / "tests"
PLAIN = {
    "zh": "患者近一周反复咳嗽，夜间明显，无发热，食欲尚可，睡眠一般。既往有高血压病史，规律服药，血压控制良好。" * 4,
    "en": "The cough has been worse at night for a week, without fever; appetite is fair and sleep is poor. " * 2,
}
FULL = {
    "zh": "患者王小明，男，电话138-0000-1234，家住北京市朝阳区建国路88号，住院号ZY20345，生于1985年3月2日。"
    + "近一周反复咳嗽，夜间明显，无发热，食欲尚可。" * 7,
    "en": "Patient: Jane Doe, DOB 3/2/1985, MRN 00123456, phone (617) 555-0143, 12 Oak Street, Springfield. "
    + "The cough has been worse at night for a week, without fever. " * 2,
}


@dataclass
class Counts:
    """Of one kind or of all."""

    labelled: int = 0
    recalled: int = 0
    same_kind: int = 0
    found: int = 0
    right: int = 0

    @property
    def recall(self) -> float:
        """Share of the labelled identifiers that were found whole."""
        return self.recalled / self.labelled if self.labelled else 1.0

    @property
    def precision(self) -> float:
        """Share of the found ones that overlap a labelled one."""
        return self.right / self.found if self.found else 1.0


@dataclass
class Score:
    """The counts of a set of sentences, and its misses in words."""

    total: Counts = field(default_factory=Counts)
    kinds: dict[str, Counts] = field(default_factory=lambda: {kind: Counts() for kind in KINDS})
    misses: list[str] = field(default_factory=list)

    def add(self, row: dict) -> None:
        """Look for the identifiers of a labelled sentence and count."""
        text, found = row["text"], find_identifiers(row["text"])
        labelled = list(labels(row))
        covered = {index for one in found for index in range(one.start, one.end)}
        for label in labelled:
            whole = all(index in covered or text[index].isspace() for index in range(label.start, label.end))
            same = whole and any(one.kind == label.kind and overlap(one, label) for one in found)
            for counts in (self.total, self.kinds[label.kind]):
                counts.labelled += 1
                counts.recalled += whole
                counts.same_kind += same
            if not whole:
                self.misses.append(f"missed {label.kind} {label.text!r} in {text!r}")
            elif not same:
                self.misses.append(f"other kind than {label.kind} for {label.text!r} in {text!r}")
        for one in found:
            right = any(overlap(one, label) for label in labelled)
            for counts in (self.total, self.kinds[one.kind]):
                counts.found += 1
                counts.right += right
            if not right:
                self.misses.append(f"wrong {one.kind} {one.text!r} in {text!r}")


def labels(row: dict) -> list[Identifier]:
    """The labelled identifiers of a sentence, at their places: each is looked for behind the one before."""
    made, at = [], 0
    for span in row["spans"]:
        start = row["text"].index(span["text"], at)
        at = start + len(span["text"])
        made.append(Identifier(span["kind"], start, at, span["text"]))
    return made


def overlap(one: Identifier, other: Identifier) -> bool:
    """Whether they have a character in common."""
    return one.start < other.end and other.start < one.end


def rows(language: str, part: str = "") -> list[dict]:
    """The labelled sentences of a language, of one part or both."""
    lines = (SETS / f"identifiers_{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["part"] == part or not part]


def score(language: str, part: str = "") -> Score:
    """Look through the sentences of a language."""
    made = Score()
    for row in rows(language, part):
        made.add(row)
    return made


def rate(text: str, seconds: float = 2.0) -> float:
    """Texts a second in one process, masked one by one."""
    mask, count, started = Deidentifier(), 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        mask(text)
        count += 1
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["", "first", "later", "round 1", "round 2", "round 3", "round 4"]
    parser.add_argument("--part", default="", choices=parts, help="only these sentences")
    parser.add_argument("--show", action="store_true", help="print what was missed and what was wrong")
    options = parser.parse_args()
    print("language kind              labelled  recall  same kind  found  precision")
    for language in ("zh", "en"):
        made = score(language, options.part)
        sentences = rows(language, options.part)
        for name, counts in [*made.kinds.items(), ("all", made.total)]:
            if counts.labelled or counts.found:
                kind = counts.same_kind / counts.labelled if counts.labelled else 1.0
                print(
                    f"{language:8} {name:17} {counts.labelled:8}  {counts.recall:6.3f}  {kind:9.3f}  {counts.found:5}  "
                    f"{counts.precision:9.3f}"
                )
        print(
            f"{language:8} {len(sentences)} sentences, {sum(not row['spans'] for row in sentences)} without identifier"
        )
        if options.show:
            for miss, times in Counter(made.misses).items():
                print("   ", miss, f"({times} times)" if times > 1 else "")
    for name, texts in (("without", PLAIN), ("with", FULL)):
        for language, text in texts.items():
            print(f"{rate(text):.0f} texts/s {name} identifiers ({language}, {len(text)} characters, one core)")


if __name__ == "__main__":
    main()
