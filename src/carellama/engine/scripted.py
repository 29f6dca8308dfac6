"""An engine without a model: it says what it was told to say. For tests, and for trying terminal and server.

    ScriptedEngine("See a doctor.")                     always the same
    ScriptedEngine(["first", "second"])                 one after the other
    ScriptedEngine(lambda messages: messages[-1].content.upper())

A token is a character. It keeps the rules of `Engine` (stop strings, lengths, closing), and remembers in
`asked` what it was asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence

from carellama.engine.answer import Answer
from carellama.engine.base import OnReply, Prompt, Reply, Sampling, room_for_answer
from carellama.records import Message

Script = str | Sequence[str] | Callable[[Prompt], str]


class ScriptedEngine:
    """Answers from a script: a text, a queue of texts, or a function of the messages."""

    def __init__(self, script: Script, *, context_tokens: int | None = None, token_seconds: float = 0.0) -> None:
        self.context_tokens = context_tokens
        self.token_seconds = token_seconds  # how long each token takes
        self.asked: list[tuple[Message, ...]] = []
        self._script = script if isinstance(script, str) or callable(script) else list(script)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, on_reply: OnReply | None = None
    ) -> list[Reply]:
        """Answer each conversation, see `Engine.generate`."""
        replies = []
        for index, messages in enumerate(prompts):
            stream = self.stream(messages, sampling)
            try:
                while True:
                    next(stream)
            except StopIteration as end:
                replies.append(end.value)
            if on_reply is not None:
                on_reply(index, replies[-1])
        return replies

    def stream(self, messages: Prompt, sampling: Sampling) -> Generator[str, None, Reply]:
        """Yield the answer, see `Engine.stream`."""
        self.asked.append(tuple(messages))
        prompt_tokens = self.count_tokens(messages)
        room = room_for_answer(prompt_tokens, sampling.max_new_tokens, self.context_tokens)
        text = self._next(messages)
        answer = Answer(lambda ids: "".join(map(chr, ids)), (), sampling.stop)
        for character in text[:room]:
            time.sleep(self.token_seconds)
            if piece := answer.add(ord(character)):
                yield piece
            if answer.stopped:
                break
        if rest := answer.end():
            yield rest
        whole = answer.stopped or len(text) <= room
        return Reply(answer.text, "stop" if whole else "length", prompt_tokens, answer.tokens)

    def count_tokens(self, messages: Prompt) -> int:
        """Return the number of characters of the rendered messages."""
        return len(self.render(messages))

    def render(self, messages: Prompt) -> str:
        """Return the messages as lines of `role: content`."""
        return "".join(f"{message.role}: {message.content}\n" for message in messages)

    def _next(self, messages: Prompt) -> str:
        if isinstance(self._script, str):
            return self._script
        if callable(self._script):
            return self._script(messages)
        assert self._script, "the script has no reply left"
        return self._script.pop(0)
