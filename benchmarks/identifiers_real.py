"""Precision of de-identification on real consultations: what is masked there, and how much of it is an identifier.

    python benchmarks/identifiers_real.py ../data 2            # sample 2: counts by kind against the labels
    python benchmarks/identifiers_real.py ../data 2 --list     # each find with 20 characters around it

The first argument is a folder with the public files that SOURCES names, one folder for each source. Rows are drawn by
a seed, the second argument; a row is in one sample only. Sample 1 served to mend the rules. Samples 2 to 5 were
measured once, each before anybody read its finds, and the rules were mended after each. `identifiers_real.jsonl` holds
the verdicts of a reader: the source, the row, the text within the row, the offsets and the kind of a find, and whether
it is an identifier. It holds no text. A find without a verdict is counted as unread.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from carellama.privacy.deidentify import Identifier, find_all

LABELS = Path(__file__).with_name("identifiers_real.jsonl")
SOURCES = {
    "huatuo-26m": "huatuo26M_test.json",
    "chatmed-consult": "ChatMed-Consult_test.json",
    "chinese-medical-dialogue": "样例_内科5000-6000.head.csv",
    "imcs-v2": "IMCS-V2_dev_conversation.head.json",
    "chip-mdcfnpc": "fix_badcase.jsonl",
    "meddg": "PromptCBLUE_toy_train.json",
    "medical-dialogue-system": "COVID-Dialogue-Dataset-Chinese.head.txt",
    "medicalgpt-finetune": "medical_sft_1K_format.jsonl",
    "cmcqa": "cmcqa.json",
    "med-chatglm": "huatuo-llama_llama_data.head.json",
    "llm-pretrain-finetune-sft": "kuake_sft.json",
    "genmedgpt-5k": "chatdoctor5k.json",
    "medical-dialog-hf": "COVID-Dialogue-Dataset-English.txt",
    "apollo-corpus-samples": "Medical_Patient_en.json",
    "medalpaca": "medical_meadow_small.json",
}
# Rows, and at most so many of a source.
SAMPLES = {1: (1000, 120), 2: (1000, 120), 3: (4000, 4000), 4: (4000, 4000), 5: (4000, 4000)}


@dataclass(frozen=True)
class Row:
    """The texts of one record of a source."""

    source: str
    number: int
    texts: tuple[str, ...]


def read(folder: Path, source: str) -> list[Row]:
    """Read the rows of a source: JSON, JSON lines, CSV, or blocks that begin with `id=`."""
    path = folder / source / SOURCES[source]
    raw = path.read_bytes()
    text = raw.decode("gb18030" if path.suffix == ".csv" else "utf-8", "replace")
    if path.suffix == ".csv":
        made = [list(row.values()) for row in csv.DictReader(io.StringIO(text))]
    elif path.suffix == ".txt":
        made = [re.sub(r"https?://\S+", "", block).split("\n\n") for block in re.split(r"(?m)^id=\d+$", text)]
    else:
        try:
            made = json.loads(text)
        except json.JSONDecodeError:
            made = [json.loads(line) for line in text.splitlines() if line.strip()]
    rows = (tuple(one for one in strings(row) if len(one) > 1) for row in made)
    return [Row(source, number, texts) for number, texts in enumerate(rows) if texts]


def strings(value: object) -> Iterator[str]:
    """Yield the texts in a value of JSON, in order."""
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


def sample(folder: Path, number: int) -> list[Row]:
    """Draw the rows of a sample, none of which is in a sample before it."""
    drawn: list[Row] = []
    before: set[tuple[str, int]] = set()
    for seed in range(1, number + 1):
        rows, most = SAMPLES[seed]
        before.update((row.source, row.number) for row in drawn)
        choice = random.Random(seed)
        drawn = []
        for source in SOURCES:
            left = [row for row in read(folder, source) if (source, row.number) not in before]
            drawn += choice.sample(left, min(most, len(left)))
        drawn = choice.sample(drawn, min(rows, len(drawn)))
    return drawn


def verdicts(number: int) -> dict[tuple[str, int, int, int, int, str], str]:
    """Read the verdicts of the finds of a sample that were read by eye."""
    made = {}
    for line in LABELS.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        if one["sample"] == number:
            made[one["source"], one["row"], one["text"], one["start"], one["end"], one["kind"]] = one["verdict"]
    return made


def precision(counts: Counter[str]) -> str:
    """Share of the finds read that are identifiers."""
    read = counts["right"] + counts["wrong"]
    return f"{counts['right'] / read:.3f}" if read else "-"


def context(text: str, one: Identifier) -> str:
    """The find in brackets with 20 characters on each side."""
    before, after = text[max(0, one.start - 20) : one.start], text[one.end : one.end + 20]
    return f"{before}【{one.text}】{after}".replace("\n", "⏎")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the sources")
    parser.add_argument("sample", type=int, nargs="?", default=5, choices=tuple(SAMPLES), help="which rows")
    parser.add_argument("--list", action="store_true", help="print each find")
    options = parser.parse_args()
    known, counts, characters = verdicts(options.sample), defaultdict(Counter), 0
    rows = sample(options.data, options.sample)
    for row in rows:
        characters += sum(map(len, row.texts))
        for index, finds in enumerate(find_all(row.texts)):
            for one in finds:
                verdict = known.get((row.source, row.number, index, one.start, one.end, one.kind), "unread")
                counts[one.kind][verdict] += 1
                if options.list:
                    where = f"{row.source}\t{row.number}\t{index}\t{one.start}\t{one.end}\t{one.kind}\t{verdict}"
                    print(f"{where}\t{context(row.texts[index], one)}")
    print(f"{len(rows)} rows of {len({row.source for row in rows})} sources, {characters} characters")
    first = defaultdict(Counter)
    for (*_, kind), verdict in known.items():
        first[kind][verdict] += 1
    print("kind               when it was read: right  wrong  precision   now: right  wrong  unread  precision")
    for kind in sorted({*first, *counts}):
        then, now = first[kind], counts[kind]
        print(
            f"{kind:17} {then['right']:24}  {then['wrong']:5}  {precision(then):>9} "
            f"{now['right']:12}  {now['wrong']:5}  {now['unread']:6}  {precision(now):>9}"
        )


if __name__ == "__main__":
    main()
