"""A trained model as one folder that every other program reads, with an account of how it was made.

    carellama export --model_name_or_path smollm2-135m --checkpoint_dir output --output_dir output_export

Adapters are merged. The folder gets the weights as safetensors, the chat format in the tokenizer, the tokens that end
an answer in every configuration, files spelled for other programs (`carellama.model.readers`) and a model card
(`carellama.export.card`). It is read back and compared with base and adapters (`carellama.export.parity`). A reward
model becomes a sequence classification model with one score (`carellama.export.scoring`). Conversion to GGUF is
`carellama.model.gguf.write`.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.config.commands import EXPORT_OPTIONS
from carellama.config.data import DataOptions
from carellama.config.model import ModelOptions
from carellama.config.reader import parse_options
from carellama.errors import UserError
from carellama.export.card import write_card
from carellama.files import print_status
from carellama.model.paths import check_model, check_output, check_space, filled_folder
from carellama.model.quiet import QUICK_BYTES, quiet_bars
from carellama.model.readers import make_readable
from carellama.model.zoo.pull import with_named_weights
from carellama.run_record import check_foundation, check_positions, template_for
from carellama.templates.template import Template, get_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from carellama.export.parity.read_back import ParityReport

log = logging.getLogger(__name__)

EXACT_WEIGHTS = 2_000_000_000  # up to this size the comparison is made in float32


def main(argv: Sequence[str]) -> None:
    """`carellama export` and `src/export_model.py`."""
    model, where = parse_options(EXPORT_OPTIONS, argv, "carellama export")
    check_model(model)  # before a library is loaded
    folder = Path(where.output_dir).expanduser()
    parity = export_model(
        model,
        where.template,
        folder,
        max_shard_size=where.max_shard_size,
        overwrite=where.overwrite_output_dir,
    )
    print(f"exported to {folder}: {parity}")
    if parity.top1_agreement is not None:  # a reward model does not answer
        print(f"next: carellama chat --model_name_or_path {shlex.quote(str(folder))}")


def export_model(
    model: ModelOptions,
    template_name: str | None,
    output_dir: Path,
    *,
    max_shard_size: str = "5GB",
    overwrite: bool = False,
) -> ParityReport:
    """Write the model with its checkpoints merged to `output_dir`, which appears at once and whole.

    A base that was trained on quantised is taken unquantised. Raises `UserError` for a folder that is not
    empty (or, with `overwrite`, holds no model), for too little disk space, and for what cannot be loaded.
    """
    import torch

    from carellama.export.parity.read_back import check_parity, measure
    from carellama.export.scoring import prepare_scoring
    from carellama.model.adapter_plan import plan_adapters
    from carellama.model.adapters import apply_adapters, merge_adapters
    from carellama.model.load import (
        checkpoint_kind,
        load_model,
        load_tokenizer,
        match_tokenizer,
        stored_dtype,
        tokenizer_checkpoint,
    )

    model, data = with_named_weights(model, DataOptions(template=template_name))
    check_output(output_dir, map(Path, (model.model_name_or_path, *model.checkpoints)), overwrite=overwrite)
    if not re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]i?B", max_shard_size, re.IGNORECASE):
        raise UserError(f"--max_shard_size {max_shard_size}: give a size like 5GB or 500MB")
    if model.quantization_bit:
        log.info("export takes the base unquantised: adapters cannot be merged into quantised weights")
        model = replace(model, quantization_bit=None)
    dtype = model.dtype if model.dtype != "auto" else stored_dtype(model)
    tokenizer = load_tokenizer(model)
    check_foundation(model)
    check_positions(model)
    template = get_template(template_for(model, data.template), tokenizer)
    kind = checkpoint_kind(model)
    base = load_model(model, dtype=dtype, attention=None, kind=kind)
    match_tokenizer(base, tokenizer, extended=tokenizer_checkpoint(model) is not None)
    adapted = apply_adapters(base, plan_adapters(model))
    check_space(output_dir, needed := _bytes_of(base, dtype))
    exact = base.num_parameters() <= EXACT_WEIGHTS
    if exact:
        adapted.float()
    expected = measure(adapted, tokenizer, template, kind)
    merged = merge_adapters(adapted).to(getattr(torch, dtype))
    tokenizer.chat_template = template.jinja
    if kind == "reward":
        prepare_scoring(merged, tokenizer, template)
    try:
        with filled_folder(output_dir) as made:
            if needed > QUICK_BYTES:
                print_status(f"writing {needed / 1e9:.1f} GB to {output_dir}")
            _save(merged, tokenizer, template, made, max_shard_size)
            del base, adapted, merged
            parity = check_parity(
                made, template, expected, dtype=dtype, exact=exact, trust_remote_code=model.trust_remote_code
            )
            write_card(made, model, template, str(parity), kind)
    except OSError as error:
        raise UserError(f"cannot write {output_dir}: {error}") from error
    return parity


def _bytes_of(network: PreTrainedModel, dtype: str) -> int:
    """The disk space that the folder takes at most."""
    import torch

    return int(network.num_parameters() * getattr(torch, dtype).itemsize * 1.02) + (64 << 20)


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
    for weights in folder.glob("*.safetensors"):  # which safetensors writes for the owner's eyes only
        weights.chmod((folder / "config.json").stat().st_mode)
