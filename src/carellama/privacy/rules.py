"""Rules of de-identification, read from YAML: a pattern, what may stand around it, and checks that Python has.

    scan(normalize("电话：138-0013-8000"), CHECKS)   # {("PHONE", 3, 16, 0.85), ("PHONE", 3, 16, 0.7)}

Each file of `rules/` has `rules`; `fragments`, the parts of patterns that `{NAME}` stands for; and a `gate`, without
which a text is not looked at. A pattern of several lines is one pattern: the lines are joined. Files are read and
patterns compiled when a text first needs them. docs/en/privacy.md describes the keys of a rule. Here nothing decides
what a name is: the models for running text are in `names_zh_prose` and `names_en_prose`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import PurePath
from typing import Any, NamedTuple

import yaml

from carellama.errors import UserError, lookup
from carellama.package_data import package_folder, package_yaml
from carellama.privacy.kinds import DEFAULT_KINDS, KINDS, Span
from carellama.privacy.normalize import CHINESE_DIGITS
from carellama.privacy.word_lists import chinese
from carellama.text import HAN

SHARED = "fragments"  # the file whose fragments all files may use
_TYPES: Mapping[str, type] = {"str": str, "float": float, "int": int, "bool": bool, "tuple[str, ...]": list}
_REFERENCE = re.compile(r"\{([A-Z][A-Z0-9_]*)\}")


@dataclass(slots=True)
class Candidate:
    """Characters `start` to `end` of a normalized text that a pattern matched; a check may shorten them."""

    plain: str
    match: re.Match[str]
    start: int
    end: int

    @property
    def text(self) -> str:
        """The characters."""
        return self.plain[self.start : self.end]

    def digits(self) -> str:
        """Return the digits alone."""
        return re.sub(r"\D", "", self.text)

    def before(self, pattern: re.Pattern[str], window: int) -> bool:
        """Return whether a pattern is found in so many characters before the match."""
        start = self.match.start()
        return bool(pattern.search(self.plain, max(0, start - window), start))


Check = Callable[[Candidate], bool]
Checks = Mapping[str, Callable[..., bool]]  # by name; some take a number


@dataclass(frozen=True)
class Rule:
    """One rule. Its group `value`, or else the whole match, is the identifier. See docs/en/privacy.md for the keys."""

    id: str
    kind: str
    pattern: str
    score: float
    finds: tuple[str, ...]
    spares: tuple[str, ...]
    gate: str = ""
    ignore_case: bool = False
    window: int = 24  # characters before the match that `after` and `not_after` look at
    after: tuple[str, ...] = ()
    not_after: tuple[str, ...] = ()
    not_before: tuple[str, ...] = ()
    contains: tuple[str, ...] = ()
    not_contains: tuple[str, ...] = ()
    strip: str = ""  # characters that are cut from the end
    trim: tuple[str, ...] = ()
    validate: tuple[str, ...] = ()
    file: str = ""

    def find(self, plain: str, checks: Checks) -> list[Span]:
        """Return what the rule finds in a normalized text."""
        return list(_spans((self,), plain, checks))

    def check_match(self, match: re.Match[str], checks: Checks) -> Span | None:
        """Return the span of a match, None where a check says that it is no identifier."""
        start, end = match.span(self._group)
        if self.strip:
            end = start + len(match.string[start:end].rstrip(self.strip))
        candidate = Candidate(match.string, match, start, end)
        if all(check(candidate) for check in self._tests(checks)):
            return self.kind, candidate.start, candidate.end, self.score
        return None

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The pattern."""
        return _compile(self.file, self.pattern, re.IGNORECASE if self.ignore_case else 0)

    @cached_property
    def compiled_gate(self) -> re.Pattern[str]:
        """The pattern of the gate."""
        return _compile(self.file, self.gate, 0)

    @cached_property
    def _group(self) -> str | int:
        return "value" if "value" in self.compiled.groupindex else 0

    def _tests(self, checks: Checks) -> list[Check]:
        """The checks in their order: what shortens, what stands around and within, what Python says."""
        if (made := self.__dict__.get("tests")) is None:
            made = [_named_check(entry, checks) for entry in self.trim]
            made += self._context()
            made += [_named_check(entry, checks) for entry in self.validate]
            self.__dict__["tests"] = made
        return made

    def _context(self) -> Iterator[Check]:
        """Yield the checks of what stands around, without regard to case, and of what stands within."""

        def any_of(patterns: tuple[str, ...], flags: int = 0) -> re.Pattern[str]:
            return _compile(self.file, "|".join(f"(?:{one})" for one in patterns), flags)

        window = self.window
        if self.after:
            after = any_of(self.after, re.IGNORECASE)
            yield lambda found: found.before(after, window)
        if self.not_after:
            not_after = any_of(self.not_after, re.IGNORECASE)
            yield lambda found: not found.before(not_after, window)
        if self.not_before:
            not_before = any_of(self.not_before, re.IGNORECASE)
            yield lambda found: not not_before.match(found.plain, found.end)
        if self.contains:
            contains = any_of(self.contains)
            yield lambda found: bool(contains.search(found.text))
        if self.not_contains:
            not_contains = any_of(self.not_contains)
            yield lambda found: not not_contains.search(found.text)


