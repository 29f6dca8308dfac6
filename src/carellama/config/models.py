"""The options of `carellama models VERB`, one dataclass a verb. Light: nothing of a model is imported."""

from __future__ import annotations

from dataclasses import dataclass, field

from carellama.config.parse import about


@dataclass
class ListArguments:
    """How the models are listed."""

    json: bool = field(default=False, metadata=about("Print one JSON list instead of a table."))


@dataclass
class ShowArguments:
    """Which model is shown."""

    name: str = field(metadata=about("Name of the model, or its hub id (first word)."))
    json: bool = field(default=False, metadata=about("Print one JSON object instead of lines."))
