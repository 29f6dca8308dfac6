"""`carellama models list|show`: the models that have a name here.

carellama models show CareLlama2-7b-chat-sft-multi
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from carellama.config.commands import ListModelsOptions, ShowModelOptions
from carellama.config.reader import parse_options
from carellama.errors import UserError, nearest
from carellama.model.zoo.entries import ModelEntry, find_entry, load_entries
from carellama.model.zoo.field import field_lines, load_field

COLUMNS = ("name", "kind", "base", "licence", "hub")


def list_models(argv: Sequence[str]) -> None:
    """Print all models as a table, the field that they come from, or either as JSON."""
    (options,) = parse_options((ListModelsOptions,), argv, "carellama models list")
    if options.field:
        field = load_field() if options.json else field_lines(options.language)
        print(json.dumps(field, ensure_ascii=False, indent=2) if options.json else "\n".join(field))
        return
    rows = [asdict(entry) for entry in load_entries()]
    if options.json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    cells = [COLUMNS, *(tuple(str(row[column]) or "-" for column in COLUMNS) for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(COLUMNS))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show(argv: Sequence[str]) -> None:
    """Print what is known of one model. Raises `UserError` for a name that is not in the list."""
    (options,) = parse_options((ShowModelOptions,), argv, "carellama models show NAME", positional="name")
    entry = find_entry(options.name)
    if entry is None:
        names = [known.name for known in load_entries()]
        raise UserError(f"no model is called {options.name}.{nearest(options.name, names)} Known: {', '.join(names)}")
    if options.json:
        print(json.dumps(asdict(entry), ensure_ascii=False, indent=2))
    else:
        print("\n".join(lines(entry)))


def lines(entry: ModelEntry) -> list[str]:
    """Return an entry for a person: what is known, and a command that uses it."""
    known = {
        "kind": {"adapter": "adapter (fetched with its base)", "embedded": "in packages of the Python index"}.get(
            entry.kind, entry.kind
        ),
        "hub": entry.hub,
        "base": entry.base,
        "method": entry.method,
        "template": entry.template,
        "languages": ", ".join(entry.languages),
        "licence": entry.licence,
        "licence of the base": entry.base_licence,
        "terms": entry.terms,
        "source": entry.source,
    }
    width = max(map(len, known))
    stated = [f"  {name.ljust(width)}  {value}" for name, value in known.items() if value]
    return [f"{entry.name}: {entry.about}", *stated, f"  try: carellama chat --model_name_or_path {entry.name}"]
