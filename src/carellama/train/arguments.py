"""transformers' training arguments, made from the words of a command line: the one place that builds them.

    build_arguments(TrainingOptions(), {"output_dir": ["out"], "learning_rate": ["1e-4"]})

transformers parses the words itself. What it would settle otherwise on this machine is decided before and after:
device, precision, kernels, trackers.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

from transformers import HfArgumentParser, Seq2SeqTrainingArguments

from carellama.config.environment import asked_engine, drop_mixed_precision, launched
from carellama.config.options import split_commas
from carellama.config.run import TrainingOptions
from carellama.errors import UserError, lookup
from carellama.hardware import default_training_dtype, fastest_dtype, has_gpu
from carellama.stages import greater_is_better
from carellama.train.distributed import wants_fsdp

if TYPE_CHECKING:
    from carellama.config.run import Training

log = logging.getLogger(__name__)

LIGER = {"rope": True, "rms_norm": True, "swiglu": True, "cross_entropy": False, "fused_linear_cross_entropy": False}


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def build_arguments(own: TrainingOptions, words: Mapping[str, Sequence[str]]) -> Training:
    """Return the arguments of a training. Raises `UserError` for what transformers or this machine cannot do."""
    flags = [word for name, values in words.items() for word in (f"--{name}", *values)]
    parsed = vars(_Parser(cast("Any", Seq2SeqTrainingArguments), allow_abbrev=False).parse_args(flags))
    values: dict[str, Any] = {name: parsed[name] for name in words}
    values |= {"log_level": own.log_level, "fp16": own.fp16, "bf16": own.bf16}
    values["remove_unused_columns"] = False  # a batch is made of Tokens, which have no columns
    values["label_names"] = values.get("label_names") or ["labels"]
    if values.get("greater_is_better") is None and values.get("metric_for_best_model"):
        values["greater_is_better"] = greater_is_better(values["metric_for_best_model"])
    _set_device(values)
    _set_precision(values)
    _set_liger(values, wanted=own.use_liger_kernel)
    trackers = _trackers(own.report_to)
    # transformers' TensorBoard writes into the working folder where nothing is trained
    values["report_to"] = trackers if values.get("do_train") else []
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
            arguments = cast("Training", Seq2SeqTrainingArguments(**values))
    except (ValueError, ImportError) as error:
        raise UserError(str(error).replace("\n", " ")) from error
    allow_fsdp_on_cpu(arguments)
    return arguments


def _set_device(values: dict[str, Any]) -> None:
    """Settle on which device and backend the processes are, before transformers finds its own.

    DeepSpeed has a CPU too, but accelerate takes it only where it was not told to use the CPU.
    """
    fsdp = values.get("fsdp")
    if isinstance(fsdp, str) and fsdp.lower() in ("true", "false"):  # of a YAML file
        values["fsdp"] = fsdp.lower() == "true" or None
    if has_gpu():
        return
    through_deepspeed = asked_engine() == "deepspeed" and launched()
    values |= {"use_cpu": not through_deepspeed, "dataloader_pin_memory": False}
    if through_deepspeed:
        values["ddp_backend"] = "gloo"
        values["bf16"] = values["bf16"] or False  # which transformers takes for a GPU's there
    elif values.get("deepspeed"):
        raise UserError(
            "--deepspeed without a GPU: start it with accelerate launch --config_file examples/accelerate/zero2.yaml"
        )


def _set_precision(values: dict[str, Any]) -> None:
    fastest = default_training_dtype if values.get("do_train") else fastest_dtype
    if not has_gpu() and values["fp16"]:
        log.warning("--fp16 needs a GPU: going on in %s on this CPU", "bfloat16" if values["bf16"] else fastest())
        values["fp16"] = False
        drop_mixed_precision()
    if values["bf16"] is None:
        values["bf16"] = not values["fp16"] and fastest() == "bfloat16"


def _set_liger(values: dict[str, Any], *, wanted: bool | None) -> None:
    """Decide on Liger's kernels, and leave the head and its loss to ours."""
    from transformers.utils import is_liger_kernel_available

    here = has_gpu() and is_liger_kernel_available()
    if wanted and not here:
        raise UserError("--use_liger_kernel needs a GPU and: pip install liger-kernel")
    values["use_liger_kernel"] = here if wanted is None else wanted
    if values["use_liger_kernel"] and values.get("liger_kernel_config") is None:
        values["liger_kernel_config"] = LIGER


def _trackers(wanted: str | None) -> list[str]:
    """The trackers by name. `UserError` for one that transformers does not know, or that is not installed."""
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    here = get_available_reporting_integrations()
    if wanted is None:
        return ["tensorboard"] if "tensorboard" in here else []
    names = [name for name in split_commas(wanted) if name != "none"]
    for name in names:
        if name == "all":
            continue
        lookup(INTEGRATION_TO_CALLBACK, name, "tracker (--report_to)")
        if name not in here:
            raise UserError(f"--report_to {name}: it is not installed; pip install {name}")
    return names


def allow_fsdp_on_cpu(arguments: Training) -> None:
    """Let FSDP have a CPU: accelerate has it for processes with a GPU of their own, and goes on as DDP else.

    The type of the processes is all that it asks; torch's FSDP2 itself works over gloo.
    """
    from accelerate.utils import DistributedType

    state = arguments.distributed_state
    if wants_fsdp(arguments) and arguments.use_cpu and arguments.world_size > 1:
        state._shared_state["distributed_type"] = DistributedType.MULTI_GPU
