"""The assistant: an engine with the system message and the sampling that it was set up with, and its disclaimer.

    assistant = Assistant(engine, "You inform about health.", Sampling.of(generating))
    reply = assistant.generate([(Message("user", "What is asthma?"),)])[0]

It is itself an `Engine`: what is measured of an engine can be measured of it. A conversation that brings a system
message keeps it; a caller who brings a `Sampling` gets that one. Texts that are no conversation pass unchanged.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from carellama.engine.base import Engine, EngineWrapper, OnReply, Piece, Prompt, Reply, Sampling, Tool
from carellama.records import Message
from carellama.safety.layer import SafetyLayer
from carellama.safety.notices import Language, disclaimer
from carellama.safety.screened import refused_reply, screened_reply, screened_stream
from carellama.text import language

AS_OPENAI = Sampling()


class Assistant(EngineWrapper):
    """Passes everything on to its engine; see there for what each method takes, gives and raises.

    `system_prompt` goes before conversations that have no system message; None: they stay as they are. `sampling` is
    that of callers who say nothing. `languages` are those that the model was trained on; empty: nobody knows.
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
        self.languages = tuple(languages)
        self.system_prompt = system_prompt
        self.sampling = sampling

    def disclaimer(self, shown: Language) -> str:
        """Return the disclaimer that goes with its answers, in the language that the page or terminal shows."""
        return disclaimer(shown)

    def speaks(self, text: str) -> bool:
        """Return False for a text in Chinese or English where the model is known to have learned only others."""
        found = language(text)
        return not self.languages or found not in ("zh", "en") or found in self.languages

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling | None = None, *, on_reply: OnReply | None = None
    ) -> list[Reply]:
        """Answer each conversation."""
        sampling = sampling or self.sampling
        whole = [self._whole(messages) for messages in prompts]
        if self.safety is None:
            return self.engine.generate(whole, sampling, on_reply=on_reply)
        screenings = [self.safety.screen(messages) for messages in prompts]
        asked = [index for index, screening in enumerate(screenings) if screening.refusal is None]
        replies: dict[int, Reply] = {}

        def note(index: int, reply: Reply) -> None:
            replies[index] = reply
            if on_reply is not None:
                on_reply(index, reply)

        def answered(place: int, reply: Reply) -> None:
            note(asked[place], screened_reply(screenings[asked[place]], reply, sampling))

        for index in sorted(set(range(len(prompts))) - set(asked)):
            note(index, refused_reply(screenings[index], self.engine, whole[index], sampling))
        self.engine.generate([whole[index] for index in asked], sampling, on_reply=answered)
        return [replies[index] for index in range(len(prompts))]

    def stream(self, messages: Prompt, sampling: Sampling | None = None) -> Generator[Piece, None, Reply]:
        """Yield the answer piece by piece; what the safety layer has to say comes first, before the engine begins."""
        sampling = sampling or self.sampling
        if self.safety is None:
            return self.engine.stream(self._whole(messages), sampling)
        return screened_stream(self.safety.screen(messages), self.engine, self._whole(messages), sampling)

    def logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """The log-probability of each choice as the beginning of the answer."""
        return self.engine.logprobs([self._whole(messages) for messages in prompts], choices)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector for each text."""
        return self.engine.embed(texts)

    def count_tokens(self, messages: Prompt, tools: Sequence[Tool] = ()) -> int:
        """The tokens that an answer starts from, with the system message."""
        return self.engine.count_tokens(self._whole(messages), tools)

    def tokenize(self, text: str, *, begin: bool = False, marks: bool = False) -> list[int]:
        """The tokens of a text."""
        return self.engine.tokenize(text, begin=begin, marks=marks)

    def render(self, messages: Prompt, tools: Sequence[Tool] = ()) -> str:
        """The text that an answer starts from, with the system message."""
        return self.engine.render(self._whole(messages), tools)

    def continue_text(
        self, text: str | Sequence[int], sampling: Sampling | None = None
    ) -> Generator[Piece, None, Reply]:
        """Continue a text."""
        return self.engine.continue_text(text, sampling or self.sampling)

    def _whole(self, messages: Prompt) -> Prompt:
        """The conversation with a system message."""
        if not self.system_prompt or (messages and messages[0].role == "system"):
            return messages
        return (Message("system", self.system_prompt), *messages)
