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

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from carellama.engine.base import AnswerKind, Notice
from carellama.errors import lookup
from carellama.records import Message
from carellama.safety.answer_checks import AnswerChecks, Claim
from carellama.safety.answers import makes_light_of
from carellama.safety.classifier import load_classifier
from carellama.safety.guard import Guard
from carellama.safety.guard_model import GuardModel
from carellama.safety.guard_replies import guard_reply
from carellama.safety.medication import Conflict, PersonFacts, conflicts, person_facts
from carellama.safety.medication_rules import MedicationRules, load_medication
from carellama.safety.notices import (
    SHOWN_LEVELS,
    Language,
    contradiction_notice,
    countries,
    disclaimer,
    emergency_notice,
    language_of,
)
from carellama.safety.own_files import sort_rule_files
from carellama.safety.policy import Policy, load_policy
from carellama.safety.triage import Triage, patient_text, triage
from carellama.safety.triage_rules import load_red_flags

Mode = Literal["warn", "on"]
CRISIS, CRISIS_CATEGORY = "mind", "self_harm_method"  # a system of triage, and the requests that it may come with
LONGEST = 2000  # characters of a sentence that has not ended, after which it is judged all the same
MOST_CONFLICTS = 3  # of a question, that are said before the answer
# Ends of a sentence of an answer, with the quotes and brackets that close behind it; a cell of a table ends with |.
ANSWER_END = re.compile(r"(?:[。！？!?；;]|\.(?=[\"'”’」』)\]*_]*(?:\s|$)))(?:\[\d{1,3}\]|[\"'”’」』）)\]*_])*|\n|\|")
ITEM = re.compile(r"\s*(?:[-*+•·]|\d{1,3}[.)、])(?:\s|$)")
HEADING = re.compile(r"\s*#{1,6} |.*[:：]\W{0,8}$")
CHECKS = tuple(kind for kind in get_args(AnswerKind) if kind not in ("contradiction", "contraindication"))


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
        if country is not None:
            country = country.strip().upper()
            country = "GB" if country == "UK" else country  # as most people write it
            lookup(countries(), country, "country")
        self._policy = load_policy(policy) if mode == "on" else load_policy(policy).softened()
        self.mode, self.country = mode, country
        self._rules, self._classifier = load_red_flags(own.triage), load_classifier(classifier)
        self._pharmacy = load_medication(own.medicines)
        self._guard = Guard(own.guard, guard_classifier, guard_model).with_policy(self._policy)

    @property
    def pharmacy(self) -> MedicationRules | None:
        """The rules of medicines; None: the policy has them off."""
        return self._pharmacy if self._policy.action("contraindication") != "off" else None

    def close(self) -> None:
        """Close the guard model, if there is one."""
        self._guard.close()

    def triage(self, messages: Sequence[Message], *, rules_alone: bool = False) -> Triage:
        """Return what rules and classifier find in a conversation, or what the rules do alone."""
        return triage(messages, self._rules, None if rules_alone else self._classifier)

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
        return AnswerWatch(self)


def conflict_notice(conflict: Conflict, language: Language) -> Notice:
    """Return the notice of a medicine that does not go with what the person said."""
    return Notice("contraindication", "caution", conflict.texts[language], conflict.row)


class Mark(NamedTuple):
    """What is said of a sentence of an answer."""

    notice: Notice
    surplus: int  # characters of what was added last that stand behind the sentence
    shown: bool  # in the answer, not only beside it
    stops: bool  # the answer ends there


class AnswerWatch:
    """Reads an answer as it comes, sentence by sentence; of each kind the first is marked."""

    def __init__(self, screening: Screening) -> None:
        policy = screening.policy
        self._policy, self._language, self._marked = policy, screening.language, set[str]()
        self._checks = AnswerChecks([kind for kind in CHECKS if policy.action(kind) != "off"], screening.said)
        self._facts, self._pharmacy = screening.facts, screening.pharmacy
        self._contradicts = screening.is_emergency and policy.action("contradiction") != "off"
        self._rest = ""  # of the sentence that has not ended
        self._line = ""  # what is judged already of the line that has not ended
        self._heading = ""  # above the items of a list, or of a section

    def add(self, text: str) -> list[Mark]:
        """Take a part of the answer; return the marks of the sentences that end in it."""
        self._rest += text
        whole = self._rest
        # Behind an end, what comes next tells whether it is one: a full stop may be that of 3.5, and a quote may close.
        # In an emergency nothing waits for a quote: an answer that makes light of it stops there.
        ends = [
            at.end()
            for at in ANSWER_END.finditer(whole)
            if at[0] in "|\n" or at.end() < len(whole) or (self._contradicts and at[0] != ".")
        ]
        if not ends and len(whole) > LONGEST:
            ends = [len(whole)]
        if ends:
            self._rest = whole[ends[-1] :]
        return [
            mark
            for begin, end in zip([0, *ends], ends, strict=False)
            for mark in self._read(whole[begin:end], len(whole) - end)
        ]

    def end(self) -> list[Mark]:
        """Judge what has no full stop at its end."""
        return self._read(self._rest, 0)

    def _read(self, sentence: str, surplus: int) -> list[Mark]:
        """Judge a sentence; in a row of a table, with the cells before it, and with its mark inside of the cell."""
        line = self._line + sentence
        in_row = line.lstrip().startswith("|")
        if in_row and sentence.endswith("|"):
            surplus += 1
        surplus += len(sentence) - len(sentence.rstrip("\r\n"))
        marks = self._judge(line if in_row else sentence, surplus)
        if sentence.endswith("\n"):
            self._end_line(line)
        else:
            self._line = line[-LONGEST:]
        return marks

    def _end_line(self, line: str) -> None:
        """Keep a heading of medicines or doses; a line that is no item of a list ends what stands below it."""
        self._line = ""
        if HEADING.match(line.rstrip()):
            self._heading = line.strip() if self._checks.is_about_taking(line) else ""
        elif line.strip() and not ITEM.match(line):
            self._heading = ""

    def _claims(self, sentence: str) -> list[Claim]:
        """What a sentence claims; an item of a list is a dose where it is one with the heading above it."""
        found = self._checks.find(sentence)
        if self._heading and ITEM.match(self._line + sentence) and not any(one.kind == "dose" for one in found):
            found += [one for one in self._checks.find(f"{self._heading} {sentence}") if one.kind == "dose"]
        return found

    def _judge(self, sentence: str, surplus: int) -> list[Mark]:
        if not sentence.strip(" \r\n|-:"):
            return []
        found: list[Notice] = []
        if self._contradicts and makes_light_of(sentence):
            stopped = self._policy.action("contradiction") == "on"
            text = contradiction_notice(self._language, stopped=stopped)
            found.append(Notice("contradiction", "emergency", text))
        language = language_of(sentence)
        for claim in self._claims(sentence):
            found.append(Notice(claim.kind, "caution", claim.note[language], claim.id))
        if self._facts is not None:
            found += [conflict_notice(one, language) for one in conflicts(self._facts, sentence, rules=self._pharmacy)]
        marks = []
        for notice in found:
            once = notice.rule if notice.kind == "contraindication" else notice.kind
            if once not in self._marked:
                self._marked.add(once)
                shown = self._policy.action(notice.kind) == "on"
                marks.append(Mark(notice, surplus, shown, stops=shown and notice.kind == "contradiction"))
        return marks
