"""A training from its options to its figures: what a library refuses is one line; what is left out is counted."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from carellama.config.reader import to_flags
from carellama.config.run import RunOptions
from carellama.errors import UserError
from carellama.train import arguments
from carellama.train import run as runs
from carellama.train.grpo import GRPOTrainer
from carellama.train.options import run_options
from carellama.train.trainer import whole_records


def config_of(folder: Path, model: Path, **options: Any) -> RunOptions:
    rows = [{"instruction": f"Question {n}?", "output": f"Answer {n}."} for n in range(6)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    given = {
        "model_name_or_path": model, "dataset": folder / "rows.json", "output_dir": folder / "out", "do_train": True,
        "data_cache_dir": folder / "cache", "max_steps": 2, "bf16": False, "per_device_train_batch_size": 2,
        "report_to": "none", "skip_plan": True,
    }  # fmt: skip
    return run_options(to_flags(given | options))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lr_scheduler_kwargs": '{"num_cycles": 2}'}, "--lr_scheduler_type linear: .*num_cycles"),
        ({"optim": "lomo"}, "--optim lomo: .*pip install"),
        ({"push_to_hub": True, "hub_model_id": "a/b"}, "--push_to_hub: "),
        ({"dataloader_drop_last": True, "per_device_train_batch_size": 8}, "all 6 examples are fewer than the 8"),
    ],
)
def test_settings_that_a_library_refuses_are_one_line(
    options: dict[str, Any], expected: str, tmp_path: Path, tiny_folder: Path
) -> None:
    """Each ended in a traceback of torch, transformers or httpx."""
    with pytest.raises(UserError, match=expected):
        runs.run(config_of(tmp_path, tiny_folder, **options))


def test_a_metric_of_no_dataset_is_one_line(tmp_path: Path, tiny_folder: Path) -> None:
    best = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "val_size": 2, "load_best_model_at_end": True}
    with pytest.raises(UserError, match="--metric_for_best_model zh_loss: there are samples, loss, "):
        runs.run(config_of(tmp_path, tiny_folder, **best, metric_for_best_model="zh_loss"))


def test_what_drop_last_leaves_out_is_counted(
    tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = config_of(tmp_path, tiny_folder, dataloader_drop_last=True, per_device_train_batch_size=4)
    with caplog.at_level(logging.WARNING, "carellama"):
        runs.run(options)
    assert "--dataloader_drop_last: 2 of 6 examples are left out of each epoch" in caplog.messages


def test_confirming_changes_of_no_checkpoint_is_said(
    tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "carellama"):
        runs.run(config_of(tmp_path, tiny_folder, resume_changed="max_steps", finetuning_type="full"))
    assert any(line.startswith("--resume_changed has no effect") for line in caplog.messages)


def test_a_training_of_all_weights_prints_no_bars_of_transformers(
    tmp_path: Path, tiny_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs.run(config_of(tmp_path, tiny_folder, finetuning_type="full", save_steps=1))
    assert "%|" not in capfd.readouterr().err


def test_grpo_learns_the_b_matrices_faster_with_loraplus(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--loraplus_lr_ratio had no effect in stage grpo."""
    made: list[Any] = []
    monkeypatch.setattr(GRPOTrainer, "train", lambda self, **_: made.append(self.create_optimizer()) or 1 / 0)  # type: ignore[func-returns-value]
    (tmp_path / "exam.jsonl").write_text(
        json.dumps({"question": "Odd?", "options": {"A": "yes", "B": "no"}, "answer": "A"}) + "\n", encoding="utf-8"
    )
    options = config_of(
        tmp_path, tiny_folder, stage="grpo", rewards="letter", dataset=tmp_path / "exam.jsonl", num_generations=2,
        loraplus_lr_ratio=16, learning_rate=1e-3, max_new_tokens=4,
    )  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        runs.run(options)
    assert {group["lr"] for group in made[0].param_groups if group["params"]} == {1e-3, 16e-3}


