"""Encoding records against `tokenizers` alone, in turn in one run: records/s, their ratio, peak memory.

    python benchmarks/encode_rate.py [--file records.jsonl] [--model smollm2-135m] [--rounds 3]

Ours is the whole way of a run: rows of the file, records, template, tokens and labels, shards on the disk. Theirs is
`encode_batch_fast` of the same conversations, rendered beforehand, with the ids taken out and then dropped. Without
--file, --rows synthetic consultations are made. With --alone only ours runs, once: the peak memory is then its own.
The machine may be shared: only the ratios of neighbouring runs count.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from carellama.config.model import ModelOptions
from carellama.config.run import RunOptions
from carellama.data.datasets import Dataset, load_datasets
from carellama.data.encoding.prepare import encode_dataset
from carellama.model.tokenizer import load_tokenizer
from carellama.records import Chat
from carellama.templates.template import Template, get_template
from carellama.train.options import run_options

WORDS = (
    "fever cough headache doctor since yesterday my mother takes tablets for blood pressure and feels dizzy after "
    "breakfast what should she do see a clinician if it gets worse drink water rest measure temperature twice a day "
    "asthma inhaler allergy rash swelling chest pain at night call emergency services when breathing is hard"
).split()
BATCH = 1000  # texts that tokenizers gets in one call


def write_records(path: Path, rows: int, words: int) -> None:
    """Write synthetic consultations of about so many words each."""
    numbers = random.Random(0)

    def text(count: int) -> str:
        return " ".join(numbers.choices(WORDS, k=max(1, int(count * numbers.uniform(0.3, 1.7))))).capitalize() + "."

    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            record = {"instruction": text(words // 4), "output": text(words - words // 4)}
            file.write(json.dumps(record) + "\n")


def ours(options: RunOptions, dataset: Dataset, tokenizer: Any, template: Template) -> tuple[int, int]:
    """Encode the dataset into a new cache; return records and tokens."""
    with tempfile.TemporaryDirectory() as cache:
        options = replace(options, data=replace(options.data, data_cache_dir=cache))
        store, report, _ = encode_dataset(dataset, options, tokenizer, template, None)
        return sum(entry.used for entry in report.datasets.values()), int(store.lengths.sum())


def theirs(texts: list[str], tokenizer: Any) -> int:
    """Tokenise the texts and take the ids out; return the tokens."""
    count = 0
    for start in range(0, len(texts), BATCH):
        found = tokenizer.backend_tokenizer.encode_batch_fast(texts[start : start + BATCH], add_special_tokens=False)
        count += sum(len(encoding.ids) for encoding in found)
    return count


def timed(call: Any, *arguments: Any) -> tuple[float, Any]:
    """(seconds, result) of a call."""
    started = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--file", help="records; default: synthetic ones")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--words", type=int, default=130, help="words of a synthetic record")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="processes (--preprocessing_num_workers)")
    parser.add_argument("--alone", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(arguments.file or Path(folder) / "records.jsonl")
        if not arguments.file:
            write_records(path, arguments.rows, arguments.words)
        argv = ["--model_name_or_path", arguments.model, "--dataset", str(path), "--output_dir", folder, "--do_train"]
        argv += ["--on_bad_record", "skip", "--cutoff_len", "1024"]
        argv += ["--preprocessing_num_workers", str(arguments.workers)] if arguments.workers else []
        options = run_options(argv)
        tokenizer = load_tokenizer(ModelOptions(arguments.model))
        compare(options, tokenizer, get_template(None, tokenizer), arguments)


def compare(options: RunOptions, tokenizer: Any, template: Template, arguments: argparse.Namespace) -> None:
    """Time both in turn and print their rates and the ratio."""
    (dataset,) = load_datasets(options.data.datasets, options.data)
    if arguments.alone:
        seconds, (records, tokens) = timed(ours, options, dataset, tokenizer, template)
        print(f"ours: {records} records, {tokens} tokens, {records / seconds:.0f} records/s")
    else:
        texts = [template.render(record.messages) for record in usable(dataset)]
        theirs(texts[:BATCH], tokenizer)  # start the threads
        ratios = []
        for number in range(arguments.rounds):
            alone, tokens = timed(theirs, texts, tokenizer)
            whole, (records, own) = timed(ours, options, dataset, tokenizer, template)
            ratios.append((records / whole) / (len(texts) / alone))
            print(
                f"round {number + 1}: tokenizers {len(texts) / alone:.0f} records/s ({tokens} tokens), "
                f"ours {records / whole:.0f} records/s ({own} tokens), ratio {ratios[-1]:.2f}"
            )
        print(f"median ratio {statistics.median(ratios):.2f} of {arguments.rounds} rounds")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process {peak:.0f} MB")


def usable(dataset: Dataset) -> list[Chat]:
    """The conversations of a dataset."""
    from carellama.data.convert import BadRecord

    found = []
    for row in dataset.rows():
        try:
            record = dataset.record(row)
        except BadRecord:
            continue
        if isinstance(record, Chat):
            found.append(record)
    return found


if __name__ == "__main__":
    main()
