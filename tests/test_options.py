"""Options of other programs and older versions: accepted with a line, or refused with what to use; mistakes at once."""

from __future__ import annotations

import dataclasses
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from carellama.config.commands import EXPORT_OPTIONS
from carellama.config.foreign_options import foreign_options, translate
from carellama.config.options import field_names, option_types
from carellama.config.run import OWN, RUN_OPTIONS
from carellama.config.serve import CHAT_OPTIONS, WebOptions
from carellama.config.transformers_options import training_flags
from carellama.errors import UserError
from carellama.train.flag_checks import UNSUPPORTED
from carellama.train.options import parse_run, run_options
from carellama.train.run import print_help
from test_layout import HEAVY

VERBS = {"train": RUN_OPTIONS, "chat": CHAT_OPTIONS, "export": EXPORT_OPTIONS, "web": (WebOptions,)}
KNOWN = {verb: {name for group in groups for name in field_names(group)} for verb, groups in VERBS.items()}
KNOWN["train"] |= set(training_flags())
EVERY = set().union(*KNOWN.values())
OF_TRAINING = {"finetuning_type"}  # an option that other commands are given as well
SOME_VALUE = {"warmup_ratio": "0.1", "dev_ratio": "0.1", "export_size": "5", "torch_dtype": "bfloat16",
              "infer_dtype": "bfloat16", "attn_implementation": "sdpa", "evaluation_strategy": "no",
              "bnb_4bit_quant_type": "nf4", "torchdynamo": "inductor", "freeze_trainable_layers": "2",
              "lora_r": "16", "val_set_size": "0.1", "optimizer": "adamw_torch", "lr_scheduler": "cosine",
              "compute_type": "bfloat16", "compute_dtype": "bfloat16", "dpo_loss": "sigmoid", "loss_type": "sigmoid",
              "server_port": "80"}  # fmt: skip


def test_the_flags_of_the_installed_transformers_are_read_as_syntax() -> None:
    from transformers import Seq2SeqTrainingArguments

    fields = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)} - {"_n_gpu"}
    assert set(training_flags()) == fields and not fields & set(OWN)


@pytest.mark.parametrize("name", sorted(foreign_options()))
def test_a_foreign_option_is_read_as_todays_or_refused_with_what_to_use(name: str) -> None:
    """Fault T11. Each entry of the table: its option exists, its values are ones of that option, its advice is said."""
    entry = foreign_options()[name]
    assert name not in KNOWN["train"] or name in OF_TRAINING, "an option of ours is never translated"
    if not entry.option:
        bad = next(value for value in ("true", "false", "something") if value not in entry.values)
        if entry.instead:
            with pytest.raises(UserError, match=f"--{name} is not an option here: "):
                translate(name, [bad], EVERY)
        for value in entry.values:
            today = translate(name, [value], EVERY)
            assert today is not None and not today.options and f"--{name}" in today.note
        return
    verb = next(verb for verb, known in KNOWN.items() if entry.option in known)
    for value in entry.values or (SOME_VALUE.get(name, "8"),):
        today = translate(name, [value], KNOWN[verb])
        assert today is not None and f"--{name}" in today.note
        shapes = {name: shape for group in VERBS[verb] for name, shape in option_types(group).items()}
        assert today.options or today.excluded[entry.option]
        for option, word in today.options.items():
            assert f"--{option} {word}" in today.note
            if option in shapes:
                shapes[option].value(option, [word])
            else:
                training_flags()[option].check_words(option, [word])


