"""What is known of a model that answers: from the list of models, the run.json of its trainings, and its README.md.

    read_cards(model, {"cardiology": "output/cardiology"})[0].name      # "smollm2-135m + output"

The first card is the model's; a checkpoint that lies on it and an adapter beside it have their own. It writes nothing
(`carellama.export.card` does), fetches nothing, and names no folder of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from carellama.config.model import ModelOptions
from carellama.model.zoo.entries import find_entry
from carellama.records import JSONObject, ModelCard
from carellama.run_record import read_run

CARD_FILE = "README.md"
MOST_CHARS = 50_000  # of the text of a README.md
ENTRY_FACTS = (
    *("about", "kind", "hub", "base", "method", "template", "licence", "base_licence", "terms", "source"),
)  # fields of an entry of the list
FINETUNING = ("stage", "finetuning_type")  # settings that name how a checkpoint was trained


def read_cards(model: ModelOptions, adapters: Mapping[str, str]) -> list[ModelCard]:
    """Return a card of the model, of each checkpoint on it, and of each adapter (name to folder) beside it."""
    checkpoints = [_card(name) for name in model.checkpoints]
    whole = _card(model.model_name_or_path)
    names = [whole.name, *(one.name for one in checkpoints)]
    beside = [_card(folder, name) for name, folder in adapters.items()]
    return [ModelCard(" + ".join(names), whole.facts, whole.text), *checkpoints, *beside]


def _card(given: str, adapter: str = "") -> ModelCard:
    """The card of a model by its name, its hub id or its folder."""
    place = Path(given).expanduser()
    entry = None if place.exists() else find_entry(given)
    facts: dict[str, str] = {}
    if entry is not None:
        facts = {name: value for name in ENTRY_FACTS if (value := getattr(entry, name))}
        facts["languages"] = ", ".join(entry.languages)
    record = read_run(place) if place.is_dir() else None
    if record is not None:
        facts |= _training(record)
    name = entry.name if entry is not None else place.resolve().name if place.exists() else given.rpartition("/")[2]
    return ModelCard(name, facts, _text(place / CARD_FILE), adapter)


def _training(record: JSONObject) -> dict[str, str]:
    """What the run.json of a training says."""
    settings = record.get("settings", {})
    base = str(record.get("base_model") or "")
    data = [
        f"{one.get('name', '?')} ({used:,})" if isinstance(used := one.get("used"), int) else str(one.get("name", "?"))
        for one in record.get("data", [])
        if isinstance(one, dict)
    ]
    found = {
        "base": base.rstrip("/").rpartition("/")[2] if Path(base).expanduser().exists() else base,
        "method": ", ".join(str(value) for name in FINETUNING if (value := settings.get("finetuning", {}).get(name))),
        "template": str(settings.get("data", {}).get("template") or ""),
        "data": ", ".join(data),
        "written": str(record.get("written") or ""),
    }
    return {name: value for name, value in found.items() if value}


def _text(path: Path) -> str:
    """The text of a README.md; "" where there is none. One that is too long says that it was cut."""
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    return text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]}\n\n[{len(text) - MOST_CHARS:,} characters more]"
