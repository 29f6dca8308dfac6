"""What the assistant says instead of an answer that it refuses, or beside one that needs caution.

    guard_reply(guard.judge(messages), "zh", country="CN")

Texts of this project, by category: `guard_replies.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml

from carellama.safety.guard import Judgement
from carellama.safety.notices import Language, crisis_line

Replies = Mapping[str, Mapping[str, Mapping[str, str]]]  # category, outcome, language


def guard_reply(judgement: Judgement, language: Language, country: str | None = None) -> str:
    """Return the reply that stands for an answer (refuse) or the line beside it (caution); "" for an answer.

    `country` None: that of the language (China, United States). Raises `UserError` for a country without numbers.
    """
    if judgement.outcome == "answer":
        return ""
    text = _replies()[judgement.category][judgement.outcome][language]
    line = crisis_line(language, country)
    return text.replace("{crisis}" if line or language == "zh" else "{crisis} ", line).strip()


@cache
def _replies() -> Replies:
    text = resources.files("carellama.safety").joinpath("guard_replies.yaml").read_text(encoding="utf-8")
    read: Replies = yaml.safe_load(text)
    return read
