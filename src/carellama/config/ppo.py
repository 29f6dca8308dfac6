"""The options of stage ppo: how the policy is improved by scores of its answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

from carellama.config.parse import about, at_least
from carellama.errors import UserError

if TYPE_CHECKING:
    from carellama.config.run import RunConfig

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045


@dataclass
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


def check_ppo(config: RunConfig) -> None:
    """Raise `UserError` for what stage ppo cannot do, and for a reward model in a stage that has no use for one."""
    generating, training = config.generating, config.training
    if config.reward.reward_model and not config.stage.generates:
        raise UserError(f"--reward_model scores the answers of --stage ppo and grpo, not of {config.stage.name}")
    if config.stage.name != "ppo":
        return
    if config.finetuning.finetuning_type == "freeze":
        raise UserError(
            "--stage ppo compares with the model as it was, which is this one without its adapter: "
            "take --finetuning_type lora (or full, with a frozen copy), not freeze"
        )
    if config.data.streaming:
        raise UserError("--stage ppo reads all of its prompts first: leave --streaming out")
    if not config.reward.reward_model:
        raise UserError("--stage ppo needs --reward_model: an adapter or model of --stage rm, or a server's address")
    if not generating.do_sample or not generating.temperature or generating.num_beams > 1:
        raise UserError("--stage ppo learns from sampled answers: give --temperature above 0 and --num_beams 1")
    if generating.repetition_penalty != 1:
        raise UserError("--stage ppo samples from the model as it is: leave --repetition_penalty at 1")
    if training.ignore_data_skip:
        raise UserError("--stage ppo goes on within a rollout: leave --ignore_data_skip out")
    if training.load_best_model_at_end and training.metric_for_best_model in (None, "loss", "eval_loss"):
        raise UserError("--stage ppo is measured by its score: give --metric_for_best_model score, or leave it out")
