"""What commands print at their end: the numbers with their intervals, the files, and a next command that works."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from carellama.config.commands import EXPORT_OPTIONS
from carellama.config.reader import parse_options, to_flags
from carellama.config.run import PlanOptions, RunOptions
from carellama.config.serve import CHAT_OPTIONS
from carellama.model.adapter_plan import trained_checkpoints
from carellama.train import run as runs
from carellama.train.options import run_options
from carellama.train.plan import _without
from carellama.train.recipe import Step, _next_command
from carellama.train.summary import (
    EvaluationTable,
    History,
    closing_lines,
    evaluation_table,
    next_commands,
)


def rows_file(folder: Path) -> Path:
    path = folder / "rows.json"
    rows = [{"instruction": f"Question {number}?", "input": "", "output": "Rest."} for number in range(12)]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def config_of(folder: Path, **options: Any) -> RunOptions:
    given = {
        "model_name_or_path": "m", "dataset": rows_file(folder), "output_dir": folder / "out", "bf16": False,
        "do_train": True, "report_to": "none", "data_cache_dir": folder / "cache", "skip_plan": True,
    }  # fmt: skip
    return run_options(to_flags(given | options))


EVALUATIONS = [
    {"step": 2, "eval_loss": 3.0, "eval_loss_low": 2.9, "eval_loss_high": 3.1, "eval_samples": 10, "eval_runtime": 1.0},
    {"step": 4, "eval_loss": 2.5, "eval_loss_low": 2.4, "eval_loss_high": 2.6, "eval_samples": 10, "eval_runtime": 1.0},
    {"step": 6, "eval_loss": 2.7, "eval_loss_low": 2.6, "eval_loss_high": 2.8, "eval_samples": 10, "eval_runtime": 1.0},
]


def test_a_table_at_each_evaluation_names_the_best_step(capsys: pytest.CaptureFixture[str]) -> None:
    """Fault T8: with --eval_strategy steps no loss was printed."""
    state: Any = SimpleNamespace(global_step=0, is_world_process_zero=True, log_history=[])
    callback, nothing = EvaluationTable(), cast("Any", None)
    callback.on_train_begin(nothing, state, nothing)
    for row in EVALUATIONS:
        state.global_step = row["step"]
        callback.on_evaluate(nothing, state, nothing, metrics=row)
    callback.on_train_end(nothing, state, nothing)
    callback.on_evaluate(nothing, state, nothing, metrics=EVALUATIONS[0])  # it belongs to the summary
    told = capsys.readouterr()
    assert not told.out and told.err.splitlines()[-5:] == [
        "held-out records: 10",
        "step            loss",
        "   2    3 [2.9, 3.1]",
        "   4  2.5 [2.4, 2.6]  best",
        "   6  2.7 [2.6, 2.8]",
    ]
    rewards = [{"step": step, "eval_reward": value, "eval_loss": 1.0} for step, value in ((1, 0.2), (2, 0.9))]
    assert evaluation_table(rewards)[-1].endswith("best"), "of a reward, more is better"
    several = {
        "step": 1,
        "eval_samples": 3,
        "eval_loss": 2.0,
        "eval_a_loss": 1.0,
        "eval_a_samples": 1,
        "eval_tokens": 9,
    }
    assert evaluation_table([several])[1].split() == ["step", "loss", "a_loss"], "a loss for each dataset"


def test_a_training_ends_with_its_numbers_and_the_next_command(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fault T8. Train, evaluate and predict in one run, with stdout no terminal."""
    options = config_of(
        tmp_path, model_name_or_path=tiny_folder, max_steps=4, logging_steps=2, eval_strategy="steps", eval_steps=2,
        save_steps=2, load_best_model_at_end=True, val_size=4, do_eval=True, do_predict=True,
        predict_with_generate=True, max_new_tokens=3, learning_rate=1e-3, plot_loss=True,
    )  # fmt: skip
    results = runs.run(options, summary=True)
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].startswith(f"trained: sft on {tmp_path}/rows.json, {tiny_folder.name}, lora, 4 steps in 0:")
    text = told.out
    assert f"held-out loss        {results['eval_loss']:.4g} [" in text and "perplexity" in text and "bleu-4" in text
    assert "training loss        " in text and " at step 2, " in text
    assert "best step            " in text and "loaded and saved (--load_best_model_at_end)" in text
    for name in ("adapter_model.safetensors", "eval_results.json", "predict_results.json", "run.json"):
        assert name in text
    assert told.err.count("held-out records: 4") == 2, "a table for each evaluation"
    chat, export = (shlex.split(line.partition(": ")[2]) for line in lines[-2:])
    model, *_ = parse_options(CHAT_OPTIONS, chat[2:], "carellama chat")
    assert chat[:2] == ["carellama", "chat"] and model.checkpoints == [str(tmp_path / "out")]
    assert export[:2] == ["carellama", "export"] and parse_options(EXPORT_OPTIONS, export[2:], "carellama export")


