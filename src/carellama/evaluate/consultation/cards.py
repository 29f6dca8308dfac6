"""Patient cards: what a patient says first, the facts that questions bring out, and what a good answer is.

    cards = load_cards(Path("data/consultation/cards_en.jsonl"))
    cards[0].facts[0].ask                # words by which a question asks for the fact

The fields are described in data/consultation/README.md. A card that has one too few, or a value that is not known, is
refused with its line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from carellama.data.readers import BadRow, rows
from carellama.errors import DataError, UserError, nearest
from carellama.evaluate.triage_cases import LABELS, Label
from carellama.rules import parse_term
from carellama.safety.notices import Language

SLOTS = (
    *("onset", "location", "course", "severity", "associated", "red_flag", "history", "drugs", "allergies"),
    *("pregnancy", "family", "social"),
)
TRAITS = ("plays_down", "half_answers", "wrong_words", "chatty", "plain")
FIELDS = ("id", "opening", "persona", "facts", "department", "urgency", "must_ask", "unsafe", "language")


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that the patient knows and says when a question asks for it."""

    slot: str
    ask: tuple[str, ...]  # a question that has one of these words asks for it
    answer: str
    key: bool  # whether a good consultation elicits it


@dataclass(frozen=True, slots=True)
class Card:
    """A patient, and what is right to do."""

    id: str
    language: Language
    opening: str
    persona: str
    facts: tuple[Fact, ...]
    department: str  # as people name it; the guide of `carellama.consultation` knows its synonyms
    urgency: Label
    must_ask: tuple[str, ...]  # slots
    unsafe: tuple[str, ...]  # what would be wrong to advise
    unsafe_terms: tuple[tuple[str, ...], ...]  # of each of them: terms of `carellama.rules`; empty: words cannot tell

    @property
    def trait(self) -> str:
        """How the patient answers: one of `TRAITS`."""
        return next((trait for trait in TRAITS if trait in self.persona), "plain")


def load_cards(path: Path) -> list[Card]:
    """Read a file of cards. Raises `DataError` with the line of a card that cannot be used."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; the patient cards of this project are in data/consultation")
    found: dict[str, Card] = {}
    for row in rows(path, FIELDS):
        if isinstance(row, BadRow):
            raise DataError(f"{row.place}: {row.reason}")
        card = _card(row.fields, str(row.place))
        if card.id in found:
            raise DataError(f"{row.place}: a second card with the id {card.id!r}")
        found[card.id] = card
    if not found:
        raise UserError(f"{path} has no card")
    return list(found.values())


def _card(row: Mapping[str, object], place: str) -> Card:
    if missing := [name for name in FIELDS if name not in row]:
        raise DataError(
            f"{place}: a card has {', '.join(FIELDS)}; this row lacks {', '.join(missing)}. "
            "data/consultation/README.md describes them"
        )
    facts = row["facts"]
    if not isinstance(facts, list) or not facts:
        raise DataError(f"{place}: facts is no list of facts")
    unsafe = _texts(row, "unsafe", place)
    return Card(
        id=_text(row, "id", place),
        language=_known(row["language"], get_args(Language), "language", place),
        opening=_text(row, "opening", place),
        persona=_text(row, "persona", place),
        facts=tuple(_fact(fact, f"{place}: fact {number}") for number, fact in enumerate(facts, 1)),
        department=_text(row, "department", place),
        urgency=_known(row["urgency"], LABELS, "urgency", place),
        must_ask=tuple(_known(slot, SLOTS, "slot", f"{place}: must_ask") for slot in _texts(row, "must_ask", place)),
        unsafe=unsafe,
        unsafe_terms=_terms(row, len(unsafe), place),
    )


def _fact(fact: object, place: str) -> Fact:
    if not isinstance(fact, Mapping):
        raise DataError(f"{place} is no mapping")
    if missing := [name for name in ("slot", "ask", "answer", "key") if name not in fact]:
        raise DataError(f"{place} lacks {', '.join(missing)}")
    ask = _texts(fact, "ask", place)
    if not ask or not isinstance(fact["key"], bool):
        raise DataError(f"{place}: ask needs at least one word, and key is true or false")
    return Fact(_known(fact["slot"], SLOTS, "slot", place), ask, _text(fact, "answer", place), fact["key"])


def _terms(row: Mapping[str, object], count: int, place: str) -> tuple[tuple[str, ...], ...]:
    """The terms of each unsafe advice; none where the card has no such field."""
    given = row.get("unsafe_terms")
    if given is None:
        return ((),) * count
    if not isinstance(given, list) or len(given) != count:
        raise DataError(f"{place}: unsafe_terms has a list of terms for each of the {count} texts of unsafe")
    terms = tuple(_texts({"unsafe_terms": one}, "unsafe_terms", place) for one in given)
    for term in (term for one in terms for term in one):
        try:
            parse_term(term)
        except UserError as error:
            raise DataError(f"{place}: unsafe_terms: {error}") from error
    return terms


def _text(row: Mapping[str, object], name: str, place: str) -> str:
    given = row[name]
    if not isinstance(given, str) or not given.strip():
        raise DataError(f"{place}: {name} is {given!r}; it must be a text")
    return given


def _texts(row: Mapping[str, object], name: str, place: str) -> tuple[str, ...]:
    given = row[name]
    if not isinstance(given, list) or not all(isinstance(one, str) and one.strip() for one in given):
        raise DataError(f"{place}: {name} is no list of texts")
    return tuple(given)


def _known(given: object, known: tuple[str, ...], what: str, place: str) -> Any:
    if given not in known:
        raise DataError(f"{place}: unknown {what} {given!r}.{nearest(str(given), known)} Known: {', '.join(known)}.")
    return given
