"""The options of single stages: preference learning, rewards, ppo, grpo; and which stage reads which."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from carellama.config.options import Options, field_names, option, split_commas, split_numbers
from carellama.errors import UserError, nearest

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
class PreferenceOptions(Options):
    """How preferences are learned: stages dpo and kto."""

    pref_loss: Literal["sigmoid", "ipo", "hinge", "orpo", "simpo"] = option(
        "dpo: the loss; orpo and simpo need no reference model.", "sigmoid"
    )
    pref_beta: float = option("dpo, kto: how closely the reference is kept to.", 0.1, above=0)
    pref_ftx: float = option("dpo: share of the sft loss on the better answer.", 0.0, at_least=0)
    dpo_label_smoothing: float = option(
        "dpo, sigmoid: share of pairs taken to be labelled the wrong way (cDPO).", 0.0, at_least=0, below=0.5
    )
    simpo_gamma: float = option("dpo, simpo: the margin that is aimed at.", 0.5, at_least=0)
    kto_chosen_weight: float = option("kto: weight of good answers.", 1.0, at_least=0)
    kto_rejected_weight: float = option("kto: weight of bad answers.", 1.0, at_least=0)

    @property
    def is_reference_free(self) -> bool:
        """Whether the loss of dpo compares with no other model."""
        return self.pref_loss in REFERENCE_FREE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dpo_label_smoothing and self.pref_loss != "sigmoid":
            raise UserError(f"--dpo_label_smoothing works with --pref_loss sigmoid, not {self.pref_loss}")


@dataclass(frozen=True)
class RewardOptions(Options):
    """Who scores the answers that a model gives while it is trained."""

    reward_model: str | None = option(
        "ppo: what scores the answers: adapter folder(s) of --stage rm, comma separated as in --checkpoint_dir; "
        "a model with one score (folder or hub id); or the http(s) address of a server.",
        None,
        commas=True,
    )
    reward_timeout: float = option("Seconds to wait for a reward server.", 120.0, above=0)


@dataclass(frozen=True)
class PPOOptions(Options):
    """How the policy is improved by scores: stage ppo. The defaults are those of Stiennon et al. 2020."""

    ppo_buffer_size: int = option(
        "ppo: answers of a rollout, in steps: times batch size and accumulation.", 1, at_least=1
    )
    ppo_epochs: int = option("ppo: passes over each rollout.", 4, at_least=1)
    ppo_kl_coef: float = option("ppo: cost of leaving the reference, at the beginning.", 0.05, at_least=0)
    ppo_target: float | None = option(
        "ppo: adapt that cost to this KL of an answer, in nats; default: the cost stays.", None, above=0
    )
    ppo_score_norm: bool = option("ppo: scale the scores by the mean and deviation of all so far.", default=False)
    ppo_whiten_rewards: bool = option("ppo: scale a rollout's rewards to variance 1.", default=False)
    ppo_clip: float = option("ppo: how far a token's probability ratio counts from 1.", 0.2, above=0)
    ppo_value_clip: float = option("ppo: how far a value may move in a rollout.", 0.2, above=0)
    ppo_value_coef: float = option("ppo: weight of the value loss.", 0.1, at_least=0)
    ppo_gamma: float = option("ppo: discount of a token's later rewards.", 1.0, at_least=0, at_most=1)
    ppo_lambda: float = option("ppo: decay of generalised advantages.", 0.95, at_least=0, at_most=1)
    ppo_no_end_penalty: float = option(
        "ppo: taken off the score of an answer that --max_new_tokens cut.", 0.0, at_least=0
    )


@dataclass(frozen=True)
class GRPOOptions(Options):
    """How a model learns from rewards of its own answers: stage grpo."""

    rewards: str | None = option(
        "What is rewarded, comma separated: letter, citation, format, length, model, constitution, or a Python "
        "function of your own as module:function (it is imported and run).",
        None,
        commas=True,
    )
    reward_weights: str | None = option("Weights of the rewards, comma separated; default: 1 each.", None, commas=True)
    num_generations: int = option("Answers to each prompt, which are compared.", 8, at_least=2)
    rollout_temperature: float = option(
        "Temperature of those answers; they are drawn from the whole vocabulary.", 1.0, above=0
    )
    grpo_beta: float = option("Strength of the KL penalty to the reference model; 0: none.", 0.04, at_least=0)
    grpo_loss: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = option(
        "How the losses of tokens are averaged; grpo: within each answer first.", "dapo"
    )
    length_target: str | None = option("length: fewest and most tokens of an answer, as in 20-120.", None)
    format_pattern: str | None = option("format: regular expression that the whole answer has to match.", None)
    format_sections: str | None = option(
        "format: or headings that begin lines of it in this order, comma separated.", None, commas=True
    )
    constitution: str | None = option("constitution: YAML file of rules; default: the built-in ones.", None)
    judge_endpoint: str | None = option(
        "constitution: OpenAI-compatible endpoint of the judge; it is sent the prompts.", None
    )
    judge_model: str | None = option("Name of the judging endpoint's model.", None)
    judge_model_name_or_path: str | None = option(
        "constitution: or a local model that judges (folder, hub id, embedded name).", None
    )

    @property
    def names(self) -> list[str]:
        """The rewards, in order."""
        return split_commas(self.rewards)

    @property
    def weights(self) -> list[float]:
        """A weight for each reward."""
        weights = self.reward_weights
        return [1.0] * len(self.names) if weights is None else split_numbers("reward_weights", weights, "1,0.5")

    @property
    def constitution_path(self) -> Path | None:
        """The file of `constitution`; None: the built-in rules."""
        return Path(self.constitution) if self.constitution else None

    @property
    def sections(self) -> list[str]:
        """The headings of `format_sections`, in order."""
        return split_commas(self.format_sections)

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
        super().__post_init__()
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
            if needed and not any(getattr(self, one) for one in needed):
                raise UserError(f"--rewards {name} needs {' or '.join('--' + one for one in needed)}")
        if len(set(names)) < len(names):
            raise UserError(f"--rewards {self.rewards}: one of them stands there twice; give it a larger weight")
        for name, options in (*REWARDS.items(), ("constitution", ("constitution", "judge_model"))):
            for given in options:
                if getattr(self, given) and name not in names:
                    raise UserError(f"--{given} belongs to the reward {name}: add it to --rewards")
        if len(self.weights) != len(names):
            raise UserError(f"--reward_weights has {len(self.weights)} for {len(names)} rewards; give one each")


READ_BY: dict[str, tuple[str, ...]] = {  # option -> the stages that read it, where others do not
    **dict.fromkeys(("pref_loss", "pref_ftx", "dpo_label_smoothing", "simpo_gamma"), ("dpo",)),
    "pref_beta": ("dpo", "kto"),
    **dict.fromkeys(("kto_chosen_weight", "kto_rejected_weight"), ("kto",)),
    **dict.fromkeys(field_names(RewardOptions), ("ppo", "grpo")),
    **dict.fromkeys(field_names(PPOOptions), ("ppo",)),
    **dict.fromkeys(field_names(GRPOOptions), ("grpo",)),
    "mask_history": ("sft",),
}
