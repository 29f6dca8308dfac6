"""Pattern rules: which concepts must be meant near each other, and where a text says so. Triage and guard share them.

    rules = load_red_flags()                    # a RuleSet
    rules.scan("胸口像压了块石头，一身冷汗")     # [(RedFlag(id="heart-attack", ...), ((0, 4), ...)), ...]

A rule fires where all entries of `find` are meant of now and stand within `within` words of the first, all entries of
`who` are said anywhere, and nothing of `unless` is near. An entry is a concept or a number (`temperature >= 38`, see
`safety.measures`); `a | b` is either. `even_if` names flags of `safety.context` that do not matter to the rule.
`safety.rule_files` reads rules from YAML.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from carellama.rules import PLACE, Lexicon, Mention, Mentions, normalize, words_between
from carellama.safety.context import Context, Flag
from carellama.safety.measures import find_measures

WITHIN = 60  # words between the first mention and each other
EVERYWHERE = 10**9
OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_PAST: frozenset[Flag] = frozenset({"past"})


@dataclass(frozen=True, slots=True)
class Condition:
    """A concept, or a number and what it has to be."""

    concept: str
    comparison: str | None = None
    bound: float = 0.0

    def holds(self, value: float | None) -> bool:
        """Return whether a mention with this value is what is asked for."""
        return self.comparison is None or (value is not None and OPERATORS[self.comparison](value, self.bound))


Entry = tuple[Condition, ...]  # any of them
Spans = tuple[tuple[int, int], ...]  # half-open offsets


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternRule:
    """What all rules have: what they look for, their source, and texts that must fire and that must not."""

    id: str
    find: tuple[Entry, ...]
    who: tuple[Entry, ...] = ()
    unless: Entry = ()
    within: int = WITHIN
    even_if: frozenset[Flag] = frozenset()
    unless_even_if: frozenset[Flag] = _PAST  # flags that do not matter to what stands under `unless`
    source: str
    fires: tuple[str, ...] = ()
    spares: tuple[str, ...] = ()
    place: str  # file:line
    shipped: bool = True  # with CareLlama, not of a hospital's own file

    def concepts(self) -> set[str]:
        """Return the concepts that the rule names."""
        return {one.concept for entry in (*self.find, *self.who, self.unless) for one in entry}


Rule = TypeVar("Rule", bound=PatternRule)


class RuleSet(Generic[Rule]):
    """Rules and the lexicon of their concepts."""

    def __init__(self, rules: Sequence[Rule], lexicon: Lexicon) -> None:
        self.rules, self.lexicon = tuple(rules), lexicon
        self._by_concept: dict[str, list[int]] = {}  # places of the rules that look for a concept first
        self._needs = []  # of each rule, the concepts of each entry: one of each must be there
        for place, rule in enumerate(self.rules):
            self._needs.append([{one.concept for one in entry} for entry in (*rule.find, *rule.who)])
            for concept in self._needs[place][0]:
                self._by_concept.setdefault(concept, []).append(place)

    def scan(self, text: str) -> list[tuple[Rule, Spans]]:
        """Return the rules that fire on a text, in the order of the files, and where. Linear in its length."""
        plain = normalize(text)
        mentions = self.lexicon.find(plain, find_measures(plain))
        return self.match(plain, mentions, Context(plain, mentions))

    def match(self, plain: str, mentions: Mentions, context: Context) -> list[tuple[Rule, Spans]]:
        """Return the rules that fire on a text of `normalize` whose mentions are known."""
        matcher = _Matcher(plain, mentions, context)
        fired = ((rule, matcher.match(rule)) for rule in self._candidates(mentions))
        return [(rule, spans) for rule, spans in fired if spans is not None]

    def _candidates(self, concepts: Iterable[str]) -> list[Rule]:
        """The rules that may fire where these concepts are mentioned."""
        found = set(concepts)
        places = {place for concept in found for place in self._by_concept.get(concept, ())}
        return [
            self.rules[place] for place in sorted(places) if all(not found.isdisjoint(n) for n in self._needs[place])
        ]


class _Matcher:
    """One text and its mentions, against which rules are held."""

    def __init__(self, text: str, mentions: Mentions, context: Context) -> None:
        self._text, self._mentions, self._context = text, mentions, context
        self._flags: dict[Mention, frozenset[Flag]] = {}
        self._of: dict[tuple[Entry, frozenset[Flag]], list[Mention]] = {}  # mentions of an entry that are meant

    def match(self, rule: PatternRule) -> Spans | None:
        """Return the spans by which a rule fires, or None."""
        slots = []
        for entry in rule.find:
            slots.append(self._meant(entry, rule.even_if))
            if not slots[-1]:
                return None
        if not all(self._meant(entry, rule.even_if | _PAST) for entry in rule.who):
            return None
        for first in slots[0]:
            chosen = self._near(first, slots[1:], rule.within)
            if chosen is not None and not self._excluded(rule, first):
                return tuple(span for mention in chosen for span in mention.spans)
        return None

    def _meant(self, entry: Entry, ignored: frozenset[Flag]) -> list[Mention]:
        """The mentions of an entry that are meant, in order."""
        key = (entry, ignored)
        if key not in self._of:
            meant = [
                mention
                for condition in entry
                for mention in self._mentions.get(condition.concept, ())
                if condition.holds(mention.value) and not self._flags_of(mention) - ignored
            ]
            self._of[key] = sorted(meant, key=PLACE)
        return self._of[key]

    def _flags_of(self, mention: Mention) -> frozenset[Flag]:
        flags = self._flags.get(mention)
        if flags is None:
            flags = self._flags[mention] = self._context.flags(mention)
        return flags

    def _near(self, first: Mention, others: Sequence[list[Mention]], within: int) -> list[Mention] | None:
        """The first mention with the nearest of each other slot, if all are near enough."""
        chosen = [first]
        for slot in others:
            at = bisect_left(slot, first.start, key=lambda one: one.start)
            near = min(slot[max(0, at - 1) : at + 1], key=lambda one: self._distance(first, one))
            if within != EVERYWHERE and self._distance(first, near) > within:
                return None
            chosen.append(near)
        return chosen

    def _distance(self, one: Mention, other: Mention) -> float:
        begin, end = sorted((one, other), key=lambda mention: mention.start)
        return words_between(self._text, begin.end, end.start) if end.start > begin.end else 0.0

    def _excluded(self, rule: PatternRule, first: Mention) -> bool:
        unless = self._meant(rule.unless, rule.unless_even_if) if rule.unless else ()
        return any(self._distance(first, mention) <= rule.within for mention in unless)
