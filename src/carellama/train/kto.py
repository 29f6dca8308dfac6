"""Stage `kto`: good answers become likelier, bad ones unlikelier, without pairs.

    r(x, y) = b (log pi(y|x) - log ref(y|x)),   z = max(0, mean over the batch of r(x, y'))
    loss    = w_good (1 - sigma(r - z))  or  w_bad (1 - sigma(z - r))

(Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8.) y' is the answer to another prompt of the batch: the mean is an
estimate of the divergence from the reference, and carries no gradient. As in TRL, b stands within z.

Departures: 1. in a batch of one record there is no other answer, and z is 0. 2. y' is cut where prompt and answer
together exceed the record length (--cutoff_len).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from carellama.config.run import RunOptions
from carellama.data.encoding.prepare import Prepared
from carellama.model.adapters import ReferenceModel
from carellama.model.lora import AnyModel
from carellama.records import IGNORED, Tokens
from carellama.train.chunked_loss import Batch, record_logps
from carellama.train.trainer import PackedTrainer, add_intervals

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class KTOTrainer(PackedTrainer):
    """Learns from single judged answers; evaluation gives the loss and the rewards of good and bad answers."""

    passes = 3.0  # the reference, and both over the mismatched answers

    def __init__(
        self,
        options: RunOptions,
        model: AnyModel,
        tokenizer: PreTrainedTokenizerBase,
        prepared: Prepared,
    ) -> None:
        super().__init__(options, model, tokenizer, prepared)
        self.preference = options.preference
        self.reference = ReferenceModel(self.model, sharded=self.sharded)
        lay_out = self.data_collator
        longest = options.data.lengths.total
        self.data_collator = lambda examples: (
            lay_out(examples) | {"others": lay_out(mismatched_pairs(examples, longest))}
        )

    def batch_loss(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the losses of the answers."""
        losses, rewards, drift = self._label_rewards(model, batch)
        good = batch["good"]
        noted = {"kl": float(drift) / self.preference.pref_beta}  # in nats, as TRL logs it
        if good.any():
            noted["rewards/chosen"] = float(rewards[good].mean())
        if not good.all():
            noted["rewards/rejected"] = float(rewards[~good].mean())
        self.note(noted)
        return losses.sum(), self.units(batch)

    def units(self, batch: Batch) -> torch.Tensor:
        """Answers."""
        return torch.tensor(len(batch["good"]), device=batch["good"].device)

    @torch.no_grad()
    def batch_values(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Each answer's loss, reward, and whether it is good, (records, 3)."""
        losses, rewards, _ = self._label_rewards(model, batch)
        return torch.stack([losses, rewards, batch["good"].to(losses)], dim=1).double().cpu()

    def summary(self, values: np.ndarray) -> dict[str, float]:
        """Loss with a 95% bootstrap interval, mean rewards of good and bad answers, and their margin."""
        found = add_intervals({"loss": values[:, 0]})
        good = values[:, 2] > 0
        for name, chosen in (("chosen", good), ("rejected", ~good)):
            if chosen.any():
                found[f"rewards_{name}"] = float(values[chosen, 1].mean())
        if 0 < good.sum() < len(good):
            found["margin"] = found["rewards_chosen"] - found["rewards_rejected"]
        return found

    def _label_rewards(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each answer's loss and (without gradient) reward, (records,), and the drift z."""
        how, good = self.preference, batch["good"]
        row = {name: value for name, value in batch.items() if name != "others"}
        rewards = how.pref_beta * self._log_ratios(model, row)
        with torch.no_grad():
            drift = (
                how.pref_beta * self._log_ratios(model, batch["others"]).mean() if len(good) > 1 else rewards.sum() * 0
            )
            drift = self.accelerator.reduce(drift, "mean").clamp(min=0)
        value = torch.where(good, rewards - drift, drift - rewards)
        weight = torch.where(good, how.kto_chosen_weight, how.kto_rejected_weight)
        return weight * (1 - torch.sigmoid(value)), rewards.detach(), drift

    def _log_ratios(self, model: torch.nn.Module, row: Batch) -> torch.Tensor:
        """log pi - log ref of each record, (records,)."""
        own, _ = record_logps(model, row, chunked=self.chunked, dtype=self.head_dtype)
        with torch.no_grad(), self.reference.use(model) as reference:
            other, _ = record_logps(reference, row, chunked=self.chunked, dtype=self.head_dtype)
        return own - other


def mismatched_pairs(examples: list[list[Tokens]], longest: int) -> list[list[Tokens]]:
    """Return each prompt with the answer of the example before it, cut to `longest` tokens in all.

    A long prompt and a long answer together can exceed the record length, and with it the model's positions.
    """
    parts = [_split_prompt(example[0]) for example in examples]
    made = []
    for (prompt, _), (_, answer) in zip(parts, [parts[-1], *parts[:-1]], strict=True):
        answer = answer[: longest - len(prompt)]
        labels = np.concatenate([np.full(len(prompt), IGNORED, dtype=np.int32), answer])
        made.append([Tokens(np.concatenate([prompt, answer]), labels)])
    return made


def _split_prompt(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """(prompt, answer): the answer begins at the first supervised token."""
    start = int(np.argmax(tokens.labels != IGNORED))
    return tokens.input_ids[:start], tokens.input_ids[start:]
