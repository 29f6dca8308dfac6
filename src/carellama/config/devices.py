"""On which device and backend the processes of a training are, before and after transformers finds its own."""

from __future__ import annotations

from typing import Any

from carellama.config.environment import asked_engine, launched
from carellama.errors import UserError


def before_devices(training: Any, *, gpu: bool) -> None:
    """Settle on which device and backend the processes are, before transformers finds its own.

    DeepSpeed has a CPU too, but accelerate takes it only where it was not told to use the CPU.
    """
    if isinstance(training.fsdp, str) and training.fsdp.lower() in ("true", "false"):  # of a YAML file
        training.fsdp = training.fsdp.lower() == "true" or None
    if gpu:
        return
    through_deepspeed = asked_engine() == "deepspeed" and launched()
    training.use_cpu = not through_deepspeed
    training.dataloader_pin_memory = False
    if through_deepspeed:
        training.ddp_backend = "gloo"
        training.bf16 = training.bf16 or False  # which transformers takes for a GPU's there
    elif training.deepspeed:
        raise UserError(
            "--deepspeed without a GPU: start it with accelerate launch --config_file examples/accelerate/zero2.yaml"
        )


def after_devices(training: Any) -> None:
    """Let FSDP have a CPU: accelerate has it for processes with a GPU of their own, and goes on as DDP else.

    The type of the processes is all that it asks; torch's FSDP2 itself works over gloo.
    """
    from accelerate.utils import DistributedType

    state = training.distributed_state
    if wants_fsdp(training) and training.use_cpu and training.world_size > 1:
        state._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def wants_fsdp(training: Any) -> bool:
    """Whether FSDP was asked for, by --fsdp or by the launcher."""
    return bool(training.fsdp) or asked_engine() == "fsdp"
