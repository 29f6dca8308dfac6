"""Options that a run accepts and has no use for: a line names them, so that nobody takes them to have worked.

    options_without_effect(config, asked)   # ["--lora_rank has no effect: --finetuning_type full trains no adapter"]

`asked` are the options that were given; one that has its default value is not named. Options that contradict each
other are refused elsewhere (`carellama.config.run`, `carellama.train.flag_checks`). Loads no library.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, cast

from carellama.config.engine import GenerationOptions
from carellama.config.objectives import READ_BY
from carellama.config.options import field_names
from carellama.config.run import LEARNING

if TYPE_CHECKING:
    from carellama.config.run import RunOptions


ANSWERS = field_names(GenerationOptions)
SHARED_WITH_GRPO = ("max_new_tokens",)
OF_HUB = ("hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push", "hub_revision")
OF_WORKERS = ("dataloader_persistent_workers", "dataloader_multiprocessing_context", "dataloader_in_order")
ADAPTER = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target", "peft_type", "oft_block_size")
OF_KIND = {  # of a kind of adapters: what it does not have
    "vera": ("lora_alpha",), "oft": ("lora_rank", "lora_alpha"), "hra": ("lora_alpha", "lora_dropout"),
    "ia3": ("lora_rank", "lora_alpha", "lora_dropout"),
}  # fmt: skip
# optimizers that read --optim_args, and --optim_target_modules, by a part of their names
WITH_ARGUMENTS = ("galore", "apollo", "lomo", "ademamix", "anyprecision", "rmsprop", "stable_adamw", "schedule_free",
                  "sgd", "adagrad")  # fmt: skip
WITH_TARGETS = ("galore", "apollo")


def options_without_effect(options: RunOptions, asked: Mapping[str, str]) -> list[str]:
    """Return a line for each reason, with the options that were given and have no effect for it."""
    lines: list[str] = []
    for found, reason in without_effect(options, asked):
        names = ", ".join(f"--{name}" for name in found)
        lines.append(f"{names} {'have' if len(found) > 1 else 'has'} no effect: {reason}")
    return lines


def without_effect(options: RunOptions, asked: Mapping[str, str]) -> list[tuple[list[str], str]]:
    """Return the options that were given and have no effect, by the reason."""
    given = [name for name, value in asked.items() if value.lower() != "none" and _is_set(options, name)]
    groups: list[tuple[list[str], str]] = []
    named: set[str] = set()
    for useless, reason in _reasons(options):
        found = [name for name in given if name in useless and name not in named]
        named.update(found)
        if found:
            groups.append((found, reason))
    return groups


def _is_set(options: RunOptions, name: str) -> bool:
    """Whether an option has another value than its default."""
    for part in dataclasses.fields(options):
        group = getattr(options, part.name)
        if not dataclasses.is_dataclass(group):
            continue
        for field in dataclasses.fields(group):
            if field.name == name:
                return bool(getattr(group, name) != field.default)
    return False


def _reasons(options: RunOptions) -> list[tuple[Collection[str], str]]:
    """All reasons that hold for this run, each with the options that it makes useless."""
    found = _of_stage(options) + _of_generating(options) + _of_data(options)
    if not options.training.do_train:
        return [*found, (LEARNING, "nothing is trained (--do_train)")]
    return found + _of_adapter(options) + _of_training(options)


def _of_stage(options: RunOptions) -> list[tuple[Collection[str], str]]:
    stage, loss = options.stage, options.preference.pref_loss
    found: list[tuple[Collection[str], str]] = []
    for stages in dict.fromkeys(READ_BY.values()):
        if stage.name not in stages:
            names = [name for name, readers in READ_BY.items() if readers == stages]
            found.append((names, f"not in --stage {stage.name}, but {' and '.join(stages)}"))
    if loss != "simpo":
        found.append((("simpo_gamma",), f"--pref_loss {loss} has no margin; simpo has"))
    if stage.keeps_rollout:
        found.append((("dataloader_drop_last",), f"--stage {stage.name} fills its last rollout"))
    if not stage.has_chat_format:
        found.append((("template", "system_prompt"), f"--stage {stage.name} learns texts as they are"))
    if not (options.reward.reward_model or "").startswith("http"):
        found.append((("reward_timeout",), "--reward_model is not the address of a server"))
    if not options.model.quantization_bit:
        found.append((("quantization_type", "double_quantization"), "--quantization_bit is not given"))
    elif options.model.quantization_bit != 4:
        found.append((("quantization_type", "double_quantization"), "only --quantization_bit 4 reads it"))
    if not options.model.rope_scaling:
        found.append((("rope_factor",), "--rope_scaling is not given"))
    return found


def _of_generating(options: RunOptions) -> list[tuple[Collection[str], str]]:
    stage, training, generating = options.stage, options.training, options.generating
    if stage.compares_completions:
        others = [name for name in ANSWERS if name not in SHARED_WITH_GRPO]
        return [(others, f"--stage {stage.name} samples by --rollout_temperature alone")]
    if not training.do_predict and not stage.generates:
        return [(ANSWERS, "nothing is answered (--do_predict)")]
    found: list[tuple[Collection[str], str]] = []
    if not generating.do_sample:
        found.append((("temperature", "top_p", "top_k"), "--do_sample false takes the likeliest token"))
    elif not generating.temperature:
        found.append((("top_p", "top_k"), "--temperature 0 takes the likeliest token"))
    if generating.num_beams == 1:
        found.append((("length_penalty",), "it is of beam search (--num_beams)"))
    return found


def _of_data(options: RunOptions) -> list[tuple[Collection[str], str]]:
    data, training = options.data, options.training
    found: list[tuple[Collection[str], str]] = []
    if not data.streaming:
        found.append((("buffer_size",), "--streaming is not given: all records are shuffled"))
    elif training.do_train:
        found.append((("dataloader_drop_last",), "a stream has no last batch"))
        found.append((("num_train_epochs",), "a stream ends at --max_steps"))
    if len(data.datasets) < 2:
        found.append((("mix_strategy",), "there is one dataset"))
    if not training.do_train and not training.do_eval:
        found.append((("val_size",), "nothing is evaluated by its loss (--do_eval)"))
    elif training.do_train and not training.do_eval and training.eval_strategy == "no":
        measured = "nothing is evaluated (--do_eval, --eval_strategy)"
        found.append((("val_size",), f"{measured}, and its records are only taken away from the training"))
        if not training.do_predict:
            found.append((("eval_dataset", "max_eval_samples"), measured))
    return found


def _of_adapter(options: RunOptions) -> list[tuple[Collection[str], str]]:
    finetuning = options.finetuning
    kind, found = finetuning.finetuning_type, list[tuple[Collection[str], str]]()
    if kind != "freeze":
        found.append((("num_layer_trainable", "name_module_trainable"), "only --finetuning_type freeze reads it"))
    if not options.model.checkpoints:
        found.append((("resume_lora_training",), "there is no --checkpoint_dir"))
    if kind != "lora":
        found.append(((*ADAPTER, "pissa_iter", "resume_lora_training"), f"--finetuning_type {kind} trains no adapter"))
        return found
    found.append((OF_KIND.get(finetuning.peft_type, ()), f"--peft_type {finetuning.peft_type} does not have it"))
    if finetuning.peft_type != "oft":
        found.append((("oft_block_size",), "it is of --peft_type oft"))
    if not finetuning.pissa_init:
        found.append((("pissa_iter",), "--pissa_init is not given"))
    return found


def _of_training(options: RunOptions) -> list[tuple[Collection[str], str]]:
    training = options.training
    optim = str(getattr(training.optim, "value", training.optim))
    chooses = training.load_best_model_at_end or training.save_strategy == "best"
    plateau = training.lr_scheduler_type == "reduce_lr_on_plateau"
    cases: list[tuple[bool, Collection[str], str]] = [
        (training.max_steps > 0, ("num_train_epochs",), "--max_steps is given"),
        (training.eval_strategy == "no", ("eval_steps", "eval_delay"), "--eval_strategy is no"),
        (training.eval_strategy == "epoch", ("eval_steps",), "--eval_strategy is epoch"),
        (training.save_strategy != "steps", ("save_steps",), f"--save_strategy is {_name(training.save_strategy)}"),
        (training.save_strategy == "no", ("save_total_limit",), "--save_strategy is no"),
        (training.logging_strategy != "steps", ("logging_steps",),
         f"--logging_strategy is {_name(training.logging_strategy)}"),
        (not chooses and not plateau, ("metric_for_best_model", "greater_is_better"), "no best step is chosen "
         "(--load_best_model_at_end)"),
        (not training.push_to_hub, OF_HUB, "--push_to_hub is not given"),
        (not any(name in optim for name in WITH_ARGUMENTS), ("optim_args",), f"--optim {optim} does not read it"),
        (not any(name in optim for name in WITH_TARGETS), ("optim_target_modules",),
         f"--optim {optim} does not read it"),
        (not training.report_to, ("run_name",), "there is no tracker (--report_to)"),
        ("trackio" not in cast("list[str]", training.report_to), ("project", "trackio_space_id", "trackio_bucket_id",
         "trackio_static_space_id"), "--report_to trackio is not given"),
        (not training.dataloader_num_workers, OF_WORKERS, "--dataloader_num_workers is 0"),
        (not training.gradient_checkpointing and not training.activation_checkpointing,
         ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
         "--gradient_checkpointing is not given"),
        (not training.use_liger_kernel, ("liger_kernel_config",), "--use_liger_kernel is not given"),
    ]  # fmt: skip
    return [(useless, reason) for holds, useless, reason in cases if holds]


def _name(value: object) -> str:
    return str(getattr(value, "value", value))
