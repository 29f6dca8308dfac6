"""One option of a command: a field of a dataclass with its help text, default and bounds.

    lora_rank: int = option("Rank of the LoRA matrices.", 8, at_least=1)

The command line, YAML files (`carellama.config.reader`), `--help` and the documentation are all read from the field.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from carellama.errors import UserError, lookup, nearest
from carellama.package_data import package_yaml

SWITCHES = {
    **dict.fromkeys(("true", "yes", "on", "t", "y", "1"), True),
    **dict.fromkeys(("false", "no", "off", "f", "n", "0"), False),
}
BOUNDS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}


def option(
    text: str,
    default: Any = dataclasses.MISSING,
    *,
    required: bool = False,
    choices: Sequence[object] = (),
    names: Sequence[str] = (),
    empty: bool = False,
    commas: bool = False,
    **bounds: float,
) -> Any:
    """Return the field of an option: what `--help` says of it, and its default; without one it is required.

    `names` are further names of it; `bounds` are at_least, above, at_most, below. `required` is for a list whose class
    inherits options that have defaults. `empty`: the empty text has a meaning. `commas`: a list, comma separated.
    """
    assert bounds.keys() <= BOUNDS.keys(), bounds
    metadata = {"help": text, "required": required, "choices": choices, "names": names, "bounds": bounds,
                "empty": empty, "commas": commas}  # fmt: skip
    if required or isinstance(default, list):
        made = [] if required else default
        return dataclasses.field(default_factory=lambda: list(made), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """Base of the options of a command: their bounds hold, however they are made."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, bounds = getattr(self, field.name), field.metadata.get("bounds") or {}
            check_finite(field.name, value)
            if value is not None and not all(BOUNDS[name](value, bound) for name, bound in bounds.items()):
                wanted = " and ".join(f"{name.replace('_', ' ')} {bound}" for name, bound in bounds.items())
                raise UserError(f"--{field.name} is {value}; it must be {wanted}")


def check_names(option_name: str, names: Sequence[str], known: Mapping[str, object], kind: str) -> None:
    """Raise `UserError` for a name of a list option that is not known, or that is given twice."""
    for name in names:
        lookup(known, name, f"{kind} of --{option_name}")
    if len(set(names)) < len(names):
        raise UserError(f"--{option_name} names {' '.join(names)}; name each once")


def value_hint(name: str, word: str) -> str:
    """Return ` Give --stage rm.` for a value that other programs have, or an empty string."""
    instead = package_yaml("config/foreign_values.yaml").get(name, {}).get(word.lower())
    return f" Give {instead}." if instead else ""


def split_commas(value: str | None) -> list[str]:
    """`"a, b"` -> `["a", "b"]`."""
    return [part.strip() for part in (value or "").split(",") if part.strip()]


def split_numbers(name: str, value: str, example: str) -> list[float]:
    """The numbers of a comma list. Raises `UserError`, with an example, for what is none."""
    try:
        numbers = [float(part) for part in split_commas(value)]
    except ValueError:
        raise UserError(f"--{name} takes numbers as in {example}, not {value!r}") from None
    for number in numbers:
        check_finite(name, number)
    return numbers


def default_text(default: object) -> str:
    """A default as a person writes it; "" for none and for a switch that is off."""
    return "" if default in (None, False, "") else "true" if default is True else str(default)


def default_of(field: dataclasses.Field[Any]) -> object:
    """The default of an option: None where there is none, `dataclasses.MISSING` where it must be given."""
    if field.metadata.get("required"):
        return dataclasses.MISSING
    if field.default_factory is not dataclasses.MISSING:
        return " ".join(map(str, field.default_factory())) or None  # of a list: as it is written on the command line
    return field.default


def option_fields(group: type) -> list[dataclasses.Field[object]]:
    """The fields of a dataclass that are options: those with a help text."""
    return [field for field in dataclasses.fields(group) if field.metadata]


