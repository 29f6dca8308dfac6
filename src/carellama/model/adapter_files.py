"""Embeddings and output heads that the file of an adapter has whole, beside its factors.

    whole_modules(Path("output"))    # {"base_model.model.lm_head.weight": WholeModule("lm_head", 49954, False), ...}

peft writes them for `modules_to_save`, and by itself where a model got rows for new tokens before it was trained.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from carellama.adapter_json import read_adapter_json
from carellama.errors import UserError
from carellama.model.lora import AnyModel, base_of
from carellama.model.vocabulary import grow
from carellama.weights import safetensors_header

if TYPE_CHECKING:
    import torch

PREFIX = "base_model.model."
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "embedding")
HEADS = ("lm_head", "output", "embed_out", "output_layer")


@dataclass(frozen=True)
class WholeModule:
    """One of them: its name in the model, its rows (tokens), and whether peft writes it over that of the base."""

    name: str
    rows: int
    replaces_base: bool

    @property
    def last_name(self) -> str:
        """The last part of its name."""
        return self.name.rpartition(".")[2]


def whole_modules(folder: Path, *, allow_pickle: bool = False) -> dict[str, WholeModule]:
    """Return them by the names of their weights. A file that cannot be read has none: it is refused where it is loaded.

    Raises `UserError` for an adapter_config.json that cannot be read.
    """
    saved = read_adapter_json(folder).get("modules_to_save") or []
    found = {}
    for key, shape in _shapes(folder, allow_pickle=allow_pickle).items():
        name = key.removeprefix(PREFIX).removesuffix(".weight").removesuffix(".base_layer")
        last = name.rpartition(".")[2]
        if key.endswith(".weight") and ".lora_" not in key and last in (*EMBEDDINGS, *HEADS):
            replaces = last not in saved and ".base_layer." not in key
            found[key] = WholeModule(name, shape[0], replaces)
    return found


def make_room(model: AnyModel, folder: Path, whole: Mapping[str, WholeModule], *, trained: bool) -> str:
    """Give the model the rows for which an adapter has whole embeddings, or say why they do not fit.

    Raises `UserError` for one that would change the base under other adapters, or under its own training.
    """
    from peft import PeftModel

    stacked = isinstance(model, PeftModel)
    for module in whole.values():
        if module.replaces_base and (trained or stacked):
            raise UserError(
                f"the adapter {folder} has {module.name} whole, in place of that of the base: it is neither trained "
                f"further nor put on other adapters. Give carellama export --checkpoint_dir {folder}, and what it "
                "writes as --model_name_or_path"
            )
    base = base_of(model)
    rows = cast("torch.nn.Embedding", base.get_input_embeddings()).num_embeddings
    wanted = max((module.rows for module in whole.values()), default=0)
    if wanted > rows and (stacked or not (folder / "tokenizer_config.json").is_file()):
        advice = "merge the adapters before it first" if stacked else "no tokenizer with more tokens lies beside it"
        return f"it has weights for {wanted} tokens, this model for {rows}: {advice}"
    grow(base, wanted)  # beyond the tokens of its tokenizer: rows that round the number up
    return ""


def _shapes(folder: Path, *, allow_pickle: bool) -> dict[str, list[int]]:
    path, pickled = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    try:
        if path.is_file():
            _, header = safetensors_header(path)
            return {key: about["shape"] for key, about in header.items() if key != "__metadata__"}
        if allow_pickle and pickled.is_file():
            import torch

            weights = torch.load(pickled, map_location="cpu", weights_only=True, mmap=True)
            return {key: list(weight.shape) for key, weight in weights.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, pickle.UnpicklingError):
        pass
    return {}
