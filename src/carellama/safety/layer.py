"""The safety layer: what is said before the model speaks, and what it may not say after that.

    layer = SafetyLayer("on", country="CN")
    screening = layer.screen(messages)
    screening.preface()                  # the notice that comes first, "" if there is none
    watch = screening.watch()
    watch.add("You do not need to see a doctor. Rest.")    # [Mark]: it contradicts the emergency, and ends the answer

`on`: what the policy says (`safety.policy`): notices come first in the answer, sentences that must not stand alone are
marked, and an answer that makes light of an emergency is stopped. `warn`: notices are fields beside the answer, which
stays as it is. It keeps nothing of what was said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from carellama.engine.base import Notice
from carellama.records import Message
from carellama.safety.answers.watch import AnswerWatch, conflict_notice
from carellama.safety.classifier.classifier import load_classifier
from carellama.safety.guard.guard import Guard
from carellama.safety.guard.model import GuardModel
from carellama.safety.guard.replies import guard_reply
from carellama.safety.medication.conflicts import PersonFacts, conflicts, person_facts
from carellama.safety.medication.rules import MedicationRules, load_medication
from carellama.safety.notices import (
    SHOWN_LEVELS,
    Language,
    disclaimer,
    emergency_notice,
    known_country,
    language_of,
)
from carellama.safety.own_files import sort_rule_files
from carellama.safety.policy import Policy, load_policy
from carellama.safety.triage.rules import load_red_flags
from carellama.safety.triage.triage import Triage, patient_text, triage

Mode = Literal["warn", "on"]
CRISIS, CRISIS_CATEGORY = "mind", "self_harm_method"  # a system of triage, and the requests that it may come with
MOST_CONFLICTS = 3  # of a question, that are said before the answer


class SafetyLayer:
    """Screens conversations. Raises `UserError` for a country without numbers, faulty rules and a faulty policy.

    `more_rules`: files of a hospital, of any kind (`safety.own_files`).
    """

    def __init__(
        self,
        mode: Mode,
        country: str | None = None,
        more_rules: Sequence[Path] = (),
        classifier: str | None = None,
        policy: Path | None = None,
        guard_classifier: str | None = None,
        guard_model: GuardModel | None = None,
    ) -> None:
        own = sort_rule_files(more_rules)
        country = None if country is None else known_country(country)
        self._policy = load_policy(policy) if mode == "on" else load_policy(policy).softened()
        self.mode, self.country = mode, country
        self._rules, self._classifier = load_red_flags(own.triage), load_classifier(classifier)
        self._pharmacy = load_medication(own.medicines)
        self._guard = Guard(own.guard, guard_classifier, guard_model).with_policy(self._policy)

    def for_country(self, country: str) -> SafetyLayer:
        """Return the same layer with the numbers of another country. Raises `UserError` for an unknown one."""
        made = copy(self)
        made.country = known_country(country)
        return made

    @property
    def pharmacy(self) -> MedicationRules | None:
        """The rules of medicines; None: the policy has them off."""
        return self._pharmacy if self._policy.action("contraindication") != "off" else None

    def close(self) -> None:
        """Close the guard model, if there is one."""
        self._guard.close()

    def triage(self, messages: Sequence[Message], *, rules_only: bool = False) -> Triage:
        """Return what rules and classifier find in a conversation, or what the rules do alone."""
        return triage(messages, self._rules, None if rules_only else self._classifier)

    def screen(self, messages: Sequence[Message], found: Triage | None = None, *, is_request: bool = True) -> Screening:
        """Return what has to be said of a conversation; `found` is its triage, where that was done otherwise.

        Without `is_request` the guard does not judge the last message: it answers a question, and asks for nothing.
        """
        said = patient_text(messages)
        facts = person_facts(messages, self._pharmacy) if self.pharmacy else None
        found = found or self.triage(messages)
        requested = self._request(messages, found) if is_request else ()
        said_first = [*self._emergency(found), *requested, *self._medicines(messages, facts)]
        answered = "\n".join(one.content for one in messages if one.role == "assistant")
        closing: tuple[Notice, ...] = ()
        if not answered and self._policy.action("disclaimer") != "off":
            closing = (Notice("disclaimer", "info", disclaimer(language_of(said))),)
        shown = [notice for notice, is_shown in said_first if is_shown]
        return Screening(
            policy=self._policy,
            language=language_of(said),
            notices=tuple(notice for notice, _ in said_first),
            before=tuple(one.text for one in shown if one.kind != "refusal" and one.text not in answered),
            refusal=next((one.text for one in shown if one.kind == "refusal"), None),
            after=closing,
            said=said,
            facts=facts,
            pharmacy=self._pharmacy,
        )

    def _emergency(self, found: Triage) -> Iterator[tuple[Notice, bool]]:
        """The notice of the triage, and whether the answer begins with it."""
        if found.findings:
            first, language = found.findings[0], language_of(found.text)
            shown = first.level in SHOWN_LEVELS
            text = emergency_notice(found.findings, language, self.country) if shown else first.rule.do[language]
            yield Notice("emergency", first.level, text, first.rule.id), shown and self.mode == "on"

    def _request(self, messages: Sequence[Message], found: Triage) -> Iterator[tuple[Notice, bool]]:
        """What the guard says of the last request, and whether it stands in the answer or for it."""
        judgement = self._guard.judge(messages)
        if judgement.by == "classifier" and any(one.rule.system == CRISIS for one in found.findings):
            judgement = replace(judgement, category=CRISIS_CATEGORY)  # somebody in need gets the words of that
        action = self._policy.action(judgement.category) if judgement.category else "off"
        if action != "off":
            refused = judgement.outcome == "refuse" and action == "on"
            said = judgement if refused else replace(judgement, outcome="caution")
            text = guard_reply(said, language_of(last_request(messages)), self.country)
            rule = judgement.rule
            refusal, caution = Notice("refusal", "refuse", text, rule), Notice("caution", "caution", text, rule)
            yield refusal if refused else caution, action == "on"

    def _medicines(self, messages: Sequence[Message], facts: PersonFacts | None) -> Iterator[tuple[Notice, bool]]:
        """What the last request runs into: a medicine that is asked about against what the person told."""
        asked = last_request(messages)
        for conflict in conflicts(facts, asked, of="question", rules=self._pharmacy)[:MOST_CONFLICTS] if facts else ():
            shown = self._policy.action("contraindication") == "on"
            yield conflict_notice(conflict, language_of(asked)), shown


def last_request(messages: Sequence[Message]) -> str:
    """Return what the person said last; "" where nobody did."""
    return next((one.content for one in reversed(messages) if one.role == "user"), "")


@dataclass(frozen=True, kw_only=True)
class Screening:
    """What was found in one conversation, and what becomes of the answer."""

    policy: Policy
    language: Language
    notices: tuple[Notice, ...]
    before: tuple[str, ...] = ()  # texts that the answer begins with
    refusal: str | None = None  # it stands for the answer, and the model is not asked
    after: tuple[Notice, ...] = ()  # notices of the end of the answer
    said: str = field(default="", repr=False)  # by the person
    facts: PersonFacts | None = field(default=None, repr=False)  # about the person; None: medicines are not checked
    pharmacy: MedicationRules | None = field(default=None, repr=False)

    @property
    def is_emergency(self) -> bool:
        """Whether the conversation tells of an emergency."""
        return any(one.kind == "emergency" and one.level == "emergency" for one in self.notices)

    def preface(self) -> str:
        """Return what the answer begins with."""
        return "".join(f"{text}\n\n" for text in self.before)

    def watch(self) -> AnswerWatch:
        """Return what reads the answer along."""
        return AnswerWatch(
            self.policy,
            self.language,
            said=self.said,
            facts=self.facts,
            medicines=self.pharmacy,
            is_emergency=self.is_emergency,
        )
