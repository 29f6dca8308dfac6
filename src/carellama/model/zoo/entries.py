"""Models that have a name: what they are, where they live, which base, licence and template they need.

    find_entry("CareLlama2-7b-chat-sft-multi").base      # "meta-llama/Llama-2-7b-chat-hf"

The entries are data (`models/*.yaml`), and those of the user's own (`carellama models add`). Nothing is fetched here:
`carellama.model.zoo.resolve` and `carellama.model.zoo.fetch` do that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from carellama.config.environment import own_models_file
from carellama.errors import UserError, nearest
from carellama.model.zoo.licences import clash
from carellama.package_data import package_folder, parse_yaml
from carellama.templates.format import formats

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
    path = own_models_file()
    return (*released_entries(), *own_entries(own_rows(path), path))


def own_entries(rows: list[Any], path: Path) -> tuple[ModelEntry, ...]:
    """Return the entries of a user's file by its rows. Raises `UserError` for what is none, and for a name of two."""
    found = tuple(_own_entry(row, path) for row in rows)
    taken = {key_of(one): f"{entry.name} of CareLlama's list" for entry in released_entries() for one in entry.ids}
    for number, entry in enumerate(found, 1):
        this = f"{entry.name} (model {number} of the file)"
        for one in entry.ids:
            if (other := taken.setdefault(key_of(one), this)) != this:
                raise UserError(
                    f"{path}: {one} leads to {other} and to {this}, upper and lower case being the same: give one of "
                    "them another name or id, or take it out"
                )
    return found


def own_rows(path: Path) -> list[Any]:
    """Return what a user's file has, [] where there is none. Raises `UserError` for one that cannot be read."""
    if not path.is_file():
        return []
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or a date of month 13
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(rows, list):
        raise UserError(f"{path} is no list of models")
    return rows


def _own_entry(row: Any, path: Path) -> ModelEntry:
    entry = entry_of(row, path)
    said = f"{path}: {entry.name}"
    if entry.kind == "embedded":
        raise UserError(f"{said} has kind embedded, which only models of CareLlama's list are")
    if not (entry.place or entry.hub or entry.modelscope or entry.page):
        raise UserError(f"{said} does not say where its weights lie: give place (a folder), hub, modelscope or page")
    if entry.place and entry.kind == "adapter" and not entry.base:
        raise UserError(f"{said} is an adapter and has no base: give base (a folder, or an id of the hub)")
    if entry.template and entry.template not in formats():
        raise UserError(
            f"{said} has template {entry.template!r}, which is no chat format.{nearest(entry.template, formats())} "
            "carellama template list shows all"
        )
    return dataclasses.replace(entry, own=True, base_licence=entry.base_licence or licence_of_base(entry.base))


def entry_of(row: Any, path: Path | str) -> ModelEntry:
    """Return the entry that a row of a file describes. Raises `UserError` for a field that is none, or no such value.

    In a file `sources` has each address once, with the fields that are stated there. An empty field is not stated.
    """
    if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not row["name"].strip():
        raise UserError(f"{path}: each model is a mapping that has a name (a text), not {row!r:.60}")
    said, types = f"{path}: {row['name']}", _types()
    if unknown := [key for key in row if key not in types]:
        raise UserError(f"{said} has the field {unknown[0]}; fields are {', '.join(types)}")
    row = {key: value for key, value in row.items() if value is not None}
    if missing := [name for name in ("about", "kind") if name not in row]:
        raise UserError(f"{said} has no {missing[0]}")
    for key, value in row.items():
        if allowed := _unlike(value, types[key]):
            raise UserError(f"{said} has {key} {value!r:.60}, not {allowed}")
    made: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    made["sources"] = {name: address for address, fields in row.get("sources", {}).items() for name in fields}
    return ModelEntry(**made)


@cache
def _types() -> dict[str, Any]:
    """The fields of an entry in a file, each with its type there."""
    types = get_type_hints(ModelEntry) | {"sources": Mapping[str, tuple[str, ...]]}
    return {name: kind for name, kind in types.items() if name != "own"}


FORMS: dict[Any, str] = {  # what a person writes in the file
    str: "a text (numbers and dates in quotes)",
    bool | None: "true or false",
    tuple[str, ...]: "a list of texts, as [en, zh]",
    Mapping[str, str]: "names with texts, as {a: x}",
    Mapping[str, float]: "names with numbers, as {temperature: 0.7}",
    Mapping[str, tuple[str, ...]]: "addresses with lists of fields",
}


def _unlike(value: Any, kind: Any) -> str:
    """What a value has to be to be of a type, where it is not; "" where it is."""
    if get_origin(kind) is Literal:
        return "" if value in get_args(kind) else f"one of {', '.join(filter(None, get_args(kind)))}"
    return "" if _is_of(value, kind) else FORMS[kind]


def _is_of(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if get_origin(kind) is Mapping:
        _, inner = get_args(kind)
        return (
            isinstance(value, dict)
            and all(isinstance(key, str) for key in value)
            and all(_is_of(one, inner) for one in value.values())
        )
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind)


def key_of(name: str) -> str:
    """A name as names are compared."""
    return name.strip().lower()


def find_entry(name: str) -> ModelEntry | None:
    """Return the entry of a name or of one of its ids, in upper or lower case; None: no such entry."""
    return entry_in(load_entries(), name)


def entry_in(entries: Iterable[ModelEntry], name: str) -> ModelEntry | None:
    """The same among these entries."""
    wanted = key_of(name)
    return next((entry for entry in entries if wanted in map(key_of, entry.ids)), None)


def _made_from(entries: Iterable[ModelEntry], base: str) -> Iterator[ModelEntry]:
    """The entries of a base, by its id on either hub."""
    wanted = key_of(base)
    return (entry for entry in entries if wanted in (key_of(entry.base), key_of(entry.base_modelscope)))


def is_on(repo: str, hub: Hub) -> bool:
    """Whether a hub is known to have what `repo`, an id of either hub, leads to: an entry, or the base of one."""
    entry, bases = find_entry(repo), _made_from(load_entries(), repo)
    if hub == "huggingface":
        return bool(entry and entry.hub) or any(one.base for one in bases)
    return bool(entry and entry.modelscope) or any(one.base_modelscope for one in bases)


def licence_of_base(base: str) -> str:
    """The licence that binds what is made of a model, where the list knows it by name, by id or as a base; else "".

    Of a model whose own licence says more than that of its base allows it is the licence of its base.
    """
    if not base:
        return ""
    entry = entry_in(released_entries(), base)
    if entry and clash(entry.licence, entry.base_licence):
        return entry.base_licence
    stated = [one.base_licence for one in _made_from(released_entries(), base)]
    own, below = (entry.licence, entry.base_licence) if entry else ("", "")
    return next(filter(None, (own, *stated, below)), "")


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
