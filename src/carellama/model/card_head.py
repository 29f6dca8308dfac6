"""The head of a model card: the YAML between the first two --- lines of a folder's README.md.

    card_head(Path("output_export"))        # {"license": "llama3.1", "base_model": "meta-llama/Llama-3.1-8B", ...}

What stands below it is text for people, and says nothing of the model here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from carellama.errors import UserError, read_failure

HEAD = re.compile(r"\ufeff?---[ \t]*\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
NOTHING: tuple[object, ...] = ("", "null", "~", [])


def card_head(folder: Path) -> dict[str, Any]:
    """Return what the head states, each value a text, a list or a mapping of texts; {} for a folder without one.

    Raises `UserError` for a card that cannot be read, and for a head that is no YAML.
    """
    card = folder / "README.md"
    if not card.is_file():
        return {}
    try:
        head = HEAD.match(card.read_text(encoding="utf-8"))
        stated = yaml.load(head[1], Loader=yaml.BaseLoader) if head else None  # `language: no` is Norwegian
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {card}: {read_failure(error)}") from error
    except yaml.YAMLError as error:
        raise UserError(f"the head of {card} is not YAML: {' '.join(str(error).split())}") from error
    return {name: value for name, value in stated.items() if value not in NOTHING} if isinstance(stated, dict) else {}


def stated_licence(head: Mapping[str, Any]) -> str | None:
    """Return the licence of a head, by its name where the hub has no id for it; None: none, or one that is not known.

    Of several all are named, which no table of licences has: which of them holds is not known.
    """
    licence = head.get("license")
    if licence == "other":
        licence = head.get("license_name")
    if isinstance(licence, list):
        licence = ", ".join(map(str, licence))
    return licence if isinstance(licence, str) and licence != "unknown" else None
