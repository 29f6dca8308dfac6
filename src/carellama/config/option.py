"""One option of a command: a field of a dataclass with the text that `--help` shows, and its bounds."""

from __future__ import annotations

import dataclasses
from typing import Any

from carellama.errors import UserError


def about(text: str, **kwargs: Any) -> dict[str, Any]:
    """The metadata of an option's field: what `--help` says of it."""
    return {"help": text, **kwargs}


def at_least(options: Any, **least: float) -> None:
    """Raise `UserError` for an option below its bound; None is left alone."""
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and not value >= bound:
            raise UserError(f"--{name} is {value}; it must be at least {bound}")


def default_text(default: Any) -> str:
    """A default as a person writes it; "" for none and for a switch that is off."""
    return "" if default in (None, False, "") else "true" if default is True else str(default)


def default_of(option: dataclasses.Field[Any]) -> Any:
    """The default of an option: None where there is none, `dataclasses.MISSING` where it must be given."""
    if option.metadata.get("required"):
        return dataclasses.MISSING
    if option.default_factory is not dataclasses.MISSING:
        return " ".join(map(str, option.default_factory())) or None  # of a list: as it is written on the command line
    return option.default
