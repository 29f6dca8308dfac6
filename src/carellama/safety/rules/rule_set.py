"""Pattern rules: which concepts must be meant near each other, and where a text says so. Triage and guard share them.

    rules = load_red_flags()                    # a RuleSet
    rules.scan("胸口像压了块石头，一身冷汗")     # [(RedFlag(id="heart-attack", ...), ((0, 4), ...)), ...]

A rule fires where all entries of `find` are meant of now and stand within `within` words of the first, all entries of
`who` are said anywhere, and nothing of `unless` is near. An entry is a concept or a number (`temperature >= 38`, see
`safety.rules.measures`); `a | b` is either. `even_if` names flags of `safety.rules.context` that do not matter to the
rule. `safety.rules.files` reads rules from YAML.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Generic, NamedTuple, TypeVar

from carellama.mention_table import LETTERS_PER_WORD
from carellama.rules import (
    FoundMentions,
    Lexicon,
    Mention,
    Mentions,
    normalize,
    words_between,
)
from carellama.safety.rules.context import FLAGS, MEANT, Context, Flag
from carellama.safety.rules.measures import find_measures, measure_names

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
            if ignored == FLAGS:
                ignored = FLAGS  # itself, as `_is_meant` compares
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
        found = set(mentions)
        places = {place for concept in found for place in self._by_concept.get(concept, ())}
        return [place for place in sorted(places) if not any(map(found.isdisjoint, self._needs[place]))]


class _Slots(NamedTuple):
    """What a rule asks for, as numbers of queries."""

    find: list[int]
    who: list[int]
    unless: int | None
    within: int


class _Numbered:
    """Mentions that are in no table, numbered as `FoundMentions` does."""

    def __init__(self, mentions: Mentions) -> None:
        every = sorted(((one, name) for name, found in mentions.items() for one in found), key=lambda one: one[0][:2])
        self._made = [one for one, _ in every]
        self.starts, self.ends = [one.start for one in self._made], [one.end for one in self._made]
        self._numbers: dict[str, list[int]] = {}
        for number, (_, name) in enumerate(every):
            self._numbers.setdefault(name, []).append(number)

    def numbers(self, concept: str) -> list[int]:
        return self._numbers.get(concept, [])

    def mention(self, number: int) -> Mention:
        return self._made[number]


class _Answers:
    """The mentions that may answer a query, as numbers in order, and those flags that do not matter to it."""

    def __init__(self, numbers: list[int], ignored: frozenset[Flag]) -> None:
        self.numbers, self.ignored = numbers, ignored
        self.first = 0  # place of the first that is meant

    @property
    def is_meant(self) -> bool:
        """Whether any of them is meant."""
        return self.first < len(self.numbers)


class _Matcher:
    """One text and its mentions, against which rules are held. How a mention is meant is settled when a rule asks."""

    def __init__(
        self, text: str, mentions: Mentions, context: Context, queries: Sequence[tuple[Entry, frozenset[Flag]]]
    ) -> None:
        self._text, self._context, self._queries = text, context, queries
        self._found = mentions if isinstance(mentions, FoundMentions) else _Numbered(mentions)
        self._starts, self._ends = self._found.starts, self._found.ends
        self._longest = max(map(operator.sub, self._ends, self._starts), default=0)  # characters of a mention
        self._flags: list[frozenset[Flag] | None] = [None] * len(self._starts)
        self._answers: dict[int, _Answers] = {}

    def match(self, rule: _Slots) -> Spans | None:
        """Return the spans by which a rule fires, or None."""
        slots = []
        for query in rule.find:
            slots.append(self._of(query))
            if not slots[-1].is_meant:
                return None
        if not all(self._of(query).is_meant for query in rule.who):
            return None
        unless = None if rule.unless is None else self._of(rule.unless)
        if rule.within == EVERYWHERE:
            if unless and unless.is_meant:
                return None
            slots = [_Answers([*self._meant(slot)], FLAGS) for slot in slots]
        for first in self._meant(slots[0]):
            chosen = self._near(first, slots[1:], rule.within)
            if chosen is not None and not (unless and self._is_near(first, unless, rule.within)):
                return tuple(span for number in chosen for span in self._found.mention(number).spans)
        return None

    def _of(self, query: int) -> _Answers:
        """The mentions that may answer a query."""
        answers = self._answers.get(query)
        if answers is None:
            entry, ignored = self._queries[query]
            lists = [numbers for one in entry if (numbers := self._numbers(one))]
            found = sorted(set().union(*lists)) if len(lists) > 1 else lists[0] if lists else []
            answers = self._answers[query] = _Answers(found, ignored)
            while answers.is_meant and not self._is_meant(found[answers.first], ignored):
                answers.first += 1
        return answers

    def _numbers(self, condition: Condition) -> list[int]:
        """The mentions that hold a condition."""
        numbers = self._found.numbers(condition.concept)
        if condition.comparison is None:
            return numbers
        return [one for one in numbers if condition.holds(self._found.mention(one).value)]

    def _meant(self, answers: _Answers) -> Iterator[int]:
        """Those that are meant."""
        ignored = answers.ignored
        return (one for one in answers.numbers[answers.first :] if self._is_meant(one, ignored))

    def _is_meant(self, number: int, ignored: frozenset[Flag]) -> bool:
        """Whether a mention is meant but for these flags."""
        if ignored is FLAGS:
            return True
        flags = self._flags[number]
        if flags is None:
            plain = self._context.is_plain(self._starts[number], self._ends[number])
            flags = self._flags[number] = MEANT if plain else self._context.flags(self._found.mention(number))
        return not flags or flags <= ignored

    def _near(self, first: int, others: Sequence[_Answers], within: int) -> list[int] | None:
        """The first mention with the nearest of each other slot, if all are near enough."""
        chosen = [first]
        start, end = self._starts[first], self._ends[first]
        for slot in others:
            behind, before = self._behind(slot, start, end, within), next(self._before(slot, start, within), None)
            ahead = self._words(end, self._starts[behind], within) if behind is not None else inf
            back = self._words(self._ends[before], start, within) if before is not None else inf
            nearest, least = (before, back) if back <= ahead else (behind, ahead)
            if nearest is None or least > within:
                return None
            chosen.append(nearest)
        return chosen

    def _is_near(self, first: int, others: _Answers, within: int) -> bool:
        """Whether any of the others is near the mention: the one that begins next, or the one that ended last."""
        start, end = self._starts[first], self._ends[first]
        behind = self._behind(others, start, end, within)
        if behind is not None and self._words(end, self._starts[behind], within) <= within:
            return True
        last = max((self._ends[one] for one in self._before(others, start, within)), default=None)
        return last is not None and self._words(last, start, within) <= within

    def _behind(self, answers: _Answers, start: int, end: int, within: int) -> int | None:
        """The first that is meant and begins at `start` or later, as far as words may reach from `end`."""
        numbers, starts, last = answers.numbers, self._starts, end + within * LETTERS_PER_WORD
        for at in range(bisect_left(numbers, start, key=starts.__getitem__), len(numbers)):
            number = numbers[at]
            if starts[number] > last:
                break
            if self._is_meant(number, answers.ignored):
                return number
        return None

    def _before(self, answers: _Answers, start: int, within: int) -> Iterator[int]:
        """Those that are meant and begin before `start`, the last first, as far as words may reach to it."""
        numbers, starts, first = answers.numbers, self._starts, start - within * LETTERS_PER_WORD - self._longest
        for at in range(bisect_left(numbers, start, key=starts.__getitem__) - 1, -1, -1):
            number = numbers[at]
            if starts[number] < first:
                break
            if self._is_meant(number, answers.ignored):
                yield number

    def _words(self, begin: int, end: int, within: int) -> float:
        """Words between two places; none where they overlap, infinite for more letters than `within` words have."""
        if end <= begin:
            return 0.0
        return words_between(self._text, begin, end) if end - begin <= within * LETTERS_PER_WORD else inf
