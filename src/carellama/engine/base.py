"""What an engine is: it answers conversations. The types that everything above an engine is written against.

    prompt = engine.prepare([Message("user", "What is asthma?")])     # rendered, tokenised and counted, once
    handle = engine.submit(prompt, sampling, on_event)                # on_event(Piece), ..., on_event(Reply)

`carellama.engine.generate` has `stream` and `generate` over these two. `carellama.engine.load` makes an engine from the
options; `carellama.engine.scripted` is a double with fixed texts. This module loads no library, so that the terminal
and the server can name the types without loading one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from carellama.errors import UserError
from carellama.records import Message, ToolCall
from carellama.records import Tool as Tool

if TYPE_CHECKING:
    from carellama.config.engine import GenerationOptions

Prompt = Sequence[Message]
OnReply = Callable[[int, "Reply"], None]  # told the prompt's index and its reply, in the order of completion
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]  # the last: stopped by the safety layer
MOST_CONTEXT = 8192  # tokens of prompt and answer on a CPU, unless told: a cache takes memory as they grow
HEARTBEAT = 0.5  # seconds after which a stream that has nothing to say yields an empty piece


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is made. The defaults are those of OpenAI's API: they change nothing."""

    max_new_tokens: int | None = None  # None: as many as the context has room for
    temperature: float = 1.0  # 0: always the likeliest token
    top_p: float = 1.0
    top_k: int = 0  # 0: from all tokens
    min_p: float = 0.0  # least probability, as a share of the likeliest token's
    repetition_penalty: float = 1.0  # divides the score of a token that was there (Keskar et al. 2019, section 4.1)
    presence_penalty: float = 0.0  # taken off the score of a token that the answer has
    frequency_penalty: float = 0.0  # and for each time that the answer has it
    num_beams: int = 1
    length_penalty: float = 1.0
    seed: int | None = None  # None: another draw each time
    stop: tuple[str, ...] = ()  # strings that end the answer, besides the template's; not part of it
    logit_bias: tuple[tuple[int, float], ...] = ()  # token id, what is added to its score
    json_schema: Mapping[str, object] | None = None  # the answer is JSON of this schema; {}: any JSON object
    regex: str | None = None  # the answer matches it as a whole, in the syntax of Rust's regex crate
    choice: tuple[str, ...] = ()  # the answer is one of these texts
    grammar: str | None = None  # the answer is a text of this grammar, in GBNF or Lark
    min_tokens: int = 0  # the answer does not end by itself before it has as many
    ignore_eos: bool = False  # the model's end tokens do not end the answer
    stop_token_ids: tuple[int, ...] = ()  # tokens that end the answer, besides the model's own
    top_logprobs: int | None = None  # log-probabilities of the tokens said, and of so many likeliest; None: none
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"  # auto, none, required, or the name of a tool
    parallel_calls: bool = True  # whether an answer may call more than one tool
    adapter: str = ""  # which of the engine's adapters answers; "": the model as it was loaded

    @classmethod
    def of(cls, arguments: GenerationOptions, *, seed: int | None = None, stop: tuple[str, ...] = ()) -> Sampling:
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

    @property
    def constrained(self) -> bool:
        """Whether a grammar limits what the answer may be."""
        return self.constraint is not None

    @property
    def constraint(self) -> str | None:
        """The name of the field that limits what the answer may be."""
        limits = {
            "json_schema": self.json_schema is not None,
            "regex": self.regex is not None,
            "choice": bool(self.choice),
            "grammar": self.grammar is not None,
        }
        return next((name for name, given in limits.items() if given), None)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its log-probability before temperature and penalties, and the likeliest in its place.

    The log-probability is NaN for a first token, which nothing precedes. The texts are as `engine.token_text` has them:
    bytes of a part of a character are escaped; U+FFFD where the engine does not know them.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


Scored = list[TokenLogprob]  # the tokens of a prompt


# What a sentence of an answer is marked for.
AnswerKind = Literal["contradiction", "diagnosis", "dose", "stop_medicine", "cure", "claims_doctor", "contraindication"]
NoticeKind = Literal["emergency", "refusal", "caution", "disclaimer"] | AnswerKind


