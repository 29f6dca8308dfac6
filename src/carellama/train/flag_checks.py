"""transformers' training flags that this training refuses: those that it would ignore, and values that cannot be meant.

    check_training_flags(config)     # raises UserError; loads no library

A flag is in `UNSUPPORTED` where it would be accepted and change nothing, or something else than it says. The bounds
are those below which a training does nothing, or torch fails in the middle of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from carellama.errors import UserError, nearest
from carellama.stages import plain_metric

if TYPE_CHECKING:
    from carellama.config.run import RunOptions

METRICS_ARE_FIXED = "evaluation gives the metrics of the stage; leave it out"
IN_BATCHES = "evaluation keeps numbers only, no logits; leave it out"
PRECISION = "evaluation computes as the training does; --dtype or --bf16 set the precision"
# flags of transformers that its own loss, batches or evaluation would read: (default, what to do instead)
UNSUPPORTED: dict[str, tuple[object, str]] = {
    "label_smoothing_factor": (0.0, "the loss is that of the stage; for dpo there is --dpo_label_smoothing"),
    "label_names": (["labels"], "the labels are made with the records; leave it out"),
    "generation_max_length": (None, "--max_new_tokens sets the length of an answer"),
    "generation_num_beams": (None, "give --num_beams"),
    "generation_config": (None, "give --temperature, --top_p, --top_k, --num_beams and --max_new_tokens"),
    "sortish_sampler": (False, "batches have no padding; leave it out"),
    "prediction_loss_only": (False, METRICS_ARE_FIXED),
    "batch_eval_metrics": (False, METRICS_ARE_FIXED),
    "include_for_metrics": ([], METRICS_ARE_FIXED),
    "eval_accumulation_steps": (None, IN_BATCHES),
    "eval_do_concat_batches": (True, IN_BATCHES),
    "eval_use_gather_object": (False, IN_BATCHES),
    "bf16_full_eval": (False, PRECISION),
    "fp16_full_eval": (False, PRECISION),
    "length_column_name": ("length", "records are not grouped by length; leave it out"),
    "enable_jit_checkpoint": (False, "SIGTERM always leaves a checkpoint; leave it out"),
    "auto_find_batch_size": (
        False, "a step of fewer records learns otherwise; carellama plan finds what fits, and --row_tokens bounds the "
        "memory of a step with the same outcome"),
    "debug": ([], "the training stops by itself at a loss that is no number; leave it out"),
}  # fmt: skip
SAMPLING = ("random", "sequential")  # ways of --train_sampling_strategy that need no lengths
LEAST = {  # the smallest value that can be meant
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1,
    "save_total_limit": 1, "dataloader_num_workers": 0, "learning_rate": 0, "weight_decay": 0, "max_grad_norm": 0,
    "adam_beta1": 0, "adam_beta2": 0, "eval_delay": 0, "seed": 0, "data_seed": 0,
}  # fmt: skip
ABOVE_ZERO = ("num_train_epochs", "logging_steps", "save_steps", "eval_steps", "adam_epsilon", "neftune_noise_alpha")
BELOW = {"adam_beta1": 1, "adam_beta2": 1, "seed": 2**32, "data_seed": 2**32}


def check_training_flags(options: RunOptions) -> None:
    """Raise `UserError` for flags of transformers that have no effect here, and for values that cannot be meant."""
    training = options.training
    for name, (default, instead) in UNSUPPORTED.items():
        if (value := getattr(training, name)) != default:
            raise UserError(f"--{name} {_shown(value)} has no effect on this training: {instead}")
    _check_numbers(options)
    _check_order(options)
    if training.do_train:
        _check_best(options)


def _shown(value: object) -> str:
    """The value as a person writes it."""
    values = value if isinstance(value, list) else [value]
    return ",".join(str(getattr(one, "value", one)) for one in values)


def _check_numbers(options: RunOptions) -> None:
    training = options.training
    for name in dict.fromkeys([*LEAST, *ABOVE_ZERO]):
        value = getattr(training, name)
        if name == "eval_steps" and name in options.asked:
            value = float(options.asked[name])  # for 0 transformers has put --logging_steps
        if value is None:
            continue
        if name in ABOVE_ZERO and not value > 0:
            raise UserError(f"--{name} is {value:g}; it must be above 0")
        if not math.isfinite(value) or value < LEAST.get(name, value) or value >= BELOW.get(name, math.inf):
            bounds = f"at least {LEAST[name]}" if name in LEAST else "finite"
            below = f", and below {BELOW[name]:,}" if name in BELOW else ""
            raise UserError(f"--{name} is {value:.15g}; it must be {bounds}{below}")
    if training.do_train and training.learning_rate == 0:
        raise UserError("--learning_rate is 0, at which nothing is learned; give a number above 0, such as 5e-5")
    steps = options.asked.get("max_steps")
    if training.max_steps == 0 or training.max_steps < -1:
        raise UserError(f"--max_steps is {steps or training.max_steps}; give at least 1, or -1 for --num_train_epochs")


def _check_order(options: RunOptions) -> None:
    """The order of the records: what --train_sampling_strategy cannot set."""
    strategy, stage = options.training.train_sampling_strategy, options.stage
    if strategy not in SAMPLING:
        raise UserError(
            f"--train_sampling_strategy {strategy}: batches have no padding, so grouping by length saves nothing; "
            f"known: {', '.join(SAMPLING)}"
        )
    if strategy == "random" or not options.training.do_train:
        return
    if stage.generates:
        raise UserError(
            f"--train_sampling_strategy {strategy}: --stage {stage.name} draws its prompts at random; leave it out"
        )
    if options.data.streaming:
        raise UserError(
            f"--train_sampling_strategy {strategy}: --buffer_size shuffles a stream; --buffer_size 1 keeps its order"
        )


def _check_best(options: RunOptions) -> None:
    """What the best checkpoint is chosen by has to be measured."""
    training, stage = options.training, options.stage
    metric = training.metric_for_best_model
    if training.save_strategy == "best" and (metric is None or training.eval_strategy == "no"):
        raise UserError(
            f"--save_strategy best needs --eval_strategy steps or epoch, and --metric_for_best_model "
            f"({', '.join(stage.metrics)})"
        )
    if metric is None or training.eval_strategy == "no":
        return
    known = [*stage.metrics, *(f"rewards_{name}" for name in options.grpo.names)]
    name = plain_metric(metric)
    if name not in stage.metric_aliases and not any(name == one or name.endswith(f"_{one}") for one in known):
        raise UserError(
            f"--metric_for_best_model {metric} is not measured by --stage {stage.name}.{nearest(name, known)} Known: "
            f"{', '.join(known)}"
        )
