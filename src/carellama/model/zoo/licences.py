"""Licences of models: their SPDX ids, and what a model's licence says that its base's forbids.

    spdx_of("apache-2.0")                        # "Apache-2.0"
    clash("apache-2.0", "llama3")                # "apache-2.0 over Llama 3: ..."

The table is data (`licences.yaml`). It names contradictions in plain words; it is no legal advice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from carellama.errors import nearest
from carellama.package_data import package_yaml


@dataclass(frozen=True)
class Licence:
    """A licence by the id that the hub uses.

    spdx: its id at spdx.org; `LicenseRef-...` (SPDX specification 2.3, section 10) where it has none. use: `free` for
    all purposes, `terms` with rules of its maker's that go with each copy, `noncommercial`, `research` only.
    copyleft: what is made of it has the same licence.
    """

    id: str
    name: str
    spdx: str
    use: Literal["free", "terms", "noncommercial", "research"]
    copyleft: bool = False
    url: str = ""


@cache
def licences() -> dict[str, Licence]:
    """All licences of the table, by their id."""
    return {name: Licence(id=name, **row) for name, row in package_yaml("model/zoo/licences.yaml").items()}


def spdx_of(licence: str) -> str:
    """The SPDX id of a licence; `LicenseRef-` and its own id where the table does not have it; "" for none."""
    known = licences().get(licence.lower())
    if known:
        return known.spdx
    return f"LicenseRef-{licence.replace(' ', '-')}" if licence else ""


def near_licence(licence: str) -> str | None:
    """` Did you mean 'mit'?`, or "", for a licence that neither the table nor SPDX has; None: it is known, or none."""
    if not licence or licence.lower() in licences():
        return None
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression  # 10 ms

    try:
        canonicalize_license_expression(licence)
    except InvalidLicenseExpression:
        return nearest(licence, [*(one.spdx for one in licences().values()), *licences()])
    return None


def clash(licence: str, base_licence: str) -> str:
    """What a declared licence claims that the licence of the base does not allow, in words; "" where nothing is known.

    Both are ids of the hub. An unknown licence is in no clash: nothing is known of it.
    """
    own, base = licences().get(licence.lower()), licences().get(base_licence.lower())
    if own is None or base is None or own.id == base.id:
        return ""
    said = f"it says {own.name}, and its base is under {base.name}"
    if base.use == "research" and own.use != "research":
        return f"{said}: the base is for research only, so the model is, too"
    if base.use == "noncommercial" and own.use in ("free", "terms"):
        return f"{said}: the base may not be used commercially, so neither may the model"
    if base.use == "terms" and own.use in ("free", "noncommercial", "research"):
        return f"{said}: the terms of the base go with the model and bind whoever uses it"
    if base.copyleft and not own.copyleft and own.use == "free":
        return f"{said}: what is made of the base has to have the licence of the base"
    return ""
