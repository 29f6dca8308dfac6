"""Stops a training whose loss is no number or explodes, before the weights take the step, and says where.

guard = LossGuard(); guard.check(loss, "consult_en row 18")   # raises Diverged
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

from carellama.errors import UserError

REMEMBERED = 50  # batches
FEWEST = 10  # batches before a loss can be called high
TIMES, ABOVE = 10.0, 10.0  # times the usual loss, and so much above it
SHOWN = 8  # records


class Diverged(UserError):
    """The loss of a batch is not finite, or far above what it was."""


class LossGuard:
    """Knows the losses of the last batches."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=REMEMBERED)

    def check(self, loss: float, step: int, records: Sequence[str]) -> None:
        """Take the loss of a batch; raise `Diverged` with the records in it where it can not be right."""
        usual = statistics.median(self._losses) if len(self._losses) >= FEWEST else None
        if math.isfinite(loss) and (usual is None or loss <= max(TIMES * usual, usual + ABOVE)):
            self._losses.append(loss)
            return
        what = "is not a number" if math.isnan(loss) else "is infinite" if math.isinf(loss) else f"is {loss:.4g}"
        before = f", after {usual:.4g} in the batches before" if usual is not None and math.isfinite(loss) else ""
        named = ", ".join(records[:SHOWN]) + (f" and {len(records) - SHOWN} more" if len(records) > SHOWN else "")
        raise Diverged(
            f"the loss {what}{before}, in step {step + 1}, which was not taken; its batch: {named or 'not known'}. "
            "Look at these records, or lower --learning_rate; the last checkpoint is as good as it was"
        )
