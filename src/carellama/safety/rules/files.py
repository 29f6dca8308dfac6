"""Files of pattern rules: YAML read with its lines, so that a mistake is named with its place.

    rules = read_rules([("hospital.yaml", text)], RULE_KIND)

A file has `concepts` (a name, and its terms in lists: see `carellama.rules`), `rules` (see `safety.rules.rule_set`) and
`extend` (terms for concepts of the files before).
A kind of rules has keys of its own besides: triage a level, the guard an outcome. Each rule brings its source and texts
that must fire and that must not, which are tried when the file is checked (`carellama safety check FILE`), not when it
is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypedDict, get_args

from carellama.errors import UserError
from carellama.package_data import gc_paused, package_folder, package_text
from carellama.rules import Lexicon, package_concepts
from carellama.safety.rules.context import Flag
from carellama.safety.rules.measures import measure_names
from carellama.safety.rules.rule_set import EVERYWHERE, WITHIN, Condition, Entry, PatternRule, Rule, RuleSet
from carellama.safety.rules.yaml_file import QUOTES, Fields, File, is_texts, read_root

CONTEXT = "safety/rules/context.yaml"  # concepts that each set of rules has: how a mention is meant
PARTS = ("concepts", "extend", "rules")
KEYS_OF_FILE = "a file of rules has the keys concepts and rules"
_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "id": str,
    "find": list,
    "who": list,
    "unless": list,
    "within": (int, str),
    "even_if": list,
    "source": str,
    "fires": list,
    "spares": list,
}
_NEEDED = ("id", "find", "source", "fires", "spares")
_TEXTS = ("find", "who", "unless", "even_if", "fires", "spares")
COMPARISON = re.compile(r"(\w+)\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?)")


class RuleOptions(TypedDict):
    """The arguments that all rules have, see `PatternRule`."""

    id: str
    find: tuple[Entry, ...]
    who: tuple[Entry, ...]
    unless: Entry
    within: int
    even_if: frozenset[Flag]
    source: str
    fires: tuple[str, ...]
    spares: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class RuleKind(Generic[Rule]):
    """A kind of rules: the keys that it has besides those of all rules, each needed, and what makes a rule.

    `make` is given the fields of a rule and the arguments that all rules have. `numbers`: what an entry may compare,
    besides the concepts of the files; None: those of `safety.rules.measures`.
    """

    keys: Mapping[str, type]
    make: Callable[[Fields, RuleOptions], Rule]
    numbers: frozenset[str] | None = None


@gc_paused()
def read_rules(files: Sequence[File], kind: RuleKind[Rule], more: Sequence[File] = ()) -> RuleSet[Rule]:
    """Return the rules of files, and of `more` files by others. Raises `UserError` with file and line.

    The concepts of `more` have names of their own, so that they change no other rule unless they say so: `extend`.
    """
    concepts = package_concepts(CONTEXT)
    rules: dict[str, Rule] = {}
    for file in (*files, *more):
        parts = read_root(file, KEYS_OF_FILE).entries(PARTS, KEYS_OF_FILE)
        for concept, node in parts["extend"].entries().items() if "extend" in parts else ():
            if concept not in concepts:
                node.fail(f"extend names {concept!r}, which no file has; write it under concepts")
            concepts[concept].extend(node.terms(f"the terms of {concept!r}"))
        for concept, node in parts["concepts"].entries().items() if "concepts" in parts else ():
            if file in more and concept in concepts:
                node.fail(
                    f"there is a concept {concept!r} already, which other rules use; give yours another name, or write "
                    "it under extend to add its terms to that one for all rules"
                )
            concepts.setdefault(concept, []).extend(node.terms(f"the terms of {concept!r}"))
        for node in parts["rules"].items("a list of mappings, each with an id") if "rules" in parts else ():
            fields = Fields(node, (*_KEYS, *kind.keys), (*_NEEDED, *kind.keys))
            rule = kind.make(fields, _common(fields, kind))
            if rule.id in rules:
                node.fail(f"the id {rule.id!r} is used by {rules[rule.id].place}")
            rules[rule.id] = rule
    lexicon = Lexicon(concepts)
    _check_concepts(lexicon, rules.values(), measure_names() if kind.numbers is None else kind.numbers)
    return RuleSet(list(rules.values()), lexicon)


def shipped_file(name: str) -> File:
    """Return a file of the safety layer under its name alone."""
    return name.rpartition("/")[2], package_text(f"safety/{name}")


def shipped_folder(name: str) -> list[File]:
    """Return the YAML files of a folder of the safety layer, each as the folder's name and its own."""
    above = f"safety/{name.rpartition('/')[0]}/"
    return [(path.removeprefix(above), text) for path, text in package_folder(f"safety/{name}")]


def _common(fields: Fields, kind: RuleKind[Rule]) -> RuleOptions:
    """The arguments that all rules have. Raises `UserError` for a faulty value."""
    given = fields.given
    for key in given:
        fields.value(key, {**_KEYS, **kind.keys}[key])
        if key in _TEXTS and given[key] and not is_texts(given[key]):
            fields.fail(key, f"is a list of texts; {QUOTES}")
    flags, within = given.get("even_if", []), given.get("within", WITHIN)
    if not set(flags) <= set(get_args(Flag)):
        fields.fail("even_if", f"is {flags}; known: {', '.join(get_args(Flag))}")
    if within != "everywhere" and (isinstance(within, (str, bool)) or within < 1):
        fields.fail("within", f"is {within!r}; allowed: 1 word or more, or everywhere")
    return {
        "id": given["id"],
        "find": tuple(_entries(fields, "find")),
        "who": tuple(_entries(fields, "who")),
        "unless": tuple(one for entry in _entries(fields, "unless") for one in entry),
        "within": EVERYWHERE if isinstance(within, str) else within,
        "even_if": frozenset(flags),
        "source": given["source"],
        "fires": tuple(given["fires"]),
        "spares": tuple(given["spares"]),
        "place": fields.place,
    }


def _entries(fields: Fields, key: str) -> Iterator[Entry]:
    for text in fields.given.get(key, ()):
        conditions = []
        for part in map(str.strip, text.split("|")):
            if compared := COMPARISON.fullmatch(part):
                conditions.append(Condition(compared[1], compared[2], float(compared[3])))
            elif re.fullmatch(r"\w+", part):
                conditions.append(Condition(part))
            else:
                fields.fail(key, f"has {part!r}, neither a concept nor a number such as temperature >= 38")
        yield tuple(conditions)


def _check_concepts(lexicon: Lexicon, rules: Iterable[PatternRule], numbers: frozenset[str]) -> None:
    """Raise `UserError` for a concept that nothing defines."""
    if unknown := lexicon.references() - numbers:
        raise UserError(f"terms refer to concepts that no file has: {', '.join(sorted(unknown))}")
    for rule in rules:
        for condition in [one for entry in (*rule.find, *rule.who, rule.unless) for one in entry]:
            if condition.concept not in lexicon and condition.concept not in numbers:
                raise UserError(f"{rule.place}: {rule.id} names {condition.concept!r}, which no file has")
            if condition.comparison and condition.concept not in numbers:
                raise UserError(
                    f"{rule.place}: {rule.id} compares {condition.concept!r}, which is no number; numbers: "
                    f"{', '.join(sorted(numbers))}"
                )
