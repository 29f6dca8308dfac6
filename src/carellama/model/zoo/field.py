r"""The medical models, deployments, resources and lessons that the CareLlama README of 2023 names.

    print("\n".join(field_lines("en")))

They are data (`field.yaml`, `field_words.yaml`): what each has, its base and licence, how to run it here, and what
became of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from carellama.package_data import package_yaml

LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
Language = Literal["en", "zh"]


@dataclass(frozen=True)
class Section:
    """One table of the field: its title, header and rows of Markdown."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def load_field() -> dict[str, list[dict[str, Any]]]:
    """Return the entries of field.yaml by section."""
    return package_yaml("model/zoo/field.yaml")


def _words(kind: str) -> Any:
    return package_yaml("model/zoo/field_words.yaml")[kind]


def field_sections(language: Language) -> tuple[Section, ...]:
    """Return the four tables in a language, as Markdown."""
    return tuple(
        Section(
            _words("titles")[name][language],
            tuple(_words("headers")[name][language]),
            tuple(_row(name, entry, language) for entry in entries),
        )
        for name, entries in load_field().items()
    )


def field_lines(language: Language) -> list[str]:
    """Return the same for a terminal: one entry after the other, without tables."""
    lines: list[str] = []
    for section in field_sections(language):
        lines += [f"{section.title} ({len(section.rows)})", ""]
        for row in section.rows:
            head, *others = (LINK.sub(r"\1 \2", cell.replace("`", "")) for cell in row)
            lines.append(head)
            lines += [f"  {name}: {cell}" for name, cell in zip(section.header[1:], others, strict=True) if cell]
        lines.append("")
    return lines[:-1]


def _row(section: str, entry: dict[str, Any], language: Language) -> tuple[str, ...]:
    if section == "lessons":
        return entry["claim"][language], entry["answer"][language]
    link = f"[{entry['name']}]({entry['repository']})"
    if section == "resources":
        return link, entry["has"][language], f"`{entry['here'][language]}`"
    seen = f" ({entry['seen'].replace(' (', ', ').rstrip(')')})"
    if section == "deployments":
        return link + seen, entry["has"][language], entry["licence"], entry["here"][language]
    here = _words("loads")[entry["loads"]][language]
    if entry["weights"]:
        here += f"; {entry['weights']}"
    if entry["datasets"]:
        here += f"; `carellama data pull {entry['datasets'][0]}`"
    return link + seen, entry["has"][language], f"{entry['base']}, {entry['licence']}", here, entry["now"][language]
