"""The safety layer: what is said before the model speaks, and what it may not say after that.

    layer = SafetyLayer("on", country="CN")
    screening = layer.screen(messages)
    screening.preface()                  # the notice that comes first, "" if there is none
    watch = screening.watch()
    watch.add("You do not need to see a doctor. Rest.")    # a Notice: it contradicts the emergency
    watch.surplus                        # 6: characters behind that sentence

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
from carellama.safety.answers import makes_light_of, sentence_end
from carellama.safety.classifier import load_classifier
from carellama.safety.notices import SHOWN, Language, contradiction_notice, countries, emergency_notice
from carellama.safety.triage import Triage, triage
from carellama.safety.triage_rules import load_red_flags
from carellama.text import HAN_CHARACTER

Mode = Literal["warn", "on"]


class SafetyLayer:
    """Screens conversations. Raises `UserError` for a country without numbers and for faulty rules."""

    def __init__(
        self, mode: Mode, country: str | None = None, more_rules: Sequence[Path] = (), classifier: str | None = None
    ) -> None:
        if country is not None:
            country = country.strip().upper()
            country = "GB" if country == "UK" else country  # as most people write it
            lookup(countries(), country, "country")
        self.mode, self._country = mode, country
        self._rules, self._classifier = load_red_flags(more_rules), load_classifier(classifier)

    def triage(self, messages: Sequence[Message]) -> Triage:
        """Return what rules and classifier find in a conversation."""
        return triage(messages, self._rules, self._classifier)

    def screen(self, messages: Sequence[Message]) -> Screening:
        """Return what has to be said of a conversation."""
        found = self.triage(messages)
        if not found.findings:
            return Screening(self.mode, "en", ())
        first = found.findings[0]
        language: Language = "zh" if HAN_CHARACTER.search(found.text) else "en"
        text = (
            emergency_notice(found.findings, language, self._country)
            if first.level in SHOWN
            else first.rule.do[language]
        )
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
        return AnswerWatch(self) if any(one.level == "emergency" for one in self.notices) else None

    def contradiction(self) -> Notice:
        """Return the notice of an answer that makes light of an emergency."""
        return Notice("contradiction", "emergency", contradiction_notice(self.language, stopped=self.mode == "on"))


class AnswerWatch:
    """Reads an answer as it comes, sentence by sentence."""

    def __init__(self, screening: Screening) -> None:
        self._screening = screening
        self._rest = ""  # of the sentence that has not ended
        self.surplus = 0  # characters of what was added last that stand behind the sentence of the notice

    def add(self, text: str) -> Notice | None:
        """Take a part of the answer; return a notice once a sentence makes light of the emergency."""
        self._rest += text
        # a full stop at the end may be that of 3.5: what comes next tells
        ends = [at.end() for at in SENTENCE_END.finditer(self._rest) if at[0] != "." or at.end() < len(self._rest)]
        if not ends:
            return None
        whole, self._rest = self._rest[: ends[-1]], self._rest[ends[-1] :]
        return self._judge(whole)

    def end(self) -> Notice | None:
        """Judge what has no full stop at its end."""
        return self._judge(self._rest) if self._rest else None

    def _judge(self, text: str) -> Notice | None:
        place = makes_light_of(text)
        if place is None:
            return None
        self.surplus = len(text) - sentence_end(text, place[1]) + (len(self._rest) if text is not self._rest else 0)
        return self._screening.contradiction()
