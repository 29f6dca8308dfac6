"""`carellama data clean` on synthetic rows: rows/s, seconds, peak memory; of the processor, whatever runs beside it.

    python benchmarks/clean_rate.py --rows 1000000
    python benchmarks/clean_rate.py --rows 100000 --questions 300000

Alpaca rows of about 200 characters, half of them Chinese; two rows in ten are another one again with a word more, one
in a hundred holds an edited exam question, and each ends in phrases that exam questions are made of. The index of the
questions is built once by itself for its time and memory. `--deidentify mask` measures that as well.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

from carellama.config.data_commands import CleanOptions
from carellama.data.clean.clean import clean
from carellama.data.clean.contamination import Exams
from carellama.data.clean.exams import gather

LATIN = [f"{first}{second}" for first in ("fever", "cough", "rest", "pain", "drink") for second in "abcdefghijklmnop"]
HAN = [chr(number) for number in range(0x4E00, 0x4E00 + 800)]
AGAIN = 10  # two rows in so many are near duplicates, one of each language
LEAKED = 100  # one row in so many holds an edited exam question
PHRASES = 20_000  # of which questions are made, in each language


def phrases() -> tuple[list[str], list[str]]:
    """English phrases of four words and Chinese ones of six characters."""
    numbers = random.Random(1)
    return (
        [" ".join(numbers.choices(LATIN, k=4)) for _ in range(PHRASES)],
        ["".join(numbers.choices(HAN, k=6)) for _ in range(PHRASES)],
    )


KNOWN = phrases()


def stem(number: int) -> str:
    """The question of this number: nine phrases of the one language or the other, and an ending that many have."""
    numbers = random.Random(number)
    chinese = number % 2
    chosen = numbers.choices(KNOWN[chinese], k=9)
    return ("，" if chinese else " ").join(chosen) + ("最可能的诊断是" if chinese else " what is most likely")


def edited(text: str) -> str:
    """The text with three words or characters replaced, so that no run that counts by itself is left."""
    items = text.split(" ") if " " in text else list(text)
    for at in range(1, 4):
        items[at * len(items) // 4] = "other" if " " in text else "另"
    return " ".join(items) if " " in text else "".join(items)


def write_rows(path: Path, rows: int, questions: int) -> None:
    """Write synthetic rows: random words, so that only the planted ones are alike."""
    numbers = random.Random(0)
    last = {0: "", 1: ""}
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            chinese = number % 2
            if number % LEAKED == LEAKED - 1:
                answer = edited(stem(numbers.randrange(questions)))
            elif number % AGAIN > 1 or not last[chinese]:
                words = "".join(numbers.choices(HAN, k=70)) if chinese else " ".join(numbers.choices(LATIN, k=22))
                answer = last[chinese] = " ".join([words, *numbers.choices(KNOWN[chinese], k=3)])
            else:
                answer = last[chinese] + ("好" if chinese else " well")
            row = {"instruction": "怎么办？" if chinese else "What now?", "input": "", "output": answer}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_exam(path: Path, questions: int) -> None:
    """Write questions that share phrases with each other and with the rows."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(questions):
            options = {"A": "one", "B": "two"}
            row = {"id": str(number), "question": stem(number), "options": options, "answer": "A"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def memory() -> float:
    """The most memory this process had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=1000, help="of the exam that is kept out")
    parser.add_argument("--deidentify", choices=["mask", "surrogate"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, exam = Path(folder) / "rows.jsonl", Path(folder) / "exam.jsonl"
        write_rows(path, options.rows, options.questions)
        write_exam(exam, options.questions)
        print(f"{options.rows} rows, {path.stat().st_size / 1e6:.0f} MB")
        before, started = memory(), time.process_time()
        gather([str(exam)], Exams(), catalogue=False)
        index = time.process_time() - started
        print(f"index of {options.questions} questions: {index:.1f} s, {memory() - before:.0f} MB at the most")
        started, processor = time.perf_counter(), time.process_time()
        account, written = clean(
            CleanOptions(
                [str(path)],
                output=str(Path(folder) / "clean.jsonl"),
                exams=[str(exam)],
                catalogue_exams=False,
                deidentify=options.deidentify,
            )
        )
        seconds, processor = time.perf_counter() - started, time.process_time() - processor - index
    (report,) = account.report.datasets.values()
    assert report.rows == options.rows == written + report.skipped
    skipped = {reason: cases.count for reason, cases in report.done["skipped"].items()}
    print("; ".join(f"{count} {reason}" for reason, count in skipped.items()))
    assert skipped["near an exam question"] >= 0.98 * (options.rows // LEAKED), "edited exam questions were not found"
    print(f"{options.rows / processor:.0f} rows a second of the processor besides the index; {seconds:.1f} s in all")
    print(f"memory: {memory():.0f} MB at the most, {before:.0f} before")


if __name__ == "__main__":
    main()
