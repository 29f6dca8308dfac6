"""The rules of triage: read from YAML, checked, and held in one lexicon.

    rules = load_red_flags()                          # those that CareLlama ships
    rules = load_red_flags([Path("hospital.yaml")])   # with rules of a hospital besides

A file has `concepts` (a name, and its terms in lists: see `carellama.rules`) and `rules`. A rule fires where all
entries of `find` are meant of now and stand within `within` words of the first, all entries of `who` are said anywhere
of the person, and nothing of `unless` is. An entry is a concept or a number (`temperature >= 38`, see
`safety.measures`); `a | b` is either. `even_if` names flags of `safety.context` that do not matter to the rule.

Each rule brings its source and texts that must fire and that must not, which are tried when the file is checked
(`carellama safety check FILE`), not when it is loaded.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from carellama.errors import UserError, nearest, read_failure
from carellama.rules import Lexicon
from carellama.safety.context import Flag
from carellama.safety.measures import measure_names

Level = Literal["emergency", "urgent", "soon"]
LEVELS: tuple[Level, ...] = get_args(Level)  # the most urgent first
WITHIN = 60  # words between the first mention and each other
EVERYWHERE = 10**9
FOLDER = "red_flags"
CONTEXT = "context.yaml"
_KEYS: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "level": str,
    "system": str,
    "find": list,
    "who": list,
    "unless": list,
    "within": (int, str),
    "even_if": list,
    "do": dict,
    "source": str,
    "fires": list,
    "spares": list,
}
_NEEDED = ("id", "level", "system", "find", "do", "source", "fires", "spares")
_TEXTS = ("find", "who", "unless", "even_if", "fires", "spares")
_COMPARISON = re.compile(r"(\w+)\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?)")
_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True, slots=True)
class Condition:
    """A concept, or a number and what it has to be."""

    concept: str
    comparison: str | None = None
    bound: float = 0.0

    def holds(self, value: float | None) -> bool:
        """Return whether a mention with this value is what is asked for."""
        return self.comparison is None or (value is not None and _OPERATORS[self.comparison](value, self.bound))


Entry = tuple[Condition, ...]  # any of them


@dataclass(frozen=True, slots=True)
class RedFlag:
    """One rule of triage."""

    id: str
    level: Level
    system: str
    find: tuple[Entry, ...]
    who: tuple[Entry, ...]
    unless: Entry
    within: int
    even_if: frozenset[Flag]
    do: Mapping[str, str]  # the one action, by language
    source: str
    fires: tuple[str, ...]
    spares: tuple[str, ...]
    place: str  # file:line
    needs: tuple[frozenset[str], ...]  # the concepts of each entry: one of each must be there
    shipped: bool  # with CareLlama, not of a hospital's own file


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules and the lexicon of their concepts; `by_concept` has the places of rules by what they look for first."""

    rules: tuple[RedFlag, ...]
    lexicon: Lexicon
    by_concept: Mapping[str, tuple[int, ...]]

    def candidates(self, concepts: Iterable[str]) -> list[RedFlag]:
        """Return the rules that may fire where these concepts are mentioned, in the order of the files."""
        places = {place for concept in concepts for place in self.by_concept.get(concept, ())}
        return [self.rules[place] for place in sorted(places)]


def load_red_flags(more: Sequence[Path] = ()) -> RuleSet:
    """Return the rules that CareLlama ships, and those of more files. Raises `UserError` with file and line."""
    return _shipped() if not more else _build([*_shipped_files(), *((str(path), _read(path)) for path in more)])


@cache
def _shipped() -> RuleSet:
    return _build(list(_shipped_files()))


def _shipped_files() -> Iterator[tuple[str, str]]:
    safety = resources.files("carellama.safety")
    yield CONTEXT, safety.joinpath(CONTEXT).read_text(encoding="utf-8")
    for file in sorted(safety.joinpath(FOLDER).iterdir(), key=lambda one: one.name):
        if file.name.endswith(".yaml"):
            yield f"{FOLDER}/{file.name}", file.read_text(encoding="utf-8")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the rules {path} cannot be read: {read_failure(error)}") from None


