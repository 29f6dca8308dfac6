"""A run is resumed with the options and data that it began with, or with those that --resume_changed names."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from carellama.config.options import field_names
from carellama.config.reader import to_flags
from carellama.config.run import RUN_OPTIONS, RunOptions
from carellama.config.transformers_options import training_flags
from carellama.errors import UserError
from carellama.train import resume
from carellama.train import run as runs
from carellama.train.callbacks import SignalStopCallback
from carellama.train.options import run_options

STOP = 3  # step that the first run ends at


def rows_file(folder: Path, words: str = "Rest.") -> Path:
    rows = [{"instruction": f"Question {number}?", "input": "", "output": words} for number in range(24)]
    path = folder / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def config_of(folder: Path, model: Path, **options: Any) -> RunOptions:
    given = {
        "model_name_or_path": model, "dataset": folder / "rows.json", "output_dir": folder / "out", "do_train": True,
        "data_cache_dir": folder / "cache", "max_steps": 6, "save_steps": 1, "learning_rate": 1e-3, "bf16": False,
        "per_device_train_batch_size": 4, "logging_steps": 1, "report_to": "none", "lora_dropout": 0, "skip_plan": True,
    }  # fmt: skip
    return run_options(to_flags(given | options))


def stop_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run end at step `STOP` as Ctrl-C ends it."""
    own = SignalStopCallback.on_step_end

    def on_step_end(self: SignalStopCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STOP and not (Path(args.output_dir) / "stopped").exists():
            (Path(args.output_dir) / "stopped").touch()
            self.stopped.set()
        own(self, args, state, control, **kwargs)

    monkeypatch.setattr(SignalStopCallback, "on_step_end", on_step_end)


@pytest.fixture
def stopped(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run that was stopped at step 3 of 6."""
    rows_file(tmp_path)
    stop_early(monkeypatch)
    with pytest.raises(SystemExit) as ended:
        runs.run(config_of(tmp_path, tiny_folder))
    assert ended.value.code == 130
    return tmp_path


def rates(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "out/trainer_log.jsonl").read_text().splitlines()]
    return [line["learning_rate"] for line in lines if "learning_rate" in line]


CHANGED = {
    "learning_rate": 1e-4, "max_steps": 9, "num_train_epochs": 5, "per_device_train_batch_size": 2, "seed": 7,
    "cutoff_len": 64, "template": "vicuna", "max_samples": 12, "val_size": 4, "packing": True, "lora_alpha": 16,
    "warmup_steps": 2, "weight_decay": 0.1, "mix_strategy": "interleave_under", "max_grad_norm": 0.1,
    "neftune_noise_alpha": 5, "quantization_bit": 4, "data_seed": 3, "dtype": "bfloat16",
}  # fmt: skip


def test_each_option_that_differs_is_named(stopped: Path, tiny_folder: Path) -> None:
    """Fault T7: another learning rate, batch, length, template, ... was ignored or mixed in without a word."""
    for name, value in CHANGED.items():
        with pytest.raises(UserError, match=rf"--{name} \(.*, now .*\).* confirm with --resume_changed {name}"):
            runs.run(config_of(stopped, tiny_folder, **{name: value}))
    with pytest.raises(UserError, match=r"confirm with --resume_changed (seed,learning_rate|learning_rate,seed)"):
        runs.run(config_of(stopped, tiny_folder, learning_rate=1e-4, seed=1, resume_changed="seed"))


@pytest.mark.parametrize(
    "options", [{"lora_rank": 4}, {"lora_target": "all"}, {"stage": "pt"}, {"lr_scheduler_type": "cosine"},
                {"optim": "sgd"}, {"finetuning_type": "full"}], ids=str,
)  # fmt: skip
def test_what_the_saved_state_does_not_fit_is_never_resumed(stopped: Path, tiny_folder: Path, options: Any) -> None:
    (name,) = options
    with pytest.raises(UserError, match=rf"cannot be resumed with another --{name}"):
        runs.run(config_of(stopped, tiny_folder, **options, resume_changed=name))


def test_other_contents_of_a_dataset_are_named(stopped: Path, tiny_folder: Path) -> None:
    """Fault T7: the rest of an epoch came from another file, and run.json stated the new one."""
    rows_file(stopped, "See a doctor.")
    with pytest.raises(UserError, match=r"dataset contents \(.*rows\.json\).* --resume_changed dataset"):
        runs.run(config_of(stopped, tiny_folder))
    runs.run(config_of(stopped, tiny_folder, resume_changed="dataset"))
    (entry,) = json.loads((stopped / "out/run.json").read_text())["resumed"]
    assert entry["step"] == STOP and list(entry["changed"]) == ["dataset contents"]


def test_a_longer_run_follows_the_schedule_of_its_new_length(
    stopped: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="carellama"):
        runs.run(config_of(stopped, tiny_folder, max_steps=12, resume_changed="max_steps"))
    assert "resumed at step 3 with another --max_steps (6, now 12)" in caplog.text
    linear = [1e-3 * (12 - step) / 12 for step in range(STOP, 12)]  # the rate that step `step` + 1 was made with
    assert rates(stopped)[STOP:] == pytest.approx(linear)
    record = json.loads((stopped / "out/run.json").read_text())
    assert record["resumed"] == [{"step": STOP, "changed": {"max_steps": [6, 12]}}]
    assert record["settings"]["training"]["max_steps"] == 12


def test_another_learning_rate_that_is_confirmed_is_used(stopped: Path, tiny_folder: Path) -> None:
    options = {"learning_rate": 1e-5, "weight_decay": 0.1, "resume_changed": "learning_rate,weight_decay"}
    runs.run(config_of(stopped, tiny_folder, **options))
    assert rates(stopped)[STOP:] == pytest.approx([1e-5 * (6 - step) / 6 for step in range(STOP, 6)])
    with pytest.raises(UserError, match=r"--max_steps 2: .*checkpoint-3 is at step 3 already"):
        again = {"max_steps": 2, "resume_changed": "max_steps", "resume_from_checkpoint": stopped / "out/checkpoint-3"}
        runs.run(config_of(stopped, tiny_folder, **again))


def test_what_does_not_change_the_learning_may_differ(
    stopped: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = {"logging_steps": 2, "save_steps": 2, "disable_tqdm": True, "per_device_eval_batch_size": 2, "top_k": 3,
             "gradient_checkpointing": True, "preprocessing_num_workers": 1}  # fmt: skip
    batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    with caplog.at_level(logging.WARNING, logger="carellama"):
        runs.run(config_of(stopped, tiny_folder, **other, **batch))
    assert "another" not in caplog.text
    assert "resumed" not in json.loads((stopped / "out/run.json").read_text())


def test_the_steps_of_saving_and_logging_may_differ_and_take_effect(stopped: Path, tiny_folder: Path) -> None:
    """The checkpoint's own numbers were kept, and run.json named the new ones."""
    runs.run(config_of(stopped, tiny_folder, save_steps=2, logging_steps=3))
    assert {path.name for path in (stopped / "out").glob("checkpoint-*")} >= {"checkpoint-4", "checkpoint-6"}
    assert not (stopped / "out" / "checkpoint-5").exists()
    rows = map(json.loads, (stopped / "out" / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines())
    assert [row["current_steps"] for row in rows if "loss" in row] == [1, 2, 3, 6]


def test_a_checkpoint_without_its_optimizer_is_not_resumed(stopped: Path, tiny_folder: Path) -> None:
    """transformers goes on with a new optimizer and the schedule from its start, without a word."""
    (stopped / "out/checkpoint-3/optimizer.pt").unlink()
    with pytest.raises(UserError, match="no state of the optimizer"):
        runs.run(config_of(stopped, tiny_folder))


def test_the_lists_name_options_that_exist_and_no_option_twice() -> None:
    names = {name for group in RUN_OPTIONS for name in field_names(group)} | set(training_flags())
    lists = (resume.HARMLESS, resume.EVALUATION, resume.ANSWERS, resume.FIXED)
    assert set().union(*lists) - names <= {"activation_checkpointing", "activation_checkpointing_kwargs"}
    assert sum(map(len, lists)) == len(set().union(*lists))


def test_the_record_holds_what_was_asked_and_what_was_used(stopped: Path, tiny_folder: Path) -> None:
    """Fault T16: lengths that the model's positions had shortened stood in run.json as if they were typed."""
    output = stopped / "long"
    runs.run(config_of(stopped, tiny_folder, cutoff_len=4096, max_steps=1, output_dir=output, hf_auth_token="secret"))
    record = json.loads((output / "run.json").read_text())
    assert record["asked"]["cutoff_len"] == "4096" and record["settings"]["data"]["cutoff_len"] == 4096
    assert record["used"]["cutoff_len"] == record["used"]["max_target_length"] == 512
    assert record["used"]["template"] == "the tokenizer's own" and record["used"]["computes_in"] == "float32"
    assert "lora_rank" not in record["asked"] and "secret" not in (output / "run.json").read_text()