def field_names(group: type) -> tuple[str, ...]:
    """Return the names of the options of a group."""
    return tuple(field.name for field in option_fields(group))


@dataclass(frozen=True)
class OptionType:
    """What an option takes: `kind` is bool, int, float or str; `many`: several words; `choices`: only these.

    `empty`: the empty text has a meaning; `commas`: a text that is a list, whose parts are never empty.
    """

    kind: type
    many: bool = False
    choices: tuple[object, ...] = ()
    empty: bool = False
    commas: bool = False

    def value(self, name: str, words: Sequence[str]) -> object:
        """Return the value of an option that was given with these words. Raises `UserError`."""
        if self.kind is bool and not words:
            return True
        if self.many and words:
            return [self._one(name, word) for word in words]
        if len(words) != 1:
            given = f"{' '.join(words)!r}; texts with spaces are written in quotes" if words else "none"
            raise UserError(f"--{name} takes one value, not {given}")
        return self._one(name, words[0])

    def _one(self, name: str, word: str) -> str | float:
        value: str | float = word
        if self.kind is bool:
            if (on := switch_of(word)) is None:
                raise UserError(f"--{name} {word}: it is true or false.{value_hint(name, word)}")
            return on
        if self.kind is str and not self.empty:
            _check_text(name, word, commas=self.commas)
        if self.kind is not str:
            try:
                value = self.kind(word)
            except ValueError:
                what = "a whole number" if self.kind is int else "a number"
                raise UserError(f"--{name} takes {what}, not {word!r}") from None
            check_finite(name, value)
        if self.choices and value not in self.choices:
            if (alike := in_case_of(word, map(str, self.choices))) in self.choices:
                return alike
            choices = [str(choice) for choice in self.choices]
            hint = value_hint(name, word) or nearest(word, choices)
            raise UserError(f"--{name}: {word!r} is not one of {', '.join(choices)}.{hint}")
        return value


def in_case_of(word: str, known: Iterable[str]) -> str:
    """The known name that a word is in other letters, capital or small; the word where there is none."""
    return next((name for name in known if name.lower() == word.lower()), word)


def switch_of(word: str) -> bool | None:
    """Whether a word turns a switch on or off; None: it is no such word."""
    return SWITCHES.get(word.strip().lower())


def check_finite(name: str, value: object) -> None:
    """Raise `UserError` for a number that is none, or has no end."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"--{name} is {value}; it must be a finite number")


def _check_text(name: str, word: str, *, commas: bool) -> None:
    """Raise `UserError` for an empty text, and for an empty part of a list, as shell variables without a value make."""
    if not word.strip(" \t,"):
        given = "empty" if not word.strip() else repr(word)
        raise UserError(f"--{name} is {given}: give a value, or leave the option out (is a shell variable unset?)")
    if commas and not all(part.strip() for part in word.split(",")):
        raise UserError(f"--{name} {word!r} has an empty part between its commas (is a shell variable unset?)")


def option_type(hint: Any, choices: Sequence[object] = (), *, empty: bool = False, commas: bool = False) -> OptionType:
    """`int | None` -> a number, `Literal["a", "b"]` -> one of these, `list[str]` -> several words."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(one for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is list:
        return dataclasses.replace(option_type(get_args(hint)[0], choices, empty=empty, commas=commas), many=True)
    if get_origin(hint) is Literal:
        return OptionType(type(get_args(hint)[0]), choices=get_args(hint))
    return OptionType(hint, choices=tuple(choices), empty=empty, commas=commas)


@cache
def option_types(group: type) -> dict[str, OptionType]:
    """The types of a group's options by name."""
    hints = get_type_hints(group)
    found = {}
    for field in option_fields(group):
        about = field.metadata
        empty = about["empty"] or field.default == ""
        found[field.name] = option_type(hints[field.name], about["choices"], empty=empty, commas=about["commas"])
    return found
