"""Draw 300 texts of real patients for triage, and show the labels that two readers gave them.

    python benchmarks/triage_real.py FOLDER                          # how many of each source and level
    python benchmarks/triage_real.py FOLDER --texts /tmp/real.jsonl  # with their text, for a labeller or
    carellama safety eval /tmp/real.jsonl                            # for the safety layer

FOLDER holds the public files that SOURCES names, one folder for each source. The texts are other people's and are not
part of this project: `data/triage/real.jsonl` keeps the source, the row, a digest of the text and its level.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

LABELS = Path(__file__).parents[1] / "data/triage/real.jsonl"
SEED = 20261129
LEAST_CHARS, MOST_CHARS = 12, 1500  # characters of a text that says something and that a labeller reads in one go


def _block(text: str) -> str:
    """What the patient wrote in a block of MedDialog: the description and, in English, the first turn."""
    described = text.partition("Description")[2].partition("Dialogue")
    patient = described[2].partition("Patient:")[2].partition("Doctor:")[0]
    return patient or described[0]


# The file of a source, how many texts are drawn of it, and where a row has the patient's first words.
SOURCES: dict[str, tuple[str, int, Callable[[Any], str]]] = {
    "chinese-medical-dialogue": ("样例_内科5000-6000.head.csv", 30, lambda row: row["ask"]),
    "chatmed-consult": ("ChatMed-Consult_test.json", 30, lambda row: row["query"].strip("<s>问：答\n")),
    "huatuo-26m": ("huatuo26M_test.json", 30, lambda row: row["instruction"][0]),
    "imcs-v2": ("IMCS-V2_dev_conversation.head.json", 30, lambda row: row["conversations"][0]["value"]),
    "medicalgpt-finetune": ("medical_sft_1K_format.jsonl", 15, lambda row: row["conversations"][0]["value"]),
    "medical-dialogue-system": ("COVID-Dialogue-Dataset-Chinese.head.txt", 15, _block),
    "medical-dialog-hf": ("COVID-Dialogue-Dataset-English.txt", 60, _block),
    "genmedgpt-5k": ("chatdoctor5k.json", 50, lambda row: row["input"]),
    "apollo-corpus-samples": ("Medical_Patient_en.json", 40, lambda row: row[0]),
}


def rows(folder: Path, source: str) -> list[str]:
    """Return the first words of the patient in each row of a source, in the order of the file."""
    name, _, words = SOURCES[source]
    path = folder / source / name
    text = path.read_bytes().decode("gb18030" if path.suffix == ".csv" else "utf-8", "replace")
    if path.suffix == ".csv":
        made: list[Any] = list(csv.DictReader(io.StringIO(text)))
    elif path.suffix == ".txt":
        made = re.split(r"(?m)^id=\d+\s*$", text)[1:]
    else:
        try:
            made = json.loads(text)
        except json.JSONDecodeError:
            made = [json.loads(line) for line in text.splitlines() if line.strip()]
    return [" ".join(words(row).split()) for row in made]


def draw(folder: Path) -> list[dict[str, Any]]:
    """Draw the texts: `id`, `source`, `row`, `digest` (of the text) and `text`."""
    generator = random.Random(SEED)
    drawn = []
    for source, (_, count, _) in SOURCES.items():
        texts = rows(folder, source)
        fit = [number for number, text in enumerate(texts) if LEAST_CHARS <= len(text) <= MOST_CHARS]
        for number in sorted(generator.sample(fit, count)):
            digest = hashlib.sha256(texts[number].encode()).hexdigest()[:16]
            drawn.append(
                {
                    "id": f"{source}/{number}",
                    "source": source,
                    "row": number,
                    "digest": digest,
                    "language": "en"
                    if source in ("medical-dialog-hf", "genmedgpt-5k", "apollo-corpus-samples")
                    else "zh",
                    "text": texts[number],
                }
            )
    return drawn


def main() -> None:
    """Print the counts, or write the texts."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", type=Path)
    asked.add_argument("--texts", type=Path, help="write id and text of each to this file")
    options = asked.parse_args()
    drawn = draw(options.folder)
    levels = {row["id"]: row for row in map(json.loads, LABELS.read_text(encoding="utf-8").splitlines())}
    changed = [row["id"] for row in drawn if levels.get(row["id"], row)["digest"] != row["digest"]]
    if changed:
        raise SystemExit(f"{len(changed)} texts are not those that were labelled, the first {changed[0]}")
    if options.texts:
        keys = ("level", "labels", "language")
        rows = [
            {"id": row["id"], "text": row["text"], **{key: levels[row["id"]][key] for key in keys}} for row in drawn
        ]
        options.texts.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    for source in SOURCES:
        counts = Counter(str(levels.get(row["id"], {}).get("level")) for row in drawn if row["source"] == source)
        print(source, dict(sorted(counts.items())))


if __name__ == "__main__":
    main()
