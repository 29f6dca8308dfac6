"""A model without weights: what `load_model` and `adapter.prepare` would give, on torch's meta device.

    network = meta_model(ModelOptions("smollm2-135m"), dtype="bfloat16", attention=None)
    network = apply_adapters_meta(network, plan)

Only the configurations are read. Shapes and types are those of the real model; of quantised layers the weights have
the bytes of the packed ones, and are unpacked for each product, as bitsandbytes does it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F

from carellama.adapter_json import usable_settings
from carellama.config.model import ModelOptions
from carellama.hardware import fastest_dtype
from carellama.model import adapters, lora
from carellama.model.adapter_plan import AdapterPlan
from carellama.model.load import SCORE_HEAD, auto_class, load_config, public_name
from carellama.model.lora import AnyModel
from carellama.stages import ModelKind

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

BYTES_PER_4BIT_WEIGHT = {True: 0.5 + 1 / 64 + 4 / (64 * 256), False: 0.5 + 4 / 64}  # by --double_quantization


def meta_model(
    model: ModelOptions, *, dtype: str, attention: str | None, kind: ModelKind = "causal", rows: int = 0
) -> PreTrainedModel:
    """Return the model of `load_model` without its weights; `rows`: the least rows of its embedding."""
    config = copy.deepcopy(load_config(model))
    if kind == "reward":
        config.num_labels, config.problem_type = 1, "regression"
    text = config.get_text_config()
    text.vocab_size = max(text.vocab_size, rows)
    real = getattr(torch, fastest_dtype() if dtype == "auto" else dtype)
    options = {} if attention is None else {"attn_implementation": attention}
    with torch.device("meta"):
        network = auto_class(kind).from_config(config, dtype=real, trust_remote_code=model.trust_remote_code, **options)
    if model.quantization_bit:
        _stub_quantized_layers(network, model, real)
    made: PreTrainedModel = network.eval()
    made.name_or_path = public_name(model)  # which a resumed adapter names
    return made


class QuantizedLinearStub(torch.nn.Linear):
    """A linear layer whose weight takes `size` bytes and is unpacked to `dtype` for each product."""

    def __init__(self, like: torch.nn.Linear, size: int, dtype: torch.dtype) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features, self.dtype = like.in_features, like.out_features, dtype
        packed = torch.empty(size, dtype=torch.uint8, device="meta")
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.bias = like.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out)."""
        width = (self.out_features, self.in_features)
        made: torch.Tensor = _DequantizeStub.apply(x.to(self.dtype), self.weight, width)
        return (made if self.bias is None else made + self.bias.to(made.dtype)).to(x.dtype)


class _DequantizeStub(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, width: tuple[int, int]) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.width = width
        return F.linear(x, torch.empty(width, dtype=x.dtype, device=x.device))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        unpacked = torch.empty(ctx.width, dtype=grads[0].dtype, device=grads[0].device)
        return torch.matmul(grads[0], unpacked), None, None


def _stub_quantized_layers(network: PreTrainedModel, model: ModelOptions, dtype: torch.dtype) -> None:
    """Replace the linear layers that bitsandbytes packs: all but the head."""
    a_weight = 1.0 if model.quantization_bit == 8 else BYTES_PER_4BIT_WEIGHT[model.double_quantization]
    head = network.get_output_embeddings()
    for module in list(network.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is torch.nn.Linear and layer is not head and name != SCORE_HEAD:
                size = int(layer.weight.numel() * a_weight) + 4 * layer.out_features * (a_weight == 1)
                setattr(module, name, QuantizedLinearStub(layer, size, dtype))


def apply_adapters_meta(network: PreTrainedModel, plan: AdapterPlan, new_tokens: Sequence[int] = ()) -> AnyModel:
    """Apply the plan as `apply_adapters` does, without weights. Merged adapters leave nothing to count."""
    # pissa: its matrices have the same sizes, and cannot be found without weights
    finetuning = plan.finetuning and dataclasses.replace(plan.finetuning, pissa_init=False)
    loggers = (adapters.log, lora.log)  # `apply_adapters` will say the same
    for logger in loggers:
        logger.disabled = True
    try:
        with torch.device("meta"):
            return adapters.set_trained(network, dataclasses.replace(plan, finetuning=finetuning), new_tokens, _add)
    finally:
        for logger in loggers:
            logger.disabled = False


def _add(model: AnyModel, folder: Path, name: str) -> PeftModel:
    """Add an adapter of the sizes of a saved one."""
    from peft import PeftModel, get_peft_model

    with lora.quiet_peft(), usable_settings(folder):
        config = adapters.peft_config(folder, lora.base_of(model), {})
        config.inference_mode = False
        if hasattr(config, "init_lora_weights"):
            config.init_lora_weights = True  # others are computed from the weights of the base
        if not isinstance(model, PeftModel):
            return cast("PeftModel", get_peft_model(model, config, adapter_name=name))
        model.add_adapter(name, config)
    return model
