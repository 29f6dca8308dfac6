"""No option is accepted and ignored in silence: a line names it, or it is refused with what to do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from carellama.config.options import field_names
from carellama.config.run import RUN_OPTIONS, RunOptions
from carellama.config.transformers_options import training_flags
from carellama.errors import UserError
from carellama.stages import STAGES, greater_is_better
from carellama.train.flag_checks import ABOVE_ZERO, BELOW, LEAST
from carellama.train.no_effect import OF_KIND, options_without_effect
from carellama.train.options import run_options

TRAIN = "--do_train --model_name_or_path m --dataset d --bf16 false --report_to none"
NAMES = {name for group in RUN_OPTIONS for name in field_names(group)} | set(training_flags())


def config_of(words: str, tmp_path: Path) -> RunOptions:
    return run_options(f"{words} --output_dir {tmp_path}".split())


SILENT = {  # words of a training -> the options that had no effect, and nothing said so
    "--finetuning_type full --lora_rank 4 --lora_target all": ["lora_rank", "lora_target"],
    "--num_layer_trainable 1": ["num_layer_trainable"],
    "--peft_type ia3 --lora_rank 4": ["lora_rank"],
    "--oft_block_size 16 --pissa_iter 3": ["oft_block_size", "pissa_iter"],
    "--resume_lora_training true": ["resume_lora_training"],
    "--pref_beta 0.3 --simpo_gamma 1 --kto_chosen_weight 2": ["pref_beta", "simpo_gamma", "kto_chosen_weight"],
    "--stage dpo --simpo_gamma 1 --mask_history": ["simpo_gamma", "mask_history"],
    "--ppo_epochs 2 --grpo_beta 0.1": ["ppo_epochs", "grpo_beta"],
    "--stage pt --template default --system_prompt x": ["template", "system_prompt"],
    "--quantization_type fp4 --rope_factor 4": ["quantization_type", "rope_factor"],
    "--max_new_tokens 5 --temperature 0.1": ["max_new_tokens", "temperature"],
    "--stage grpo --rewards letter --temperature 0.1 --top_p 1": ["temperature", "top_p"],
    "--stage ppo --reward_model r --length_penalty 2 --reward_timeout 3": ["length_penalty", "reward_timeout"],
    "--stage ppo --reward_model r --dataloader_drop_last": ["dataloader_drop_last"],
    "--buffer_size 4 --mix_strategy interleave_over": ["buffer_size", "mix_strategy"],
    "--streaming --max_steps 2 --dataloader_drop_last --num_train_epochs 2": [
        "dataloader_drop_last",
        "num_train_epochs",
    ],
    "--val_size 4": ["val_size"],
    "--eval_dataset e --max_eval_samples 2": ["eval_dataset", "max_eval_samples"],
    "--max_steps 3 --num_train_epochs 5": ["num_train_epochs"],
    "--eval_steps 3 --eval_delay 2": ["eval_steps", "eval_delay"],
    "--save_strategy epoch --save_steps 3": ["save_steps"],
    "--save_strategy no --save_total_limit 3": ["save_total_limit"],
    "--logging_strategy epoch --logging_steps 3": ["logging_steps"],
    "--metric_for_best_model loss --greater_is_better true": ["metric_for_best_model", "greater_is_better"],
    "--hub_model_id a/b --hub_token t": ["hub_model_id", "hub_token"],
    "--optim_args a=1 --optim_target_modules all": ["optim_args", "optim_target_modules"],
    "--run_name r --project p": ["run_name", "project"],
    "--dataloader_persistent_workers": ["dataloader_persistent_workers"],
}


@pytest.mark.parametrize("words", SILENT)
def test_an_option_without_effect_is_named(words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "carellama"):
        config_of(f"{TRAIN} {words}", tmp_path)
    said = [line for line in caplog.messages if " no effect: " in line]
    named = {word.strip(",").removeprefix("--") for line in said for word in line.partition(" ha")[0].split()}
    assert named == set(SILENT[words])


READ = (
    "--lora_rank 4 --lora_alpha 3 --lora_dropout 0.2 --lora_target all --use_dora true",
    "--finetuning_type freeze --num_layer_trainable 1 --name_module_trainable all",
    "--stage dpo --pref_loss simpo --simpo_gamma 1 --pref_beta 0.3 --pref_ftx 1",
    "--stage kto --kto_chosen_weight 2 --pref_beta 0.2",
    "--stage grpo --rewards letter --max_new_tokens 4 --rollout_temperature 0.8 --loraplus_lr_ratio 4",
    "--stage ppo --reward_model http://x --reward_timeout 3 --top_p 1 --ppo_epochs 2",
    "--mask_history --system_prompt x --template default --cutoff_len 64 --max_samples 3 --seed 3 --data_seed 4",
    "--val_size 4 --eval_strategy steps --eval_steps 2 --eval_delay 1 --load_best_model_at_end --save_steps 2 "
    "--metric_for_best_model perplexity --save_total_limit 1",
    "--eval_dataset e --do_predict --predict_with_generate --max_new_tokens 4 --temperature 0.1 --num_beams 2 "
    "--length_penalty 2",
    "--streaming --max_steps 3 --buffer_size 4 --optim sgd --optim_args momentum=0.9 --warmup_steps 1",
    "--quantization_bit 4 --quantization_type fp4 --rope_scaling linear --rope_factor 4 --neftune_noise_alpha 5",
    "--num_train_epochs 2 --logging_steps 3 --gradient_checkpointing --dataloader_num_workers 1 "
    "--dataloader_persistent_workers --max_grad_norm 0 --weight_decay 0.1",
    "--lora_rank 8 --num_layer_trainable 3 --pref_beta 0.1 --report_to none",
)


@pytest.mark.parametrize("words", READ)
def test_an_option_that_is_read_is_not_named(words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "carellama"):
        config_of(f"{TRAIN} {words}", tmp_path)
    assert [line for line in caplog.messages if "no effect" in line] == []


def test_options_of_a_training_are_named_where_nothing_is_trained(tmp_path: Path) -> None:
    words = "--do_predict --predict_with_generate --model_name_or_path m --dataset d --bf16 false"
    words += " --learning_rate 3 --max_new_tokens 4 --lora_target q_proj --do_sample false --top_p 0.2"
    options = config_of(words, tmp_path)
    lines = options_without_effect(options, options.asked)
    assert lines == [
        "--top_p has no effect: --do_sample false takes the likeliest token",
        "--learning_rate has no effect: nothing is trained (--do_train)",
    ]


def test_the_tables_name_options_that_exist() -> None:
    from carellama.train import flag_checks as training_flags
    from carellama.train import no_effect

    others = {"INTERVAL_ENDS", "LESS_IS_BETTER", "SAMPLING", "WITH_ARGUMENTS", "WITH_TARGETS", "OF_KIND"}
    constants = {**vars(no_effect), **vars(training_flags)}
    tables: list[Any] = [
        value
        for name, value in constants.items()
        if name.isupper() and name not in others and isinstance(value, (tuple, dict))
    ]
    assert len(tables) >= 8
    assert {name for table in tables for name in table} <= NAMES
    assert {name for names in OF_KIND.values() for name in names} <= NAMES


@pytest.mark.parametrize("name", [*LEAST, *ABOVE_ZERO, *BELOW, "max_steps"])
def test_a_number_that_cannot_be_meant_is_refused(name: str, tmp_path: Path) -> None:
    """--num_train_epochs 0 and --max_steps 0 ended as finished runs; --seed -1 and batches of 0 in a traceback."""
    lowest = -1 if name in LEAST or name == "logging_steps" else 0
    for value in [lowest, *([BELOW[name]] if name in BELOW else [])]:
        with pytest.raises(UserError, match=f"--{name} is {value}"):
            config_of(f"{TRAIN} --{name} {value}", tmp_path)


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "max_grad_norm", "adam_epsilon"])
def test_nan_is_no_number_of_a_training(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--{name} is nan"):
        config_of(f"{TRAIN} --{name} nan", tmp_path)


def test_an_adapter_without_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--lora_alpha is 0\.0; it must be above 0"):
        config_of(f"{TRAIN} --lora_alpha 0", tmp_path)


BEST = (
    "--eval_strategy steps --eval_steps 1 --save_steps 1 --val_size 2 --load_best_model_at_end --metric_for_best_model"
)


@pytest.mark.parametrize("stage", STAGES)
def test_the_best_step_is_chosen_by_what_the_stage_measures(stage: str, tmp_path: Path) -> None:
    """The name was looked up after the first evaluation, and a wrong one ended in a traceback."""
    more = {"ppo": "--reward_model r", "grpo": "--rewards letter"}.get(stage, "")
    known = config_of(f"{TRAIN} {more} --stage {stage} {BEST} {STAGES[stage].metrics[-1]}", tmp_path)
    assert known.training.metric_for_best_model == STAGES[stage].metrics[-1]
    with pytest.raises(UserError, match=f"bleu is not measured by --stage {stage}"):
        config_of(f"{TRAIN} {more} --stage {stage} {BEST} bleu", tmp_path)


@pytest.mark.parametrize(
    ("metric", "greater"),
    [("perplexity", False), ("eval_perplexity", False), ("loss_high", False), ("loss", False), ("accuracy", True),
     ("margin_low", True), ("en_perplexity", False), ("score", True), ("kl", False)],
)  # fmt: skip
def test_the_lowest_perplexity_is_the_best(metric: str, greater: bool) -> None:
    """transformers takes what is not called a loss for something to be large: the worst step was kept."""
    assert greater_is_better(metric) is greater


def test_the_best_step_by_perplexity_is_the_lowest_unless_asked_otherwise(tmp_path: Path) -> None:
    assert config_of(f"{TRAIN} {BEST} perplexity", tmp_path).training.greater_is_better is False
    asked = config_of(f"{TRAIN} {BEST} perplexity --greater_is_better true", tmp_path)
    assert asked.training.greater_is_better is True


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--save_strategy best", "--save_strategy best needs --eval_strategy"),
        ("--train_sampling_strategy sequential --streaming --max_steps 2", "--buffer_size 1 keeps its order"),
        ("--train_sampling_strategy sequential --stage ppo --reward_model r", "draws its prompts at random"),
        ("--train_sampling_strategy sequential --stage grpo --rewards letter", "draws its prompts at random"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_model_is_loaded(words: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        config_of(f"{TRAIN} {words}", tmp_path)
