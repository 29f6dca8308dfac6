"""How far a written form may differ, and which figures of a row are past that.

past_tolerance(row, tolerance_of("hf", "bfloat16"), perplexity=14.2)  # ["mean KL divergence is 0.2; allowed: 0.005"]
"""

from __future__ import annotations

from collections.abc import Iterator

from carellama.errors import lookup
from carellama.export.parity.table import NOTICEABLE, ParityRow, Tolerance
from carellama.package_data import package_yaml


def tolerance_of(form: str, stored: str) -> Tolerance:
    """Return how far a form may differ. Of a Hugging Face folder it depends on the precision of its weights."""
    known = package_yaml("export/parity/tolerances.yaml")
    return Tolerance(**lookup(known, f"{form} {stored}" if form == "hf" else form, "written form"))


def past_tolerance(
    row: ParityRow, tolerance: Tolerance, perplexity: float | None, *, experts: bool = False
) -> list[str]:
    """Return what is wrong with a form: each figure that is past its limit, what it is, and what is allowed.

    experts: whether it is a mixture of experts, of which rounding may change a few tokens much and most of them hardly.
    """
    scores = row.kl_mean is None  # of a reward model, whose other ids are warned of when they are found
    found = [] if row.ids_equal or scores else ["its tokenizer gives other ids than the one of the training"]
    found += [] if row.end_tokens_equal else ["a token that ended an answer in training does not end one there"]
    past, limit = [*_past(row, tolerance, perplexity)], tolerance.kl_mean
    if past and experts and limit is not None and row.kl_median is not None and row.kl_median <= limit:
        past[-1] += (
            f" (a mixture of experts: half of its tokens differ by {row.kl_median:.2g} or less, and "
            f"{row.kl_noticeable:,} of {row.tokens:,} by more than {NOTICEABLE:g}, as where two experts are nearly "
            "equally likely and rounding changes which of them the router chooses)"
        )
    return found + past


def _past(row: ParityRow, tolerance: Tolerance, perplexity: float | None) -> Iterator[str]:
    ratio = row.perplexity / perplexity if row.perplexity is not None and perplexity else None
    changed = row.safety.changed / row.safety.cases if row.safety is not None else None
    for name, value, limit in (
        ("largest difference of logits", row.max_logit_difference, tolerance.max_logit_difference),
        ("mean KL divergence", row.kl_mean, tolerance.kl_mean),
        ("99.9% quantile of the KL divergence", row.kl_999, tolerance.kl_999),
        ("perplexity as a multiple of the trained model's", ratio, tolerance.perplexity_ratio),
        ("share of answers whose urgency changed", changed, tolerance.safety_changed),
    ):
        if value is not None and limit is not None and not value <= limit:  # not a number is past it as well
            yield f"{name} is {value:.4g}; allowed: {limit:g}"
    for name, value, limit in (
        ("share of tokens with the same next token", row.top1_agreement, tolerance.top1_agreement),
        ("equal tokens of the greedy answer", row.greedy_equal, tolerance.greedy_equal),
    ):
        if value is not None and limit is not None and not value >= limit:
            yield f"{name} is {value:.4g}; at least {limit:g}"
