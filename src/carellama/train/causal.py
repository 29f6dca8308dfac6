"""Stages `pt` and `sft`: next-token prediction over plain text, or over the answers of conversations.

    loss = - 1/N sum_t log p(y_t | y_<t)  over the N supervised tokens of a step

(Radford et al. 2018, eq. 1; with only the answers supervised: Ouyang et al. 2022, section 3.5.) The two stages differ
in the records they take and in packing, nothing else. LoRA: Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from carellama.config.run import RunConfig
from carellama.data.prepare import Prepared
from carellama.records import IGNORED
from carellama.train.loss import head_is_plain, record_losses, row_loss
from carellama.train.trainer import RowTrainer, mean_with_interval


class CausalTrainer(RowTrainer):
    """Next-token prediction; evaluation gives the token-weighted loss and perplexity."""

    def __init__(self, config: RunConfig, model: Any, tokenizer: Any, prepared: Prepared) -> None:
        super().__init__(config, model, tokenizer, prepared)
        self.chunked = not self.sharded and head_is_plain(self.model)

    def batch_loss(self, model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the losses of the supervised tokens."""
        return row_loss(model, batch, chunked=self.chunked, dtype=self.head_dtype)

    def units(self, batch: dict[str, Any]) -> torch.Tensor:
        """Supervised tokens."""
        count: torch.Tensor = (batch["labels"] != IGNORED).sum()
        return count

    def batch_values(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        """Each record's sum of losses and its supervised tokens, (records, 2)."""
        return record_losses(model, batch, chunked=self.chunked, dtype=self.head_dtype)

    def summary(self, values: np.ndarray) -> dict[str, float]:
        """Loss per token and perplexity, with 95% bootstrap intervals over the records."""
        loss, low, high = mean_with_interval(values)
        return {
            "loss": loss,
            "loss_low": low,
            "loss_high": high,
            "perplexity": math.exp(min(loss, 700)),
            "perplexity_low": math.exp(min(low, 700)),
            "perplexity_high": math.exp(min(high, 700)),
            "tokens": int(values[:, 1].sum()),
        }
