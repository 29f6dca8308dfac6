"""Which chat format a LoRA was trained with: by its weights, and by what the model says with it.

1. Each format has a match with the weights (lora_gradients.py), in standard deviations from the mean of all formats.
2. The NEAREST of them, and the LIKELIEST by what the model says, are compared again, with more answers and from the
   mean of these alone: formats of one kind ("Human: ... Assistant: ...") have most of their gradients in common, and
   that part is gone from their second match.
3. What the model says under a format takes BEHIND off it for each standard error (MOST_BEHIND at most) by which its
   answers score below those of the format that scores best.

The fit of a format is the sum: its second match, MATCH_SHARE of the first, less what the answers take off. A format is
named whose fit is at least SURE_FIT, and LEAD more than the next one's, where the LoRA made the answers more likely
under it, by SURE_GAIN standard errors: matches are in deviations, so that some format has a high one by chance. Where
the next ones are nearer than LEAD, the best is compared with each of them once more, with all answers, and is named if
the weights fit it better by DIRECT_LEAD standard errors over their layers.

Twins, which differ by white space, bos or eos alone, have nearly the same gradients, and which of them the weights
match better is almost chance. They count as one, with the higher matches; of them those are named that no other one
beats in the answers, and in what the LoRA changed in them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from carellama.evaluate.chat_formats.answer_scores import score_answers
from carellama.evaluate.chat_formats.candidates import Candidate
from carellama.evaluate.chat_formats.lora_gradients import LoraGradients
from carellama.evaluate.chat_formats.verdict import SURE_END, Score, Verdict, standard_errors

if TYPE_CHECKING:
    from peft import PeftModel

SHORT = 12  # of the answers, these are looked at first; the gradients of the nearest formats are over all of them
LEARNED = 4  # of these, whose gradients are compared between all formats
SAID = 2  # of these, by which the likeliest formats are found
NEAREST, LIKELIEST = 8, 10  # formats by the weights and by what is said
MATCH_SHARE, BEHIND, MOST_BEHIND = 0.25, 0.4, 4.0  # of a base with habits the answers say less than the weights
SURE_FIT, LEAD = 1.9, 1.0  # where the right one was not among the nearest, another has had 2.7 and a lead of 0.7
SURE_GAIN, TWIN_LEAD = 4.0, 2.0  # standard errors; trainings have had gains of 7 to 42
DIRECT_LEAD, MOST_RIVALS = 2.0, 3  # standard errors over the layers; formats that are compared with the best directly
STEPS = 6
TWINS = "white space, bos or eos alone"


def check_lora(network: PeftModel, made: Sequence[Candidate], left_out: tuple[str, ...]) -> Verdict:
    """Compare the weights of a LoRA with the gradients of answers, and what the model says under the best formats."""
    order = _learned_answers(network, made[0])
    step = f"step 2 of {STEPS}: gradients of {LEARNED} answers under {len(made)} texts"
    matches = _gradients(network, made, order[:LEARNED], step).matches()
    nearest = sorted(range(len(made)), key=lambda row: -matches[row])[:NEAREST]
    near = {made[row].bare for row in (*nearest, *_likeliest(network, made, order[:SAID]))}
    rows = [row for row, one in enumerate(made) if one.bare in near]
    step = f"step 4 of {STEPS}: gradients of {len(order)} answers under the {len(rows)} nearest texts"
    near_matches = dict(zip(rows, _gradients(network, [made[row] for row in rows], order, step).matches(), strict=True))
    scores = [
        Score(one.names, (), matches[row], near_match=near_matches.get(row), bare=one.bare)
        for row, one in enumerate(made)
    ]
    scores = _with_answers(network, made, scores, rows)
    return decide_lora(scores, left_out, _direct_lead(network, made, scores))


def _gradients(network: PeftModel, made: Sequence[Candidate], numbers: Sequence[int], step: str) -> LoraGradients:
    gradients = LoraGradients(network, len(made))
    gradients.add({row: [one.pairs[at] for at in numbers] for row, one in enumerate(made)}, step)
    return gradients


def _direct_lead(network: PeftModel, made: Sequence[Candidate], scores: Sequence[Score]) -> float | None:
    """The least lead of the best format over those that fit nearly as well; None where it need not be known."""
    fits = _fits([one for one in scores if one.answers])
    rivals = rivals_of_best(fits)
    if not rivals or _unsure(fits[0]) or len(rivals) > MOST_RIVALS:
        return None
    of_names = {one.names: one for one in made}
    compared = [of_names[one.names] for one in (fits[0], *rivals)]
    step = f"one step more: gradients of all answers under the {len(compared)} best texts"
    gradients = _gradients(network, compared, range(len(made[0].pairs)), step)
    return min(gradients.lead(0, row) for row in range(1, len(compared)))


def _likeliest(network: PeftModel, made: Sequence[Candidate], numbers: Sequence[int]) -> list[int]:
    """The formats under which the model expects some answers most."""
    step = f"step 3 of {STEPS}: {len(numbers)} answers under {len(made)} texts"
    said = iter(score_answers(network, [one.pairs[at] for one in made for at in numbers], step))
    scores = [sum(one.score for one in itertools.islice(said, len(numbers))) for _ in made]
    return sorted(range(len(made)), key=lambda row: -scores[row])[:LIKELIEST]


def _with_answers(
    network: PeftModel, made: Sequence[Candidate], scores: Sequence[Score], rows: Sequence[int]
) -> list[Score]:
    """The scores, those of some formats with what the model says of the answers, with the LoRA and without it."""
    pairs, found, count = [pair for row in rows for pair in made[row].pairs], list(scores), len(made[0].pairs)
    step = f"{count} answers under the {len(rows)} nearest texts, with"
    after = iter(score_answers(network, pairs, f"step 5 of {STEPS}: {step} the LoRA"))
    with network.disable_adapter():
        before = iter(score_answers(network, pairs, f"step 6 of {STEPS}: {step}out the LoRA"))
    for row in rows:
        said, base = tuple(itertools.islice(after, count)), tuple(itertools.islice(before, count))
        found[row] = replace(scores[row], answers=said, before=base)
    return found


def _learned_answers(network: PeftModel, candidate: Candidate) -> list[int]:
    """Numbers of short answers, first those that the LoRA made more likely: they are most like what it learned."""

    def likelihoods(step: str = "") -> list[float]:
        return [one.words for one in score_answers(network, [candidate.pairs[at] for at in short], step)]

    short = sorted(range(len(candidate.pairs)), key=lambda at: sum(map(len, candidate.pairs[at])))[:SHORT]
    after = likelihoods(f"step 1 of {STEPS}: which of {SHORT} answers the LoRA made more likely")
    with network.disable_adapter():
        before = likelihoods()
    gains = dict(zip(short, [now - earlier for now, earlier in zip(after, before, strict=True)], strict=True))
    return sorted(short, key=lambda at: -gains[at])


def decide_lora(scores: Sequence[Score], left_out: tuple[str, ...], direct_lead: float | None = None) -> Verdict:
    """Name the format that fits a LoRA best, or say why it is not sure.

    Only formats that have answers can be named; two of these at least are no twins. `direct_lead`: that of the best
    over the formats that are nearer than LEAD, in standard errors; None: not measured.
    """
    fits = _fits([one for one in scores if one.answers])
    best, second = fits[0], _next(fits)
    margin = (best.fit or 0.0) - (second.fit or 0.0)
    names: tuple[str, ...] = ()
    direct = "" if direct_lead is None else f"; compared directly, its lead is {direct_lead:.1f} standard errors"
    if unsure := _unsure(best):
        reason = unsure
    elif margin < LEAD and (direct_lead is None or direct_lead < DIRECT_LEAD):
        reason = f"{best.title} and {second.title} are too near: they fit by {best.fit:.1f} and {second.fit:.1f}"
        reason += direct
    else:
        fits, named = _of_twins(fits)
        names = tuple(name for one in fits[:named] for name in one.names)
        reason = "" if named == 1 else f"these differ by {TWINS}, and which of them it was cannot be told; "
        reason += f"it fits the weights and the answers of the LoRA by {fits[0].fit:.1f}, the next, "
        if (following := next(iter(fits[named:]), second)) is not second:
            reason += f"{following.title}, which differs by {TWINS}, by {following.fit:.1f}, the next other text, "
        reason += f"{second.title}, by {second.fit:.1f}{direct}"
        if best.mean.end < SURE_END:
            reason += f"; of its end the model has learned little ({math.exp(best.mean.end):.1%} for the end token)"
    others = sorted((one for one in scores if not one.answers), key=lambda one: -(one.match or 0.0))
    return Verdict(names, margin, reason, (*fits, *others), left_out)


def _unsure(best: Score) -> str:
    """Why not even the best format can be named; empty if it can."""
    if standard_errors(best.gains, [0.0] * len(best.gains)) < SURE_GAIN:
        return f"the LoRA does not make the answers under the best format, {best.title}, more likely"
    if (best.fit or 0.0) < SURE_FIT:
        return f"no format fits the weights and the answers of the LoRA: the best, {best.title}, by {best.fit:.1f}"
    return ""


def rivals_of_best(fits: Sequence[Score]) -> list[Score]:
    """Formats that fit nearly as well as the first, which is the best; of twins the first."""
    rivals = list[Score]()
    for one in fits[1:]:
        near = (fits[0].fit or 0.0) - (one.fit or 0.0) < LEAD
        if near and not any(one.is_twin(other) for other in (fits[0], *rivals)):
            rivals.append(one)
    return rivals


def _fits(scores: Sequence[Score]) -> list[Score]:
    """The formats with their fit, the best first; twins have the higher matches of them all."""
    likeliest, fits = max(scores, key=lambda one: one.score), []
    for one in scores:
        group = [other for other in scores if other is one or other.is_twin(one)]
        match, near = (max(getattr(other, name) or 0.0 for other in group) for name in ("match", "near_match"))
        behind = min(standard_errors(likeliest.values, one.values), MOST_BEHIND)
        fits.append(replace(one, fit=near + MATCH_SHARE * match - BEHIND * behind))
    return sorted(fits, key=lambda one: -(one.fit or 0.0))


def _next(ordered: Sequence[Score]) -> Score:
    """The first that is not a twin of the best; where all are, the last."""
    return next((one for one in ordered[1:] if not one.is_twin(ordered[0])), ordered[-1])


def _of_twins(ordered: Sequence[Score]) -> tuple[list[Score], int]:
    """The scores, the best and those of its twins that no other one beats first, and how many these are."""
    group = [one for one in ordered if one is ordered[0] or one.is_twin(ordered[0])]
    left = [one for one in group if not any(_beats(other, one) for other in group if other is not one)] or group
    return [*left, *(one for one in ordered if one not in left)], len(left)


def _beats(one: Score, twin: Score) -> bool:
    """Whether the answers, and what the LoRA changed in them, are for one of two twins.

    The first alone would count the habits of the base, the second what it had still to learn of a format.
    """
    if not (one.answers and twin.answers):
        return False
    said = standard_errors(one.values, twin.values)
    return min(said, standard_errors(one.gains, twin.gains)) >= TWIN_LEAD
