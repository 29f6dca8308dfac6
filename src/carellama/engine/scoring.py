"""What a model of transformers says of given tokens: their log-probabilities, and the mean of its states over them.

    tokens = prompt_logprobs(model, ids, count=1, name=decode_one, run=batcher_run)

A prompt is read in chunks with a KV cache, each chunk a job of its own, so that answers under way go on in between
and the scores of the whole vocabulary are in memory for one chunk only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from carellama.engine.base import Piece, Scored, TokenLogprob

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

CHUNK = 128  # tokens
Scores = tuple[list[TokenLogprob], "Cache"]  # of a chunk, and the cache after it
Job = Callable[[], Scores]


def prompt_logprobs(
    model: PreTrainedModel, ids: Sequence[int], count: int, name: Callable[[int], str], run: Callable[[Job], Scores]
) -> Generator[Piece, None, Scored]:
    """Return each token of a prompt with its log-probability after those before it, and the `count` likeliest there.

    Nothing precedes the first token: its log-probability is NaN.
    """
    found = [TokenLogprob(name(ids[0]), math.nan)]
    cache: Cache | None = None
    for begin in range(0, len(ids) - 1, CHUNK):
        chunk = ids[begin : begin + CHUNK + 1]  # the last one is only predicted
        scored, cache = run(partial(_read, model, chunk, cache, count, name))
        found += scored
        yield Piece()
    return found


def _read(
    model: PreTrainedModel, chunk: Sequence[int], cache: Cache | None, count: int, name: Callable[[int], str]
) -> Scores:
    """Read all tokens of a chunk but the last; return what the model says of all but the first, and the cache."""
    given = torch.tensor([chunk[:-1]], device=model.device)  # (1, T)
    out = model(input_ids=given, past_key_values=cache, use_cache=True)
    chances = out.logits[0].float().log_softmax(-1)  # (T, V)
    values, likeliest = chances.topk(min(count, chances.shape[-1]))  # (T, count)
    said = chances.gather(1, torch.tensor(chunk[1:], device=chances.device)[:, None])[:, 0].tolist()  # (T,)
    rows = zip(chunk[1:], said, values.tolist(), likeliest.tolist(), strict=True)
    scored = [
        TokenLogprob(name(token), own, tuple((name(each), value) for each, value in zip(tops, tops_of, strict=True)))
        for token, own, tops_of, tops in rows
    ]
    return scored, out.past_key_values


def mean_pool(model: PreTrainedModel, encoded: list[list[int]]) -> list[list[float]]:
    """The last layer's states, their mean over the tokens of each text, at length 1."""
    longest = max(map(len, encoded))
    device = model.device
    ids = torch.tensor([one + [0] * (longest - len(one)) for one in encoded], device=device)  # (B, T)
    seen = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in encoded], device=device)
    states = model.base_model(input_ids=ids, attention_mask=seen, use_cache=False).last_hidden_state
    summed = (states.float() * seen[..., None]).sum(1)  # (B, H); the mean has the same direction
    vectors: list[list[float]] = torch.nn.functional.normalize(summed, dim=-1).tolist()
    return vectors
