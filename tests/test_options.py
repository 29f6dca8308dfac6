"""Options of other programs and older versions: accepted with a line, or refused with what to use; mistakes at once."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from carellama.config.answering import TALK_GROUPS
from carellama.config.export import EXPORT_GROUPS
from carellama.config.parse import parser
from carellama.config.run import RUN_GROUPS, TrainingArguments
from carellama.config.transformers_options import FOREIGN, translate, translate_settings
from carellama.config.transformers_source import training_fields
from carellama.errors import UserError
from carellama.train.flag_checks import UNSUPPORTED
from carellama.train.options import run_config
from test_layout import HEAVY

VERBS = {"train": RUN_GROUPS, "chat": TALK_GROUPS, "export": EXPORT_GROUPS}
KNOWN = {
    verb: {field.name for group in groups for field in dataclasses.fields(group)} for verb, groups in VERBS.items()
}
EVERY = set().union(*KNOWN.values())
SOME_VALUE = {"warmup_ratio": "0.1", "dev_ratio": "0.1", "export_size": "5", "torch_dtype": "bfloat16",
              "infer_dtype": "bfloat16", "attn_implementation": "sdpa", "evaluation_strategy": "no",
              "bnb_4bit_quant_type": "nf4", "torchdynamo": "inductor", "freeze_trainable_layers": "2",
              "lora_r": "16"}  # fmt: skip


def test_the_flags_of_the_installed_transformers_are_read_as_syntax() -> None:
    assert set(training_fields()) == {field.name for field in dataclasses.fields(TrainingArguments)} - {"_n_gpu"}


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_a_foreign_option_is_read_as_todays_or_refused_with_what_to_use(name: str) -> None:
    """Fault T11. Each entry of the table: its option exists, its values are ones of that option, its advice is said."""
    entry = FOREIGN[name]
    assert name not in EVERY, "an option of ours is never translated"
    if not entry.option:
        bad = next(value for value in ("true", "false", "something") if value not in entry.values)
        if entry.instead:
            with pytest.raises(UserError, match=f"--{name} is not an option here: "):
                translate([f"--{name}", bad], EVERY)
        for value in entry.values:
            words, notes = translate([f"--{name}", value, "--seed", "1"], EVERY)
            assert words == ["--seed", "1"] and f"--{name}" in notes[0]
        return
    verb = next(verb for verb, known in KNOWN.items() if entry.option in known)
    for value in entry.values or (SOME_VALUE.get(name, "8"),):
        words, notes = translate([f"--{name}", value], KNOWN[verb])
        assert f"--{name}" in notes[0]
        if words:
            assert f"--{entry.option} {words[1]}" in notes[0]
            (action,) = [one for one in parser(VERBS[verb], verb)._actions if one.dest == entry.option]
            today = action.type(words[1]) if action.type else words[1]
            assert action.choices is None or today in action.choices


def test_a_share_of_warmup_steps_stays_a_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fault T11: --warmup_ratio 0.1 and --evaluation_strategy were refused."""
    words = "--do_train --dataset d --model_name_or_path m --bf16 false --val_size 2".split()
    foreign = ["--warmup_ratio", "0.1", "--evaluation_strategy=steps", "--output_dir", str(tmp_path)]
    with caplog.at_level(logging.WARNING):
        config = run_config(words + foreign)
    assert config.training.get_warmup_steps(60) == 6 and config.training.eval_strategy == "steps"
    assert "--warmup_ratio is read as --warmup_steps 0.1" in caplog.text
    assert "--evaluation_strategy is read as --eval_strategy steps" in caplog.text


def test_a_foreign_option_beside_todays_is_not_guessed() -> None:
    with pytest.raises(UserError, match=r"--warmup_ratio is today's --warmup_steps, which is given as well"):
        translate(["--warmup_ratio", "0.1", "--warmup_steps", "5"], EVERY)
    with pytest.raises(UserError, match="not a share below 1"):
        translate(["--warmup_ratio", "1.0"], EVERY)
    with pytest.raises(UserError, match=r"--flash_attn fa9: known values are auto, .* \(today --attention\)"):
        translate(["--flash_attn", "fa9"], EVERY)


def test_a_settings_file_of_another_program_is_read() -> None:
    theirs = {"stage": "sft", "adapter_name_or_path": "a,b", "flash_attn": "fa2", "cutoff_len": 512,
              "overwrite_cache": True, "warmup_ratio": 0.1, "ddp_timeout": 180000000, "resume_from_checkpoint": None,
              "use_unsloth": False}  # fmt: skip
    made, notes = translate_settings(theirs, KNOWN["train"])
    assert made == {"stage": "sft", "checkpoint_dir": "a,b", "attention": "flash_attention_2", "cutoff_len": 512,
                    "overwrite_cache": True, "warmup_steps": "0.1", "ddp_timeout": 180000000,
                    "resume_from_checkpoint": None}  # fmt: skip
    assert len(notes) == 4


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_a_flag_of_transformers_that_would_be_ignored_is_refused(name: str, tmp_path: Path) -> None:
    """--label_smoothing_factor 0.1 was accepted and changed nothing."""
    value = {"label_smoothing_factor": "0.1", "generation_config": "x", "length_column_name": "x",
             "include_for_metrics": "loss", "label_names": "x", "eval_accumulation_steps": "2",
             "eval_do_concat_batches": "false", "debug": "underflow_overflow"}  # fmt: skip
    value = value.get(name, "4" if name.startswith("generation") else "true")  # type: ignore[assignment]
    words = f"--do_train --dataset d --model_name_or_path m --output_dir {tmp_path} --bf16 false --{name} {value}"
    with pytest.raises(UserError, match=f"--{name} .* has no effect"):
        run_config(words.split())


MISTAKES = {
    "train --lora_rnak 8": "unknown option '--lora_rnak'. Did you mean '--lora_rank'?",
    "train --model_name_or_path m --dataset d --learning_rat 1": "Did you mean '--learning_rate'?",
    "train --model_name_or_path ./nothere --dataset d": "--model_name_or_path ./nothere: there is no such folder",
    "train --model_name_or_path m --checkpoint_dir nothere --dataset d": "--checkpoint_dir nothere: there is no such",
    "train missing.yaml": "cannot read missing.yaml: no such file or directory",
    "eval --model_name_or_path m --dataset nothere.json": "nothere.json is no file",
    "predict --model_name_or_path m --dataset d --temperature x": "--temperature",
    "plan --model_name_or_path m --stage sftt": "'sftt' is not one of pt, sft, rm",
    "export --model_name_or_path m --outptu_dir o": "Did you mean '--output_dir'?",
    "demo --language xx": "'xx' is not one of en, zh",
    "train -x": "unknown option '-x'",
}


def test_a_mistake_is_answered_before_a_library_is_loaded(tmp_path: Path) -> None:
    """Fault T19: a typo, or a path that does not exist, took 6 s."""
    code = (
        "import contextlib, io, sys; from carellama import cli\n"
        f"for line in {list(MISTAKES)!r}:\n"
        "    error = io.StringIO()\n"
        "    with contextlib.redirect_stderr(error), contextlib.suppress(SystemExit):\n"
        "        words = line.split(); cli.call(words[0], words[1:])\n"
        "    print(error.getvalue().strip())\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    *answers, loaded = done.stdout.splitlines()
    assert len(answers) == len(MISTAKES), done.stdout + done.stderr
    for answer, expected in zip(answers, MISTAKES.values(), strict=True):
        assert answer.startswith("error: ") and expected in answer
    assert set(eval(loaded)) <= {"numpy"}, "of these libraries only numpy, which the export needs, loads quickly"
