"""Options of other programs and of older versions: read as today's, or answered with what to use instead.

    translate("warmup_ratio", ["0.1"], known)
    # Today({"warmup_steps": "0.1"}, {}, "--warmup_ratio 0.1", "--warmup_ratio is read as --warmup_steps 0.1")

A foreign name is either accepted as one of today's options, with a line that names it, or refused with what to use
instead. The table is data, `foreign_options.yaml`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from carellama.config.options import split_commas, switch_of
from carellama.errors import UserError
from carellama.package_data import package_yaml


@dataclass(frozen=True)
class Foreign:
    """How an option of another program, or of an older version, is read.

    `option`: today's name; "" if there is none. `values`: old value -> today's value, or None where the value asks for
    what happens anyway, and so rules out what the other values are read as; empty: every value is passed on. `more`:
    old value -> further options of today. `instead`: what to do if the option or the value cannot be accepted. `share`:
    the value must be below 1. `unit` is added to a bare number.
    """

    option: str = ""
    values: Mapping[str, str | None] = field(default_factory=dict)
    more: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    instead: str = ""
    share: bool = False
    unit: str = ""


@cache
def foreign_options() -> dict[str, Foreign]:
    """Return all of them by name, as `foreign_options.yaml` has them."""
    found = {}
    for name, entry in package_yaml("config/foreign_options.yaml").items():
        values = entry.get("values", {}) | dict.fromkeys(entry.get("not_needed", ()))
        given = {key: value for key, value in entry.items() if key != "not_needed"}
        found[name] = Foreign(**given | {"values": values})
    return found


class Today(NamedTuple):
    """What a foreign option is today: options with their values; empty where it asks for what happens anyway.

    `excluded`: values of an option that it rules out, as --load_in_4bit false does --quantization_bit 4. `given` is the
    foreign option as it was written; `note` says what it is read as.
    """

    options: Mapping[str, str]
    excluded: Mapping[str, frozenset[str]]
    given: str
    note: str

    def rules_out(self, option: str, words: Sequence[str]) -> bool:
        """Whether it contradicts an option with these words."""
        return bool(self.excluded.get(option, frozenset()) & {part for word in words for part in split_commas(word)})


def translate(name: str, words: Sequence[str], known: Collection[str]) -> Today | None:
    """Return what a foreign option is today; None for a name that nothing is known of.

    `known` are the names of the command's own options. Raises `UserError` for an option that cannot be accepted.
    """
    entry, value = foreign_options().get(name), ",".join(words)
    if entry is None or (entry.option or "model_name_or_path") not in known:
        return None
    found, given = _value(name, value, entry), f"--{name} {value}".rstrip()
    if found is None:
        others = frozenset(other for other in entry.values.values() if other is not None)
        excluded = {entry.option: others} if entry.option else {}
        return Today({}, excluded, given, f"{given} is not needed: {entry.instead or 'that is how it works here'}")
    options = {entry.option: found} | {key: more for key, more in entry.more.get(value, {}).items() if key in known}
    today = " ".join(f"--{key} {one}" for key, one in options.items())
    return Today(options, {}, given, f"--{name} is read as {today}")


def _value(name: str, value: str, entry: Foreign) -> str | None:
    """Return today's value; None where the option asks for what happens anyway. Raises `UserError`."""
    table = {key.lower(): found for key, found in entry.values.items()}
    plain = value.strip().lower() or "true"
    if plain not in table and (on := switch_of(plain)) is not None:
        plain = "true" if on else "false"
    if plain in table:
        return table[plain]
    if not entry.option:
        raise UserError(f"--{name} is not an option here: {entry.instead}")
    if entry.values:
        help_ = f"; {entry.instead}" if entry.instead else ""
        raise UserError(f"--{name} {value}: known values are {', '.join(entry.values)} (today --{entry.option}){help_}")
    if entry.share and not _below_one(value):
        raise UserError(f"--{name} {value} is not a share below 1: {entry.instead}")
    return value + entry.unit if entry.unit and value.replace(".", "", 1).isdigit() else value


def _below_one(value: str) -> bool:
    try:
        return 0 <= float(value) < 1
    except ValueError:
        return False
