"""What of a model is trained, and what earlier training is put on it: LoRA adapters, some layers, or all.

    model = prepare(load_model(...), ModelArguments(...), FinetuningArguments(), trainable=True)
    print(trainable_line(model))   # trainable 460,800 of 134,975,808 (0.34%)
    whole = merge(model)           # a plain model again

LoRA: Hu et al. (arXiv 2106.09685); rsLoRA: Kalajdzievski (2312.03732); DoRA: Liu et al. (2402.09353).
Whole checkpoints (of full and freeze training) are loaded by `carellama.model.load`; here only adapters are.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carellama.config.run import FinetuningArguments, ModelArguments
from carellama.errors import UserError, nearest
from carellama.model.load import SCORE, full_checkpoint

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

TRAINED = "default"  # peft's name of the adapter that it saves at the top of a folder


def prepare(
    model: PreTrainedModel, arguments: ModelArguments, finetuning: FinetuningArguments, *, trainable: bool
) -> Any:
    """Put the adapters of `--checkpoint_dir` on the model, and set what is trained.

    Adapters are merged in their order, but the last stays an adapter: it is trained further (unless
    `--resume_lora_training false`, or with freeze and full), or answers as it was trained. A quantised base
    can not take merged weights without loss; there all adapters stay side by side. Returns a peft model or
    `model` itself. Raises `UserError` for an adapter of another model and for layers that are not there.
    """
    folders = [Path(name).expanduser() for name in arguments.checkpoints[full_checkpoint(arguments) is not None :]]
    kind = finetuning.finetuning_type
    resumed = bool(folders) and trainable and kind == "lora" and finetuning.goes_on_with_adapter
    if resumed and (adapter_config(folders[-1]).get("task_type") == "SEQ_CLS") != (finetuning.stage == "rm"):
        resumed = False  # a reward model begins on the merged language model, with a score of its own
    kept = folders[-1:] if resumed or not trainable else []
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
        return _new_lora(prepared, finetuning)
    if kind == "lora":
        log.info("going on with the adapter %s, with its own rank and layers", folders[-1])
    elif kind == "freeze":
        _freeze(prepared, finetuning)
    else:
        prepared.requires_grad_(kind == "full")
    return prepared


def _stay_differentiable(model: torch.nn.Module) -> None:
    """Keep 4-bit layers from repacking themselves on a CPU.

    bitsandbytes does so at the first forward pass in `eval()` (an evaluation, a reference, an answer while training),
    for good, and from then on no gradient passes the layer: the adapters below it would learn nothing, silently.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


class Reference:
    """The model as it was before this training, to compare with: its new adapter switched off, or a frozen copy.

    Raises `UserError` where whole weights are trained and sharded: a copy of them would lie in every process.
    """

    def __init__(self, model: Any, sharded: bool) -> None:
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
        inner = model
        while hasattr(inner, "module"):
            inner = inner.module
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
                _activate(inner, [*earlier, TRAINED], trained=True)
            model.train(training)


def merge(model: Any) -> PreTrainedModel:
    """Return the model with its adapters added to its weights; a model without adapters as it is.

    Each layer is summed in float32 and rounded once. Raises `UserError` for quantised weights.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(model, PeftModel):
        return model
    if getattr(model.get_base_model(), "is_quantized", False):
        raise UserError("adapters can not be merged into quantised weights without loss: leave --quantization_bit out")
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            weight = layer.get_base_layer().weight
            dtype = weight.dtype
            weight.data = weight.data.float()
            layer.merge()
            weight.data = weight.data.to(dtype)
    return model.base_model.unload()


def trainable_line(model: torch.nn.Module) -> str:
    """How many weights are trained: `trainable 460,800 of 134,975,808 (0.34%)`."""
    sizes = [(_size(parameter), parameter.requires_grad) for parameter in model.parameters()]
    every, trained = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    return f"trainable {trained:,} of {every:,} ({trained / every:.2%})"


def _size(parameter: torch.nn.Parameter) -> int:
    """Number of weights; bitsandbytes packs two 4-bit ones into a byte."""
    packed = type(parameter).__name__ == "Params4bit"
    return parameter.numel() * 2 * parameter.element_size() if packed else parameter.numel()


def linear_layers(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers that LoRA can adapt, like q_proj; the output head is not one of them."""
    import torch

    head = model.get_output_embeddings()
    names = {
        name.removesuffix(".base_layer").rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head and ".lora_" not in name
    } - {SCORE}
    return sorted(names)