def _named_check(entry: str, checks: Checks) -> Check:
    """The check that an entry names: `is_luhn`, `not is_helpline`, `min_digits 5`."""
    words = entry.split()
    negated = words[0] == "not"
    name, *numbers = words[1:] if negated else words
    check, arguments = lookup(checks, name, "check"), tuple(map(int, numbers))
    return lambda found: bool(check(found, *arguments)) != negated


def read_file(name: str) -> dict[str, Any]:
    """Return a file of `rules/` as it is written, by its name without `.yaml`."""
    try:
        return package_yaml(f"privacy/rules/{name}.yaml")
    except yaml.YAMLError as error:
        raise UserError(f"privacy/rules/{name}.yaml: not YAML: {error}") from None


def file_names() -> list[str]:
    """Return the names of the files of `rules/`, without `.yaml`."""
    return [PurePath(path).stem for path, _ in package_folder("privacy/rules")]


@cache
def load_rules(name: str) -> tuple[Rule, ...]:
    """Return the rules of a file. `UserError` for a key that no rule has, that is missing or has the wrong type."""
    return tuple(_rule(name, entry) for entry in read_file(name).get("rules", ()))


def _rule(file: str, entry: Mapping[str, Any]) -> Rule:
    place = f"privacy/rules/{file}.yaml: {entry.get('id', 'a rule without an id')}"
    types = {field.name: _TYPES[str(field.type)] for field in fields(Rule) if field.name != "file"}
    for key, value in entry.items():
        if key not in types:
            raise UserError(f"{place}: unknown key {key!r}; known: {', '.join(types)}")
        texts = value if types[key] is list else ()
        if not isinstance(value, types[key]) or not all(isinstance(one, str) and one for one in texts):
            raise UserError(
                f"{place}: {key} is {value!r}; write lists of texts, and what looks like a number in quotes"
            )
    for key in ("id", "kind", "pattern", "score", "finds", "spares"):
        if not entry.get(key):
            raise UserError(f"{place}: {key} is missing; a rule needs id, kind, pattern, score, finds and spares")
    lookup(KINDS, entry["kind"], "kind of identifier")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Rule(**values, file=file)


@cache
def fragment(file: str, name: str) -> str:
    """Return a fragment of a file with the fragments in it put in. `UserError` for a name that it has not."""
    if name == "HAN":
        return HAN
    if name == "CHINESE_DIGITS":
        return "".join(CHINESE_DIGITS)
    if name == "TRANSLITERATION":
        return chinese().transliteration
    if name == "COMPOUND_SURNAMES":
        return "|".join(sorted(chinese().compound_surnames))
    own, shared = read_file(file).get("fragments", {}), read_file(SHARED)["fragments"]
    return _expand(file, own[name] if name in own else lookup(shared, name, f"fragment of privacy/rules/{file}.yaml"))


def _expand(file: str, pattern: str) -> str:
    """A pattern in one line, with its fragments put in."""
    return _REFERENCE.sub(lambda match: fragment(file, match[1]), pattern.replace("\n", ""))


@cache
def _compile(file: str, pattern: str, flags: int) -> re.Pattern[str]:
    try:
        return re.compile(_expand(file, pattern), flags | re.ASCII)
    except re.error as error:
        raise UserError(f"privacy/rules/{file}.yaml: {pattern[:60]!r} is no pattern: {error}") from None


@cache
def fragment_pattern(file: str, name: str, flags: int = 0) -> re.Pattern[str]:
    r"""Return a fragment, compiled so that a word (\b) ends where a Chinese character begins."""
    return _compile(file, f"{{{name}}}", flags)


class Clue(NamedTuple):
    """A pattern beside a name, by how much it makes a name likelier, and whether it is a word for a person."""

    pattern: re.Pattern[str]
    worth: float
    telling: bool = False


@cache
def load_clues(file: str, place: str) -> tuple[Clue, ...]:
    """Return the clues of a file for a place: `before` or `behind`."""
    return tuple(
        Clue(
            _compile(file, entry["pattern"], re.IGNORECASE if entry.get("ignore_case") else 0),
            entry["worth"],
            entry.get("telling", False),
        )
        for entry in read_file(file)[place]
    )


def scan(plain: str, checks: Checks, wanted: Collection[str] = ()) -> set[Span]:
    """Return what the rules of all files find in a normalized text: (kind, start, end, score).

    Rules of a kind that is no default (DATE) run only where it is `wanted`; the others always do, since of spans that
    overlap the surest decides.
    """
    found: set[Span] = set()
    for gate, default, others in _files():
        if gate is None or gate.search(plain):
            found.update(_spans(default, plain, checks))
            if others:
                found.update(_spans([rule for rule in others if rule.kind in wanted], plain, checks))
    return found


def _spans(rules: Iterable[Rule], plain: str, checks: Checks) -> Iterator[Span]:
    for rule in rules:  # one loop for all: a call for each rule would take a tenth of the time
        if not rule.gate or rule.compiled_gate.search(plain):
            for match in rule.compiled.finditer(plain):
                if span := rule.check_match(match, checks):
                    yield span


@cache
def _files() -> list[tuple[re.Pattern[str] | None, list[Rule], list[Rule]]]:
    """The gate of each file that has rules, its rules of default kinds and its others."""
    made = []
    for name in file_names():
        if rules := load_rules(name):
            gate = read_file(name).get("gate")
            default = [rule for rule in rules if rule.kind in DEFAULT_KINDS]
            others = [rule for rule in rules if rule.kind not in DEFAULT_KINDS]
            made.append((_compile(name, gate, 0) if gate else None, default, others))
    return made
