"""The engine that trains in several processes: which one was asked for, and what it cannot do.

    engine = engine_of(config.training)   # Engine("FSDP2", 8, state="SHARDED_STATE_DICT")

The engines are torch's DDP and FSDP2 and DeepSpeed's ZeRO, started by torchrun or `accelerate launch`; the loop that
uses them is transformers'. What one of them cannot do is refused before anything is loaded, and none is exchanged
for another without a word: without a GPU accelerate would go on as DDP where FSDP was asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from carellama.config.environment import asked_engine, launched, lonely, world
from carellama.errors import UserError
from carellama.records import JSONObject

if TYPE_CHECKING:
    from accelerate.utils import DeepSpeedPlugin
    from transformers import TrainingArguments

    from carellama.config.run import RunOptions

ALONE, DDP, FSDP = "one process", "DDP", "FSDP2"
LAUNCH = "launch.json"  # in a checkpoint: the engine that made it
DDP_INSTEAD = "launch it with DDP (torchrun or examples/accelerate/ddp.yaml)"


@dataclass(frozen=True)
class Engine:
    """What trains: its name, in how many processes, and how it writes sharded weights (FSDP)."""

    name: str
    processes: int
    state: str = ""

    @property
    def shards(self) -> bool:
        """Whether each process holds a part only: of the weights (FSDP2, ZeRO-3), or of what is learned."""
        return self.name not in (ALONE, DDP)

    @property
    def parts(self) -> bool:
        """Whether each process holds a part of the weights."""
        return self.name in (FSDP, "ZeRO-3")

    def __str__(self) -> str:
        return f"{self.name} ({self.state})" if self.state else self.name


def wants_fsdp(training: TrainingArguments) -> bool:
    """Whether FSDP was asked for, by --fsdp or by the launcher."""
    return bool(training.fsdp) or asked_engine() == "fsdp"


def engine_of(training: TrainingArguments) -> Engine:
    """The engine of a run. Raises `UserError` for one that is not supported."""
    processes = world()[1]
    plugin = training.deepspeed_plugin
    if wants_fsdp(training):
        from accelerate.utils import FullyShardedDataParallelPlugin

        if plugin is not None:
            raise UserError("FSDP and DeepSpeed both shard: choose one of them")
        theirs = FullyShardedDataParallelPlugin(**(training.fsdp_plugin_args or {}))
        if theirs.fsdp_version != 2:
            raise UserError("FSDP is supported in version 2: set fsdp_version: 2 in the file of accelerate")
        return Engine(FSDP, processes, str(theirs.state_dict_type).rpartition(".")[2])
    if plugin is not None:
        return Engine(f"ZeRO-{plugin.zero_stage}", processes)
    return Engine(DDP if processes > 1 else ALONE, processes)


def check_engine(options: RunOptions) -> None:
    """Raise `UserError` for what the engine cannot do, with what to do instead."""
    if lonely():
        raise UserError(
            "accelerate launch started one process of several: on a CPU it needs mpirun for more; take "
            "torchrun --nproc_per_node 2, or accelerate launch --config_file examples/accelerate/ddp_cpu.yaml"
        )
    engine = engine_of(options.training)
    if not engine.shards:
        return
    training, finetuning, stage = options.training, options.finetuning, options.stage
    if not launched() or (engine.name == FSDP and engine.processes == 1):
        raise UserError(
            f"{engine.name} shards over processes and there is one: start several, as in torchrun --nproc_per_node 8"
        )
    if not training.do_train:
        raise UserError(f"{engine.name} is for training; to evaluate and to predict {DDP_INSTEAD}")
    if training.do_predict:
        raise UserError(f"--do_predict answers with whole weights, not under {engine.name}: carellama predict, later")
    if stage.generates:
        raise UserError(f"--stage {stage.name} answers with whole weights: {DDP_INSTEAD}, not {engine.name}")
    if _copies(options):
        raise UserError(
            f"--stage {stage.name} with --finetuning_type {finetuning.finetuning_type} compares with a copy of the "
            f"whole weights, which {engine.name} does not keep: take lora, or {DDP_INSTEAD}"
        )
    if options.model.quantization_bit:
        raise UserError(f"--quantization_bit does not go with {engine.name}: {DDP_INSTEAD}, or leave it out")
    if engine.parts:
        _check_parts(options, engine)
    if engine.name != FSDP:
        _check_deepspeed(training)


def _copies(options: RunOptions) -> bool:
    """Whether the stage needs a frozen copy of all weights beside those that are trained."""
    return options.finetuning.finetuning_type != "lora" and options.stage.reference_in_step and options.has_reference


def _check_parts(options: RunOptions, engine: Engine) -> None:
    """What needs a weight whole in a process that holds a part of it."""
    finetuning = options.finetuning
    if finetuning.pissa_init:
        raise UserError(f"--pissa_init takes directions out of whole weights, not under {engine.name}: {DDP_INSTEAD}")
    if engine.name == FSDP:
        return
    if finetuning.add_tokens:
        raise UserError(f"--add_tokens makes rows of whole weights, not under {engine.name}: take ZeRO-2 or FSDP2")
    if finetuning.peft_type in ("loha", "lokr"):
        raise UserError(
            f"--peft_type {finetuning.peft_type} begins with whole weights, not under {engine.name}: take FSDP2"
        )
    if options.model.checkpoints:
        raise UserError(
            f"--checkpoint_dir is merged into whole weights, not under {engine.name}: export them first and train that "
            "model, or take ZeRO-2 or FSDP2"
        )
    plugin = options.training.deepspeed_plugin
    if plugin is None or not plugin.zero3_save_16bit_model:
        raise UserError("ZeRO-3 would save no weights: set zero3_save_16bit_model: true in its configuration")


def _check_deepspeed(training: TrainingArguments) -> None:
    """What DeepSpeed's own settings say otherwise than the flags; it would tell so once the model is loaded."""
    theirs = cast("DeepSpeedPlugin", training.deepspeed_plugin).deepspeed_config
    for key, name in (
        ("gradient_accumulation_steps", "gradient_accumulation_steps"),
        ("gradient_clipping", "max_grad_norm"),
        ("train_micro_batch_size_per_gpu", "per_device_train_batch_size"),
    ):
        value, own = theirs.get(key, "auto"), getattr(training, name)
        if value not in ("auto", own):
            raise UserError(f"DeepSpeed's {key} is {value} and --{name} is {own}: set it to auto there")


