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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import inf
from typing import Generic, NamedTuple, TypeVar

from carellama.rules import (
    LETTERS_PER_WORD,
    PLACE,
    FoundMentions,
    Lexicon,
    Mention,
    Mentions,
    normalize,
    words_between,
)
from carellama.safety.context import FLAGS, Context, Flag
from carellama.safety.measures import find_measures, measure_names

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
        named = lexicon.references() | {concept for rule in self.rules for concept in rule.concepts()}
        self._numbers = not named.isdisjoint(measure_names())
        self._needs: list[list[set[str]]] = []  # of each rule, the concepts of each other entry: one must be there
        self._queries: dict[tuple[Entry, frozenset[Flag]], int] = {}  # entries and what they ignore, numbered
        self._slots = [self._compile(rule) for rule in self.rules]
        for place, rule in enumerate(self.rules):
            first, *others = [{one.concept for one in entry} for entry in (*rule.find, *rule.who)]
            self._needs.append(others)
            for concept in first:
                self._by_concept.setdefault(concept, []).append(place)

    def _compile(self, rule: Rule) -> _Slots:
        """The queries of a rule."""

        def number(entry: Entry, ignored: frozenset[Flag]) -> int:
            return self._queries.setdefault((entry, ignored), len(self._queries))

        return _Slots(
            find=[number(entry, rule.even_if) for entry in rule.find],
            who=[number(entry, rule.even_if | _PAST) for entry in rule.who],
            unless=number(rule.unless, rule.unless_even_if) if rule.unless else None,
            within=rule.within,
        )

    def scan(self, text: str) -> list[tuple[Rule, Spans]]:
        """Return the rules that fire on a text, in the order of the files, and where. Linear in its length."""
        plain = normalize(text)
        return self.match(plain, self.mentions(plain))

    def mentions(self, plain: str) -> Mentions:
        """Return the concepts that a text of `normalize` mentions, and the numbers if a rule or a term asks for any."""
        return self.lexicon.find(plain, find_measures(plain) if self._numbers else None)

    def match(self, plain: str, mentions: Mentions, context: Context | None = None) -> list[tuple[Rule, Spans]]:
        """Return the rules that fire on a text of `normalize` whose mentions are known."""
        matcher = _Matcher(plain, mentions, context or Context(plain, mentions), list(self._queries))
        fired = ((self.rules[place], matcher.match(self._slots[place])) for place in self._candidates(mentions))
        return [(rule, spans) for rule, spans in fired if spans is not None]

    def _candidates(self, mentions: Mentions) -> list[int]:
        """The places of the rules that may fire where these concepts are mentioned."""
        found = set(mentions.may_be() if isinstance(mentions, FoundMentions) else mentions)
        places = {place for concept in found for place in self._by_concept.get(concept, ())}
        return [place for place in sorted(places) if not any(map(found.isdisjoint, self._needs[place]))]


class _Slots(NamedTuple):
    """What a rule asks for, as numbers of queries."""

    find: list[int]
    who: list[int]
    unless: int | None
    within: int


class _Meant:
    """The mentions that answer a query, in order."""

    def __init__(self, mentions: list[Mention]) -> None:
        self.mentions = mentions
        self.starts = [one.start for one in mentions]

    @cached_property
    def last_ends(self) -> list[int]:
        """The greatest end up to each of them."""
        return list(accumulate((one.end for one in self.mentions), max))


class _Matcher:
    """One text and its mentions, against which rules are held."""

    def __init__(
        self, text: str, mentions: Mentions, context: Context, queries: Sequence[tuple[Entry, frozenset[Flag]]]
    ) -> None:
        self._text, self._mentions, self._context = text, mentions, context
        self._queries = queries
        self._answers: dict[int, _Meant] = {}
        self._concepts: dict[tuple[str, frozenset[Flag]], list[Mention]] = {}

    def match(self, rule: _Slots) -> Spans | None:
        """Return the spans by which a rule fires, or None."""
        slots = []
        for query in rule.find:
            slots.append(self._meant(query))
            if not slots[-1].starts:
                return None
        if not all(self._meant(query).starts for query in rule.who):
            return None
        unless = None if rule.unless is None else self._meant(rule.unless)
        if rule.within == EVERYWHERE and unless and unless.starts:
            return None
        for first in slots[0].mentions:
            chosen = self._near(first, slots[1:], rule.within)
            if chosen is not None and not (unless and self._is_near(first, unless, rule.within)):
                return tuple(span for mention in chosen for span in mention.spans)
        return None

    def _meant(self, query: int) -> _Meant:
        """The mentions of an entry that are meant."""
        answer = self._answers.get(query)
        if answer is None:
            entry, ignored = self._queries[query]
            meant: list[Mention] = []
            for condition in entry:
                mentions = self._meant_of(condition.concept, ignored)
                meant += mentions if condition.comparison is None else (m for m in mentions if condition.holds(m.value))
            if len(entry) > 1:
                meant.sort(key=PLACE)
            answer = self._answers[query] = _Meant(meant)
        return answer

    def _meant_of(self, concept: str, ignored: frozenset[Flag]) -> list[Mention]:
        """The mentions of a concept that are meant."""
        key = concept, ignored
        meant = self._concepts.get(key)
        if meant is None:
            flags = self._context.flags
            found = self._mentions.get(concept, ())
            meant = self._concepts[key] = [
                mention for mention in found if ignored == FLAGS or flags(mention) <= ignored
            ]
        return meant

    def _near(self, first: Mention, others: Sequence[_Meant], within: int) -> list[Mention] | None:
        """The first mention with the nearest of each other slot, if all are near enough."""
        chosen = [first]
        for slot in others:
            at = bisect_left(slot.starts, first.start)
            near = slot.mentions[max(0, at - 1) : at + 1]
            distances = [self._distance(first, one.start, one.end, within) for one in near]
            least = min(distances)
            if least > within:
                return None
            chosen.append(near[distances.index(least)])
        return chosen

    def _is_near(self, first: Mention, others: _Meant, within: int) -> bool:
        """Whether any of the others is near the mention: the one that begins next, or the one that ended last."""
        starts = others.starts
        at = bisect_left(starts, first.start)
        if at < len(starts) and self._distance(first, starts[at], starts[at], within) <= within:
            return True
        return bool(at) and self._distance(first, starts[at - 1], others.last_ends[at - 1], within) <= within

    def _distance(self, first: Mention, start: int, end: int, within: int) -> float:
        """Words between a mention and another; infinite where that many letters are more than `within` words."""
        begin, end = (first.end, start) if start >= first.start else (end, first.start)
        if end <= begin:
            return 0.0
        return words_between(self._text, begin, end) if end - begin <= within * LETTERS_PER_WORD else inf
