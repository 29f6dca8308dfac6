"""The assistant: an engine with the system message and the sampling that it was set up with, and its disclaimer.

    assistant = Assistant(engine, "You inform about health.", Sampling.of(generating))
    reply = generate(assistant, [(Message("user", "What is asthma?"),)], assistant.sampling)[0]

`Consultant` is an assistant that asks before it advises (`carellama.consultation`).

It is itself an `Engine`: what is measured of an engine can be measured of it. A conversation that brings a system
message keeps it; a caller who brings a `Sampling` gets that one. Texts that are no conversation pass unchanged.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Self

from carellama.consultation.interview import Interview, Step
from carellama.consultation.report import to_markdown
from carellama.engine.base import (
    Engine,
    EngineWrapper,
    OnEvent,
    Piece,
    PreparedPrompt,
    Prompt,
    Reply,
    RequestHandle,
    Sampling,
    Tool,
    guarded,
)
from carellama.engine.generate import count_tokens, stream
from carellama.engine.prompts import prompt_parts
from carellama.engine.worker_pool import WorkerPool, read_pieces
from carellama.records import Message, ModelCard
from carellama.safety.guard.replies import without_refused
from carellama.safety.layer import SafetyLayer, Screening
from carellama.safety.notices import without_marks
from carellama.safety.screened import submit_screened
from carellama.text import language

AS_OPENAI = Sampling()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenedPrompt(PreparedPrompt):
    """A conversation that was screened. `prompt`: as the engine has prepared it; None: no engine sees it."""

    prompt: PreparedPrompt | None
    screening: Screening


class Assistant(EngineWrapper):
    """Passes everything on to its engine; see there for what each method takes, gives and raises.

    `system_prompt` goes before conversations that have no system message; None: they stay as they are. `sampling` is
    that of callers who say nothing. `cards`: what is known of the model, its checkpoints and adapters, for who asks;
    the first is the model's. `languages` are those that the model was trained on; empty: nobody knows.
    `safety` says what comes before an answer and what stops one; None: answers are the engine's.
    """

    def __init__(
        self,
        engine: Engine,
        system_prompt: str | None = None,
        sampling: Sampling = AS_OPENAI,
        languages: Sequence[str] = (),
        safety: SafetyLayer | None = None,
    ) -> None:
        super().__init__(engine)
        self.safety = safety
        self.cards: tuple[ModelCard, ...] = ()
        self.languages = tuple(languages)
        self.system_prompt = system_prompt
        self.sampling = sampling

    def close(self) -> None:
        """Close the engine, and the guard model of the safety layer."""
        super().close()
        if self.safety is not None:
            self.safety.close()

    def for_country(self, country: str) -> Self:
        """Return the same assistant whose notices have the numbers of another country.

        Raises `UserError` for a country without numbers.
        """
        made = copy(self)
        made.safety = None if self.safety is None else self.safety.for_country(country)
        return made

    def speaks(self, text: str) -> bool:
        """Return False for a text in Chinese or English where the model is known to have learned only others."""
        found = language(text)
        return not self.languages or found not in ("zh", "en") or found in self.languages

    def prepare(
        self,
        prompt: Prompt | str | Sequence[int],
        tools: Sequence[Tool] = (),
        *,
        exact: bool = True,
        dropped: Prompt = (),
        screening: Screening | None = None,
    ) -> PreparedPrompt:
        """Screen a conversation, and prepare it with the system message. No engine gets one that is refused.

        `dropped` are earlier turns that the model does not get, for want of room: the safety layer reads them too.
        `screening`: of all these messages, where they were screened already.
        """
        messages, text, ids = prompt_parts(prompt)
        if messages is None:
            return self.engine.prepare(text if ids is None else ids, exact=exact)
        if self.safety is None:
            return self.engine.prepare(self._whole(messages), tools, exact=exact)
        screening = screening or self.safety.screen([*dropped, *messages])
        if screening.refusal is not None:
            return ScreenedPrompt(messages=messages, text="", ids=(), tokens=0, prompt=None, screening=screening)
        made = self.engine.prepare(self._whole(messages), tools, exact=exact)
        return ScreenedPrompt(**made.fields(), prompt=made, screening=screening)

    def submit(self, prompt: PreparedPrompt, sampling: Sampling, on_event: OnEvent) -> RequestHandle:
        """Answer a prompt; what the safety layer has to say comes first, before the engine begins."""
        if not isinstance(prompt, ScreenedPrompt):
            return self.engine.submit(prompt, sampling, on_event)
        return submit_screened(prompt.screening, self.engine, prompt.prompt, sampling, on_event)

    def screen(self, messages: Prompt) -> Screening | None:
        """Return what the safety layer finds, for `stream`; None: there is no layer.

        For callers that would ask the engine something before: what is refused, no engine and no endpoint gets.
        """
        return None if self.safety is None else self.safety.screen(messages)

    def logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """The log-probability of each choice as the beginning of the answer."""
        return self.engine.logprobs([self._whole(messages) for messages in prompts], choices)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector for each text."""
        return self.engine.embed(texts)

    def count_tokens(self, messages: Prompt, tools: Sequence[Tool] = ()) -> int:
        """The tokens that an answer starts from, with the system message; nothing is screened."""
        return count_tokens(self.engine, self._whole(messages), tools)

    def tokenize(self, text: str, *, begin: bool = False, marks: bool = False) -> list[int]:
        """The tokens of a text."""
        return self.engine.tokenize(text, begin=begin, marks=marks)

    def _whole(self, messages: Prompt) -> Prompt:
        """The conversation with a system message, without the requests that were refused and the marks in answers."""
        if self.safety is not None:
            messages = without_marks(without_refused(messages))
        if not self.system_prompt or (messages and messages[0].role == "system"):
            return messages
        return (Message("system", self.system_prompt), *messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsultationPrompt(PreparedPrompt):
    """A conversation of an interview."""

    tools: Sequence[Tool] = ()
    dropped: Prompt = ()


class Consultant(Assistant):
    """An assistant that asks before it advises: its answers are the next question, or the report.

    Questions after the report the model answers, as an `Assistant` does; what belongs into the report makes a new one.
    The interview keeps nothing between two calls. A report is never too long for the model, as rules write it; hence
    there is no limit of tokens.
    """

    def __init__(self, assistant: Assistant, interview: Interview) -> None:
        super().__init__(
            assistant.engine, assistant.system_prompt, assistant.sampling, assistant.languages, assistant.safety
        )
        self.assistant, self.interview = assistant, interview
        self._pool = WorkerPool(self.parallel, "carellama-consultation")

    def for_country(self, country: str) -> Self:
        """Return the same consultant whose notices and reports have the numbers of another country."""
        made = super().for_country(country)
        made.assistant, made.interview = self.assistant.for_country(country), copy(self.interview)
        made.interview.safety = self.interview.safety.for_country(country)
        return made

    @property
    def context_tokens(self) -> int | None:
        """None: turns that a model has no room for are part of the state all the same."""
        return None

    def speaks(self, text: str) -> bool:
        """Return True: the questions and the report are in Chinese and English."""
        return True

    def prepare(
        self,
        prompt: Prompt | str | Sequence[int],
        tools: Sequence[Tool] = (),
        *,
        exact: bool = True,
        dropped: Prompt = (),
        screening: Screening | None = None,
    ) -> PreparedPrompt:
        """Count a conversation; what the model is asked about it, only the interview tells. It is never too long."""
        messages, _, _ = prompt_parts(prompt)
        if messages is None:
            return super().prepare(prompt, exact=exact)
        refused = screening is not None and screening.refusal is not None  # no engine gets it
        tokens = self.count_tokens(messages, tools) if exact and not refused else 0
        return ConsultationPrompt(
            messages=messages, text="", ids=None, tokens=tokens, exact=False, tools=tools, dropped=dropped
        )

    def submit(self, prompt: PreparedPrompt, sampling: Sampling, on_event: OnEvent) -> RequestHandle:
        """Ask the next question, or report; in a thread, since the interview may ask the model several times."""
        if not isinstance(prompt, ConsultationPrompt):
            return super().submit(prompt, sampling, on_event)
        return self._pool.submit(read_pieces(lambda: self._advance(prompt, sampling)), guarded(on_event))

    def screen(self, messages: Prompt) -> Screening | None:
        """Return None: only the state of the interview tells whether the last message is a request."""
        return None

    def _advance(self, prompt: ConsultationPrompt, sampling: Sampling) -> Generator[Piece, None, Reply]:
        """Yield the next question, or the report; what the safety layer has to say comes first."""
        messages, dropped = prompt.messages or (), prompt.dropped
        whole = [*dropped, *messages]
        step = yield from self.interview.advance(whole, sampling.adapter)
        is_request = not step.state.asked or step.state.reported  # else it answers a question of the interview
        screening = self.interview.safety.screen(whole, step.found, is_request=is_request)
        closing = self.interview.closing(step.state, messages[-1].content) if step.state.reported else ""
        if screening.refusal is not None or (step.state.reported and not closing):
            asked = self.assistant.prepare(messages, prompt.tools, exact=False, dropped=dropped)
            return (yield from stream(self.assistant, asked, sampling))
        preface, notices = screening.preface(), (*screening.notices, *screening.after)
        if notices:
            yield Piece(preface, notices=notices)
        text, state = closing or self._text(step, whole), consultation_json(step)
        text += "".join(f"\n\n{one.text}" for one in screening.after if screening.policy.action(one.kind) == "on")
        yield Piece(text, consultation=state)
        return Reply(f"{preface}{text}", "stop", *step.tokens, notices=notices, consultation=state)

    def _text(self, step: Step, messages: Prompt) -> str:
        if step.report is not None:
            return to_markdown(step.report)
        assert step.question is not None
        lead = self.interview.lead(step.state, messages)
        return f"{lead}\n\n{step.question}" if lead else step.question


def consultation_json(step: Step) -> dict[str, object]:
    """Return a step as the field `consultation` of an answer."""
    report = None if step.report is None else step.report.as_json()
    return {"state": step.state.as_json(), "slot": step.slot, "report": report}
