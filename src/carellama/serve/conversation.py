"""A conversation as terminal and web page keep it: in memory, question and answer in turn.

    conversation = Conversation(system="You are brief.")
    dropped = conversation.make_room(engine, question, sampling)
    reply = engine.generate([conversation.prompt(question)], sampling)[0]
    conversation.add(question, reply.text)

What no longer fits the model is left out of what it is told, not out of the conversation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from carellama.engine.base import Engine, Sampling
from carellama.records import Message


@dataclass
class Conversation:
    """The messages so far: all are kept, and those from `first` on are what the model is told.

    `messages` never ends with a question; `unanswered` is the last one when no answer came to it.
    """

    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    first: int = 0
    unanswered: str = ""

    def prompt(self, question: str) -> list[Message]:
        """Return everything the engine is to answer."""
        system = [Message("system", self.system)] if self.system else []
        return [*system, *self.messages[self.first :], Message("user", question)]

    def whole(self, question: str) -> list[Message]:
        """Return all that was said, with what the model is no longer told of."""
        return [*self.messages, Message("user", question)]

    @property
    def dropped(self) -> list[Message]:
        """The oldest turns, which the model is no longer told of."""
        return self.messages[: self.first]

    def add(self, question: str, answer: str) -> None:
        """Remember a question, and its answer as far as it came."""
        if answer:
            self.messages += [Message("user", question), Message("assistant", answer)]
        self.unanswered = "" if answer else question

    def take_back(self) -> str:
        """Forget the last question, with its answer if it has one, and return it; "" when there is none."""
        if self.unanswered:
            question, self.unanswered = self.unanswered, ""
            return question
        if not self.messages:
            return ""
        question = self.messages[-2].content
        del self.messages[-2:]
        self.first = min(self.first, len(self.messages))
        return question

    def clear(self) -> None:
        """Forget what was said; the system message stays."""
        self.messages.clear()
        self.first, self.unanswered = 0, ""

    def make_room(self, engine: Engine, question: str, sampling: Sampling) -> int:
        """Leave out the oldest turns until the answer has room; return how many more. The question is never cut."""
        context = engine.context_tokens
        if context is None:
            return 0
        dropped = 0
        wanted = context // 2 if sampling.max_new_tokens is None else min(sampling.max_new_tokens, context // 2)
        while self.first < len(self.messages) and engine.count_tokens(self.prompt(question)) + wanted > context:
            self.first += 2
            dropped += 1
        return dropped

    def rows(self) -> list[dict[str, str]]:
        """Return the whole conversation in the shape `openai` of `carellama.data.convert`."""
        system = [Message("system", self.system)] if self.system else []
        return [{"role": message.role, "content": message.content} for message in [*system, *self.messages]]
