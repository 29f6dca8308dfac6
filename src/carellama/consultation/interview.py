"""The interview: which question comes next, by rules, from the conversation so far.

    interview = Interview(SafetyLayer("on"))
    step = interview.step([Message("user", "I have had a headache since Monday")])
    step.slot, step.question        # "red_flag", "To be safe: ..."

A step replays the conversation: the same messages give the same step, and nothing is kept between two calls but what
a model has read (a bounded cache). Rules choose the slot; a model, where there is one, only words the question and
reads answers. It ends with an emergency, when nothing that matters is missing, after `max_questions`, after three
answers in a row that say nothing, or when the person wants no more questions.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from carellama.consultation.complaints import find_complaints
from carellama.consultation.model import ModelReading, read_answer, word_question
from carellama.consultation.questions import load_questions
from carellama.consultation.reading import (
    BACKGROUND,
    Said,
    Sex,
    clip,
    is_age_sex,
    is_clause,
    is_denial,
    is_question,
    is_time,
    kind_of,
    only_asks,
    read_text,
)
from carellama.consultation.report import Report, make_report, report_words
from carellama.consultation.state import FERTILE, ConsultState, Reader, Reason, Slot, Urgency
from carellama.engine.base import Engine, Piece, drain
from carellama.errors import UserError
from carellama.records import Message
from carellama.safety.layer import SafetyLayer
from carellama.safety.medication import Conflict, conflicts, person_facts
from carellama.safety.notices import Language
from carellama.safety.triage import BY_CLASSIFIER, Triage, triage
from carellama.text import HAN_CHARACTER, language

URGENCY: tuple[Urgency, ...] = get_args(Urgency)  # the most urgent first
REMEMBERED = 1024  # readings of a model
MOST_SILENT = 3  # answers in a row that say nothing, after which it ends
FIRST: tuple[Slot, ...] = ("complaint", "red_flag", "onset", "age_sex", "pregnancy")
BEFORE_ADVICE: tuple[Slot, ...] = ("drugs", "allergies")
ALWAYS: tuple[Slot, ...] = ("associated", "history", "drugs", "course", "allergies", "severity")
# slots for which a bare yes is half an answer, and those about which an answer may tell of something else only
LISTS: frozenset[Slot] = frozenset({"red_flag", "associated", "history", "drugs", "allergies", "family", "social"})
OF_OTHERS: frozenset[Slot] = frozenset({"history", "drugs", "allergies", "family"})  # answers that name other illnesses
DISTINCT: frozenset[Slot] = frozenset({"age_sex", "pregnancy", "allergies", "drugs", "history", "family"})
GRADED: frozenset[Slot] = frozenset({"course", "severity"})  # a yes does not say which
NO_SIGN: frozenset[Slot] = frozenset({"onset", *DISTINCT})  # what an answer about warning signs may name without one

# the end of a question before another one: a yes is to all of them, while triage takes the last sentence alone
_INNER_QUESTION = re.compile(r"吗?？(?=[^\n])")
_TELLS: Mapping[Slot, Mapping[Language, str]] = {
    "drugs": {"en": "I take ", "zh": "我在吃"},
    "allergies": {"en": "I am allergic to ", "zh": "我过敏："},
}


@dataclass(frozen=True, slots=True)
class Step:
    """What comes next: a question about a slot, or the report."""

    state: ConsultState
    slot: Slot | None = None
    question: str | None = None
    report: Report | None = None
    found: Triage | None = None  # what the state's level was made from
    tokens: tuple[int, int] = (0, 0)  # that a model read and wrote for it


class Interview:
    """Asks about what is missing. Safe to be called from several threads.

    `wording` and `reading` say who words questions and who reads answers: "rules", "model", or for answers "both",
    where the model fills the slots that the rules leave empty. Raises `UserError` for a model that is not there and
    for `max_questions` below 1.
    """

    def __init__(
        self,
        safety: SafetyLayer,
        *,
        engine: Engine | None = None,
        max_questions: int = 10,
        wording: Literal["rules", "model"] = "rules",
        reading: Literal["rules", "model", "both"] = "rules",
    ) -> None:
        if max_questions < 1:
            raise UserError(f"max_questions is {max_questions}; it must be at least 1")
        if engine is None and wording != "rules":
            raise UserError("the wording of questions by a model needs an engine")
        if engine is None and reading != "rules":
            raise UserError(f"the reading of answers by {reading} needs an engine")
        self.safety, self.max_questions = safety, max_questions
        self._engine, self._wording, self._reading = engine, wording, reading
        self._questions = load_questions()
        self._memo = _Memo()

    def closing(self, state: ConsultState, message: str) -> str:
        """Return what is said after the report to a message that asks nothing; "": it is a question, for the model."""
        if is_question(message):
            return ""
        closing = self._questions.closing_emergency if state.level == "emergency" else self._questions.closing
        return closing[state.language]

    def lead(self, state: ConsultState, before: Sequence[Message] = ()) -> str:
        """Return what comes before a question in a conversation; "": nothing, or it was said already."""
        if state.level != "emergency":
            if not state.asked:
                return self._questions.intro[state.language]
            asks = bool(before) and kind_of(before[-1].content) == "text" and only_asks(before[-1].content)
            return self._questions.later[state.language] if asks else ""
        meanwhile = self._questions.meanwhile[state.language]
        return "" if any(meanwhile in one.content for one in before if one.role == "assistant") else meanwhile

    def step(self, messages: Sequence[Message], adapter: str = "") -> Step:
        """Return the next question or the end of the interview; a model reads and words by its `adapter`."""
        return drain(self.advance(messages, adapter))

    def report(self, messages: Sequence[Message], adapter: str = "") -> Report:
        """Return the report of a conversation as far as it came."""
        return make_report(self.step(messages, adapter).state, self.safety.country)

    def advance(self, messages: Sequence[Message], adapter: str = "") -> Generator[Piece, None, Step]:
        """Return the step; it yields empty pieces while a model is at work, and closing it stops the model."""
        known = yield from self._replay(messages, adapter)
        found = self.safety.triage(known.heard)
        asked = self._next(known)
        reason = self._reason(known, found, asked)
        if known.reported is not None and not self._is_news(known, found):
            return Step(replace(known.state(found, reason or "complete"), reported=True), found=found)
        if not reason and asked is not None and self._wording == "model":
            asked = yield from self._worded(known, *asked, adapter)
        state = known.state(found, reason)
        tokens = (known.prompt_tokens, known.completion_tokens)
        if reason or asked is None:
            return Step(state, report=make_report(state, self.safety.country), found=found, tokens=tokens)
        return Step(state, *asked, found=found, tokens=tokens)

    def _replay(self, messages: Sequence[Message], adapter: str) -> Generator[Piece, None, _Known]:
        """Go through the conversation from its beginning."""
        known = _Known(language=_language(messages))
        pending: Slot | None = "complaint"  # what the first message tells of
        question: Message | None = None
        prefix = hashlib.sha256(adapter.encode())
        for message in messages:
            prefix.update(f"{message.role}\n{len(message.content)}\n{message.content}".encode("utf-8", "replace"))
            if message.role == "assistant":
                if is_report(message.content):
                    known.reported, pending = (len(known.heard), frozenset(known.slots)), None
                else:
                    pending = self._questions.slot_of(message.content)
                known.questions.append(message.content)
                if pending is not None:
                    known.asked.append(pending)
                question = message
            elif message.role == "user":
                said = read_text(message.content, pending)
                if self._reading != "rules" and kind_of(message.content) == "text":
                    said = yield from self._read_by_model(known, message.content, said, prefix.digest(), adapter)
                listed = pending is not None and known.half.get(pending) == "which"
                known.take(message.content, said, pending)
                known.hear(question, message, said, pending, listed)
                pending, question = None, None
        return known

    def _read_by_model(
        self, known: _Known, text: str, said: Said, key: bytes, adapter: str
    ) -> Generator[Piece, None, Said]:
        """What a message says, with what the model reads in it; the rules' reading where the model fails."""
        assert self._engine is not None
        reading = self._memo.get(key)
        if reading is None:
            question = known.questions[-1] if known.questions else ""
            reading = yield from read_answer(self._engine, question, text, adapter)
            known.count(reading.tokens)
            if not reading.may_pass:
                self._memo.put(key, reading)
        if reading.failure:
            known.failures.append(f"answer {len(known.asked)}: not read by the model: {reading.failure}")
            return said
        by_model = {slot: clip(words) for slot, words in reading.slots.items()}
        slots = by_model if self._reading == "model" else by_model | dict(said.slots)
        readers: dict[Slot, Reader] = {
            slot: "rules" if slot in said.slots and self._reading == "both" else "model" for slot in slots
        }
        return replace(said, slots=slots, readers=readers)

    def _worded(
        self, known: _Known, slot: Slot, question: str, adapter: str
    ) -> Generator[Piece, None, tuple[Slot, str]]:
        """The question as the model words it, or the rule's."""
        assert self._engine is not None
        if slot == "red_flag":
            return slot, question
        said = known.said[-1] if known.said else ""
        worded = yield from word_question(self._engine, slot, question, said, known.language, self._questions, adapter)
        known.count(worded.tokens)
        text, failure = worded.text, worded.failure
        if not failure and any(text in one for one in known.questions):
            text, failure = question, "it was asked before"
        if failure:
            known.failures.append(f"question about {slot}: not worded by the model: {failure}")
        return slot, text

    def _reason(self, known: _Known, found: Triage, asked: tuple[Slot, str] | None) -> Reason:
        """Why it ends here; "": it goes on."""
        if found.level == "emergency" and not by_classifier_alone(found):
            return "emergency"
        if known.stopped:
            return "person asked"
        if asked is None or known.reported is not None:
            return "complete"
        if len(known.asked) >= self.max_questions or known.silent >= MOST_SILENT:
            return "limit"
        return ""

    def _is_news(self, known: _Known, found: Triage) -> bool:
        """Whether something was said after the report that belongs into it: a slot, or a more urgent matter."""
        assert known.reported is not None
        heard, slots = known.reported
        before = self.safety.triage(known.heard[:heard]).level or "routine"
        return not known.slots.keys() <= slots or URGENCY.index(found.level or "routine") < URGENCY.index(before)

    def _next(self, known: _Known) -> tuple[Slot, str] | None:
        """The slot to ask about and the rule's question; None: nothing that matters is missing."""
        for slot in dict.fromkeys((*known.asked[-1:], *self._order(known))):
            kind = known.kind(slot)
            if kind is None:
                continue
            own = sorted(known.complaints, key=lambda one: one == "drug_question")  # the trouble before the medicine
            question = self._questions.text(slot, known.language, kind, own)
            if not any(question in one for one in known.questions):
                return slot, question
        return None

    def _order(self, known: _Known) -> list[Slot]:
        """The slots that matter, the most important first."""
        needs = self._questions.needs(known.complaints[:2])
        early = BEFORE_ADVICE if "drug_question" in known.signals else ()
        where: tuple[Slot, ...] = ("location",) if "pain" in known.signals else ()
        order = dict.fromkeys((*FIRST, *early, *needs, *where, *ALWAYS))
        if not _may_be_pregnant(known, needs):
            order.pop("pregnancy")
        if not (known.complaints or "pain" in known.signals):
            order.pop("severity")
        return list(order)


