"""Files of the guide: departments and complaints, read from YAML and checked, so that a fault is said with its line.

    departments = read_departments(("departments.yaml", text))
    complaints, concepts = read_complaints([("complaints/gut.yaml", text)], departments)

A file of complaints has `complaints` (a list) and `concepts` (a name and its terms, see `carellama.rules`), either of
which may be missing. A text that a person reads is there in English and in Chinese. `docs/*/consultation.md` lists the
keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from carellama.consultation.state import SLOTS, Slot, Urgency
from carellama.errors import UserError, nearest
from carellama.rules import parse_term
from carellama.safety.rules.files import COMPARISON
from carellama.safety.rules.measures import measure_names
from carellama.safety.rules.rule_set import Condition
from carellama.safety.rules.yaml_file import Fields, File, Node, is_bilingual, is_texts, read_root

Text = Mapping[str, str]  # by language
Patient = Literal["newborn", "child", "adult", "pregnant"]
Person = Literal["newborn", "child", "pregnant", "after_birth", "cancer", "old", "male", "female", "en", "zh"]
PEOPLE: tuple[Person, ...] = get_args(Person)  # what is worked out about the person, see `consultation.complaints`
URGENCIES: tuple[Urgency, ...] = get_args(Urgency)  # the most urgent first
_DEPARTMENT_KEYS = ("id", "names", "treats", "patients")
_COMPLAINT_KEYS = (
    *("id", "name", "words", "departments", "needs", "urgency", "ask", "tests", "self_care", "return_if"),
    "source",
)
_RAISE_KEYS = ("to", "find", "who", "why")


@dataclass(frozen=True, slots=True)
class Department:
    """A department of a hospital; of its names by language the first is shown."""

    id: str
    names: Mapping[str, tuple[str, ...]]
    treats: Text
    patients: tuple[Patient, ...]


@dataclass(frozen=True, slots=True)
class Referral:
    """A department that sees a complaint: always, or where one of the conditions holds."""

    department: str
    conditions: tuple[str, ...] = ()  # concepts, or one of PEOPLE


@dataclass(frozen=True, slots=True)
class Raise:
    """A sign or a kind of person that makes a complaint more urgent. Where both are given, both must be there."""

    to: Urgency
    find: tuple[str, ...]  # terms, any of them
    who: tuple[Condition, ...]  # any of them: one of PEOPLE, a concept or a number
    why: Text


@dataclass(frozen=True, slots=True)
class Complaint:
    """What a person may complain of: its words, who sees it, how urgent it is, what to ask, and what to advise."""

    id: str
    name: Text
    words: tuple[str, ...]  # terms of carellama.rules
    departments: tuple[Referral, ...]
    needs: tuple[Slot, ...]  # slots that matter for it besides those that always do
    urgency: Urgency
    raises: tuple[Raise, ...]
    ask: Mapping[Slot, Text]  # questions of its own
    tests: Text
    self_care: Text
    return_if: Text
    source: str
    place: str  # file:line


def read_departments(file: File) -> dict[str, Department]:
    """Return the departments of a file by id. Raises `UserError` with file and line."""
    found: dict[str, Department] = {}
    for node in read_root(file).entries(("departments",))["departments"].items():
        fields = Fields(node, _DEPARTMENT_KEYS, _DEPARTMENT_KEYS)
        names = fields.value("names", dict)
        if names.keys() != {"en", "zh"} or not all(
            isinstance(given, list) and is_texts(given) for given in names.values()
        ):
            fields.fail("names", "has a list of names in en and one in zh, and nothing else")
        patients = fields.words("patients", get_args(Patient))
        one = Department(
            _id(fields), {tongue: tuple(given) for tongue, given in names.items()}, fields.text("treats"), patients
        )
        if one.id in found:
            fields.fail("id", f"is {one.id!r}, which another department has")
        found[one.id] = one
    return found


def read_complaints(
    files: Sequence[File], departments: Mapping[str, Department]
) -> tuple[dict[str, Complaint], dict[str, list[str]]]:
    """Return complaints by id, and the concepts of all files. Raises `UserError` with file and line."""
    complaints: dict[str, Complaint] = {}
    concepts: dict[str, list[str]] = {}
    for file in files:
        parts = read_root(file).entries(("complaints", "concepts"))
        for concept, node in parts["concepts"].entries().items() if "concepts" in parts else ():
            concepts.setdefault(concept, []).extend(_terms(node, f"the terms of {concept!r}"))
        for node in parts["complaints"].items() if "complaints" in parts else ():
            one = _complaint(Fields(node, (*_COMPLAINT_KEYS, "raise"), _COMPLAINT_KEYS), departments)
            if one.id in complaints:
                node.fail(f"the id {one.id!r} is used by {complaints[one.id].place}")
            complaints[one.id] = one
    return complaints, concepts


def _complaint(fields: Fields, departments: Mapping[str, Department]) -> Complaint:
    referrals = tuple(_referral(fields, one, departments) for one in fields.words("departments"))
    if all(one.conditions for one in referrals):
        fields.fail("departments", "ends with one that needs no condition")
    return Complaint(
        id=_id(fields),
        name=fields.text("name"),
        words=tuple(_terms(fields.nodes["words"], f"words of {fields.title}")),
        departments=referrals,
        needs=fields.words("needs", SLOTS),
        urgency=fields.words("urgency", URGENCIES)[0],
        raises=tuple(map(_raise, fields.nodes["raise"].items() if "raise" in fields.nodes else ())),
        ask=_ask(fields),
        tests=fields.text("tests"),
        self_care=fields.text("self_care"),
        return_if=fields.text("return_if"),
        source=fields.value("source", str),
        place=fields.place,
    )


def _referral(fields: Fields, text: str, departments: Mapping[str, Department]) -> Referral:
    name, _, conditions = text.partition(" if ")
    if name not in departments:
        fields.fail("departments", f"names {name!r}, which departments.yaml does not have.{nearest(name, departments)}")
    return Referral(name, tuple(one.strip() for one in conditions.split("|")) if conditions else ())


def _raise(node: Node) -> Raise:
    inner = Fields(node, _RAISE_KEYS, ("to", "why"))
    find = tuple(_terms(inner.nodes["find"], "find")) if "find" in inner.given else ()
    who = tuple(_condition(inner, one) for one in inner.words("who")) if "who" in inner.given else ()
    if not find and not who:
        inner.fail("to", "stands alone: a raise needs find, who or both")
    return Raise(inner.words("to", URGENCIES)[0], find, who, inner.text("why"))


def _condition(fields: Fields, text: str) -> Condition:
    compared = COMPARISON.fullmatch(text)
    if compared is None:
        return Condition(text)
    if compared[1] not in measure_names():
        fields.fail(
            "who", f"compares {compared[1]!r}, which is no number; numbers: {', '.join(sorted(measure_names()))}"
        )
    return Condition(compared[1], compared[2], float(compared[3]))


def _ask(fields: Fields) -> Mapping[Slot, Text]:
    given: dict[Slot, Text] = fields.value("ask", dict)
    for slot, said in given.items():
        if slot not in SLOTS:
            fields.fail("ask", f"has the unknown slot {slot!r}.{nearest(str(slot), SLOTS)} Known: {', '.join(SLOTS)}")
        if not is_bilingual(said):
            fields.fail("ask", f"says the question about {slot} in en and in zh, each a text, and nothing else")
    if "red_flag" not in given:
        fields.fail("ask", "has no question about red_flag")
    return given


def _id(fields: Fields) -> str:
    """The id: a word of Latin letters."""
    id = str(fields.given["id"])
    if not re.fullmatch(r"[a-z][a-z0-9_]*", id):
        fields.fail("id", f"is {id!r}; an id is lower-case letters, digits and _")
    return id


def _terms(node: Node, what: str) -> list[str]:
    """Terms of `carellama.rules`, well formed."""
    terms = node.terms(what)
    for term in terms:
        try:
            parse_term(term)
        except UserError as error:
            node.fail(str(error))
    return terms
