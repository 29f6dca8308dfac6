"""The options of `carellama plan` besides those of `carellama train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from carellama.config.option import about
from carellama.errors import UserError

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045


@dataclass(frozen=True)
class PlanArguments:
    """What is measured, and where it is written."""

    plan_steps: int = field(
        default=3, metadata=about("Steps that are made and timed where the memory is enough; 0: none.")
    )
    report: Optional[str] = field(default=None, metadata=about("JSON file to write the plan to."))

    def __post_init__(self) -> None:
        if self.plan_steps < 0:
            raise UserError(f"--plan_steps is {self.plan_steps}; it must be at least 0")
