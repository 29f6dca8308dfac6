"""What becomes of the adapters of --checkpoint_dir, and what is trained: decided once, before any weights are read.

    plan = plan_adapters(ModelOptions(...), FinetuningOptions())
    plan.merged, plan.unmerged, plan.resumed, plan.trains

Reads only adapter_config.json. The model (`carellama.model.adapters`), the model without weights
(`carellama.model.meta`) and the reward model apply the same plan.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from carellama.adapter_json import read_adapter_json
from carellama.config.finetuning import FinetuningOptions
from carellama.config.model import ModelOptions
from carellama.config.run import RunOptions
from carellama.errors import UserError
from carellama.model.adapter_files import EMBEDDINGS, HEADS
from carellama.model.load import adapter_kind, full_checkpoint
from carellama.model.lora import PEFT_TYPES, TRAINED_ADAPTER
from carellama.stages import STAGES, ModelKind
from carellama.weights import ADAPTER, is_adapter

Trained = Literal["adapter", "layers", "all", "nothing"]
TRAINS: dict[str, Trained] = {"lora": "adapter", "freeze": "layers", "full": "all", "none": "nothing"}
# peft's names of beginnings that take the first factors out of the base's weights, or round them
CHANGES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
OF_ADAPTER = {  # option -> its name in adapter_config.json
    "peft_type": "peft_type", "lora_rank": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout",
    "lora_target": "target_modules", "use_rslora": "use_rslora", "use_dora": "use_dora",
    "oft_block_size": "oft_block_size",
}  # fmt: skip


@dataclass(frozen=True)
class AdapterPlan:
    """Which earlier adapters are merged, stay beside the weights or are trained further, and what is trained.

    `finetuning`: how a new adapter is made, and which layers are trained; None: the model only answers.
    """

    merged: tuple[Path, ...] = ()  # added to the weights, in this order
    unmerged: tuple[Path, ...] = ()  # active, but not trained
    resumed: Path | None = None
    trains: Trained = "nothing"
    finetuning: FinetuningOptions | None = None
    allow_pickle: bool = False

    @property
    def new(self) -> bool:
        """Whether a new adapter is trained."""
        return self.trains == "adapter" and self.resumed is None

    @property
    def unmerged_names(self) -> list[str]:
        """peft's names of the unmerged adapters. One that answers has the name of the trained one."""
        names = [f"earlier{index}" for index in range(len(self.unmerged))]
        if names and self.resumed is None:
            names[-1] = TRAINED_ADAPTER if self.trains == "nothing" else "earlier"
        return names


def plan_adapters(model: ModelOptions, finetuning: FinetuningOptions | None = None) -> AdapterPlan:
    """Decide what becomes of the adapters of --checkpoint_dir. Without `finetuning` nothing is trained.

    Adapters are merged in their order, but the last stays an adapter: it is trained further (unless
    `--resume_lora_training false`, or with freeze and full), or answers as it was trained. A quantised base cannot
    take merged weights without loss: there all adapters stay unmerged. Raises `UserError` for an unknown adapter.
    """
    folders = tuple(Path(name).expanduser() for name in model.checkpoints[full_checkpoint(model) is not None :])
    configs = [read_adapter_config(folder) for folder in folders]
    trains = TRAINS[finetuning.finetuning_type] if finetuning else "nothing"
    resumed = None
    if folders and finetuning and trains_further(finetuning, adapter_kind(folders[-1])):
        resumed = folders[-1]
    if model.quantization_bit and len(folders) > 1:
        for folder, config in zip(folders, configs, strict=True):
            if reason := _not_combinable_reason(config):
                raise UserError(f"{folder} {reason}: several adapters need a base without --quantization_bit")
    before = folders[:-1] if resumed else folders
    merged = 0 if model.quantization_bit else len(folders) - 1 if trains == "nothing" else len(before)
    return AdapterPlan(before[:merged], before[merged:], resumed, trains, finetuning, model.allow_pickle)


def trains_further(finetuning: FinetuningOptions, last: ModelKind) -> bool:
    """Whether a training continues the last adapter, which is of this kind of model, in place of a new one."""
    if TRAINS[finetuning.finetuning_type] != "adapter" or not finetuning.goes_on_with_adapter:
        return False
    # a reward model begins on the merged language model, with a score of its own
    return last == STAGES[finetuning.stage].model_kind


