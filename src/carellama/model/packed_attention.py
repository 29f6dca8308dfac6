"""Attention over a packed row: records lie end to end in one row, and each attends to itself alone.

Registered with transformers' `AttentionInterface` under the name `packed`. The row's borders come as `cu_seq_lens_q`,
the name that transformers' flash-attention path uses, so the same batch runs on a GPU with `flash_attention_2`.
Without borders (generation, padded batches) it is transformers' own `sdpa`.

On CPU, torch's fused attention is slow backwards for the short records of fine-tuning: up to `DENSE_TOKENS` the plain
products are computed instead, keeping the probabilities for the backward pass; longer records take the fused kernel,
whose memory does not grow with the square of the length.

It knows sliding windows and soft caps, and no attention sinks, position biases or chunks: what else a model hands to
its attention is refused with `NotPacked`. `carellama.train.batch_layout` asks a model beforehand whether it can take
such rows.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from carellama.hardware import has_gpu

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKED = "packed"
DENSE_TOKENS = 512  # above this length the fused kernel is as fast, and its memory linear
# What models hand to their attention besides the arguments of `packed_attention`, and that changes nothing here: the
# borders say it already, or it is for the cache, for other outputs or for the loss.
HARMLESS = {
    "position_ids", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx", "cache_position", "use_cache",
    "past_key_values", "output_attentions", "output_hidden_states", "output_router_logits", "return_dict",
    "is_causal", "num_items_in_batch", "layer_type", "inputs_embeds", "input_ids", "logits_to_keep", "labels",
}  # fmt: skip


class NotPacked(ValueError):
    """A model's attention wants something that attention over a packed row does not know."""


