"""A model with its checkpoints, loaded, merged, and written as one Hugging Face folder.

    source = load(model, "llama2")
    write_folder(source, folder, "5GB")

Adapters are merged. The folder gets the weights as safetensors, the chat format in the tokenizer, the tokens that end
an answer in every configuration, and files spelled for other programs (`carellama.model.readers`). A reward model
becomes a sequence classification model with one score (`carellama.export.scoring`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.config.data import DataOptions
from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.export.adapters import AdapterMerge, merge_weighted
from carellama.export.cards.notes import Note
from carellama.export.quantised_base import better_base
from carellama.model.finite import check_finite
from carellama.model.quiet import quiet_bars
from carellama.model.readers import make_readable, share_weights
from carellama.model.zoo.pull import with_named_weights
from carellama.run_record import OWN_FORMAT, check_foundation, check_positions, template_for, trained_with
from carellama.stages import ModelKind
from carellama.templates.template import Template, get_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from carellama.model.lora import AnyModel

log = logging.getLogger(__name__)

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")  # their number in a config.json
EXACT_WEIGHTS = 2_000_000_000  # up to this size the comparison is made in float32


@dataclass
class Source:
    """The trained model: base and adapters, not merged yet."""

    model: ModelOptions
    network: AnyModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    kind: ModelKind
    stored: str  # precision of the weights that are written
    weights: int  # of the base
    experts: bool = False  # whether it is a mixture of experts
    positions: int | None = None  # that it knows; None: no limit is stated
    note: Note | None = None  # for the card: which weights a LoRA of a 4-bit base was merged into

    @property
    def exact(self) -> bool:
        """Whether it is small enough to be compared in float32."""
        return self.weights <= EXACT_WEIGHTS

    @property
    def compared(self) -> str:
        """The precision that it is compared in."""
        return "float32" if self.exact else self.stored


def load(model: ModelOptions, template_name: str | None, merge: AdapterMerge | None = None) -> Source:
    """Load base and adapters. A base that was trained on quantised is taken unquantised.

    `merge`: adapters are combined with weights, in place of each on those before it.

    Raises `UserError` for what cannot be loaded.
    """
    from carellama.model.adapter_plan import plan_adapters
    from carellama.model.adapters import apply_adapters, check_mergeable
    from carellama.model.load import checkpoint_kind, full_checkpoint, load_model, stored_dtype
    from carellama.model.tokenizer import check_same_tokens, load_tokenizer, match_tokenizer, tokenizer_checkpoint

    model, data = with_named_weights(model, DataOptions(template=template_name))
    if model.quantization_bit:
        log.info("export takes the base unquantised: adapters cannot be merged into quantised weights")
        model = replace(model, quantization_bit=None)
    dtype = model.dtype if model.dtype != "auto" else stored_dtype(model)
    tokenizer = load_tokenizer(model)
    beside = model.checkpoints[full_checkpoint(model) is not None :] if merge else []
    if merge:
        _check_side_by_side(model, beside, template_name)
    else:
        check_foundation(model)
    check_positions(model)
    template = get_template(template_for(model, data.template, beside[:-1]), tokenizer)
    kind = checkpoint_kind(model)
    base = load_model(model, dtype=dtype, attention=None, kind=kind)
    match_tokenizer(base, tokenizer, extended=tokenizer_checkpoint(model) is not None)
    plan, note = plan_adapters(model), None
    if merge is None:
        if kind == "causal":
            base, note = better_base(model, base, tokenizer)
        adapted = apply_adapters(base, plan)
        check_mergeable(adapted)  # before minutes are spent on asking it
    else:
        check_same_tokens(model)
        if base.num_parameters() <= EXACT_WEIGHTS:
            base.float()  # so that the rounding of what is written shows in the comparison
        adapted = merge_weighted(base, [*plan.merged, *plan.unmerged], merge, allow_pickle=model.allow_pickle)
    config = base.config.get_text_config()
    experts = any((getattr(config, name, None) or 0) > 1 for name in EXPERTS)
    positions = getattr(config, "max_position_embeddings", None)
    return Source(model, adapted, tokenizer, template, kind, dtype, base.num_parameters(), experts, positions, note)


def _check_side_by_side(model: ModelOptions, adapters: Sequence[str], template: str | None) -> None:
    """Compare each of the adapters that are combined with the base, or the whole checkpoint on it, and their formats.

    Raises `UserError` as `check_foundation` does, and for adapters of several chat formats where none is chosen.
    """
    whole = [name for name in model.checkpoints if name not in adapters]
    try:
        check_foundation(replace(model, checkpoint_dir=",".join(whole) or None), adapters)
    except UserError as error:
        raise UserError(f"--merge puts each adapter on the base alone, and not on those before: {error}") from error
    formats = dict(filter(None, map(trained_with, adapters)))
    if template is None and len({*formats.values()}) > 1:
        said = ", ".join(f"{folder} with {name or OWN_FORMAT}" for folder, name in formats.items())
        raise UserError(f"--merge: the adapters were trained with several chat formats ({said}): give --template")


def write_folder(source: Source, folder: Path, max_shard_size: str) -> PreTrainedModel:
    """Merge the adapters into the base, and write weights, tokenizer with the chat format, and end tokens.

    Returns the merged network.
    """
    import torch

    from carellama.export.scoring import prepare_scoring
    from carellama.model.adapters import merge_adapters

    network: PreTrainedModel = merge_adapters(source.network).to(getattr(torch, source.stored))
    # the comparison sees only what its texts make use of; a buffer of one number may be a bound, and infinite
    check_finite([*network.named_parameters(), *(one for one in network.named_buffers() if one[1].numel() > 1)])
    source.tokenizer.chat_template = source.template.jinja
    if source.kind == "reward":
        prepare_scoring(network, source.tokenizer, source.template)
    _save(network, source.tokenizer, source.template, folder, max_shard_size)
    return network


def _save(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: Template, folder: Path, max_shard_size: str
) -> None:
    """Write weights, tokenizer with the chat format, and the tokens that end an answer."""
    from safetensors import SafetensorError

    ends = list(dict.fromkeys([*template.stop_ids, tokenizer.eos_token_id]))
    for config in (network.config, network.config.get_text_config()):
        config.bos_token_id = tokenizer.bos_token_id
        config.eos_token_id = ends if len(ends) > 1 else ends[0]
        config.pad_token_id = tokenizer.pad_token_id
        config.use_cache = True
    if getattr(network, "generation_config", None) is not None:
        network.generation_config.bos_token_id = tokenizer.bos_token_id
        network.generation_config.eos_token_id = ends
        network.generation_config.pad_token_id = tokenizer.pad_token_id
    try:
        with quiet_bars():
            network.save_pretrained(folder, max_shard_size=max_shard_size)
    except SafetensorError as error:
        raise UserError(f"cannot write the weights: {error}") from error
    tokenizer.save_pretrained(folder)
    make_readable(folder)
    share_weights(folder, "config.json")