def trained_checkpoints(options: RunOptions, last: ModelKind | None = None) -> list[str]:
    """Return the `--checkpoint_dir` that gives the trained model on its base: its own folder, and those below it.

    `last`: the kind of the last adapter that it begins from, where its folder is not there yet.
    """
    earlier, output = options.model.checkpoints, str(options.training.output_dir)
    if not options.training.do_train:
        return earlier
    if TRAINS[options.finetuning.finetuning_type] != "adapter":
        return [output]  # whole weights
    if earlier and last is None and is_adapter(folder := Path(earlier[-1]).expanduser()):
        last = adapter_kind(folder)
    if last is not None and trains_further(options.finetuning, last):
        earlier = earlier[:-1]
    return [*earlier, output]


def beyond_lora_reason(config: Mapping[str, object]) -> str:
    """Say why an adapter is more than factors beside weights that stay as they are, or nothing.

    peft changes the base itself when it loads such an adapter: for good, and for every other adapter on it.
    """
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        return f"began with {start}, which changes the weights of the base"
    if config.get("layer_replication"):
        return "repeats layers of the base (layer_replication)"
    if config.get("alora_invocation_tokens"):
        return "is an activated LoRA (aLoRA), which works from certain tokens on only"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        return "has trained biases"
    return ""


def _not_combinable_reason(config: Mapping[str, object]) -> str:
    """Say why an adapter cannot answer beside others, or nothing."""
    if config["peft_type"] != "LORA":
        return f"is an adapter of the kind {config['peft_type']}, not LORA"
    if reason := beyond_lora_reason(config):
        return reason
    if config.get("use_dora"):
        return "is a DoRA adapter, whose effect depends on those before it"
    saved = config.get("modules_to_save") or []
    if isinstance(saved, list) and any(name in (*EMBEDDINGS, *HEADS) for name in saved):
        return "has an embedding or an output head of its own"
    return "brings rows of new tokens" if config.get("trainable_token_indices") else ""


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Read the adapter_config.json of a folder. Raises `UserError` for an unknown kind of adapter."""
    config = read_adapter_json(folder)
    kind = config.get("peft_type")
    if kind not in PEFT_TYPES:
        raise UserError(f"{folder / ADAPTER} has peft_type {kind}; known here are {', '.join(PEFT_TYPES)}")
    return config


def check_adapter_options(plan: AdapterPlan, asked: Collection[str]) -> None:
    """Raise `UserError` where an adapter is trained further that is not of the kind, rank or layers that are asked."""
    if plan.resumed is None or plan.finetuning is None:
        return
    has = read_adapter_config(plan.resumed)
    has["peft_type"] = str(has.get("peft_type", "")).lower()
    found = {option: has[key] for option, key in OF_ADAPTER.items() if key in has}
    if plan.finetuning.pissa_init:
        found["pissa_init"] = "a beginning already"
    for option, there in found.items():
        wanted = getattr(plan.finetuning, option)
        if option == "lora_target" and wanted is not None:
            if not isinstance(there, list) or wanted.strip() == "all":
                continue  # `check_resumed` compares them with the layers of the model
            wanted, there = (",".join(sorted({part.strip() for part in names})) for names in (wanted.split(","), there))
        if option in asked and wanted != there:
            raise _different_adapter(option, wanted, plan.resumed, there)


def check_resumed(plan: AdapterPlan, layers: Collection[str], new_tokens: int) -> None:
    """Raise `UserError` where a resumed adapter has no place for new tokens or for some of all linear `layers`."""
    if plan.resumed is None or plan.finetuning is None:
        return
    if new_tokens:
        raise UserError(
            f"--add_tokens brings {new_tokens} tokens that the adapter {plan.resumed} does not have: "
            "give --resume_lora_training false, which merges it and trains a new one"
        )
    there = read_adapter_config(plan.resumed).get("target_modules")
    if plan.finetuning.lora_target == "all" and isinstance(there, list) and set(there) != set(layers):
        raise _different_adapter("lora_target", "all", plan.resumed, ",".join(sorted(there)))


def _different_adapter(option: str, wanted: object, folder: Path, there: object) -> UserError:
    return UserError(
        f"--{option} {wanted}: the adapter {folder} is trained further and has {there}; leave the option out, or give "
        "--resume_lora_training false, which merges it and trains a new one"
    )
