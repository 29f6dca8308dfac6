"""Whom a text is about: the persons in it, and the one whom a medicine is for.

    persons = Persons("My sister takes warfarin. Can I take ibuprofen?", load_medication())
    persons.subject(16), persons.patient      # "sibling", "self"

The patient is the person of the last request ("can I", "can my son", 给孩子); without a request the speaker. A pronoun
is the relative who was named last. It knows words (`medication_words.yaml`) and no grammar: three persons in a sentence
can mislead it.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from carellama.package_data import Patterns
from carellama.rules import SENTENCE_END, Mention, Mentions, normalize
from carellama.safety.medication.rules import CONDITION, DRUG, MedicationRules
from carellama.safety.rules.context import Context
from carellama.safety.rules.measures import find_measures

PATTERNS = Patterns("safety/medication/patterns.yaml")  # of persons, facts and conflicts
SELF = "self"
RELATIVES = ("mother", "father", "grandparent", "partner", "sibling", "children", "others")
CHILD_AGE = 14.0  # years; who is younger is seldom the one who writes
LONGEST = 60  # characters of a clause that are looked at on each side
_CLAUSE_END = re.compile(r"[,。!?;\n]|\.(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Token:
    """A word of the text and what it stands for: a person, or a kind of words."""

    start: int
    end: int
    who: str


class Persons:
    """One text of the person, the persons in it, and whom the medicine is for."""

    def __init__(self, text: str, rules: MedicationRules) -> None:
        self.text, self._rules, self._plain = text, rules, normalize(text)
        self._found = rules.lexicon.find(self._plain, find_measures(self._plain))
        self._ends = [match.end() for match in SENTENCE_END.finditer(self._plain)]
        self._clauses = [match.end() for match in _CLAUSE_END.finditer(self._plain)]
        self._named = self._longest()

    @cached_property
    def _context(self) -> Context:
        return Context(self._plain, self._found)

    def _longest(self) -> list[tuple[int, int, str]]:
        """Drugs and conditions in order, without those within a longer name, or within words that void them."""
        names = [name for name in self._found if name.startswith((DRUG, CONDITION)) or name == "_void"]
        return longest_names(self._found, names)

    def _sentence(self, place: int) -> tuple[int, int]:
        return _around(self._ends, place, len(self._plain))

    def _clause(self, place: int) -> tuple[int, int]:
        begin, end = _around(self._clauses, place, len(self._plain))
        return max(begin, place - LONGEST), min(end, place + LONGEST)

    def _mentions(self, concept: str, begin: int, end: int) -> list[Mention]:
        found = self._found.get(concept, [])
        at = bisect_left(found, begin, key=lambda one: one.start)
        until = bisect_left(found, end, key=lambda one: one.start)
        return [one for one in found[at:until] if one.end <= end]

    def _tokens_of(self, concept: str, void: str = "") -> list[Token]:
        voids = [(one.start, one.end) for one in self._found.get(void, ())]
        spans = [
            (one.start, one.end)
            for one in self._found.get(concept, ())
            if not any(start <= one.start and one.end <= end for start, end in voids)
        ]
        return [Token(start, end, concept) for start, end in spans]

    @cached_property
    def _people(self) -> list[Token]:
        """Words that name a person, in order; "she" is the relative who was named last."""
        relatives = [
            Token(one.start, one.end, who) for who in RELATIVES for one in self._found.get(f"_{who}", ())
            if not PATTERNS["not_subject"].search(self._plain, max(0, one.start - 40), one.start)
            and not PATTERNS["advises"].match(self._plain, one.end)
        ]  # fmt: skip
        relatives += [Token(start, end, "children") for start, end, value in self._ages if self._is_child(start, value)]
        relatives.sort(key=lambda one: one.start)
        starts = [one.start for one in relatives]
        selves = [
            Token(one.start, one.end, SELF)
            for concept in ("_self", "_my")
            for one in self._found.get(concept, ())
            if not self._belongs_to_relative(one, concept, starts)
            and not (relatives and PATTERNS["gives"].match(self._plain, one.start))
        ]
        theirs = [
            Token(one.start, one.end, "they") for one in self._found.get("_they", ())
            if not self._is_part(one.start)
        ]  # fmt: skip
        people, last = [], "others"
        for token in sorted((*relatives, *selves, *theirs), key=lambda one: one.start):
            who = last if token.who == "they" else token.who
            if who != SELF:
                last = who
            people.append(Token(token.start, token.end, who))
        return people

    @cached_property
    def _people_starts(self) -> list[int]:
        return [one.start for one in self._people]

    def _belongs_to_relative(self, word: Mention, concept: str, relatives: Sequence[int]) -> bool:
        """Whether a word such as 我 in 我妈, or "my" in "my old mother", names no one by itself."""
        reach = 3 if concept == "_self" and not self._plain[word.start].isascii() else 24 if concept == "_my" else 0
        at = bisect_left(relatives, word.end)
        if at < len(relatives) and relatives[at] - word.end <= reach:
            return not _CLAUSE_END.search(self._plain, word.end, relatives[at])
        if concept == "_my":  # "my" alone names the speaker at the beginning of a clause only
            begin = self._clause(word.start)[0]
            return bool(self._plain[begin : word.start].strip(" "))
        return False

    def _is_part(self, place: int) -> bool:
        """Whether a place is within the name of a drug: 他 in 他汀."""
        at = bisect_right(self._named, (place, len(self._plain), ""))
        return bool(at) and self._named[at - 1][1] > place

    def _is_child(self, start: int, value: float) -> bool:
        return value < CHILD_AGE and not PATTERNS["speaker_before_age"].search(self._plain, max(0, start - 12), start)

    def subject(self, place: int) -> str:
        """Return who is spoken of: the nearest person before the place in its sentence, or behind it in its clause."""
        people = self._people
        at = bisect_right(self._people_starts, place)
        begin, _ = self._sentence(place)
        if at and people[at - 1].start >= begin:
            return people[at - 1].who
        if at < len(people) and people[at].start < self._clause(place)[1]:
            return people[at].who
        return people[at - 1].who if at else SELF

    @cached_property
    def patient(self) -> str:
        """Who the medicine is for: the person of the last request, else the speaker."""
        for concept, void in (("_ask", "_ask_void"), ("_ask_weak", "")):
            tokens = self._tokens_of(concept, void)
            if tokens:
                end = self._sentence(tokens[-1].start)[0]
                same = [one for one in tokens if one.start >= end]
                return self._requester(same[-1] if concept == "_ask_weak" or not self._ascii(same[0]) else same[0])
        people = {one.who for one in self._people} - {"others"}
        if len(people) == 1 and SELF not in people and (self._ages or self._found.get("_ill")):
            return people.pop()
        return SELF

    def _ascii(self, token: Token) -> bool:
        return self._plain[token.start : token.end].isascii()

    def _requester(self, ask: Token) -> str:
        """The person of a request: "can I", "can my son", 给孩子."""
        _, end = self._clause(ask.end)
        following = [one for one in self._people if ask.end <= one.start < end]
        for one in following:
            before = self._plain[max(ask.end, one.start - 24) : one.start]
            if re.search(
                r"(?:给|\bgive|\bgiving|\bfor|\bin|\bto)\s*(?:(?:my|our|an?|the)\s)?(?:[\w-]+\s){0,3}我?们?家?的?$",
                before,
            ):
                return one.who
        if following and self._ascii(ask) and following[0].start - ask.end <= 24 and ask.end - ask.start < 6:
            words = self._plain[ask.end : following[0].start].split()
            if len(words) <= 3 and not {"take", "have", "use"} & set(words):
                return following[0].who
        return self.subject(ask.start)

    @cached_property
    def _ages(self) -> list[tuple[int, int, float]]:
        """Ages in years, not those of a child that is breastfed."""
        found = {
            one.start: (one.start, one.end, one.value) for one in self._found.get("age", ()) if one.value is not None
        }
        for months in PATTERNS["months"].finditer(self._plain):  # "my 9mo"
            found.setdefault(months.start(), (months.start(), months.end(), float(months[1]) / 12))
        for concept, pattern in (
            ("_children", PATTERNS["age_of_child"]),
            ("_self", PATTERNS["age_of_speaker"]),
        ):  # "my son is 5", "I'm 72"
            for one in self._found.get(concept, ()):
                if (age := pattern.match(self._plain, one.end)) and age.start(1) not in found:
                    found[age.start(1)] = (age.start(1), age.end(1), float(age[1]))
        return [
            one
            for _, one in sorted(found.items())
            if not PATTERNS["no_age"].search(self._plain, max(0, one[0] - 30), one[0])
        ]


def longest_names(found: Mentions, names: Iterable[str]) -> list[tuple[int, int, str]]:
    """Return mentions of these concepts in order, without those within a longer one or within `_void`."""
    kept, reach = [], 0
    for start, end, name in sorted((one.start, -one.end, of) for of in names for one in found.get(of, ())):
        if -end > reach:
            reach = -end
            kept.append((start, -end, name))
    return [one for one in kept if one[2] != "_void"]


def _around(ends: Sequence[int], place: int, length: int) -> tuple[int, int]:
    at = bisect_right(ends, place)
    return (ends[at - 1] if at else 0), (ends[at] if at < len(ends) else length)
