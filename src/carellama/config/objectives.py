"""The options of single stages: preference learning, rewards, ppo, grpo; and which stage reads which."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional

from carellama.config.option import about, at_least
from carellama.errors import UserError, nearest

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045

# rewards of grpo that are named, and the options of which one must be given for each
REWARDS: dict[str, tuple[str, ...]] = {
    "letter": (),
    "citation": (),
    "format": ("format_pattern", "format_sections"),
    "length": ("length_target",),
    "model": (),  # --reward_model, which ppo has as well
    "constitution": ("judge_endpoint", "judge_model_name_or_path"),
}
REFERENCE_FREE = ("orpo", "simpo")  # losses of dpo that compare with no other model


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class PPOArguments:
    """How the policy is improved by scores: stage ppo. The defaults are those of Stiennon et al. 2020."""

    ppo_buffer_size: int = field(
        default=1, metadata=about("ppo: answers of a rollout, in steps: times batch size and accumulation.")
    )
    ppo_epochs: int = field(default=4, metadata=about("ppo: passes over each rollout."))
    ppo_kl_coef: float = field(default=0.05, metadata=about("ppo: cost of leaving the reference, at the beginning."))
    ppo_target: Optional[float] = field(
        default=None,
        metadata=about("ppo: adapt that cost to this KL of an answer, in nats; default: the cost stays."),
    )
    ppo_score_norm: bool = field(
        default=False, metadata=about("ppo: scale the scores by the mean and deviation of all so far.")
    )
    ppo_whiten_rewards: bool = field(default=False, metadata=about("ppo: scale a rollout's rewards to variance 1."))
    ppo_clip: float = field(default=0.2, metadata=about("ppo: how far a token's probability ratio counts from 1."))
    ppo_value_clip: float = field(default=0.2, metadata=about("ppo: how far a value may move in a rollout."))
    ppo_value_coef: float = field(default=0.1, metadata=about("ppo: weight of the value loss."))
    ppo_gamma: float = field(default=1.0, metadata=about("ppo: discount of a token's later rewards."))
    ppo_lambda: float = field(default=0.95, metadata=about("ppo: decay of generalised advantages."))
    ppo_no_end_penalty: float = field(
        default=0.0, metadata=about("ppo: taken off the score of an answer that --max_new_tokens cut.")
    )

    def __post_init__(self) -> None:
        if self.ppo_buffer_size < 1 or self.ppo_epochs < 1:
            raise UserError("--ppo_buffer_size and --ppo_epochs must be at least 1")
        at_least(self, ppo_kl_coef=0, ppo_value_coef=0, ppo_no_end_penalty=0)
        for name in ("ppo_clip", "ppo_value_clip", "ppo_target"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UserError(f"--{name} is {value}; it must be above 0")
        for name in ("ppo_gamma", "ppo_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name} is {getattr(self, name)}; it must be in [0, 1]")


@dataclass(frozen=True)
class GRPOArguments:
    """How a model learns from rewards of its own answers: stage grpo."""

    rewards: Optional[str] = field(
        default=None,
        metadata=about(
            "What is rewarded, comma separated: letter, citation, format, length, model, constitution, or a Python "
            "function of your own as module:function (it is imported and run)."
        ),
    )
    reward_weights: Optional[str] = field(
        default=None, metadata=about("Weights of the rewards, comma separated; default: 1 each.")
    )
    num_generations: int = field(default=8, metadata=about("Answers to each prompt, which are compared."))
    rollout_temperature: float = field(
        default=1.0, metadata=about("Temperature of those answers; they are drawn from the whole vocabulary.")
    )
    grpo_beta: float = field(
        default=0.04, metadata=about("Strength of the KL penalty to the reference model; 0: none.")
    )
    grpo_loss: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = field(
        default="dapo", metadata=about("How the losses of tokens are averaged; grpo: within each answer first.")
    )
    length_target: Optional[str] = field(
        default=None, metadata=about("length: fewest and most tokens of an answer, as in 20-120.")
    )
    format_pattern: Optional[str] = field(
        default=None, metadata=about("format: regular expression that the whole answer has to match.")
    )
    format_sections: Optional[str] = field(
        default=None, metadata=about("format: or headings that begin lines of it in this order, comma separated.")
    )
    constitution: Optional[str] = field(
        default=None, metadata=about("constitution: YAML file of rules; default: the built-in ones.")
    )
    judge_endpoint: Optional[str] = field(
        default=None, metadata=about("constitution: OpenAI-compatible endpoint of the judge; it is sent the prompts.")
    )
    judge_model: Optional[str] = field(default=None, metadata=about("Name of the judging endpoint's model."))
    judge_model_name_or_path: Optional[str] = field(
        default=None, metadata=about("constitution: or a local model that judges (folder, hub id, embedded name).")
    )

    @property
    def names(self) -> list[str]:
        """The rewards, in order."""
        return _parts(self.rewards)

    @property
    def weights(self) -> list[float]:
        """A weight for each reward."""
        if self.reward_weights is None:
            return [1.0] * len(self.names)
        try:
            return [float(part) for part in _parts(self.reward_weights)]
        except ValueError:
            raise UserError(f"--reward_weights takes numbers as in 1,0.5, not {self.reward_weights!r}") from None

    @property
    def constitution_path(self) -> Path | None:
        """The file of `constitution`; None: the built-in rules."""
        return Path(self.constitution) if self.constitution else None

    @property
    def sections(self) -> list[str]:
        """The headings of `format_sections`, in order."""
        return _parts(self.format_sections)

    @property
    def length_band(self) -> tuple[int, int] | None:
        """`length_target` as (fewest, most) tokens."""
        if self.length_target is None:
            return None
        found = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", self.length_target)
        low, high = (int(found[1]), int(found[2])) if found else (1, 0)
        if low > high or not high:
            raise UserError(f"--length_target takes fewest and most tokens as in 20-120, not {self.length_target!r}")
        return low, high

    def __post_init__(self) -> None:
        if self.num_generations < 2:
            raise UserError(f"--num_generations is {self.num_generations}; answers are compared: at least 2")
        if self.grpo_beta < 0 or self.rollout_temperature <= 0:
            raise UserError("--grpo_beta must be at least 0, and --rollout_temperature above 0")
        self._check_rewards()
        _ = self.length_band  # it raises
        try:
            re.compile(self.format_pattern or "")
        except re.error as error:
            raise UserError(f"--format_pattern is no regular expression: {error}") from error
        if self.format_pattern and self.format_sections:
            raise UserError("--format_pattern and --format_sections both say the format: give one of them")
        if self.judge_endpoint and self.judge_model_name_or_path:
            raise UserError("--judge_endpoint and --judge_model_name_or_path are two judges: give one of them")
        if (self.judge_endpoint is None) != (self.judge_model is None):
            raise UserError("--judge_endpoint URL and --judge_model NAME, a model that it has, belong together")

    def _check_rewards(self) -> None:
        names = self.names
        for name in names:
            if name not in REWARDS and "." not in name and ":" not in name:
                raise UserError(
                    f"--rewards {name}: there is no such reward.{nearest(name, REWARDS)} Known: {', '.join(REWARDS)}, "
                    "or a function as module:function"
                )
            needed = REWARDS.get(name, ())
            if needed and not any(getattr(self, option) for option in needed):
                raise UserError(f"--rewards {name} needs {' or '.join('--' + option for option in needed)}")
        if len(set(names)) < len(names):
            raise UserError(f"--rewards {self.rewards}: one of them stands there twice; give it a larger weight")
        for name, options in (*REWARDS.items(), ("constitution", ("constitution", "judge_model"))):
            for option in options:
                if getattr(self, option) and name not in names:
                    raise UserError(f"--{option} belongs to the reward {name}: add it to --rewards")
        if len(self.weights) != len(names):
            raise UserError(f"--reward_weights has {len(self.weights)} for {len(names)} rewards; give one each")


def _parts(value: str | None) -> list[str]:
    return [part.strip() for part in (value or "").split(",") if part.strip()]


def field_names(group: type) -> tuple[str, ...]:
    """Return the names of the options of a group."""
    return tuple(field.name for field in dataclasses.fields(group))


READ_BY: dict[str, tuple[str, ...]] = {  # option -> the stages that read it, where others do not
    **dict.fromkeys(("pref_loss", "pref_ftx", "dpo_label_smoothing", "simpo_gamma"), ("dpo",)),
    "pref_beta": ("dpo", "kto"),
    **dict.fromkeys(("kto_chosen_weight", "kto_rejected_weight"), ("kto",)),
    **dict.fromkeys(field_names(PPOArguments), ("ppo",)),
    **dict.fromkeys(field_names(GRPOArguments), ("grpo",)),
    "mask_history": ("sft",),
}
