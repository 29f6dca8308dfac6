"""Whether weights are numbers: a file with NaN or infinity in it loads without a word, and answers are wrong at times.

check_finite(network.named_parameters())     # UserError: the first that has one
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from carellama.errors import UserError

if TYPE_CHECKING:
    import torch


def check_finite(weights: Iterable[tuple[str, torch.Tensor]], what: str = "") -> None:
    """Raise `UserError` that names the first tensor with NaN or infinity in it; `what` says whose it is."""
    import torch

    for name, one in weights:
        values = one.detach()
        values = values.float() if values.is_floating_point() and values.itemsize == 1 else values  # of 8 bits
        if not torch.isfinite(values).all():
            raise UserError(
                f"{what}{name} holds weights that are not numbers (NaN or infinity), as after a training that diverged "
                "or in a precision that is too small for them: take an earlier checkpoint, or another --dtype"
            )
