"""The options of single training stages: preference, and what comes after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from carellama.config.parse import about
from carellama.errors import UserError

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045

REFERENCE_FREE = ("orpo", "simpo")  # losses of dpo that compare with no other model


@dataclass
class PreferenceArguments:
    """How preferences are learned: stages dpo and kto."""

    pref_loss: Literal["sigmoid", "ipo", "hinge", "orpo", "simpo"] = field(
        default="sigmoid", metadata=about("dpo: the loss; orpo and simpo need no reference model.")
    )
    pref_beta: float = field(default=0.1, metadata=about("dpo, kto: how closely the reference is kept to."))
    pref_ftx: float = field(default=0.0, metadata=about("dpo: share of the sft loss on the better answer."))
    dpo_label_smoothing: float = field(
        default=0.0, metadata=about("dpo, sigmoid: share of pairs taken to be labelled the wrong way (cDPO).")
    )
    simpo_gamma: float = field(default=0.5, metadata=about("dpo, simpo: the margin that is aimed at."))
    kto_chosen_weight: float = field(default=1.0, metadata=about("kto: weight of good answers."))
    kto_rejected_weight: float = field(default=1.0, metadata=about("kto: weight of bad answers."))

    @property
    def is_reference_free(self) -> bool:
        """Whether the loss of dpo compares with no other model."""
        return self.pref_loss in REFERENCE_FREE

    def __post_init__(self) -> None:
        if self.pref_beta <= 0:
            raise UserError(f"--pref_beta is {self.pref_beta}; it must be above 0")
        if self.pref_ftx < 0 or self.kto_chosen_weight < 0 or self.kto_rejected_weight < 0:
            raise UserError("--pref_ftx, --kto_chosen_weight and --kto_rejected_weight must be at least 0")
        if not 0 <= self.dpo_label_smoothing < 0.5:
            raise UserError(f"--dpo_label_smoothing is {self.dpo_label_smoothing}; it must be in [0, 0.5)")
        if self.dpo_label_smoothing and self.pref_loss != "sigmoid":
            raise UserError(f"--dpo_label_smoothing works with --pref_loss sigmoid, not {self.pref_loss}")


@dataclass
class RewardArguments:
    """Who scores the answers that a model gives while it is trained."""

    reward_model: Optional[str] = field(
        default=None,
        metadata=about(
            "ppo: what scores the answers: adapter folder(s) of --stage rm, comma separated as in --checkpoint_dir; "
            "a model with one score (folder or hub id); or the http(s) address of a server."
        ),
    )
    reward_timeout: float = field(default=120.0, metadata=about("Seconds to wait for a reward server."))

    def __post_init__(self) -> None:
        if self.reward_timeout <= 0:
            raise UserError(f"--reward_timeout is {self.reward_timeout}; it must be above 0")
