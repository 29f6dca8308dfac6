"""Errors for the person at the keyboard, and the look-ups that raise most of them.

A `UserError` is printed as one line and ends the program with exit code 2; everything else is a bug and keeps
its traceback.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, TypeVar

Value = TypeVar("Value")


class UserError(Exception):
    """Says what was given, what is allowed and what to do next, in one line."""


class DataError(UserError):
    """A `UserError` about one record; its text begins with the file and the line."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the known name closest to `name` in any case, or an empty string.

    A name with other digits alone (q2_K, q6_K) is another thing, and not meant.
    """
    names, given = {one.casefold(): one for one in known}, name.casefold()
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    if not close or (given != close[0] and re.sub(r"\d", "0", given) == re.sub(r"\d", "0", close[0])):
        return ""
    return f" Did you mean {names[close[0]]!r}?"


def lookup(table: Mapping[str, Value], name: str, what: str, listed_by: str = "") -> Value:
    """Return `table[name]`; an unknown name is a `UserError` with the known ones and the nearest.

    `what` names the kind of thing, as in "template"; `listed_by`: the command that lists them, where they are many.
    """
    if name in table:
        return table[name]
    known = f"{listed_by} names them all" if listed_by else f"Known: {', '.join(sorted(table)) or 'none'}"
    raise UserError(f"unknown {what} {name!r}.{nearest(name, table)} {known}.")


def read_failure(error: BaseException) -> str:
    """Return why a file cannot be read, without the error number and the path that Python adds."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return str(error)


def install(extra: str) -> str:
    """Return the command that installs an extra, for error messages. The package is not on a package index."""
    return f"run pip install -e '.[{extra}]' in the folder of the CareLlama repository"


def need(module: str, *, extra: str, why: str) -> ModuleType:
    """Import an optional module, or say which extra brings it: `need("nltk", extra="metrics", why="BLEU")`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise UserError(f"{why} needs {error.name}: {install(extra)}") from error


def import_object(path: str) -> Any:
    """Import what `module:name` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
