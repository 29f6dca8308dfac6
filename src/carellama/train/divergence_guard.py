"""Stops a training whose loss is no number or explodes, before the weights take the step, and says where.

DivergenceGuard().problem(math.nan, 3, ["consult_en row 18"])   # "the loss is not a number, in step 4, ..."
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from carellama.errors import UserError

HISTORY = 50  # batches
MIN_HISTORY = 10  # batches before a loss can be called high
TIMES, ABOVE = 10.0, 10.0  # times the usual loss, and so much above it
SHOWN = 8  # records


class TrainingDiverged(UserError):
    """The loss of a batch is not finite, or far above what it was."""


@dataclass(frozen=True)
class LossTerm:
    """A part of a loss that has a cause of its own: what it is called, its value, and what to do about it."""

    name: str
    value: float
    advice: str


def weights_problem(name: str, step: int) -> str:
    """Return what is said of a trained weight that is no finite number after a step."""
    return (
        f"the weight {name} is not a finite number after step {step}: the training has diverged, and these weights are "
        "not saved. Lower --learning_rate; a checkpoint of an earlier step is as good as it was"
    )


class DivergenceGuard:
    """Knows the losses of the last batches."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=HISTORY)

    def problem(self, loss: float, step: int, records: Sequence[str], terms: Sequence[LossTerm] = ()) -> str | None:
        """Take the loss of a batch; say what is wrong where it cannot be right, with the records or the term to blame.

        A term is to blame if it is not finite, or is more than half of what the loss has risen by.
        """
        usual = statistics.median(self._losses) if len(self._losses) >= MIN_HISTORY else None
        if math.isfinite(loss) and (usual is None or loss <= max(TIMES * usual, usual + ABOVE)):
            self._losses.append(loss)
            return None
        what = "is not a number" if math.isnan(loss) else "is infinite" if math.isinf(loss) else f"is {loss:.4g}"
        before = f", after {usual:.4g} in the batches before" if usual is not None and math.isfinite(loss) else ""
        begins = f"the loss {what}{before}, in step {step + 1}, which was not taken; "
        ends = "; the last checkpoint is as good as it was"
        for term in terms:
            if not math.isfinite(term.value) or term.value > (loss - (usual or 0)) / 2:
                return f"{begins}{term.value:.4g} of it is {term.name}: {term.advice}{ends}"
        named = ", ".join(records[:SHOWN]) + (f" and {len(records) - SHOWN} more" if len(records) > SHOWN else "")
        return f"{begins}its batch: {named or 'not known'}. Look at these records, or lower --learning_rate{ends}"
