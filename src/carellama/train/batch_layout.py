"""How a model's batches are laid out: padding-free rows where the model keeps their records apart, else padded.

    collate = layout(model, tokenizer, packing=False, sharded=False)

Attention that keeps records apart is not enough: a model may compute its attention by itself (the position biases of
BLOOM and MPT), hand more to it (the sinks of GPT-OSS), or have layers that are no attention. So the model itself is
asked: it is run on two short records in a row and on the same two in a padded batch, and what comes out has to be the
same. Windows are longer than these records; for them it is looked whether every layer that has one says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from carellama.data.encoding.collate import collate_padded, collate_row
from carellama.errors import UserError
from carellama.model.lora import AnyModel, base_of
from carellama.model.packed_attention import dispatches, packed_attention, register, takes_packed_rows
from carellama.records import Tokens
from carellama.train.chunked_loss import Collator, forward_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

PROBE_ATTENTION = "packed_and_noted"  # name of the attention that is asked with
PROBE_LENGTHS = (7, 5)  # of the records
ATTENTION_LAYERS = {"full_attention", "sliding_attention"}
FLOAT32_TOLERANCE, LOW_PRECISION_TOLERANCE = (
    1e-3,
    0.1,
)  # largest relative difference of a token's state in float32, and in less
PROBE_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError)


def choose_collator(model: AnyModel, tokenizer: PreTrainedTokenizerBase, *, packing: bool, sharded: bool) -> Collator:
    """Return the function that makes a batch of examples; one line says so where it pads.

    `packing`: the person asked for full windows, which is refused for a model that needs padding. `sharded`: the
    weights may not all be here, so the model is not run.
    """
    base = base_of(model)
    implementation = base.config._attn_implementation
    name = type(base).__name__
    if not dispatches(type(base)):
        reason = "it computes its attention by itself"
    elif not takes_packed_rows(implementation):
        reason = f"attention {implementation!r} cannot keep records apart in one row"
    elif not (reason := no_packing_reason(base, sharded=sharded)):
        return collate_row
    else:
        base.set_attn_implementation(padded_attention(base))
    if packing:
        raise UserError(f"--packing needs a model that keeps records apart; {name} does not: {reason}")
    log.info("%s: %s; batches are padded", name, reason)
    return partial(collate_padded, pad_token_id=tokenizer.pad_token_id)


def supports_packing(model: PreTrainedModel) -> bool:
    """Whether a model without weights would be given rows, as far as its configuration and class say."""
    implementation = model.config._attn_implementation
    return dispatches(type(model)) and takes_packed_rows(implementation) and not no_packing_reason(model, sharded=True)


def padded_attention(model: PreTrainedModel) -> str:
    """Transformers' name of the attention for padded batches."""
    return "sdpa" if model._supports_sdpa else "eager"


def no_packing_reason(model: PreTrainedModel, *, sharded: bool = False) -> str:
    """Say why a model cannot keep the records of a row apart, or nothing where it does.

    First by what its configuration and weights say, then (unless `sharded`) by running it on twelve tokens.
    """
    config = model.config.get_text_config()
    others = sorted(set(getattr(config, "layer_types", None) or ()) - ATTENTION_LAYERS)
    if "chunked_attention" in others:
        return "it attends in chunks"
    if any(name.endswith(".sinks") for name, _ in model.named_parameters()):
        return "its attention has sinks"
    if sharded:
        if others:
            return f"its layers are not all attention ({', '.join(others)})"
        return "" if model._supports_attention_backend else "it computes its attention by itself"
    return _probe(model, config)


@torch.no_grad()
def _probe(model: PreTrainedModel, config: PreTrainedConfig) -> str:
    """Run the model on two records, packed and padded, and say what differs."""
    inner = cast("PreTrainedModel", model.base_model)
    highest = min(int(config.vocab_size), 100)
    records = [_record(length, start, highest) for start, length in enumerate(PROBE_LENGTHS)]
    device = cast("torch.nn.Embedding", inner.get_input_embeddings()).weight.device
    row, batch = (
        {name: value.to(device) if torch.is_tensor(value) else value for name, value in forward_inputs(made).items()}
        for made in (collate_row([[record] for record in records]), collate_padded([[record] for record in records], 0))
    )
    with _recording_attention(model) as windows:
        try:
            packed = inner(**row, use_cache=False).last_hidden_state[0].float()  # (sum of T, D)
        except PROBE_ERRORS as error:
            return str(error).split(". ")[0].partition("\n")[0] or type(error).__name__
        if not windows:
            return "it computes its attention by itself"
        if problem := _windows_missing(config, windows):
            return problem
        model.set_attn_implementation(padded_attention(model))
        states = inner(**batch, use_cache=False).last_hidden_state.float()  # (records, T, D)
        padded = torch.cat([state[:length] for state, length in zip(states, PROBE_LENGTHS, strict=True)])
    difference = (packed - padded).norm(dim=-1) / padded.norm(dim=-1).clamp(min=1e-6)  # (sum of T,)
    bound = (
        FLOAT32_TOLERANCE
        if model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
        else LOW_PRECISION_TOLERANCE
    )
    # the median of each record: a rounded router may send a token to other experts
    if max(float(part.median()) for part in difference.split(PROBE_LENGTHS)) > bound:
        return "in one row its records see each other"
    return ""


def _record(length: int, start: int, highest: int) -> Tokens:
    ids = (np.arange(length, dtype=np.int32) * 7 + 11 * start + 5) % highest
    return Tokens(ids, np.concatenate([[-100], ids[1:]]).astype(np.int32))


@contextmanager
def _recording_attention(model: PreTrainedModel) -> Iterator[list[int | None]]:
    """Let the model attend to packed rows, and note the window of each layer; all is as before afterwards."""
    from transformers import AttentionInterface, AttentionMaskInterface

    windows: list[int | None] = []

    def noted(*args: Any, **kwargs: Any) -> Any:
        windows.append(kwargs.get("sliding_window"))
        return packed_attention(*args, **kwargs)

    AttentionInterface.register(PROBE_ATTENTION, noted)
    AttentionMaskInterface.register(PROBE_ATTENTION, AttentionMaskInterface._global_mapping[register()])  # type: ignore[arg-type]
    before, training = model.config._attn_implementation, model.training
    model.eval()
    model.set_attn_implementation(PROBE_ATTENTION)
    try:
        yield windows
    finally:
        model.set_attn_implementation(before)
        model.train(training)


def _windows_missing(config: PreTrainedConfig, windows: list[int | None]) -> str:
    """Say whether layers that have a window kept it to their mask, where a row does not see it."""
    if not getattr(config, "sliding_window", None):
        return ""
    kinds = getattr(config, "layer_types", None)
    expected = kinds.count("sliding_attention") if kinds else len(windows)
    return "" if sum(window is not None for window in windows) >= expected else "its attention does not tell its window"
