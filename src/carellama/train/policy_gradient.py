"""The arithmetic of policy gradients from scores: shaped rewards, advantages, the clipped losses, the cost of KL.

    advantages, returns = gae(rewards, values, gamma=1.0, decay=0.95)

Plain functions of tensors, one answer or one batch at a time; it knows neither models nor data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from carellama.config.objectives import PPOOptions

KL_ADAPTATION_RATE = 0.1  # K_beta of Ziegler et al. 2019, section 2.2
MAX_KL_ERROR = 0.2  # and the bound of its error
EPSILON = 1e-8


@dataclass
class RunningMoments:
    """Count, mean and sum of squared deviations of all numbers so far; batches are joined as in Chan et al. 1979."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, count: float, total: float, total_squares: float) -> None:
        """Take a batch by its count, sum, and sum of squares."""
        if not count:
            return
        mean = total / count
        apart, both = mean - self.mean, self.count + count
        self.squares += max(total_squares - count * mean**2, 0.0) + apart**2 * self.count * count / both
        self.mean += apart * count / both
        self.count = both

    @property
    def deviation(self) -> float:
        """Standard deviation; of nothing, or of equal numbers, 1: they are only shifted."""
        variance = self.squares / (self.count - 1) if self.count > 1 else 0.0
        return math.sqrt(variance) if variance > EPSILON else 1.0


def adapt_kl_coefficient(coefficient: float, kl: float, target: float | None) -> float:
    """The cost of KL for the next rollout: b (1 + K clip((KL - target) / target)), Ziegler et al. 2019, section 2.2."""
    if target is None:
        return coefficient
    error = min(max((kl - target) / target, -MAX_KL_ERROR), MAX_KL_ERROR)
    return coefficient * (1 + KL_ADAPTATION_RATE * error)


def token_rewards(own: torch.Tensor, other: torch.Tensor, score: float, coefficient: float) -> torch.Tensor:
    """The reward of each token of an answer (T,): - b (log pi - log ref), and the score at the last one.

    Stiennon et al. 2020, section 3.4: R = r(x, y) - b log(pi / ref), spread over the tokens.
    """
    rewards = -coefficient * (own - other)
    rewards[-1] += score
    return rewards


def gae(rewards: torch.Tensor, values: torch.Tensor, gamma: float, decay: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(advantages, returns) of the tokens of one answer, (T,) each; there is nothing after its end.

    d_t = r_t + g V_{t+1} - V_t;  A_t = d_t + g l A_{t+1} (Schulman et al. 2016, arXiv:1506.02438, eq. 16);
    the returns, which the values learn, are A + V.
    """
    advantages = torch.zeros_like(rewards)
    following, ahead = 0.0, 0.0
    for at in range(len(rewards) - 1, -1, -1):
        error = float(rewards[at]) + gamma * following - float(values[at])
        ahead = error + gamma * decay * ahead
        advantages[at] = ahead
        following = float(values[at])
    return advantages, advantages + values


@dataclass(frozen=True)
class PPOLosses:
    """Of each token of a batch, (N,): its loss with gradients; and what of it is worth a look, as means."""

    each: torch.Tensor
    policy: float
    value: float
    clipped: float  # share of tokens whose ratio is out of bounds
    apart: float  # an estimate of KL(old || new) a token, ratio - 1 - log ratio (Schulman 2020)


def ppo_losses(
    logps: torch.Tensor,
    values: torch.Tensor,
    old: dict[str, torch.Tensor],
    how: PPOOptions,
) -> PPOLosses:
    """The loss of each token, (N,); `old` has logps, values, advantages and returns of the rollout, (N,) each.

    policy: max(- A r, - A clip(r, 1 - e, 1 + e)), r = pi / pi_old: Schulman et al. 2017, eq. 7
    value:  1/2 max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2)
    """
    apart = logps - old["logps"]
    ratio = apart.exp()
    kept = ratio.clamp(1 - how.ppo_clip, 1 + how.ppo_clip)
    policy = torch.maximum(-old["advantages"] * ratio, -old["advantages"] * kept)
    near = old["values"] + (values - old["values"]).clamp(-how.ppo_value_clip, how.ppo_value_clip)
    value = 0.5 * torch.maximum((values - old["returns"]) ** 2, (near - old["returns"]) ** 2)
    outside = (ratio.detach() - 1).abs() > how.ppo_clip
    return PPOLosses(
        each=policy + how.ppo_value_coef * value,
        policy=float(policy.detach().mean()),
        value=float(value.detach().mean()),
        clipped=float(outside.float().mean()),
        apart=float((ratio - 1 - apart).detach().mean()),
    )
