"""One answer under way: what was asked, its tokens so far, and how the next one is chosen.

    request = Request(ids, room, sampling, detokenizer, on_event, token_text=str)
    sample_step(scores, [request, ...])     # chooses a token for each row of scores (B, V), and tells

Whoever computes the scores (`carellama.engine.transformers.batcher`, or `model.generate` where a model's cache cannot
be joined) hands them to `sample_step`; so all rules of sampling are here and in `sampling`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from carellama.engine.base import FinishReason, Piece, Reply, Sampling, TokenLogprob
from carellama.engine.detokenizer import Detokenizer
from carellama.engine.transformers import sampling as logits
from carellama.errors import UserError

if TYPE_CHECKING:
    from carellama.engine.transformers.grammar import Matcher

RequestEvent = Piece | Reply | list[float] | Exception  # the last one is the reply, the chances, or an error
OnRequestEvent = Callable[[Any], None]  # of a RequestEvent; who asks for an answer gets no list


class Request:
    """An answer that is asked for. `on_event` is called with each piece, and with what it came to at the end.

    `max_new_tokens` is the most that it may have; `choices` are tokens whose log-probabilities are wanted in place of
    an answer.
    """

    def __init__(
        self,
        prompt_ids: list[int],
        max_new_tokens: int,
        sampling: Sampling,
        detokenizer: Detokenizer,
        on_event: OnRequestEvent,
        *,
        token_text: Callable[[int], str],
        matcher: Matcher | None = None,
        choices: Sequence[int] = (),
    ) -> None:
        self.prompt_ids, self.max_new_tokens, self.sampling = prompt_ids, max_new_tokens, sampling
        self.detokenizer, self.on_event = detokenizer, on_event
        self.matcher, self.choices, self.token_text = matcher, list(choices), token_text
        self.output_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.done = False  # it has ended, or was cancelled; guarded by the batcher's lock where it matters
        seed = sampling.seed  # and the place among several prompts, see carellama.engine.generate
        # A generator of its own: the draws do not depend on who else is in the batch.
        self.random = random.Random(None if seed is None else f"{seed % (1 << 32)} {seed >> 32}")

    def _emit(self, event: RequestEvent) -> None:
        """Hand an event on. An error there ends this request, and not the batch that it is in."""
        try:
            self.on_event(event)
        except Exception as error:  # noqa: BLE001 - raised again by who asked
            self.done = True
            with suppress(Exception):
                self.on_event(error)

    @property
    def total_tokens(self) -> int:
        """Of the prompt and the answer so far."""
        return len(self.prompt_ids) + len(self.output_ids)

    def append_token(self, token: int, logprob: TokenLogprob | None) -> None:
        """Go on by a token; tell what became certain, and the reply if that was the last."""
        self.output_ids.append(token)
        if self.matcher is not None:
            self.matcher.accept(token)
        text = self.detokenizer.add(token)
        shown = () if logprob is None or self.detokenizer.stopped else (logprob,)
        self.logprobs += shown
        finished = self.matcher is not None and self.matcher.finished
        if self.detokenizer.stopped or finished or len(self.output_ids) >= self.max_new_tokens:
            text += self.detokenizer.end()
        if text or shown:
            self._emit(Piece(text, logprobs=shown))
        if self.detokenizer.stopped or finished:
            self.finish("stop")
        elif len(self.output_ids) >= self.max_new_tokens:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """Tell the reply: the text so far."""
        self.done = True
        prompt, new = len(self.prompt_ids), self.detokenizer.tokens
        self._emit(Reply(self.detokenizer.text, reason, prompt, new, logprobs=tuple(self.logprobs)))

    def finish_with(self, text: str, tokens: Sequence[int], reason: FinishReason) -> None:
        """Tell a whole answer at once."""
        self.output_ids = list(tokens)
        if text:
            self._emit(Piece(text))
        self.done = True
        self._emit(Reply(text, reason, len(self.prompt_ids), len(self.output_ids)))

    def finish_with_logprobs(self, logprobs: list[float]) -> None:
        """Tell the log-probabilities of the choices."""
        self.done = True
        self._emit(logprobs)

    def fail(self, error: Exception) -> None:
        """Tell an error in place of a reply."""
        if not self.done:
            self.done = True
            self._emit(error)


def sample_step(scores: Tensor, requests: Sequence[Request]) -> None:
    """Choose the next token of each request from its row of the scores (B, V), and go on by it."""
    raw = scores.float()
    if not bool(torch.isfinite(raw.amax(-1)).all()):
        raise UserError("the model's scores are no numbers; load it with --dtype float32 or bfloat16")
    rating = [row for row, request in enumerate(requests) if request.choices]
    if rating:
        chances = raw[rating].log_softmax(-1)
        for at, row in enumerate(rating):
            requests[row].finish_with_logprobs(chances[at, requests[row].choices].tolist())
        rows = [row for row, request in enumerate(requests) if not request.choices]
        if not rows:
            return
        raw, requests = raw[rows], [requests[row] for row in rows]
    tokens = select_tokens(process_logits(raw, requests), requests)
    for request, token, logprob in zip(requests, tokens, _logprobs(raw, tokens, requests), strict=True):
        try:
            request.append_token(token, logprob)
        except UserError as error:  # of its schema; the others go on
            request.fail(error)


def process_logits(scores: Tensor, requests: Sequence[Request]) -> Tensor:
    """Scores after penalties, biases and schemas."""
    asked = [request.sampling for request in requests]

    def settings(name: str) -> Tensor:
        return torch.tensor([getattr(one, name) for one in asked], dtype=torch.float32, device=scores.device)

    if any(one.repetition_penalty != 1 for one in asked):
        scores = logits.apply_repetition_penalty(
            scores, _pad_history(requests, scores)[0], settings("repetition_penalty")
        )
    if any(one.presence_penalty or one.frequency_penalty for one in asked):
        ids, times = _pad_history(requests, scores, answers_only=True)
        scores = logits.apply_presence_and_frequency_penalty(
            scores, ids, times, settings("presence_penalty"), settings("frequency_penalty")
        )
    if any(one.logit_bias or one.min_tokens for one in asked) or any(request.matcher for request in requests):
        scores = scores.clone()
    for row, request in enumerate(requests):
        for token, bias in request.sampling.logit_bias:
            scores[row, token] += bias
        if len(request.output_ids) < request.sampling.min_tokens:
            scores[row, list(request.detokenizer.stop_ids)] = -torch.inf
        if request.matcher is not None:
            allowed = np.zeros(scores.shape[-1], dtype=np.bool_)
            flags = request.matcher.token_mask()[: len(allowed)]
            allowed[: len(flags)] = flags
            scores[row].masked_fill_(~torch.from_numpy(allowed).to(scores.device), -torch.inf)
    return scores


def _pad_history(requests: Sequence[Request], scores: Tensor, *, answers_only: bool = False) -> tuple[Tensor, Tensor]:
    """Tokens (B, L) that each request has had, filled up with the first of them; and 1 where it is one, else 0."""
    rows = [request.output_ids if answers_only else request.prompt_ids + request.output_ids for request in requests]
    longest = max(1, *map(len, rows))
    filled = [row + (row[:1] or [0]) * (longest - len(row)) for row in rows]
    times = [[1.0] * len(row) + [0.0] * (longest - len(row)) for row in rows]
    return torch.tensor(filled, device=scores.device), torch.tensor(times, device=scores.device)


def select_tokens(scores: Tensor, requests: Sequence[Request]) -> list[int]:
    """The token of each row: drawn, or the likeliest where the temperature is 0."""
    asked = [request.sampling for request in requests]
    likeliest = scores.argmax(-1)
    sampled = [row for row, one in enumerate(asked) if one.temperature > 0]
    if not sampled:
        return [int(token) for token in likeliest.tolist()]

    def settings(name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor([getattr(asked[row], name) for row in sampled], dtype=dtype, device=scores.device)

    rows = scores if len(sampled) == len(asked) else scores[sampled]
    top_k = settings("top_k", torch.int64)
    left = logits.filter_logits(rows, settings("temperature"), top_k, settings("top_p"), settings("min_p"))
    uniforms = [requests[row].random.random() for row in sampled]
    likeliest[sampled] = logits.sample(left, torch.tensor(uniforms, dtype=torch.float64, device=scores.device))
    return [int(token) for token in likeliest.tolist()]


def _logprobs(raw: Tensor, tokens: list[int], requests: Sequence[Request]) -> list[TokenLogprob | None]:
    """What is to be told of the tokens chosen, before temperature and penalties."""
    found: list[TokenLogprob | None] = [None] * len(tokens)
    for row, (token, request) in enumerate(zip(tokens, requests, strict=True)):
        count = request.sampling.top_logprobs
        if count is None:
            continue
        chances = raw[row].log_softmax(-1)
        values, ids = chances.topk(min(count, len(chances)))
        top = tuple(
            (request.token_text(each), value) for value, each in zip(values.tolist(), ids.tolist(), strict=True)
        )
        found[row] = TokenLogprob(request.token_text(token), float(chances[token]), top)
    return found
