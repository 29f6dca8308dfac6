"""`carellama models list|show`: the models that have a name here.

carellama models list --language zh --size 8B
carellama models show CareLlama2-7b-chat-sft-multi
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from carellama.config.commands import ListModelsOptions, ShowModelOptions
from carellama.config.reader import parse_options
from carellama.errors import UserError, nearest
from carellama.model.zoo.entries import ModelEntry, count_of, find_entry, load_entries
from carellama.model.zoo.field import field_lines, load_field
from carellama.model.zoo.licences import clash, licences, spdx_of
from carellama.templates.format import OWN

COLUMNS = ("name", "kind", "size", "languages", "licence", "base")
FILTERS = ("language", "kind", "licence", "size", "search")  # options of list
GATED = "accept its terms on the hub, then --hf_auth_token"
LONGEST_CELL = 44  # characters
CLASH = "*"  # behind a licence
FROM_SCRATCH = "from scratch"  # in the method of a model that has no base


def list_models(argv: Sequence[str]) -> None:
    """Print all models as a table, the field that they come from, or either as JSON."""
    (options,) = parse_options((ListModelsOptions,), argv, "carellama models list [TEXT]", positional="search")
    if options.field:
        if options.language not in (None, "en", "zh"):
            raise UserError(f"--field is written in en and zh, not in {options.language}")
        field = load_field() if options.json else field_lines(options.language or "en")
        print(json.dumps(field, ensure_ascii=False, indent=2) if options.json else "\n".join(field))
        return
    entries = [entry for entry in load_entries() if _is_wanted(entry, options)]
    if options.json:
        print(json.dumps([as_json(entry) for entry in entries], ensure_ascii=False, indent=2))
        return
    if not entries:
        raise UserError(_what_matched_nothing(options))
    cells = [COLUMNS, *(_row(entry) for entry in entries)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(COLUMNS))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if any(row[4].endswith(CLASH) for row in cells):
        print(f"{CLASH} says more than the licence of its base allows: see carellama models show NAME", file=sys.stderr)


def _is_wanted(entry: ModelEntry, options: ListModelsOptions) -> bool:
    return all(_fits(entry, name, value) for name in FILTERS if (value := getattr(options, name)))


def _fits(entry: ModelEntry, name: str, value: str) -> bool:
    """Whether an entry is what one filter asks for."""
    if name == "language":
        return value.lower() in entry.languages
    if name == "kind":
        return entry.kind == value
    if name == "licence":
        return _has_licence(entry, value.lower())
    if name == "size":
        most = count_of(value)
        if most is None:
            raise UserError(f"--size {value}: give a number of parameters, as 8B or 500M")
        return entry.parameters is not None and entry.parameters <= most
    words = " ".join([*entry.ids, entry.about, entry.base, entry.method, entry.template, entry.terms]).lower()
    return value.lower() in words


def _what_matched_nothing(options: ListModelsOptions) -> str:
    """The first filter that fits no entry by itself, with the values that do; else that no entry has all of them."""
    entries = load_entries()
    given = {name: value for name in FILTERS if (value := getattr(options, name))}
    for name, value in given.items():
        if any(_fits(entry, name, value) for entry in entries):
            continue
        if name == "search":
            return f"no model of the list has {value!r} in its name or description"
        if name == "size":
            return f"--size {value!r}: no model of the list is that small"
        return f"--{name} {value!r}: no model of the list has it; known: {', '.join(_values(entries, name))}"
    asked = " and ".join(repr(value) if name == "search" else f"--{name} {value}" for name, value in given.items())
    return f"no model of the list has all of {asked}; leave one out"


def _values(entries: Sequence[ModelEntry], name: str) -> list[str]:
    """What a filter can ask for, in the order of the alphabet."""
    if name == "language":
        return sorted({language for entry in entries for language in entry.languages})
    if name == "licence":
        return ["free", *sorted({entry.licence.lower() for entry in entries if entry.licence})]
    return sorted({entry.kind for entry in entries})


def _has_licence(entry: ModelEntry, wanted: str) -> bool:
    if wanted == "free":
        return is_free(entry)
    return wanted in (entry.licence.lower(), spdx_of(entry.licence).lower())


def is_free(entry: ModelEntry) -> bool:
    """Whether anyone may use a model for anything. What is not known of its base may be terms, so it is not free."""
    if entry.terms or not _is_without_terms(entry.licence):
        return False
    if entry.base:
        return _is_without_terms(entry.base_licence)
    return entry.kind == "embedded" or FROM_SCRATCH in entry.method


def _is_without_terms(licence: str) -> bool:
    known = licences().get(licence.lower())
    return known is not None and known.use == "free" and not known.copyleft


def _row(entry: ModelEntry) -> tuple[str, ...]:
    licence = entry.licence or "-"
    if clash(entry.licence, entry.base_licence):
        licence += CLASH
    kind = entry.kind + " (own)" * entry.own
    cells = (entry.name, kind, "/".join(entry.sizes), ",".join(entry.languages), licence, entry.base)
    return tuple(textwrap.shorten(cell, LONGEST_CELL, placeholder="...") or "-" for cell in cells)


def show(argv: Sequence[str]) -> None:
    """Print what is known of one model. Raises `UserError` for a name that is not in the list."""
    (options,) = parse_options((ShowModelOptions,), argv, "carellama models show NAME", positional="name")
    entry = known_entry(options.name)
    if options.json:
        print(json.dumps(as_json(entry), ensure_ascii=False, indent=2))
    else:
        print("\n".join(lines(entry)))


def known_entry(name: str) -> ModelEntry:
    """Return the entry of a name. Raises `UserError` for one that is not in the list, with the nearest."""
    entry = find_entry(name)
    if entry is None:
        names = [one for known in load_entries() for one in known.ids]
        near, alike = nearest(name, names), any(name.lower() in one.lower() for one in names)
        there = f"carellama models list {name} shows those that have it" if alike else "carellama models list shows all"
        raise UserError(f"no model is called {name}.{near} {there}")
    return entry


def as_json(entry: ModelEntry) -> dict[str, Any]:
    """An entry as JSON, with its SPDX ids and what its licence contradicts."""
    spdx = {"spdx": spdx_of(entry.licence), "base_spdx": spdx_of(entry.base_licence)}
    return asdict(entry) | spdx | {"clash": clash(entry.licence, entry.base_licence)}


def lines(entry: ModelEntry) -> list[str]:
    """Return an entry for a person: each fact with the number of its source, what is not known, a command."""
    addresses = list(dict.fromkeys(entry.sources.values()))
    facts = {name: text for name, text in _facts(entry).items() if text}
    width = max(len(LABELS.get(name, name)) for name in facts)
    said = []
    for name, text in facts.items():
        source = entry.sources.get(name)
        number = f"  [{addresses.index(source) + 1}]" if source else ""
        below = text.replace("\n", "\n" + " " * (width + 4))
        said.append(f"  {LABELS.get(name, name).ljust(width)}  {below}{number}")
    contradiction = clash(entry.licence, entry.base_licence)
    if contradiction:
        said.append(f"  {'CLASH'.ljust(width)}  {contradiction}")
    screen = max(60, shutil.get_terminal_size((120, 24)).columns)
    notes = textwrap.wrap(f"note: {entry.note}", screen - 2) if entry.note else []
    return [
        f"{entry.name}: {entry.about}",
        *said,
        *(f"  {line}" for line in notes),
        *(f"  [{number}] {address}" for number, address in enumerate(addresses, 1)),
        f"  try: {command(entry)}",
    ]


LABELS = {
    "modelscope": "ModelScope", "aliases": "also called", "base_licence": "licence of the base",
    "reasoning": "reasoning by", "remote_code": "code of its own", "bad_quantisations": "known to be bad",
    "page": "weights at", "weights": "files", "reads": "takes", "delta_whole": "not added",
}  # fmt: skip


def _facts(entry: ModelEntry) -> dict[str, str]:
    both = not entry.place and bool((entry.hub and entry.base) or (entry.modelscope and entry.base_modelscope))
    kinds = {
        "adapter": "adapter" + " (fetched with its base)" * both, "embedded": "in packages of the Python index",
        "delta": "difference to its base" + " (fetched with it, and added)" * both,
    }  # fmt: skip

    def licence(name: str) -> str:
        known = licences().get(name.lower())
        return f"{name} ({spdx_of(name)}{', ' + known.name if known and known.spdx.startswith('LicenseRef') else ''})"

    on_hub = entry.kind != "embedded" and bool(entry.hub)
    digests = "\n".join(f"{name} {digest}" for name, digest in entry.fingerprint.items())
    return {
        "kind": kinds.get(entry.kind, entry.kind) + (", your own" if entry.own else ""),
        "place": entry.place,
        "hub": entry.hub,
        "aliases": ", ".join(entry.aliases),
        "revision": entry.revision or ("not pinned" if on_hub else ""),
        "modelscope": entry.modelscope,
        "page": entry.page,
        "base": entry.base,
        "fingerprint": digests or ("not known" if entry.base or on_hub else ""),
        "method": entry.method,
        "template": entry.template or OWN * on_hub,
        "reasoning": " ... ".join(entry.reasoning),
        "sampling": ", ".join(f"{name} {value:g}" for name, value in entry.sampling.items()),
        "sizes": ", ".join(entry.sizes),
        "languages": ", ".join(entry.languages),
        "reads": " and ".join(entry.reads) if entry.reads != ("text",) else "",
        "weights": {"bin": ".bin only (pickles: --allow_pickle true for whole models)"}.get(
            entry.weights, entry.weights
        ),
        "delta_whole": ", ".join(entry.delta_whole),
        "remote_code": _yes_or_no(entry.remote_code, "--trust_remote_code true"),
        "gated": "" if entry.kind == "embedded" else _yes_or_no(entry.gated, GATED),
        "bad_quantisations": ", ".join(entry.bad_quantisations),
        "licence": licence(entry.licence) if entry.licence else "not stated",
        "base_licence": licence(entry.base_licence) if entry.base_licence else "",
        "terms": entry.terms,
    }


def _yes_or_no(value: object, what: str) -> str:
    return "" if value is None else f"yes ({what})" if value else "no"


def command(entry: ModelEntry) -> str:
    """A command that uses a model."""
    if entry.page and not (entry.hub or entry.modelscope):
        return f"fetch it by hand, then: carellama models add {entry.name}-own --model FOLDER"
    flags = [
        *(["--hub modelscope"] * bool(entry.modelscope and not entry.hub)),
        *(["--allow_pickle true"] * (entry.weights == "bin" and entry.kind != "adapter")),
        *(["--trust_remote_code true"] * bool(entry.remote_code)),
        *(["--hf_auth_token hf_YOUR_TOKEN"] * bool(entry.gated and entry.kind != "embedded")),
        *(["--accept_licence true"] * (entry.kind == "embedded" and entry.licence == "gemma")),
    ]
    return " ".join([f"carellama chat --model_name_or_path {entry.name}", *flags])
