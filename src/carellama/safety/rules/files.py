"""Files of pattern rules: YAML read with its lines, so that a fault is said with its place.

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
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, NoReturn, get_args

import yaml

from carellama.errors import UserError, nearest, read_failure
from carellama.package_data import package_folder, package_text
from carellama.rules import Lexicon
from carellama.safety.rules.context import Flag
from carellama.safety.rules.measures import measure_names
from carellama.safety.rules.rule_set import EVERYWHERE, WITHIN, Condition, Entry, PatternRule, Rule, RuleSet

File = tuple[str, str]  # name, text
CONTEXT = "safety/rules/context.yaml"  # concepts that each set of rules has: how a mention is meant
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
_COMPARISON = re.compile(r"(\w+)\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class RuleKind(Generic[Rule]):
    """A kind of rules: the keys that it has besides those of all rules, each needed, and what makes a rule.

    `numbers`: what an entry may compare, besides the concepts of the files; None: those of `safety.rules.measures`.
    """

    keys: Mapping[str, type]
    make: Callable[[RuleNode], Rule]
    numbers: frozenset[str] | None = None


def read_rules(files: Sequence[File], kind: RuleKind[Rule], more: Sequence[File] = ()) -> RuleSet[Rule]:
    """Return the rules of files, and of `more` files by others. Raises `UserError` with file and line.

    The concepts of `more` have names of their own, so that they change no other rule unless they say so: `extend`.
    """
    concepts: dict[str, list[str]] = {}
    rules: dict[str, Rule] = {}
    others = {name for name, _ in more}
    for name, text in (context_file(), *files, *more):
        parts = _parts(name, text)
        for line, concept, terms in _entries(name, parts.get("extend")):
            if concept not in concepts:
                raise UserError(f"{name}:{line}: extend names {concept!r}, which no file has; write it under concepts")
            concepts[concept].extend(_terms(f"{name}:{line}", concept, terms))
        for line, concept, terms in _entries(name, parts.get("concepts")):
            if name in others and concept in concepts:
                raise UserError(
                    f"{name}:{line}: there is a concept {concept!r} already, which other rules use; give yours another "
                    f"name, or write it under extend to add its terms to that one for all rules"
                )
            concepts.setdefault(concept, []).extend(_terms(f"{name}:{line}", concept, terms))
        for node in _items(name, parts.get("rules")):
            rule = kind.make(RuleNode(name, node, kind.keys))
            if rule.id in rules:
                raise UserError(f"{rule.place}: the id {rule.id!r} is used by {rules[rule.id].place}")
            rules[rule.id] = rule
    lexicon = Lexicon(concepts)
    _check_concepts(lexicon, rules.values(), measure_names() if kind.numbers is None else kind.numbers)
    return RuleSet(list(rules.values()), lexicon)


def context_file() -> File:
    """Return the concepts of how a mention is meant."""
    return CONTEXT, package_text(CONTEXT)


def shipped_file(name: str) -> File:
    """Return a file of the safety layer under its name alone."""
    return name.rpartition("/")[2], package_text(f"safety/{name}")


def shipped_folder(name: str) -> list[File]:
    """Return the YAML files of a folder of the safety layer, each as the folder's name and its own."""
    above = f"safety/{name.rpartition('/')[0]}/"
    return [(path.removeprefix(above), text) for path, text in package_folder(f"safety/{name}")]


def user_file(path: Path) -> File:
    """Return a user's file. Raises `UserError` where it cannot be read."""
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the rules {path} cannot be read: {read_failure(error)}") from None


class RuleNode:
    """One rule as the file has it: checked for its keys and their types; a fault names the line of the key."""

    def __init__(self, name: str, node: yaml.MappingNode, own_keys: Mapping[str, type]) -> None:
        check_once(name, node)
        types = {**_KEYS, **own_keys}
        self.file = name
        self._lines = {known_key(name, key, types): key.start_mark.line + 1 for key, _ in node.value}
        self.place = f"{name}:{node.start_mark.line + 1}"
        self.given: Mapping[str, Any] = plain_value(name, node)
        self.title = self.given.get("id", "a rule")
        needed = (*_NEEDED, *own_keys)
        for key in needed:
            if not self.given.get(key):
                raise UserError(f"{self.place}: {self.title} has no {key}; a rule needs {', '.join(needed)}")
        for key in self._lines:
            if not isinstance(self.given[key], types[key]):
                self.fail(key, f"is {type(self.given[key]).__name__}: {self.given[key]!r}")
            if key in _TEXTS and not all(isinstance(one, str) and one.strip() for one in self.given[key]):
                self.fail(key, "is a list of texts; write yes, no and numbers in quotes")

    def fail(self, key: str, fault: str) -> NoReturn:
        """Raise `UserError` about a key of the rule."""
        raise UserError(f"{self.file}:{self._lines[key]}: {key} of {self.title} {fault}")

    def choice(self, key: str, allowed: Sequence[str]) -> Any:
        """Return the value of a key. Raises `UserError` if it is not allowed."""
        if self.given[key] not in allowed:
            self.fail(key, f"is {self.given[key]!r}; known: {', '.join(allowed)}")
        return self.given[key]

    def texts(self, key: str) -> Mapping[str, str]:
        """Return a text in English and one in Chinese. Raises `UserError` for anything else."""
        texts: Mapping[str, str] = self.given[key]
        if texts.keys() != {"en", "zh"} or not all(isinstance(one, str) and one for one in texts.values()):
            self.fail(key, "says it in en and in zh, each a text, and nothing else")
        return texts

    @cached_property
    def common(self) -> dict[str, Any]:
        """The arguments that all rules have. Raises `UserError` for an entry, a flag or a distance that is wrong."""
        flags, within = self.given.get("even_if", []), self.given.get("within", WITHIN)
        if not set(flags) <= set(get_args(Flag)):
            self.fail("even_if", f"is {flags}; known: {', '.join(get_args(Flag))}")
        if within != "everywhere" and (isinstance(within, (str, bool)) or within < 1):
            self.fail("within", f"is {within!r}; allowed: 1 word or more, or everywhere")
        return {
            "id": self.given["id"],
            "find": tuple(self._entries("find")),
            "who": tuple(self._entries("who")),
            "unless": tuple(one for entry in self._entries("unless") for one in entry),
            "within": EVERYWHERE if isinstance(within, str) else within,
            "even_if": frozenset(flags),
            "source": self.given["source"],
            "fires": tuple(self.given["fires"]),
            "spares": tuple(self.given["spares"]),
            "place": self.place,
        }

    def _entries(self, key: str) -> Iterator[Entry]:
        for text in self.given.get(key, ()):
            conditions = []
            for part in map(str.strip, text.split("|")):
                if compared := _COMPARISON.fullmatch(part):
                    conditions.append(Condition(compared[1], compared[2], float(compared[3])))
                elif re.fullmatch(r"\w+", part):
                    conditions.append(Condition(part))
                else:
                    self.fail(key, f"has {part!r}, neither a concept nor a number such as temperature >= 38")
            yield tuple(conditions)


