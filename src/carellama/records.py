"""The nouns that every part of CareLlama passes to the next.

    row (a dict from a file) -> Record (Text | Chat | Pair | Question) -> Tokens -> batch

They are frozen; what must hold of them is asserted where they are made, so that no later step has to ask again.
Broken input never reaches these assertions: `carellama.data.convert` turns it into a `DataError` with its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Role = Literal["system", "user", "assistant", "tool"]
IGNORED = -100  # the label of a position that bears no loss, as in torch.nn.functional.cross_entropy


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record was read: for error messages and reports, `data/a.jsonl:17`."""

    file: str
    line: int  # from 1; of a Parquet file or a hub dataset, the row

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


NOWHERE = Place("<memory>", 0)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that an assistant asks to be called."""

    id: str
    name: str
    arguments: str  # a JSON object


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `calls` are an assistant's; a tool's result says in `call_id` which call it answers.
    """

    role: Role
    content: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""

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
    """

    messages: tuple[Message, ...]
    place: Place = NOWHERE
    meta: Mapping[str, str] = field(default_factory=dict)
    good: bool | None = None

    def __post_init__(self) -> None:
        assert_turns(self.messages, last="assistant", place=self.place)

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
    """A prompt (ending with the user) and two answers, the better one first."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    place: Place = NOWHERE
    meta: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert_turns(self.prompt, last="user", place=self.place)
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
        assert len(self.input_ids) and self.labels[0] == IGNORED, "the first position can not be predicted"

    def __len__(self) -> int:
        return len(self.input_ids)


def assert_turns(messages: tuple[Message, ...], *, last: Role, place: Place) -> None:
    """Assert `[system] (user assistant)* user [assistant]`, ending with `last`."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    assert turns and turns[-1].role == last, f"{place}: the conversation does not end with {last}"
    for index, message in enumerate(turns):
        expected = "user" if index % 2 == 0 else "assistant"
        assert message.role == expected, f"{place}: turn {index} is {message.role}, not {expected}"
