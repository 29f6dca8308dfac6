"""The nouns that every part of CareLlama passes to the next.

    row (a dict from a file) -> Record (Text | Chat | Pair | Question) -> Tokens -> batch

They are frozen; what must hold of them is asserted where they are made, so that no later step has to ask again.
Broken input never reaches these assertions: `carellama.data.convert` turns it into a `DataError` with its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from carellama.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

JSONObject = dict[str, Any]  # an object of JSON; who reads one from a wire or a file checks the fields that it takes
Role = Literal["system", "user", "assistant", "tool"]
IGNORED = -100  # the label of a position that bears no loss, as in torch.nn.functional.cross_entropy


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record was read: for error messages and reports, `data/a.jsonl:17` or `data/a.parquet, row 17`."""

    file: str
    line: int  # from 1; the row where `unit` is "row"
    unit: Literal["line", "row"] = "line"  # row: of a file without lines, or with all of its rows on one

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.unit == "line" else f"{self.file}, row {self.line}"


NOWHERE = Place("<memory>", 0)


class BadRecord(DataError):
    """A row that cannot become a record; `reason` is what the report counts it under."""

    def __init__(self, place: Place, reason: str, detail: str = "") -> None:
        super().__init__(place, reason, detail)
        self.place, self.reason, self.detail = place, reason, detail

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}{': ' + self.detail if self.detail else ''}"

    def with_hint(self, hint: str) -> BadRecord:
        """Return the same error with a hint behind its detail."""
        return BadRecord(self.place, self.reason, f"{self.detail}; {hint}" if self.detail else hint)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model, a checkpoint or an adapter: facts by their kind, and the text of its README.md.

    `adapter`: the name that requests choose it by; "" for what every answer comes from.
    """

    name: str
    facts: Mapping[str, str]
    text: str = ""
    adapter: str = ""

    def as_json(self) -> JSONObject:
        """Return it as the page gets it."""
        return {"name": self.name, "adapter": self.adapter, "facts": dict(self.facts), "text": self.text}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that an assistant asks to be called."""

    id: str
    name: str
    arguments: str  # a JSON object

    def to_openai(self) -> JSONObject:
        """Return the call as OpenAI's messages hold it, with its arguments as text."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask to be called."""

    name: str
    description: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)  # JSON schema of its arguments
    strict: bool = False  # a call whose arguments break the schema is not a call


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `calls` are an assistant's; a tool's result says in `call_id` which call it answers. An assistant's content may
    begin with its reasoning (`carellama.text.split_reasoning`). `learned`: whether training learns this answer.
    """

    role: Role
    content: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    learned: bool = True

    def __post_init__(self) -> None:
        assert self.role in ("system", "user", "assistant", "tool"), f"unknown role {self.role!r}"
        assert not self.calls or self.role == "assistant", f"{self.role} calls tools"


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text for pretraining."""

    text: str
    place: Place = NOWHERE
    meta: Mapping[str, str] = field(default_factory=dict)  # what else is known of it: department, title, source, id

    def __post_init__(self) -> None:
        assert self.text.strip(), f"{self.place}: empty text"


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation for fine-tuning: an optional system message, then user and assistant in turn.

    `messages` ends with the assistant's answer; `good` is what a person thought of it, where somebody said so.
    `tools` are the functions that the assistant may call; results of calls stand between its turns.
    """

    messages: tuple[Message, ...]
    place: Place = NOWHERE
    meta: Mapping[str, str] = field(default_factory=dict)
    good: bool | None = None
    tools: tuple[Tool, ...] = ()

    def __post_init__(self) -> None:
        assert_turns(self.messages, last=("assistant",), place=self.place)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last answer."""
        return self.messages[:-1]

    @property
    def response(self) -> str:
        """The last answer."""
        return self.messages[-1].content


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt (ending with the user or the result of a call) and two answers, the better one first."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    place: Place = NOWHERE
    meta: Mapping[str, str] = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()

    def __post_init__(self) -> None:
        assert_turns(self.prompt, last=("user", "tool"), place=self.place)
        assert self.chosen != self.rejected, f"{self.place}: chosen and rejected are the same"


@dataclass(frozen=True, slots=True)
class Question:
    """An exam question: options by letter, and the letters that are right (several in multi-answer exams)."""

    id: str
    stem: str
    options: dict[str, str]
    answers: tuple[str, ...]
    explanation: str = ""
    place: Place = NOWHERE
    meta: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.answers and set(self.answers) <= set(self.options), f"{self.place}: answer not an option"


Record = Text | Chat | Pair | Question


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """An encoded record. `labels[i]` is `input_ids[i]` where the model is trained to say it, else `IGNORED`.

    `good`: whether the answer is one to become likelier (`Chat.good`, the better one of a `Pair`). `source`: dataset
    and row, to name it by. The first label is always `IGNORED`: no position predicts it, and in a packed row it would
    be predicted from the record before.
    """

    input_ids: npt.NDArray[np.int32]  # (T,)
    labels: npt.NDArray[np.int32]  # (T,)
    good: bool = True
    source: str = ""

    def __post_init__(self) -> None:
        assert self.input_ids.shape == self.labels.shape and self.input_ids.ndim == 1, "ids and labels differ"
        assert len(self.input_ids) and self.labels[0] == IGNORED, "the first position cannot be predicted"

    def __len__(self) -> int:
        return len(self.input_ids)


def assert_turns(messages: tuple[Message, ...], *, last: tuple[Role, ...], place: Place) -> None:
    """Assert that the turns are in order (`turn_problem`) and end with one of these roles."""
    assert messages and messages[-1].role in last, f"{place}: the conversation does not end with {' or '.join(last)}"
    problem = turn_problem(messages)
    assert not problem, f"{place}: {problem}"


def turn_problem(messages: Sequence[Message]) -> str:
    """Return what is wrong with the order of the turns, or "".

    The order is `[system] (user (calls tool+)* assistant)*`; the last exchange may be unfinished.
    """
    before: Message | None = None
    for number, message in enumerate(messages, 1):
        if message.role == "system" and number == 1:
            continue
        if before is None or (before.role == "assistant" and not before.calls):
            expected: tuple[Role, ...] = ("user",)
        elif before.role == "assistant":
            expected = ("tool",)
        else:
            expected = ("assistant", "tool") if before.role == "tool" else ("assistant",)
        if message.role not in expected:
            return f"turn {number} is {message.role}, not {' or '.join(expected)}"
        before = message
    return ""