def test_a_share_of_warmup_steps_stays_a_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fault T11: --warmup_ratio 0.1 and --evaluation_strategy were refused."""
    words = "--do_train --dataset d --model_name_or_path m --bf16 false --val_size 2".split()
    foreign = ["--warmup_ratio", "0.1", "--evaluation_strategy=steps", "--output_dir", str(tmp_path)]
    with caplog.at_level(logging.WARNING):
        config = run_options(words + foreign)
    assert config.training.get_warmup_steps(60) == 6 and config.training.eval_strategy == "steps"
    assert "--warmup_ratio is read as --warmup_steps 0.1" in caplog.text
    assert "--evaluation_strategy is read as --eval_strategy steps" in caplog.text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--stage orpo", "Give --stage dpo --pref_loss orpo."),
        ("--stage dpo --pref_loss dpo", "Give --pref_loss sigmoid."),
        ("--finetuning_type QLoRA", "Give --finetuning_type lora --quantization_bit 4."),
        ("--bf16 auto", "Give nothing: the precision is chosen"),
    ],
)
def test_a_value_of_another_program_is_answered_with_what_to_give(words: str, says: str) -> None:
    """`--stage orpo` was answered with grpo, and `--pref_loss dpo` with ipo: the nearest words, which mean others."""
    with pytest.raises(UserError, match=re.escape(says)):
        run_options(["--model_name_or_path", "m", "--dataset", "d", *words.split()])


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--stage kto --kto_beta 0.2", "pref_beta", 0.2),
        ("--model smol", "model_name_or_path", "smol"),
        ("--epochs 2", "num_train_epochs", 2.0),
        ("--batch_size 4", "per_device_train_batch_size", 4),
        ("--lr 1e-3", "learning_rate", 1e-3),
        ("--qlora true", "quantization_bit", 4),
        ("--lora_target_linear true", "lora_target", "all"),
    ],
)
def test_names_that_people_write_from_memory_mean_what_they_say(words: str, name: str, value: object) -> None:
    """They were answered with the nearest word: --epochs with --ppo_epochs, --batch_size with --val_size."""
    given = [] if name == "model_name_or_path" else ["--model_name_or_path", "m"]
    options = run_options([*given, "--dataset", "d", "--do_train", *words.split()])
    groups = [getattr(options, field.name) for field in dataclasses.fields(options)]
    assert next(getattr(group, name) for group in groups if hasattr(group, name)) == value


def test_all_names_that_are_unknown_are_told_at_once(tmp_path: Path) -> None:
    """Each run told one: a settings file of another program took a dozen of them."""
    file = tmp_path / "run.yaml"
    file.write_text("model_name_or_path: m\nlora_rnak: 8\nsaves_per_epoch: 2\nnonsense: 1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"3 options cannot be read: .*'lora_rank'.* \| --saves_per_epoch .*'nonsense'"):
        run_options([str(file)])


def test_help_of_a_stage_may_be_asked_for_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_help(["--help", "dpo"], "carellama train") and "--pref_beta" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["learning_ratee", "stages"])
def test_a_misspelt_key_without_a_value_is_an_error(key: str, tmp_path: Path) -> None:
    """Keys without a value were skipped before their names were looked at."""
    file = tmp_path / "run.yaml"
    file.write_text(f"model_name_or_path: m\ndataset: d\nlora_rank:\n{key}:\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"unknown key '{key}'"):
        run_options([str(file)])


def test_a_foreign_option_beside_todays_is_not_guessed() -> None:
    for both in ("--warmup_ratio 0.1 --warmup_steps 5", "--warmup_steps 5 --warmup_ratio 0.1"):
        with pytest.raises(
            UserError, match=r"--warmup_ratio is another name of --warmup_steps, which is given as well"
        ):
            parse_run(f"--model_name_or_path m {both}".split())
    with pytest.raises(UserError, match="not a share below 1"):
        translate("warmup_ratio", ["1.0"], EVERY)
    with pytest.raises(UserError, match=r"--flash_attn fa9: known values are auto, .* \(today --attention\)"):
        translate("flash_attn", ["fa9"], EVERY)


def test_a_settings_file_of_another_program_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "theirs.yaml").write_text(
        "model_name_or_path: m\nstage: sft\nadapter_name_or_path: a,b\nflash_attn: fa2\ncutoff_len: 512\n"
        "overwrite_cache: true\nwarmup_ratio: 0.1\nddp_timeout: 180000000\nresume_from_checkpoint: null\n"
        "use_unsloth: false\neval_strategy: no\n"
    )
    parsed = parse_run([str(tmp_path / "theirs.yaml")])
    model, data, *_ = parsed.groups
    assert (model.checkpoints, model.attention, data.cutoff_len) == (["a", "b"], "flash_attention_2", 512)
    assert data.overwrite_cache
    assert parsed.training == {"warmup_steps": ["0.1"], "ddp_timeout": ["180000000"], "eval_strategy": ["no"]}
    assert len(caplog.messages) == 4


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_a_flag_of_transformers_that_would_be_ignored_is_refused(name: str, tmp_path: Path) -> None:
    """--label_smoothing_factor 0.1 was accepted and changed nothing."""
    value = {"label_smoothing_factor": "0.1", "generation_config": "x", "length_column_name": "x",
             "include_for_metrics": "loss", "label_names": "x", "eval_accumulation_steps": "2",
             "eval_do_concat_batches": "false", "debug": "underflow_overflow"}  # fmt: skip
    value = value.get(name, "4" if name.startswith("generation") else "true")  # type: ignore[assignment]
    words = f"--do_train --dataset d --model_name_or_path m --output_dir {tmp_path} --bf16 false --{name} {value}"
    with pytest.raises(UserError, match=f"--{name} .* has no effect"):
        run_options(words.split())


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
    "train --model_name_or_path m --dataset d --lr_scheduler_type cosin": "Did you mean 'cosine'?",
    "train --model_name_or_path m --dataset d --learning_rate fast": "--learning_rate takes a number, not 'fast'",
    "plan --model_name_or_path ./nothere --dataset d": "--model_name_or_path ./nothere: there is no such folder",
    "plan --model_name_or_path m --cutoff_len x": "--cutoff_len takes a whole number, not 'x'",
    "plan --model_name_or_path m --cutoff_len 0": "--cutoff_len is 0; it must be at least 1",
    "plan missing.yaml": "cannot read missing.yaml: no such file or directory",
    "chat --model_name_or_path ./nothere": "--model_name_or_path ./nothere: there is no such folder",
    "web --temperature 3 --model_name_or_path m": "--temperature is 3.0; it must be at least 0 and at most 2",
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
    assert eval(loaded) == []
