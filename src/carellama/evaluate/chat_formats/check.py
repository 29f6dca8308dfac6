"""`carellama template check`: which chat format a model was trained with, by what it says of given answers.

    verdict = check_formats(network, tokenizer)
    verdict.names, verdict.margin, verdict.reason

A model is asked under each format that its tokenizer can carry, and its own. For some short answers, ours, the
log-probabilities of the answer's tokens are measured, and that of the end token in its place. A model that was trained
with a format expects the beginning of an answer and its end more under that one; of the words between it knows about as
much under all. So the score of an answer is (natural logarithms, means)

    first START tokens + REST_SHARE * the other words + END_SHARE * max(end, LEAST_END)

Only tokens of the answer count, so formats with long prompts are comparable. The best format is named where two things
hold, and else "cannot tell" is said, with the reason; the scores are shown in either case:

1. The end token is likely in its place: its mean log-probability is at least SURE_END. No format ends an answer of a
   random model, nor of a base model that has not learned the end.
2. It beats the next one by MARGIN standard errors of their paired differences over the answers. This is cautious:
   benchmarks/RESULTS.md has what it named and missed on 20 small LoRAs.

Formats that render all of it alike are one candidate with several names.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from carellama.errors import UserError
from carellama.package_data import package_text
from carellama.records import Message
from carellama.templates.format import formats
from carellama.templates.template import Template, get_template, is_token
from carellama.templates.tokenize import GroupEncoder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OWN = "the tokenizer's own"
START, REST_SHARE, END_SHARE = 3, 0.25, 0.5
LEAST_END = -8.0  # how unlikely an end can count: below it is noise
SURE_END = -2.0  # 14% for the end token
MARGIN = 2.0  # standard errors
FIRST_ANSWERS, KEPT = 2, 12  # all formats see so many answers, and so many of them see the rest


@dataclass(frozen=True)
class Candidate:
    """One text of the conversations, and the formats that render it."""

    names: tuple[str, ...]
    prompts: tuple[tuple[int, ...], ...]  # ids of each conversation up to its last answer
    answers: tuple[tuple[int, ...], ...]  # ids of the answer with its end


@dataclass(frozen=True)
class Score:
    """What a model says of the answers under one candidate; natural logarithms."""

    names: tuple[str, ...]
    start: float  # mean of the first tokens of the answers
    words: float  # mean of the tokens behind them
    end: float  # mean of the end tokens in their place
    values: tuple[float, ...]  # the score of each answer

    @property
    def score(self) -> float:
        """The mean of the answers' scores."""
        return statistics.fmean(self.values)


@dataclass(frozen=True)
class Verdict:
    """All scores, the best first, and whether the first is sure. `names` is empty for "cannot tell"."""

    names: tuple[str, ...]
    margin: float  # the lead of the best over the second, in standard errors
    reason: str
    scores: tuple[Score, ...]
    left_out: tuple[str, ...]  # formats whose tokens the tokenizer does not have

    def as_json(self) -> dict[str, Any]:
        """The verdict for programs."""
        rows = [
            {
                "formats": list(one.names),
                "score": one.score,
                "start": one.start,
                "words": one.words,
                "end": one.end,
                "answers": len(one.values),
            }
            for one in self.scores
        ]
        return {
            "formats": list(self.names),
            "sure": bool(self.names),
            "margin_standard_errors": self.margin,
            "reason": self.reason,
            "scores": rows,
            "left_out": list(self.left_out),
        }


def load_answers() -> list[tuple[Message, ...]]:
    """Return the conversations that are scored; each ends with the answer."""
    texts: list[list[str]] = yaml.safe_load(package_text("evaluate/chat_formats/answers.yaml"))
    return [tuple(Message("assistant" if at % 2 else "user", text) for at, text in enumerate(one)) for one in texts]