class DenseAttention(torch.autograd.Function):
    """Causal softmax(Q K^T scale) V of every record of a row, with the probabilities kept for the backward pass.

    Grouped-query attention without copies: the G query heads of one key head are stacked into one product.
    Backward: dV = P^T dO, dP = dO V^T, dS = P * (dP - rowsum(dP * P)), dQ = dS K scale, dK = dS^T Q scale
    (Dao et al. 2022, arXiv:2205.14135, appendix B.2). All records of a row are one step of autograd: a step of
    each would give back a gradient of the whole row. What is made lies as the layers around it have it, (T, H, D).
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, borders: list[int]
    ) -> torch.Tensor:
        """Take query (H, T, D), key (K, T, D) and value (K, T, V); return (T, H, V)."""
        heads, length, _ = query.shape
        shape = (key.shape[0], heads // key.shape[0])  # key heads and the query heads of each: (K, G)
        output = value.new_empty(length, *shape, value.shape[-1])
        longest = max(end - start for start, end in itertools.pairwise(borders))
        mask = query.new_full((longest, longest), float("-inf")).triu_(1)  # 0 for what a position sees
        kept = []
        for start, end in itertools.pairwise(borders):
            size = end - start
            part = query[:, start:end].unflatten(0, shape)  # (K, G, t, D)
            stacked = torch.mul(part, scale, out=query.new_empty(part.shape)).flatten(1, 2)  # (K, G*t, D)
            scores = torch.bmm(stacked, key[:, start:end].transpose(1, 2))
            scores.unflatten(1, (shape[1], size)).add_(mask[:size, :size])
            weights = scores.softmax(-1)  # (K, G*t, t)
            found = torch.bmm(weights, value[:, start:end]).unflatten(1, (shape[1], size))
            output[start:end].copy_(found.permute(2, 0, 1, 3))
            kept += [stacked, weights]
        ctx.save_for_backward(key, value, *kept)
        ctx.scale, ctx.borders, ctx.shape = scale, borders, shape
        return output.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        key, value, *kept = ctx.saved_tensors
        shape = ctx.shape
        grad_query = key.new_empty(key.shape[1], *shape, key.shape[2])
        grad_key, grad_value = (torch.empty_like(part.transpose(0, 1)) for part in (key, value))  # (T, K, D)
        whole = grads[0].unflatten(1, shape)  # (T, K, G, V)
        for index, (start, end) in enumerate(itertools.pairwise(ctx.borders)):
            stacked, weights = kept[2 * index : 2 * index + 2]
            grad = whole[start:end].permute(1, 2, 0, 3).flatten(1, 2)  # (K, G*t, V)
            grad_value[start:end].copy_(torch.bmm(weights.transpose(1, 2), grad).transpose(0, 1))
            grad_weights = torch.bmm(grad, value[:, start:end].transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            found = torch.bmm(grad_scores, key[:, start:end]).unflatten(1, (shape[1], end - start))
            torch.mul(found.permute(2, 0, 1, 3), ctx.scale, out=grad_query[start:end])
            grad_key[start:end].copy_(torch.bmm(grad_scores.transpose(1, 2), stacked).transpose(0, 1))
        given = grad_query.flatten(1, 2), grad_key, grad_value
        return *(grad.transpose(0, 1) for grad in given), None, None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its products are cut where records end, which is in other places in every batch
def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each record of a packed row; the signature is that of transformers' attention functions.

    query (1, H, T, D), key and value (1, K, T, D), cu_seq_lens_q (records + 1,): where each begins and the last ends.
    Returns (1, T, H, D). Raises `NotPacked` for arguments that would change the outcome and are not known here.
    """
    if cu_seq_lens_q is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    unknown = [name for name, value in kwargs.items() if value is not None and name not in HARMLESS]
    if unknown:
        raise NotPacked(f"its attention takes {', '.join(sorted(unknown))}")
    # under mixed precision the rotation leaves queries and keys in float32, beside values in the low precision
    query, key = query.to(value.dtype), key.to(value.dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    borders = cu_seq_lens_q.tolist()
    dense = query.device.type == "cpu" and not dropout and not softcap

    def whole(length: int) -> bool:
        """Whether a record of this length is attended to by plain products."""
        return dense and length <= DENSE_TOKENS and not (sliding_window and sliding_window < length)

    if all(whole(end - start) for start, end in itertools.pairwise(borders)):
        return DenseAttention.apply(query[0], key[0], value[0], scale, borders)[None], None
    parts = []
    for start, end in itertools.pairwise(borders):
        q, k, v = (part[0, :, start:end] for part in (query, key, value))  # (heads, T, D)
        length = end - start
        window = sliding_window if sliding_window and sliding_window < length else None
        if whole(length):
            parts.append(DenseAttention.apply(q, k, v, scale, [0, length]).transpose(0, 1))
        elif window or softcap:
            parts.append(_banded(q, k, v, scale, window, softcap))
        else:
            groups = q.shape[0] // k.shape[0]
            k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
            fused = F.scaled_dot_product_attention(
                q[None], k[None], v[None], dropout_p=dropout, is_causal=True, scale=scale
            )
            parts.append(fused[0])
    return torch.cat(parts, dim=1).transpose(0, 1)[None], None


def _banded(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """One record with a sliding window (each position sees `window` positions, itself included) or a softcap."""
    length, groups = query.shape[1], query.shape[0] // key.shape[0]
    key, value = key.repeat_interleave(groups, 0), value.repeat_interleave(groups, 0)
    hidden = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    if window:
        hidden |= torch.ones_like(hidden).tril(-window)
    scores = torch.bmm(query, key.transpose(1, 2)) * scale
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1, dtype=torch.float32).to(value.dtype)
    return torch.bmm(weights, value)


def _packed_mask(*args: Any, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
    """No mask for a packed row (the borders say all); transformers' sdpa mask for a padded batch."""
    if attention_mask is None:
        return None
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*args, attention_mask=attention_mask, **kwargs)  # type: ignore[misc]  # all come by keyword


def register() -> str:
    """Make `attn_implementation="packed"` known to transformers, and return that name."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, _packed_mask)
    return PACKED


def choose(attention: str, model_class: type[PreTrainedModel] | None) -> str | None:
    """Return transformers' name for `--attention`, or None for the default of the model class.

    `auto` is flash attention where it can run, else `packed`, else that default; None too for `padded`, and for
    `packed` where the class computes its attention by itself. `model_class` is None for code that came with a model.
    """
    if attention not in ("auto", PACKED):
        return None if attention == "padded" else attention
    if attention == "auto" and has_gpu() and getattr(model_class, "_supports_flash_attn", False) and flash_is_here():
        return "flash_attention_2"
    return register() if dispatches(model_class) else None


def flash_is_here() -> bool:
    """Whether flash attention is installed, or `kernels` is and has fetched it before.

    transformers would fetch it from the hub; compiled code from there comes only where somebody asked for it, by
    `--attention flash_attention_2`.
    """
    from huggingface_hub.constants import HF_HUB_CACHE
    from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_FALLBACK
    from transformers.utils import is_flash_attn_2_available, is_kernels_available

    if is_flash_attn_2_available():
        return True
    name = FLASH_ATTN_KERNEL_FALLBACK["flash_attention_2"].replace("/", "--")
    return is_kernels_available() and any(Path(HF_HUB_CACHE).glob(f"*--{name}"))


def dispatches(model_class: type[PreTrainedModel] | None) -> bool:
    """Whether a model class calls the attention function of the configuration, whichever it is."""
    return model_class is not None and bool(model_class._can_set_attn_implementation())


def takes_packed_rows(implementation: str) -> bool:
    """Whether an attention implementation honours the borders of a packed row."""
    return implementation == PACKED or implementation.startswith("flash_attention")
