"""An answer of llama.cpp, a request for each token: for a presence penalty as OpenAI's API defines it.

    reply = yield from StepwiseCompletion(server, body, logprobs_of, stops).stream(ids, room, sampling)

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
from carellama.engine.detokenizer import REPLACEMENT_CHARACTER, Detokenizer
from carellama.engine.llamacpp.server import Server
from carellama.engine.token_text import shown
from carellama.records import JSONObject

Body = Callable[[list[int], int, Sampling], JSONObject]  # (ids, most tokens, sampling) -> a request
NEVER = -1e9  # a bias that no score outweighs
LogprobsOf = Callable[[list[JSONObject]], tuple[TokenLogprob, ...]]


class StepwiseCompletion:
    """One answer. `body` makes a request, `logprobs_of` reads its log-probabilities; `stops` end the answer."""

    def __init__(self, server: Server, body: Body, logprobs_of: LogprobsOf, stops: list[str]) -> None:
        self.server, self.body, self.logprobs_of = server, body, logprobs_of
        self._silent: set[int] = set()  # tokens that are marks and no text
        self._detokenizer = Detokenizer(self._decode, (), stops)

    def stream(self, ids: list[int], room: int, sampling: Sampling) -> Generator[Piece, None, Reply]:
        """Yield the answer to a prompt that a slot has computed."""
        output: list[int] = []
        logprobs: list[TokenLogprob] = []
        ended = False
        while len(output) < room and not ended:
            event = self.server.next_token(self._request(ids, output, sampling))
            output += event["tokens"]
            shown = event.get("completion_probabilities") or []
            self._silent.update(one["id"] for one in shown if not one["bytes"])
            stops = [token for token in event["tokens"] if token in sampling.stop_token_ids]
            text = "".join(self._detokenizer.add(token) for token in event["tokens"] if token not in stops)
            ended = bool(stops) or event["stop_type"] == "eos" or self._detokenizer.stopped or not event["tokens"]
            found = _attach_text(self.logprobs_of([] if stops else shown), text)
            logprobs += found
            yield Piece(text, logprobs=found)
        if rest := self._detokenizer.end():
            yield Piece(rest)
        return Reply(
            self._detokenizer.text, "stop" if ended else "length", len(ids), len(output), logprobs=tuple(logprobs)
        )

    def _request(self, ids: list[int], output: list[int], sampling: Sampling) -> JSONObject:
        biases = dict(sampling.logit_bias)
        for token, count in Counter(output).items():
            penalty = sampling.presence_penalty + count * sampling.frequency_penalty
            biases[token] = biases.get(token, 0.0) - penalty
        early = {}
        if len(output) < sampling.min_tokens:
            early = {"ignore_eos": True}
            biases |= dict.fromkeys(sampling.stop_token_ids, NEVER)
        step = replace(
            sampling,
            frequency_penalty=0.0,
            logit_bias=tuple(biases.items()),
            seed=None if sampling.seed is None else sampling.seed + len(output),  # else each token had the same draw
            top_logprobs=sampling.top_logprobs or 0,
        )
        return self.body([*ids, *output], 1, step) | {"cache_prompt": True, "stop": []} | early

    def _decode(self, ids: Any) -> str:
        return self.server.text_of([token for token in ids if token not in self._silent])


def _attach_text(found: tuple[TokenLogprob, ...], text: str) -> tuple[TokenLogprob, ...]:
    """A token that ends a character is called by it; those before it are not found."""
    return tuple(
        replace(one, token=text) if REPLACEMENT_CHARACTER in shown(one.token) else one
        for one in found
        if text or REPLACEMENT_CHARACTER not in shown(one.token)
    )
