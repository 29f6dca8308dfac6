"""Medicines, and what they do not go with: read from YAML, checked, and held in one lexicon.

    rules = load_medication()                          # those that CareLlama ships
    rules = load_medication([Path("pharmacy.yaml")])   # with rows of a pharmacy besides

`drugs.yaml` has classes, substances and products of several substances; `contraindications.yaml` has conditions and
rows. A row says which medicine (`drug`) does not go with what (`with`): a condition, pregnancy, breastfeeding, an age,
an allergy or another medicine. A further file has any of these keys. What rows say is not checked against a database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from ahocorasick_rs import AhoCorasick

from carellama.errors import nearest
from carellama.rules import FoundMentions, Lexicon, package_concepts, parse_term
from carellama.safety.rules.files import CONTEXT, shipped_file
from carellama.safety.rules.yaml_file import File, Node, is_texts, read_root, user_file

Severity = Literal["avoid", "caution"]
Kind = Literal["condition", "drug", "pregnancy", "breastfeeding", "age", "allergy"]
FILES = ("medication/drugs.yaml", "medication/contraindications.yaml")
PARTS = ("classes", "substances", "products", "advice", "conditions", "groups")
ANY, SAME = "any", "same"
DRUG, CONDITION = "drug:", "condition:"  # prefixes of their concepts in the lexicon
_AGE = re.compile(r"age (?:(<|>=) (\d+(?:\.\d+)?)|(\d+) to (\d+))")
_TRIMESTER = re.compile(r"pregnancy trimester ([123])")
_ALLERGY = re.compile(r"allergy (\w+)")
_UNITS = {"<": "lt", ">=": "ge"}
# 吃 before a negation and its like: in context.yaml they void a denial, which is right for signs and wrong for drugs
_DENY_DRUGS = frozenset(("没吃", "不吃", "没喝", "不喝"))


@dataclass(frozen=True, slots=True)
class Drug:
    """A class, a substance or a product; `groups` has its own id and those of all classes it belongs to."""

    id: str
    names: Mapping[str, str]  # the one that is shown, by language
    groups: frozenset[str]
    of: tuple[str, ...]  # substances of a product; else its own id
    family: bool = False  # a class whose members are too alike for a person with an allergy to one
    topical: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """What a medicine does not go with."""

    kind: Kind
    id: str = ""
    low: float = 0.0  # of an age: from, years
    high: float = 200.0  # below
    trimester: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One row: any of the drugs does not go with any of the targets."""

    id: str
    drugs: tuple[str, ...]
    targets: tuple[Target, ...]
    severity: Severity
    text: Mapping[str, str]
    source: str
    place: str


@dataclass(frozen=True, slots=True)
class Examples:
    """Texts of persons on which a row must be found, and on which no row of the group may be."""

    name: str
    rows: frozenset[str]
    fires: tuple[tuple[str, str, str], ...]  # row, text, place
    spares: tuple[tuple[str, str], ...]  # text, place


class NameSearch:
    """Tells whether a text has any of many names, which are terms of a `Lexicon`; it may be wrong about a yes."""

    def __init__(self, terms: Iterable[str]) -> None:
        firsts = [parse_term(term).parts[0] for term in terms]
        self._always = any(one.startswith("{") for one in firsts)  # a term that begins with a concept
        words = dict.fromkeys(one.rstrip("*") for one in firsts)
        words |= dict.fromkeys(one.replace("'", "") for one in words)  # as the lexicon has them
        self._latin = [one[0].isascii() and one[0].isalpha() for one in words]
        self._automaton = AhoCorasick(list(words))

    def is_in(self, plain: str) -> bool:
        """Return whether a text of `normalize` has a name; a Latin one at the beginning of a word."""
        return self._always or any(
            not (self._latin[index] and start and plain[start - 1].isascii() and plain[start - 1].isalnum())
            for index, start, _ in self._automaton.find_matches_as_indexes(plain, overlapping=True)
        )


@dataclass(frozen=True, slots=True)
class MedicationRules:
    """All that is known of medicines; `by_drug` has the rows of each id that a row names."""

    drugs: Mapping[str, Drug]
    conditions: Mapping[str, Mapping[str, str]]  # id -> name by language
    rows: tuple[Row, ...]
    by_drug: Mapping[str, tuple[Row, ...]]
    advice: Mapping[str, Mapping[str, str]]
    examples: tuple[Examples, ...]
    lexicon: Lexicon
    names: NameSearch

    def find_names(self, plain: str) -> FoundMentions | None:
        """Return what a text of `normalize` mentions; None where it names no medicine and no condition.

        Most sentences of an answer name neither, and the search for a name takes a tenth of the time.
        """
        return self.lexicon.find(plain) if self.names.is_in(plain) else None

    def rows_of(self, drug: Drug) -> list[Row]:
        """Return the rows that name the drug, one of its classes, or any drug."""
        return [row for group in (*sorted(drug.groups), ANY) for row in self.by_drug.get(group, ())]


