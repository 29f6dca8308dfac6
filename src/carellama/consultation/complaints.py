"""What a person complains of, who sees it and how urgent it is: by the guide of complaints, not by a model.

    [one.id for one in find_complaints("I've got heartburn, and a sore throat")]    # ["heartburn", "sore_throat"]
    found = assess("我怀孕34周了，今天头疼")
    found.urgency, found.departments[0].names["zh"][0]                             # "urgent", "产科"

The guide is data of this project, `complaints/*.yaml` and `departments.yaml`; no clinician has reviewed it. It names no
disease: a complaint leads to departments, questions and advice. Signs of an emergency are found by `safety.triage`
besides; the more urgent of the two counts (`consultation.report`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from carellama.consultation.guide_files import (
    PEOPLE,
    URGENCIES,
    Complaint,
    Department,
    Person,
    Raise,
    read_complaints,
    read_departments,
)
from carellama.consultation.persons import is_bystander
from carellama.consultation.state import Urgency
from carellama.errors import UserError
from carellama.package_data import flat_terms, package_folder, package_text, package_yaml
from carellama.rules import Lexicon, Mention, Mentions, normalize, package_concepts
from carellama.safety.notices import language_of
from carellama.safety.rules.context import Context, Flag
from carellama.safety.rules.files import CONTEXT
from carellama.safety.rules.measures import find_measures, measure_names
from carellama.safety.rules.rule_set import Condition
from carellama.safety.rules.yaml_file import File

DEPARTMENTS = "departments.yaml"
FOLDER = "complaints"
SIGNS = "safety/triage/red_flags/signs.yaml"  # concepts that triage and the guide share
DAYS_PER_YEAR = 365.25
NEWBORN_DAYS, CHILD_YEARS, OLD_YEARS = 28, 16, 75
_COMPLAINT, _RAISE = "complaint ", "raise "  # before the names of the guide's own concepts
# What is said of a person, and the words that look like it and are not.
_SAID: Mapping[Person, tuple[str, str]] = {
    "newborn": ("newborn_words", ""),
    "child": ("child_words", "not_child"),
    "pregnant": ("pregnant_words", "not_pregnant"),
    "after_birth": ("after_birth_words", ""),
    "cancer": ("cancer_words", "not_cancer"),
    "old": ("old_words", "not_old"),
    "male": ("male_words", ""),
    "female": ("female_words", ""),
}
_KIN: frozenset[Person] = frozenset({"newborn", "child", "old"})  # whose words name a relative as well
_CLAUSE_MARKS = ",.;!?。\n"  # of a text of `normalize`
_NOT_NOW: frozenset[Flag] = frozenset({"denied", "past", "question", "supposed"})


@dataclass(frozen=True, slots=True)
class Guide:
    """Departments and complaints by id, and the lexicon of all their words."""

    departments: Mapping[str, Department]
    complaints: Mapping[str, Complaint]
    concepts: Mapping[str, Sequence[str]]
    lexicon: Lexicon


@dataclass(frozen=True, slots=True)
class Assessment:
    """What a text comes to: complaints, the most important first; how urgent and why; who sees it."""

    complaints: tuple[Complaint, ...]
    main: tuple[Complaint, ...]  # those of the first line, or the first
    urgency: Urgency
    raised: tuple[Raise, ...]  # those that make it as urgent as it is
    departments: tuple[Department, ...]
    people: frozenset[Person]


@cache
def load_guide(complaints: tuple[File, ...] = ()) -> Guide:
    """Return the guide that CareLlama ships, or one of other complaints. Raises `UserError` with file and line."""
    by_id = read_departments((DEPARTMENTS, package_text(f"consultation/{DEPARTMENTS}")))
    shipped = ((path.removeprefix("consultation/"), text) for path, text in package_folder(f"consultation/{FOLDER}"))
    found, own = read_complaints(complaints or tuple(shipped), by_id)
    concepts = package_concepts(CONTEXT)
    for name, terms in package_yaml(SIGNS)["concepts"].items():
        concepts.setdefault(name, []).extend(flat_terms(terms))
    for name, terms in own.items():
        concepts.setdefault(name, []).extend(terms)
    for one in found.values():
        concepts[_COMPLAINT + one.id] = list(one.words)
        for number, raised in enumerate(one.raises):
            if raised.find:
                concepts[f"{_RAISE}{one.id} {number}"] = list(raised.find)
    guide = Guide(by_id, found, concepts, Lexicon(concepts))
    _check(guide)
    return guide


def _check(guide: Guide) -> None:
    """Raise `UserError` for a concept or a condition that nothing defines."""
    if unknown := guide.lexicon.references() - measure_names():
        raise UserError(f"terms of complaints refer to concepts that no file has: {', '.join(sorted(unknown))}")
    known = {*PEOPLE, *guide.concepts, *measure_names()}
    for one in guide.complaints.values():
        named = [condition for referral in one.departments for condition in referral.conditions]
        named += [condition.concept for raised in one.raises for condition in raised.who]
        for name in named:
            if name not in known:
                raise UserError(f"{one.place}: {one.id} has the condition {name!r}, which no file has")


def find_complaints(text: str) -> tuple[Complaint, ...]:
    """Return the complaints that a text has, the most important first: see `assess`."""
    return assess(text).complaints


def assess(
    text: str,
    age: float | None = None,
    sex: Person | None = None,
    *,
    background: str = "",
    complaint_ids: Iterable[str] = (),
) -> Assessment:
    """Return what a text comes to. Takes time linear in the text.

    A complaint that is denied does not count, nor one whose words are part of another's. Those of the first line, where
    people say what they came for, stand before the others; among them the more urgent come first, then those said
    first. `background` is what was said of past illness and medicines: it raises the urgency and decides who sees it,
    but is no complaint. `complaint_ids` are those of complaints that are known otherwise; `age` in years and `sex`
    stand before what is said.
    """
    reading = _Reading(load_guide(), text, background, age, sex)
    found = reading.complaints(complaint_ids)
    main = found[:1] + tuple(one for one in found[1:] if reading.is_first(one))
    levels = {one.id: reading.urgency(one) for one in main}
    urgency: Urgency = min(levels.values(), key=URGENCIES.index, default="routine")
    raised = tuple(fired for one in main for fired in reading.raises_of(one) if fired.to == urgency)
    return Assessment(found, main, urgency, raised, reading.departments(found[:1]), reading.people)


class _Reading:
    """One text against the guide."""

    def __init__(self, guide: Guide, text: str, background: str, age: float | None, sex: Person | None) -> None:
        self._guide = guide
        self._end = len(text)  # where the background begins
        self._text = normalize(f"{text}\n{background}")
        self._mentions: Mentions = guide.lexicon.find(self._text, find_measures(self._text))
        self._context = Context(self._text, self._mentions)
        self._first = self._text.find("\n")  # where the first line ends
        self.people = frozenset(self._people(age, sex)) | {language_of(text)}
        self._places = self._find_complaints()

    def complaints(self, complaint_ids: Iterable[str]) -> tuple[Complaint, ...]:
        """The complaints in order of importance."""
        places = dict.fromkeys(complaint_ids, len(self._text)) | self._places
        found = [self._guide.complaints[name] for name in places]
        return tuple(sorted(found, key=lambda one: (*self._rank(one), places[one.id])))

    def is_first(self, one: Complaint) -> bool:
        """Whether the first line tells of it."""
        return self._places.get(one.id, len(self._text) + 1) <= self._first

    def urgency(self, one: Complaint) -> Urgency:
        """How urgent a complaint is, with what raises it."""
        return min((one.urgency, *(raised.to for raised in self.raises_of(one))), key=URGENCIES.index)

    def raises_of(self, one: Complaint) -> list[Raise]:
        """What raises the urgency of a complaint here."""
        return [
            raised
            for number, raised in enumerate(one.raises)
            if (not raised.find or self._is_meant(f"{_RAISE}{one.id} {number}"))
            and (not raised.who or any(self._holds(condition.concept, condition) for condition in raised.who))
        ]

    def departments(self, main: Sequence[Complaint]) -> tuple[Department, ...]:
        """Those of these complaints whose conditions hold, in order."""
        names = [
            referral.department
            for one in main
            for referral in one.departments
            if not referral.conditions or any(self._holds(name) for name in referral.conditions)
        ]
        return tuple(self._guide.departments[name] for name in dict.fromkeys(names))

    def _rank(self, one: Complaint) -> tuple[bool, int]:
        """Those of the first line come first, the more urgent before the others."""
        first = self.is_first(one)
        return not first, URGENCIES.index(self.urgency(one)) if first else 0

    def _holds(self, name: str, condition: Condition | None = None) -> bool:
        if name in PEOPLE:
            return name in self.people
        if condition is not None and condition.comparison:
            return any(condition.holds(one.value) for one in self._mentions.get(name, ()))
        return self._is_meant(name)

    def _is_meant(self, concept: str) -> bool:
        return any(self._is_now(one) for one in self._mentions.get(concept, ()))

    def _is_now(self, one: Mention) -> bool:
        """Whether a mention is meant; a question at the end of a sentence asks about its own clause only."""
        flags = self._context.flags(one) & _NOT_NOW
        if flags != {"question"}:
            return not flags
        begin = max(self._text.rfind(mark, 0, one.start) for mark in _CLAUSE_MARKS) + 1
        end = min(
            (at for mark in _CLAUSE_MARKS if (at := self._text.find(mark, one.end)) >= 0), default=len(self._text)
        )
        return not any(begin <= asked.start < end for asked in self._mentions.get("_question", ()))

    def _find_complaints(self) -> dict[str, int]:
        """The complaints that are told of, and where first."""
        meant = [
            (name[len(_COMPLAINT) :], one)
            for name, mentions in self._mentions.items()
            if name.startswith(_COMPLAINT)
            for one in mentions
            if one.start < self._end and "denied" not in self._context.flags(one)
        ]
        places: dict[str, int] = {}
        for name, one in sorted(meant, key=lambda pair: pair[1].start):
            if not any(is_part(one, other) for kind, other in meant if kind != name):
                places.setdefault(name, one.start)
        return places

    def _people(self, age: float | None, sex: Person | None) -> Iterable[Person]:
        ages = [one.value for one in self._mentions.get("age", ()) if one.value is not None]
        age = age if age is not None else next(iter(ages), None)
        said = {person for person, (words, besides) in _SAID.items() if self._has_person_words(person, words, besides)}
        if sex or "male" in said or "female" in said:
            other: Person = "female" if (sex or ("male" if "male" in said else "female")) == "male" else "male"
            said.discard(other)
            said |= {sex} if sex else set()
        if age is not None:
            said -= {"newborn", "child", "old"}
            said |= {"newborn"} if age * DAYS_PER_YEAR <= NEWBORN_DAYS else set()
            said |= {"child"} if age < CHILD_YEARS else set()
            said |= {"old"} if age >= OLD_YEARS else set()
        if "newborn" in said:
            said.add("child")
        if self._mentions.get("pregnancy_weeks"):
            said.add("pregnant")
        return said - ({"pregnant"} if said & {"male", "child"} else set())

    def _has_person_words(self, person: Person, words: str, besides: str) -> bool:
        """Whether words tell it of the person; a child or an old person is named where the trouble is."""
        others = self._mentions.get(besides, ())
        return any(
            (one.start <= self._first or person not in _KIN)
            and not self._context.flags(one) & {"denied", "supposed"}
            and not any(one.start < other.end and other.start < one.end for other in others)
            and (person not in _KIN or not is_bystander(self._text, one.start, one.end))
            for one in self._mentions.get(words, ())
        )


def is_part(one: Mention, other: Mention) -> bool:
    """Return whether a mention stands within a longer one."""
    return other.start <= one.start and one.end <= other.end and other.end - other.start > one.end - one.start
