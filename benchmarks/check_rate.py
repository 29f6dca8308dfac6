"""`carellama data check` against reading the same file with json.loads alone: rows/s, seconds, peak memory.

    python benchmarks/check_rate.py

Alpaca rows of about 200 characters, synthetic, with one faulty row in a thousand. json.loads of each line is the
limit of anything that reads the rows in one process; it is timed right after, so that a shared machine slows both.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

from carellama.config.data_commands import CheckOptions
from carellama.data.check.check import checked
from carellama.data.check.report import lines

WORDS = (
    "fever cough headache doctor since yesterday my mother takes tablets for blood pressure and feels dizzy after "
    "breakfast what should she do see a clinician if it gets worse drink water rest measure temperature twice a day"
).split()
SENTENCES = (
    "发烧三天了，需要去医院吗？", "多喝水，注意休息。", "如果呼吸困难，请立即就医。", "孩子咳嗽两天，没有发烧。",
    "血压高的人要按时吃药。", "症状加重时请联系医生。",
)  # fmt: skip
FAULTY = 1000  # one row in so many


def write_rows(path: Path, rows: int) -> None:
    """Write synthetic rows, half of them Chinese."""
    numbers = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            if number % 2:
                question, answer = "".join(numbers.choices(SENTENCES, k=3)), "".join(numbers.choices(SENTENCES, k=13))
            else:
                question = " ".join(numbers.choices(WORDS, k=8)) + "?"
                answer = " ".join(numbers.choices(WORDS, k=28)) + "."
            row = {"instruction": question, "input": "", "output": "" if number % FAULTY == 7 else answer}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, options.rows)
        print(f"{options.rows} rows, {path.stat().st_size / 1e6:.0f} MB")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.perf_counter()
        check = checked(path, CheckOptions(files=[str(path)]))
        ours = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.perf_counter()
        with path.open(encoding="utf-8") as file:
            for line in file:
                json.loads(line)
        alone = time.perf_counter() - started
    assert check.rows == options.rows
    print("\n".join(lines(check)))
    print(
        f"check {check.rows / ours:.0f} rows/s, {ours:.1f} s; json.loads alone {alone:.1f} s, {ours / alone:.1f} times"
    )
    print(f"peak memory {peak:.0f} MB, before the check {before:.0f} MB")


if __name__ == "__main__":
    main()
