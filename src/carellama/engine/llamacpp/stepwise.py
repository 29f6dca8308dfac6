"""An answer of llama.cpp, a request for each token: for a presence penalty as OpenAI's API defines it.

    reply = yield from Steps(server, body, told, stops).answer(ids, room, sampling)

llama.cpp takes penalties off what the prompt has as well. A bias can give back what it takes off by frequency, as that
adds up; but a token of the prompt has to lose its presence penalty when the answer has it, and a bias holds for a whole
request. So each token is asked for with biases of its own, made of what the answer has so far. The slot keeps the
sequence, so that no token is computed twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from carellama.engine.base import Piece, Reply, Sampling, TokenLogprob
from carellama.engine.detokenizer import BROKEN, Answer
from carellama.engine.llamacpp.server import Server

Body = Callable[[list[int], int, Sampling], dict[str, Any]]  # (ids, most tokens, sampling) -> a request
NEVER = -1e9  # a bias that no score outweighs
Told = Callable[[list[dict[str, Any]]], tuple[TokenLogprob, ...]]


class Steps:
    """One answer. `body` makes a request, `told` what is said of log-probabilities; `stops` end the answer."""

    def __init__(self, server: Server, body: Body, told: Told, stops: list[str]) -> None:
        self.server, self.body, self.told = server, body, told
        self._silent: set[int] = set()  # tokens that are marks and no text
        self._answer = Answer(self._decode, (), stops)

    def answer(self, ids: list[int], room: int, sampling: Sampling) -> Generator[Piece, None, Reply]:
        """Yield the answer to a prompt that a slot has computed."""
        said: list[int] = []
        logprobs: list[TokenLogprob] = []
        ended = False
        while len(said) < room and not ended:
            event = self.server.next_token(self._request(ids, said, sampling))
            said += event["tokens"]
            shown = event.get("completion_probabilities") or []
            self._silent.update(one["id"] for one in shown if not one["bytes"])
            stops = [token for token in event["tokens"] if token in sampling.stop_token_ids]
            text = "".join(self._answer.add(token) for token in event["tokens"] if token not in stops)
            ended = bool(stops) or event["stop_type"] == "eos" or self._answer.stopped or not event["tokens"]
            told = _named(self.told([] if stops else shown), text)
            logprobs += told
            yield Piece(text, logprobs=told)
        if rest := self._answer.end():
            yield Piece(rest)
        return Reply(self._answer.text, "stop" if ended else "length", len(ids), len(said), logprobs=tuple(logprobs))

    def _request(self, ids: list[int], said: list[int], sampling: Sampling) -> dict[str, Any]:
        biases = dict(sampling.logit_bias)
        for token, count in Counter(said).items():
            penalty = sampling.presence_penalty + count * sampling.frequency_penalty
            biases[token] = biases.get(token, 0.0) - penalty
        early = {}
        if len(said) < sampling.min_tokens:
            early = {"ignore_eos": True}
            biases |= dict.fromkeys(sampling.stop_token_ids, NEVER)
        step = replace(
            sampling,
            frequency_penalty=0.0,
            logit_bias=tuple(biases.items()),
            seed=None if sampling.seed is None else sampling.seed + len(said),  # else each token had the same draw
            top_logprobs=sampling.top_logprobs or 0,
        )
        return self.body([*ids, *said], 1, step) | {"cache_prompt": True, "stop": []} | early

    def _decode(self, ids: Any) -> str:
        return self.server.text_of([token for token in ids if token not in self._silent])


def _named(told: tuple[TokenLogprob, ...], text: str) -> tuple[TokenLogprob, ...]:
    """A token that ends a character is called by it; those before it are not told."""
    return tuple(
        replace(one, token=text) if BROKEN in one.token else one for one in told if text or BROKEN not in one.token
    )
