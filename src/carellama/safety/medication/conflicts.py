"""Which medicines of a text do not go with what the person said: contraindications and interactions.

    facts = person_facts(messages)
    conflicts(facts, "能吃布洛芬吗", of="question")            # the person's words: what is taken or asked about
    conflicts(facts, "You can take ibuprofen.", of="answer")   # a sentence of an answer: what is recommended

An answer that warns ("avoid ibuprofen in pregnancy") is no conflict, nor is one that only explains. The rows are data
(`contraindications.yaml`), each with a source. It checks no dose, and knows no medicine that has no row.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from carellama.rules import SENTENCE_END, Mentions, normalize, words_between
from carellama.safety.medication.facts import DrugMention, Fact, PersonFacts, Reading, is_topical, person_facts
from carellama.safety.medication.persons import PATTERNS, longest_names
from carellama.safety.medication.rules import (
    ANY,
    CONDITION,
    DRUG,
    SAME,
    Drug,
    MedicationRules,
    Row,
    Severity,
    Target,
    load_medication,
)

__all__ = ["Conflict", "Fact", "PersonFacts", "conflicts", "person_facts"]
BEFORE = 8  # drugs before one, with which it may be meant together
LONGEST_CHOICE = 12  # characters between two drugs that are a choice
NEAR = 4  # words after "do not" within which "take" is part of the warning
_BULLET = re.compile(r"\s*(?:[-*•·]|\d{1,2}[.)、])\s*\**")
_NAMES = {
    "pregnancy": {"en": "pregnancy", "zh": "怀孕"},
    "breastfeeding": {"en": "breastfeeding", "zh": "哺乳"},
}


@dataclass(frozen=True, slots=True)
class Conflict:
    """A medicine of a text and what it does not go with; offsets into the text."""

    drug: str
    condition: str
    severity: Severity
    row: str
    texts: Mapping[str, str]  # one line in each language, with what to do
    source: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _DrugSpan:
    """A drug in the text, with its place."""

    id: str
    start: int
    end: int
    topical: bool = False


def conflicts(
    facts: PersonFacts,
    text: str,
    of: Literal["question", "answer"] = "answer",
    rules: MedicationRules | None = None,
    *,
    behind: int = 0,
) -> list[Conflict]:
    """Return the rows that a text runs into, by place, the most severe of each pair. Linear in the length.

    `behind`: where the text that is meant begins; what stands before it is the heading of a list.
    """
    rules = rules or load_medication()
    if of == "question":
        reading = Reading(text, rules)
        named = [
            _DrugSpan(one.id, one.start, one.end, one.topical)
            for one in sorted(reading.drugs, key=_order)
            if not one.denied and one.role != "allergy" and one.subject == reading.patient
        ]
        joined = _are_no_choice if PATTERNS["choice"].search(text.lower()) else None
        return _Judge(facts, text, rules).judge(named, joined)
    answer = _Answer(text, rules)
    recommended = [one for one in answer.recommended() if one.start >= behind]
    if len(recommended) < (1 if facts.decide else 2):
        return []
    return _Judge(facts, text, rules).judge(recommended, _are_combined, warned=answer.warns_of)


def _order(mention: DrugMention) -> tuple[bool, int]:
    """What is asked about first, what was named last first of those taken: conflicts are said of the earlier of two."""
    taken = mention.role != "asked"
    return taken, -mention.start if taken else mention.start


def _are_combined(between: str) -> bool:
    """Whether an answer recommends two drugs together, not as a choice."""
    return not SENTENCE_END.search(between) and not PATTERNS["or"].search(between)


def _are_no_choice(between: str) -> bool:
    """Whether a question that compares drugs is about taking these two together."""
    return len(between) > LONGEST_CHOICE or not (PATTERNS["or"].search(between) or PATTERNS["and"].fullmatch(between))


class _Judge:
    """Holds the drugs of one text against facts."""

    def __init__(self, facts: PersonFacts, text: str, rules: MedicationRules) -> None:
        self._facts, self._text, self._rules = facts, text, rules

    def judge(
        self,
        named: Sequence[_DrugSpan],
        joined: Callable[[str], bool] | None,
        warned: Callable[[_DrugSpan, str], bool] = lambda drug, of: False,
    ) -> list[Conflict]:
        """Return the conflicts of these drugs with the facts and with each other.

        `joined`: whether two of them are meant together, by what stands between them; None: all are.
        """
        found: dict[tuple[str, str], Conflict] = {}
        taken, before = _Others(self._rules), _Others(self._rules)
        for fact in self._facts.drugs:
            taken.add(fact.id)
        for at, one in enumerate(named):
            if joined:
                before = _Others(self._rules)
                for other in named[max(0, at - BEFORE) : at]:
                    first, second = sorted((other, one), key=lambda drug: drug.start)
                    if joined(self._text[first.end : second.start].lower()):
                        before.add(other.id)
            for conflict in (*self._of(one, taken), *self._of(one, before)):
                key = (conflict.drug, conflict.condition)
                if key[::-1] in found or warned(one, conflict.condition):
                    continue
                if key not in found or (found[key].severity, conflict.severity) == ("caution", "avoid"):
                    found[key] = conflict
            before.add(one.id)
        return sorted(found.values(), key=lambda one: (one.start, one.severity, one.row))

    def _of(self, one: _DrugSpan, others: _Others) -> Iterator[Conflict]:
        for substance in self._rules.drugs[one.id].of:
            drug = self._rules.drugs[substance]
            for row in self._rules.rows_of(drug):
                for target in row.targets:
                    if one.topical and not drug.topical and target.kind != "allergy":
                        continue
                    for condition in self._met(one, drug, row, target, others):
                        yield self._conflict(one, row, condition)

    def _met(self, one: _DrugSpan, drug: Drug, row: Row, target: Target, others: _Others) -> Iterator[str]:
        """What of the facts, or of the other drugs, the target is."""
        facts, named = self._facts, not drug.groups.isdisjoint(row.drugs) or ANY in row.drugs
        if target.kind == "drug":
            if named:
                yield from others.of_group(target.id, drug, one.id)
            if target.id in drug.groups:
                for id in row.drugs:
                    yield from others.of_group(id, drug, one.id)
        elif not named:
            return
        elif target.kind == "condition":
            yield from (fact.id for fact in facts.diseases if fact.id == target.id)
        elif target.kind == "allergy":
            yield from (fact.id for fact in facts.allergies if self._allergic(drug, target, fact.id))
        elif target.kind == "age":
            if facts.age and facts.age.value is not None and target.low <= facts.age.value < target.high:
                yield "age"
        elif target.kind == "breastfeeding":
            if facts.breastfeeding:
                yield "breastfeeding"
        elif facts.pregnancy and (not target.trimester or facts.trimester in (0, target.trimester)):
            yield "pregnancy"

    def _allergic(self, drug: Drug, target: Target, allergy: str) -> bool:
        for id in self._rules.drugs[allergy].of:
            groups = self._rules.drugs[id].groups
            if target.id != SAME:
                if target.id in groups and target.id not in drug.groups:
                    return True
            elif id in drug.groups or any(self._rules.drugs[one].family for one in groups & drug.groups):
                return True
        return False

    def _conflict(self, one: _DrugSpan, row: Row, condition: str) -> Conflict:
        return Conflict(
            drug=one.id,
            condition=condition,
            severity=row.severity,
            row=row.id,
            texts={language: self._line(one, row, condition, language) for language in ("en", "zh")},
            source=row.source,
            start=one.start,
            end=one.end,
        )

    def _line(self, one: _DrugSpan, row: Row, condition: str, language: str) -> str:
        said = self._rules.drugs[one.id].names[language]
        advice = self._rules.advice[row.severity][language]
        if language == "zh":
            return f"{said}与{self._name(condition, language)}：{row.text['zh']}。{advice}"
        return f"{said[0].upper()}{said[1:]} and {self._name(condition, language)}: {row.text['en']}. {advice}"

    def _name(self, condition: str, language: str) -> str:
        if condition == "age" and self._facts.age:
            years = self._facts.age.value or 0.0
            return f"an age of {years:g}" if language == "en" else f"{years:g}岁"
        if condition in _NAMES:
            return _NAMES[condition][language]
        names = self._rules.conditions.get(condition)
        return names[language] if names else self._rules.drugs[condition].names[language]


class _Others:
    """Drugs that another one is held against, by the classes they belong to."""

    def __init__(self, rules: MedicationRules) -> None:
        self._rules, self._of_group = rules, dict[str, dict[str, frozenset[str]]]()

    def add(self, id: str) -> None:
        """Add a class, a substance or a product."""
        for substance in self._rules.drugs[id].of:
            for group in self._rules.drugs[substance].groups:
                self._of_group.setdefault(group, {})[id] = frozenset(self._rules.drugs[id].of)

    def of_group(self, group: str, drug: Drug, name: str) -> list[str]:
        """Return the drugs of a class other than `name`, and than `drug` unless the row is about taking it twice."""
        found = self._of_group.get(group, {}).items()
        return [id for id, of in found if id != name and (of != {drug.id} or group == drug.id)]


class _Answer:
    """Text of an answer: which drugs it recommends, and which it warns of."""

    def __init__(self, text: str, rules: MedicationRules) -> None:
        self._plain = PATTERNS["abbreviation"].sub(r"\1 ", normalize(text))
        found = rules.find_names(self._plain)
        self._found: Mentions = {} if found is None else found
        names = () if found is None else found
        self._names = [name for name in names if name.startswith(DRUG) or name == "_void"]

    @cached_property
    def _drugs(self) -> list[_DrugSpan]:
        return [
            _DrugSpan(name[len(DRUG) :], start, end, is_topical(self._plain, start, end))
            for start, end, name in longest_names(self._found, self._names)
        ]

    @cached_property
    def _ends(self) -> list[int]:
        return [match.end() for match in SENTENCE_END.finditer(self._plain)]

    def _sentence(self, place: int) -> tuple[int, int]:
        at = bisect_left(self._ends, place + 1)
        return (self._ends[at - 1] if at else 0), (self._ends[at] if at < len(self._ends) else len(self._plain))

    @cached_property
    def _signals(self) -> list[tuple[int, int, str]]:
        """Words that recommend, warn or tell what is taken, in order, the longest at each place."""
        kinds = ("_warn_before", "_warn_after", "_recommend_before", "_recommend_after", "_taken_before", "_contrast")
        spans = sorted((one.start, -one.end, kind) for kind in kinds for one in self._found.get(kind, ()))
        kept: list[tuple[int, int, str]] = []
        reach, longest = 0, (-1, -1)
        for start, end, kind in spans:
            if -end > reach or (start, end) == longest:
                reach, longest = max(reach, -end), (start, end)
                kept.append((start, -end, kind))
        return self._without_verbs_of_warnings(kept)

    def _without_verbs_of_warnings(self, signals: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
        """Without "take" in "do not ever take": it is a part of the warning."""
        kept: list[tuple[int, int, str]] = []
        warned = -1
        for start, end, kind in signals:
            if kind in ("_recommend_before", "_recommend_after") and warned >= 0 and start >= warned:
                between = self._plain[warned:start]
                near = not re.search(r"[,;.。!?\n]", between) and words_between(self._plain, warned, start) <= NEAR
                if near and not self._drugs_near(warned, start):
                    warned = end
                    continue
            if kind in ("_warn_before", "_taken_before"):
                warned = end
            kept.append((start, end, kind))
        return kept

    def _drugs_near(self, begin: int, end: int) -> list[_DrugSpan]:
        at = bisect_left(self._drugs, begin, key=lambda one: one.start)
        until = bisect_left(self._drugs, end, key=lambda one: one.start)
        return self._drugs[at:until]

    def recommended(self) -> list[_DrugSpan]:
        """Return the drugs that the text tells the person to take, in order."""
        return [one for one in self._drugs if self._is_recommended(one)] if self._drugs else []

    def _is_recommended(self, drug: _DrugSpan) -> bool:
        begin, end = self._sentence(drug.start)
        before = self._before(begin, drug.start)
        after = self._after(drug.end, end)
        if after == "_warn_after" or before in ("_warn_before", "_taken_before"):
            return False
        recommends = before == "_recommend_before" or after == "_recommend_after"
        if recommends or PATTERNS["dose"].match(self._plain, drug.end):
            return True
        line = self._plain.rfind("\n", 0, drug.start) + 1
        bullet = _BULLET.match(self._plain, line)  # the full stop of 1. ends a sentence
        return bullet is not None and begin <= bullet.end() and self._heading(line) == "_recommend_before"

    def _before(self, begin: int, end: int) -> str:
        at = bisect_left(self._signals, (end, 0, ""))
        for start, until, kind in reversed(self._signals[max(0, at - 8) : at]):
            if start < begin or kind == "_contrast":
                break
            if until <= end and kind.endswith("_before"):
                return kind
        return ""

    def _after(self, begin: int, end: int) -> str:
        at = bisect_left(self._signals, (begin, 0, ""))
        for start, _, kind in self._signals[at : at + 8]:
            if start >= end or kind in ("_contrast", "_taken_before"):
                break
            if kind.endswith("_after"):
                return kind
            if re.search(r"[,;]", self._plain[begin:start]) or kind == "_recommend_before":
                break
        return ""

    def _heading(self, begin: int) -> str:
        """What the last line before a list says: "Options:", "Avoid:"."""
        lines = self._plain[max(0, begin - 600) : begin].splitlines()
        heading = next((line for line in reversed(lines) if line.rstrip("* ").endswith(":")), None)
        if heading is None:
            return ""
        place = self._plain.rfind(heading, 0, begin)
        kinds = [kind for start, _, kind in self._signals if place <= start < place + len(heading)]
        warns = any(kind in ("_warn_before", "_warn_after") for kind in kinds)
        return "_warn_before" if warns else "_recommend_before" if "_recommend_before" in kinds else ""

    def warns_of(self, drug: _DrugSpan, condition: str) -> bool:
        """Return whether the sentence itself warns, behind the drug, of the condition or the other drug."""
        _, end = self._sentence(drug.start)
        concepts = {"pregnancy": "_pregnant", "breastfeeding": "_breastfeeding"}
        for concept in (concepts.get(condition, ""), CONDITION + condition, DRUG + condition):
            for one in self._found.get(concept, ()):
                if drug.end <= one.start < end and self._warning_between(drug.end, end):
                    return True
        return False

    def _warning_between(self, begin: int, end: int) -> bool:
        at = bisect_left(self._signals, (begin, 0, ""))
        until = bisect_left(self._signals, (end, 0, ""))
        return any(kind in ("_warn_before", "_warn_after") for _, _, kind in self._signals[at:until])
