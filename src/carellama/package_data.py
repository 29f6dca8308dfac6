"""Data files of the package: texts, YAML, and regular expressions whose words are data.

    package_yaml("safety/countries.yaml")["CN"]
    PATTERNS = Patterns("consultation/reading.yaml")     # read when a pattern is first asked for
    PATTERNS["denial"].match("no, never")

In a file of patterns each entry is a regular expression, or a list of alternatives; `{name}` in it is another entry of
the file, as a group. So whoever knows the field can read and change the words without Python.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Any

import yaml

ENTRY = re.compile(r"\{([a-z]\w*)\}")


def package_text(path: str) -> str:
    """Return the text of a file of the package, by its path below `carellama`."""
    return resources.files("carellama").joinpath(path).read_text(encoding="utf-8")


def package_folder(path: str, suffix: str = ".yaml") -> list[tuple[str, str]]:
    """Return the path and the text of each file of a folder with this suffix, by name."""
    names = sorted(one.name for one in resources.files("carellama").joinpath(path).iterdir())
    return [(f"{path}/{name}", package_text(f"{path}/{name}")) for name in names if name.endswith(suffix)]


def parse_yaml(text: str) -> Any:
    """Return what YAML says, in a tenth of the time of `yaml.safe_load` where PyYAML has its parser in C."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@cache
def package_yaml(path: str) -> dict[str, Any]:
    """Return what a YAML file of the package says, a mapping. It is read once; nobody changes it."""
    read: dict[str, Any] = parse_yaml(package_text(path))
    return read


@contextmanager
def gc_paused() -> Iterator[None]:
    """Build many objects that stay without the garbage collector, which would walk over all of them many times."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def flat_terms(given: Iterable[str | Sequence[str]]) -> list[str]:
    """Return terms that stand in one list, or in one for each language."""
    return [term for group in given for term in ([group] if isinstance(group, str) else group)]


class Patterns(dict[str, re.Pattern[str]]):
    """The patterns of a YAML file of the package, by name, each compiled when it is first asked for."""

    def __init__(self, path: str, flags: int = 0) -> None:
        super().__init__()
        self._path, self._flags = path, flags

    def __missing__(self, name: str) -> re.Pattern[str]:
        self[name] = re.compile(self.source(name), self._flags)
        return self[name]

    def names(self) -> list[str]:
        """Return the names of all entries of the file."""
        return list(package_yaml(self._path))

    def words(self, name: str) -> list[str]:
        """Return the alternatives of an entry as the file has them."""
        given = package_yaml(self._path)[name]
        return [given] if isinstance(given, str) else given

    def source(self, name: str) -> str:
        """Return an entry as one regular expression."""
        return ENTRY.sub(lambda entry: f"(?:{self.source(entry[1])})", "|".join(self.words(name)))
