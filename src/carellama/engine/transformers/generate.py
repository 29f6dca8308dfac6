"""A batch of answers by transformers' own `model.generate`: beam search, and models whose rows cannot be joined.

    generate_batch(model, requests)     # the tokens are chosen by carellama.engine.transformers.request, as everywhere
    beam_search(model, requests)     # beam search

All rows begin together, and the batch lasts until its last row has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from carellama.engine.detokenizer import Detokenizer
from carellama.engine.transformers.request import Request, sample_step


def generate_batch(model: PreTrainedModel, requests: Sequence[Request]) -> None:
    """Answer these; each tells its pieces as they come."""
    settings = GenerationConfig(
        max_new_tokens=max(request.max_new_tokens for request in requests),
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    _generate(
        model,
        **_left_pad(model, requests),
        generation_config=settings,
        logits_processor=LogitsProcessorList([_SamplerProcessor(requests)]),
        stopping_criteria=StoppingCriteriaList([_CancelledCriteria(requests)]),
    )


def beam_search(model: PreTrainedModel, requests: Sequence[Request]) -> None:
    """Answer by beam search, all with the sampling and the limit of the first; its reply comes at the end."""
    sampling, first = requests[0].sampling, requests[0].detokenizer
    stop_ids = sorted(first.stop_ids)
    pad = stop_ids[0] if stop_ids else 0
    settings: dict[str, object] = {
        "max_new_tokens": requests[0].max_new_tokens,
        "num_beams": sampling.num_beams,
        "length_penalty": sampling.length_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "do_sample": sampling.temperature > 0,
        "pad_token_id": pad,
        "eos_token_id": stop_ids or None,
    }
    if sampling.temperature > 0:
        settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    given = _left_pad(model, requests)
    begin = given["input_ids"].shape[1]
    criteria: list[StoppingCriteria] = [_AllCancelledCriteria(requests)]
    if first.stops:
        criteria.append(_StopStringCriteria(first, begin))
    with isolated_rng(sampling.seed, model.device):
        found = _generate(
            model,
            **given,
            generation_config=GenerationConfig(**settings),
            stopping_criteria=StoppingCriteriaList(criteria),
        )
    start = 0 if getattr(model.config, "is_encoder_decoder", False) else begin
    for request, row in zip(requests, found[:, start:].tolist(), strict=True):
        detokenizer = Detokenizer(request.detokenizer.decode, stop_ids, request.detokenizer.stops)
        for token in row:
            detokenizer.add(token)
            if detokenizer.stopped:
                break
        detokenizer.end()
        request.finish_with(detokenizer.text, row[: detokenizer.tokens], "stop" if detokenizer.stopped else "length")


def _generate(model: PreTrainedModel, **given: object) -> Tensor:
    made: Tensor = cast("Any", model).generate(**given)  # its class is mixed in where a model can generate
    return made


def _left_pad(model: PreTrainedModel, requests: Sequence[Request]) -> dict[str, Tensor]:
    """Prompts (B, T), padded on the left, and their mask."""
    longest = max(len(request.prompt_ids) for request in requests)
    ids = [[0] * (longest - len(request.prompt_ids)) + request.prompt_ids for request in requests]
    seen = [[0] * (longest - len(request.prompt_ids)) + [1] * len(request.prompt_ids) for request in requests]
    device = model.device
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(seen, device=device)}


class _SamplerProcessor(LogitsProcessor):
    """Chooses the tokens, and leaves `generate` no other."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return (B, V) scores in which one token of a row is possible."""
        rows = [row for row, request in enumerate(self.requests) if not request.done]
        chosen = torch.zeros(len(self.requests), dtype=torch.int64)
        if rows:
            sample_step(scores[rows], [self.requests[row] for row in rows])
        for row in rows:
            output = self.requests[row].output_ids
            chosen[row] = output[-1] if output else 0  # 0: it asked for log-probabilities
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None].to(scores.device), 0.0)


class _CancelledCriteria(StoppingCriteria):
    """Ends a row whose request has ended or was left."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """Return (B,) flags."""
        return torch.tensor([request.done for request in self.requests], device=input_ids.device)


class _AllCancelledCriteria(StoppingCriteria):
    """Ends a beam search that nobody waits for."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """Return flags of all beams."""
        over = all(request.done for request in self.requests)
        return torch.full((len(input_ids),), over, device=input_ids.device)


class _StopStringCriteria(StoppingCriteria):
    """Ends a beam whose last tokens hold a stop string.

    It looks at the last tokens alone and keeps no state: beam search swaps rows. transformers'
    `StopStringCriteria` first computes a table over the whole vocabulary, which takes seconds.
    """

    def __init__(self, detokenizer: Detokenizer, prompt_tokens: int) -> None:
        self.decode, self.stops, self.prompt_tokens = detokenizer.decode, detokenizer.stops, prompt_tokens
        # A token has at least one byte, and a character at most four.
        self.tail = max(len(stop.encode()) for stop in detokenizer.stops) + 4

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """Return flags of all beams."""
        start = max(self.prompt_tokens, input_ids.shape[1] - self.tail)
        texts = [self.decode(row) for row in input_ids[:, start:].tolist()]
        found = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(found, device=input_ids.device)


@contextmanager
def isolated_rng(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from `seed`, and leave torch's own random state as it was."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
