"""Stages `pt` and `sft`: next-token prediction over plain text, or over the answers of conversations.

    loss = - 1/N sum_t log p(y_t | y_<t)  over the N supervised tokens of a step

(Radford et al. 2018, eq. 1; with only the answers supervised: Ouyang et al. 2022, section 3.5.) The two stages differ
in the records they take and in packing, nothing else. LoRA: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from carellama.records import IGNORED
from carellama.train.chunked_loss import Batch, per_record_losses, sum_loss
from carellama.train.trainer import INTERVAL_SUFFIXES, PackedTrainer, add_intervals


class CausalTrainer(PackedTrainer):
    """Next-token prediction; evaluation gives the token-weighted loss and perplexity."""

    sums = True

    def batch_loss(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the losses of the supervised tokens."""
        return sum_loss(model, batch, chunked=self.chunked, dtype=self.head_dtype)

    def units(self, batch: Batch) -> torch.Tensor:
        """Supervised tokens."""
        count: torch.Tensor = (batch["labels"] != IGNORED).sum()
        return count

    def batch_values(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Each record's sum of losses and its supervised tokens, (records, 2)."""
        return per_record_losses(model, batch, chunked=self.chunked, dtype=self.head_dtype)

    def summary(self, values: np.ndarray) -> dict[str, float]:
        """Loss per token and perplexity, with 95% bootstrap intervals over the records."""
        found = add_intervals({"loss": values})
        found |= {f"perplexity{end}": math.exp(min(found[f"loss{end}"], 700)) for end in INTERVAL_SUFFIXES}
        return found | {"tokens": int(values[:, 1].sum())}
