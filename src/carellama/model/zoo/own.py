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

from carellama.adapter_json import read_adapter_json
from carellama.config.commands import AddModelOptions
from carellama.config.environment import own_models_file
from carellama.config.model import ModelOptions
from carellama.config.options import split_commas
from carellama.config.reader import parse_options
from carellama.errors import UserError
from carellama.files import atomic_write, print_status
from carellama.model.card_head import card_head, stated_licence
from carellama.model.zoo.entries import (
    entry_in,
    find_entry,
    key_of,
    licence_of_base,
    own_entries,
    own_rows,
    released_entries,
)
from carellama.model.zoo.licences import near_licence, spdx_of
from carellama.run_record import RUN_FILE, read_run, weights_folder
from carellama.templates.format import formats, named_format
from carellama.weights import ADAPTER, base_fingerprint, is_adapter

NAME = re.compile(r"[\w][\w.-]*")


def run(argv: Sequence[str]) -> None:
    """Add an entry. Raises `UserError` for a name that is taken, and for a place that holds no model."""
    (options,) = parse_options((AddModelOptions,), argv, "carellama models add NAME", positional="name")
    path = own_models_file()
    if entry_in(released_entries(), options.name):
        raise UserError(f"{options.name} is a name of the list (carellama models show {options.name}): take another")
    if not NAME.fullmatch(options.name):
        raise UserError(f"{options.name!r} is no name: letters, digits, - _ and . only, no /")
    rows = own_rows(path)
    older = [one for one in rows if _name_of(one) == key_of(options.name)]
    if older and not options.overwrite:
        raise UserError(f"{options.name} is in {path} already, as {older[0]['name']}: --overwrite true replaces it")
    if options.template:
        named_format(options.template)
    row = describe(options)
    rows = [*(one for one in rows if one not in older), row]
    own_entries(rows, path)
    with atomic_write(path) as file:
        yaml.safe_dump(rows, file, allow_unicode=True, sort_keys=False)
    replaced = f" in place of {' and '.join(one['name'] for one in older)}" if older else ""
    known = "with the fingerprint of its base" if row["kind"] == "adapter" else "with its fingerprint"
    print(f"{options.name}: added to {path}{replaced}" + (f", {known}" if row.get("fingerprint") else ""))
    licence = row.get("licence", "")
    if (near := near_licence(licence)) is not None:
        print(f"licence {licence!r} is not known here or in SPDX; it is kept as {spdx_of(licence)}.{near}")
    print(f"next: carellama models show {options.name}")


def _name_of(row: Any) -> str:
    """The name of a row as names are compared; "" for a row that is no entry."""
    name = row.get("name") if isinstance(row, dict) else None
    return key_of(name) if isinstance(name, str) else ""


def describe(options: AddModelOptions) -> dict[str, Any]:
    """What is known of a model, as a row of the file."""
    folder = Path(options.model).expanduser()
    row: dict[str, Any] = {"name": options.name, "about": options.about or f"{options.model}, added by hand."}
    head = card_head(folder)
    base = options.base
    if not folder.exists():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", options.model):
            raise UserError(f"--model {options.model}: there is no such folder, and it is no id of a hub (owner/name)")
        row |= {"kind": "adapter" if base else "model", "hub": options.model}
    elif is_adapter(folder):
        stated = read_adapter_json(folder).get("base_model_name_or_path")
        base = base or (read_run(folder) or {}).get("base_model") or stated
        if not base:
            raise UserError(f"{folder} does not say which base it belongs to: give --base")
        if not isinstance(base, str):
            raise UserError(f"{folder / ADAPTER} names the base {base!r:.60}, which is no text: give --base")
        row |= {"kind": "adapter", "place": str(folder.resolve())}
    elif (folder / "config.json").is_file():
        above = head.get("base_model")
        base = base or (above if isinstance(above, str) else None)
        row |= {"kind": "model", "place": str(folder.resolve())}
    else:
        raise UserError(f"--model {folder} holds neither a model (config.json) nor an adapter ({ADAPTER})")
    row["base"] = _place_of(base) if base else None
    place = str(row["base"] if row["kind"] == "adapter" else row.get("place") or row["hub"])
    weights = weights_folder(place, ModelOptions(place))
    found = base_fingerprint(weights) if weights else None
    row["fingerprint"] = dict(found.tensors) if found else None
    row["template"] = options.template or _trained_with(folder)
    row["licence"] = options.licence or stated_licence(head)
    row["base_licence"] = _base_licence(row["base"]) if base else None
    row["languages"] = split_commas(options.languages) or None
    return {name: value for name, value in row.items() if value}


def _place_of(base: str) -> str:
    """A base so that it is found from other folders too: its whole path, or what a name of the list leads to."""
    if (beside := Path(base).expanduser()).is_dir():
        return str(beside.resolve())
    entry = find_entry(base)
    return (entry.place or entry.hub or base) if entry and entry.kind == "model" else base


def _base_licence(base: str) -> str | None:
    """The licence that the card of a base states, where it lies here and the list does not know the base."""
    if licence_of_base(base) or (folder := weights_folder(base, ModelOptions(base))) is None:
        return None
    try:
        return stated_licence(card_head(folder))
    except UserError as error:
        print_status(f"the licence of the base is not known: {error}")
        return None


def _trained_with(folder: Path) -> str | None:
    record = (read_run(folder) if folder.is_dir() else None) or {}
    found = record.get("settings", {}).get("data", {}).get("template")
    if found and found not in formats():
        raise UserError(f"the {RUN_FILE} of {folder} names the template {found!r}, which is not known: give --template")
    return found or None
