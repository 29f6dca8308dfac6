"""One answer under way: what was asked, what was said so far, and how its next token is chosen.

    request = Request(ids, room, sampling, answer, tell, name=str)
    advance(scores, [request, ...])     # chooses a token for each row of scores (B, V), and tells

Whoever computes the scores (`carellama.engine.transformers.batcher`, or `model.generate` where a model's cache cannot
be joined) hands them to `advance`; so all rules of sampling are here and in `carellama.engine.transformers.sampling`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from carellama.engine.base import Piece, Reply, Sampling, TokenLogprob
from carellama.engine.detokenizer import Answer
from carellama.engine.transformers import sampling as drawing
from carellama.errors import UserError

if TYPE_CHECKING:
    from carellama.engine.transformers.grammar import Matcher

Told = Piece | Reply | list[float] | Exception  # the last one is the reply, the chances, or an error
Tell = Callable[[Told], None]


class Request:
    """An answer that is asked for. `tell` is called with each piece, and with what it came to at the end.

    `room` is the most tokens that it may have; `index` its place among the prompts of one call, which draw from one
    seed; `choices` are tokens whose log-probabilities are wanted in place of an answer.
    """

    def __init__(
        self,
        ids: list[int],
        room: int,
        sampling: Sampling,
        answer: Answer,
        tell: Tell,
        *,
        name: Callable[[int], str],
        index: int = 0,
        matcher: Matcher | None = None,
        choices: Sequence[int] = (),
    ) -> None:
        self.ids, self.room, self.sampling, self.answer = ids, room, sampling, answer
        self.matcher, self.choices, self.name = matcher, list(choices), name
        self.said: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.left = False  # it has ended, or was left by who asked; guarded by the batcher's lock where it matters
        self._on_event = tell
        # A generator of its own: the draws do not depend on who else is in the batch.
        self._random = random.Random(None if sampling.seed is None else f"{sampling.seed} {index}")

    def _tell(self, event: Told) -> None:
        """Hand an event on. An error there ends this request, and not the batch that it is in."""
        try:
            self._on_event(event)
        except Exception as error:  # noqa: BLE001 - raised again by who asked
            self.left = True
            with suppress(Exception):
                self._on_event(error)

    @property
    def tokens(self) -> int:
        """Of the prompt and what was said."""
        return len(self.ids) + len(self.said)

    def uniform(self) -> float:
        """Its next random number, from 0 up to but without 1."""
        return self._random.random()

    def take(self, token: int, logprob: TokenLogprob | None) -> None:
        """Go on by a token; tell what became certain, and the reply if that was the last."""
        self.said.append(token)
        if self.matcher is not None:
            self.matcher.take(token)
        text = self.answer.add(token)
        told_of = () if logprob is None or self.answer.stopped else (logprob,)
        self.logprobs += told_of
        finished = self.matcher is not None and self.matcher.finished
        if self.answer.stopped or finished or len(self.said) >= self.room:
            text += self.answer.end()
        if text or told_of:
            self._tell(Piece(text, logprobs=told_of))
        if self.answer.stopped or finished:
            self.end("stop")
        elif len(self.said) >= self.room:
            self.end("length")

    def end(self, reason: Any) -> None:
        """Tell the reply: the text so far."""
        self.left = True
        prompt, said = len(self.ids), self.answer.tokens
        self._tell(Reply(self.answer.text, reason, prompt, said, logprobs=tuple(self.logprobs)))

    def say(self, text: str, tokens: Sequence[int], reason: Any) -> None:
        """Tell a whole answer at once."""
        self.said = list(tokens)
        if text:
            self._tell(Piece(text))
        self.left = True
        self._tell(Reply(text, reason, len(self.ids), len(self.said)))

    def rate(self, logprobs: list[float]) -> None:
        """Tell the log-probabilities of the choices."""
        self.left = True
        self._tell(logprobs)

    def fail(self, error: Exception) -> None:
        """Tell an error in place of a reply."""
        if not self.left:
            self.left = True
            self._tell(error)


def advance(scores: Tensor, requests: Sequence[Request]) -> None:
    """Choose the next token of each request from its row of the scores (B, V), and go on by it."""
    raw = scores.float()
    if not bool(torch.isfinite(raw.amax(-1)).all()):
        raise UserError("the model's scores are no numbers; load it with --dtype float32 or bfloat16")
    rating = [row for row, request in enumerate(requests) if request.choices]
    if rating:
        chances = raw[rating].log_softmax(-1)
        for at, row in enumerate(rating):
            requests[row].rate(chances[at, requests[row].choices].tolist())
        rows = [row for row, request in enumerate(requests) if not request.choices]
        if not rows:
            return
        raw, requests = raw[rows], [requests[row] for row in rows]
    tokens = _choose(_weighed(raw, requests), requests)
    for request, token, logprob in zip(requests, tokens, _logprobs(raw, tokens, requests), strict=True):
        try:
            request.take(token, logprob)
        except UserError as error:  # of its schema; the others go on
            request.fail(error)


def _weighed(scores: Tensor, requests: Sequence[Request]) -> Tensor:
    """Scores after penalties, biases and schemas."""
    asked = [request.sampling for request in requests]

    def settings(name: str) -> Tensor:
        return torch.tensor([getattr(one, name) for one in asked], dtype=torch.float32, device=scores.device)

    if any(one.repetition_penalty != 1 for one in asked):
        scores = drawing.repeated(scores, _padded(requests, scores)[0], settings("repetition_penalty"))
    if any(one.presence_penalty or one.frequency_penalty for one in asked):
        ids, times = _padded(requests, scores, answers_only=True)
        scores = drawing.counted(scores, ids, times, settings("presence_penalty"), settings("frequency_penalty"))
    if any(one.logit_bias or one.min_tokens for one in asked) or any(request.matcher for request in requests):
        scores = scores.clone()
    for row, request in enumerate(requests):
        for token, bias in request.sampling.logit_bias:
            scores[row, token] += bias
        if len(request.said) < request.sampling.min_tokens:
            scores[row, list(request.answer.stop_ids)] = -torch.inf
        if request.matcher is not None:
            allowed = np.zeros(scores.shape[-1], dtype=np.bool_)
            flags = request.matcher.allowed()[: len(allowed)]
            allowed[: len(flags)] = flags
            scores[row].masked_fill_(~torch.from_numpy(allowed).to(scores.device), -torch.inf)
    return scores


def _padded(requests: Sequence[Request], scores: Tensor, *, answers_only: bool = False) -> tuple[Tensor, Tensor]:
    """Tokens (B, L) that each request has had, filled up with the first of them; and 1 where it is one, else 0."""
    rows = [request.said if answers_only else request.ids + request.said for request in requests]
    longest = max(1, *map(len, rows))
    filled = [row + (row[:1] or [0]) * (longest - len(row)) for row in rows]
    times = [[1.0] * len(row) + [0.0] * (longest - len(row)) for row in rows]
    return torch.tensor(filled, device=scores.device), torch.tensor(times, device=scores.device)


def _choose(scores: Tensor, requests: Sequence[Request]) -> list[int]:
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
    left = drawing.cut(rows, settings("temperature"), top_k, settings("top_p"), settings("min_p"))
    uniforms = [requests[row].uniform() for row in sampled]
    likeliest[sampled] = drawing.drawn(left, torch.tensor(uniforms, dtype=torch.float64, device=scores.device))
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
        top = tuple((request.name(each), value) for value, each in zip(values.tolist(), ids.tolist(), strict=True))
        found[row] = TokenLogprob(request.name(token), float(chances[token]), top)
    return found
