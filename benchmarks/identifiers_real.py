"""Precision of de-identification on real consultations: what is masked there, and how much of it is an identifier.

    python benchmarks/identifiers_real.py ../data 2            # sample 2: counts by kind against the labels
    python benchmarks/identifiers_real.py ../data 2 1          # the same without the Chinese words of medicine
    python benchmarks/identifiers_real.py ../data 2 --list     # each find with 20 characters around it

The first argument is a folder with the public files that SOURCES and MORE name. Rows are drawn by a seed, the second
argument; a row is in one sample only. Sample 1 served to mend the rules. Samples 2 to 8 were measured once, each before
anybody read its finds, and the rules were mended after each: 2 to 5 are the rest of SOURCES, 6 to 8 the thirds of MORE,
without the rows that repeat others. `identifiers_real.jsonl` holds the verdicts of a reader: the source, the row, the
text within the row, the offsets and the kind of a find, and whether it is an identifier. It holds no text. A find
without a verdict is counted as unread.

The third argument leaves out that share of the Chinese words of medicine (`lists/`), as if no list had them: what the
rules do by themselves. A find that has no verdict then is most likely wrong.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from carellama.privacy import word_lists
from carellama.privacy.detect import find_in_record
from carellama.privacy.kinds import Identifier

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
MORE = (  # further files, samples 6 to 8
    "chinese-medical-dialogue/内科.head.txt",
    "medical-dialogue-system/COVID-Dialogue-Dataset-Chinese.head.json",
    "medical-dialogue-system/train_data.json",
    "medical-dialogue-system/validate_data.json",
    "medical-dialogue-system/qa_zh_1.txt",
    "medical-dialogue-system/qa_zh_2.txt",
    "medical-dialog-hf/qa_en_1.txt",
    "medical-dialog-hf/qa_en_2.txt",
    "med-chatglm/train.head.txt",
    "llm-pretrain-finetune-sft/medical_sft.json",
    "llm-pretrain-finetune-sft/llama_sft.json",
    "llm-pretrain-finetune-sft/example_index.json",
    "llm-pretrain-finetune-sft/doc_kb.json",
    "apollo-corpus-samples/Medical_Patient_zh.json",
    "apollo-corpus-samples/Medical_Web_zh.json",
    "shibing624-medical/reward_test.json",
    "medicalgpt-finetune/grpo_sample.jsonl",
    "medicalgpt-finetune/medical_corpus.txt",
    "chip-mdcfnpc/PromptCBLUE_toy_dev.CHIP-MDCFNPC.jsonl",
    "chip-mdcfnpc/PromptCBLUE_toy_test.CHIP-MDCFNPC.jsonl",
    "chip-mdcfnpc/PromptCBLUE_toy_train.CHIP-MDCFNPC.jsonl",
    "imcs-v2/PromptCBLUE_toy_dev.IMCS-V2.jsonl",
    "imcs-v2/PromptCBLUE_toy_test.IMCS-V2.jsonl",
    "imcs-v2/PromptCBLUE_toy_train.IMCS-V2.jsonl",
    "meddg/PromptCBLUE_toy_dev.json",
    "meddg/PromptCBLUE_toy_test.json",
    "cmb/CMB-Clin-qa.json",
    "shennong-tcm/ShenNong-TCM-LLM_test_examples.xls",
)
REPEATS = 0.3  # share of a row's pieces of 14 characters that other rows have
# Rows, and at most so many of a source.
SAMPLES = {1: (1000, 120), 2: (1000, 120), 3: (4000, 4000), 4: (4000, 4000), 5: (4000, 4000)}
LAST = 8


@dataclass(frozen=True)
class Row:
    """The texts of one record of a source."""

    source: str
    number: int
    texts: tuple[str, ...]


def read(path: Path, source: str) -> list[Row]:
    """Read the rows of a file: JSON, JSON lines, CSV, a workbook, lines, or blocks that begin with `id=`."""
    if path.suffix == ".xls":
        from python_calamine import CalamineWorkbook

        made = [
            [str(cell) for cell in row]
            for row in CalamineWorkbook.from_path(path).get_sheet_by_index(0).to_python()[1:]
        ]
    else:
        made = _records(path)
    rows = (tuple(one for one in strings(row) if len(one) > 1) for row in made)
    return [Row(source, number, texts) for number, texts in enumerate(rows) if texts]


def _records(path: Path) -> list[object]:
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("gb18030" if path.suffix == ".csv" or path.stem.startswith("内科") else "utf-8", "replace")
    if path.suffix == ".csv":
        return [list(row.values()) for row in csv.DictReader(io.StringIO(text))]
    if path.suffix == ".txt" and re.search(r"(?m)^id=\d+$", text):
        return [re.sub(r"https?://\S+", "", block).split("\n\n") for block in re.split(r"(?m)^id=\d+$", text)]
    try:
        return list(json.loads(text))
    except json.JSONDecodeError:
        lines = [line for line in text.splitlines() if line.strip()]
    return [json.loads(line) for line in lines] if text.startswith("{") else [[line] for line in lines]


def pieces(texts: Iterable[str]) -> set[str]:
    """Return the pieces of 14 letters and digits of the texts of a row."""
    made: set[str] = set()
    for text in texts:
        bare = re.sub(r"[\W_]+", "", text.lower())
        made.update(bare[at : at + 14] for at in range(max(1, len(bare) - 13)) if bare)
    return made


def more(folder: Path, number: int) -> list[Row]:
    """Return a third of the rows of MORE that repeat no other row."""
    seen = {
        piece
        for source, name in SOURCES.items()
        for row in read(folder / source / name, source)
        for piece in pieces(row.texts)
    }
    kept: list[Row] = []
    for name in MORE:
        for row in read(folder / name, name):
            own = pieces(row.texts)
            if len(own & seen) <= REPEATS * len(own):
                seen |= own
                kept.append(row)
    kept.sort(key=lambda row: (row.source, row.number))
    random.Random("consult").shuffle(kept)
    return kept[number - 6 :: 3]


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
    if number > max(SAMPLES):
        return more(folder, number)
    drawn: list[Row] = []
    before: set[tuple[str, int]] = set()
    for seed in range(1, number + 1):
        rows, most = SAMPLES[seed]
        before.update((row.source, row.number) for row in drawn)
        choice = random.Random(seed)
        drawn = []
        for source in SOURCES:
            left = [
                row for row in read(folder / source / SOURCES[source], source) if (source, row.number) not in before
            ]
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


def leave_out(share: float) -> None:
    """Forget a share of the Chinese words of medicine."""
    read_groups = word_lists.groups

    def groups(name: str) -> dict[str, frozenset[str]]:
        made = read_groups(name)
        if name not in ("medical_zh.txt", "thuocl_medical.txt"):
            return made
        return {
            group: frozenset(word for word in words if zlib.crc32(word.encode()) % 1000 >= 1000 * share)
            for group, words in made.items()
        }

    word_lists.groups = groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the sources")
    parser.add_argument("sample", type=int, nargs="?", default=LAST, choices=range(1, LAST + 1), help="which rows")
    parser.add_argument("without", type=float, nargs="?", default=0.0, help="share of the words of medicine left out")
    parser.add_argument("--list", action="store_true", help="print each find")
    options = parser.parse_args()
    leave_out(options.without)
    known, counts, characters = verdicts(options.sample), defaultdict(Counter), 0
    rows = sample(options.data, options.sample)
    for row in rows:
        characters += sum(map(len, row.texts))
        for index, finds in enumerate(find_in_record(row.texts)):
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
