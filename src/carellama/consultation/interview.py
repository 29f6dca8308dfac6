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
import threading
from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from carellama.consultation.guide_files import URGENCIES
from carellama.consultation.levels import all_messages, triage_interview
from carellama.consultation.model import ModelReading, read_answer, word_question
from carellama.consultation.questions import load_questions
from carellama.consultation.reading import (
    BACKGROUND,
    MessageReading,
    clip,
    is_ongoing,
    is_question,
    kind_of,
    only_asks,
    read_text,
)
from carellama.consultation.replay import ReplayState, is_by_classifier_only
from carellama.consultation.report import Report, make_report, report_words
from carellama.consultation.state import FERTILE, ConsultState, Reader, Reason, Slot
from carellama.engine.base import Engine, Piece, drain
from carellama.errors import UserError
from carellama.records import Message
from carellama.rules import words_between
from carellama.safety.layer import SafetyLayer
from carellama.safety.notices import SHOWN_LEVELS, Language
from carellama.safety.triage.triage import Triage
from carellama.text import HAN_CHARACTER, language

REMEMBERED = 1024  # readings of a model
LONG_ANSWER = 25  # words of one that tells of more than the family or an allergy
REACTIONS = ("allergy", "skin", "lungs")  # systems of which an answer about allergies tells what was once
MOST_SILENT = 3  # answers in a row that say nothing, after which it ends
FIRST: tuple[Slot, ...] = ("complaint", "red_flag", "onset", "age_sex", "pregnancy")
BEFORE_ADVICE: tuple[Slot, ...] = ("drugs", "allergies")
ALWAYS: tuple[Slot, ...] = ("associated", "history", "drugs", "course", "allergies", "severity")


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
        found = triage_interview(self.safety, known.triage_inputs, known.patient)
        asked = self._next(known)
        reason = self._reason(known, found, asked)
        if known.reported is not None and not self._is_news(known, found):
            return Step(replace(known.state(found, reason or "complete"), reported=True), found=found)
        if not reason and asked is not None and self._wording == "model":
            asked = yield from self._word_by_model(known, *asked, adapter)
        state = known.state(found, reason)
        tokens = (known.prompt_tokens, known.completion_tokens)
        if reason or asked is None:
            return Step(state, report=make_report(state, self.safety.country), found=found, tokens=tokens)
        return Step(state, *asked, found=found, tokens=tokens)

    def _replay(self, messages: Sequence[Message], adapter: str) -> Generator[Piece, None, ReplayState]:
        """Go through the conversation from its beginning."""
        known = ReplayState(language=_language(messages), pharmacy=self.safety.pharmacy)
        pending: Slot | None = "complaint"  # what the first message tells of
        question: Message | None = None
        prefix = hashlib.sha256(adapter.encode())
        for message in messages:
            prefix.update(f"{message.role}\n{len(message.content)}\n{message.content}".encode("utf-8", "replace"))
            if message.role == "assistant":
                if is_report(message.content):
                    known.reported, pending = (len(known.triage_inputs), known.count_statements()), None
                else:
                    pending = self._questions.slot_of(message.content)
                known.questions.append(message.content)
                if pending is not None:
                    known.asked.append(pending)
                question = message
            elif message.role == "user":
                said = read_text(message.content, pending)
                if self._reading != "rules" and kind_of(message.content) == "text":
                    said = yield from self._read_by_model(
                        known, message.content, said, pending, prefix.digest(), adapter
                    )
                listed = pending is not None and known.half.get(pending) == "which"
                known.take(message.content, said, pending)
                if self._is_for_triage(known, message, said, pending):
                    known.add_triage_input(question, message, pending, listed)
                pending, question = None, None
        return known

    def _is_for_triage(self, known: ReplayState, answer: Message, said: MessageReading, pending: Slot | None) -> bool:
        """Whether triage is to look at an answer.

        Illnesses of the family and old reactions to a medicine are not the person's own of now, and the classifier
        takes impatience for urgency: there an answer is heard where it makes a rule fire and tells of the person.
        """
        only_allergies = pending in BACKGROUND and said.slots.keys() == {"allergies"}
        of_others = (pending in ("family", "allergies") or only_allergies) and not said.now
        if not of_others and not said.is_stop:
            return True
        heard = all_messages(known.triage_inputs)
        before = {one.rule.id for one in self.safety.triage(heard, rules_only=True).findings}
        after = self.safety.triage([*heard, answer], rules_only=True).findings
        fired = [one.rule for one in after if one.rule.id not in before]
        if not of_others or words_between(answer.content, 0, len(answer.content)) > LONG_ANSWER:
            return bool(fired)
        if pending == "family":
            return bool(fired) and "relative" not in said.signals
        fired = [rule for rule in fired if rule.level == "emergency"]
        return any(is_ongoing(answer.content) or rule.system not in REACTIONS for rule in fired)

    def _read_by_model(
        self, known: ReplayState, text: str, said: MessageReading, asked: Slot | None, key: bytes, adapter: str
    ) -> Generator[Piece, None, MessageReading]:
        """What a message says, with what the model reads in it; the rules' reading where the model fails.

        That warning signs were told of is taken from the answer to the question about them alone: else a model that
        puts "I'm so tired" there would keep the question from being asked.
        """
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
        by_model = {
            slot: clip(words) for slot, words in reading.slots.items() if slot != "red_flag" or asked == "red_flag"
        }
        slots = by_model if self._reading == "model" else by_model | dict(said.slots)
        readers: dict[Slot, Reader] = {
            slot: "rules" if slot in said.slots and self._reading == "both" else "model" for slot in slots
        }
        return replace(said, slots=slots, readers=readers)

    def _word_by_model(
        self, known: ReplayState, slot: Slot, question: str, adapter: str
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

    def _reason(self, known: ReplayState, found: Triage, asked: tuple[Slot, str] | None) -> Reason:
        """Why it ends here; "": it goes on."""
        if found.level == "emergency" and not is_by_classifier_only(found):
            return "emergency"
        if known.stopped:
            return "person asked"
        if asked is None or known.reported is not None:
            return "complete"
        if len(known.asked) >= self.max_questions or known.silent >= MOST_SILENT:
            return "limit"
        return ""

    def _is_news(self, known: ReplayState, found: Triage) -> bool:
        """Whether something was said after the report that belongs into it: a slot, or a more urgent matter."""
        assert known.reported is not None
        heard, told = known.reported
        before = triage_interview(self.safety, known.triage_inputs[:heard], known.patient)
        if known.count_statements() > told or _urgency(found) < _urgency(before):
            return True
        signs = {one.rule.id for one in before.findings}
        return any(one.rule.id not in signs for one in found.findings if one.level in SHOWN_LEVELS)

    def _next(self, known: ReplayState) -> tuple[Slot, str] | None:
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

    def _order(self, known: ReplayState) -> list[Slot]:
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


def _urgency(found: Triage) -> int:
    return URGENCIES.index(found.level or "routine")


def is_report(message: str) -> bool:
    """Return whether a message of the assistant has the report of a consultation."""
    return any(f"# {title} · " in message for title in report_words()["title"].values())


def _may_be_pregnant(known: ReplayState, needs: Sequence[Slot]) -> bool:
    """Whether a pregnancy would change what matters."""
    of_age = known.age is None or FERTILE[0] <= known.age <= FERTILE[1]
    matters = "pregnancy" in needs or bool(known.signals & {"pregnancy_matters", "drug_question"})
    return matters and known.sex != "male" and of_age


def _language(messages: Sequence[Message]) -> Language:
    """The language that the person writes; English where nothing tells."""
    text = "\n".join(one.content[:2000] for one in messages if one.role == "user")
    found = language(text)
    return "zh" if found == "zh" or (found == "mixed" and HAN_CHARACTER.search(text)) else "en"


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
