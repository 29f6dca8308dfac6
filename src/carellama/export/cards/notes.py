"""Lines of a card on how a model was made, in each language of the card.

    found = note("merged", kind="ties", shares="a × 0.7, b × 0.3") + note("density", density=0.4)
    str(found), found.text("zh")

The words are data (words.yaml); a note has their names and values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from carellama.package_data import package_yaml

WORDS = "export/cards/words.yaml"


@dataclass(frozen=True)
class Note:
    """A line: parts by their names in words.yaml, each with its values."""

    parts: tuple[tuple[str, Mapping[str, object]], ...]

    def __add__(self, other: Note) -> Note:
        return Note(self.parts + other.parts)

    def __str__(self) -> str:
        return self.text("en")

    def text(self, language: str) -> str:
        """Return the line in `en` or `zh`."""
        words = package_yaml(WORDS)[language]["notes"]
        return "".join(words[name].format(**values) for name, values in self.parts)


def note(name: str, /, **values: object) -> Note:
    """Return a line of one part."""
    return Note(((name, values),))
