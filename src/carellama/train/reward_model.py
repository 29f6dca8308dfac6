"""Stage `rm`: a reward model, which gives the better of two answers the higher score.

    loss = - log sigma(r(x, y_c) - r(x, y_r))

(Stiennon et al. 2020, arXiv:2009.01325, section 3.4; Ouyang et al. 2022, eq. 1.) The score is a linear head over the
last token of the answer, its end token: transformers' sequence classification with one label, which vLLM and others
load. Both answers of a pair lie in one row.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from carellama.model.load import SCORE_HEAD
from carellama.train.chunked_loss import Batch, forward_inputs
from carellama.train.pairs import PairTrainer, pair_metrics


class RewardTrainer(PairTrainer):
    """Learns scores from pairs; evaluation gives the share of pairs whose better answer scores higher."""

    def batch_loss(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the losses of the pairs."""
        scores = score_records(model, batch)
        margins = scores[0::2] - scores[1::2]
        seen = margins.detach()
        measured = {
            "accuracy": float((seen > 0).float().mean()),
            "margin": float(seen.mean()),
            "score": float(scores.detach().mean()),
        }
        self.note(measured)
        return -F.logsigmoid(margins).sum(), self.units(batch)

    @torch.no_grad()
    def batch_values(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Each pair's scores (chosen, rejected), (pairs, 2)."""
        return score_records(model, batch).view(-1, 2).double().cpu()

    def summary(self, values: np.ndarray) -> dict[str, float]:
        """Loss, accuracy and mean margin of the scores, with 95% bootstrap intervals over the pairs."""
        chosen, rejected = values.T
        return pair_metrics(np.logaddexp(0, rejected - chosen), chosen, rejected)


def score_records(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """The score of each record of a row or a padded batch, (records,) float32, at its last token.

    transformers' own forward looks for one last token a line, which a row of many records has not: the head's output
    is caught on its way. It is one number a token, so that nothing is saved by leaving tokens out.
    """
    inputs = forward_inputs(batch)
    caught: list[torch.Tensor] = []

    def catch(_: torch.nn.Module, _args: tuple[torch.Tensor, ...], scores: torch.Tensor) -> None:
        caught.append(scores)

    handle = _score_head(model).register_forward_hook(catch)
    try:
        model(**inputs, use_cache=False)
    finally:
        handle.remove()
    scores = caught[0][..., 0].float()  # (B, T)
    borders = batch.get("cu_seq_lens_q")
    if borders is not None:
        return scores[0, borders[1:].long() - 1]
    ends = batch["attention_mask"].sum(1) - 1
    return scores[torch.arange(len(ends), device=ends.device), ends]


def _score_head(model: torch.nn.Module) -> torch.nn.Module:
    """The head that gives the score, behind any wrapper."""
    found: torch.nn.Module = next(
        module for name, module in model.named_modules() if name.rpartition(".")[2] == SCORE_HEAD
    )
    return found
