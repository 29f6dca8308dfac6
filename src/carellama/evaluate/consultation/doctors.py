"""The doctors that are compared on the same cards: the interview with and without a model, and the model by itself.

    doctor = DOCTORS["one-shot"](Needs(...))
    doctor([Message("user", "My chest hurts")], 0).advice.urgency

A doctor sees the conversation and a seed, and asks a question or gives its advice, which ends the consultation. The
model by itself is told what the interview's report has to say too: how soon, which department, what to do until then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from carellama.consultation.interview import Interview
from carellama.consultation.report import make_report, sections, to_markdown
from carellama.engine.base import Engine, Sampling
from carellama.engine.generate import generate
from carellama.evaluate.consultation.advice import Advice, Departments, read_advice
from carellama.evaluate.consultation.patient import QUESTION, prompts
from carellama.records import Message
from carellama.safety.layer import SafetyLayer
from carellama.safety.notices import Language
from carellama.text import split_reasoning

EMERGENCY_DEPARTMENT = "emergency"  # of the guide
ADVISED = ("action", "urgency", "self_care", "return_if")  # sections of a report; the others quote, name or explain


@dataclass(frozen=True, slots=True)
class Turn:
    """What a doctor says: a question, of a slot where the doctor knows which, or its advice."""

    text: str
    slot: str = ""
    advice: Advice | None = None
    failures: tuple[str, ...] = ()  # what the model did that could not be used, so far


Doctor = Callable[[Sequence[Message], Language, int], Turn]  # the conversation, its language, a seed


@dataclass(frozen=True, slots=True)
class Needs:
    """What doctors are made of; only those with a model need `engine`."""

    safety: SafetyLayer
    departments: Departments
    max_questions: int
    engine: Engine | None = None
    sampling: Sampling = field(default_factory=Sampling)
    wording: Literal["rules", "model"] = "model"
    reading: Literal["rules", "model", "both"] = "both"

    @property
    def model(self) -> Engine:
        """The engine, where a doctor must have one."""
        assert self.engine is not None, "a doctor with a model needs an engine"
        return self.engine


def _rules(needs: Needs) -> Doctor:
    """The interview by rules alone."""
    return _interviewer(Interview(needs.safety, max_questions=needs.max_questions))


def _consult(needs: Needs) -> Doctor:
    """The interview whose answers a model reads and whose questions it words, as the assistant's mode `consult`."""
    interview = Interview(
        needs.safety, engine=needs.model, max_questions=needs.max_questions, wording=needs.wording,
        reading=needs.reading,
    )  # fmt: skip
    return _interviewer(interview)


def _interviewer(interview: Interview) -> Doctor:
    def turn(messages: Sequence[Message], _language: Language, _seed: int) -> Turn:
        step = interview.step(messages)
        if step.question is not None:
            return Turn(step.question, step.slot or "", failures=step.state.failures)
        report = make_report(step.state)
        ids = [place.id for place in report.departments]
        if report.urgency == "emergency":
            ids.insert(0, EMERGENCY_DEPARTMENT)
        advised = [line for part in sections(report) if part.kind in ADVISED for line in part.lines]
        advice = Advice("\n".join(advised), report.urgency, tuple(dict.fromkeys(ids)))
        return Turn(to_markdown(report), advice=advice, failures=step.state.failures)

    return turn


def _one_shot(needs: Needs) -> Doctor:
    """The model advises at once."""

    def turn(messages: Sequence[Message], language: Language, seed: int) -> Turn:
        text = _ask_model(needs, prompts()["doctor"][language]["advise"], messages, seed)
        return Turn(text, advice=read_advice(text, needs.departments))

    return turn


def _free(needs: Needs) -> Doctor:
    """The model asks as it likes. A reply without a question mark is its advice; after the last question it is due."""

    def turn(messages: Sequence[Message], language: Language, seed: int) -> Turn:
        words = prompts()["doctor"][language]
        system = words["ask"].format(count=needs.max_questions)
        asked = sum(one.role == "assistant" for one in messages)
        if asked < needs.max_questions:
            text = _ask_model(needs, system, messages, seed)
            if QUESTION.search(text):
                return Turn(text)
        else:
            last = replace(messages[-1], content=f"{messages[-1].content}\n\n{words['now']}")
            text = _ask_model(needs, system, (*messages[:-1], last), seed)
        return Turn(text, advice=read_advice(text, needs.departments))

    return turn


def _ask_model(needs: Needs, system: str, messages: Sequence[Message], seed: int) -> str:
    sampling = replace(needs.sampling, seed=1000 * seed + len(messages))
    reply = generate(needs.model, [(Message("system", system), *messages)], sampling)[0]
    return split_reasoning(reply.text)[-1].strip() or "..."


DOCTORS: dict[str, Callable[[Needs], Doctor]] = {
    "rules": _rules,
    "consult": _consult,
    "one-shot": _one_shot,
    "free": _free,
}
WITH_MODEL = ("consult", "one-shot", "free")
