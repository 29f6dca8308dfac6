"""Rows written to files, and what each command of CareLlama makes of them: for the tests of formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from carellama.config.data import DataOptions
from carellama.config.data_commands import CheckOptions
from carellama.data.check.check import checked
from carellama.data.check.report import Check
from carellama.data.datasets import Dataset, load_datasets
from carellama.records import BadRecord, Chat, Message, Pair, Question, Record, Text

ASK, SAY, NO = "感冒了要怎么办？", "多喝温水，注意休息。", "不用管它。"
STEM, REST, SMOKE = "Which helps against a cold?", "Rest and water", "Smoking"
AB = {"A": REST, "B": SMOKE}
PASSAGE = "We studied 40 patients. Rest halved the cough."
CHAT = Chat((Message("user", ASK), Message("assistant", SAY)))


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def check(path: Path) -> Check:
    return checked(path, CheckOptions(files=[str(path)]))


def dataset(path: Path) -> Dataset:
    return load_datasets([str(path)], DataOptions())[0]


def entry(folder: Path, name: str, **keys: Any) -> Dataset:
    (folder / "dataset_info.json").write_text(json.dumps({"d": {"file_name": name, **keys}}), encoding="utf-8")
    return load_datasets(["d"], DataOptions(dataset_dir=str(folder)))[0]


def bare(record: Record) -> Any:
    """What a record holds, without its place, id and metadata."""
    if isinstance(record, Question):
        return record.stem, record.options, record.answers, record.explanation
    if isinstance(record, Text):
        return record.text
    if isinstance(record, Pair):
        return record.prompt, record.chosen, record.rejected
    return record.messages


def records(found: Dataset) -> tuple[list[Any], list[str]]:
    """(what the rows hold, why the others hold nothing)."""
    made, refused = [], []
    for row in found.rows():
        try:
            made.append(bare(found.record(row)))
        except BadRecord as error:
            refused.append(error.reason)
    return made, refused


def exam(answer: Any, options: Any = ("w", "x", "y", "z"), **more: Any) -> dict[str, Any]:
    return {
        "question": STEM,
        "options": list(options) if isinstance(options, tuple) else options,
        "answer": answer,
        **more,
    }
