r"""The medical models, deployments, resources and lessons that the CareLlama README of 2023 names.

    print("\n".join(field_lines("en")))

They are data (`field.yaml`): what each has, its base and licence, how to run it here, and what became of it.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
from dataclasses import dataclass
from typing import Any, Literal

import yaml

LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
Language = Literal["en", "zh"]
LOADS = {
    "full": {
        "en": "`carellama chat --model_name_or_path WEIGHTS`",
        "zh": "`carellama chat --model_name_or_path 权重`",
    },
    "lora": {
        "en": "`carellama chat --model_name_or_path BASE --checkpoint_dir WEIGHTS`",
        "zh": "`carellama chat --model_name_or_path 基座 --checkpoint_dir 权重`",
    },
    "code": {
        "en": "needs Python code of the model: `--trust_remote_code`, not tried",
        "zh": "需要模型自带的 Python 代码：`--trust_remote_code`，未试过",
    },
    "none": {"en": "no weights to load", "zh": "没有可加载的权重"},
}
TITLES = {
    "medical_models": {"en": "Medical models", "zh": "医疗模型"},
    "deployments": {"en": "Deployments", "zh": "部署项目"},
    "resources": {"en": "Resources", "zh": "资源"},
    "lessons": {"en": "Lessons of practice", "zh": "实践经验"},
}
HEADERS: dict[str, dict[str, tuple[str, ...]]] = {
    "medical_models": {
        "en": ("model", "what it has", "base, licence", "here", "what became of it"),
        "zh": ("模型", "特点", "基座、许可", "在这里运行", "现状"),
    },
    "deployments": {"en": ("project", "what it has", "licence", "here"), "zh": ("项目", "特点", "许可", "在这里")},
    "resources": {"en": ("resource", "what it has", "here"), "zh": ("资源", "内容", "在这里")},
    "lessons": {"en": ("lesson", "what we measured or can do"), "zh": ("经验", "本项目的测量或做法")},
}


@dataclass(frozen=True)
class Section:
    """One table of the field: its title, header and rows of Markdown."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@functools.cache
def load_field() -> dict[str, list[dict[str, Any]]]:
    """Return the entries of field.yaml by section."""
    text = (importlib.resources.files(__package__) / "field.yaml").read_text(encoding="utf-8")
    loaded: dict[str, list[dict[str, Any]]] = yaml.safe_load(text)
    return loaded


def field_sections(language: Language) -> tuple[Section, ...]:
    """Return the four tables in a language, as Markdown."""
    return tuple(
        Section(
            TITLES[name][language], HEADERS[name][language], tuple(_row(name, entry, language) for entry in entries)
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
    here = LOADS[entry["loads"]][language]
    if entry["weights"]:
        here += f"; {entry['weights']}"
    if entry["datasets"]:
        here += f"; `carellama data pull {entry['datasets'][0]}`"
    return link + seen, entry["has"][language], f"{entry['base']}, {entry['licence']}", here, entry["now"][language]
