"""Models that have a name: what they are, where they live, which base, licence and template they need.

    find_entry("CareLlama2-7b-chat-sft-multi").base      # "meta-llama/Llama-2-7b-chat-hf"

The entries are data (`models.yaml`). Nothing is fetched here: `carellama.model.zoo.resolve` does that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import yaml


@dataclass(frozen=True)
class ModelEntry:
    """One model by name.

    kind: `embedded` lies in a package of the Python index, `adapter` is put on `base`, `model` is whole. `hub` and
    `base` are ids of the Hugging Face hub. `template` is the chat format that it was trained with. `licence` is the id
    that the hub uses, `terms` what a user has to know beside it, `source` the address where all this is stated.
    """

    name: str
    about: str
    kind: Literal["embedded", "adapter", "model"]
    hub: str
    licence: str
    source: str
    languages: tuple[str, ...]
    base: str = ""
    method: str = ""
    template: str = ""
    base_licence: str = ""
    terms: str = ""


@cache
def load_entries() -> tuple[ModelEntry, ...]:
    """Return all entries, in the order of the file."""
    text = resources.files("carellama.model.zoo").joinpath("models.yaml").read_text(encoding="utf-8")
    return tuple(ModelEntry(**row | {"languages": tuple(row["languages"])}) for row in yaml.safe_load(text))


def find_entry(name: str) -> ModelEntry | None:
    """Return the entry of a name or of its hub id, in upper or lower case; None: no such entry."""
    wanted = name.strip().lower()
    return next((entry for entry in load_entries() if wanted in (entry.name.lower(), entry.hub.lower())), None)