def is_report(message: str) -> bool:
    """Return whether a message of the assistant has the report of a consultation."""
    return any(f"# {title} · " in message for title in report_words()["title"].values())


def by_classifier_alone(found: Triage) -> bool:
    """Return whether no rule has a word for the emergency that was found.

    The classifier learned from texts of one person's whole story; on one short answer more or less it changes its mind.
    """
    return {one.rule.id for one in found.findings if one.level == "emergency"} == {BY_CLASSIFIER.id}


def _may_be_pregnant(known: _Known, needs: Sequence[Slot]) -> bool:
    """Whether a pregnancy would change what matters."""
    of_age = known.age is None or FERTILE[0] <= known.age <= FERTILE[1]
    matters = "pregnancy" in needs or bool(known.signals & {"pregnancy_matters", "drug_question"})
    return matters and known.sex != "male" and of_age


@dataclass
class _Known:
    """What the messages so far say; `half` are slots whose answer needs a follow-up, and which one."""

    language: Language = "en"
    slots: dict[Slot, list[str]] = field(default_factory=dict)
    read_by: dict[Slot, Reader] = field(default_factory=dict)
    asked: list[Slot] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)  # what the assistant said
    half: dict[Slot, str] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    signals: set[str] = field(default_factory=set)
    age: float | None = None
    sex: Sex | None = None
    other: bool = False
    stopped: bool = False
    silent: int = 0  # answers in a row that say nothing
    said: list[str] = field(default_factory=list)  # by the person
    medical: list[str] = field(default_factory=list)  # the same; a bare answer about medicines as a whole sentence
    heard: list[Message] = field(default_factory=list)  # what triage looks at
    first: dict[Slot, Message] = field(default_factory=dict)  # question about each slot
    denied: bool = False  # the red flags, by a no that takes nothing back
    reported: tuple[int, frozenset[Slot]] | None = None  # what the report knew: messages heard, slots
    failures: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def count(self, tokens: tuple[int, int]) -> None:
        """Add what a model read and wrote."""
        self.prompt_tokens += tokens[0]
        self.completion_tokens += tokens[1]

    def take(self, text: str, said: Said, pending: Slot | None) -> None:
        """Note one message of the person for all slots, and judge whether it answers the question."""
        self.said.append(text)
        self.medical.append(_sentence(text, pending, self.language))
        self.age = self.age if said.age is None else said.age
        self.sex = said.sex if said.sex and (pending == "age_sex" or is_age_sex(text)) else self.sex or said.sex
        self.other = self.other or (said.other and not self.asked)
        self.signals |= said.signals if pending == "complaint" else said.signals & {"drug_question"}
        if pending == "complaint" or (not self.complaints and pending not in OF_OTHERS):
            self.complaints += [one.id for one in find_complaints(text) if one.id not in self.complaints]
        self.stopped = self.stopped or (said.is_stop and bool(self.asked))
        for slot, clause in said.slots.items():
            if slot != pending:
                self.add(slot, clause, said.readers.get(slot, "rules"))
        if pending is None:
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
        if said.is_stop and not said.slots:
            return
        if not follow_up or follow_up == "which" or half_told:
            self.add(pending, clip(text), "answer")

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
        """Note what was said of a slot; other answers add to a bare no of its own question only."""
        known = self.read_by.get(slot)
        said = self.slots.setdefault(slot, [])
        told = known == "answer" and any(kind_of(one) not in ("no", "unknown") for one in said)
        if reader != "answer" and (told or (slot == "onset" and known is not None)):
            return  # "a pack a day" is no second beginning
        if text and not any(text in one for one in said):
            said.append(text)
        if reader == "answer" or slot not in self.read_by:
            self.read_by[slot] = reader

    def hear(self, question: Message | None, answer: Message, said: Said, pending: Slot | None, listed: bool) -> None:
        """Note what triage is to look at: what is said of now, and questions that were affirmed.

        A bare yes to a list of signs affirms none of them before a follow-up has asked which; `listed`: it has.
        Illnesses of the family and old reactions to a medicine are not the person's own of now.
        """
        only_allergies = pending in BACKGROUND and said.slots.keys() == {"allergies"}
        if (pending in ("family", "allergies") or only_allergies) and not said.now:
            return
        if said.is_stop and not triage([answer]).findings:  # the classifier takes impatience for urgency
            return
        if pending is not None and question is not None:
            first = self.first.setdefault(pending, question)
            if pending == "pregnancy":
                self.heard.append(question)
            elif pending in LISTS and first is not question and _affirms(answer.content, listed):
                self.heard += [Message("assistant", _INNER_QUESTION.sub("，", first.content)), Message("user", "yes")]
        self.heard.append(Message("user", self._age_sex_in_words()) if is_age_sex(answer.content) else answer)

    def _age_sex_in_words(self) -> str:
        """Age and sex in words that triage cannot take for a length: 27 M."""
        assert self.age is not None
        if self.language == "zh":
            return f"{self.age:g}岁，{'女性' if self.sex == 'female' else '男性'}"
        return f"{self.age:g} years old, {self.sex}"

    def state(self, found: Triage, reason: Reason) -> ConsultState:
        """Return it as it is shown."""
        joint = "；" if self.language == "zh" else "; "
        level: Urgency = found.level or "routine"
        if self.denied and by_classifier_alone(found):
            level = "urgent"
        return ConsultState(
            self.language, {slot: joint.join(said) for slot, said in self.slots.items() if said}, tuple(self.asked),
            level, found.findings, tuple(self.complaints), bool(reason), reason, self.age, self.sex,
            dict(self.read_by), tuple(self.failures), conflicts=self.conflicts(),
        )  # fmt: skip

    def conflicts(self) -> tuple[Conflict, ...]:
        """Medicines that the person takes or asks about and what they do not go with, each once."""
        facts = person_facts([Message("user", one) for one in self.medical])
        found = [one for text in self.medical for one in conflicts(facts, text, of="question")] if facts.text else []
        return tuple({(one.drug, one.row): one for one in found}.values())


