"""The catalogue: one entry for each dataset of the field, read from the files of `datasets/`.

    entry, part = find("shibing624-medical:reward")

An entry says where a dataset lives and under which terms; a part of it is what one stage takes, and names the
layouts its files may have. Nothing is fetched (`pull`) or converted (`carellama.data.catalogue.convert`) here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from carellama.data.catalogue.layout import Stage
from carellama.download.hosts import Host
from carellama.errors import lookup
from carellama.package_data import package_folder, parse_yaml
from carellama.records import JSONObject

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Part:
    """What one stage takes of a dataset: its files, and the layouts they may have, the likeliest first.

    A pattern may be "a*.json | *.parquet": the same rows under several names, of which the first found is taken.
    """

    name: str
    stage: Stage
    files: tuple[str, ...]  # patterns of the files to train on
    held_out: tuple[str, ...]  # patterns of files for evaluation only
    layouts: tuple[str, ...]

    def groups(self, split: Split) -> list[list[str]]:
        """All patterns of a split, those of the same rows together."""
        return [pattern.split(" | ") for pattern in (self.files if split == "train" else self.held_out)]

    def patterns(self, *splits: Split) -> list[str]:
        """All patterns of some splits, each by itself."""
        return [pattern for split in splits for group in self.groups(split) for pattern in group]


@dataclass(frozen=True)
class Entry:
    """One dataset."""

    name: str
    title: str
    language: str  # zh, en, zh+en
    rows: str  # as its makers count them
    licence: str  # SPDX id, or "unstated"
    terms: str  # where the licence stands
    accept: bool  # whether the user has to accept the terms before it is fetched
    homepage: str
    hosts: tuple[Host, ...]
    parts: tuple[Part, ...]
    note: str = ""
    same_as: str = ""  # the entry that holds the same records: do not train on both
    medical: bool = True

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that can use it, in the order of its parts."""
        return tuple(dict.fromkeys(part.stage for part in self.parts))

    @property
    def by_hand(self) -> bool:
        """Whether no host gives it to a program."""
        return all(host.kind == "manual" for host in self.hosts)


@cache
def entries() -> dict[str, Entry]:
    """All entries by name, sorted."""
    found: dict[str, Entry] = {}
    for _, text in package_folder("data/catalogue/datasets"):
        for name, fields in parse_yaml(text).items():
            assert name not in found, f"{name} has two entries"
            found[name] = _entry(name, fields)
    return dict(sorted(found.items()))


def _entry(name: str, fields: JSONObject) -> Entry:
    hosts = tuple(Host(**{**host, "files": tuple(host.get("files", ()))}) for host in fields.pop("hosts"))
    parts = tuple(
        Part(part, own["stage"], tuple(own.get("files", "*")), tuple(own.get("held_out", ())), tuple(own["layouts"]))
        for part, own in fields.pop("parts").items()
    )
    return Entry(name=name, hosts=hosts, parts=parts, **{"terms": fields["homepage"], "accept": False, **fields})


def find(name: str) -> tuple[Entry, Part]:
    """The entry and part that `NAME` or `NAME:PART` names; without a part the first. `UserError` for others."""
    dataset, _, wanted = name.partition(":")
    entry = lookup(entries(), dataset, "dataset of the catalogue")
    parts = {part.name: part for part in entry.parts}
    return entry, lookup(parts, wanted, f"part of {dataset}") if wanted else entry.parts[0]
