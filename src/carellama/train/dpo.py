"""Stage `dpo`: the better answer of each pair becomes likelier than the worse one.

With pi and ref the log-probabilities of an answer in the model and in the reference (where the training began), c the
better answer, r the worse one, d = (pi_c - ref_c) - (pi_r - ref_r), and a bar for the mean over an answer's tokens:

    sigmoid  - (1 - e) log sigma(b d) - e log sigma(- b d)      DPO: Rafailov et al. 2023, arXiv:2305.18290, eq. 7;
                                                                e > 0, cDPO: Mitchell 2023
    ipo      (d_bar - 1 / (2 b))^2                              IPO: Azar et al. 2023, arXiv:2310.12036, eq. 17
    hinge    max(0, 1 - b d)                                    Zhao et al. 2023 (SLiC), arXiv:2305.10425
    orpo     - pi_c_bar - b log sigma(log odds_c - log odds_r)  Hong et al. 2024, arXiv:2403.07691, eq. 6
    simpo    - log sigma(b (pi_c_bar - pi_r_bar) - g)           Meng et al. 2024, arXiv:2405.14734, eq. 6

The odds of orpo are of the mean: p / (1 - p) with p = exp(pi_bar).
Departure: 1. ipo takes means over tokens, as TRL does after asking the authors, so that it does not depend on lengths.
--pref_ftx adds that share of - pi_c_bar. The reference is the model with its new adapter switched off, so there is one
copy of the weights; where whole weights are trained it is a frozen copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from carellama.config.objectives import PreferenceOptions
from carellama.config.run import RunOptions
from carellama.data.encoding.prepare import Prepared
from carellama.model.adapters import ReferenceModel
from carellama.model.lora import AnyModel
from carellama.train.chunked_loss import Batch, record_logps
from carellama.train.pairs import PairTrainer, pair_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class DPOTrainer(PairTrainer):
    """Learns from pairs; evaluation gives the loss, and how often and how far the better answer is ahead."""

    def __init__(
        self,
        options: RunOptions,
        model: AnyModel,
        tokenizer: PreTrainedTokenizerBase,
        prepared: Prepared,
    ) -> None:
        self.preference = options.preference
        self.passes = 0.0 if self.preference.is_reference_free else 1.0
        super().__init__(options, model, tokenizer, prepared)
        self.reference = None if self.preference.is_reference_free else ReferenceModel(self.model, sharded=self.sharded)

    def batch_loss(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the losses of the pairs."""
        losses, chosen, rejected = self._pairs(model, batch)
        measured = {
            "rewards/chosen": float(chosen.mean()),
            "rewards/rejected": float(rejected.mean()),
            "rewards/margins": float((chosen - rejected).mean()),
            "rewards/accuracies": float((chosen > rejected).float().mean()),
        }
        self.note(measured)
        return losses.sum(), self.units(batch)

    @torch.no_grad()
    def batch_values(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Each pair's loss and rewards (chosen, rejected), (pairs, 3)."""
        return torch.stack(self._pairs(model, batch), dim=1).double().cpu()

    def summary(self, values: np.ndarray) -> dict[str, float]:
        """Loss, accuracy and margin of the rewards, with 95% bootstrap intervals over the pairs."""
        return pair_metrics(*values.T)

    def _pairs(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each pair's loss, and the rewards of both answers without gradients, (pairs,) each."""
        own, lengths = record_logps(model, batch, chunked=self.chunked, dtype=self.head_dtype)
        other = None
        if self.reference is not None:
            with torch.no_grad(), self.reference.use(model) as reference:
                other, _ = record_logps(reference, batch, chunked=self.chunked, dtype=self.head_dtype)
        return preference_loss(own, other, lengths, self.preference)


def preference_loss(
    own: torch.Tensor, other: torch.Tensor | None, lengths: torch.Tensor, how: PreferenceOptions
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each pair's loss and the rewards of its answers, (pairs,) each.

    `own` and `other` are the summed log-probabilities of the answers in the model and the reference, (2 * pairs,),
    chosen and rejected in turn; `lengths` how many tokens each has. `other` is None for losses without a reference.
    """
    beta = how.pref_beta
    means = own / lengths.clamp(min=1)
    if other is None:
        rewards = beta * means.detach()
    else:
        apart = own - other
        rewards = beta * apart.detach()
        ahead = apart[0::2] - apart[1::2]
    if how.pref_loss == "sigmoid":
        smooth = how.dpo_label_smoothing
        losses = -(1 - smooth) * F.logsigmoid(beta * ahead) - smooth * F.logsigmoid(-beta * ahead)
    elif how.pref_loss == "hinge":
        losses = F.relu(1 - beta * ahead)
    elif how.pref_loss == "ipo":
        per_token = apart / lengths.clamp(min=1)
        losses = (per_token[0::2] - per_token[1::2] - 1 / (2 * beta)) ** 2
    elif how.pref_loss == "orpo":
        odds = means - torch.log1p(-means.exp().clamp(max=1 - 1e-6))
        losses = -means[0::2] - beta * F.logsigmoid(odds[0::2] - odds[1::2])
    else:
        losses = -F.logsigmoid(beta * (means[0::2] - means[1::2]) - how.simpo_gamma)
    if how.pref_ftx:
        losses = losses - how.pref_ftx * means[0::2]
    return losses, rewards[0::2], rewards[1::2]
