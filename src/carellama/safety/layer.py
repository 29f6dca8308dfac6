"""The safety layer: what is said before the model speaks, and what it may not say after that.

    layer = SafetyLayer("on", country="CN")
    screening = layer.screen(messages)
    screening.preface()                  # the notice that comes first, "" if there is none
    watch = screening.watch()
    watch.add("You do not need to see a doctor. ")    # a Notice: it contradicts the emergency

`on`: the notice comes first in the answer, and an answer that makes light of an emergency is stopped. `warn`: notices
are fields beside the answer, which stays as it is. It keeps nothing of what was said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from carellama.engine.base import Notice
from carellama.errors import lookup
from carellama.records import Message
from carellama.rules import SENTENCE_END
from carellama.safety.answers import makes_light_of
from carellama.safety.classifier import load_classifier
from carellama.safety.notices import Language, contradiction_notice, countries, emergency_notice
from carellama.safety.triage import triage
from carellama.safety.triage_rules import load_red_flags
from carellama.text import HAN_CHARACTER

Mode = Literal["warn", "on"]
SHOWN = ("emergency", "urgent")  # levels whose notice comes first in the answer


class SafetyLayer:
    """Screens conversations. Raises `UserError` for a country without numbers and for faulty rules."""

    def __init__(
        self, mode: Mode, country: str | None = None, more_rules: Sequence[Path] = (), classifier: str | None = None
    ) -> None:
        if country is not None:
            lookup(countries(), country, "country")
        self.mode, self._country = mode, country
        self._rules, self._classifier = load_red_flags(more_rules), load_classifier(classifier)

    def screen(self, messages: Sequence[Message]) -> Screening:
        """Return what has to be said of a conversation."""
        found = triage(messages, self._rules, self._classifier)
        if not found.findings:
            return Screening(self.mode, "en", ())
        first = found.findings[0]
        language: Language = "zh" if HAN_CHARACTER.search(found.text) else "en"
        text = emergency_notice(first, language, self._country) if first.level in SHOWN else first.rule.do[language]
        notice = Notice("emergency", first.level, text, first.rule.id)
        said = any(one.role == "assistant" and text in one.content for one in messages)
        return Screening(self.mode, language, (notice,), said_before=said)


@dataclass(frozen=True, slots=True)
class Screening:
    """What was found in one conversation."""

    mode: Mode
    language: Language
    notices: tuple[Notice, ...]
    said_before: bool = False  # an earlier answer of the conversation began with the same notice

    def preface(self) -> str:
        """Return what the answer begins with."""
        if self.mode == "warn" or self.said_before:
            return ""
        return "".join(f"{notice.text}\n\n" for notice in self.notices if notice.level in SHOWN)

    def watch(self) -> AnswerWatch | None:
        """Return what reads the answer along; None where there is nothing to contradict."""
        return AnswerWatch(self.language) if any(one.level in SHOWN for one in self.notices) else None


class AnswerWatch:
    """Reads an answer as it comes, sentence by sentence."""

    def __init__(self, language: Language) -> None:
        self._language = language
        self._rest = ""  # of the sentence that has not ended

    def add(self, text: str) -> Notice | None:
        """Take a part of the answer; return a notice once a sentence makes light of the emergency."""
        self._rest += text
        ends = [match.end() for match in SENTENCE_END.finditer(self._rest)]
        if not ends:
            return None
        whole, self._rest = self._rest[: ends[-1]], self._rest[ends[-1] :]
        return self._judge(whole)

    def end(self) -> Notice | None:
        """Judge what has no full stop at its end."""
        return self._judge(self._rest) if self._rest else None

    def _judge(self, text: str) -> Notice | None:
        return None if makes_light_of(text) is None else contradiction(self._language)


def contradiction(language: Language) -> Notice:
    """Return the notice of an answer that makes light of an emergency."""
    return Notice("contradiction", "emergency", contradiction_notice(language))
