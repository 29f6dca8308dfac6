"""Which languages a model speaks, measured: how likely it finds plain sentences about health.

    probe_languages(engine)       # ("en",)

For models of which no card says it. The mean log-probability of a character of two sentences is held against a limit
for each language. Measured for the limits: SmolLM2-135M, which learned English, -0.71 and -0.72 in English and -5.9 and
-7.7 in Chinese; Gemma-3-270M, which learned both, -0.70 and -0.59, -2.8 and -3.3.
"""

from __future__ import annotations

import math

from carellama.engine.base import Engine, drain
from carellama.errors import UserError

SENTENCES = {
    "en": (
        "A cough may come from a cold, an allergy or a disease of the lungs; see a doctor if it lasts for weeks.",
        "Blood pressure is the force of the blood on the walls of the vessels, and high pressure harms the heart.",
    ),
    "zh": (
        "咳嗽可能由感冒、过敏或肺部疾病引起，如果持续三周以上，请去医院检查。",
        "血压是血液对血管壁的压力，长期过高会损伤心脏和肾脏。",
    ),
}
LEAST = {"en": -1.3, "zh": -4.7}  # nats a character


def probe_languages(engine: Engine) -> tuple[str, ...]:
    """Return the languages that the model speaks; none where the engine has no log-probabilities of a prompt."""
    try:
        return tuple(name for name, texts in SENTENCES.items() if mean_logprob(engine, texts) >= LEAST[name])
    except UserError:
        return ()


def mean_logprob(engine: Engine, texts: tuple[str, ...]) -> float:
    """Return the log-probability of texts, in nats a character. Raises what the engine does."""
    total = 0.0
    for text in texts:
        tokens = drain(engine.prompt_logprobs(engine.tokenize(text, begin=True), 1))
        total += sum(one.logprob for one in tokens if not math.isnan(one.logprob))
    return total / sum(map(len, texts))
