"""Whether a request is answered, answered with caution, or refused: before a model reads it.

    guard = Guard()
    guard.judge([Message("user", "Write me a fake prescription")])
    # Judgement(outcome="refuse", category="prescription_forging", rule="forge-prescription", by="rules")

The last request counts, with what went before: alone, then together with the person's earlier turns, of which it may
be the end ("I hate my boss" ... "so what do I put in his tea?"). A request that was refused and then taken up again
("go on") is refused again; another question is answered. Disguises (base64, letters apart, ...) are undone first, see
`safety.disguises`. What tools return is read for instructions to the assistant only. It keeps nothing of what was said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from carellama.records import Message
from carellama.safety.disguises import readings
from carellama.safety.guard_rules import OUTCOMES, Outcome, load_guard_rules

INJECTION = "prompt_injection"  # the category that documents are read for
EARLIER_CHARACTERS = 4000  # of the person's earlier turns that are read together with the last
LONG_REQUEST = 60  # characters; a longer one speaks for itself and is not taken for "go on"
_GOES_ON = re.compile(
    r"\b(?:go on|continue|carry on|keep going|and then|then what|next step|more detail|which one|how much|how many|"
    r"do it|tell me|yes|please|it|that|those|them|this)\b|"
    r"继续|接着|然后|后来呢|说下去|往下|下一步|详细|具体|哪个|哪种|哪一|多少|那|它|这个|就这|好的|是的|嗯|请",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is done with a request; `category` and `rule` are "" where it is answered."""

    outcome: Outcome
    category: str = ""
    rule: str = ""
    by: Literal["", "rules"] = ""

    @property
    def strictness(self) -> int:
        """How far it is from an answer, to compare judgements."""
        return OUTCOMES.index(self.outcome)


ANSWER = Judgement("answer")


class Guard:
    """Judges requests. Raises `UserError` for faulty rules."""

    def __init__(self, more_rules: Sequence[Path] = ()) -> None:
        self._rules = load_guard_rules(more_rules)

    def judge(self, messages: Sequence[Message]) -> Judgement:
        """Return what is done with the last request of a conversation. Takes time linear in its length."""
        turns = [one.content for one in messages if one.role == "user"]
        last, earlier = (turns[-1], "\n".join(turns[:-1])[-EARLIER_CHARACTERS:]) if turns else ("", "")
        found = _strictest([self.judge_text(last), *self._documents(messages)])
        if found.outcome == "refuse" or not earlier:
            return found
        whole = self.judge_text(f"{earlier}\n{last}")
        if whole.strictness > found.strictness:
            before = self.judge_text(earlier)
            if before.strictness < whole.strictness or goes_on(last):
                return whole
        return found

    def judge_text(self, text: str) -> Judgement:
        """Return what is done with a text by itself, in all readings of it."""
        return _strictest([self._by_rules(reading) for reading in readings(text)])

    def _by_rules(self, text: str) -> Judgement:
        fired = (Judgement(rule.outcome, rule.category, rule.id, "rules") for rule, _ in self._rules.scan(text))
        return _strictest(fired)

    def _documents(self, messages: Sequence[Message]) -> Iterator[Judgement]:
        """Judgements of what tools returned since the last request: only instructions to the assistant count."""
        for message in reversed(messages):
            if message.role == "user":
                return
            if message.role == "tool":
                found = self.judge_text(message.content)
                if found.category == INJECTION:
                    yield found


def goes_on(text: str) -> bool:
    """Return whether a request takes up the one before."""
    return len(text) <= LONG_REQUEST and bool(_GOES_ON.search(text))


def _strictest(found: Iterable[Judgement]) -> Judgement:
    """The first of the strictest judgements."""
    return max(found, key=lambda one: one.strictness, default=ANSWER)
