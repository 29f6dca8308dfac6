"""A model without weights: what `load_model` and `adapter.prepare` would give, on torch's meta device.

    network = blank_model(ModelArguments("smollm2-135m"), dtype="bfloat16", attention=None)
    network = blank_adapters(network, arguments, FinetuningArguments(), tokens=())

Only the configurations are read. Shapes and types are those of the real model; of quantised layers the weights have
the bytes of the packed ones, and are unpacked for each product, as bitsandbytes does it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from carellama.config.finetuning import FinetuningArguments
from carellama.config.model import ModelArguments
from carellama.hardware import fastest_dtype
from carellama.model import lora
from carellama.model.adapter import freeze_layers, trained_further
from carellama.model.load import SCORE, Kind, _family, load_config
from carellama.model.lora import TRAINED, peft_quiet

SCALE_BYTES = {True: 0.5 + 1 / 64 + 4 / (64 * 256), False: 0.5 + 4 / 64}  # a 4-bit weight, by --double_quantization


def blank_model(
    model: ModelArguments, *, dtype: str, attention: str | None, kind: Kind = "causal", rows: int = 0
) -> Any:
    """Return the model of `load_model` without its weights; `rows`: the least rows of its embedding."""
    config = copy.deepcopy(load_config(model))
    if kind == "reward":
        config.num_labels, config.problem_type = 1, "regression"
    text = config.get_text_config()
    text.vocab_size = max(text.vocab_size, rows)
    real = getattr(torch, fastest_dtype() if dtype == "auto" else dtype)
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    with torch.device("meta"):
        network = _family(kind).from_config(config, dtype=real, trust_remote_code=model.trust_remote_code, **options)
    if model.quantization_bit:
        _pack(network, model, real)
    return network.eval()


class PackedLinear(torch.nn.Linear):
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
        made: torch.Tensor = _Unpacked.apply(x.to(self.dtype), self.weight, width)
        return (made if self.bias is None else made + self.bias.to(made.dtype)).to(x.dtype)


class _Unpacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, width: tuple[int, int]) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.width = width
        return F.linear(x, torch.empty(width, dtype=x.dtype, device=x.device))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        unpacked = torch.empty(ctx.width, dtype=grads[0].dtype, device=grads[0].device)
        return torch.matmul(grads[0], unpacked), None, None


def _pack(network: Any, model: ModelArguments, dtype: torch.dtype) -> None:
    """Replace the linear layers that bitsandbytes packs: all but the head."""
    a_weight = 1.0 if model.quantization_bit == 8 else SCALE_BYTES[model.double_quantization]
    head = network.get_output_embeddings()
    for module in list(network.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is torch.nn.Linear and layer is not head and name != SCORE:
                size = int(layer.weight.numel() * a_weight) + 4 * layer.out_features * (a_weight == 1)
                setattr(module, name, PackedLinear(layer, size, dtype))


def blank_adapters(
    network: Any, arguments: ModelArguments, finetuning: FinetuningArguments, tokens: Sequence[int] = ()
) -> Any:
    """Put on what `adapter.prepare` would, and set what is trained. Earlier adapters that are merged leave nothing."""
    from peft import PeftConfig, get_peft_model

    kind = finetuning.finetuning_type
    if kind == "freeze":
        freeze_layers(network, finetuning)
        return network
    if kind != "lora":
        return network.requires_grad_(kind == "full")
    resumed = trained_further(arguments, finetuning)
    if resumed is not None:
        config = PeftConfig.from_pretrained(str(resumed))
        config.inference_mode, config.task_type = False, None
        with peft_quiet():
            return get_peft_model(network, config, adapter_name=TRAINED)
    # pissa: its matrices have the same sizes, and cannot be found without weights
    plain = dataclasses.replace(finetuning, pissa_init=False)
    lora.log.disabled = True  # the adapters themselves will say which layers they are for
    try:
        with torch.device("meta"):
            return lora.new_adapter(network, plain, tokens)
    finally:
        lora.log.disabled = False
