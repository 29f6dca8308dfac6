"""Log-probabilities of the tokens of a prompt by llama.cpp's server, which tells them of what it generates only.

    tokens = yield from Scores(server, plain=8, words=49152, fields={}).of_prompt(ids, count=1)

Each token is forced by a bias, and told with the probability that it had without (ggml-org/llama.cpp,
tools/server/README.md, `n_probs`). The slot keeps the sequence, so that no token is computed twice. Of a token that is
part of a character the server tells nothing: its probability is looked up beside another one's, of `plain`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence

from carellama.engine.base import Piece, TokenLogprob, Unavailable
from carellama.engine.llamacpp.server import Server
from carellama.engine.token_text import told_text
from carellama.records import JSONObject

FORCED = 1e9  # a bias that no score outweighs
CHOICE_TOP_LOGPROBS = 1024  # tokens among which one is looked for first


class Scores:
    """Asks for log-probabilities.

    `plain` is a token of whole characters, `words` the number of tokens; each request has the `fields`.
    """

    def __init__(self, server: Server, *, plain: int, words: int, fields: Mapping[str, object]) -> None:
        self.server, self.plain, self.words, self._fields = server, plain, words, fields

    def of_prompt(self, ids: Sequence[int], count: int) -> Generator[Piece, None, list[TokenLogprob]]:
        """Return each token with its log-probability after those before it, and the `count` likeliest there.

        Nothing precedes the first token: its log-probability is NaN. Yields between tokens.
        """
        found = [TokenLogprob(self.server.text_of([ids[0]]), math.nan)]
        for at in range(1, len(ids)):
            found.append(self._next(list(ids[:at]), ids[at], count))
            yield Piece()
        return found

    def of_choices(self, ids: list[int], choices: Sequence[int]) -> list[float]:
        """Return the log-probability of each of these tokens after a prompt."""
        known = {one["id"]: one["logprob"] for one in self.likeliest(ids, choices)}
        return [known.get(token, -math.inf) for token in choices]

    def likeliest(self, before: list[int], wanted: Sequence[int]) -> list[JSONObject]:
        """Return what the server tells of the likeliest tokens after a prompt, so many that the wanted are among them.

        `plain` is forced: the server tells nothing where it says part of a character.
        """
        found: list[JSONObject] = []
        for count in (CHOICE_TOP_LOGPROBS, self.words):
            said = self._ask(before, self.plain, count)
            found = said["top_logprobs"] if said is not None else []
            if {one["id"] for one in found}.issuperset(wanted):
                break
        if not found:
            raise Unavailable("llama.cpp's server tells no log-probabilities; was the engine closed?")
        return found

    def _next(self, before: list[int], token: int, count: int) -> TokenLogprob:
        said = self._ask(before, token, max(1, count))
        if said is not None:
            tops = said["top_logprobs"]
            text = told_text(said["token"], said.get("bytes")) or self.server.text_of([token])
            return TokenLogprob(text, said["logprob"], likeliest(tops, count))
        tops = self.likeliest(before, [token])
        for one in tops:
            if one["id"] == token:
                return TokenLogprob(self.server.text_of([token]), one["logprob"], likeliest(tops, count))
        raise Unavailable("llama.cpp's server does not tell the log-probability of a token of the prompt")

    def _ask(self, before: list[int], token: int, count: int) -> JSONObject | None:
        """What the server tells of a token that it is made to say; None: the token is part of a character."""
        body = {"prompt": before, "n_predict": 1, "temperature": 0, "cache_prompt": True, "n_probs": count}
        event = self.server.next_token({**body, "logit_bias": [[token, FORCED]], **self._fields})
        shown = event.get("completion_probabilities") or [None]
        said: JSONObject | None = shown[0]
        return said


def likeliest(tops: Sequence[JSONObject], count: int) -> tuple[tuple[str, float], ...]:
    """Return the first `count` of the tokens that the server tells of, with their log-probabilities."""
    return tuple((told_text(one["token"], one.get("bytes")), one["logprob"]) for one in tops[:count])