def record_of(training: TrainingArguments) -> JSONObject:
    """What a checkpoint keeps of how it was made."""
    engine = engine_of(training)
    return {"engine": str(engine), "processes": engine.processes, "batch": step_batch(training)}


def step_batch(training: TrainingArguments) -> int:
    """Records (pairs, answers) of a step: of each process, times accumulation, times processes."""
    return int(training.per_device_train_batch_size * training.gradient_accumulation_steps * world()[1])


def check_resume(options: RunOptions, checkpoint: str) -> None:
    """Raise `UserError` where this launch cannot go on from a checkpoint as the one before would have."""
    try:
        made = json.loads(Path(checkpoint, LAUNCH).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return  # of a version that did not write it
    now = record_of(options.training)
    engines = {made["engine"], now["engine"]}
    if len(engines - {ALONE, DDP}) > 0 and len(engines) > 1:
        raise UserError(f"{checkpoint} was made under {made['engine']}, this is {now['engine']}: launch it as before")
    if made["processes"] == now["processes"]:
        return
    number = f"{checkpoint} was made by {made['processes']} processes, these are {now['processes']}"
    needs = "ZeRO" if now["engine"].startswith("ZeRO") else ""
    needs = needs or ("--streaming" if options.data.streaming else "")
    needs = needs or (f"--stage {options.stage.name}" if options.stage.keeps_rollout else "")
    if needs:
        raise UserError(f"{number}: {needs} goes on with the same number")
    if made["batch"] != now["batch"]:
        raise UserError(
            f"{number}, with {now['batch']} records a step in place of {made['batch']}: change "
            "--per_device_train_batch_size or --gradient_accumulation_steps so that they are as many as before"
        )