@dataclass(frozen=True, slots=True)
class Notice:
    """What the safety layer has to say of a conversation or of an answer."""

    kind: NoticeKind
    level: str  # emergency, urgent, soon: how urgent it is; refuse, caution: of the guard; info: the disclaimer
    text: str
    rule: str = ""  # the id of the rule that fired

    def as_json(self) -> dict[str, str]:
        """Return it as the API sends it."""
        return {"kind": self.kind, "level": self.level, "rule": self.rule, "text": self.text}


@dataclass(frozen=True, slots=True)
class Piece:
    """What came of an answer since the piece before; an empty one tells that the engine is at work."""

    text: str = ""
    reasoning: str = ""  # of an endpoint that tells it apart
    logprobs: tuple[TokenLogprob, ...] = ()
    call: ToolCall | None = None  # a whole one
    of_prompt: bool = False  # it repeats the prompt: none of its tokens was written
    held: bool = False  # a token was written whose text is held back, as it may belong to a call
    notices: tuple[Notice, ...] = ()  # of an assistant; an engine has none
    consultation: Mapping[str, object] | None = None  # of an assistant that consults: its state and report, as JSON

    @property
    def shows(self) -> bool:
        """Whether it has anything to show."""
        return bool(
            self.text or self.reasoning or self.logprobs or self.call or self.notices or self.consultation is not None
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and why it ended: at its own end ("stop"), for want of tokens ("length"), or to call tools."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int  # with the token that ended it
    reasoning: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    notices: tuple[Notice, ...] = ()
    consultation: Mapping[str, object] | None = None


class PromptTooLong(UserError):
    """The prompt leaves no room for an answer."""

    def __init__(self, prompt_tokens: int, context_tokens: int, tools: tuple[int, int] | None = None) -> None:
        share, advice = "", "shorten the conversation"
        if tools is not None:  # how many, and their tokens
            share = f" ({tools[1]:,} of them for {tools[0]} tool{'s' * (tools[0] != 1)})"
            advice = "offer fewer tools, shorten the conversation"
        super().__init__(
            f"the prompt has {prompt_tokens:,} tokens{share} and the model takes {context_tokens:,} in all; "
            f"{advice} or take a model with a longer context"
        )
        self.prompt_tokens, self.context_tokens = prompt_tokens, context_tokens


class Unsupported(UserError):
    """The engine cannot do what was asked of it; `field` is the field of `Sampling` that asked for it, if one did."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class Unavailable(UserError):
    """What the engine needs does not answer (an endpoint, a child process); asking again may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPrompt:
    """A prompt as an engine reads it. `prepare` makes one; `submit` takes it, of the same engine, any number of times.

    `messages`: the conversation, None for a text that is continued. `ids`: its tokens, None where only a server knows
    them. `tokens`: their number; `exact` is False where it is an estimate.
    """

    messages: Prompt | None
    text: str
    ids: Sequence[int] | None
    tokens: int
    exact: bool = True

    def fields(self) -> dict[str, Any]:
        """Return the five fields of any prepared prompt, for one that wraps this."""
        return {one.name: getattr(self, one.name) for one in dataclasses.fields(PreparedPrompt)}


Event = Piece | Reply | Exception  # of a request: pieces, then the reply or an error as the last one
OnEvent = Callable[[Event], None]


class RequestHandle(Protocol):
    """A request that was submitted."""

    def cancel(self) -> None:
        """End the request within one token, also while it waits. Returns at once; at most one more event comes."""

    def join(self) -> None:
        """Wait until nothing is computed for the request any more."""


class Engine(Protocol):
    """Answers conversations. Safe to be called from several threads; `parallel` of them are answered at once.

    All methods raise `PromptTooLong` for a prompt that leaves no room for an answer, `Unsupported` for what this
    engine cannot do, and `Unavailable` where it depends on something that does not answer.
    """

    name: str  # transformers, llamacpp, ...
    parallel: int

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together; None: no limit known."""

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names that `Sampling.adapter` may have."""

    @property
    def knows_tools(self) -> bool:
        """Whether the model's chat template writes tools, and calls in a form that is read (`engine.call_forms`).

        Else they are written into the system message.
        """

    def prepare(
        self, prompt: Prompt | str | Sequence[int], tools: Sequence[Tool] = (), *, exact: bool = True
    ) -> PreparedPrompt:
        """Render, tokenise and count a conversation, or a text or token ids that are to be continued.

        A text is tokenised as `tokenize(text, begin=True)` does. Raises `PromptTooLong`. `tools` are those that the
        sampling of `submit` has, none where its `tool_choice` is "none". `exact` False: an estimate of the tokens will
        do, where only a server could count them.
        """

    def submit(self, prompt: PreparedPrompt, sampling: Sampling, on_event: OnEvent) -> RequestHandle:
        """Answer a prompt: call `on_event` with each piece as it is computed, and at the end with the reply.

        The texts of the pieces, whole characters only, make up `Reply.text`. An error comes in place of the reply; one
        of the sampling may be raised here. It waits for no other request, but a grammar may take a second to compile.
        `on_event` is called in a thread of the engine: it must return soon and call no method of the engine.
        """

    def logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """For each prompt the log-probability of each choice as the first token of the answer, in one pass.

        A choice is one token (a letter); one that is several is judged by its first.
        """

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector of length 1 for each text: the mean over its tokens of the last layer's states."""

    def tokenize(self, text: str, *, begin: bool = False, marks: bool = False) -> list[int]:
        """Return the tokens of a text.

        `begin`: after the token that begins a sequence, if the model has one. `marks`: strings of special tokens in
        the text (`<|im_start|>`) are these tokens; otherwise they stay text.
        """

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, with the strings of special tokens."""

    def prompt_logprobs(self, ids: Sequence[int], count: int, adapter: str = "") -> Generator[Piece, None, Scored]:
        """Return each token of a prompt with its log-probability, and the `count` likeliest in its place.

        A generator with that value: it yields empty pieces in between, and closing it stops the computation.
        """

    def close(self) -> None:
        """Give back what the engine holds: memory, threads, child processes. Calls under way end with an error."""


class EngineWrapper:
    """An engine around another one: passes on what it does not change; see `Engine` for what each method takes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name, self.parallel = engine.name, engine.parallel

    @property
    def context_tokens(self) -> int | None:
        """Those of the engine."""
        return self.engine.context_tokens

    @property
    def adapters(self) -> tuple[str, ...]:
        """Those of the engine."""
        return self.engine.adapters

    @property
    def knows_tools(self) -> bool:
        """Whether the chat template of the engine has a place for tools."""
        return self.engine.knows_tools

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return self.engine.detokenize(ids)

    def prompt_logprobs(self, ids: Sequence[int], count: int, adapter: str = "") -> Generator[Piece, None, Scored]:
        """The log-probabilities of the tokens of a prompt."""
        return self.engine.prompt_logprobs(ids, count, adapter)

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


def offered_tools(sampling: Sampling) -> tuple[Tool, ...]:
    """Return the tools that the model is told of."""
    return () if sampling.tool_choice == "none" else sampling.tools


def guarded(on_event: OnEvent, take: OnEvent | None = None) -> OnEvent:
    """Return `on_event`, or what hands events on to it, so that an error in it ends this request and no other."""
    take = take or on_event
    failed = False

    def take_or_fail(event: Event) -> None:
        nonlocal failed
        if failed:
            return
        try:
            take(event)
        except Exception as error:  # noqa: BLE001 - raised again by who reads the events
            failed = True
            on_event(error)

    return take_or_fail


def check_adapter(name: str, known: Collection[str]) -> None:
    """Raise `Unsupported` for an adapter that is not among the known ones; "" is none."""
    if name and name not in known:
        raise Unsupported(f"no adapter {name!r}; there are {', '.join(known) or 'none'}")


def room_for_answer(prompt_tokens: int, max_new_tokens: int | None, context_tokens: int | None) -> int:
    """Return how many tokens the answer may have. Raises `PromptTooLong` when there is room for none."""
    if context_tokens is None:
        return max_new_tokens if max_new_tokens is not None else ENDLESS
    if prompt_tokens >= context_tokens:
        raise PromptTooLong(prompt_tokens, context_tokens)
    room = context_tokens - prompt_tokens
    return room if max_new_tokens is None else min(max_new_tokens, room)


ENDLESS = 1 << 20  # tokens, where neither the caller nor the model has a limit


Value = TypeVar("Value")


def drain(stream: Generator[Piece, None, Value]) -> Value:
    """Read a stream to its end; return its value."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            value: Value = end.value
            return value