def _language(messages: Sequence[Message]) -> Language:
    """The language that the person writes; English where nothing tells."""
    text = "\n".join(one.content[:2000] for one in messages if one.role == "user")
    found = language(text)
    return "zh" if found == "zh" or (found == "mixed" and HAN_CHARACTER.search(text)) else "en"


def _affirms(text: str, listed: bool) -> bool:
    """Whether an answer to a follow-up affirms the list: a yes, or any without words where a yes came before."""
    kind = kind_of(text)
    return kind == "yes" or (listed and kind != "text")


def _sentence(text: str, slot: Slot | None, used: Language) -> str:
    """An answer that only names medicines or allergies, as a sentence that tells of them."""
    begin = _TELLS.get(slot, {}).get(used, "") if slot and kind_of(text) == "text" and not is_denial(text) else ""
    return f"{begin}{text}" if begin and is_clause(text) and not is_question(text) else text


def _follow_up(known: _Known, slot: Slot, text: str, said: Said) -> str:
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
    tells_of = said.slots.keys() & DISTINCT
    if kind != "text" or not is_clause(text) or slot in said.slots:
        return ""
    if slot == "red_flag":
        no_sign = said.slots and said.slots.keys() <= NO_SIGN and not is_denial(text) and not find_complaints(text)
        return "again" if no_sign else ""
    if slot in GRADED:
        tells_of |= said.slots.keys() & GRADED
    return "again" if slot in DISTINCT | GRADED and tells_of else ""


class _Memo:
    """What a model has read, by the conversation up to there; the oldest are forgotten."""

    def __init__(self) -> None:
        self._read: OrderedDict[bytes, ModelReading] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> ModelReading | None:
        with self._lock:
            if key in self._read:
                self._read.move_to_end(key)
            return self._read.get(key)

    def put(self, key: bytes, reading: ModelReading) -> None:
        with self._lock:
            self._read[key] = reading
            while len(self._read) > REMEMBERED:
                self._read.popitem(last=False)