def compose(name: str, text: str) -> yaml.Node | None:
    """Return the nodes of a file. Raises `UserError` with the line that is no YAML."""
    try:
        return yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # C: a tenth of the time
    except RecursionError:
        raise UserError(f"{name}:1: lists within lists go too deep; rules need three levels at most") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(
            f"{name}:{mark.line + 1 if mark else 1}: not YAML: {getattr(error, 'problem', error)}"
        ) from None


def check_once(name: str, node: yaml.MappingNode) -> None:
    """Raise `UserError` for a key that stands twice: YAML would keep the last without a word."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if (word := known_key(name, key)) in lines:
            raise UserError(f"{name}:{line}: the key {word!r} stands in line {lines[word]} too; write it once")
        lines[word] = line


def known_key(name: str, key: yaml.Node, known: Iterable[str] = ()) -> str:
    """Return a key, which is a word; where `known` are given, one of them. Raises `UserError` with the line."""
    line = key.start_mark.line + 1
    if not isinstance(key, yaml.ScalarNode):
        raise UserError(f"{name}:{line}: a key is a word, not a list or a mapping")
    given, allowed = str(key.value), list(known)
    if allowed and given not in allowed:
        raise UserError(f"{name}:{line}: unknown key {given!r}.{nearest(given, allowed)} Known: {', '.join(allowed)}.")
    return given


def plain_value(name: str, node: yaml.Node) -> Any:
    """Return what a node says. Raises `UserError` with the line for what is not plain."""
    try:
        return yaml.SafeLoader("").construct_object(node, deep=True)
    except RecursionError:
        line = node.start_mark.line + 1
        raise UserError(f"{name}:{line}: lists within lists go too deep; rules need three levels at most") from None
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or error
        raise UserError(f"{name}:{node.start_mark.line + 1}: not plain texts, numbers and lists: {reason}") from None


def _parts(name: str, text: str) -> Mapping[str, yaml.Node]:
    """The parts of a file by name."""
    node = compose(name, text)
    if node is None:
        raise UserError(f"{name}:1: the file is empty; a file of rules has the keys concepts and rules")
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{name}:1: a file of rules has the keys concepts and rules")
    if name == CONTEXT:
        return {"concepts": node}
    check_once(name, node)
    return {known_key(name, key, ("concepts", "extend", "rules")): value for key, value in node.value}


def _entries(name: str, node: yaml.Node | None) -> Iterator[tuple[int, str, Any]]:
    """The line, name and value of each entry of a mapping."""
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{name}:{node.start_mark.line + 1}: concepts and extend are mappings of a name to its terms")
    for key, value in node.value:
        yield key.start_mark.line + 1, known_key(name, key), plain_value(name, value)


def _items(name: str, node: yaml.Node | None) -> list[yaml.MappingNode]:
    """The rules of a list."""
    if node is None:
        return []
    if not isinstance(node, yaml.SequenceNode) or not all(isinstance(one, yaml.MappingNode) for one in node.value):
        raise UserError(f"{name}:{node.start_mark.line + 1}: rules is a list of mappings, each with an id")
    return list(node.value)


def _terms(place: str, concept: str, terms: Any) -> list[str]:
    """The terms of a concept: a list of texts, or of lists of texts, one for each language."""
    flat = [one for group in terms for one in (group if isinstance(group, list) else [group])] if terms else []
    if not isinstance(terms, list) or not flat or not all(isinstance(one, str) and one.strip() for one in flat):
        raise UserError(
            f"{place}: the terms of {concept!r} are a list of texts; write words such as yes and no in quotes"
        )
    return flat


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
