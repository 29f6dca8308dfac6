"""How the next token is drawn from the scores of a model: one row an answer, each row with settings of its own.

    scores = filter_logits(penalised, temperature, top_k, top_p, min_p)   # (B, V), what is cut is -inf
    tokens = sample(scores, uniforms)                            # (B,)

Pure functions on tensors: `scores` are (B, V) in float32, settings are (B,). Tokens with equal scores are kept or cut
together, so that what is left does not depend on how a library sorts. (transformers' `TopPLogitsWarper` may keep one of
two equal scores; its `TopKLogitsWarper` keeps both.)
"""

from __future__ import annotations

import torch
from torch import Tensor

TOP_CANDIDATES = 256  # tokens that are ranked first: the likeliest of top_p are among them nearly always


def apply_repetition_penalty(scores: Tensor, ids: Tensor, penalty: Tensor) -> Tensor:
    """Repetition penalty: the score of a token in `ids` (B, L) is divided by it, or multiplied where it is below 0.

    Keskar et al. 2019 (arXiv:1909.05858), section 4.1, with the case below 0 as in transformers. A row of `ids` is
    filled up with ids that it has already.
    """
    found = scores.gather(1, ids)  # (B, L)
    penalty = penalty[:, None]
    return scores.scatter(1, ids, torch.where(found < 0, found * penalty, found / penalty))


def apply_presence_and_frequency_penalty(
    scores: Tensor, ids: Tensor, times: Tensor, presence: Tensor, frequency: Tensor
) -> Tensor:
    """Presence and frequency penalty, as OpenAI's API defines them.

    `ids` (B, L) are the tokens of the answer, `times` (B, L) how often each counts: 1, and 0 for padding. A score loses
    `frequency` for each time that the answer has the token, and `presence` if it has it.
    """
    counts = torch.zeros_like(scores).scatter_add(1, ids, times)  # (B, V)
    return scores - frequency[:, None] * counts - presence[:, None] * (counts > 0)


def filter_logits(scores: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Scores divided by the temperature (above 0), in which only the tokens that may be drawn are left.

    In the order of transformers: the `top_k` likeliest (0: all); of these the fewest whose probabilities sum up to
    `top_p` (Holtzman et al. 2020, arXiv:1904.09751); and none below `min_p` times the likeliest one's (Nguyen et al.
    2024, arXiv:2407.01082). The likeliest is always left.
    """
    scores = scores / temperature[:, None]
    least = scores.amax(-1) + min_p.log()  # (B,) the log of 0 is -inf, which cuts nothing
    if bool(((top_k > 0) | (top_p < 1)).any()):
        least = torch.maximum(least, _threshold(scores, top_k, top_p))
    return scores.masked_fill(scores < least[:, None], -torch.inf)


def _threshold(scores: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """The lowest score (B,) that `top_k` and `top_p` leave; -inf where they are off.

    To sort a vocabulary takes longer than a step of a small model, so only the likeliest tokens are ranked, unless
    that is seen to be too few.
    """
    size = scores.shape[-1]
    off = (top_k == 0) & (top_p >= 1)
    most = torch.where(top_k > 0, top_k, size).clamp(max=size)  # (B,)
    share = torch.where(top_p >= 1, torch.inf, top_p)  # a sum that is rounded up to 1 is not reached
    for width in (min(size, max(TOP_CANDIDATES, int(top_k.max()))), size):
        ranked = scores.topk(width, dim=-1).values  # (B, W), falling
        inside = torch.arange(width, device=scores.device) < most[:, None]
        ranked_inside = ranked.masked_fill(~inside, -torch.inf)
        total = torch.where(most > width, scores.logsumexp(-1), ranked_inside.logsumexp(-1))
        chances = (ranked_inside - total[:, None]).exp()
        likelier = chances.cumsum(-1) - chances  # what the tokens before it sum up to
        kept = (inside & (likelier < share[:, None])).sum(-1).clamp(min=1)  # (B,)
        if bool((off | (kept < width) | (most <= width)).all()):
            break
    return ranked.gather(-1, kept[:, None] - 1).squeeze(-1).masked_fill(off, -torch.inf)


def sample(scores: Tensor, uniforms: Tensor) -> Tensor:
    """One token (B,) a row with the probabilities softmax(scores), by the inverse of their distribution function.

    `uniforms` (B,) in float64, from 0 up to but without 1: a row's draw depends on nothing but its own number.
    """
    heights = scores.softmax(-1).cumsum(-1, dtype=torch.float64)  # (B, V)
    whole = heights[:, -1]
    at = torch.minimum(uniforms * whole, torch.nextafter(whole, torch.zeros_like(whole)))
    return torch.searchsorted(heights, at[:, None], right=True).squeeze(-1)
