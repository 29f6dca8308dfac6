"""What a model says of an answer and of the end token behind it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from carellama.evaluate.chat_formats.candidates import Pair
from carellama.evaluate.chat_formats.progress import with_progress

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

START, REST_SHARE, END_SHARE = 3, 0.25, 0.5
LEAST_END = -8.0  # how unlikely an end can count: below it is noise
BATCH_TOKENS = 1024


class AnswerScore(NamedTuple):
    """What a model says of one answer; natural logarithms of probabilities."""

    start: float  # mean of the first tokens
    words: float  # mean of the tokens behind them
    end: float  # the end token in its place

    @property
    def score(self) -> float:
        """The beginning and the end tell formats apart; of the words between a model knows the same under all."""
        return self.start + REST_SHARE * self.words + END_SHARE * max(self.end, LEAST_END)


def score_answers(network: PreTrainedModel | PeftModel, pairs: Sequence[Pair], step: str = "") -> list[AnswerScore]:
    """Return what the model says of answers behind prompts; `step` is printed."""
    import torch

    scores: dict[int, AnswerScore] = {}
    for batch in with_progress(step, list(_batches(pairs))):
        with torch.inference_mode():
            said = answer_logprobs(network, [pairs[at] for at in batch])
        scores |= {at: _score(values.tolist()) for at, values in zip(batch, said, strict=True)}
    return [scores[at] for at in range(len(pairs))]


def _batches(pairs: Sequence[Pair]) -> Iterator[list[int]]:
    """Numbers of pairs of about the same length."""
    batch: list[int] = []
    for at in sorted(range(len(pairs)), key=lambda at: sum(map(len, pairs[at]))):
        if batch and sum(map(len, pairs[at])) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def _score(logprobs: Sequence[float]) -> AnswerScore:
    *words, end = logprobs
    return AnswerScore(statistics.fmean(words[:START]), statistics.fmean(words[START:] or words), end)


def answer_logprobs(network: PreTrainedModel | PeftModel, rows: Sequence[Pair]) -> list[torch.Tensor]:
    """Return the log-probabilities (A) of the tokens of each answer, behind its prompt."""
    import torch

    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)  # (B, T), padded on the right
    mask = torch.zeros_like(ids)
    for at, (prompt, answer) in enumerate(rows):
        ids[at, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        mask[at, : len(prompt) + len(answer)] = 1
    first = min(len(prompt) for prompt, _ in rows) - 1
    logits: torch.Tensor = network(
        input_ids=ids.to(network.device),
        attention_mask=mask.to(network.device),
        use_cache=False,
        logits_to_keep=longest - first,
    ).logits[:, first - longest :]
    found = []
    for row, (prompt, answer) in zip(logits, rows, strict=True):
        before = row[len(prompt) - 1 - first : len(prompt) + len(answer) - 1 - first]  # (A, V)
        wanted = torch.tensor(answer, device=row.device)
        found.append(-torch.nn.functional.cross_entropy(before.float(), wanted, reduction="none"))
    return found
