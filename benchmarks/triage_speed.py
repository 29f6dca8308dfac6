"""How long triage takes: milliseconds of the rules and of the classifier by kind of text, on one core.

    python benchmarks/triage_speed.py                     # 2,000 characters of prose and lists, 100,000 of worst cases
    python benchmarks/triage_speed.py --characters 500    # of the first group

Prose are the harmless vignettes of `data/triage` one after the other, lists those of emergencies. Times are of the
thread's processor, the least of several runs. The baseline is jieba's tokenisation of the same text, cut to 10,000
characters and scaled, since that is what a segmenter would cost before any rule is looked at.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jieba

from carellama.safety.classifier.classifier import load_classifier
from carellama.safety.triage.rules import load_red_flags

FILES = [Path(__file__).parents[1] / "data/triage" / name for name in ("dev.jsonl", "practice.jsonl")]
LONG, BASELINE = 100_000, 10_000  # characters
WORST = {
    "one term again and again": "胸口疼",
    "terms of several parts": "chest and pain and ",
    "digits": "7",
    "numbers with units": "39度5，",
    "denials": "没有",
    "words of contrast": "但是没有胸痛",
    "full stops": "。",
    "commas": ",",
    "letter a": "a",
    "letters of no language": "qzxv jkwq ",
    "emoji": "😀",
    "combining marks": "e\u0301",
    "lone surrogates": "\ud800",
    "empty lines": "\n",
    "one sentence of prose": "孩子这两天有点咳嗽，晚上睡得还可以，胃口也不错，想问问平时饮食要注意什么。",
}


def milliseconds(function: Callable[[str], object], text: str, runs: int) -> float:
    """Return the least processor time of the runs."""
    took = []
    for _ in range(runs):
        started = time.thread_time()
        function(text)
        took.append(time.thread_time() - started)
    return min(took) * 1000


def vignettes(language: str, level: str) -> str:
    """Return the vignettes of a language and level, shuffled, each on its own lines."""
    rows = [json.loads(line) for file in FILES for line in file.read_text(encoding="utf-8").splitlines()]
    texts = [
        "\n".join(text for role, text in row["turns"] if role == "user")
        for row in rows
        if (row["language"], row["level"]) == (language, level)
    ]
    random.Random(1).shuffle(texts)
    return "\n".join(texts)


def kinds(characters: int) -> Iterator[tuple[str, str]]:
    """Yield the name of each kind of text, and the text."""
    written = {
        f"{kind}, {language}": vignettes(language, level)
        for language in ("en", "zh")
        for kind, level in (("prose", "routine"), ("emergencies", "emergency"))
    }
    for name, text in written.items():
        yield name, text[:characters]
    for name, text in (written | WORST).items():
        yield name, (text * (LONG // len(text) + 1))[:LONG]


def main() -> None:
    """Print a row for each kind of text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--characters", type=int, default=2_000, help="of a text of the first group")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    started = time.thread_time()
    rules, classifier = load_red_flags(), load_classifier()
    print(f"loading {len(rules.rules)} rules and the classifier: {(time.thread_time() - started) * 1000:.0f} ms")
    jieba.setLogLevel(60)
    jieba.initialize()
    print(f"{'text':28} {'characters':>10} {'rules':>8} {'classifier':>10} {'jieba':>8}   ms")
    for name, text in kinds(options.characters):
        runs = options.runs if len(text) < LONG else max(1, options.runs // 3)
        part = text[:BASELINE]
        row = [milliseconds(rules.scan, text, runs), milliseconds(classifier.verdict, text, runs)]
        row.append(milliseconds(jieba.lcut, part, runs) * len(text) / len(part))
        print(f"{name:28} {len(text):10,} {row[0]:8.2f} {row[1]:10.2f} {row[2]:8.2f}", flush=True)


if __name__ == "__main__":
    main()
