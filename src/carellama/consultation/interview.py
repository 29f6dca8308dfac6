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

from collections.abc import Sequence
from dataclasses import dataclass, field

from carellama.consultation.questions import Questions, load_questions
from carellama.consultation.reading import Said, Sex, clip, is_time, kind_of, read_text
from carellama.consultation.state import ConsultState, Reader, Reason, Slot
from carellama.records import Message
from carellama.safety.layer import SafetyLayer
from carellama.safety.notices import Language
from carellama.safety.triage import Triage
from carellama.text import HAN_CHARACTER, language

FERTILE = (12, 55)  # years within which a pregnancy is asked about
MOST_SILENT = 3  # answers in a row that say nothing, after which it ends
FIRST: tuple[Slot, ...] = ("complaint", "red_flag", "onset", "age_sex", "pregnancy")
BEFORE_ADVICE: tuple[Slot, ...] = ("drugs", "allergies")
ALWAYS: tuple[Slot, ...] = ("associated", "history", "drugs", "allergies", "severity")
# slots for which a bare yes is half an answer, and those about which an answer may tell of something else only
LISTS: frozenset[Slot] = frozenset({"red_flag", "associated", "history", "drugs", "allergies", "family", "social"})
DISTINCT: frozenset[Slot] = frozenset({"age_sex", "pregnancy", "allergies", "drugs", "history", "family"})


@dataclass(frozen=True, slots=True)
class Step:
    """What comes next: a question about a slot, or, where `question` is None, the report of the state."""

    state: ConsultState
    slot: Slot | None = None
    question: str | None = None


class Interview:
    """Asks about what is missing. Raises `ValueError` for `max_questions` below 1."""

    def __init__(self, safety: SafetyLayer, *, max_questions: int = 10) -> None:
        if max_questions < 1:
            raise ValueError(f"max_questions is {max_questions}; it must be at least 1")
        self.safety, self.max_questions = safety, max_questions
        self._questions = load_questions()

    def step(self, messages: Sequence[Message]) -> Step:
        """Return the next question or the end of the interview."""
        known = _replay(messages, self._questions)
        found = self.safety.triage(messages)
        asked = self._next(known)
        reason = self._reason(known, found, asked)
        state = known.state(found, reason)
        if reason or asked is None:
            return Step(state)
        return Step(state, *asked)

    def _reason(self, known: _Known, found: Triage, asked: tuple[Slot, str] | None) -> Reason:
        """Why it ends here; "": it goes on."""
        if found.level == "emergency":
            return "emergency"
        if known.stopped:
            return "person asked"
        if asked is None:
            return "complete"
        if len(known.asked) >= self.max_questions or known.silent >= MOST_SILENT:
            return "limit"
        return ""

    def _next(self, known: _Known) -> tuple[Slot, str] | None:
        """The slot to ask about and the rule's question; None: nothing that matters is missing."""
        for slot in dict.fromkeys((*known.asked[-1:], *self._order(known))):
            kind = known.kind(slot)
            if kind is None:
                continue
            question = self._questions.text(slot, known.language, kind, known.complaints)
            if question not in known.questions:
                return slot, question
        return None

    def _order(self, known: _Known) -> list[Slot]:
        """The slots that matter, the most important first."""
        needs = self._questions.needs(known.complaints[:2])
        early = BEFORE_ADVICE if "drug_question" in known.signals else ()
        where: tuple[Slot, ...] = ("location",) if "pain" in known.signals else ()
        order = dict.fromkeys((*FIRST, *early, *needs, *ALWAYS, *where))
        if not _may_be_pregnant(known, needs):
            order.pop("pregnancy")
        return list(order)


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
    silent: int = 0

    def kind(self, slot: Slot) -> str | None:
        """Which wording of the slot's question is due; None: none."""
        times = self.asked.count(slot)
        if times >= 2 or (times == 1 and slot not in self.half):
            return None
        if slot == "age_sex":
            return self._kind_of_age_sex()
        if times == 1:
            return self.half[slot]
        return None if slot in self.slots else "ask"

    def _kind_of_age_sex(self) -> str | None:
        if self.age is not None and self.sex is not None:
            return None
        if self.age is None and self.sex is None:
            return "again" if "age_sex" in self.asked else "other" if self.other else "ask"
        missing = "age" if self.age is None else "sex"
        return missing if self.other else f"your_{missing}"

    def add(self, slot: Slot, text: str, reader: Reader) -> None:
        """Note what was said of a slot."""
        said = self.slots.setdefault(slot, [])
        if text and not any(text in one for one in said):
            said.append(text)
        if reader == "answer" or slot not in self.read_by:
            self.read_by[slot] = reader

    def state(self, found: Triage, reason: Reason) -> ConsultState:
        """Return it as it is shown."""
        joint = "；" if self.language == "zh" else "; "
        return ConsultState(
            self.language, {slot: joint.join(said) for slot, said in self.slots.items() if said}, tuple(self.asked),
            found.level or "routine", found.findings, tuple(self.complaints), bool(reason), reason, self.age, self.sex,
            dict(self.read_by),
        )  # fmt: skip


def _replay(messages: Sequence[Message], questions: Questions) -> _Known:
    """Go through the conversation from its beginning."""
    known = _Known(language=_language(messages))
    pending: Slot | None = "complaint"  # what the first message tells of
    for message in messages:
        if message.role == "assistant":
            pending = questions.slot_of(message.content)
            known.questions.append(message.content)
            if pending is not None:
                known.asked.append(pending)
        elif message.role == "user":
            _read(known, message.content, pending)
            pending = None
    return known


def _language(messages: Sequence[Message]) -> Language:
    """The language that the person writes; English where nothing tells."""
    text = "\n".join(one.content[:2000] for one in messages if one.role == "user")
    found = language(text)
    return "zh" if found == "zh" or (found == "mixed" and HAN_CHARACTER.search(text)) else "en"


def _read(known: _Known, text: str, pending: Slot | None) -> None:
    """Read one message of the person for all slots, and judge whether it answers the question."""
    said = read_text(text, pending)
    known.age = known.age if said.age is None else said.age
    known.sex = known.sex or said.sex
    known.other = known.other or (said.other and not known.asked)
    known.signals |= said.signals if pending == "complaint" else said.signals & {"drug_question"}
    if pending == "complaint" or not known.complaints:
        known.complaints += [one for one in said.complaints if one not in known.complaints]
    known.stopped = known.stopped or ("stop" in said.signals and bool(known.asked))
    for slot, clause in said.slots.items():
        if slot != pending:
            known.add(slot, clause, "rules")
    if pending is None:
        return
    follow_up = _follow_up(known, pending, text, said)
    known.silent = known.silent + 1 if kind_of(text) == "nothing" else 0
    if follow_up:
        known.half[pending] = follow_up
    if not follow_up or follow_up == "which":
        known.add(pending, clip(text), "answer")


def _follow_up(known: _Known, slot: Slot, text: str, said: Said) -> str:
    """Which follow-up an answer to the question about a slot needs; "": none."""
    kind = kind_of(text)
    if kind == "nothing":
        return "again"
    if slot == "age_sex":
        return "" if known.age is not None and known.sex is not None else "again"
    if slot == "complaint":
        return "" if kind == "text" else "again"
    if slot == "onset":
        return "" if kind == "unknown" or slot in said.slots or is_time(text) else "again"
    if slot == "location" and kind in ("yes", "no"):
        return "again"
    if slot in LISTS and kind == "yes":
        return "which"
    tells_of = said.slots.keys() & DISTINCT
    return "again" if kind == "text" and slot in DISTINCT and tells_of and slot not in tells_of else ""
