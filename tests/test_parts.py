"""A batch that is learned from in parts: the same steps, with less kept at once."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from carellama.config.reader import to_flags
from carellama.config.run import RunOptions
from carellama.data.encoding.collate import collate_row, part_of_row, row_parts
from carellama.errors import UserError
from carellama.records import IGNORED, Tokens
from carellama.train import run as runs
from carellama.train.memory import check as memory_check
from carellama.train.options import run_options
from carellama.train.session import Session
from carellama.train.trainer import PackedTrainer

ANSWERS = ["See a doctor if it gets worse.", "Wait."]


@pytest.mark.parametrize("together", [1, 2])
def test_parts_are_whole_records_in_their_order_and_of_about_one_size(together: int) -> None:
    draw = random.Random(0)
    for _ in range(300):
        lengths = [draw.randint(1, 60) for _ in range(together * draw.randint(1, 12))]
        limit = draw.randint(1, 200)
        parts = row_parts(lengths, limit, together)
        assert [at for first, last in parts for at in range(first, last)] == list(range(len(lengths)))
        assert all(first % together == 0 and first < last for first, last in parts)
        tokens = [sum(lengths[first:last]) for first, last in parts]
        for (first, last), size in zip(parts, tokens, strict=True):
            assert size <= limit or last - first == together
        if sum(lengths) <= limit:
            assert len(parts) == 1


def test_a_few_tokens_too_many_make_two_halves() -> None:
    assert row_parts([100] * 11, 1000) == [(0, 6), (6, 11)]


def test_parts_of_a_row_are_the_rows_of_their_records() -> None:
    draw = np.random.default_rng(0)
    records = []
    for length in (5, 9, 2, 7):
        ids = draw.integers(0, 100, length).astype(np.int32)
        labels = np.concatenate([[IGNORED], ids[1:]]).astype(np.int32)
        records.append([Tokens(ids, labels, source=f"file:{length}", good=length % 2 == 0)])
    row = collate_row(records)
    for first, last in ((0, 2), (2, 4), (1, 4)):
        part, alone = part_of_row(row, first, last), collate_row(records[first:last])
        assert part.keys() == alone.keys()
        for name, value in alone.items():
            same = torch.equal(part[name], value) if torch.is_tensor(value) else part[name] == value
            assert same, name


def config_of(folder: Path, model: Path, stage: str, **options: object) -> RunOptions:
    rows = [{"instruction": f"I cough {'much ' * (n % 7)}.", "input": "", "output": ANSWERS} for n in range(24)]
    data = folder / "pairs.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    given = {
        "model_name_or_path": model, "dataset": data if stage != "sft" else "consult_en", "stage": stage,
        "output_dir": folder / "out", "data_cache_dir": folder / "cache", "do_train": True, "learning_rate": 1e-2,
        "max_samples": 24, "num_train_epochs": 1, "per_device_train_batch_size": 8, "logging_steps": 1,
        "lora_dropout": 0, "lora_target": "all", "bf16": False, "save_strategy": "no", "disable_tqdm": True,
        "overwrite_output_dir": True,
    }  # fmt: skip
    return run_options(to_flags(given | options))


@pytest.mark.parametrize("stage", ["sft", "rm", "dpo"])
def test_steps_in_parts_are_the_steps_of_whole_batches(
    tiny_folder: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    parts = PackedTrainer.parts

    def counted(self: PackedTrainer, row: dict) -> list[dict]:
        made = parts(self, row)
        counts.append(len(made))
        return made

    monkeypatch.setattr(PackedTrainer, "parts", counted)
    losses = []
    for limit in (0, 100):
        runs.run(config_of(tmp_path, tiny_folder, stage, row_tokens=limit))
        log = (tmp_path / "out/trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
        losses.append([json.loads(line)["loss"] for line in log if '"loss"' in line])
    whole, divided = counts[: len(counts) // 2], counts[len(counts) // 2 :]
    assert set(whole) == {1} and max(divided) > 1
    assert len(losses[0]) >= 3 and losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_the_plan_counts_the_part_and_less_memory(tiny_folder: Path, tmp_path: Path) -> None:
    found = {}
    for limit in (0, 100):
        options = config_of(tmp_path, tiny_folder, "sft", row_tokens=limit)
        session = Session.open(options)
        found[limit] = memory_check.estimate_and_compare(session)
    assert found[100]["parts"]["activations"] < 0.5 * found[0]["parts"]["activations"]
    assert found[100]["largest_batch"] == found[0]["largest_batch"]
    assert "in parts of at most" in found[100]["notes"][0] and not found[0]["notes"]


def test_what_can_not_be_taken_apart_is_refused(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--stage kto learns from a batch as a whole"):
        config_of(tmp_path, tiny_folder, "kto", row_tokens=100)
    with pytest.raises(UserError, match="--row_tokens is -1; it must be at least 0"):
        config_of(tmp_path, tiny_folder, "sft", row_tokens=-1)
    monkeypatch.setattr("carellama.train.checks.world", lambda: (0, 2))
    with pytest.raises(UserError, match="--row_tokens is for one process"):
        config_of(tmp_path, tiny_folder, "sft", row_tokens=100)
