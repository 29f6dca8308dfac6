"""What the assistant says instead of an answer that it refuses, or beside one that needs caution.

    guard_reply(guard.judge(messages), "zh", country="CN")

Texts of this project, by category: `replies.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from carellama.package_data import package_yaml
from carellama.records import Message
from carellama.safety.guard.guard import Judgement
from carellama.safety.notices import Language, crisis_line, language_of

REFUSED: Mapping[Language, str] = {"en": "(a request that was refused)", "zh": "（一个被拒绝的请求）"}
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


def is_refusal(answer: str) -> bool:
    """Return whether an answer is, or ends in, a reply that stands for one."""
    return any(begin in answer and answer.endswith(end) for begin, end in _refusals())


def without_refused(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation with a line in place of each request that was refused, for the model to read.

    The refusal stays, so that the model knows of it.
    """
    told = list(messages)
    for at, message in enumerate(messages):
        if message.role == "assistant" and at and messages[at - 1].role == "user" and is_refusal(message.content):
            told[at - 1] = Message("user", REFUSED[language_of(messages[at - 1].content)])
    return told


@cache
def _refusals() -> tuple[tuple[str, str], ...]:
    """How each refusal begins and ends."""
    texts = (text for outcomes in _replies().values() for text in outcomes["refuse"].values())
    return tuple((parts[0].strip(), parts[-1].strip()) for parts in (text.split("{crisis}") for text in texts))


def _replies() -> Replies:
    return package_yaml("safety/guard/replies.yaml")