def load_medication(more: Sequence[Path] = ()) -> MedicationRules:
    """Return the rows that CareLlama ships, and those of more files. Raises `UserError` with file and line."""
    return _shipped() if not more else _build([*_shipped_files(), *map(user_file, more)])


def is_medication_file(path: Path) -> bool:
    """Return whether a file has rows about medicines, by its keys."""
    keys = read_root(user_file(path)).key_names()
    return bool(keys) and keys <= set(PARTS)


@cache
def _shipped() -> MedicationRules:
    return _build(_shipped_files())


def _shipped_files() -> list[File]:
    return [shipped_file(name) for name in FILES]


def _build(files: Sequence[File]) -> MedicationRules:
    reader = _Reader()
    parts = [part for file in files for part in read_root(file).entries(PARTS).items()]
    for wanted in PARTS:  # what rows name must be known before them, in whichever file it is
        for part, node in parts:
            if part == wanted:
                getattr(reader, f"read_{part}")(node)
    return reader.result()


@dataclass
class _Reader:
    """What was read so far."""

    drugs: dict[str, Drug] = field(default_factory=dict)
    conditions: dict[str, dict[str, str]] = field(default_factory=dict)
    advice: dict[str, dict[str, str]] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    examples: list[Examples] = field(default_factory=list)
    terms: dict[str, list[str]] = field(default_factory=dict)
    _names: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> id and place
    _pairs: dict[object, Row] = field(default_factory=dict)
    _parents: dict[str, tuple[Node, list[str]]] = field(default_factory=dict)  # class -> node and its classes

    def read_classes(self, classes: Node) -> None:
        given = {}
        for id, node in classes.entries().items():
            given[id] = self._drug(id, node, ("class", "family", "topical", "en", "zh"))
            self._parents[id] = (node, given[id].get("class", []))
        for id, parts in given.items():  # a class may name one that comes after it
            self._keep(id, parts, self._groups(id), (id,))

    def read_substances(self, substances: Node) -> None:
        for id, node in substances.entries().items():
            parts = self._drug(id, node, ("class", "topical", "en", "zh"))
            self._parents[id] = (node, parts.get("class", []))
            self._keep(id, parts, self._groups(id), (id,))

    def read_products(self, products: Node) -> None:
        for id, node in products.entries().items():
            parts = self._drug(id, node, ("of", "en", "zh"))
            for one in parts.get("of", []):
                self._drug_id(node, one)
            if not parts.get("of"):
                node.fail(f"the product {id!r} has no `of`: the substances in it")
            self._keep(id, parts, frozenset((id,)), tuple(parts["of"]))

    def read_advice(self, advice: Node) -> None:
        for severity, node in advice.entries(get_args(Severity)).items():
            self.advice[severity] = node.translations()

    def read_conditions(self, conditions: Node) -> None:
        for id, node in conditions.entries().items():
            parts = self._drug(id, node, ("en", "zh"))
            self.conditions[id] = {"en": parts["en"][0], "zh": parts["zh"][0]}
            self.terms[CONDITION + id] = [*parts["en"], *parts["zh"]]

    def read_groups(self, groups: Node) -> None:
        for group in groups.items():
            parts = group.entries(("name", "source", "rows", "fires", "spares"))
            if "rows" not in parts or "name" not in parts:
                group.fail("a group has a name and rows")
            rows = [self._row(row, parts.get("source")) for row in parts["rows"].items()]
            self.examples.append(self._examples(group, parts, frozenset(row.id for row in rows)))

    def result(self) -> MedicationRules:
        by_drug: dict[str, list[Row]] = {}
        for row in self.rows.values():
            targets = [target.id for target in row.targets if target.kind == "drug" and target.id not in row.drugs]
            for drug in (*row.drugs, *targets):
                by_drug.setdefault(drug, []).append(row)
        return MedicationRules(
            drugs=self.drugs,
            conditions=self.conditions,
            rows=tuple(self.rows.values()),
            by_drug={drug: tuple(found) for drug, found in by_drug.items()},
            advice=self.advice,
            examples=tuple(self.examples),
            lexicon=Lexicon(_words() | self.terms),
            names=NameSearch(term for terms in self.terms.values() for term in terms),
        )

    def _drug(self, id: str, node: Node, known: Sequence[str]) -> dict[str, list[str]]:
        """The parts of an entry with a new id, and names in both languages."""
        if not re.fullmatch(r"[a-z0-9_]+", id):
            node.fail(f"the id {id!r} has other characters than a-z, 0-9 and _")
        if id in self._parents or id in self.drugs or id in self.conditions:
            node.fail(f"the id {id!r} is used twice")
        found: dict[str, list[str]] = {}
        for key, value in node.entries(known).items():
            if key in ("family", "topical"):
                if value.value() is not True:
                    value.fail(f"{key} of {id!r} is true or left out")
                found[key] = ["true"]
                continue
            found[key] = value.texts()
            for one in found[key] if key in ("en", "zh") else ():
                owner, where = self._names.setdefault(one.lower(), (id, value.place))
                if owner != id:
                    value.fail(f"the name {one!r} of {id!r} is one of {owner!r} too, see {where}")
        for language in ("en", "zh"):
            if language not in found:
                node.fail(f"{id!r} has no name in {language}")
        return found

    def _groups(self, id: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
        """The id with all classes above it."""
        node, above = self._parents[id]
        found = {id}
        for one in above:
            if one not in self._parents:
                node.fail(f"{id!r} names the class {one!r}, which is unknown.{nearest(one, self._parents)}")
            if one in seen:
                node.fail(f"the class {one!r} belongs to itself")
            found |= self._groups(one, seen | {id})
        return frozenset(found)

    def _keep(self, id: str, parts: Mapping[str, list[str]], groups: frozenset[str], of: tuple[str, ...]) -> None:
        names = {"en": parts["en"][0], "zh": parts["zh"][0]}
        self.drugs[id] = Drug(id, names, groups, of, "family" in parts, "topical" in parts)
        self.terms[DRUG + id] = [*parts["en"], *parts["zh"]]

    def _drug_id(self, node: Node, id: str) -> str:
        if id not in self.drugs:
            node.fail(f"unknown drug or class {id!r}.{nearest(id, self.drugs)}")
        return id

    def _row(self, node: Node, source: Node | None) -> Row:
        parts = node.entries(("id", "drug", "with", "severity", "text", "source"))
        for key in ("drug", "with", "severity", "text"):
            if key not in parts:
                node.fail(f"the row has no {key}; a row needs drug, with, severity, text and source")
        own = parts.get("source", source)
        if own is None or not is_texts([own.value()]):
            node.fail("the row has no source; name the label or the guideline that says so")
        drugs = tuple(one if one == ANY else self._drug_id(node, one) for one in parts["drug"].texts())
        withs = parts["with"].texts()
        severity = parts["severity"].value()
        if severity not in get_args(Severity):
            node.fail(f"unknown severity {severity!r}; known: {', '.join(get_args(Severity))}")
        id = parts["id"].value() if "id" in parts else f"{'/'.join(drugs)}-{'/'.join(map(_slug, withs))}"
        targets = tuple(self._target(node, one) for one in withs)
        row = Row(str(id), drugs, targets, severity, parts["text"].translations(), own.value(), node.place)
        self._check_pairs(node, row)
        self.rows[row.id] = row
        return row

    def _target(self, node: Node, text: str) -> Target:
        if text in ("pregnancy", "breastfeeding"):
            return Target("pregnancy" if text == "pregnancy" else "breastfeeding")
        if found := _TRIMESTER.fullmatch(text):
            return Target("pregnancy", trimester=int(found[1]))
        if found := _AGE.fullmatch(text):
            if found[1]:
                bound = float(found[2])
                return Target("age", high=bound) if found[1] == "<" else Target("age", low=bound)
            return Target("age", low=float(found[3]), high=float(found[4]))
        if found := _ALLERGY.fullmatch(text):
            return Target("allergy", SAME if found[1] == SAME else self._drug_id(node, found[1]))
        if text in self.conditions:
            return Target("condition", text)
        if text in self.drugs:
            return Target("drug", text)
        known = [*self.conditions, *self.drugs]
        node.fail(
            f"{text!r} is no condition, drug or class.{nearest(text, known)} Allowed besides: pregnancy, pregnancy "
            "trimester 3, breastfeeding, age < 16, age >= 65, age 12 to 18, allergy penicillin"
        )

    def _check_pairs(self, node: Node, row: Row) -> None:
        """Raise `UserError` where another row says something of the same pair."""
        if row.id in self.rows:
            node.fail(f"the row {row.id!r} stands at {self.rows[row.id].place} too")
        for drug in row.drugs:
            for target in row.targets:
                pair: object = frozenset((drug, target.id)) if target.kind == "drug" else (drug, target)
                if (other := self._pairs.setdefault(pair, row)) is not row:
                    node.fail(f"{drug} with {target.id or target.kind} stands at {other.place} too")

    def _examples(self, group: Node, parts: Mapping[str, Node], rows: frozenset[str]) -> Examples:
        for key in ("fires", "spares"):
            if key not in parts:
                group.fail(f"the group has no {key}: texts that show what its rows find")
        fires = []
        for row, node in parts["fires"].entries().items():
            if row not in rows:
                node.fail(f"fires names the row {row!r}, which the group has not.{nearest(row, rows)}")
            fires += [(row, text, node.place) for text in node.texts()]
        spares = tuple((text, parts["spares"].place) for text in parts["spares"].texts())
        return Examples(str(parts["name"].value()), rows, tuple(fires), spares)


def _slug(text: str) -> str:
    return "-".join(_UNITS.get(word, word) for word in text.split())


def _words() -> dict[str, list[str]]:
    """The concepts that say how a drug is meant."""
    concepts = package_concepts(CONTEXT, "safety/medication/medication_words.yaml")
    concepts["_not_deny"] = [one for one in concepts["_not_deny"] if one not in _DENY_DRUGS]
    return concepts
