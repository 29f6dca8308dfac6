"""Models that have a name: what they are, where they live, which base, licence and template they need.

    find_entry("CareLlama2-7b-chat-sft-multi").base      # "meta-llama/Llama-2-7b-chat-hf"

The entries are data (`models/*.yaml`), and those of the user's own (`carellama models add`). Nothing is fetched here:
`carellama.model.zoo.resolve` and `carellama.model.zoo.fetch` do that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from carellama.config.environment import own_models_file
from carellama.errors import UserError
from carellama.package_data import package_folder, parse_yaml

Kind = Literal["embedded", "adapter", "delta", "model"]
Hub = Literal["huggingface", "modelscope"]
# Fields that are no fact of somebody else's, so that they have no source.
UNSOURCED = ("name", "about", "kind", "sources", "own", "place", "fingerprint", "note")


@dataclass(frozen=True)
class ModelEntry:
    """One model by name. A field that is empty is one for which no source was found.

    kind: `embedded` lies in a package of the Python index, `adapter` is put on `base`, `delta` is added to the weights
    of `base`, `model` is whole. `hub` and `base` are ids of the Hugging Face hub, `modelscope` and `base_modelscope`
    those of ModelScope; `aliases` are ids that it had before, or copies of it; `page` is where weights lie that no hub
    has. `revision` is the commit that was looked at. `fingerprint` has the digests of some tensors
    (`carellama.weights.base_fingerprint`): of its base, or of a whole model its own.
    `template` is the chat format that it was trained with.
    `reasoning` are the marks around or before its reasoning and its answer. `sampling` is what its authors advise.
    `licence` is the id that the hub uses, `terms` what a user has to know beside it. `sizes` are counts of parameters,
    `reads` what it takes, `weights` the kind of its files, `delta_whole` parts of the names of tensors of a delta that
    are no differences. `sources` gives each field the address where it is stated.
    """

    name: str
    about: str
    kind: Kind
    hub: str = ""
    licence: str = ""
    languages: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    revision: str = ""
    modelscope: str = ""
    page: str = ""
    base: str = ""
    base_modelscope: str = ""
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    method: str = ""
    template: str = ""
    reasoning: tuple[str, ...] = ()
    sampling: Mapping[str, float] = field(default_factory=dict)
    base_licence: str = ""
    terms: str = ""
    remote_code: bool | None = None
    gated: bool | None = None
    weights: Literal["", "safetensors", "bin"] = ""
    delta_whole: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ("text",)
    bad_quantisations: tuple[str, ...] = ()
    note: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    own: bool = False  # of the user, not of this list
    place: str = ""  # folder of an own entry

    @property
    def source(self) -> str:
        """The address that says where it is, else the first of `sources`."""
        return self.sources.get("hub") or self.sources.get("page") or next(iter(self.sources.values()), "")

    @property
    def ids(self) -> tuple[str, ...]:
        """All names that lead here: its own, its ids on both hubs, and older ids."""
        return tuple(one for one in (self.name, self.hub, self.modelscope, *self.aliases) if one)

    @property
    def parameters(self) -> float | None:
        """How many parameters the smallest of its sizes has; None: not stated. Of a mixture of experts all of them."""
        counts = [count for size in self.sizes if (count := count_of(size)) is not None]
        return min(counts, default=None)


def count_of(size: str) -> float | None:
    """The number of parameters of a size as it is written, as 8B, 1.8B or 270M; None: it is written otherwise."""
    units = {"M": 1e6, "B": 1e9, "T": 1e12}
    unit = units.get(size[-1:].upper())
    try:
        return float(size[:-1]) * unit if unit else None
    except ValueError:
        return None


@cache
def released_entries() -> tuple[ModelEntry, ...]:
    """Return the entries of this package, in the order of their files."""
    found: list[ModelEntry] = []
    for path, text in package_folder("model/zoo/models"):
        found += [entry_of(row, path) for row in parse_yaml(text)]
    return tuple(found)


def load_entries() -> tuple[ModelEntry, ...]:
    """Return all entries: those of this package, then the user's own. Raises `UserError` for a damaged file of own."""
    return (*released_entries(), *own_entries(own_models_file()))


def own_entries(path: Path) -> tuple[ModelEntry, ...]:
    """Return the entries of a user's file; () where there is none. Raises `UserError` for what is no entry."""
    if not path.is_file():
        return ()
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(rows, list):
        raise UserError(f"{path} is no list of models")
    return tuple(dataclasses.replace(entry_of(row, path), own=True) for row in rows)


def entry_of(row: Any, path: Path | str) -> ModelEntry:
    """Return the entry that a row of a file describes. Raises `UserError` for a field that is none.

    In a file `sources` has each address once, with the fields that are stated there.
    """
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        raise UserError(f"{path}: each model is a mapping that has a name, not {row!r:.60}")
    known = {one.name: one for one in dataclasses.fields(ModelEntry)}
    if unknown := [key for key in row if key not in known]:
        raise UserError(f"{path}: {row['name']} has the field {unknown[0]}; fields are {', '.join(known)}")
    missing = [name for name in ("about", "kind") if name not in row]
    if missing or row["kind"] not in get_args(Kind):
        what = f"no {missing[0]}" if missing else f"kind {row['kind']}, not one of {', '.join(get_args(Kind))}"
        raise UserError(f"{path}: {row['name']} has {what}")
    made: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    stated = row.get("sources") or {}
    if not isinstance(stated, dict) or not all(isinstance(fields, list) for fields in stated.values()):
        raise UserError(f"{path}: sources of {row['name']} are no addresses with lists of fields")
    made["sources"] = {name: address for address, fields in stated.items() for name in fields}
    return ModelEntry(**made)


def find_entry(name: str) -> ModelEntry | None:
    """Return the entry of a name or of one of its ids, in upper or lower case; None: no such entry."""
    wanted = name.strip().lower()
    return next((entry for entry in load_entries() if wanted in map(str.lower, entry.ids)), None)


def is_on(repo: str, hub: Hub) -> bool:
    """Whether a hub is known to have what `repo`, an id of either hub, leads to: an entry, or the base of one."""
    for entry in load_entries():
        found = entry.hub if hub == "huggingface" else entry.modelscope
        of_base = entry.base if hub == "huggingface" else entry.base_modelscope
        if (found and repo in entry.ids) or (of_base and repo in (entry.base, entry.base_modelscope)):
            return True
    return False


def hub_of(entry: ModelEntry, hub: Hub, given: str = "") -> str:
    """The id of an entry's weights on a hub. Raises `UserError` where it has none there.

    An id of ModelScope that is not in the list is what was `given`, if that is an id.
    """
    found = entry.modelscope or given * ("/" in given) if hub == "modelscope" else entry.hub
    if not found:
        there = f"; see {entry.page or entry.source}"
        if hub == "modelscope" and entry.hub:
            there = "; leave --hub out"
        elif hub == "huggingface" and entry.modelscope:
            there = "; give --hub modelscope"
        raise UserError(f"no {hub} id of {entry.name} is known{there}")
    return found
