"""An engine that never learns who the person is: identifiers are masked on the way to it, and restored in its answers.

    engine = MaskedEngine(OpenAIEngine(...), Deidentifier())

For endpoints on other machines. What leaves has `[NAME_1]` in place of a name, all messages of a conversation with the
same numbers; what comes back with `[NAME_1]` gets the name again, also where a stream cuts it. Not masked is what
`carellama.privacy` does not find (docs/en/privacy.md says how much that is). Tokens and their
log-probabilities are those of the masked text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from carellama.engine.base import (
    Engine,
    EngineWrapper,
    Event,
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
from carellama.engine.prompts import prompt_parts
from carellama.privacy.deidentify import Deidentifier
from carellama.records import ToolCall

# In JSON: a backslash, or a character by its number, of which those beyond U+FFFF have two.
_ESCAPED = re.compile(r"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}")
PLACEHOLDER = re.compile(r"\[[A-Z_]+_\d+\]")
BEGUN = re.compile(r"\[[A-Z_\d]{0,24}$")  # a placeholder of which the end has not come


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedPrompt(PreparedPrompt):
    """A prompt without identifiers, as its engine has prepared it, and what each placeholder stands for."""

    prompt: PreparedPrompt
    values: Mapping[str, str]


class MaskedEngine(EngineWrapper):
    """Passes everything on to its engine, masked; see there for what each method takes, gives and raises."""

    def __init__(self, engine: Engine, deidentifier: Deidentifier) -> None:
        super().__init__(engine)
        self._deidentifier = deidentifier

    def prepare(
        self, prompt: Prompt | str | Sequence[int], tools: Sequence[Tool] = (), *, exact: bool = True
    ) -> MaskedPrompt:
        """Mask a prompt, and prepare what is left; token ids are turned into their text first."""
        messages, text, ids = prompt_parts(prompt)
        values: Mapping[str, str]
        if messages is not None:
            messages, values = self._masked(messages)
        else:
            (text,), values = self._deidentifier.masked([text if ids is None else self.detokenize(ids)])
        made = self.engine.prepare(text if messages is None else messages, tools, exact=exact)
        return MaskedPrompt(**made.fields(), prompt=made, values=values)

    def submit(self, prompt: PreparedPrompt, sampling: Sampling, on_event: OnEvent) -> RequestHandle:
        """Answer a masked prompt; a placeholder is held back until it is whole."""
        assert isinstance(prompt, MaskedPrompt), "a prompt of another engine"
        return self.engine.submit(prompt.prompt, sampling, _restored_events(on_event, prompt.values))

    def logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """The log-probability of each choice as the beginning of the answer."""
        return self.engine.logprobs([self._masked(messages)[0] for messages in prompts], choices)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector for each masked text."""
        return self.engine.embed([self._deidentifier.masked([text])[0][0] for text in texts])

    def tokenize(self, text: str, *, begin: bool = False, marks: bool = False) -> list[int]:
        """The tokens of the masked text."""
        (hidden,), _ = self._deidentifier.masked([text])
        return self.engine.tokenize(hidden, begin=begin, marks=marks)

    def _masked(self, messages: Prompt) -> tuple[Prompt, Mapping[str, str]]:
        """The conversation without identifiers, and what each placeholder stands for."""
        texts = [message.content for message in messages]
        texts += [call.arguments for message in messages for call in message.calls]
        texts = [_unescaped(text) for text in texts]
        hidden, values = self._deidentifier.masked(texts)
        contents, arguments = hidden[: len(messages)], iter(hidden[len(messages) :])
        made = []
        for message, content in zip(messages, contents, strict=True):
            calls = tuple(replace(call, arguments=next(arguments)) for call in message.calls)
            made.append(replace(message, content=content, calls=calls))
        return made, values


def restored(text: str, values: Mapping[str, str]) -> str:
    """Put back what placeholders stand for; one that is not known stays."""
    return PLACEHOLDER.sub(lambda found: values.get(found[0], found[0]), text) if values else text


def _unescaped(text: str) -> str:
    r"""The text with characters that JSON writes by their numbers: a name as \u5f20 is one that nothing would find."""
    return _ESCAPED.sub(_character, text) if "\\u" in text else text


def _character(found: re.Match[str]) -> str:
    """A character that was written by its number; one of ASCII stays, since a quote would end the string."""
    if found[0] == "\\\\":
        return found[0]
    character: str = json.loads(f'"{found[0]}"')
    return found[0] if character.isascii() or 0xD800 <= ord(character) < 0xE000 else character


def _restored_call(call: ToolCall, values: Mapping[str, str]) -> ToolCall:
    inside = {name: json.dumps(value, ensure_ascii=False)[1:-1] for name, value in values.items()}  # of a string
    return replace(call, arguments=restored(call.arguments, inside))


def _restored_reply(reply: Reply, values: Mapping[str, str]) -> Reply:
    return replace(
        reply,
        text=restored(reply.text, values),
        reasoning=restored(reply.reasoning, values),
        calls=tuple(_restored_call(call, values) for call in reply.calls),
    )


def _restored_events(on_event: OnEvent, values: Mapping[str, str]) -> OnEvent:
    """Return what takes the events of an answer and hands them to `on_event` with identifiers."""
    text, reasoning = _PlaceholderBuffer(values), _PlaceholderBuffer(values)

    def take(event: Event) -> None:
        if isinstance(event, Piece):
            call = _restored_call(event.call, values) if event.call else None
            piece = replace(event, text=text.add(event.text), reasoning=reasoning.add(event.reasoning), call=call)
            on_event(piece if piece.shows else replace(piece, held=event.held or event.shows))
        elif isinstance(event, Reply):
            if text.rest or reasoning.rest:
                on_event(Piece(text.rest, reasoning=reasoning.rest))
            on_event(_restored_reply(event, values))
        else:
            on_event(event)

    return guarded(on_event, take)


class _PlaceholderBuffer:
    """A stream of text whose last characters wait while they may begin a placeholder."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values, self.rest = values, ""

    def add(self, text: str) -> str:
        """Take a part and return what can be shown."""
        if not text:
            return ""
        whole = self.rest + text
        begun = BEGUN.search(whole) if self._values else None
        cut = begun.start() if begun else len(whole)
        self.rest = whole[cut:]
        return restored(whole[:cut], self._values)
