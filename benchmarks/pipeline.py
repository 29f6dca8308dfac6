"""A dataset in its own layout through `data convert`, `data clean` and encoding: rows/s and peak memory of each.

    python benchmarks/pipeline.py --rows 1000000

The rows are synthetic, in the layout of chinese-medical-dialogue (CSV in GB18030 with a line break inside each
question), half of them Chinese; two in ten are another one again with a word more. Each step is a process of its own,
as a user starts it; its peak is what the system counted for it and its children. Encoding is for --model, to shards on
the disk.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clean_rate import write_exam, write_rows

COLUMNS = ("department", "title", "ask", "answer")


def write_table(path: Path, rows: int, questions: int) -> None:
    """Write the rows of `clean_rate` as the dataset's table."""
    lines = path.with_suffix(".jsonl")
    write_rows(lines, rows, questions)
    with lines.open(encoding="utf-8") as source, path.open("w", encoding="gb18030", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for line in source:
            row = json.loads(line)
            # cleaning looks for the same texts: the question is of the answer's first words, not the same for all
            table.writerow(("内科", row["instruction"], f"{row['output'][:20]}\n{row['instruction']}", row["output"]))
    lines.unlink()


def measured(name: str, command: list[str], rows: int) -> str:
    """Run a command; print rows/s, seconds and peak memory; return the last line that it printed."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}: {' '.join(command)}")
    seconds = time.perf_counter() - started
    print(f"{name:8} {rows / seconds:7.0f} rows/s  {seconds:6.1f} s  peak {used.ru_maxrss / 1024:5.0f} MB", flush=True)
    return said.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=1000, help="of the exam that is kept out")
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    carellama = [sys.executable, "-m", "carellama", "data"]
    with tempfile.TemporaryDirectory() as folder:
        table, exam = Path(folder) / "rows.csv", Path(folder) / "exam.jsonl"
        records, clean = str(Path(folder) / "records.jsonl"), str(Path(folder) / "clean.jsonl")
        write_table(table, options.rows, options.questions)
        write_exam(exam, options.questions)
        print(f"{options.rows} rows, {table.stat().st_size / 1e6:.0f} MB")
        convert = ["convert", "chinese-medical-dialogue", "--from", str(table), "--output", records]
        print(measured("convert", carellama + convert, options.rows))
        exams = ["--exams", str(exam), "--catalogue_exams", "false"]
        print(measured("clean", [*carellama, "clean", records, "--output", clean, *exams], options.rows))
        with Path(clean).open("rb") as file:
            left = sum(1 for _ in file)
        encode = [sys.executable, str(Path(__file__).with_name("encode_rate.py")), "--alone", "--file", clean]
        print(measured("encode", [*encode, "--model", options.model], left))


if __name__ == "__main__":
    main()