def _build(files: Sequence[tuple[str, str]]) -> RuleSet:
    concepts: dict[str, list[str]] = {}
    rules: dict[str, RedFlag] = {}
    for name, text in files:
        parts = _compose(name, text)
        if name == CONTEXT:
            parts = {"concepts": node} if (node := _compose_node(name, text)) else {}
        for line, concept, terms in _entries(name, parts.get("concepts")):
            concepts.setdefault(concept, []).extend(_terms(f"{name}:{line}", concept, terms))
        for node in _items(name, parts.get("rules")):
            rule = _rule(name, node)
            if rule.id in rules:
                raise UserError(f"{rule.place}: the id {rule.id!r} is used by {rules[rule.id].place}")
            rules[rule.id] = rule
    lexicon = Lexicon(concepts)
    _check_concepts(lexicon, rules.values())
    by_concept: dict[str, list[int]] = {}
    for place, rule in enumerate(rules.values()):
        for concept in rule.needs[0]:
            by_concept.setdefault(concept, []).append(place)
    return RuleSet(tuple(rules.values()), lexicon, {concept: tuple(places) for concept, places in by_concept.items()})


def _compose_node(name: str, text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # C: a tenth of the time
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(
            f"{name}:{mark.line + 1 if mark else 1}: not YAML: {getattr(error, 'problem', error)}"
        ) from None


def _compose(name: str, text: str) -> dict[str, yaml.Node]:
    """The parts of a file by name."""
    node = _compose_node(name, text)
    if node is None:
        raise UserError(f"{name}:1: the file is empty; a file of rules has the keys concepts and rules")
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{name}:1: a file of rules has the keys concepts and rules")
    _check_once(name, node)
    return {
        _known(name, key, ("concepts", "rules")) if name != CONTEXT else key.value: value for key, value in node.value
    }


def _check_once(name: str, node: yaml.MappingNode) -> None:
    """Raise `UserError` for a key that stands twice: YAML would keep the last without a word."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if (word := _known(name, key)) in lines:
            raise UserError(f"{name}:{line}: the key {word!r} stands in line {lines[word]} too; write it once")
        lines[word] = line


def _known(name: str, key: yaml.Node, known: Iterable[str] = ()) -> str:
    """A key, which is a word; where `known` are given, one of them."""
    line = key.start_mark.line + 1
    if not isinstance(key, yaml.ScalarNode):
        raise UserError(f"{name}:{line}: a key is a word, not a list or a mapping")
    given, allowed = str(key.value), list(known)
    if allowed and given not in allowed:
        raise UserError(f"{name}:{line}: unknown key {given!r}.{nearest(given, allowed)} Known: {', '.join(allowed)}.")
    return given


def _entries(name: str, node: yaml.Node | None) -> Iterator[tuple[int, str, Any]]:
    """The line, name and value of each entry of a mapping."""
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{name}:{node.start_mark.line + 1}: concepts is a mapping of a name to its terms")
    for key, value in node.value:
        yield key.start_mark.line + 1, _known(name, key), _plain(name, value)


def _items(name: str, node: yaml.Node | None) -> list[yaml.MappingNode]:
    """The rules of a list."""
    if node is None:
        return []
    if not isinstance(node, yaml.SequenceNode) or not all(isinstance(one, yaml.MappingNode) for one in node.value):
        raise UserError(f"{name}:{node.start_mark.line + 1}: rules is a list of mappings, each with an id")
    return list(node.value)


def _plain(name: str, node: yaml.Node) -> Any:
    try:
        return yaml.SafeLoader("").construct_object(node, deep=True)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or error
        raise UserError(f"{name}:{node.start_mark.line + 1}: not plain texts, numbers and lists: {reason}") from None


def _terms(place: str, concept: str, terms: Any) -> list[str]:
    """The terms of a concept: a list of texts, or of lists of texts, one for each language."""
    flat = [one for group in terms for one in (group if isinstance(group, list) else [group])] if terms else []
    if not isinstance(terms, list) or not flat or not all(isinstance(one, str) and one.strip() for one in flat):
        raise UserError(
            f"{place}: the terms of {concept!r} are a list of texts; write words such as yes and no in quotes"
        )
    return flat


def _rule(name: str, node: yaml.MappingNode) -> RedFlag:
    _check_once(name, node)
    lines = {_known(name, key, _KEYS): key.start_mark.line + 1 for key, _ in node.value}
    place = f"{name}:{node.start_mark.line + 1}"
    given = _plain(name, node)
    title = given.get("id", "a rule")
    for key in _NEEDED:
        if not given.get(key):
            raise UserError(f"{place}: {title} has no {key}; a rule needs {', '.join(_NEEDED)}")
    for key, line in lines.items():
        if not isinstance(given[key], _KEYS[key]):
            raise UserError(f"{name}:{line}: {key} of {title} is {type(given[key]).__name__}: {given[key]!r}")
        if key in _TEXTS and not all(isinstance(one, str) and one.strip() for one in given[key]):
            raise UserError(f"{name}:{line}: {key} of {title} is a list of texts; write yes, no and numbers in quotes")
    if given["level"] not in LEVELS:
        raise UserError(
            f"{name}:{lines['level']}: {title} has the level {given['level']!r}; known: {', '.join(LEVELS)}"
        )
    if given["do"].keys() != {"en", "zh"} or not all(isinstance(one, str) and one for one in given["do"].values()):
        raise UserError(
            f"{name}:{lines['do']}: do of {title} says what to do in en and in zh, each a text, and nothing else"
        )
    flags = given.get("even_if", [])
    if not set(flags) <= set(get_args(Flag)):
        raise UserError(f"{name}:{lines['even_if']}: even_if of {title} is {flags}; known: {', '.join(get_args(Flag))}")
    within = given.get("within", WITHIN)
    if within != "everywhere" and (isinstance(within, (str, bool)) or within < 1):
        raise UserError(
            f"{name}:{lines['within']}: within of {title} is {within!r}; allowed: 1 word or more, or everywhere"
        )
    find = tuple(_entry(f"{name}:{lines['find']}", one) for one in given["find"])
    who = tuple(_entry(f"{name}:{lines['who']}", one) for one in given.get("who", []))
    return RedFlag(
        id=given["id"],
        level=given["level"],
        system=given["system"],
        find=find,
        who=who,
        unless=tuple(one for entry in given.get("unless", []) for one in _entry(f"{name}:{lines['unless']}", entry)),
        within=EVERYWHERE if isinstance(within, str) else within,
        even_if=frozenset(flags),
        do=given["do"],
        source=given["source"],
        fires=tuple(given["fires"]),
        spares=tuple(given["spares"]),
        place=place,
        needs=tuple(frozenset(condition.concept for condition in entry) for entry in (*find, *who)),
        shipped=name.startswith(f"{FOLDER}/"),
    )


def _entry(place: str, text: Any) -> Entry:
    conditions = []
    for part in str(text).split("|"):
        compared = _COMPARISON.fullmatch(part.strip())
        if compared:
            conditions.append(Condition(compared[1], compared[2], float(compared[3])))
        elif re.fullmatch(r"\w+", part.strip()):
            conditions.append(Condition(part.strip()))
        else:
            raise UserError(f"{place}: {part.strip()!r} is neither a concept nor a number such as temperature >= 38")
    return tuple(conditions)


def _check_concepts(lexicon: Lexicon, rules: Iterable[RedFlag]) -> None:
    """Raise `UserError` for a concept that nothing defines."""
    unknown = lexicon.references() - measure_names()
    if unknown:
        raise UserError(f"terms refer to concepts that no file has: {', '.join(sorted(unknown))}")
    for rule in rules:
        for condition in [one for entry in (*rule.find, *rule.who, rule.unless) for one in entry]:
            number = condition.concept in measure_names()
            if condition.concept not in lexicon and not number:
                raise UserError(f"{rule.place}: {rule.id} names {condition.concept!r}, which no file has")
            if condition.comparison and not number:
                raise UserError(
                    f"{rule.place}: {rule.id} compares {condition.concept!r}, which is no number; numbers: "
                    f"{', '.join(sorted(measure_names()))}"
                )
