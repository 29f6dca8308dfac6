"""The options of stage grpo: which rewards, and how they are compared."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Optional

from carellama.config.environment import world
from carellama.config.parse import about
from carellama.errors import UserError, nearest

if TYPE_CHECKING:
    from carellama.config.run import RunConfig

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


@dataclass
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


def check_grpo(config: RunConfig) -> None:
    """Raise `UserError` for what stage grpo cannot do, and for its options in another stage."""
    training, grpo = config.training, config.grpo
    if config.stage.name != "grpo":
        if grpo.names:
            raise UserError(f"--rewards belongs to --stage grpo, not {config.stage.name}")
        return
    if not grpo.names:
        raise UserError("--stage grpo needs --rewards: letter, citation, format, length, model, constitution, ...")
    if ("model" in grpo.names) != (config.reward.reward_model is not None):
        raise UserError("--rewards model and --reward_model, who gives it, belong together")
    if config.data.streaming:
        raise UserError("--stage grpo reads all of its prompts first: leave --streaming out")
    each, ahead = training.per_device_train_batch_size, training.gradient_accumulation_steps
    processes = world()[1]
    if training.do_train and each * ahead * processes % grpo.num_generations:
        raise UserError(
            f"--num_generations {grpo.num_generations} does not divide the answers of a step: "
            f"{each} (--per_device_train_batch_size) x {ahead} (--gradient_accumulation_steps) x {processes} processes"
        )
