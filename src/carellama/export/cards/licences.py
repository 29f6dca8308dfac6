"""Where the licence of a model contradicts what it was made from: its base, and the data of its trainings.

    licence_clashes("llama3", {"cmexam": "CC-BY-NC-4.0"}, "apache-2.0")

Plain contradictions of what licences say about themselves, by the table of `carellama.model.zoo.licences`, which also
compares a model with its base. It is no legal advice, and an empty list is no permission. What is not known is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from carellama.model.zoo.licences import licences
from carellama.package_data import package_yaml

TABLE = "export/cards/licences.yaml"
UNKNOWN = ("", "unknown", "unstated", "other")
Kind = Literal["terms", "noncommercial", "research", "share_alike", "unknown_base", "unknown_data"]
ORDER: tuple[Kind, ...] = ("research", "noncommercial", "terms", "share_alike")


@dataclass(frozen=True)
class Clash:
    """One contradiction: what was used, under which licence, and what that licence asks for."""

    kind: Kind
    source: str  # "base", or the name of a dataset
    licence: str
    declared: str


def licence_clashes(base: str | None, data: Mapping[str, str | None], declared: str | None) -> list[Clash]:
    """Return what the declared licence contradicts; `data` are licences by dataset, None or "" where not known."""
    own = (declared or "").lower()
    found: list[Clash] = []
    for source, given in [("base", base), *data.items()]:
        licence = (given or "").strip()
        if licence.lower() in UNKNOWN:
            found.append(Clash("unknown_base" if source == "base" else "unknown_data", source, "", own))
            continue
        found += [Clash(kind, source, licence, own) for kind in ORDER if _contradicts(licence.lower(), own, kind)][:1]
    return found


def _contradicts(licence: str, declared: str, kind: Kind) -> bool:
    """Whether a licence is of a kind that the declared one does not carry on."""
    if licence == declared or not _is(licence, kind):
        return False
    if kind == "noncommercial":
        return not (_is(declared, "noncommercial") or _is(declared, "research"))
    if kind == "research":
        return not _is(declared, "research")
    return True


def _is(licence: str, kind: str) -> bool:
    """Whether a licence, or one that its text names (`MIT (repository); ...`), is of a kind."""
    if known := licences().get(licence):
        return known.copyleft if kind == "share_alike" else known.use == kind
    if kind == "research":
        return "research" in licence and "non-commercial" not in licence
    if kind == "noncommercial":
        return "non-commercial" in licence or "noncommercial" in licence
    table = {name: one for name, one in licences().items() if one.copyleft}
    return kind == "share_alike" and any(word in table for word in licence.replace(";", " ").split())


def hub_licence(licence: str | None) -> dict[str, str]:
    """Return the fields of the hub's head for a licence: its id, or `other` with a name."""
    given = (licence or "unknown").strip()
    if given.lower() in package_yaml(TABLE)["hub"]:
        return {"license": given.lower()}
    return {"license": "other", "license_name": "-".join(given.lower().split())}
