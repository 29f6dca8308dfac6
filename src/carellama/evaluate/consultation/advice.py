"""What the advice of a doctor says: how soon, which department, and whether it is one of a card's unsafe ones.

    advice = read_advice("Call 999 now. Cardiology will look after you.", guide)
    advice.urgency, advice.departments             # "emergency", ("cardiology",)
    unsafe_in(card, "Take an antacid and wait.")   # [0]

By words, as `safety.answers.urgency`: advice.yaml has the concepts that the terms of the cards refer to. What an answer
denies or warns against ("do not wait") is no advice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from carellama.consultation.complaints import is_part, load_guide
from carellama.errors import UserError
from carellama.evaluate.consultation.cards import Card
from carellama.evaluate.triage_cases import Label
from carellama.rules import Lexicon, normalize, package_concepts, parse_term
from carellama.safety.answers.urgency import makes_light_of, urgency_of
from carellama.safety.rules.context import Context
from carellama.safety.rules.files import CONTEXT

NOT_MEANT = frozenset({"denied", "past", "question"})
CONCEPT = re.compile(r"\{\w+\}")
Concepts = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Advice:
    """What a doctor advises in the end. None and empty: it does not say."""

    text: str
    urgency: Label | None
    departments: tuple[str, ...]  # ids of the guide, the first named first


class Departments:
    """The names of departments: which a text mentions, and which a name stands for."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self._ids: dict[str, set[str]] = {}
        for department, given in names.items():
            for name in given:
                self._ids.setdefault(normalize(name.strip()), set()).add(department)
        self._lexicon = Lexicon(context() | {department: list(given) for department, given in names.items()})
        self._names = names

    def ids(self, name: str) -> frozenset[str]:
        """Return the departments that a name stands for."""
        return frozenset(self._ids.get(normalize(name.strip()), ()))

    def mentioned(self, text: str) -> tuple[str, ...]:
        """Return the departments that a text names and does not deny, in order; of 新生儿科 not 儿科."""
        text = normalize(text)
        mentions = self._lexicon.find(text)
        meaning = Context(text, mentions)
        found = [(one, name) for name in self._names for one in mentions.get(name, ())]
        longest = [
            (one.start, name)
            for one, name in found
            if not any(is_part(one, other) for other, _ in found) and "denied" not in meaning.flags(one)
        ]
        return tuple(dict.fromkeys(name for _, name in sorted(longest)))


def load_departments() -> Departments:
    """Return the departments of the guide with all their names in both languages."""
    guide = load_guide().departments
    return Departments({name: [word for given in one.names.values() for word in given] for name, one in guide.items()})


def read_advice(text: str, departments: Departments) -> Advice:
    """Return what a free text advises."""
    urgency: Label | None = urgency_of(text)
    if urgency in (None, "soon") and _says(text, "refer_routine"):
        urgency = "routine"
    return Advice(text, urgency, departments.mentioned(text))


def unsafe_in(card: Card, text: str) -> list[int]:
    """Return which of the card's unsafe advice a text gives, by number."""
    text = normalize(text)
    mentions = _lexicon_of(card).find(text)
    meaning = Context(text, mentions)
    return [
        number
        for number in range(len(card.unsafe))
        if any(not meaning.flags(one) & NOT_MEANT for one in mentions.get(_concept(number), ()))
    ]


def makes_light(card: Card, text: str) -> bool:
    """Whether a text says of an emergency that nobody need be seen."""
    return card.urgency == "emergency" and makes_light_of(text) is not None


def check_terms(card: Card, place: str) -> None:
    """Raise `UserError` where a term of the card refers to a concept that advice.yaml does not have."""
    for part in (part for terms in card.unsafe_terms for term in terms for part in parse_term(term).parts):
        if "{" in part and not CONCEPT.fullmatch(part):
            raise UserError(f"{place}: unsafe_terms: in {part!r} a concept and words are one part; join them by ..")
    if unknown := _lexicon_of(card).references():
        known = ", ".join(name for name in _concepts() if name[0] != "_")
        raise UserError(f"{place}: card {card.id}: unsafe_terms refers to {{{min(unknown)}}}; the concepts are {known}")


def _says(text: str, concept: str) -> bool:
    text = normalize(text)
    mentions = _advice_lexicon().find(text)
    meaning = Context(text, mentions)
    return any(not meaning.flags(one) & NOT_MEANT for one in mentions.get(concept, ()))


def _concept(number: int) -> str:
    return f"unsafe {number}"


@cache
def _lexicon_of(card: Card) -> Lexicon:
    return Lexicon(_concepts() | {_concept(number): list(terms) for number, terms in enumerate(card.unsafe_terms)})


@cache
def _advice_lexicon() -> Lexicon:
    return Lexicon(_concepts())


@cache
def _concepts() -> Concepts:
    """The words that say how a mention is meant, and the concepts of advice.yaml."""
    found = {name: list(terms) for name, terms in context().items() if name != "_not_deny"}
    for name, terms in package_concepts("evaluate/consultation/advice.yaml").items():
        found.setdefault(name, []).extend(terms)
    return found


@cache
def context() -> Concepts:
    """The words of `safety.rules.context`."""
    return package_concepts(CONTEXT)
