"""Answers through OpenAI-compatible servers: vLLM, SGLang, llama.cpp, Ollama, a cloud; one of them or several alike.

    engine = OpenAIEngine("http://localhost:8000/v1", "my-model", key=endpoint_key())

Answers are streamed also where they are wanted whole, so that a timeout is one between two tokens. The key is sent in
a header and stands in no message. What OpenAI's protocol has no word for is sent to servers that are known to take it
(`carellama.engine.openai.request_body`) and refused to others. Which servers are asked, and what is tried again:
`carellama.engine.openai.upstreams`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from carellama.config.environment import endpoint_key
from carellama.engine.base import (
    OnEvent,
    Piece,
    PreparedPrompt,
    Prompt,
    PromptTooLong,
    Reply,
    RequestHandle,
    Sampling,
    Scored,
    Tool,
    Unsupported,
    check_adapter,
    guarded,
    room_for_answer,
)
from carellama.engine.openai.request_body import (
    MAX_TOP_LOGPROBS,
    chat_body,
    completion_body,
    dialect_of,
    tokenize_chat,
    tokenize_text,
)
from carellama.engine.openai.response import (
    ContextLengthExceeded,
    ResponseAssembler,
    choice_logprobs,
    error_of_response,
    events,
    normalize_vector,
    parse_json_object,
)
from carellama.engine.openai.upstreams import (
    Call,
    RemoteRequest,
    ServerInfo,
    Upstream,
    UpstreamError,
    UpstreamPool,
    result_of,
)
from carellama.engine.parts import split_parts
from carellama.engine.prompts import prompt_parts
from carellama.engine.reasoning import split_reasoning
from carellama.engine.tools import resolve_tool_choice, tools_to_system_prompt
from carellama.errors import UserError
from carellama.files import print_status
from carellama.records import JSONObject
from carellama.retry import RETRY_DELAYS
from carellama.text import estimated_tokens

if TYPE_CHECKING:
    from carellama.config.data import PromptOptions
    from carellama.config.engine import EngineOptions
    from carellama.config.model import ModelOptions

EMBED_BATCH = 32  # in one request for vectors
NO_EMBEDDINGS_STATUSES = (400, 404, 405, 501)

Answer = TypeVar("Answer")
EmitFn = Callable[[Piece], None]


class OpenAIEngine:
    """An `Engine` behind one or more addresses.

    `model`: its name there, None for the first one listed. The adapters are those that the server tells apart by their
    `parent`, or all other names that it lists. `timeout`: seconds without a byte. `delays`: seconds before each further
    try. `calls_as_text`: tools are written into the prompt and calls read from the answer (`carellama.engine.tools`),
    for servers that do neither.
    """

    name = "openai"

    def __init__(
        self,
        endpoint: str | Sequence[str],
        model: str | None,
        *,
        key: str | None = None,
        parallel: int = 4,
        timeout: float = 120.0,
        delays: Sequence[float] = RETRY_DELAYS,
        calls_as_text: bool = False,
    ) -> None:
        endpoints = [endpoint] if isinstance(endpoint, str) else list(endpoint)
        self._upstreams = UpstreamPool(endpoints, key=key, timeout=timeout, delays=delays)
        self.host = self._upstreams.hosts
        self.parallel = parallel
        self._model = model
        self.knows_tools = not calls_as_text  # the server knows whether its template has a place for tools
        self._places = asyncio.Semaphore(parallel)
        self._usage_missing_reported = False
        self._stops: tuple[str, ...] = ()  # strings and further fields of every chat, where the format needs them
        self._fields: JSONObject = {}

    @property
    def model(self) -> str:
        """The model's name at the server."""
        return self._model if self._model is not None else self._name(self._listing())

    @property
    def context_tokens(self) -> int | None:
        """What the server tells; None where it tells nothing."""
        return self._listing().context_tokens

    @property
    def adapters(self) -> tuple[str, ...]:
        """The other names that the server lists; `model:name` is `name`."""
        return tuple(self._adapters(self._listing()))

    def prepare(
        self, prompt: Prompt | str | Sequence[int], tools: Sequence[Tool] = (), *, exact: bool = True
    ) -> PreparedPrompt:
        """Count a prompt by the server's /tokenize where it has one, else estimate; see `Engine.prepare`."""
        messages, text, ids = prompt_parts(prompt)
        if messages is not None:
            text = self.render(messages, tools)
        counted = None if ids is None else len(ids)
        if exact and ids is None:
            counted = self._ask(partial(self._count, text=text, messages=messages, tools=tools))
        if counted is not None and exact:
            room_for_answer(counted, None, self.context_tokens)
        tokens = estimated_tokens(text) if counted is None else counted
        return PreparedPrompt(messages=messages, text=text, ids=ids, tokens=tokens, exact=counted is not None)

    def submit(self, prompt: PreparedPrompt, sampling: Sampling, on_event: OnEvent) -> RequestHandle:
        """Send a prompt and read the answer as it comes, see `Engine.submit`.

        Nothing is asked again after the first piece.
        """
        messages, on_event = prompt.messages, guarded(on_event)
        text = prompt.text if prompt.ids is None else prompt.ids
        if messages is not None and not self.knows_tools:
            sampling = resolve_tool_choice(sampling)
            on_event = split_parts(on_event, sampling)
            messages, sampling = tools_to_system_prompt(messages, sampling.tools), replace(sampling, tools=())
        elif messages is not None:
            on_event = split_reasoning(on_event, sampling)

        async def answer() -> Reply:
            async with self._places:
                return await self._answer(messages, text, sampling, on_event)

        return RemoteRequest(self._upstreams.run(answer()), on_event)

    def logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """Log-probabilities of choices as first tokens, from the 20 likeliest tokens that a server tells.

        A choice that is not among them gets no more than it can have: an equal share of the probability that the 20
        leave over with the other choices that are missing, and not more than the least of the 20. So the order of
        those that are there is right, and choices that all miss are alike.
        """
        sampling = Sampling(1, temperature=0, top_logprobs=MAX_TOP_LOGPROBS)

        async def one(messages: Prompt) -> list[float]:
            async with self._places:
                reply = await self._answer(messages, "", sampling, lambda piece: None)
            if not reply.logprobs or not reply.logprobs[0].top:
                raise Unsupported(f"{self.host} tells no log-probabilities")
            return choice_logprobs(reply.logprobs[0].top, choices)

        return self._gather([one(messages) for messages in prompts])

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors by /v1/embeddings, brought to length 1; what they are made of is the server's matter."""

        async def one(part: Sequence[str]) -> list[list[float]]:
            async with self._places:
                return await self._upstreams.request(partial(self._embed_batch, texts=part))

        parts = [texts[at : at + EMBED_BATCH] for at in range(0, len(texts), EMBED_BATCH)]
        return [vector for found in self._gather([one(part) for part in parts]) for vector in found]

    def tokenize(self, text: str, *, begin: bool = False, marks: bool = False) -> list[int]:
        """Return the tokens of a text by the server's /tokenize. Raises `Unsupported` if it has none."""

        async def ask(upstream: Upstream, info: ServerInfo) -> list[int]:
            kind = dialect_of(info.dialect)
            if kind.tokenizer:
                body = tokenize_text(self._name(info), text, kind, begin=begin, marks=marks)
                _, found = await self._upstreams.json(upstream, "POST", "/tokenize", body)
                if isinstance(found, dict) and isinstance(found.get("tokens"), list):
                    return [int(token) for token in found["tokens"]]
            raise Unsupported(f"{upstream.host} has no /tokenize that is known here")

        return self._ask(ask)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Raises `Unsupported`: the protocol has no word for it."""
        raise Unsupported("the openai engine does not turn tokens into text (echo): send the prompt as text")

    def prompt_logprobs(self, ids: Sequence[int], count: int, adapter: str = "") -> Generator[Piece, None, Scored]:
        """Raises `Unsupported`: servers differ in it; ask the server itself."""
        raise Unsupported(
            "the openai engine does not compute the log-probabilities of a prompt (echo with logprobs): "
            "start the server with --engine transformers or llamacpp"
        )

    def render(self, messages: Prompt, tools: Sequence[Tool] = ()) -> str:
        """Return the messages as lines of `role: content`; the server's chat format is not known here."""
        return "".join(f"{message.role}: {message.content}\n" for message in tools_to_system_prompt(messages, tools))

    def close(self) -> None:
        """Give up what is under way, and close the connections."""
        self._upstreams.close()

    # What follows runs in the caller's thread.

    def _listing(self) -> ServerInfo:
        return self._ask(_read_info)

    def _ask(self, call: Call[Answer]) -> Answer:
        return self._gather([self._upstreams.request(call)])[0]

    def _gather(self, works: Sequence[Coroutine[object, object, Answer]]) -> list[Answer]:
        """Run coroutines in the loop and return what they do, or raise what the first of them raises."""
        futures = [self._upstreams.run(work) for work in works]
        try:
            return [result_of(future) for future in futures]
        finally:
            for future in futures:
                future.cancel()

    # What follows runs in the loop.

    async def _answer(
        self, messages: Prompt | None, text: str | Sequence[int], sampling: Sampling, emit: EmitFn
    ) -> Reply:
        """The answer to a conversation, or the continuation of a text where `messages` is None."""
        begun = False
        path = "completions" if messages is None else "chat/completions"

        def take(piece: Piece) -> None:
            nonlocal begun
            begun = True
            emit(piece)

        async def ask(upstream: Upstream, info: ServerInfo) -> Reply:
            dialect, model = dialect_of(info.dialect), self._model_name_for(info, sampling.adapter)
            if messages is None:
                sent = completion_body(model, text, sampling, dialect)
            else:
                own = replace(sampling, stop=(*sampling.stop, *self._stops))
                sent = chat_body(model, messages, own, dialect) | self._fields
            sent |= {"stream": True, "stream_options": {"include_usage": True}}
            try:
                return await self._read(upstream, path, sent, sampling, take)
            except ContextLengthExceeded as error:  # `max_new_tokens` is a limit, not what the answer must have
                room = error.context_tokens - (error.prompt_tokens or error.context_tokens)
                if not 0 < room < sent.get("max_tokens", 0):
                    raise
                return await self._read(upstream, path, sent | {"max_tokens": room}, sampling, take)

        try:
            return await self._upstreams.request(ask, begun=lambda: begun)
        except ContextLengthExceeded as error:
            prompt, limit = error.prompt_tokens, error.context_tokens
            if not prompt and messages is not None:
                count = partial(self._count, text="", messages=messages, tools=sampling.tools)
                prompt = await self._upstreams.request(count)
            if prompt:
                raise PromptTooLong(prompt, limit) from error
            raise UserError(f"the prompt is longer than the {limit:,} tokens that the model takes in all") from error

    async def _read(self, upstream: Upstream, path: str, body: JSONObject, sampling: Sampling, take: EmitFn) -> Reply:
        reader = ResponseAssembler(upstream.host, sampling)
        async with self._upstreams.open(upstream, "POST", path, body) as response:
            if response.status_code != 200:
                raise await error_of_response(upstream.host, path, body["model"], response)
            async for event in events(response, upstream.host):
                for piece in reader.add_event(event):
                    take(piece)
        if reader.finish is None:
            raise UpstreamError(f"{upstream.host}: the answer broke off before its end")
        for piece in reader.end():
            take(piece)
        if not reader.usage and not self._usage_missing_reported:
            self._usage_missing_reported = True
            print_status(f"{upstream.host} tells no usage: its tokens are counted as 0")
        return reader.reply()

    async def _embed_batch(self, upstream: Upstream, info: ServerInfo, texts: Sequence[str]) -> list[list[float]]:
        model = self._name(info)
        body = {"model": model, "input": list(texts)}
        async with self._upstreams.open(upstream, "POST", "embeddings", body) as response:
            if response.status_code in NO_EMBEDDINGS_STATUSES:
                raise Unsupported(f"{upstream.host} makes no vectors with {model!r} ({response.status_code})")
            if response.status_code != 200:
                raise await error_of_response(upstream.host, "embeddings", model, response)
            found = parse_json_object((await response.aread()).decode("utf-8", "replace"), upstream.host)
        rows = found.get("data") or ()
        if len(rows) != len(texts):
            raise UserError(f"{upstream.host} returned {len(rows)} vectors for {len(texts)} texts")
        return [normalize_vector(row["embedding"]) for row in sorted(rows, key=lambda row: row["index"])]

    async def _count(
        self, upstream: Upstream, info: ServerInfo, text: str, messages: Prompt | None, tools: Sequence[Tool]
    ) -> int | None:
        """Tokens of a conversation, or of a text, by the server; None where it does not count them."""
        dialect, name = dialect_of(info.dialect), self._name(info)
        if not dialect.tokenizer:
            return None
        if messages is None:
            body = tokenize_text(name, text, dialect, begin=True, marks=False)
        else:
            if not self.knows_tools:
                messages, tools = tools_to_system_prompt(messages, tools), ()
            body = tokenize_chat(name, messages, tools)
            if dialect.tokenizer == "llamacpp":
                _, rendered = await self._upstreams.json(upstream, "POST", "/apply-template", body)
                prompt = rendered.get("prompt") if isinstance(rendered, dict) else None
                if not isinstance(prompt, str):
                    return None
                body = tokenize_text(name, prompt, dialect, begin=True, marks=True)
        _, found = await self._upstreams.json(upstream, "POST", "/tokenize", body)
        if not isinstance(found, dict):
            return None
        count, tokens = found.get("count"), found.get("tokens")  # a conversation's tokens are not always told
        return count if isinstance(count, int) else len(tokens) if isinstance(tokens, list) else None

    def _name(self, listing: ServerInfo) -> str:
        if self._model is not None:
            return self._model
        if not listing.names:
            raise UserError(f"{self.host} lists no models: give --endpoint_model NAME")
        return listing.names[0]

    def _adapters(self, listing: ServerInfo) -> dict[str, str]:
        """What an adapter is called here, and at the server."""
        model = self._name(listing)
        names = listing.names if listing.adapters is None else listing.adapters
        return {name.removeprefix(f"{model}:"): name for name in names if name != model}

    def _model_name_for(self, listing: ServerInfo, adapter: str) -> str:
        """The name that a request is sent under."""
        if not adapter:
            return self._name(listing)
        known = self._adapters(listing)
        check_adapter(adapter, known)
        return known[adapter]


def load(
    model: ModelOptions,
    data: PromptOptions,
    arguments: EngineOptions,
) -> OpenAIEngine:
    """The engine of `--endpoint`; its first server that answers is asked for its models at once.

    Model and chat format are the server's: what would change them is refused.
    """
    for flag, given in (
        ("--checkpoint_dir", model.checkpoint_dir), ("--adapters", arguments.adapters), ("--template", data.template),
        ("--context_tokens", arguments.context_tokens),
    ):  # fmt: skip
        if given is not None:
            raise UserError(f"{flag} is the server's own matter: leave it out with --engine openai")
    engine = OpenAIEngine(
        arguments.endpoints,
        arguments.endpoint_model,
        key=endpoint_key(),
        parallel=arguments.parallel,
        timeout=arguments.endpoint_timeout,
        delays=RETRY_DELAYS[:2],  # somebody waits for the answer
    )
    try:
        print_status(f"prompts are sent to {engine.host}, for {engine.model}")
    except BaseException:
        engine.close()
        raise
    return engine


async def _read_info(_: Upstream, info: ServerInfo) -> ServerInfo:
    return info
