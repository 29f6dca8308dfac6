"""The adapters of a plan put on a model, and what of the model is trained: adapters, some layers, or all.

    plan = plan_adapters(ModelOptions(...), FinetuningOptions())
    model = apply_adapters(load_model(...), plan)
    print(describe_trainable(model))   # trainable 460,800 of 134,975,808 (0.34%)
    whole = merge_adapters(model)      # a plain model again

`carellama.model.adapter_plan` decides, `carellama.model.lora` makes new adapters. Whole checkpoints (of full and
freeze training) are loaded by `carellama.model.load`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from carellama.adapter_json import usable_settings
from carellama.config.finetuning import FinetuningOptions
from carellama.errors import UserError, nearest
from carellama.model.adapter_files import make_room, whole_modules
from carellama.model.adapter_plan import AdapterPlan, check_resumed, read_adapter_config
from carellama.model.finite import check_finite
from carellama.model.load import SCORE_HEAD
from carellama.model.lora import (
    TRAINED_ADAPTER,
    AnyModel,
    base_of,
    in_out_features,
    linear_layers,
    new_adapter,
    quiet_peft,
    set_active_adapters,
)
from carellama.model.vocabulary import state_own_head, tying_configs

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig, PeftModel
    from peft.tuners.tuners_utils import BaseTuner
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

# keys of peft for weights of the base, and for a module that it writes a second time under its own name
OF_BASE = (".base_layer.", ".original_module.", ".modules_to_save.")


def apply_adapters(model: PreTrainedModel, plan: AdapterPlan, new_tokens: Sequence[int] = ()) -> AnyModel:
    """Merge and load the adapters of the plan, and set what is trained.

    `new_tokens`: ids whose rows of the embedding and the head are trained as well. Raises `UserError` for an adapter
    of another model and for layers that do not exist.
    """
    for folder in plan.merged:
        model = merge_adapters(load_adapter(model, folder, "merged", allow_pickle=plan.allow_pickle))

    def load(model: AnyModel, folder: Path, name: str) -> PeftModel:
        trained = plan.resumed is not None and name == TRAINED_ADAPTER
        return load_adapter(model, folder, name, trained=trained, allow_pickle=plan.allow_pickle)

    return set_trained(model, plan, new_tokens, load)


def set_trained(
    model: PreTrainedModel,
    plan: AdapterPlan,
    new_tokens: Sequence[int],
    load: Callable[[AnyModel, Path, str], PeftModel],
) -> AnyModel:
    """Put the adapters that are not merged on the model by `load`, and set what is trained."""
    check_resumed(plan, linear_layers(model) if plan.resumed else (), len(new_tokens))
    adapted: AnyModel = model
    names = plan.unmerged_names
    for name, folder in zip(names, plan.unmerged, strict=True):
        adapted = load(adapted, folder, name)
    if plan.resumed:
        names = [*names, TRAINED_ADAPTER]
        adapted = load(adapted, plan.resumed, TRAINED_ADAPTER)
        log.info("the adapter %s is trained further, with its own kind, rank and layers", plan.resumed)
    if len(names) > 1:
        set_active_adapters(cast("PeftModel", adapted), names, trained=plan.resumed is not None)
    if plan.finetuning is None or plan.trains == "nothing":
        return adapted.requires_grad_(False)
    _disable_bnb_repacking(adapted)
    if plan.new:
        return new_adapter(adapted, plan.finetuning, new_tokens)
    if plan.trains == "layers":
        train_some_layers(adapted, plan.finetuning)
        if new_tokens:
            log.info("--add_tokens with freeze: the whole embedding and head are trained as well")
            for module in (adapted.get_input_embeddings(), adapted.get_output_embeddings()):
                if module is not None:
                    module.requires_grad_(True)
    elif plan.trains == "all":
        adapted.requires_grad_(True)
    return adapted


def _disable_bnb_repacking(model: torch.nn.Module) -> None:
    """Keep 4-bit layers from repacking themselves on a CPU.

    bitsandbytes does so at the first forward pass in `eval()` (an evaluation, a reference, an answer while training),
    for good, and from then on no gradient passes the layer: the adapters below it would learn nothing, silently.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def unwrap(model: torch.nn.Module) -> AnyModel:
    """The model behind the wrappers of several processes and of compilation."""
    while hasattr(model, "module"):
        model = cast("torch.nn.Module", model.module)
    return cast("AnyModel", model)


