"""`carellama template check`: which chat format a model was trained with.

    verdict = check_formats(network, tokenizer)
    verdict.names, verdict.margin, verdict.reason

Candidates are the formats that the tokenizer can carry, and its own; those that render all of it alike are one. A LoRA
is compared by its weights first (lora_check.py).

Other models are compared by what they say. For some short answers, ours, the log-probabilities of the answer's tokens
are measured, and that of the end token in its place. A model that was trained with a format expects the beginning of an
answer and its end more under that one; of the words between it knows about as much under all. All formats see some of
the answers, the best of them the others (ROUNDS). The best format is named where two things hold:

1. The end token is likely in its place: its mean log-probability is at least SURE_END. No format ends an answer of a
   random model, nor of a base model that has not learned the end.
2. It beats the next one by MARGIN standard errors of their paired differences over the answers.

Else "cannot tell" is said, with the reason; the scores are shown in either case. benchmarks/RESULTS.md has what the
check named of small LoRAs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from carellama.errors import UserError
from carellama.evaluate.chat_formats.answer_scores import AnswerScore, score_answers
from carellama.evaluate.chat_formats.candidates import Candidate, candidates, load_answers
from carellama.evaluate.chat_formats.verdict import SURE_END, Score, Verdict, standard_errors
from carellama.files import print_status

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MARGIN = 4.0  # standard errors; formats also differ by what no training made, and a wrong one has led by 2.8
ROUNDS = ((2, 24), (6, 8), (16, 4))  # after so many answers, so many of the formats go on; the last see all answers


def check_formats(network: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> Verdict:
    """Score all candidates and decide. Raises `UserError` where the tokenizer cannot carry two of them."""
    from peft import PeftModel

    from carellama.evaluate.chat_formats.lora_check import check_lora
    from carellama.evaluate.chat_formats.lora_gradients import lora_b_weights

    made, left_out = candidates(tokenizer)
    if len(made) < 2:
        raise UserError("the tokenizer carries fewer than two formats that differ: there is nothing to compare")
    print_status(f"comparing {len(made)} texts, those of {sum(len(one.names) for one in made)} formats")
    if isinstance(network, PeftModel) and lora_b_weights(network):
        return check_lora(network, made, left_out)
    return _check_answers(network, made, left_out)


def _check_answers(network: PreTrainedModel | PeftModel, made: list[Candidate], left_out: tuple[str, ...]) -> Verdict:
    """Compare the formats by what a model says of the answers; the worst ones drop out after each round."""
    scores: dict[Candidate, tuple[AnswerScore, ...]] = dict.fromkeys(made, ())
    seen, last = 0, len(load_answers())
    rounds = (*ROUNDS, (last, len(made)))
    for number, (until, go_on) in enumerate(rounds, 1):
        step = f"step {number} of {len(rounds)}: answers {seen + 1} to {until} under {len(made)} texts"
        said = iter(score_answers(network, [pair for one in made for pair in one.pairs[seen:until]], step))
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
    margin = standard_errors(best.values, second.values)
    if best.mean.end < SURE_END:
        reason = (
            "no format makes the model end its answers "
            f"(the best gives {math.exp(best.mean.end):.1%} to the end token); "
            "the order of the table says little then: look for the format in the model's card"
        )
        return Verdict((), margin, reason, scores, left_out)
    if margin < MARGIN:
        reason = f"{best.title} and {second.title} are too near: {margin:.1f} standard errors"
        return Verdict((), margin, reason, scores, left_out)
    reason = f"{margin:.1f} standard errors before {second.title}"
    return Verdict(best.names, margin, reason, scores, left_out)
