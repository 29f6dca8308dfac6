"""Which languages a model speaks, measured: how likely it finds a plain sentence about health.

    probe_languages(engine)       # ("en",)

For models of which no card says it. The mean log-probability of a character of one short sentence is held against a
limit for each language; some engines need a pass for each of its tokens. Measured for the limits: SmolLM2-135M, which
learned English, -1.12 in English and -5.96 in Chinese; Gemma-3-270M, which learned both, -1.05 and -4.15.
"""

from __future__ import annotations

import math

from carellama.engine.base import Engine, drain
from carellama.errors import UserError

SENTENCES = {"en": "Drink enough water and rest well.", "zh": "多喝水，注意休息。"}
LEAST = {"en": -2.0, "zh": -5.0}  # nats a character


def probe_languages(engine: Engine) -> tuple[str, ...]:
    """Return the languages that the model speaks; none where the engine has no log-probabilities of a prompt."""
    try:
        return tuple(name for name, text in SENTENCES.items() if mean_logprob(engine, text) >= LEAST[name])
    except UserError:
        return ()


def mean_logprob(engine: Engine, text: str) -> float:
    """Return the log-probability of a text, in nats a character. Raises what the engine does."""
    tokens = drain(engine.prompt_logprobs(engine.tokenize(text, begin=True), 1))
    return sum(one.logprob for one in tokens if not math.isnan(one.logprob)) / len(text)
