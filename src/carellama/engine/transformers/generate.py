"""A batch of answers by transformers' own `model.generate`: beam search, and models whose rows cannot be joined.

    answer(model, requests)     # the tokens are chosen by carellama.engine.transformers.request, as everywhere
    search(model, requests)     # beam search

All rows begin together, and the batch lasts until its last row has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from carellama.engine.detokenizer import Answer
from carellama.engine.transformers.request import Request, advance


def answer(model: Any, requests: Sequence[Request]) -> None:
    """Answer these; each tells its pieces as they come."""
    settings = GenerationConfig(
        max_new_tokens=max(request.room for request in requests), do_sample=False, pad_token_id=0, eos_token_id=None
    )
    model.generate(
        **_padded(model, requests),
        generation_config=settings,
        logits_processor=LogitsProcessorList([_Choice(requests)]),
        stopping_criteria=StoppingCriteriaList([_Left(requests)]),
    )


def search(model: Any, requests: Sequence[Request]) -> None:
    """Answer by beam search (all with the sampling and the room of the first); each is told when its search is over."""
    sampling, first = requests[0].sampling, requests[0].answer
    stop_ids = sorted(first.stop_ids)
    pad = stop_ids[0] if stop_ids else 0
    settings: dict[str, Any] = {
        "max_new_tokens": requests[0].room,
        "num_beams": sampling.num_beams,
        "length_penalty": sampling.length_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "do_sample": sampling.temperature > 0,
        "pad_token_id": pad,
        "eos_token_id": stop_ids or None,
    }
    if sampling.temperature > 0:
        settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    given = _padded(model, requests)
    begin = given["input_ids"].shape[1]
    criteria: list[StoppingCriteria] = [_AllLeft(requests)]
    if first.stops:
        criteria.append(_Stops(first, begin))
    with seeded(sampling.seed, model.device):
        found = model.generate(
            **given, generation_config=GenerationConfig(**settings), stopping_criteria=StoppingCriteriaList(criteria)
        )
    start = 0 if getattr(model.config, "is_encoder_decoder", False) else begin
    for request, row in zip(requests, found[:, start:].tolist(), strict=True):
        said = Answer(request.answer.decode, stop_ids, request.answer.stops)
        for token in row:
            said.add(token)
            if said.stopped:
                break
        said.end()
        request.say(said.text, row[: said.tokens], "stop" if said.stopped else "length")


def _padded(model: Any, requests: Sequence[Request]) -> dict[str, Tensor]:
    """Prompts (B, T), padded on the left, and their mask."""
    longest = max(len(request.ids) for request in requests)
    ids = [[0] * (longest - len(request.ids)) + request.ids for request in requests]
    seen = [[0] * (longest - len(request.ids)) + [1] * len(request.ids) for request in requests]
    device = model.device
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(seen, device=device)}


class _Choice(LogitsProcessor):
    """Chooses the tokens, and leaves `generate` no other."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return (B, V) scores in which one token of a row is possible."""
        rows = [row for row, request in enumerate(self.requests) if not request.left]
        chosen = torch.zeros(len(self.requests), dtype=torch.int64)
        if rows:
            advance(scores[rows], [self.requests[row] for row in rows])
        for row in rows:
            chosen[row] = self.requests[row].said[-1] if self.requests[row].said else 0  # 0: it asked for chances
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None].to(scores.device), 0.0)


class _Left(StoppingCriteria):
    """Ends a row whose request has ended or was left."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return (B,) flags."""
        return torch.tensor([request.left for request in self.requests], device=input_ids.device)


class _AllLeft(StoppingCriteria):
    """Ends a beam search that nobody waits for."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return flags of all beams."""
        over = all(request.left for request in self.requests)
        return torch.full((len(input_ids),), over, device=input_ids.device)


class _Stops(StoppingCriteria):
    """Ends a beam whose last tokens hold a stop string.

    It looks at the last tokens alone and keeps no state: beam search swaps rows. transformers'
    `StopStringCriteria` first computes a table over the whole vocabulary, which takes seconds.
    """

    def __init__(self, answer: Answer, prompt_tokens: int) -> None:
        self.decode, self.stops, self.prompt_tokens = answer.decode, answer.stops, prompt_tokens
        # A token has at least one byte, and a character at most four.
        self.tail = max(len(stop.encode()) for stop in answer.stops) + 4

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return flags of all beams."""
        start = max(self.prompt_tokens, input_ids.shape[1] - self.tail)
        texts = [self.decode(row) for row in input_ids[:, start:].tolist()]
        found = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(found, device=input_ids.device)


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from `seed`, and leave torch's own random state as it was."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