def _new_lora(model: Any, finetuning: FinetuningArguments) -> Any:
    """Put a fresh adapter on the model, beside those that a quantised base has."""
    from peft import LoraConfig, PeftModel, TaskType, get_peft_model

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS if finetuning.stage == "rm" else TaskType.CAUSAL_LM,
        r=finetuning.lora_rank,
        lora_alpha=finetuning.lora_alpha,
        lora_dropout=finetuning.lora_dropout,
        target_modules=_targets(base, finetuning.lora_target),
        use_rslora=finetuning.use_rslora,
        use_dora=finetuning.use_dora,
    )
    with _peft_quiet():
        if not isinstance(model, PeftModel):
            return get_peft_model(model, config, adapter_name=TRAINED)
        earlier = list(model.peft_config)
        model.add_adapter(TRAINED, config)
    return _activate(model, [*earlier, TRAINED], trained=True)


def _targets(model: PreTrainedModel, wanted: str) -> list[str]:
    """Resolve `--lora_target`."""
    known = linear_layers(model)
    names = [part.strip() for part in wanted.split(",") if part.strip()]
    if names == ["all"]:
        return known
    for name in names:
        if name not in known:
            raise UserError(
                f"--lora_target {name}: this model has no such linear layer.{nearest(name, known)} "
                f"It has {', '.join(known)}; 'all' takes them all."
            )
    if not names:
        raise UserError(f"--lora_target is empty: name some of {', '.join(known)}, or 'all'")
    return names


def _freeze(model: PreTrainedModel, finetuning: FinetuningArguments) -> None:
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
        if len(folders) > 1 and adapter_config(folder).get("use_dora"):
            raise UserError(
                f"{folder} is a DoRA adapter, whose effect depends on those before it: several need a base "
                "without --quantization_bit"
            )
        prepared = attach(prepared, folder, name, arguments, trained=trained and name == last)
    return _activate(prepared, names, trained=trained) if names else model


def _activate(model: Any, names: list[str], *, trained: bool) -> Any:
    """Let all adapters of these names answer together; the last is trained, if any."""
    model.base_model.set_adapter(names)
    for name, parameter in model.named_parameters():
        own = f".{names[-1]}." in name and ("lora_" in name or ".modules_to_save." in name)
        parameter.requires_grad_(trained and own)
    return model


def adapter_config(folder: Path) -> dict[str, Any]:
    """Read the adapter_config.json of a folder. Raises `UserError` where it is not one of LoRA."""
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"can not read {path}: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UserError(f"{path} does not describe a LoRA adapter (peft_type), the only kind known here")
    return config


def attach(model: Any, folder: Path, name: str, arguments: ModelArguments, *, trained: bool = False) -> Any:
    """Put the adapter of a folder on the model under a name, after checking that it belongs there."""
    from peft import PeftConfig, PeftModel, TaskType
    from peft.tuners.lora import LoraLayer
    from peft.utils import load_peft_weights

    base = model.get_base_model() if isinstance(model, PeftModel) else model
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
    places = {key.removeprefix("base_model.model.").partition(".lora_")[0] for key in weights if ".lora_" in key}
    problem = _misfit(base, weights)
    if not problem:
        with _peft_quiet():
            if isinstance(model, PeftModel):
                model.load_adapter(str(folder), name, is_trainable=trained)
            else:
                config = PeftConfig.from_pretrained(str(folder))
                if config.task_type == TaskType.CAUSAL_LM and not base.can_generate():
                    config.task_type = None  # of a language model, under a reward model: its layers are all it has
                model = PeftModel.from_pretrained(
                    model, str(folder), adapter_name=name, is_trainable=trained, config=config
                )
        layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer) and name in layer.r]
        if len(layers) != len(places):
            problem = f"it adapts {len(places)} layers, where this model has {len(layers)}"
    if problem:
        raise UserError(
            f"the adapter {folder}, trained on {origin}, does not belong to {base.config.name_or_path}: {problem}"
        )
    return model


@contextmanager
def _peft_quiet() -> Iterator[None]:
    """Leave out the warnings of peft that nobody can act on: old names it uses, and layers checked here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Found missing adapter keys", category=UserWarning)
        yield


def _misfit(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> str:
    """Say why LoRA weights do not fit the layers of the model, or nothing."""
    modules: dict[str, Any] = {name.replace(".base_layer", ""): module for name, module in model.named_modules()}
    for key, weight in weights.items():
        name, _, rest = key.removeprefix("base_model.model.").partition(".lora_")
        if not rest:
            continue
        layer = modules.get(name)
        if layer is None or not hasattr(layer, "in_features"):
            return f"there is no layer {name} here"
        if rest.startswith("A") and weight.shape[1] != layer.in_features:
            return f"{name} takes {weight.shape[1]} values in the adapter, {layer.in_features} here"
        if rest.startswith("B") and weight.shape[0] != layer.out_features:
            return f"{name} gives {weight.shape[0]} values in the adapter, {layer.out_features} here"
    return ""
