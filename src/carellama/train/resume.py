"""Whether a run may be resumed from a checkpoint: with the same options and data, or those of --resume_changed.

    changes = check_changes(config, checkpoint, sources)   # raises UserError; {"max_steps": [60, 100]}

A checkpoint holds the run.json of the run that wrote it. Options that differ from it are of three kinds: those that do
not change what is learned (`HARMLESS`), those that the saved state does not fit (`FIXED`), and all others, which are
refused unless they are named.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from carellama.config.run import RunOptions, settings_of
from carellama.errors import UserError
from carellama.model.adapter_plan import trained_checkpoints
from carellama.records import JSONObject
from carellama.run_record import changed_weights, foundation, read_run
from carellama.train.distributed import engine_of, step_batch

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

DATA = "dataset contents"  # how a changed file of a dataset is named in messages
DATA_OPTION = "dataset"  # the option that allows it
# output, logging, saving, speed: what is learned stays the same up to rounding
HARMLESS = frozenset(
    """
    output_dir overwrite_output_dir resume_from_checkpoint resume_changed skip_plan do_train do_eval do_predict
    predict_with_generate plot_loss show_example cache_dir hf_auth_token dataset_dir data_cache_dir overwrite_cache
    preprocessing_num_workers trust_remote_code trust_dataset_script allow_pickle accept_licence attention row_tokens
    logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_level log_level_replica
    log_on_each_node disable_tqdm report_to run_name project trackio_space_id trackio_static_space_id trackio_bucket_id
    save_strategy save_steps save_total_limit save_on_each_node save_only_model enable_jit_checkpoint push_to_hub
    hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision per_device_eval_batch_size
    eval_accumulation_steps eval_on_start eval_use_gather_object eval_do_concat_batches dataloader_pin_memory
    dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context gradient_checkpointing
    gradient_checkpointing_kwargs activation_checkpointing activation_checkpointing_kwargs torch_empty_cache_steps
    torch_compile torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config use_cache use_cpu
    local_rank ddp_backend ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers ddp_find_unused_parameters
    ddp_static_graph skip_memory_metrics debug include_num_input_tokens_seen restore_callback_states_from_checkpoint
    deepspeed fsdp fsdp_config accelerator_config parallelism_config remove_unused_columns label_names reward_timeout
    judge_endpoint on_bad_record
    """.split()
)
EVALUATION = frozenset(
    "eval_strategy eval_steps eval_delay eval_dataset max_eval_samples bf16_full_eval fp16_full_eval".split()
)
ANSWERS = frozenset(  # read by --do_predict, and by the stages that learn from their own answers
    """
    do_sample temperature top_p top_k num_beams max_new_tokens repetition_penalty length_penalty
    """.split()
)
FIXED = frozenset(
    """
    stage finetuning_type model_name_or_path model_revision checkpoint_dir lora_rank lora_target peft_type use_dora
    oft_block_size pissa_init pissa_iter add_tokens num_layer_trainable name_module_trainable resume_lora_training
    loraplus_lr_ratio optim optim_args optim_target_modules lr_scheduler_type lr_scheduler_kwargs
    """.split()
)
OF_OPTIMIZER = {  # option -> what of the optimizer's groups it sets
    "learning_rate": ("lr", "initial_lr"), "weight_decay": ("weight_decay",), "adam_beta1": ("betas",),
    "adam_beta2": ("betas",), "adam_epsilon": ("eps",),
}  # fmt: skip
# whose product is what counts, except in stages whose loss is that of a batch as a whole
BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")


def check_changes(
    options: RunOptions, checkpoint: str, sources: Sequence[Mapping[str, object]] | None = None
) -> dict[str, list[object]]:
    """Return the options that differ from those of the checkpoint and are allowed to, each with [then, now].

    `sources` describe the data as it is now; None: the data is not read yet. Raises `UserError` for all others, and
    for a checkpoint without the state of the optimizer.
    """
    folder = Path(checkpoint)
    if not any(folder.glob("optimizer*")) and not any(folder.glob("global_step*")):
        raise UserError(
            f"{checkpoint} has no state of the optimizer (--save_only_model), so the run cannot be resumed: give it as "
            "--checkpoint_dir to begin a new training on it, or --overwrite_output_dir to begin again"
        )
    record = read_run(folder)
    if record is None:
        log.warning("%s has no run.json: whether its options were the same is not known", checkpoint)
        return {}
    if changed := changed_weights(record.get("used", {}).get("foundation", []), foundation_of(options)):
        raise UserError(
            f"{checkpoint} cannot be resumed: weights of {', '.join(changed)} are not those that the run began with: "
            "put them back, or begin again with --overwrite_output_dir or another --output_dir"
        )
    now = json.loads(json.dumps(settings_of(options), default=str))
    found = changed_options(record.get("settings", {}), now, options)
    same_batch = record.get("used", {}).get("batch") == step_batch(options.training)
    if same_batch and options.stage.loss_unit is not None:
        found = {name: values for name, values in found.items() if name not in BATCH}
    if sources is not None and DATA_OPTION not in found:
        contents: list[object] = [_contents(record.get("data", []), options), _contents(sources, options)]
        if contents[0] != contents[1]:
            found[DATA] = contents
    _refuse(options, checkpoint, found)
    return found


def foundation_of(options: RunOptions) -> list[dict[str, object]]:
    """The weights that a training begins from: its base and the checkpoints that it does not train further."""
    return foundation(options.model, trained_checkpoints(options)[:-1])


def changed_options(
    then: Mapping[str, JSONObject], now: Mapping[str, JSONObject], options: RunOptions
) -> dict[str, list[object]]:
    """Return the options of two runs that differ and may change what is learned, each with [then, now]."""
    found: dict[str, list[object]] = {}
    for group, settings in now.items():
        before = then.get(group, {})
        for name, value in settings.items():
            if name == "dataloader_num_workers" and max(before.get(name, 0), 1) == max(value, 1):
                continue  # one worker reads a stream in the order that the process itself does
            if name in before and before[name] != value and not _is_harmless(name, options):
                found[name] = [before[name], value]
    return found


def _is_harmless(name: str, options: RunOptions) -> bool:
    """Whether an option may differ without a word. Of a stream, the number of workers decides on the order."""
    if name == "dataloader_num_workers":
        return not options.data.streaming
    if name in EVALUATION:
        return not options.training.load_best_model_at_end
    if name in ANSWERS:
        return not options.stage.generates
    return name in HARMLESS


def _contents(sources: Sequence[Mapping[str, object]], options: RunOptions) -> dict[str, object]:
    """Name to digest of the training data; of a stream, whose files are not read for one, their sizes and times."""
    named = [one for one in sources if one.get("name") in options.data.datasets]
    return {str(one["name"]): one.get("sha1") or one.get("files") for one in named}


def _refuse(options: RunOptions, checkpoint: str, found: Mapping[str, Sequence[object]]) -> None:
    allowed = set(options.own.changed)
    fixed = [name for name in found if name in FIXED]
    again = "begin again with --overwrite_output_dir or another --output_dir"
    if fixed:
        raise UserError(
            f"{checkpoint} cannot be resumed with another {_shown(fixed, found)}: its state belongs to the old value; "
            f"give the same, or {again}"
        )
    refused = [name for name in found if (DATA_OPTION if name == DATA else name) not in allowed]
    if refused:
        names = ",".join(dict.fromkeys(DATA_OPTION if name == DATA else name for name in found))
        raise UserError(
            f"{checkpoint} was made with another {_shown(refused, found)}: give the same, {again}, or confirm with "
            f"--resume_changed {names}"
        )
    if set(found) & set(OF_OPTIMIZER) and engine_of(options.training).name.startswith("ZeRO"):
        raise UserError(
            f"DeepSpeed restores the optimizer by itself, with the old {_shown(list(found), found)}: {again}"
        )
    steps = options.training.max_steps
    if "max_steps" in found and 0 < steps <= (reached := _step(checkpoint)):
        raise UserError(f"--max_steps {steps}: {checkpoint} is at step {reached} already")


def _shown(names: Sequence[str], found: Mapping[str, Sequence[object]]) -> str:
    """`--learning_rate (5e-05, now 0.0001), dataset contents (a)`."""
    shown = []
    for name in names:
        then, now = found[name]
        if name == DATA:
            before, after = cast("list[dict[str, object]]", [then, now])
            files = [key for key in {**before, **after} if before.get(key) != after.get(key)]
            shown.append(f"{DATA} ({', '.join(files)})")
        else:
            shown.append(f"--{name} ({_value(then)}, now {_value(now)})")
    return ", ".join(shown)


def _value(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _step(checkpoint: str) -> int:
    """The step that a checkpoint was written at."""
    return int(json.loads(Path(checkpoint, "trainer_state.json").read_text(encoding="utf-8"))["global_step"])


def history(checkpoint: str, changes: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    """Return what run.json says of changes when a run was resumed: those of before, and these."""
    entries = list((read_run(Path(checkpoint)) or {}).get("resumed", []))
    if changes:
        entries.append({"step": _step(checkpoint), "changed": {name: list(values) for name, values in changes.items()}})
        log.warning("resumed at step %d with another %s", _step(checkpoint), _shown(list(changes), changes))
    return entries


def apply_changes(
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    own: Sequence[Mapping[str, float]],
    changes: Collection[str],
) -> None:
    """Give an optimizer that was loaded from a checkpoint the values of changed options, and the rate of its step.

    `own` are its groups as the options made them. The schedule is that of the new options, from the resumed step on.
    """
    keys = {key for name in changes for key in OF_OPTIMIZER.get(name, ())}
    for group, made in zip(optimizer.param_groups, own, strict=True):
        group.update({key: made[key] for key in keys if key in made})
    if not hasattr(scheduler, "lr_lambdas"):
        return
    if "learning_rate" in changes:
        scheduler.base_lrs = [made["initial_lr"] for made in own]
    rates = [
        base * rate(scheduler.last_epoch) for base, rate in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
