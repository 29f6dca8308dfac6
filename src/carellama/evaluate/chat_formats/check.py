"""`carellama template check`: which chat format a model was trained with.

    verdict = check_formats(network, tokenizer)
    verdict.names, verdict.margin, verdict.reason

Candidates are the formats that the tokenizer can carry, and its own; those that render all of it alike are one.

A LoRA is compared by its weights (lora_gradients.py): each format has a match, in standard deviations from the mean of
all. A format is named whose match is at least SURE_MATCH, and LEAD more than the next one's. Where none is, the best of
them get more answers (LORA_ROUNDS).

Other models are compared by what they say. For some short answers, ours, the log-probabilities of the answer's tokens
are measured, and that of the end token in its place. A model that was trained with a format expects the beginning of an
answer and its end more under that one; of the words between it knows about as much under all. All formats see some of
the answers, the best of them the others (ROUNDS). The best format is named where two things hold:

1. The end token is likely in its place: its mean log-probability is at least SURE_END. No format ends an answer of a
   random model, nor of a base model that has not learned the end.
2. It beats the next one by MARGIN standard errors of their paired differences over the answers.

Else "cannot tell" is said, with the reason; the scores are shown in either case. benchmarks/RESULTS.md has what the
check named of 20 small LoRAs.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carellama.errors import UserError
from carellama.evaluate.chat_formats.answer_scores import AnswerScore, score_answers
from carellama.evaluate.chat_formats.candidates import Candidate, candidates, load_answers

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SURE_END = -2.0  # 14% for the end token
MARGIN = 4.0  # standard errors; formats also differ by what no training made, and a wrong one has led by 2.8
ROUNDS = ((2, 24), (6, 8), (16, 4))  # after so many answers, so many of the formats go on; the last see all answers
SURE_MATCH, LEAD = 3.3, 1.5  # standard deviations; a wrong one has had 3.2 and a lead of 1.3
SAID = 2  # answers that are scored beside under the best formats
SHORT = 12  # of the answers, these are looked at first
LORA_ROUNDS = ((1, 30), (2, 20), (4, 10), (8, 10))  # until it is sure, which one answer does not make it


@dataclass(frozen=True)
class Score:
    """What a model says of the answers under one candidate; natural logarithms."""

    names: tuple[str, ...]
    answers: tuple[AnswerScore, ...]  # none: a LoRA's weights fit others better
    match: float | None = None  # of a LoRA's weights

    @property
    def values(self) -> tuple[float, ...]:
        """The score of each answer."""
        return tuple(one.score for one in self.answers)

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
    margin: float  # the lead of the best: standard errors over answers, or of a LoRA's matches standard deviations
    reason: str
    scores: tuple[Score, ...]
    left_out: tuple[str, ...]  # formats whose tokens the tokenizer does not have

    def as_json(self) -> dict[str, Any]:
        """The verdict for programs."""
        rows = [
            {
                "formats": list(one.names),
                "match": one.match,
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


def check_formats(network: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> Verdict:
    """Score all candidates and decide. Raises `UserError` where the tokenizer cannot carry two of them."""
    from peft import PeftModel

    from carellama.evaluate.chat_formats.lora_gradients import lora_b_weights

    made, left_out = candidates(tokenizer)
    if len(made) < 2:
        raise UserError("the tokenizer carries fewer than two formats that differ: there is nothing to compare")
    if isinstance(network, PeftModel) and lora_b_weights(network):
        return _check_lora(network, made, left_out)
    return _check_answers(network, made, left_out)


def _check_lora(network: PeftModel, made: list[Candidate], left_out: tuple[str, ...]) -> Verdict:
    """Compare the weights of a LoRA with the gradients of answers, until one format is sure."""
    from carellama.evaluate.chat_formats.lora_gradients import LoraGradients

    order = _learned_answers(network, made[0])
    gradients, going, seen = LoraGradients(network, len(made)), list(range(len(made))), 0
    for until, go_on in LORA_ROUNDS:
        gradients.add({row: [made[row].pairs[at] for at in order[seen:until]] for row in going})
        matches = gradients.matches()
        going = sorted(going, key=lambda row: -matches[row])[:go_on]
        verdict = decide_lora([Score(one.names, (), match) for one, match in zip(made, matches, strict=True)], left_out)
        if verdict.names and seen:
            break
        seen = until
    said = iter(score_answers(network, [made[row].pairs[at] for row in going for at in order[:SAID]]))
    answers = {row: tuple(itertools.islice(said, SAID)) for row in going}
    scores = [Score(one.names, answers.get(row, ()), matches[row]) for row, one in enumerate(made)]
    return decide_lora(scores, left_out)


def _learned_answers(network: PeftModel, candidate: Candidate) -> list[int]:
    """Numbers of short answers, first those that the LoRA made more likely: they are most like what it learned."""

    def likelihoods() -> list[float]:
        return [one.words for one in score_answers(network, [candidate.pairs[at] for at in short])]

    short = sorted(range(len(candidate.pairs)), key=lambda at: sum(map(len, candidate.pairs[at])))[:SHORT]
    after = likelihoods()
    with network.disable_adapter():
        before = likelihoods()
    gains = dict(zip(short, [now - earlier for now, earlier in zip(after, before, strict=True)], strict=True))
    return sorted(short, key=lambda at: -gains[at])


def decide_lora(scores: Sequence[Score], left_out: tuple[str, ...]) -> Verdict:
    """Name the format that fits the weights of a LoRA best, or say why it is not sure."""
    best, second, *rest = sorted(scores, key=lambda one: -(one.match or 0.0))
    match, margin = best.match or 0.0, (best.match or 0.0) - (second.match or 0.0)
    names: tuple[str, ...] = ()
    if match < SURE_MATCH:
        reason = f"no format fits the weights of the LoRA: the best, {best.names[0]}, matches by {match:.1f}"
    elif margin < LEAD:
        reason = f"{best.names[0]} and {second.names[0]} are too near: they match by {match:.1f} and {second.match:.1f}"
    else:
        names = best.names
        reason = (
            f"it matches the weights of the LoRA by {match:.1f}, the next, {second.names[0]}, by {second.match:.1f}"
        )
        if best.answers and best.mean.end < SURE_END:
            reason += f"; of its end the model has learned little ({math.exp(best.mean.end):.1%} for the end token)"
    return Verdict(names, margin, reason, (best, second, *rest), left_out)


def _check_answers(network: PreTrainedModel | PeftModel, made: list[Candidate], left_out: tuple[str, ...]) -> Verdict:
    """Compare the formats by what a model says of the answers; the worst ones drop out after each round."""
    scores: dict[Candidate, tuple[AnswerScore, ...]] = dict.fromkeys(made, ())
    seen, last = 0, len(load_answers())
    for until, go_on in (*ROUNDS, (last, len(made))):
        said = iter(score_answers(network, [pair for one in made for pair in one.pairs[seen:until]]))
        for one in made:
            scores[one] += tuple(itertools.islice(said, until - seen))
        made = sorted(made, key=lambda one: -Score(one.names, scores[one]).score)[:go_on]
        seen = until
    whole = [Score(one.names, scores[one]) for one in made]
    return decide(whole, [Score(one.names, some) for one, some in scores.items() if one not in made], left_out)


def decide(whole: Sequence[Score], others: Sequence[Score], left_out: tuple[str, ...]) -> Verdict:
    """Name the best of the scores over all answers, or say why it is not sure; `others` saw some answers only."""
    best, second, *rest = sorted(whole, key=lambda one: -one.score)
    scores = (best, second, *rest, *sorted(others, key=lambda one: -one.score))
    differences = [one - other for one, other in zip(best.values, second.values, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    margin = statistics.fmean(differences) / error if error else math.inf
    if best.mean.end < SURE_END:
        reason = (
            f"no format makes the model end its answers (the best gives {math.exp(best.mean.end):.1%} to the end token)"
        )
        return Verdict((), margin, reason, scores, left_out)
    if margin < MARGIN:
        reason = f"{best.names[0]} and {second.names[0]} are too near: {margin:.1f} standard errors"
        return Verdict((), margin, reason, scores, left_out)
    reason = f"{margin:.1f} standard errors before {second.names[0]}"
    return Verdict(best.names, margin, reason, scores, left_out)
