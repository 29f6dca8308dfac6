"""What of a model is trained, and what earlier training is put on it: LoRA adapters, some layers, or all.

    model = prepare(load_model(...), ModelArguments(...), FinetuningArguments(), trainable=True)
    print(trainable_line(model))   # trainable 460,800 of 134,975,808 (0.34%)
    whole = merge(model)           # a plain model again

New adapters are made by `carellama.model.lora`. Whole checkpoints (of full and freeze training) are loaded by
`carellama.model.load`; here only adapters are.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from carellama.config.finetuning import FinetuningArguments
from carellama.config.model import ModelArguments
from carellama.errors import UserError, nearest
from carellama.model.load import SCORE, adapter_settings, full_checkpoint
from carellama.model.lora import KINDS, TRAINED, activate, linear_layers, new_adapter, peft_quiet, widths
from carellama.model.paths import ADAPTER
from carellama.stages import STAGES, ModelKind

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

OF_ADAPTER = {  # option -> its name in adapter_config.json
    "peft_type": "peft_type", "lora_rank": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout",
    "lora_target": "target_modules", "use_rslora": "use_rslora", "use_dora": "use_dora",
    "oft_block_size": "oft_block_size",
}  # fmt: skip


def prepare(
    model: PreTrainedModel,
    arguments: ModelArguments,
    finetuning: FinetuningArguments,
    *,
    trainable: bool,
    tokens: Sequence[int] = (),
) -> Any:
    """Put the adapters of `--checkpoint_dir` on the model, and set what is trained.

    Adapters are merged in their order, but the last stays an adapter: it is trained further (unless
    `--resume_lora_training false`, or with freeze and full), or answers as it was trained. A quantised base
    cannot take merged weights without loss; there all adapters stay side by side. `tokens` are new ids, whose
    rows of the embedding and the head are trained as well. Returns a peft model or `model` itself. Raises
    `UserError` for an adapter of another model and for layers that are not there.
    """
    folders = _folders(arguments)
    kind = finetuning.finetuning_type
    resumed = trainable and trained_further(arguments, finetuning) is not None
    kept = folders[-1:] if resumed or not trainable else []
    every = set(linear_layers(model)) if resumed else set()
    if arguments.quantization_bit:
        last = TRAINED if kept else "earlier"
        prepared = side_by_side(model, folders, arguments, last, trained=resumed)
    else:
        for folder in folders[: len(folders) - len(kept)]:
            model = merge(attach(model, folder, "merged", arguments))
        prepared = attach(model, kept[0], TRAINED, arguments, trained=resumed) if kept else model
    if not trainable:
        return prepared.requires_grad_(False)
    _stay_differentiable(prepared)
    if kind == "lora" and not resumed:
        return new_adapter(prepared, finetuning, tokens)
    if kind == "lora":
        if tokens:
            raise UserError(
                f"--add_tokens brings {len(tokens)} tokens that the adapter {folders[-1]} does not have: "
                "give --resume_lora_training false, which merges it and trains a new one"
            )
        there = adapter_config(folders[-1]).get("target_modules")
        if finetuning.lora_target == "all" and isinstance(there, list) and set(there) != every:
            raise _other_adapter("lora_target", "all", folders[-1], ",".join(sorted(there)))
        log.info("going on with the adapter %s, with its own kind, rank and layers", folders[-1])
    elif kind == "freeze":
        freeze_layers(prepared, finetuning)
        if tokens:
            log.info("--add_tokens with freeze: the whole embedding and head are trained as well")
            for module in (prepared.get_input_embeddings(), prepared.get_output_embeddings()):
                if module is not None:
                    module.requires_grad_(True)
    else:
        prepared.requires_grad_(kind == "full")
    return prepared


def _folders(arguments: ModelArguments) -> list[Path]:
    """The adapters of --checkpoint_dir, in their order."""
    return [Path(name).expanduser() for name in arguments.checkpoints[full_checkpoint(arguments) is not None :]]


def trained_further(arguments: ModelArguments, finetuning: FinetuningArguments) -> Path | None:
    """Return the adapter that a training continues; None where it begins a new one."""
    folders = _folders(arguments)
    if not folders or finetuning.finetuning_type != "lora" or not finetuning.goes_on_with_adapter:
        return None
    # a reward model begins on the merged language model, with a score of its own
    return folders[-1] if adapter_kind(folders[-1]) == STAGES[finetuning.stage].model_kind else None


def adapter_kind(folder: Path) -> ModelKind:
    """Return whether an adapter is that of a language model or of a reward model."""
    return "reward" if adapter_config(folder).get("task_type") == "SEQ_CLS" else "causal"


def check_adapter_options(arguments: ModelArguments, finetuning: FinetuningArguments, asked: Collection[str]) -> None:
    """Raise `UserError` where an adapter is trained further that is not of the kind, rank or layers that are asked."""
    folder = trained_further(arguments, finetuning)
    if folder is None:
        return
    has = adapter_config(folder)
    has["peft_type"] = str(has.get("peft_type", "")).lower()
    found = {option: has[key] for option, key in OF_ADAPTER.items() if key in has}
    if finetuning.pissa_init:
        found["pissa_init"] = "a beginning already"
    for option, there in found.items():
        wanted = getattr(finetuning, option)
        if option == "lora_target" and wanted is not None:
            if not isinstance(there, list) or wanted.strip() == "all":
                continue  # which layers those are shows with the model
            wanted, there = (",".join(sorted({part.strip() for part in names})) for names in (wanted.split(","), there))
        if option in asked and wanted != there:
            raise _other_adapter(option, wanted, folder, there)


def _other_adapter(option: str, wanted: Any, folder: Path, there: Any) -> UserError:
    return UserError(
        f"--{option} {wanted}: the adapter {folder} is trained further and has {there}; leave the option out, or give "
        "--resume_lora_training false, which merges it and trains a new one"
    )


def _stay_differentiable(model: torch.nn.Module) -> None:
    """Keep 4-bit layers from repacking themselves on a CPU.

    bitsandbytes does so at the first forward pass in `eval()` (an evaluation, a reference, an answer while training),
    for good, and from then on no gradient passes the layer: the adapters below it would learn nothing, silently.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def unwrapped(model: Any) -> Any:
    """The model behind the wrappers of several processes and of compilation."""
    while hasattr(model, "module"):
        model = model.module
    return model


