"""What the stages that learn from pairs share: `rm` and `dpo`. Both answers of a pair lie side by side in a batch."""

from __future__ import annotations

import numpy as np
import torch

from carellama.train.chunked_loss import Batch
from carellama.train.trainer import PackedTrainer, add_intervals


class PairTrainer(PackedTrainer):
    """Counts pairs; a stage says what it learns from them."""

    def units(self, batch: Batch) -> torch.Tensor:
        """Pairs."""
        return torch.tensor(len(batch["good"]) // 2, device=batch["good"].device)


def pair_metrics(losses: np.ndarray, chosen: np.ndarray, rejected: np.ndarray) -> dict[str, float]:
    """Loss, accuracy (an even pair is half right) and mean margin, with intervals; (pairs,) each."""
    margins = chosen - rejected
    right = (margins > 0) + 0.5 * (margins == 0)
    return add_intervals({"loss": losses, "accuracy": right, "margin": margins})
