"""The options of `carellama models VERB`, one dataclass a verb. Light: nothing of a model is imported."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from carellama.config.option import about


@dataclass(frozen=True)
class ListArguments:
    """How the models are listed."""

    field: bool = dataclasses.field(
        default=False,
        metadata=about("The medical models, deployments, resources and lessons of the field, and what became of them."),
    )
    language: Literal["en", "zh"] = dataclasses.field(default="en", metadata=about("Language of --field."))
    json: bool = dataclasses.field(default=False, metadata=about("Print one JSON list instead of a table."))


@dataclass(frozen=True)
class ShowArguments:
    """Which model is shown."""

    name: str = dataclasses.field(metadata=about("Name of the model, or its hub id (first word)."))
    json: bool = dataclasses.field(default=False, metadata=about("Print one JSON object instead of lines."))
