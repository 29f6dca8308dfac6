"""A conversation as terminal and web page keep it: in memory, question and answer in turn.

    conversation = Conversation(system="You are brief.")
    dropped = conversation.drop_oldest_turns(assistant, question, sampling)
    reply = generate(assistant, [conversation.prompt(question)], sampling)[0]
    conversation.add_turn(question, reply.text)

What no longer fits the model is left out of what it is told, not out of the conversation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from carellama.assistant import Assistant
from carellama.engine.base import Sampling
from carellama.records import Message


@dataclass
class Conversation:
    """The messages so far: all are kept, and those from `context_start` on are what the model is told.

    `messages` never ends with a question; `pending_question` is the last one when no answer came to it.
    """

    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    context_start: int = 0
    pending_question: str = ""

    def prompt(self, question: str) -> list[Message]:
        """Return everything the engine is to answer."""
        system = [Message("system", self.system)] if self.system else []
        return [*system, *self.messages[self.context_start :], Message("user", question)]

    def whole(self, question: str) -> list[Message]:
        """Return all that was said, with what the model is no longer told of."""
        return [*self.messages, Message("user", question)]

    @property
    def dropped(self) -> list[Message]:
        """The oldest turns, which the model is no longer told of."""
        return self.messages[: self.context_start]

    def add_turn(self, question: str, answer: str) -> None:
        """Remember a question, and its answer as far as it came."""
        if answer:
            self.messages += [Message("user", question), Message("assistant", answer)]
        self.pending_question = "" if answer else question

    def undo(self) -> str:
        """Forget the last question, with its answer if it has one, and return it; "" when there is none."""
        if self.pending_question:
            question, self.pending_question = self.pending_question, ""
            return question
        if not self.messages:
            return ""
        question = self.messages[-2].content
        del self.messages[-2:]
        self.context_start = min(self.context_start, len(self.messages))
        return question

    def clear(self) -> None:
        """Forget what was said; the system message stays."""
        self.messages.clear()
        self.context_start, self.pending_question = 0, ""

    def drop_oldest_turns(self, assistant: Assistant, question: str, sampling: Sampling) -> int:
        """Leave out the oldest turns until the answer has room; return how many more. The question is never cut."""
        context = assistant.context_tokens
        if context is None:
            return 0
        dropped = 0
        wanted = context // 2 if sampling.max_new_tokens is None else min(sampling.max_new_tokens, context // 2)
        while (
            self.context_start < len(self.messages) and assistant.count_tokens(self.prompt(question)) + wanted > context
        ):
            self.context_start += 2
            dropped += 1
        return dropped

    def rows(self) -> list[dict[str, str]]:
        """Return the whole conversation in the shape `openai` of `carellama.data.convert`."""
        system = [Message("system", self.system)] if self.system else []
        return [{"role": message.role, "content": message.content} for message in [*system, *self.messages]]