def test_an_evaluation_prints_its_loss_and_leaves_the_record_of_the_training(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fault T8: `carellama eval` printed no loss. And its run.json replaced that of a training in the same folder."""
    runs.run(config_of(tmp_path, model_name_or_path=tiny_folder, max_steps=1))
    options = {"do_train": False, "do_eval": True, "checkpoint_dir": tmp_path / "out"}
    results = runs.run(config_of(tmp_path, model_name_or_path=tiny_folder, **options), summary=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"evaluated: {tiny_folder.name} with {tmp_path}/out on {tmp_path}/rows.json"
    assert lines[1].startswith(f"  loss               {results['eval_loss']:.4g} [")
    assert lines[-1] == f"next: carellama chat --model_name_or_path {tiny_folder} --checkpoint_dir {tmp_path}/out"
    assert json.loads((tmp_path / "out/run.json").read_text())["settings"]["training"]["do_train"] is True


def adapter(folder: Path, task: str = "CAUSAL_LM") -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"task_type": task}))
    return folder


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["out"]),
        ({"checkpoint_dir": "a"}, ["out"]),  # trained further
        ({"checkpoint_dir": "a", "resume_lora_training": False}, ["a", "out"]),
        ({"checkpoint_dir": "a,b"}, ["a", "out"]),
        ({"checkpoint_dir": "a", "stage": "dpo"}, ["a", "out"]),
        ({"checkpoint_dir": "a", "stage": "rm"}, ["a", "out"]),  # a reward model begins on the merged one
        ({"checkpoint_dir": "rm", "stage": "rm"}, ["out"]),
        ({"checkpoint_dir": "a", "finetuning_type": "freeze"}, ["out"]),
    ],
    ids=str,
)
def test_the_next_command_names_the_checkpoints_that_make_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    adapter(tmp_path / "a"), adapter(tmp_path / "b"), adapter(tmp_path / "rm", "SEQ_CLS")
    assert trained_checkpoints(config_of(tmp_path, output_dir="out", **options)) == expected


def test_the_next_command_can_be_pasted(tmp_path: Path) -> None:
    options = config_of(
        tmp_path, model_name_or_path="my models/base", output_dir="out put", rope_scaling="linear", rope_factor=4,
        accept_licence=True, hf_auth_token="secret",
    )  # fmt: skip
    chat, export = next_commands(options)
    assert chat == (
        "carellama chat --model_name_or_path 'my models/base' --checkpoint_dir 'out put' --rope_scaling linear "
        "--rope_factor 4.0 --accept_licence true"
    )
    assert export.endswith("--output_dir 'out put_export'") and "secret" not in chat + export
    assert [line.split()[1] for line in next_commands(config_of(tmp_path, stage="rm"))] == ["export"]


def test_a_plan_ends_with_the_training_that_it_is_of() -> None:
    words = "a.yaml --plan_steps 0 --stage sft --report=p.json --lora_rank 8".split()
    assert _without(words, fields(PlanOptions)) == "a.yaml --stage sft --lora_rank 8".split()


def test_a_recipe_ends_with_the_model_of_its_last_stage_that_answers() -> None:
    def step(name: str, stage: str, *folders: str) -> Step:
        options = {"model_name_or_path": "m", "stage": stage, "lora_rank": 4}
        return Step(name, options, None, None, (), Path(name), tuple(map(Path, folders)))

    steps = [step("sft", "sft", "o/sft"), step("dpo", "dpo", "o/sft", "o/dpo"), step("rm", "rm", "o/rm")]
    assert _next_command(steps) == "carellama chat --model_name_or_path m --checkpoint_dir o/sft,o/dpo"
    assert _next_command(steps[2:]) == ""


def test_without_the_best_weights_the_summary_says_which_are_saved(tmp_path: Path) -> None:
    history = History(((1, 3.0), (6, 2.0)), tuple(EVALUATIONS), 6)
    lines = closing_lines(config_of(tmp_path), {"train_runtime": 61.0, **EVALUATIONS[-1]}, history)
    assert "6 steps in 1:01" in lines[0]
    assert any(line.split() == ["training", "loss", "3", "at", "step", "1,", "2", "at", "step", "6"] for line in lines)
    assert any("4; saved are the weights of step 6" in line for line in lines)
