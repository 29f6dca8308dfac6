"""What a check of chat formats found: a score of each format, and the one that is named, if any."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from carellama.evaluate.chat_formats.answer_scores import AnswerScore
from carellama.templates.format import OWN

SURE_END = -2.0  # 14% for the end token


@dataclass(frozen=True)
class Score:
    """What a model says of the answers under one candidate; natural logarithms."""

    names: tuple[str, ...]
    answers: tuple[AnswerScore, ...]  # none: a LoRA's weights fit others better
    match: float | None = None  # of a LoRA's weights, among all formats
    near_match: float | None = None  # among those that are nearest to it
    fit: float | None = None  # of a LoRA's weights and answers together
    before: tuple[AnswerScore, ...] = ()  # what the model says without the LoRA
    bare: str | None = None  # that of the candidate

    @property
    def title(self) -> str:
        """The first name, and whether the tokenizer's own template is the same text."""
        name = next((name for name in self.names if name != OWN), OWN)
        return f"{name} (the tokenizer's own template)" if name != OWN in self.names else name

    @property
    def values(self) -> tuple[float, ...]:
        """The score of each answer."""
        return tuple(one.score for one in self.answers)

    def is_twin(self, other: Score) -> bool:
        """Whether two formats differ by white space, bos or eos alone."""
        return self is not other and self.bare is not None and self.bare == other.bare

    @property
    def gains(self) -> tuple[float, ...]:
        """By how much a LoRA raised the score of each answer."""
        return tuple(after.score - before.score for after, before in zip(self.answers, self.before, strict=True))

    @property
    def score(self) -> float:
        """The mean of the answers' scores."""
        return statistics.fmean(self.values)

    @property
    def mean(self) -> AnswerScore:
        """The means of what the scores are made of."""
        return AnswerScore(*map(statistics.fmean, zip(*self.answers, strict=True)))


@dataclass(frozen=True)
class Verdict:
    """All scores, the best first, and whether the first is sure. `names` is empty for "cannot tell"."""

    names: tuple[str, ...]
    margin: float  # the lead of the best: standard errors over answers, or of a LoRA's fits standard deviations
    reason: str
    scores: tuple[Score, ...]
    left_out: tuple[str, ...]  # formats whose tokens the tokenizer does not have

    def as_json(self) -> dict[str, Any]:
        """The verdict for programs."""
        rows = [
            {
                "formats": list(one.names),
                "match": one.match,
                "near_match": one.near_match,
                "fit": one.fit,
                "answers": len(one.answers),
                **({"score": one.score, **one.mean._asdict()} if one.answers else {}),
            }
            for one in self.scores
        ]
        return {
            "formats": list(self.names),
            "sure": bool(self.names),
            "margin": self.margin,
            "reason": self.reason,
            "scores": rows,
            "left_out": list(self.left_out),
        }


def standard_errors(some: Sequence[float], others: Sequence[float]) -> float:
    """By how many standard errors of the paired differences some values are above others; 0 where all are equal."""
    differences = [one - other for one, other in zip(some, others, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    lead = statistics.fmean(differences)
    return lead / error if error else math.copysign(math.inf, lead) if lead else 0.0