class Reference:
    """The model as it was before this training, to compare with: its new adapter switched off, or a frozen copy.

    Raises `UserError` where whole weights are trained and sharded: a copy of them would lie in every process.
    """

    def __init__(self, model: Any, *, sharded: bool) -> None:
        from peft import PeftModel

        self._copy = None
        if isinstance(model, PeftModel):
            return
        if sharded:
            raise UserError("whole weights in shards have no reference model here: take --finetuning_type lora")
        self._copy = copy.deepcopy(model).eval().requires_grad_(False)

    @contextmanager
    def of(self, model: Any) -> Iterator[Any]:
        """Give the reference; within this `model`, which may be wrapped, answers as the reference does."""
        if self._copy is not None:
            self._copy.to(next(model.parameters()).device)
            yield self._copy
            return
        inner = unwrapped(model)
        earlier = [name for name in inner.peft_config if name != TRAINED]
        training = model.training
        model.eval()
        try:
            if earlier:  # a quantised base keeps them beside it
                inner.base_model.set_adapter(earlier)
                yield model
            else:
                with inner.disable_adapter():
                    yield model
        finally:
            if earlier:
                activate(inner, [*earlier, TRAINED], trained=True)
            model.train(training)


def merge(model: Any) -> PreTrainedModel:
    """Return the model with its adapters added to its weights; a model without adapters as it is.

    Each layer is summed in float32 and rounded once. Raises `UserError` for quantised weights.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(model, PeftModel):
        return cast("PreTrainedModel", model)
    if getattr(model.get_base_model(), "is_quantized", False):
        raise UserError("adapters cannot be merged into quantised weights without loss: leave --quantization_bit out")
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            of_experts: Any = getattr(layer, "get_param", None)
            weight: Any = of_experts() if of_experts else layer.get_base_layer().weight
            dtype = weight.dtype
            weight.data = weight.data.float()
            layer.merge()
            weight.data = weight.data.to(dtype)
    tuner: Any = model.base_model
    return cast("PreTrainedModel", tuner.unload())


def trainable_line(model: torch.nn.Module) -> str:
    """How many weights are trained: `trainable 460,800 of 134,975,808 (0.34%)`."""
    sizes = [(_size(parameter), parameter.requires_grad) for parameter in model.parameters()]
    every, trained = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    return f"trainable {trained:,} of {every:,} ({trained / every:.2%})"


def _size(parameter: torch.nn.Parameter) -> int:
    """Number of weights; bitsandbytes packs two 4-bit ones into a byte, and ZeRO-3 leaves a process only its part."""
    if hasattr(parameter, "ds_numel"):
        return int(parameter.ds_numel)
    packed = type(parameter).__name__ == "Params4bit"
    return parameter.numel() * 2 * parameter.element_size() if packed else parameter.numel()


def freeze_layers(model: PreTrainedModel, finetuning: FinetuningArguments) -> None:
    """Train one part of the last n layers only (of the first n for a negative number)."""
    import torch

    count = finetuning.num_layer_trainable
    depth = int(model.config.get_text_config().num_hidden_layers)
    layers = next((m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth), None)
    if layers is None:
        raise UserError(f"--finetuning_type freeze does not know the layers of {type(model).__name__}; take lora")
    if not 0 < abs(count) <= depth:
        raise UserError(f"--num_layer_trainable is {count}; this model has {depth} layers")
    name = finetuning.name_module_trainable
    parts = [part for part, _ in layers[0].named_children()]
    if name != "all" and name not in parts:
        raise UserError(
            f"--name_module_trainable {name}: a layer of this model has no such part.{nearest(name, parts)} "
            f"It has {', '.join(parts)}; 'all' takes them all."
        )
    model.requires_grad_(False)
    for layer in layers[-count:] if count > 0 else layers[:-count]:
        part = layer if name == "all" else layer.get_submodule(name)
        part.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if name.startswith(f"{SCORE}."):
            parameter.requires_grad_(True)


def side_by_side(
    model: PreTrainedModel, folders: list[Path], arguments: ModelArguments, last: str, *, trained: bool
) -> Any:
    """Put all adapters on a quantised base at once, the last under the name `last`, which may be trained."""
    names = [*(f"earlier{index}" for index in range(len(folders) - 1)), last][: len(folders)]
    prepared: Any = model
    for name, folder in zip(names, folders, strict=True):
        config = adapter_config(folder)
        if len(folders) > 1 and (problem := _alone(config)):
            raise UserError(f"{folder} {problem}: several adapters need a base without --quantization_bit")
        prepared = attach(prepared, folder, name, arguments, trained=trained and name == last)
    return activate(prepared, names, trained=trained) if names else model


def _alone(config: dict[str, Any]) -> str:
    """Say why an adapter cannot answer beside others, or nothing."""
    if config["peft_type"] != "LORA":
        return f"is an adapter of the kind {config['peft_type']}, not LORA"
    if config.get("use_dora"):
        return "is a DoRA adapter, whose effect depends on those before it"
    return "brings rows of new tokens" if config.get("trainable_token_indices") else ""


def adapter_config(folder: Path) -> dict[str, Any]:
    """Read the adapter_config.json of a folder. Raises `UserError` where it is of a kind that is not known here."""
    config = adapter_settings(folder)
    kind = config.get("peft_type")
    if kind not in KINDS:
        raise UserError(f"{folder / ADAPTER} has peft_type {kind}; known here are {', '.join(KINDS)}")
    return config


def attach(model: Any, folder: Path, name: str, arguments: ModelArguments, *, trained: bool = False) -> Any:
    """Put the adapter of a folder on the model under a name, after checking that it belongs there."""
    from peft import PeftConfig, PeftModel, TaskType
    from peft.utils import load_peft_weights

    base = cast("PreTrainedModel", model.get_base_model()) if isinstance(model, PeftModel) else model
    origin = adapter_config(folder).get("base_model_name_or_path") or "another model"
    if not (folder / "adapter_model.safetensors").is_file():
        if not (folder / "adapter_model.bin").is_file():
            raise UserError(f"{folder} has an adapter_config.json but no adapter_model.safetensors")
        if not arguments.allow_pickle:
            raise UserError(
                f"{folder} has its adapter pickled (adapter_model.bin), which can run code when read; "
                "if you trust where it comes from give --allow_pickle true"
            )
    weights = load_peft_weights(str(folder), device="cpu")
    problem = _misfit(base, weights)
    if not problem:
        try:
            with peft_quiet():
                if isinstance(model, PeftModel):
                    model.load_adapter(str(folder), name, is_trainable=trained)
                else:
                    config = PeftConfig.from_pretrained(str(folder))
                    if config.task_type == TaskType.CAUSAL_LM and not base.can_generate():
                        config.task_type = None  # of a language model, under a reward model: it has no head
                        _leave_head(config, base, weights)
                    model = PeftModel.from_pretrained(
                        model, str(folder), adapter_name=name, is_trainable=trained, config=config
                    )
        except (RuntimeError, ValueError) as error:  # weights of other sizes, or no layer that it adapts
            problem = " ".join(str(error).split())[:200]
        else:
            problem = _incomplete(model, name, weights)
    if problem:
        raise UserError(
            f"the adapter {folder}, trained on {origin}, does not belong to {base.config.name_or_path}: {problem}"
        )
    return model


def _leave_head(config: Any, base: PreTrainedModel, weights: dict[str, torch.Tensor]) -> None:
    """Leave the rows of new tokens out that belong to a head which the model does not have."""
    rows = getattr(config, "trainable_token_indices", None) or {}
    for name in rows.keys() - {name for name, _ in base.named_modules()}:
        del rows[name]
        for key in [key for key in weights if key.startswith(f"base_model.model.{name}.token_adapter.")]:
            del weights[key]


def _incomplete(model: Any, name: str, weights: dict[str, torch.Tensor]) -> str:
    """Say which weights of an adapter found no place in the model, or which of its places found none; or nothing."""
    from peft import get_peft_model_state_dict

    taken = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    places, layers = ({key.rpartition(".lora_")[0] or key for key in keys} for keys in (weights, taken))
    if places == layers:
        return ""
    if len(places) != len(layers):
        return f"it adapts {len(places)} layers, where this model has {len(layers)}"
    return f"it adapts {sorted(places - layers)[0]}, which is not here"


def _misfit(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> str:
    """Say why LoRA weights do not fit the layers of the model, or nothing."""
    modules: dict[str, Any] = {name.replace(".base_layer", ""): module for name, module in model.named_modules()}
    for key, weight in weights.items():
        name, _, rest = key.removeprefix("base_model.model.").partition(".lora_")
        if not rest:
            continue
        layer = modules.get(name.replace(".base_layer", ""))
        if layer is None:
            return f"there is no layer {name} here"
        size = widths(layer)
        if size is None:
            continue  # experts in one weight, which peft looks at
        if rest.startswith("A") and weight.shape[1] != size[0]:
            return f"{name} takes {weight.shape[1]} values in the adapter, {size[0]} here"
        if rest.startswith("B") and weight.shape[0] != size[1]:
            return f"{name} gives {weight.shape[0]} values in the adapter, {size[1]} here"
    return ""
