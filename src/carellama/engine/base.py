"""What an engine is: it answers conversations. The types that everything above an engine is written against.

    reply = engine.generate([(Message("user", "What is asthma?"),)], sampling)[0]

`carellama.engine.transformers` answers with a model, `carellama.engine.scripted` with fixed texts. This
module loads no library, so that the terminal and the server can name the types without loading one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from carellama.errors import UserError
from carellama.records import Message

if TYPE_CHECKING:
    from carellama.config.run import GeneratingArguments

Prompt = Sequence[Message]
OnReply = Callable[[int, "Reply"], None]  # told the prompt's index and its reply, in the order of completion


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn. The defaults are those of `config.GeneratingArguments`."""

    max_new_tokens: int
    temperature: float  # 0: always the likeliest token
    top_p: float
    top_k: int  # 0: from all tokens
    repetition_penalty: float
    num_beams: int
    length_penalty: float
    seed: int | None = None  # None: another draw each time
    stop: tuple[str, ...] = ()  # strings that end the answer, besides the template's

    @classmethod
    def of(cls, arguments: GeneratingArguments, *, seed: int | None = None, stop: tuple[str, ...] = ()) -> Sampling:
        """Return the sampling that the command line asked for."""
        return cls(
            max_new_tokens=arguments.max_new_tokens,
            temperature=arguments.temperature if arguments.do_sample else 0.0,
            top_p=arguments.top_p,
            top_k=arguments.top_k,
            repetition_penalty=arguments.repetition_penalty,
            num_beams=arguments.num_beams,
            length_penalty=arguments.length_penalty,
            seed=seed,
            stop=stop,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and why it ended: at its own end ("stop") or because no token was left ("length")."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int  # with the token that ended it


class Engine(Protocol):
    """Answers conversations. One call at a time works; more may be served one after the other."""

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together; None: no limit known."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, on_reply: OnReply | None = None
    ) -> list[Reply]:
        """Answer each conversation; the replies are in the order of the prompts.

        Raises `UserError` for a prompt that leaves no room for an answer.
        """
        ...

    def stream(self, messages: Prompt, sampling: Sampling) -> Generator[str, None, Reply]:
        """Yield the answer piece by piece, whole characters only; the generator's value is the whole `Reply`.

        The pieces joined are `Reply.text`. Closing the generator stops the computation within one token.
        """
        ...

    def count_tokens(self, messages: Prompt) -> int:
        """Return the number of tokens that an answer to `messages` starts from."""
        ...

    def render(self, messages: Prompt) -> str:
        """Return the text that an answer to `messages` starts from."""
        ...


def room_for_answer(prompt_tokens: int, max_new_tokens: int, context_tokens: int | None) -> int:
    """Return how many tokens the answer may have. Raises `UserError` when there is room for none."""
    if context_tokens is None:
        return max_new_tokens
    if prompt_tokens >= context_tokens:
        raise UserError(
            f"the prompt has {prompt_tokens:,} tokens and the model takes {context_tokens:,} in all; "
            "shorten the conversation or take a model with a longer context"
        )
    return min(max_new_tokens, context_tokens - prompt_tokens)
