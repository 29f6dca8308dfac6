"""Which chat format a LoRA was trained with: by its weights, then by what the model says with it.

Each format has a match with the weights (lora_gradients.py), in standard deviations from the mean of all. The fit of a
format is its match less BEHIND for each standard error (MOST_BEHIND at most) by which its answers score below those of
the format that scores best. A format is named whose match is at least SURE_MATCH, and LEAD more than the next one's,
unless another one fits better; where the weights are not sure, one whose fit is at least SURE_FIT, and FIT_LEAD more
than the next one's.

Twins, which differ by white space, bos or eos alone, have nearly the same gradients, and which of them the weights
match better is almost chance. They count as one, with the higher match; of them those are named that no other one
beats in the answers, and in what the LoRA changed in them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from carellama.evaluate.chat_formats.answer_scores import AnswerScore, score_answers
from carellama.evaluate.chat_formats.candidates import Candidate
from carellama.evaluate.chat_formats.lora_gradients import LoraGradients
from carellama.evaluate.chat_formats.verdict import SURE_END, Score, Verdict, standard_errors

if TYPE_CHECKING:
    from peft import PeftModel

SURE_MATCH, LEAD = 3.3, 1.5  # standard deviations; a wrong one has had 3.2 and a lead of 1.3
LIKELIEST = 5  # formats by what is said, beside these
SAID = 2  # answers that are scored beside under the best formats, where the weights are sure
SHORT = 12  # of the answers, these are looked at first
LEARNED = 4  # of these, whose gradients are compared; some formats with more of them would be judged by another mean
BEST = 10  # formats that the weights fit best, whose answers are compared
BEHIND, MOST_BEHIND = 0.5, 4.0  # of a base with habits the answers say less than the weights
SURE_FIT, FIT_LEAD = 2.5, 1.0
TWIN_LEAD = 2.0  # standard errors


def check_lora(network: PeftModel, made: Sequence[Candidate], left_out: tuple[str, ...]) -> Verdict:
    """Compare the weights of a LoRA with the gradients of answers, and what the model says under the best formats."""
    order, every = _learned_answers(network, made[0]), range(len(made[0].pairs))
    gradients = LoraGradients(network, len(made))
    gradients.add({row: [one.pairs[at] for at in order[:LEARNED]] for row, one in enumerate(made)})
    matches = gradients.matches()
    going = sorted(range(len(made)), key=lambda row: -matches[row])[:BEST]
    verdict = decide_lora(
        [Score(one.names, (), match, bare=one.bare) for one, match in zip(made, matches, strict=True)], left_out
    )
    near = {made[row].bare for row in (*going, *_likeliest(network, made, order[:SAID]))}
    rows = [row for row, one in enumerate(made) if one.bare in near]
    if verdict.names:
        return decide_lora(_with_answers(network, made, verdict.scores, rows, order), left_out)
    return decide_with_answers(_with_answers(network, made, verdict.scores, rows, every), left_out)


def _likeliest(network: PeftModel, made: Sequence[Candidate], numbers: Sequence[int]) -> list[int]:
    """The formats under which the model expects some answers most."""
    said = iter(score_answers(network, [one.pairs[at] for one in made for at in numbers]))
    scores = [sum(one.score for one in itertools.islice(said, len(numbers))) for _ in made]
    return sorted(range(len(made)), key=lambda row: -scores[row])[:LIKELIEST]


def _with_answers(
    network: PeftModel,
    made: Sequence[Candidate],
    scores: Sequence[Score],
    rows: Sequence[int],
    numbers: Sequence[int],
) -> list[Score]:
    """The scores, those of some formats with what the model says of some answers, with the LoRA and without it."""
    pairs = [made[row].pairs[at] for row in rows for at in numbers]
    after = iter(score_answers(network, pairs))
    with network.disable_adapter():
        before = iter(score_answers(network, pairs))
    count = len(numbers)
    found = {
        made[row].names: (tuple(itertools.islice(after, count)), tuple(itertools.islice(before, count))) for row in rows
    }
    none: tuple[tuple[AnswerScore, ...], tuple[AnswerScore, ...]] = ((), ())
    return [replace(one, answers=said, before=base) for one in scores for said, base in [found.get(one.names, none)]]


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
    ordered = sorted(scores, key=lambda one: -(one.match or 0.0))
    best, second = ordered[0], _next(ordered)
    match, margin = best.match or 0.0, (best.match or 0.0) - (second.match or 0.0)
    names: tuple[str, ...] = ()
    if match < SURE_MATCH:
        reason = f"no format fits the weights of the LoRA: the best, {best.names[0]}, matches by {match:.1f}"
    elif margin < LEAD:
        reason = f"{best.names[0]} and {second.names[0]} are too near: they match by {match:.1f} and {second.match:.1f}"
    elif (fitting := _fits(ordered)) and not (fitting[0].names == best.names or fitting[0].is_twin(best)):
        reason = f"the weights of the LoRA are for {best.names[0]}, its answers for {fitting[0].names[0]}"
    else:
        ordered, names, note = _of_twins(ordered)
        reason = f"it matches the weights of the LoRA by {match:.1f}, the next, {second.names[0]}, by "
        reason += f"{second.match:.1f}{note}"
        if best.answers and best.mean.end < SURE_END:
            reason += f"; of its end the model has learned little ({math.exp(best.mean.end):.1%} for the end token)"
    return Verdict(names, margin, reason, tuple(ordered), left_out)


def decide_with_answers(scores: Sequence[Score], left_out: tuple[str, ...]) -> Verdict:
    """Name the format that fits weights and answers of a LoRA best, or say why it is not sure.

    Only formats that have answers can be named, two at least that are no twins.
    """
    fits = _fits(scores)
    best, second = fits[0], _next(fits)
    fit, margin = best.fit or 0.0, (best.fit or 0.0) - (second.fit or 0.0)
    names: tuple[str, ...] = ()
    if fit < SURE_FIT:
        reason = f"no format fits the weights and the answers of the LoRA: the best, {best.names[0]}, by {fit:.1f}"
    elif margin < FIT_LEAD:
        reason = f"{best.names[0]} and {second.names[0]} are too near: they fit by {fit:.1f} and {second.fit:.1f}"
    else:
        fits, names, note = _of_twins(fits)
        reason = f"it fits the weights and the answers of the LoRA by {fit:.1f}, the next, {second.names[0]}, by "
        reason += f"{second.fit:.1f}{note}"
    others = sorted((one for one in scores if not one.answers), key=lambda one: -(one.match or 0.0))
    return Verdict(names, margin, reason, (*fits, *others), left_out)


def _fits(scores: Sequence[Score]) -> list[Score]:
    """The formats that have answers, with their fit, the best first; twins have the higher match of the two."""
    said = [one for one in scores if one.answers]
    if len(said) < 2:
        return []
    likeliest, fits = max(said, key=lambda one: one.score), []
    for one in said:
        match = max(other.match or 0.0 for other in said if other is one or other.is_twin(one))
        behind = min(standard_errors(likeliest.values, one.values), MOST_BEHIND)
        fits.append(replace(one, fit=match - BEHIND * behind))
    return sorted(fits, key=lambda one: -(one.fit or 0.0))


def _next(ordered: Sequence[Score]) -> Score:
    """The first that is not a twin of the best; where all are, the last."""
    return next((one for one in ordered[1:] if not one.is_twin(ordered[0])), ordered[-1])


def _of_twins(ordered: Sequence[Score]) -> tuple[list[Score], tuple[str, ...], str]:
    """The scores, the best and those of its twins that no other one beats first; their names; what they differ in."""
    group = [one for one in ordered if one is ordered[0] or one.is_twin(ordered[0])]
    left = [one for one in group if not any(_beats(other, one) for other in group if other is not one)] or group
    names = tuple(name for one in left for name in one.names)
    note = "" if len(left) == 1 else "; they differ by white space, bos or eos alone"
    return [*left, *(one for one in ordered if one not in left)], names, note


def _beats(one: Score, twin: Score) -> bool:
    """Whether the answers, and what the LoRA changed in them, are for one of two twins.

    The first alone would count the habits of the base, the second what it had still to learn of a format.
    """
    if not (one.answers and twin.answers):
        return False
    said = standard_errors(one.values, twin.values)
    return min(said, standard_errors(one.gains, twin.gains)) >= TWIN_LEAD
