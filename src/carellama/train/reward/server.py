"""Scores of answers by a server, over HTTP.

    score = ServerReward("http://localhost:8000/v1/score", timeout=60)
    score([(Message("user", "My ear hurts."),)], ["Please see a doctor."])   # [1.7]

`carellama.train.reward.model` decides whether a reward is a server.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from carellama.config.environment import own_key
from carellama.config.serve import is_loopback
from carellama.errors import UserError
from carellama.records import Message
from carellama.retry import RETRY_DELAYS, RETRYABLE_STATUSES, retry_after, retry_delay

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)

REQUEST_BATCH = 32  # conversations sent together


class ServerReward:
    """Scores by a server. The key `$CARELLAMA_API_KEY` goes in a header; no redirect is followed.

    A request that fails in passing is tried again after `delays` seconds; no message repeats a text.
    """

    def __init__(self, address: str, timeout: float, delays: Sequence[float] = RETRY_DELAYS) -> None:
        import httpx2

        try:
            self.url = httpx2.URL(address)
        except httpx2.InvalidURL:
            self.url = httpx2.URL("")
        if not self.url.host:
            raise UserError("--reward_model must be an address as in http://localhost:8000/v1/score")
        self.timeout, self.delays = timeout, tuple(delays)

    @property
    def is_remote(self) -> bool:
        """Whether the texts are sent to another machine."""
        return not is_loopback(self.url.host)

    def __call__(self, prompts: Sequence[tuple[Message, ...]], answers: Sequence[str]) -> list[float]:
        """Return the score of each answer to its prompt. Raises `UserError` in one line."""
        import httpx2

        chats = [
            [{"role": message.role, "content": message.content} for message in (*prompt, Message("assistant", answer))]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        key = own_key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        found: list[float] = []
        with httpx2.Client(timeout=self.timeout, headers=headers) as http:
            for start in range(0, len(chats), REQUEST_BATCH):
                part = chats[start : start + REQUEST_BATCH]
                found += self._scores(self._ask(http, {"messages": part}), len(part))
        return check_finite_scores(found, self.url.host)

    def _ask(self, http: httpx2.Client, body: dict[str, object]) -> httpx2.Response:
        """The answer to one request, which is sent again after each of the delays."""
        import httpx2

        host = self.url.host
        for delay in (*self.delays, None):
            cause: Exception | None = None
            asked = 0.0
            try:
                response = http.post(self.url, json=body)
            except httpx2.ConnectError as error:
                problem, cause = "nothing answers there", error
            except httpx2.TransportError as error:
                problem, cause = f"no answer ({type(error).__name__})", error
            else:
                if response.status_code == 200:
                    return response
                problem = f"it answers {response.status_code} {response.reason_phrase}"
                asked = retry_after(response.headers)
                if response.status_code not in RETRYABLE_STATUSES:
                    raise UserError(f"--reward_model {host}: {problem}; check the address and the key")
            if delay is None:
                tries = len(self.delays) + 1
                raise UserError(f"--reward_model {host}: {problem}, {tries} times; see --reward_timeout") from cause
            delay = retry_delay(delay, asked)
            log.warning("%s: %s; trying again in %g s", host, problem, delay)
            time.sleep(delay)
        raise AssertionError("the last try returns or raises")

    def _scores(self, response: httpx2.Response, count: int) -> list[float]:
        try:
            scores = json.loads(response.text)["scores"]
            found = [float(score) for score in scores]
        except (ValueError, KeyError, TypeError):
            found = []
        if len(found) != count:
            raise UserError(
                f'--reward_model {self.url.host} must answer {{"scores": [...]}} with a number for each of '
                f"{count} conversations"
            )
        return found


def is_url(name: str) -> bool:
    """Whether a reward is given as the address of a server."""
    return name.startswith(("http://", "https://"))


def check_finite_scores(scores: list[float], who: str) -> list[float]:
    """Return the scores. Raises `UserError` where one is not a finite number."""
    if not all(map(math.isfinite, scores)):
        raise UserError(f"--reward_model: {who} gave a score that is no number")
    return scores