class ReferenceModel:
    """The model as it was before this training, to compare with: its new adapter switched off, or a frozen copy.

    Raises `UserError` where whole weights are trained and sharded: a copy of them would lie in every process.
    """

    def __init__(self, model: AnyModel, *, sharded: bool) -> None:
        from peft import PeftModel

        self._copy = None
        if isinstance(model, PeftModel):
            return
        if sharded:
            raise UserError("whole weights in shards have no reference model here: take --finetuning_type lora")
        self._copy = copy.deepcopy(model).eval().requires_grad_(False)

    @contextmanager
    def use(self, model: torch.nn.Module) -> Iterator[torch.nn.Module]:
        """Give the reference; within this `model`, which may be wrapped, answers as the reference does."""
        if self._copy is not None:
            self._copy.to(next(model.parameters()).device)
            yield self._copy
            return
        inner = cast("PeftModel", unwrap(model))
        earlier = [name for name in inner.peft_config if name != TRAINED_ADAPTER]
        training = model.training
        model.eval()
        try:
            if earlier:  # a quantised base keeps them beside it
                cast("BaseTuner", inner.base_model).set_adapter(earlier)
                yield model
            else:
                with inner.disable_adapter():
                    yield model
        finally:
            if earlier:
                set_active_adapters(inner, [*earlier, TRAINED_ADAPTER], trained=True)
            model.train(training)


def merge_adapters(model: AnyModel) -> PreTrainedModel:
    """Return the model with its adapters added to its weights; a model without adapters as it is.

    Each layer is summed in float32 and rounded once. Embedding and head that shared a weight have one each where only
    one of them changes. Raises `UserError` for quantised weights, and for an adapter that no weights can hold.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(model, PeftModel):
        return model
    if getattr(model.get_base_model(), "is_quantized", False):
        raise UserError("adapters cannot be merged into quantised weights without loss: leave --quantization_bit out")
    check_mergeable(model)
    separate_tied_weights(model)
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            of_experts: Any = getattr(layer, "get_param", None)
            weight: Any = of_experts() if of_experts else layer.get_base_layer().weight
            dtype = weight.dtype
            weight.data = weight.data.float()
            layer.merge()
            weight.data = weight.data.to(dtype)
    return unload_merged(model)


def unload_merged(model: PeftModel) -> PreTrainedModel:
    """Return the base with what was added to its weights, without the layers of the adapters around them."""
    merged = cast("PreTrainedModel", cast("BaseTuner", model.base_model).unload())
    _settle_tied_weights(merged)
    return merged


def check_mergeable(model: AnyModel) -> None:
    """Raise `UserError` for an adapter whose effect no weights of the base can have."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return
    for name, config in model.peft_config.items():
        if getattr(config, "alora_invocation_tokens", None):
            raise UserError("an activated LoRA (aLoRA) works from certain tokens on only: it cannot be merged")
        for path, layer in model.named_modules():
            biases: Any = getattr(layer, "lora_bias", None)
            if biases and biases.get(name) and getattr(layer.get_base_layer(), "bias", None) is None:
                raise UserError(
                    f"the adapter has a bias for {path.removeprefix('base_model.model.')}, a layer that has none: it "
                    "cannot be merged"
                )


