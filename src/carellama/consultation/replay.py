"""What the messages of a consultation say so far: slots, follow-ups that are due, and what triage is to look at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from carellama.consultation.complaints import find_complaints
from carellama.consultation.levels import Patient, TriageInput
from carellama.consultation.reading import (
    MessageReading,
    Sex,
    clip,
    is_age_sex,
    is_clause,
    is_denial,
    is_question,
    is_time,
    kind_of,
    only_asks,
)
from carellama.consultation.state import FERTILE, ConsultState, Reader, Reason, Slot, Urgency
from carellama.records import Message
from carellama.safety.medication.conflicts import Conflict, conflicts, person_facts
from carellama.safety.medication.rules import MedicationRules
from carellama.safety.notices import Language
from carellama.safety.triage.triage import BY_CLASSIFIER, Triage

# slots for which a bare yes is half an answer, and those about which an answer may tell of something else only
LISTS: frozenset[Slot] = frozenset({"red_flag", "associated", "history", "drugs", "allergies", "family", "social"})
OF_OTHERS: frozenset[Slot] = frozenset({"history", "drugs", "allergies", "family"})  # answers that name other illnesses
LATE: frozenset[Slot] = frozenset({"allergies", "drugs", "pregnancy"})  # added to whenever they are told of
DISTINCT: frozenset[Slot] = frozenset({"age_sex", "pregnancy", "allergies", "drugs", "history", "family"})
NAMED: frozenset[Slot] = frozenset({"allergies", "drugs"})  # an answer names some, or says that there are none
PLACES: frozenset[Slot] = frozenset({"location"})  # a denial answers no question about them
GRADED: frozenset[Slot] = frozenset({"course", "severity"})  # a yes does not say which
NO_SIGN: frozenset[Slot] = frozenset({"onset", *DISTINCT})  # what an answer about warning signs may name without one

# the end of a question before another one: a yes is to all of them, while triage takes the last sentence alone
_INNER_QUESTION = re.compile(r"吗?？(?=[^\n])")
_TELLS: Mapping[Slot, Mapping[Language, str]] = {
    "drugs": {"en": "I take ", "zh": "我在吃"},
    "allergies": {"en": "I am allergic to ", "zh": "我过敏："},
}


def is_by_classifier_only(found: Triage) -> bool:
    """Return whether no rule has a word for the emergency that was found.

    The classifier learned from texts of one person's whole story; on one short answer more or less it changes its mind.
    """
    return {one.rule.id for one in found.findings if one.level == "emergency"} == {BY_CLASSIFIER.id}


@dataclass
class ReplayState:
    """What the messages so far say; `half` are slots whose answer needs a follow-up, and which one."""

    language: Language = "en"
    pharmacy: MedicationRules | None = None  # None: medicines are not held against what the person says
    slots: dict[Slot, list[str]] = field(default_factory=dict)
    read_by: dict[Slot, Reader] = field(default_factory=dict)
    asked: list[Slot] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)  # what the assistant said
    half: dict[Slot, str] = field(default_factory=dict)
    doubtful: dict[Slot, str] = field(default_factory=dict)  # answers that seemed to be about something else
    complaints: list[str] = field(default_factory=list)
    signals: set[str] = field(default_factory=set)
    age: float | None = None
    is_age_stated: bool = False  # in the answer to the question about it: no age of somebody else that was named
    sex: Sex | None = None
    other: bool = False
    stopped: bool = False
    silent: int = 0  # answers in a row that say nothing
    said: list[str] = field(default_factory=list)  # by the person
    medical: list[str] = field(default_factory=list)  # the same; a bare answer about medicines as a whole sentence
    triage_inputs: list[TriageInput] = field(default_factory=list)  # what triage looks at
    first: dict[Slot, Message] = field(default_factory=dict)  # question about each slot
    denied: bool = False  # the red flags, by a no that takes nothing back
    reported: tuple[int, int] | None = None  # what the report knew: messages heard, things told
    failures: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def count_statements(self) -> int:
        """Return of how many things the person told."""
        return sum(map(len, self.slots.values()))

    def count(self, tokens: tuple[int, int]) -> None:
        """Add what a model read and wrote."""
        self.prompt_tokens += tokens[0]
        self.completion_tokens += tokens[1]

    def take(self, text: str, said: MessageReading, pending: Slot | None) -> None:
        """Note one message of the person for all slots, and judge whether it answers the question."""
        self.said.append(text)
        self.medical.append(_sentence(text, pending, self.language))
        self.age = self.age if said.age is None else said.age
        self.is_age_stated = self.is_age_stated or (said.age is not None and pending == "age_sex")
        self.sex = said.sex if said.sex and (pending == "age_sex" or is_age_sex(text)) else self.sex or said.sex
        self.other = self.other or (said.other and not self.asked)
        self.signals |= said.signals if pending == "complaint" else said.signals & {"drug_question"}
        found = [one.id for one in find_complaints(text)] if self._tells_of_complaints(pending) else []
        self.complaints += [one for one in found if one not in self.complaints]
        self.stopped = self.stopped or (said.is_stop and bool(self.asked))
        for slot, clause in said.slots.items():
            if slot != pending:
                self.add(slot, clause, said.readers.get(slot, "rules"))
        if pending is None:
            self._take_unasked(text)
            return
        if pending == "red_flag":
            self.denied = kind_of(text) == "no" or is_denial(text)
        follow_up = _follow_up(self, pending, text, said)
        self.silent = self.silent + 1 if kind_of(text) == "nothing" else 0
        if follow_up:
            self.half[pending] = follow_up
        else:
            self.half.pop(pending, None)
        half_told = pending == "age_sex" and (said.age is not None or said.sex is not None)
        if said.is_stop and not said.slots and self.asked:
            return
        if pending in PLACES and pending not in said.slots and is_denial(text):
            return  # a no names no place
        if follow_up == "again" and pending in NAMED and kind_of(text) == "text" and not only_asks(text):
            self.doubtful[pending] = text.strip()
        elif not follow_up or follow_up == "which" or half_told:
            self.add(pending, self.doubtful.pop(pending, ""), "answer")
            self.add(pending, text.strip(), "answer")

    def _tells_of_complaints(self, pending: Slot | None) -> bool:
        return pending in ("complaint", None) or (not self.complaints and pending not in OF_OTHERS)

    def _take_unasked(self, text: str) -> None:
        """Note what was said to no question of ours: more of the trouble, or after the report what has changed."""
        if kind_of(text) != "text":
            return
        if self.reported is None:
            self.add("complaint", text.strip(), "answer")
        elif not is_question(text) and find_complaints(text):
            self.add("associated", text.strip(), "answer")

    def kind(self, slot: Slot) -> str | None:
        """Which wording of the slot's question is due; None: none."""
        times = self.asked.count(slot)
        if times >= 2 or (times == 1 and slot not in self.half):
            return None
        if slot == "complaint" and times == 0 and self.asks_about_a_drug:
            return "what_for"
        if slot == "age_sex":
            return self._kind_of_age_sex()
        if times == 1:
            return self.half[slot]
        if slot in self.slots:
            return None
        if slot == "drugs" and (self.sex == "male" or (self.age is not None and self.age < FERTILE[0])):
            return "without_pill"
        return "other" if self.other else "ask"

    @property
    def asks_about_a_drug(self) -> bool:
        """Whether the person asks about a medicine and has named no trouble."""
        return "drug_question" in self.signals and not set(self.complaints) - {"drug_question"}

    def _kind_of_age_sex(self) -> str | None:
        if self.age is not None and self.sex is not None:
            return None
        if self.age is None and self.sex is None:
            return "again" if "age_sex" in self.asked else "other" if self.other else "ask"
        missing = "age" if self.age is None else "sex"
        return missing if self.other else f"your_{missing}"

    def add(self, slot: Slot, text: str, reader: Reader) -> None:
        """Note what was said of a slot.

        Other answers add to a bare no of its own question only; but an allergy, a medicine or a pregnancy that comes to
        mind later is noted, and all that is said after the report.
        """
        known = self.read_by.get(slot)
        said = self.slots.setdefault(slot, [])
        told = known == "answer" and any(kind_of(one) not in ("no", "unknown") for one in said)
        settled = (told and slot not in LATE) or (slot == "onset" and known is not None)
        if reader != "answer" and settled and self.reported is None:
            return  # "a pack a day" is no second beginning
        if text and not any(text in one for one in said):
            said.append(text)
        if reader == "answer" or slot not in self.read_by:
            self.read_by[slot] = reader

    def add_triage_input(self, question: Message | None, answer: Message, pending: Slot | None, listed: bool) -> None:
        """Note what triage is to look at: what is said of now, and questions that were affirmed.

        A bare yes to a list of signs affirms none of them before a follow-up has asked which; `listed`: it has.
        """
        messages: list[Message] = []
        if pending is not None and question is not None:
            first = self.first.setdefault(pending, question)
            if pending == "pregnancy":
                messages.append(question)
            elif pending in LISTS and first is not question and _affirms(answer.content, listed=listed):
                messages += [Message("assistant", _INNER_QUESTION.sub("，", first.content)), Message("user", "yes")]
        if kind_of(answer.content) not in ("nothing", "unknown"):
            # such an answer names no sign, and the classifier would weigh the bare words
            messages.append(Message("user", self._age_sex_in_words()) if is_age_sex(answer.content) else answer)
        if messages:
            self.triage_inputs.append(TriageInput(tuple(messages), pending))

    @property
    def patient(self) -> Patient:
        """Who is ill, for the rules that are about some people only."""
        pregnancy = self.slots.get("pregnancy", [])
        denied = bool(pregnancy) and all(kind_of(one) == "no" or is_denial(one) for one in pregnancy)
        return Patient(self.age if self.is_age_stated else None, self.sex, not_pregnant=denied)

    def _age_sex_in_words(self) -> str:
        """Age and sex in words that triage cannot take for a length: 27 M."""
        assert self.age is not None
        if self.language == "zh":
            return f"{self.age:g}岁，{'女性' if self.sex == 'female' else '男性'}"
        return f"{self.age:g} years old, {self.sex}"

    def state(self, found: Triage, reason: Reason) -> ConsultState:
        """Return it as it is shown."""
        joint = "；" if self.language == "zh" else "; "
        told = {slot: joint.join(said) for slot, said in self.slots.items() if said}
        level: Urgency = found.level or "routine"
        if self.denied and is_by_classifier_only(found):
            level = "urgent"
        return ConsultState(
            self.language, {slot: joint.join(map(clip, self.slots[slot])) for slot in told}, tuple(self.asked),
            level, found.findings, tuple(self.complaints), bool(reason), reason, self.age, self.sex,
            dict(self.read_by), tuple(self.failures), conflicts=self.conflicts(), full_slots=told,
        )  # fmt: skip

    def conflicts(self) -> tuple[Conflict, ...]:
        """Medicines that the person takes or asks about and what they do not go with, each once."""
        rules = self.pharmacy
        facts = person_facts([Message("user", one) for one in self.medical], rules)
        texts = self.medical if facts.text and rules else []
        found = [one for text in texts for one in conflicts(facts, text, of="question", rules=rules)]
        return tuple({(one.drug, one.row): one for one in found}.values())


