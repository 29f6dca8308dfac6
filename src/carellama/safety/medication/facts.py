"""What a person said that decides which medicines suit: pregnancy, age, allergies, diseases, and drugs that are taken.

    facts = person_facts("我怀孕12周，青霉素过敏，能吃阿莫西林吗")
    facts.pregnancy.value, facts.trimester        # 12.0, 1
    [fact.id for fact in facts.allergies]         # ["penicillin"]

Facts are those of the patient (`safety.medication.persons`). What is said of somebody else or denied does not count,
nor does a drug that was stopped; a disease of the past does, unless it was cured. By words, without a model.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from carellama.records import Message
from carellama.rules import Mention
from carellama.safety.medication.persons import LONGEST, PATTERNS, SELF, Persons, Token
from carellama.safety.medication.rules import CONDITION, DRUG, MedicationRules, load_medication
from carellama.safety.triage.triage import patient_text

FIRST_WEEK, LAST_WEEK = 4, 42  # of pregnancy
Role = Literal["taken", "asked", "allergy"]
AGES = {"_infant": 0.5, "_small_child": 6.0, "_teen": 15.0, "_elderly": 75.0}  # years, where only the word is said
_SAID = ("_pregnant", "_breastfeeding", "pregnancy_weeks", *AGES)


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that was said of the patient, and where: half-open offsets into `PersonFacts.text`."""

    id: str  # of a drug or class, of a condition, or "pregnancy", "breastfeeding", "age"
    start: int
    end: int
    value: float | None = None  # weeks of pregnancy, or years


@dataclass(frozen=True, slots=True)
class PersonFacts:
    """What is known of the patient. `drugs`: those taken; `asked`: those only asked about."""

    text: str = ""
    pregnancy: Fact | None = None
    trimester: int = 0  # 0: not pregnant, or not said
    breastfeeding: Fact | None = None
    age: Fact | None = None
    allergies: tuple[Fact, ...] = ()
    diseases: tuple[Fact, ...] = ()
    drugs: tuple[Fact, ...] = ()
    asked: tuple[Fact, ...] = ()

    @property
    def decide(self) -> bool:
        """Whether anything is known that a medicine may not go with."""
        return bool(self.pregnancy or self.breastfeeding or self.age or self.allergies or self.diseases or self.drugs)


@dataclass(frozen=True, slots=True)
class DrugMention:
    """A drug in a text of the person, of the patient or not."""

    id: str
    start: int
    end: int
    role: Role
    subject: str
    denied: bool
    topical: bool


def person_facts(said: str | Sequence[Message], rules: MedicationRules | None = None) -> PersonFacts:
    """Return what a text, or the person's turns of a conversation, say of the patient. Linear in the length."""
    text = said if isinstance(said, str) else person_text(said)
    return Reading(text, rules or load_medication()).facts()


def is_topical(text: str, start: int, end: int) -> bool:
    """Return whether a drug named there is a cream, drops and the like, or is put on the skin."""
    return bool(PATTERNS["topical"].match(text, end) or PATTERNS["on_skin"].search(text, max(0, start - 16), start))


def person_text(messages: Sequence[Message]) -> str:
    """Return the person's turns with the questions that they affirmed, which are statements then."""
    turns = []
    for at, message in enumerate(messages):
        if message.role == "user":
            told = patient_text(messages[max(0, at - 1) : at + 1])
            asked = told[: len(told) - len(message.content)]
            turns.append(asked.replace("?", ".").replace("？", "。").replace("吗", "") + message.content)
    return "\n".join(turns)


