"""`carellama models add`: an entry of one's own, in a file of the user's data folder.

carellama models add ward3 --model output --about "Discharge letters of ward 3."

It is used like any other name. Names and ids of the list stay what they are: nobody's entry takes their place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from carellama.config.commands import AddModelOptions
from carellama.config.environment import own_models_file
from carellama.config.model import ModelOptions
from carellama.config.options import split_commas
from carellama.config.reader import parse_options
from carellama.errors import UserError, lookup
from carellama.files import atomic_write
from carellama.model.adapter_json import read_adapter_json
from carellama.model.zoo.entries import entry_of, own_entries, released_entries
from carellama.model.zoo.licences import near_licence, spdx_of
from carellama.model.zoo.resolve import EMBEDDED
from carellama.run_record import read_run, weights_folder
from carellama.templates.format import formats
from carellama.weights import ADAPTER, base_fingerprint, is_adapter

NAME = re.compile(r"[\w][\w.-]*")


def run(argv: Sequence[str]) -> None:
    """Add an entry. Raises `UserError` for a name that is taken, and for a place that holds no model."""
    (options,) = parse_options((AddModelOptions,), argv, "carellama models add NAME", positional="name")
    path = own_models_file()
    taken = {one.lower() for entry in released_entries() for one in entry.ids} | set(EMBEDDED)
    if options.name.lower() in taken:
        raise UserError(f"{options.name} is a name of the list (carellama models show {options.name}): take another")
    if not NAME.fullmatch(options.name):
        raise UserError(f"{options.name!r} is no name: letters, digits, - _ and . only, no /")
    there = [entry.name for entry in own_entries(path)]
    if options.name in there and not options.overwrite:
        raise UserError(f"{options.name} is in {path} already: --overwrite true replaces it")
    if options.template:
        lookup(formats(), options.template, "template")
    row = describe(options)
    entry_of(row, path)
    rows = (yaml.safe_load(path.read_text(encoding="utf-8")) or []) if path.is_file() else []
    rows = [one for one in rows if one.get("name") != options.name] + [row]
    with atomic_write(path) as file:
        yaml.safe_dump(rows, file, allow_unicode=True, sort_keys=False)
    known = "with the fingerprint of its base" if row.get("base") else "with its fingerprint"
    print(f"{options.name}: added to {path}" + (f", {known}" if row.get("fingerprint") else ""))
    licence = row.get("licence", "")
    if (near := near_licence(licence)) is not None:
        print(f"licence {licence!r} is not known here or in SPDX; it is kept as {spdx_of(licence)}.{near}")
    print(f"next: carellama models show {options.name}")


def describe(options: AddModelOptions) -> dict[str, Any]:
    """What is known of a model, as a row of the file."""
    folder = Path(options.model).expanduser()
    row: dict[str, Any] = {"name": options.name, "about": options.about or f"{options.model}, added by hand."}
    if not folder.exists():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", options.model):
            raise UserError(f"--model {options.model}: there is no such folder, and it is no id of a hub (owner/name)")
        row |= {"kind": "adapter" if options.base else "model", "hub": options.model, "base": options.base}
    elif is_adapter(folder):
        stated = read_adapter_json(folder).get("base_model_name_or_path")
        base = options.base or (read_run(folder) or {}).get("base_model") or stated
        if not base:
            raise UserError(f"{folder} does not say which base it belongs to: give --base")
        if (beside := Path(base).expanduser()).is_dir():  # the entry is used in other folders as well
            base = str(beside.resolve())
        row |= {"kind": "adapter", "place": str(folder.resolve()), "base": base}
    elif (folder / "config.json").is_file():
        row |= {"kind": "model", "place": str(folder.resolve())}
    else:
        raise UserError(f"--model {folder} holds neither a model (config.json) nor an adapter ({ADAPTER})")
    place = row.get("base") or row.get("place") or row["hub"]
    weights = weights_folder(str(place), ModelOptions(str(place)))
    found = base_fingerprint(weights) if weights else None
    row["fingerprint"] = dict(found.tensors) if found else None
    row["template"] = options.template or _trained_with(folder)
    row["licence"] = options.licence or _licence_of(folder)
    row["languages"] = split_commas(options.languages) or None
    return {name: value for name, value in row.items() if value}


def _trained_with(folder: Path) -> str | None:
    record = (read_run(folder) if folder.is_dir() else None) or {}
    found = record.get("settings", {}).get("data", {}).get("template")
    return str(found) if found else None


def _licence_of(folder: Path) -> str | None:
    """The licence that the head of a README.md states; None: none, or that it is unknown."""
    card = folder / "README.md"
    found = re.search(r"^license:\s*(\S+)", card.read_text(encoding="utf-8"), re.MULTILINE) if card.is_file() else None
    return found[1] if found and found[1] != "unknown" else None