def separate_tied_weights(model: PeftModel) -> None:
    """Give each adapted layer a weight of its own: what is added to one must not reach another by a shared one."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    owners: dict[int, int] = {}
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            owners[id(weight)] = owners.get(id(weight), 0) + 1
    for layer in model.modules():
        under: Any = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else None
        shared = getattr(under, "weight", None)
        if isinstance(shared, torch.nn.Parameter) and owners.get(id(shared), 0) > 1:
            under.weight = torch.nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)


def _settle_tied_weights(model: PreTrainedModel) -> None:
    """Tie embedding and head again where they are equal; else have config.json say that they are two."""
    import torch

    entry, head = model.get_input_embeddings(), model.get_output_embeddings()
    first, second = getattr(entry, "weight", None), getattr(head, "weight", None)
    if tying_configs(model.config) and first is not None and second is not None and torch.equal(first, second):
        cast("torch.nn.Linear", head).weight = cast("torch.nn.Embedding", entry).weight
    state_own_head(model)


def describe_trainable(model: torch.nn.Module) -> str:
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


def train_some_layers(model: AnyModel, finetuning: FinetuningOptions) -> None:
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
        if name.startswith(f"{SCORE_HEAD}."):
            parameter.requires_grad_(True)


def load_adapter(
    model: AnyModel, folder: Path, name: str, *, trained: bool = False, allow_pickle: bool = False
) -> PeftModel:
    """Load the adapter of a folder under a name, after checking that it belongs to the model."""
    from peft import PeftModel
    from peft.utils import load_peft_weights
    from safetensors import SafetensorError

    base = base_of(model)
    origin = read_adapter_config(folder).get("base_model_name_or_path") or "another model"
    if not (folder / "adapter_model.safetensors").is_file():
        if not (folder / "adapter_model.bin").is_file():
            raise UserError(f"{folder} has an adapter_config.json but no adapter_model.safetensors")
        if not allow_pickle:
            raise UserError(
                f"{folder} has its adapter pickled (adapter_model.bin), which can run code when read; "
                "if you trust where it comes from give --allow_pickle true"
            )
    try:
        weights = load_peft_weights(str(folder), device="cpu")
    except SafetensorError as error:
        raise UserError(f"{folder / 'adapter_model.safetensors'} is damaged or cut short ({error})") from error
    check_finite(weights.items(), f"the adapter {folder}: ")
    bare = base.device.type == "meta"  # a model without weights
    whole = whole_modules(folder, allow_pickle=allow_pickle)
    problem = make_room(model, folder, whole, trained=trained) or _shape_mismatch_reason(base, weights)
    if not problem:
        try:
            with quiet_peft(), usable_settings(folder):
                if isinstance(model, PeftModel):
                    model.load_adapter(str(folder), name, is_trainable=trained, low_cpu_mem_usage=bare)
                    adapted = model
                else:
                    config = peft_config(folder, base, weights)
                    adapted = PeftModel.from_pretrained(
                        model, str(folder), name, is_trainable=trained, config=config, low_cpu_mem_usage=bare
                    )
        except (RuntimeError, ValueError) as error:  # weights of other sizes, or no layer that it adapts
            problem = " ".join(str(error).split())[:200]
        else:
            replacing = {key for key, module in whole.items() if module.replaces_base}
            problem = _missing_weights_reason(adapted, name, weights, replacing)
    if problem:
        raise UserError(
            f"the adapter {folder}, trained on {origin}, does not belong to {base.config.name_or_path}: {problem}"
        )
    return adapted


def peft_config(folder: Path, base: PreTrainedModel, weights: dict[str, torch.Tensor]) -> PeftConfig:
    """Read peft's configuration of an adapter. Under a reward model that of a language model has no output head.

    Rows of new tokens that belong to that head are left out, of the configuration and of `weights`.
    """
    from peft import PeftConfig, TaskType

    config = cast("PeftConfig", PeftConfig.from_pretrained(str(folder)))
    if config.task_type == TaskType.CAUSAL_LM and not base.can_generate():
        config.task_type = None
        rows = getattr(config, "trainable_token_indices", None) or {}
        for name in rows.keys() - {name for name, _ in base.named_modules()}:
            del rows[name]
            for key in [key for key in weights if key.startswith(f"base_model.model.{name}.token_adapter.")]:
                del weights[key]
    return config


def _missing_weights_reason(model: PeftModel, name: str, weights: Collection[str], replacing: Collection[str]) -> str:
    """Say which weights of an adapter found no place in the model, or which of its places found none; or nothing."""
    from peft import get_peft_model_state_dict

    taken = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    # weights of the base itself, as peft adds those of an embedding; a second LoRA on experts lies under base_layer too
    weights = {
        key for key in weights if ".lora_" in key or not (key in replacing or any(part in key for part in OF_BASE))
    }
    places, layers = ({key.rpartition(".lora_")[0] or key for key in keys} for keys in (weights, taken))
    if places == layers:
        here, asked = ({key.removesuffix(".weight") for key in keys} for keys in (weights, taken))
        return f"its file lacks {sorted(asked - here)[0]}" if asked - here else ""
    if len(places) != len(layers):
        return f"it adapts {len(places)} layers, where this model has {len(layers)}"
    return f"it adapts {sorted(places - layers)[0]}, which is not here"


def _shape_mismatch_reason(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> str:
    """Say why LoRA weights do not fit the layers of the model, or nothing."""
    modules: dict[str, Any] = {name.replace(".base_layer", ""): module for name, module in model.named_modules()}
    for key, weight in weights.items():
        name, _, rest = key.removeprefix("base_model.model.").partition(".lora_")
        if not rest:
            continue
        layer = modules.get(name.replace(".base_layer", ""))
        if layer is None:
            return f"there is no layer {name} here"
        size = in_out_features(layer)
        if size is None:
            continue  # experts in one weight, which peft looks at
        if rest.startswith("A") and weight.shape[1] != size[0]:
            return f"{name} takes {weight.shape[1]} values in the adapter, {size[0]} here"
        if rest.startswith("B") and weight.shape[0] != size[1]:
            return f"{name} gives {weight.shape[0]} values in the adapter, {size[1]} here"
    return ""