def candidates(tokenizer: PreTrainedTokenizerBase) -> tuple[list[Candidate], tuple[str, ...]]:
    """Return what the tokenizer can carry, those that render alike as one, and the names of the others."""
    encoder, talks = GroupEncoder(tokenizer), load_answers()
    names = [name for name, form in formats().items() if not form.same_as]
    fitting = [name for name in names if all(is_token(tokenizer, token) for token in formats()[name].tokens)]
    found: dict[tuple[Any, ...], list[str]] = {}
    for name in [*([None] if tokenizer.chat_template else []), *fitting]:
        try:
            ids = [_ids(encoder, get_template(name, tokenizer), talk) for talk in talks]
        except UserError:
            if name is not None:
                raise
            continue  # its own refuses such conversations: the named ones are left
        found.setdefault(tuple(ids), []).append(name or OWN)
    made = [Candidate(tuple(names), *map(tuple, zip(*ids, strict=True))) for ids, names in found.items()]
    return made, tuple(name for name in names if name not in fitting)


def _ids(encoder: GroupEncoder, template: Template, talk: Sequence[Message]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids of a conversation up to its last answer, and of that answer with its end."""
    *before, answer = encoder.encode([template.groups(template.conversations(talk)[-1])])[0]
    return tuple(int(number) for part in before for number in part), tuple(answer.tolist())


def check_formats(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Verdict:
    """Score all candidates and decide. Raises `UserError` where the tokenizer cannot carry two of them."""
    made, left_out = candidates(tokenizer)
    if len(made) < 2:
        raise UserError("the tokenizer carries fewer than two formats that differ: there is nothing to compare")
    answers = range(len(load_answers()))
    first = {one: measure(network, one, answers[:FIRST_ANSWERS]) for one in made}
    best = sorted(made, key=lambda one: -first[one].score)[:KEPT]
    whole = [measure(network, one, answers) for one in best]
    return decide(whole, [first[one] for one in made if one not in best], left_out)


def decide(whole: Sequence[Score], others: Sequence[Score], left_out: tuple[str, ...]) -> Verdict:
    """Name the best of the scores over all answers, or say why it is not sure; `others` saw some answers only."""
    best, second, *rest = sorted(whole, key=lambda one: -one.score)
    scores = (best, second, *rest, *sorted(others, key=lambda one: -one.score))
    differences = [one - other for one, other in zip(best.values, second.values, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    margin = statistics.fmean(differences) / error if error else math.inf
    if best.end < SURE_END:
        reason = f"no format makes the model end its answers (the best gives {math.exp(best.end):.1%} to the end token)"
        return Verdict((), margin, reason, scores, left_out)
    if margin < MARGIN:
        reason = f"{best.names[0]} and {second.names[0]} are too near: {margin:.1f} standard errors"
        return Verdict((), margin, reason, scores, left_out)
    reason = f"{margin:.1f} standard errors before {second.names[0]}"
    return Verdict(best.names, margin, reason, scores, left_out)


def measure(network: PreTrainedModel, one: Candidate, which: range) -> Score:
    """Return what the model says of these answers."""
    starts, words, ends, values = [], [], [], []
    for at in which:
        *log_chances, end = answer_logprobs(network, one.prompts[at], one.answers[at])
        start, rest = statistics.fmean(log_chances[:START]), statistics.fmean(log_chances[START:] or log_chances)
        starts.append(start)
        words.append(rest)
        ends.append(end)
        values.append(start + REST_SHARE * rest + END_SHARE * max(end, LEAST_END))
    mean = statistics.fmean
    return Score(one.names, mean(starts), mean(words), mean(ends), tuple(values))


def answer_logprobs(network: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """Return the log-probability of each token of an answer behind a prompt."""
    import torch

    ids = torch.tensor([[*prompt, *answer]], device=network.device)  # (1, T)
    with torch.inference_mode():
        logits: torch.Tensor = network(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]  # (A, V)
    chances = logits.float().log_softmax(-1)
    log_chances: list[float] = chances.gather(1, ids[0, len(prompt) :, None])[:, 0].tolist()
    return log_chances