def _affirms(text: str, *, listed: bool) -> bool:
    """Whether an answer to a follow-up affirms the list: a yes, or any without words where a yes came before."""
    kind = kind_of(text)
    return kind == "yes" or (listed and kind != "text")


def _sentence(text: str, slot: Slot | None, used: Language) -> str:
    """An answer that only names medicines or allergies, as a sentence that tells of them."""
    begin = _TELLS.get(slot, {}).get(used, "") if slot and kind_of(text) == "text" and not is_denial(text) else ""
    return f"{begin}{text}" if begin and is_clause(text) and not is_question(text) else text


def _follow_up(known: ReplayState, slot: Slot, text: str, said: MessageReading) -> str:
    """Which follow-up an answer to the question about a slot needs; "": none."""
    kind = kind_of(text)
    if kind == "nothing":
        return "again"
    if kind == "text" and slot not in said.slots and slot != "complaint" and only_asks(text):
        return "again"
    if slot == "age_sex":
        return "" if known.age is not None and known.sex is not None else "again"
    if slot == "complaint":
        return "" if kind == "text" else "again"
    if slot == "onset":
        return "" if kind == "unknown" or slot in said.slots or is_time(text) else "again"
    if (slot == "location" and kind in ("yes", "no")) or (slot in GRADED and kind == "yes"):
        return "again"
    if slot in LISTS and kind == "yes":
        return "which"
    if kind == "text" and is_age_sex(text):
        return "again"  # it answers no other question
    tells_of = said.slots.keys() & DISTINCT
    complains = bool(find_complaints(text))
    of_another = kind == "text" and slot not in said.slots and (said.slots or complains)
    names_with_time = said.slots.keys() == {"onset"} and not complains  # patches since last year
    if slot in NAMED and of_another and not names_with_time and not is_denial(text):
        return "again"
    if kind != "text" or not is_clause(text) or slot in said.slots:
        return ""
    if slot == "red_flag":
        no_sign = said.slots and said.slots.keys() <= NO_SIGN and not is_denial(text) and not complains
        return "again" if no_sign else ""
    if slot in GRADED:
        tells_of |= said.slots.keys() & GRADED
    return "again" if slot in DISTINCT | GRADED and tells_of else ""
