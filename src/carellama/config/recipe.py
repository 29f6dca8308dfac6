"""The options of `carellama recipe`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Optional

from carellama.config.option import about

# HfArgumentParser reads the types at run time, and takes List[...] and Optional[...] in all Python versions.
# ruff: noqa: UP006, UP035, UP045


@dataclass(frozen=True)
class RecipeArguments:
    """Which stages, and what is done again."""

    recipe: str = field(metadata=about("YAML file of the stages (first word)."))
    redo: Optional[List[str]] = field(
        default=None, metadata=about("Stages to run again, with all that come after them; their folders are replaced.")
    )
    dry_run: bool = field(default=False, metadata=about("Print the command of each stage and leave."))
