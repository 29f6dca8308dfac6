"""A LoRA that was trained on a 4-bit base: which weights it is merged into, decided by measurement.

    base, note = better_base(model, base, tokenizer)

The training saw weights rounded to 4 bits. The adapter can be merged into these rounded weights, or into the original
ones. Both are compared on held-out text with what was trained, the 4-bit base with the adapter, and the one with the
smaller KL divergence is kept. The rounded weights are then stored in the precision of the base: nothing is in 4 bits.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from carellama.config.model import ModelOptions
from carellama.errors import need
from carellama.export.cards.notes import Note, note
from carellama.files import print_status
from carellama.run_record import run_records

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from carellama.model.lora import AnyModel


def better_base(
    model: ModelOptions, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, Note | None]:
    """Return the base that the adapters belong on, and a line on both measurements; the base and None: not 4 bit.

    `base` has the original weights and is not changed. Three models are in memory meanwhile.
    """
    trained_on = _four_bit(model)
    if trained_on is None:
        return base, None
    from carellama.export.parity.texts import windows
    from carellama.model.adapter_plan import plan_adapters
    from carellama.model.adapters import apply_adapters
    from carellama.model.load import load_model

    need("bitsandbytes", extra="quantize", why="measuring a LoRA that was trained on a 4-bit base")
    dtype = str(base.dtype).removeprefix("torch.")
    four = load_model(trained_on, dtype=dtype, attention=None)
    rounded = copy.deepcopy(base)
    _dequantise(four, rounded)
    longest = int(getattr(base.config.get_text_config(), "max_position_embeddings", 2048))
    texts = windows(tokenizer, longest)
    trained = apply_adapters(four, plan_adapters(trained_on))
    plan = plan_adapters(model)
    of_original, of_rounded = (
        _divergence(trained, apply_adapters(copy.deepcopy(one), plan), texts) for one in (base, rounded)
    )
    nearer = of_rounded < of_original
    found = note("of_rounded" if nearer else "of_original", original=of_original, rounded=of_rounded)
    print_status(str(found))
    return (rounded if nearer else base), found


def _four_bit(model: ModelOptions) -> ModelOptions | None:
    """The options of the 4-bit base that the last training had; None: it had none, or there are several adapters."""
    records = run_records(model)
    settings = records[-1].get("settings", {}).get("model", {}) if records else {}
    if settings.get("quantization_bit") != 4 or len(model.checkpoints) != 1:
        return None
    return replace(
        model,
        quantization_bit=4,
        quantization_type=settings.get("quantization_type") or model.quantization_type,
        double_quantization=bool(settings.get("double_quantization", model.double_quantization)),
    )


def _dequantise(four: PreTrainedModel, target: PreTrainedModel) -> None:
    """Give a model the weights that a 4-bit model computes with."""
    import bitsandbytes
    import torch

    linear: Any = bitsandbytes.nn.modules.Linear4bit
    own = dict(target.named_modules())
    with torch.no_grad():
        for name, module in four.named_modules():
            if isinstance(module, linear):
                layer: Any = own[name]
                packed: Any = module.weight
                layer.weight.copy_(bitsandbytes.functional.dequantize_4bit(packed.data, packed.quant_state))


def _divergence(trained: AnyModel, other: AnyModel, texts: list[list[int]]) -> float:
    """The mean KL divergence over the tokens of texts, in nats."""
    import torch

    total, count = 0.0, 0
    for ids in texts:
        given = torch.tensor([ids])
        with torch.no_grad():
            before, after = (
                cast("torch.Tensor", one(input_ids=given.to(one.device)).logits)[0, :-1].double().cpu().log_softmax(-1)
                for one in (trained, other)
            )
        total += float((before.exp() * (before - after)).sum())
        count += len(ids) - 1
    return total / max(count, 1)
