"""Files of the guide: departments and complaints, read from YAML and checked, so that a fault is said with its line.

    departments = read_departments(("departments.yaml", text))
    complaints, concepts = read_complaints([("complaints/gut.yaml", text)], departments)

A file of complaints has `complaints` (a list) and `concepts` (a name and its terms, see `carellama.rules`), either of
which may be missing. A text that a person reads is there in English and in Chinese. `docs/*/consultation.md` lists the
keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

import yaml

from carellama.consultation.state import SLOTS, Slot, Urgency
from carellama.errors import UserError, nearest
from carellama.rules import parse_term
from carellama.safety.rules.files import File, check_once, compose, known_key, plain_value
from carellama.safety.rules.measures import measure_names
from carellama.safety.rules.rule_set import Condition

Text = Mapping[str, str]  # by language
Patient = Literal["newborn", "child", "adult", "pregnant"]
Person = Literal["newborn", "child", "pregnant", "after_birth", "cancer", "old", "male", "female", "en", "zh"]
PEOPLE: tuple[Person, ...] = get_args(Person)  # what is worked out about the person, see `consultation.complaints`
URGENCIES: tuple[Urgency, ...] = get_args(Urgency)  # the most urgent first
_COMPARISON = re.compile(r"(\w+) *(<=|>=|<|>) *(-?\d+(?:\.\d+)?)")
_DEPARTMENT_KEYS = ("id", "names", "treats", "patients")
_COMPLAINT_KEYS = (
    *("id", "name", "words", "departments", "needs", "urgency", "raise", "ask", "tests", "self_care", "return_if"),
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
    for node in _items(file[0], _parts(file, ("departments",)).get("departments")):
        fields = _Fields(file[0], node, _DEPARTMENT_KEYS, _DEPARTMENT_KEYS)
        names = fields.value("names", dict)
        if names.keys() != {"en", "zh"} or not all(_is_texts(given) and given for given in names.values()):
            fields.fail("names", "has a list of names in en and one in zh, and nothing else")
        patients = fields.words("patients", get_args(Patient))
        one = Department(
            fields.id(), {tongue: tuple(given) for tongue, given in names.items()}, fields.text("treats"), patients
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
    for name, text in files:
        parts = _parts((name, text), ("complaints", "concepts"))
        for line, concept, terms in _entries(name, parts.get("concepts")):
            concepts.setdefault(concept, []).extend(_terms(f"{name}:{line}", concept, terms))
        for node in _items(name, parts.get("complaints")):
            one = _complaint(_Fields(name, node, _COMPLAINT_KEYS, set(_COMPLAINT_KEYS) - {"raise"}), departments)
            if one.id in complaints:
                raise UserError(f"{one.place}: the id {one.id!r} is used by {complaints[one.id].place}")
            complaints[one.id] = one
    return complaints, concepts


def _complaint(fields: _Fields, departments: Mapping[str, Department]) -> Complaint:
    referrals = tuple(_referral(fields, one, departments) for one in fields.words("departments"))
    if all(one.conditions for one in referrals):
        fields.fail("departments", "ends with one that needs no condition")
    return Complaint(
        id=fields.id(),
        name=fields.text("name"),
        words=tuple(fields.terms("words")),
        departments=referrals,
        needs=fields.words("needs", SLOTS),
        urgency=fields.words("urgency", URGENCIES)[0],
        raises=tuple(_raise(fields, one) for one in fields.nodes("raise")),
        ask=_ask(fields),
        tests=fields.text("tests"),
        self_care=fields.text("self_care"),
        return_if=fields.text("return_if"),
        source=fields.value("source", str),
        place=fields.place,
    )


def _referral(fields: _Fields, text: str, departments: Mapping[str, Department]) -> Referral:
    name, _, conditions = text.partition(" if ")
    if name not in departments:
        fields.fail("departments", f"names {name!r}, which departments.yaml does not have.{nearest(name, departments)}")
    return Referral(name, tuple(one.strip() for one in conditions.split("|")) if conditions else ())


def _raise(fields: _Fields, node: yaml.Node) -> Raise:
    inner = _Fields(fields.file, node, _RAISE_KEYS, ("to", "why"))
    find = tuple(inner.terms("find")) if "find" in inner.given else ()
    who = tuple(_condition(inner, one) for one in inner.words("who")) if "who" in inner.given else ()
    if not find and not who:
        inner.fail("to", "stands alone: a raise needs find, who or both")
    return Raise(inner.words("to", URGENCIES)[0], find, who, inner.text("why"))


def _condition(fields: _Fields, text: str) -> Condition:
    compared = _COMPARISON.fullmatch(text)
    if compared is None:
        return Condition(text)
    if compared[1] not in measure_names():
        fields.fail(
            "who", f"compares {compared[1]!r}, which is no number; numbers: {', '.join(sorted(measure_names()))}"
        )
    return Condition(compared[1], compared[2], float(compared[3]))


def _ask(fields: _Fields) -> Mapping[Slot, Text]:
    given: dict[Slot, Text] = fields.value("ask", dict)
    for slot, said in given.items():
        if slot not in SLOTS:
            fields.fail("ask", f"has the unknown slot {slot!r}.{nearest(str(slot), SLOTS)} Known: {', '.join(SLOTS)}")
        if not _is_bilingual(said):
            fields.fail("ask", f"says the question about {slot} in en and in zh, each a text, and nothing else")
    if "red_flag" not in given:
        fields.fail("ask", "has no question about red_flag")
    return given


class _Fields:
    """One entry of a list as the file has it: checked for its keys; a fault names the line of the key."""

    def __init__(self, name: str, node: yaml.Node, keys: Sequence[str], needed: Sequence[str] | set[str]) -> None:
        self.file, self.place = name, f"{name}:{node.start_mark.line + 1}"
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{self.place}: this is no mapping with the keys {', '.join(keys)}")
        check_once(name, node)
        self._nodes = {known_key(name, key, keys): value for key, value in node.value}
        self._lines = {str(key.value): key.start_mark.line + 1 for key, _ in node.value}
        self.given: Mapping[str, Any] = plain_value(name, node)
        self._title = self.given.get("id", "an entry")
        for key in keys:
            if key in needed and not self.given.get(key):
                raise UserError(f"{self.place}: {self._title} has no {key}; it needs {', '.join(sorted(needed))}")

    def fail(self, key: str, fault: str) -> NoReturn:
        """Raise `UserError` about a key of the entry."""
        raise UserError(f"{self.file}:{self._lines[key]}: {key} of {self._title} {fault}")

    def value(self, key: str, kind: type) -> Any:
        """Return the value of a key, which is of this type."""
        if not isinstance(self.given[key], kind):
            self.fail(key, f"is {type(self.given[key]).__name__}: {self.given[key]!r}")
        return self.given[key]

    def id(self) -> str:
        """Return the id: a word of Latin letters."""
        if not re.fullmatch(r"[a-z][a-z0-9_]*", str(self.given["id"])):
            self.fail("id", f"is {self.given['id']!r}; an id is lower-case letters, digits and _")
        return str(self.given["id"])

    def text(self, key: str) -> Text:
        """Return a text in English and one in Chinese."""
        if not _is_bilingual(self.given[key]):
            self.fail(key, "says it in en and in zh, each a text, and nothing else")
        return dict(self.given[key])

    def words(self, key: str, allowed: Sequence[Any] = ()) -> tuple[Any, ...]:
        """Return one text or a list of them; where `allowed` are given, each is one of these."""
        given = self.given[key] if isinstance(self.given[key], list) else [self.given[key]]
        if not given or not _is_texts(given):
            self.fail(key, "is a text or a list of texts; write yes, no and numbers in quotes")
        for one in given:
            if allowed and one not in allowed:
                self.fail(key, f"is or has {one!r}.{nearest(one, allowed)} Known: {', '.join(allowed)}")
        return tuple(given)

    def terms(self, key: str) -> list[str]:
        """Return terms of `carellama.rules`."""
        return _terms(f"{self.file}:{self._lines[key]}", f"{key} of {self._title}", self.given[key])

    def nodes(self, key: str) -> list[yaml.Node]:
        """Return the items of a list, none where the key is missing."""
        node = self._nodes.get(key)
        if node is not None and not isinstance(node, yaml.SequenceNode):
            self.fail(key, "is a list of mappings")
        return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _is_bilingual(given: Any) -> bool:
    return isinstance(given, dict) and given.keys() == {"en", "zh"} and _is_texts(list(given.values()))


def _is_texts(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(one, str) and one.strip() for one in given)


def _parts(file: File, keys: Sequence[str]) -> Mapping[str, yaml.Node]:
    name, text = file
    node = compose(name, text)
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{name}:1: this file has the keys {' and '.join(keys)}")
    check_once(name, node)
    return {known_key(name, key, keys): value for key, value in node.value}


def _items(name: str, node: yaml.Node | None) -> list[yaml.Node]:
    if node is not None and not isinstance(node, yaml.SequenceNode):
        raise UserError(f"{name}:{node.start_mark.line + 1}: this is a list of mappings, each with an id")
    return list(node.value) if node is not None else []


def _entries(name: str, node: yaml.Node | None) -> Iterator[tuple[int, str, Any]]:
    if node is not None and not isinstance(node, yaml.MappingNode):
        raise UserError(f"{name}:{node.start_mark.line + 1}: concepts is a mapping of a name to its terms")
    for key, value in node.value if node is not None else ():
        yield key.start_mark.line + 1, known_key(name, key), plain_value(name, value)


def _terms(place: str, what: str, given: Any) -> list[str]:
    """Terms: a list of texts, or of lists of texts, one for each language."""
    flat = [one for group in given for one in (group if isinstance(group, list) else [group])] if given else []
    if not isinstance(given, list) or not flat or not _is_texts(flat):
        raise UserError(f"{place}: {what} is a list of texts; write words such as yes and no in quotes")
    for term in flat:
        try:
            parse_term(term)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
    return flat