def test_the_pieces_of_a_long_conversation_are_one_sample(tmp_path: Path, tiny_folder: Path) -> None:
    """A conversation of 20 turns was cut into 20 pieces, and each was counted as a sample of its own."""
    turns = [turn for n in range(20) for turn in (("human", f"Q{n} " + "word " * 20), ("gpt", "rest " * (n + 1)))]
    rows = [{"conversations": [{"from": who, "value": f"{text}{k}"} for who, text in turns]} for k in range(3)]
    (tmp_path / "long.json").write_text(json.dumps(rows), encoding="utf-8")
    given = {"do_train": None, "do_eval": True, "dataset": tmp_path / "long.json", "max_steps": None}
    cut = runs.run(config_of(tmp_path, tiny_folder, **given, cutoff_len=160, output_dir=tmp_path / "cut"))
    assert cut["eval_samples"] == 3
    low, loss, high = (cut[f"eval_loss{end}"] for end in ("_low", "", "_high"))
    assert low <= loss <= high


def test_entries_of_one_record_add_up() -> None:
    entries = np.array([[1.0, 2], [3, 4], [5, 6], [7, 8]])
    assert whole_records(entries, ["a", "a", "b", "a"]).tolist() == [[4, 6], [5, 6], [7, 8]]
    assert whole_records(entries[:0], []).shape == (0, 2)


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_training_does_not_write_over_what_it_reads(tmp_path: Path, tiny_folder: Path, overwrite: bool) -> None:
    """--output_dir MODEL --overwrite_output_dir deleted the weights of the base model, then found none."""
    base, earlier = tmp_path / "base", tmp_path / "earlier"
    shutil.copytree(tiny_folder, base)
    runs.run(config_of(tmp_path, base, output_dir=earlier, save_steps=1))
    kept = names_in(base), names_in(earlier)
    for given, named in (
        ({"output_dir": base}, "--model_name_or_path"),
        ({"output_dir": earlier, "checkpoint_dir": earlier}, "--checkpoint_dir"),
        ({"output_dir": earlier, "checkpoint_dir": earlier / "checkpoint-1"}, "--checkpoint_dir"),
    ):
        with pytest.raises(UserError, match=f"holds {named} .*, which this run reads"):
            runs.run(config_of(tmp_path, base, **given, overwrite_output_dir=overwrite))
    assert (names_in(base), names_in(earlier)) == kept


def test_overwriting_removes_nothing_that_no_training_wrote(tmp_path: Path, tiny_folder: Path) -> None:
    """It removed the pictures, and the weights of any model, that were in the folder."""
    shutil.copytree(tiny_folder, tmp_path / "model")
    kept = names_in(tmp_path / "model")
    with pytest.raises(UserError, match="holds weights and no run"):
        runs.run(config_of(tmp_path, tiny_folder, output_dir=tmp_path / "model", overwrite_output_dir=True))
    assert names_in(tmp_path / "model") == kept
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("scan.png", "my_results.json"):
        (pictures / name).write_text("mine", encoding="utf-8")
    runs.run(config_of(tmp_path, tiny_folder, output_dir=pictures, overwrite_output_dir=True, save_strategy="no"))
    runs.run(config_of(tmp_path, tiny_folder, output_dir=pictures, overwrite_output_dir=True, save_strategy="no"))
    assert [(pictures / name).read_text(encoding="utf-8") for name in ("scan.png", "my_results.json")] == ["mine"] * 2


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_model_without_numbers_has_no_loss(tmp_path: Path, tiny_folder: Path, stage: str) -> None:
    """An evaluation gave a loss of NaN, an accuracy of 0.0 and exit code 0."""
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    pairs = [{"instruction": f"Q{n}", "output": ["good", "bad"]} for n in range(3)]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
    given = {"do_train": None, "do_eval": True, "max_steps": None, "stage": stage}
    data = {"dataset": tmp_path / "pairs.json"} if stage == "dpo" else {}
    with pytest.raises(UserError, match=r"the loss of . of . evaluated records is not a number, from .* row 1 on"):
        runs.run(config_of(tmp_path, folder, **given, **data))


def test_ligers_kernels_are_for_a_gpu_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def settled(asked: bool | None) -> dict[str, Any]:
        values: dict[str, Any] = {}
        arguments._set_liger(values, wanted=asked)
        return values

    assert settled(None) == {"use_liger_kernel": False}
    with pytest.raises(UserError, match="needs a GPU"):
        settled(True)
    monkeypatch.setattr(arguments, "has_gpu", lambda: True)
    monkeypatch.setattr("transformers.utils.is_liger_kernel_available", lambda: True)
    assert settled(None) == {"use_liger_kernel": True, "liger_kernel_config": arguments.LIGER}
    assert settled(False) == {"use_liger_kernel": False}
