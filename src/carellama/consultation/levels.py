"""Which findings of triage hold in an interview, where a sign belongs to the answer that told of it.

    found = triage_interview(safety, known.inputs, Patient(age=48, sex="female"))

The rules of triage were written for one text that somebody writes about one trouble. An interview asks about medicines,
old illnesses and the family too, and a rule that needs two signs finds one of them there. Here

- a rule that one answer makes fire, alone or with the first message, stands as triage has it;
- one that needs several answers is an emergency only where the classifier is far above its threshold on all that was
  said of the trouble, else for today; where the classifier takes the whole for harmless, it is left out, but for a
  sign that meets a medicine or an old illness;
- a rule about children, pregnancy or old age is left out where the patient is known to be somebody else, unless one
  message tells all of it: a person may write of an accident to a child; one for today about pregnancy needs a person
  who says that she is pregnant or has given birth;
- one for today whose signs stand only in answers about old illnesses, medicines and the like is left out;
- an emergency that the classifier alone finds is one where the first message, or all that was said of the trouble, is
  far above its threshold, else for today: it learned from whole stories, and many short answers are above it by little.

Rules of `mind` and `abuse` and those of a hospital always stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from carellama.consultation.complaints import assess
from carellama.consultation.reading import BACKGROUND, Sex
from carellama.consultation.state import FERTILE, Slot
from carellama.records import Message
from carellama.safety.layer import SafetyLayer
from carellama.safety.rules.rule_set import Condition, Entry
from carellama.safety.triage.rules import LEVELS, RedFlag
from carellama.safety.triage.triage import BY_CLASSIFIER, NEVER_OVERRULED, Finding, Triage, patient_text

# Concepts of triage that name who is ill, beside numbers of age and weeks
CHILDREN = frozenset({"infant", "child", "teen", "kid", "infant_or_small", "baby_days", "mind_teen"})
CHILD_PREFIXES = ("ch_", "kid_")
OLD = frozenset({"elderly", "elder_kin", "oldster"})
PREGNANT = frozenset({"pregnant", "preg_any", "postpartum", "new_baby", "lay_after_birth", "pregnancy_weeks"})
PREGNANT_PREFIX = "pg_"
SURE_MARGIN = (
    5.0  # log-odds above the threshold of the classifier, from which it is sure of an emergency in an interview
)
MOOD = "low_mood"  # the complaint in which an emergency stands also where the classifier is not
GROWN = 18  # years from which a rule that names children without an age is about somebody else


@dataclass(frozen=True, slots=True)
class TriageInput:
    """One message of the person that triage looks at, with the questions that it affirms; `about`: what was asked."""

    messages: tuple[Message, ...]
    about: Slot | None = None


@dataclass(frozen=True, slots=True)
class Patient:
    """Who is ill, as far as the interview knows; `not_pregnant`: asked and denied."""

    age: float | None = None  # years
    sex: Sex | None = None
    not_pregnant: bool = False


def all_messages(inputs: Sequence[TriageInput]) -> list[Message]:
    """Return the messages in order."""
    return [message for one in inputs for message in one.messages]


def triage_interview(safety: SafetyLayer, inputs: Sequence[TriageInput], patient: Patient) -> Triage:
    """Return what triage finds in all that was inputs, less what does not hold in an interview."""
    found = safety.triage(all_messages(inputs))
    if len(inputs) <= 1 or not found.findings:
        return found
    reading = _Reading(safety, inputs, patient, found)
    kept = [one for one in map(reading.adjust, found.findings) if one is not None]
    kept.sort(key=lambda one: LEVELS.index(one.level))
    return replace(found, findings=tuple(kept))


class _Reading:
    """One interview, the findings on the whole of it, and what single answers tell."""

    def __init__(self, safety: SafetyLayer, inputs: Sequence[TriageInput], patient: Patient, found: Triage) -> None:
        self._safety, self._inputs, self._patient, self._found = safety, inputs, patient, found
        lengths = [len(patient_text(one.messages)) + 1 for one in inputs]
        self._ends = list(accumulate(lengths))

    def adjust(self, finding: Finding) -> Finding | None:
        """Return the finding as it holds here; None: it does not."""
        rule = finding.rule
        if rule.id == BY_CLASSIFIER.id:
            return finding if self._is_sure or self._is_of_mood else replace(finding, level="urgent")
        if rule.system in NEVER_OVERRULED or not rule.shipped:
            return finding
        if is_of_others(rule, self._patient):
            return finding if self._fires_in(rule, range(len(self._inputs)), with_first=False) else None
        if finding.level != "emergency" and is_of_pregnancy(rule) and not self._is_pregnant:
            return None
        answers = self._answers(finding)
        if len(answers) <= 1:
            return None if self._is_past(finding, answers) else finding
        if self._fires_in(rule, answers, with_first=True):
            return finding
        if self._found.verdict == "harmless" and not self._is_with_background(answers):
            return None
        unsure = finding.level == "emergency" and not self._is_sure
        return replace(finding, level="urgent") if unsure else finding

    def _answers(self, finding: Finding) -> set[int]:
        """Which messages besides the first the signs of a finding stand in."""
        found = {next(at for at, end in enumerate(self._ends) if begin < end) for begin, _ in finding.spans}
        return found - {0}

    def _is_past(self, finding: Finding, answers: set[int]) -> bool:
        """Whether it is for today at most, and told of in answers about old illnesses, medicines and the like."""
        if finding.level == "emergency" or not answers or not finding.spans:
            return False
        in_first = any(begin < self._ends[0] for begin, _ in finding.spans)
        return not in_first and all(self._inputs[at].about in BACKGROUND for at in answers)

    def _is_with_background(self, answers: set[int]) -> bool:
        """Whether a sign meets a medicine or an old illness: what these are asked for, as fever on some tablets."""
        about = {self._inputs[at].about for at in answers}
        return bool(about & {"drugs", "history"}) and not about <= BACKGROUND

    def _fires_in(self, rule: RedFlag, answers: Sequence[int] | set[int] | range, *, with_first: bool) -> bool:
        """Whether a rule fires on one of these messages, alone or with the first."""
        first = self._inputs[0].messages if with_first else ()
        for at in answers:
            messages = self._inputs[at].messages if at == 0 else (*first, *self._inputs[at].messages)
            if any(one.rule.id == rule.id for one in self._safety.triage(messages, rules_only=True).findings):
                return True
        return False

    @cached_property
    def _is_sure(self) -> bool:
        """Whether the classifier is far above its threshold on the first message or on what was said of the trouble."""
        trouble = [one for one in self._inputs if one.about not in BACKGROUND]
        parts = self._inputs[:1], trouble
        return any(self._safety.triage(all_messages(part)).margin >= SURE_MARGIN for part in parts)

    @cached_property
    def _is_of_mood(self) -> bool:
        """Whether the trouble is low mood: what is planned may be told of in few words."""
        return any(one.id == MOOD for one in assess(self._found.text).complaints)

    @cached_property
    def _is_pregnant(self) -> bool:
        """Whether the person says that she is pregnant or has given birth."""
        people = assess(self._found.text).people
        return not people.isdisjoint({"pregnant", "after_birth"})


def is_of_others(rule: RedFlag, patient: Patient) -> bool:
    """Return whether a rule is about children, pregnancy or old age, and the patient is known not to be of them."""
    return any(_is_contradicted(entry, patient) for entry in rule.who)


def is_of_pregnancy(rule: RedFlag) -> bool:
    """Return whether a rule is about pregnancy and the weeks after it alone."""
    return any(map(_is_of_pregnancy, rule.who))


def _is_of_pregnancy(entry: Entry) -> bool:
    return all(one.concept in PREGNANT or one.concept.startswith(PREGNANT_PREFIX) for one in entry)


def _is_contradicted(entry: Entry, patient: Patient) -> bool:
    age = patient.age
    if all(_is_of_children(one) for one in entry):
        bounds = [one.bound for one in entry if one.concept == "age"]
        return age is not None and age > (max(bounds) if bounds else GROWN)
    if all(_is_of_the_old(one) for one in entry):
        bounds = [one.bound for one in entry if one.concept == "age"]
        return age is not None and bool(bounds) and age < min(bounds)
    if _is_of_pregnancy(entry):
        out_of_age = age is not None and not FERTILE[0] <= age <= FERTILE[1]
        return patient.sex == "male" or out_of_age or patient.not_pregnant
    return False


def _is_of_children(one: Condition) -> bool:
    if one.concept == "age":
        return one.comparison in ("<", "<=")
    return one.concept in CHILDREN or one.concept.startswith(CHILD_PREFIXES)


def _is_of_the_old(one: Condition) -> bool:
    return one.concept in OLD or (one.concept == "age" and one.comparison in (">", ">="))
