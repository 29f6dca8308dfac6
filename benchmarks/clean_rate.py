"""`carellama data clean` on synthetic rows: rows/s, seconds, peak memory.

    python benchmarks/clean_rate.py --rows 1000000

Alpaca rows of about 200 characters, half of them Chinese; two rows in ten are another one again with a word more.
The exam is of 1,000 questions that no row holds. `--deidentify mask` measures that as well.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

from carellama.config.datasets import CleanArguments
from carellama.data.clean.run import clean

LATIN = [f"{first}{second}" for first in ("fever", "cough", "rest", "pain", "drink") for second in "abcdefghijklmnop"]
HAN = [chr(number) for number in range(0x4E00, 0x4E00 + 800)]
AGAIN = 10  # two rows in so many are near duplicates, one of each language


def write_rows(path: Path, rows: int) -> None:
    """Write synthetic rows: random words, so that only the planted ones are alike."""
    numbers = random.Random(0)
    last = {0: "", 1: ""}
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            chinese = number % 2
            if number % AGAIN > 1 or not last[chinese]:
                last[chinese] = (
                    "".join(numbers.choices(HAN, k=90)) if chinese else " ".join(numbers.choices(LATIN, k=30))
                )
                answer = last[chinese]
            else:
                answer = last[chinese] + ("好" if chinese else " well")
            row = {"instruction": "怎么办？" if chinese else "What now?", "input": "", "output": answer}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_exam(path: Path, questions: int) -> None:
    """Write questions of words that no row holds."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(questions):
            stem = " ".join(f"q{number}x{word}" for word in range(40))
            row = {"id": str(number), "question": stem, "options": {"A": "one", "B": "two"}, "answer": "A"}
            file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--deidentify", choices=["mask", "surrogate"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, exam = Path(folder) / "rows.jsonl", Path(folder) / "exam.jsonl"
        write_rows(path, options.rows)
        write_exam(exam, 1000)
        print(f"{options.rows} rows, {path.stat().st_size / 1e6:.0f} MB")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.perf_counter()
        account, written = clean(
            CleanArguments(
                [str(path)],
                output=str(Path(folder) / "clean.jsonl"),
                exams=[str(exam)],
                catalogue_exams=False,
                deidentify=options.deidentify,
            )
        )
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (report,) = account.report.datasets.values()
    assert report.rows == options.rows == written + report.skipped
    print("; ".join(f"{cases.count} {reason}" for reason, cases in report.done["skipped"].items()))
    print(f"{options.rows / seconds:.0f} rows/s, {seconds:.1f} s; peak memory {peak:.0f} MB, before {before:.0f} MB")


if __name__ == "__main__":
    main()
