"""Log-probabilities of the tokens of a prompt by llama.cpp's server, which tells them of what it generates only.

    tokens = yield from Scores(server, plain=8, words=49152).of_prompt(ids, count=1)

Each token is forced by a bias, and told with the probability that it had without (ggml-org/llama.cpp,
tools/server/README.md, `n_probs`). The slot keeps the sequence, so that no token is computed twice. Of a token that is
part of a character the server tells nothing: its probability is looked up beside another one's, of `plain`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence

from carellama.engine.base import Piece, TokenLogprob, Unavailable
from carellama.engine.llamacpp.server import Server
from carellama.records import JSONObject

FORCED = 1e9  # a bias that no score outweighs
CHOICE_TOP_LOGPROBS = 1024  # tokens among which one is looked for first


class Scores:
    """Asks for log-probabilities. `plain` is a token of whole characters, `words` the number of tokens."""

    def __init__(self, server: Server, *, plain: int, words: int, fields: Mapping[str, object] | None = None) -> None:
        self.server, self.plain, self.words = server, plain, words
        self._fields = fields or {}  # of each request

    def of_prompt(self, ids: Sequence[int], count: int) -> Generator[Piece, None, list[TokenLogprob]]:
        """Return each token with its log-probability after those before it, and the `count` likeliest there.

        Nothing precedes the first token: its log-probability is NaN. Yields between tokens.
        """
        found = [TokenLogprob(self.server.text_of([ids[0]]), math.nan)]
        for at in range(1, len(ids)):
            found.append(self._next(list(ids[:at]), ids[at], count))
            yield Piece()
        return found

    def _next(self, before: list[int], token: int, count: int) -> TokenLogprob:
        told = self._ask(before, token, max(1, count))
        if told is not None:
            return TokenLogprob(told["token"] or self.server.text_of([token]), told["logprob"], _top(told, count))
        for most in (CHOICE_TOP_LOGPROBS, self.words):
            told = self._ask(before, self.plain, most)
            chances = {one["id"]: one["logprob"] for one in told["top_logprobs"]} if told is not None else {}
            if told is not None and token in chances:
                return TokenLogprob(self.server.text_of([token]), chances[token], _top(told, count))
        raise Unavailable("llama.cpp's server does not tell the log-probability of a token of the prompt")

    def _ask(self, before: list[int], token: int, count: int) -> JSONObject | None:
        """What the server tells of a token that it is made to say; None: the token is part of a character."""
        body = {"prompt": before, "n_predict": 1, "temperature": 0, "cache_prompt": True, "n_probs": count}
        event = self.server.next_token({**body, "logit_bias": [[token, FORCED]], **self._fields})
        shown = event.get("completion_probabilities") or [None]
        told: JSONObject | None = shown[0]
        return told


def _top(told: JSONObject, count: int) -> tuple[tuple[str, float], ...]:
    return tuple((one["token"], one["logprob"]) for one in told["top_logprobs"][:count])