class Reading(Persons):
    """What a text of the person says of drugs and of the patient."""

    @cached_property
    def drugs(self) -> list[DrugMention]:
        """All drugs of the text in order."""
        found: list[DrugMention] = []
        last_end, last_denied = -1, False
        for start, end, concept in self._named:
            if not concept.startswith(DRUG):
                continue
            denied = bool(PATTERNS["denied"].search(self._plain, max(0, start - 48), start)) or self._is_ceased(start)
            if last_denied and PATTERNS["between_names"].fullmatch(self._plain, last_end, start):
                denied = True
            last_end, last_denied = end, denied
            topical = is_topical(self._plain, start, end)
            allergy = self._allergy(start, end)
            if allergy == "none":
                continue
            role: Role = "allergy" if allergy else self._role(start, end)
            found.append(
                DrugMention(
                    concept[len(DRUG) :], start, end, role, self.subject(start), denied and not allergy, topical
                )
            )
        return found

    def _is_ceased(self, start: int) -> bool:
        return bool(self._mentions("_ceased", *self._clause(start)))

    def _allergy(self, start: int, end: int) -> str:
        """ "yes", "" (not about an allergy), or "none": it is said that there is no allergy."""
        begin, until = self._sentence(start)
        before = self._mentions("_allergy_before", max(begin, start - 80), start)
        if before and self._only_names(before[-1].end, start):
            word = before[-1].start
            return "none" if PATTERNS["not_allergic"].search(self._plain, max(begin, word - 24), word) else "yes"
        after = self._mentions("_allergy_after", end, min(until, end + LONGEST))
        if not after or not self._only_names(end, after[0].start, loose=True):
            return ""
        denied = re.fullmatch(r".{0,12}(?:不|没有?|未|无).{0,3}", self._plain[end : after[0].start])
        return (
            "none" if denied or PATTERNS["not_allergic"].search(self._plain, max(begin, start - 24), start) else "yes"
        )

    def _only_names(self, begin: int, end: int, *, loose: bool = False) -> bool:
        """Whether nothing but other drugs and words between them stand there."""
        at = begin
        for start, until, concept in self._names_between(begin, end):
            if not self._joins(at, start, loose=loose) or not concept.startswith(DRUG):
                return False
            at = until
        return self._joins(at, end, loose=loose)

    def _joins(self, begin: int, end: int, *, loose: bool) -> bool:
        text = self._plain[begin:end]
        if PATTERNS["between_names"].fullmatch(text):
            return True
        return bool(
            re.fullmatch(r"[\s,、]*(?:不|没有?|未|无)?", text) or (loose and PATTERNS["before_allergy"].fullmatch(text))
        )

    def _names_between(self, begin: int, end: int) -> list[tuple[int, int, str]]:
        at = bisect_left(self._named, (begin, 0, ""))
        until = bisect_left(self._named, (end, 0, ""))
        return self._named[at:until]

    def _role(self, start: int, end: int) -> Role:
        """Whether a drug is taken or only asked about, by the nearest words before it in its sentence."""
        begin, _ = self._sentence(start)
        begin = max(begin, start - 2 * LONGEST)
        ask = self._last(self._asks, begin, start)
        state, take = (self._reaching(self._last(words, begin, start), start) for words in (self._states, self._takes))
        if state and (ask is None or state.start > ask.start):
            return "taken"
        if ask is not None:
            return "taken" if take and take.start > ask.end and "," in self._plain[ask.end : take.start] else "asked"
        clause_end = self._clause(end)[1]
        asked_after = any(end <= one.start < clause_end for one in self._asks)
        if asked_after and not any(self._last(self._asks, end, one[0]) for one in self._names_between(end, clause_end)):
            return "asked"
        taken_after = any(end <= one.start <= end + 6 for one in self._states)
        return "taken" if take or taken_after else "asked"

    def _reaching(self, word: Token | None, start: int) -> Token | None:
        """The word, if what follows it up to the drug is its clause or a list; an English list may have doses."""
        if word is None or "," not in (between := self._plain[word.end : start]) or between.isascii():
            return word
        return word if self._only_names(word.end, start, loose=True) else None

    def _last(self, tokens: Sequence[Token], begin: int, end: int) -> Token | None:
        at = bisect_left(tokens, end, key=lambda one: one.start)
        for one in reversed(tokens[max(0, at - 4) : at]):
            if begin <= one.start and one.end <= end:
                return one
        return None

    @cached_property
    def _asks(self) -> list[Token]:
        return self._tokens_of("_ask", "_ask_void")

    @cached_property
    def _states(self) -> list[Token]:
        """Words that say that a drug is taken; "I take" in "can I take" does not."""
        asked = {one.end for one in self._asks}
        return [one for one in self._tokens_of("_state") if not asked & {one.start, one.start - 1}]

    @cached_property
    def _takes(self) -> list[Token]:
        return self._tokens_of("_take")

    def facts(self) -> PersonFacts:
        """Return what the text says of the patient."""
        if not (self._named or self._ages or any(name in self._found for name in _SAID)):
            return PersonFacts(self.text)
        mine = [one for one in self.drugs if one.subject == self.patient and not one.denied]
        pregnancy = self._pregnancy()
        return PersonFacts(
            text=self.text,
            pregnancy=pregnancy,
            trimester=self._trimester(pregnancy),
            breastfeeding=self._first("_breastfeeding", "_not_breastfeeding", "breastfeeding"),
            age=self._age(),
            allergies=_unique(one for one in mine if one.role == "allergy"),
            diseases=self._diseases(),
            drugs=_unique(one for one in mine if one.role == "taken"),
            asked=_unique(one for one in mine if one.role == "asked"),
        )

    def _first(self, concept: str, void: str, id: str) -> Fact | None:
        """The first mention of a concept that is meant of the patient now."""
        for one in self._tokens_of(concept, void):
            mention = Mention(one.start, one.end, ((one.start, one.end),))
            if "denied" in self._context.flags(mention) or self.subject(one.start) != self.patient:
                continue
            if self._mentions(void, *self._clause(one.start)):
                continue
            return Fact(id, one.start, one.end)
        return None

    def _pregnancy(self) -> Fact | None:
        weeks = [*self._weeks_of_speaker()]
        weeks += [
            one for one in self._found.get("pregnancy_weeks", ())
            if self.subject(one.start) == self.patient
            and not PATTERNS["past_pregnancy"].search(self._plain, *self._clause(one.start))
        ]  # fmt: skip
        said = self._first("_pregnant", "_not_pregnant", "pregnancy")
        if said and PATTERNS["past_pregnancy"].search(self._plain, *self._clause(said.start)):
            said = None
        if said is None and weeks and "denied" not in self._context.flags(weeks[-1]):
            said = Fact("pregnancy", weeks[-1].start, weeks[-1].end)
        return said and Fact("pregnancy", said.start, said.end, weeks[-1].value if weeks else None)

    def _weeks_of_speaker(self) -> Iterator[Mention]:
        """Weeks that can only be of pregnancy: "I'm 22 weeks"."""
        for one in self._found.get("_self", ()):
            found = PATTERNS["weeks"].match(self._plain, one.end)
            if found and FIRST_WEEK <= float(found[1]) <= LAST_WEEK and self.patient == SELF:
                yield Mention(found.start(1), found.end(1), (found.span(1),), float(found[1]))

    def _trimester(self, pregnancy: Fact | None) -> int:
        if pregnancy is None:
            return 0
        if pregnancy.value is not None:
            return 1 if pregnancy.value < 14 else 2 if pregnancy.value < 28 else 3
        for number in (1, 2, 3):
            if self._found.get(f"_trimester_{number}"):
                return number
        return 0

    def _age(self) -> Fact | None:
        for start, end, value in reversed(self._ages):
            if self.subject(start) == self.patient:
                return Fact("age", start, end, value)
        for concept, years in AGES.items():
            for one in self._found.get(concept, ()):
                named = any(token.start == one.start or token.end == one.end for token in self._people)
                if named and self.patient != SELF and self.subject(one.start) == self.patient:
                    return Fact("age", one.start, one.end, years)
        return None

    def _is_asked_about(self, start: int, end: int) -> bool:
        """Whether the question is what the word means."""
        return bool(
            PATTERNS["what_is"].search(self._plain, max(0, start - 24), start)
            or PATTERNS["what"].match(self._plain, end)
        )

    def _diseases(self) -> tuple[Fact, ...]:
        found = []
        for start, end, concept in self._named:
            if not concept.startswith(CONDITION) or self.subject(start) != self.patient:
                continue
            clause = self._clause(start)
            flags = self._context.flags(Mention(start, end, ((start, end),)))
            if not (
                PATTERNS["has_not"].search(self._plain, max(0, start - 24), start)
                or PATTERNS["cured"].search(self._plain, *clause)
                or self._mentions("_family", *clause)
                or flags & {"denied", "supposed"}
                or self._is_asked_about(start, end)
            ):
                found.append(Fact(concept[len(CONDITION) :], start, end))
        return tuple({fact.id: fact for fact in reversed(found)}.values())[::-1]


def _unique(mentions: Iterable[DrugMention]) -> tuple[Fact, ...]:
    return tuple({one.id: Fact(one.id, one.start, one.end) for one in mentions}.values())
