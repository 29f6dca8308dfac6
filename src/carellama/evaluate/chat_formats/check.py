"""`carellama template check`: which chat format a model was trained with, by what it says of given answers.

    verdict = check_formats(network, tokenizer)
    verdict.names, verdict.margin, verdict.reason

A model is asked under each format that its tokenizer can carry, and its own. For some short answers, ours, the
log-probabilities of the answer's tokens are measured, and that of the end token in its place. A model that was trained
with a format expects the beginning of an answer and its end more under that one; of the words between it knows about as
much under all. An adapter can be switched off, and what it changes is the greatest under the format that it learned. So
the score of an answer is (natural logarithms, means)

    first START tokens + REST_SHARE * the other words + END_SHARE * max(end, LEAST_END) + CHANGE_SHARE * change

where `change` is the Kullback-Leibler divergence of the model with its adapter from that without, at the first START
tokens; it is 0 for a model without an adapter. Only tokens of the answer count, so formats with long prompts are
comparable. All formats see some of the answers, the best of them the others (ROUNDS). The best format is named where
two things hold, and else "cannot tell" is said, with the reason; the scores are shown in either case:

1. The end token is likely in its place: its mean log-probability is at least SURE_END. No format ends an answer of a
   random model, nor of a base model that has not learned the end.
2. It beats the next one by MARGIN standard errors of their paired differences over the answers.

Formats that render all of it alike are one candidate with several names. benchmarks/RESULTS.md has what the check named
and missed on 20 small LoRAs.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from carellama.errors import UserError
from carellama.package_data import package_text
from carellama.records import Message
from carellama.templates.format import formats
from carellama.templates.template import Template, get_template, is_token
from carellama.templates.tokenize import GroupEncoder

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Ids = tuple[int, ...]

OWN = "the tokenizer's own"
START, REST_SHARE, END_SHARE, CHANGE_SHARE = 3, 0.25, 0.5, 1.5
LEAST_END = -8.0  # how unlikely an end can count: below it is noise
SURE_END = -2.0  # 14% for the end token
MARGIN = 4.0  # standard errors; formats also differ by what no training made, and a wrong one has led by 2.8
ROUNDS = ((2, 24), (6, 8), (16, 4))  # after so many answers, so many of the formats go on; the last see all answers
BATCH_TOKENS = 1024


@dataclass(frozen=True)
class Candidate:
    """One text of the conversations, and the formats that render it."""

    names: tuple[str, ...]
    prompts: tuple[Ids, ...]  # ids of each conversation up to its last answer
    answers: tuple[Ids, ...]  # ids of the answer with its end


class AnswerScore(NamedTuple):
    """What a model says of one answer; natural logarithms."""

    start: float  # mean of the first tokens
    words: float  # mean of the tokens behind them
    end: float  # the end token in its place
    change: float  # by the adapter, at the first tokens

    @property
    def score(self) -> float:
        """The score of the answer."""
        end = max(self.end, LEAST_END)
        return self.start + REST_SHARE * self.words + END_SHARE * end + CHANGE_SHARE * self.change


@dataclass(frozen=True)
class Score:
    """What a model says of the answers under one candidate; natural logarithms."""

    names: tuple[str, ...]
    answers: tuple[AnswerScore, ...]

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
                **one.mean._asdict(),
                "answers": len(one.answers),
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
            ids = _ids(encoder, get_template(name, tokenizer), talks)
        except UserError:
            if name is not None:
                raise
            continue  # its own refuses such conversations: the named ones are left
        found.setdefault(tuple(ids), []).append(name or OWN)
    made = [Candidate(tuple(names), *map(tuple, zip(*ids, strict=True))) for ids, names in found.items()]
    return made, tuple(name for name in names if name not in fitting)


def _ids(encoder: GroupEncoder, template: Template, talks: Sequence[Sequence[Message]]) -> list[tuple[Ids, Ids]]:
    """The ids of each conversation up to its last answer, and of that answer with its end."""
    encoded = encoder.encode([template.groups(template.conversations(talk)[-1]) for talk in talks])
    return [
        (tuple(int(number) for part in before for number in part), tuple(answer.tolist()))
        for *before, answer in encoded
    ]


def check_formats(network: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> Verdict:
    """Score all candidates and decide. Raises `UserError` where the tokenizer cannot carry two of them."""
    made, left_out = candidates(tokenizer)
    if len(made) < 2:
        raise UserError("the tokenizer carries fewer than two formats that differ: there is nothing to compare")
    scores: dict[Candidate, tuple[AnswerScore, ...]] = dict.fromkeys(made, ())
    seen, last = 0, len(load_answers())
    for until, go_on in (*ROUNDS, (last, len(made))):
        pairs = [(one, at) for one in made for at in range(seen, until)]
        found = iter(score_answers(network, [(one.prompts[at], one.answers[at]) for one, at in pairs]))
        for one in made:
            scores[one] += tuple(itertools.islice(found, until - seen))
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


def score_answers(network: PreTrainedModel | PeftModel, pairs: Sequence[tuple[Ids, Ids]]) -> list[AnswerScore]:
    """Return what the model says of answers (second) behind prompts (first)."""
    from peft import PeftModel

    scores: dict[int, AnswerScore] = {}
    for batch in _batches(pairs):
        rows = [pairs[at] for at in batch]
        logprobs = answer_logprobs(network, rows)
        before: list[torch.Tensor | None] = [None] * len(rows)
        if isinstance(network, PeftModel):
            with network.disable_adapter():
                before = [*answer_logprobs(network, [(prompt, answer[:START]) for prompt, answer in rows])]
        scores |= {
            at: _score(pairs[at][1], now, earlier) for at, now, earlier in zip(batch, logprobs, before, strict=True)
        }
    return [scores[at] for at in range(len(pairs))]


def _batches(pairs: Sequence[tuple[Ids, Ids]]) -> Iterator[list[int]]:
    """Numbers of pairs of about the same length."""
    batch: list[int] = []
    for at in sorted(range(len(pairs)), key=lambda at: sum(map(len, pairs[at]))):
        if batch and sum(map(len, pairs[at])) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def _score(answer: Ids, logprobs: torch.Tensor, before: torch.Tensor | None) -> AnswerScore:
    """The score of an answer of A tokens, of (A, V) log-probabilities with the adapter and without."""
    import torch

    *words, end = logprobs.gather(1, torch.tensor(answer, device=logprobs.device)[:, None])[:, 0].tolist()
    mean = statistics.fmean
    change = 0.0
    if before is not None:
        start = slice(min(START, len(words)))  # without the end
        change = (logprobs[start].exp() * (logprobs[start] - before[start])).sum(-1).mean().item()
    return AnswerScore(mean(words[:START]), mean(words[START:] or words), end, change)


def answer_logprobs(network: PreTrainedModel | PeftModel, rows: Sequence[tuple[Ids, Ids]]) -> list[torch.Tensor]:
    """Return the log-probabilities (A, V) of the next token at each token of each answer, behind its prompt."""
    import torch

    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)  # (B, T), padded on the right
    mask = torch.zeros_like(ids)
    for at, (prompt, answer) in enumerate(rows):
        ids[at, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        mask[at, : len(prompt) + len(answer)] = 1
    first = min(len(prompt) for prompt, _ in rows) - 1
    with torch.inference_mode():
        logits: torch.Tensor = network(
            input_ids=ids.to(network.device), attention_mask=mask.to(network.device), use_cache=False
        ).logits[:, first:]
    return [
        logits[at, len(prompt) - 1 - first : len(prompt) + len(answer) - 1 - first].float().log_softmax(-1)
        for at, (prompt, answer) in enumerate(rows)
    ]
