"""Answers with llama.cpp, from a .gguf: the engine for a CPU, and for GPUs and Macs without torch.

    engine = LlamaCppEngine(Path("model.gguf"), parallel=4)
    drain(engine.stream([Message("user", "What is asthma?")], Sampling(64)))

llama.cpp's server runs within this process (`carellama.engine.llamacpp.server`): requests are batched together, each
has a slot with the whole context, and a slot keeps the beginning of a conversation that goes on. Neither torch nor
transformers is loaded.

llama.cpp takes presence and frequency penalties off what the prompt has, too: what it takes too much by frequency is
given back as a bias, and with a presence penalty each token is asked for alone (`carellama.engine.llamacpp.stepwise`).
Where it differs from what `Sampling` says: together with a repetition penalty these two come before it and not after.
Of a character that takes several tokens, only the last one's log-probability is told.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carellama.disk import say
from carellama.engine.base import (
    HEARTBEAT,
    MOST_CONTEXT,
    OnEvent,
    OnReply,
    Piece,
    PreparedPrompt,
    Prompt,
    PromptTooLong,
    Reply,
    RequestHandle,
    Sampling,
    Scored,
    TokenLogprob,
    Tool,
    Unavailable,
    Unsupported,
    check_adapter,
    check_token_ids,
    guarded,
    prepare_ids,
    room_for_answer,
)
from carellama.engine.chat import TOKENS, VOCABULARY, chat_of
from carellama.engine.llamacpp.fifo_semaphore import Places
from carellama.engine.llamacpp.scores import FORCED, LIKELIEST, Scores
from carellama.engine.llamacpp.server import Completion, Server, Settings, package
from carellama.engine.llamacpp.stepwise import Steps
from carellama.engine.parts import kept_marks, split_parts, told_apart
from carellama.engine.tools import settled
from carellama.engine.transformers.grammar import lark_of
from carellama.engine.worker_pool import WorkerPool, read_pieces
from carellama.errors import UserError
from carellama.hardware import free_memory_bytes
from carellama.model.gguf.read import Header, read_header

if TYPE_CHECKING:
    from carellama.config.data import PromptArguments
    from carellama.config.engine import EngineArguments
    from carellama.config.model import ModelArguments

LEAST_CONTEXT = 2048  # tokens; it is not made smaller than this for want of memory
CACHE_SHARE = 0.5  # of the free memory, that the caches of all slots may take
EMBED_TOKENS = 2048  # of a text that a vector is made of
SAMPLERS = ("penalties", "temperature", "top_k", "top_p", "min_p")  # in the order of transformers


def load(
    model: ModelArguments,
    data: PromptArguments,
    arguments: EngineArguments,
) -> LlamaCppEngine:
    """Make the engine of a model; a folder is converted to a .gguf first (`carellama.model.gguf.write`).

    Raises `UserError` for what cannot be loaded or converted, and for options that are not llama.cpp's.
    """
    from carellama.model.gguf.write import gguf_of, lora_gguf_of

    package()  # before a folder is converted in vain
    path = gguf_of(model, arguments.gguf_type)
    adapters = {name: lora_gguf_of(model, Path(folder)) for name, folder in arguments.adapter_folders.items()}
    return LlamaCppEngine(
        path,
        template=data.template,
        adapters=adapters,
        parallel=arguments.parallel,
        context_tokens=arguments.context_tokens,
        gpu_layers=arguments.gpu_layers,
    )


class LlamaCppEngine:
    """An `Engine` of a .gguf and LoRA adapters in GGUF (name to file)."""

    name = "llamacpp"

    def __init__(
        self,
        path: Path,
        *,
        template: str | None = None,
        adapters: dict[str, Path] | None = None,
        parallel: int = 8,
        context_tokens: int | None = None,
        gpu_layers: int | None = None,
        threads: int | None = None,
    ) -> None:
        header = read_header(path, VOCABULARY)
        self.context_tokens = context_of(header, context_tokens, parallel)
        self.parallel = parallel
        self.adapters = tuple(adapters or ())
        self.chat = chat_of(header, template)
        self._words = len(header.facts.get(TOKENS) or ())
        self._places = Places(parallel)
        self._pool = WorkerPool(parallel, "carellama-llamacpp")
        files = tuple((adapters or {}).values())
        self._settings = Settings(path, self.context_tokens, parallel, files, gpu_layers, threads=threads)
        self._server = Server(self._settings)
        self._embedder: Server | None = None
        self._lock = threading.Lock()  # of the embedder, which is started when it is first asked
        begin, known = self._server.tokenize("", begin=True)[:1], header.facts.get("tokenizer.ggml.bos_token_id")
        self._plain = self._server.tokenize("a")[0]  # a token of whole characters
        self._begin = begin if begin == [known] or known is None else []  # the token that begins a sequence, if any

    @property
    def knows_tools(self) -> bool:
        """Whether the chat template writes tools itself, and calls that are read; see `Engine.knows_tools`."""
        return self.chat.knows_tools

    def prepare(self, prompt: Prompt | str | Sequence[int], tools: Sequence[Tool] = ()) -> PreparedPrompt:
        """Render, tokenise and count a prompt, see `Engine.prepare`."""

        def render(messages: Prompt) -> tuple[str, list[int]]:
            pieces = self.chat.pieces(messages, tools)
            ids = [token for piece in pieces for token in self._server.tokenize(piece, marks=True)]
            return "".join(pieces), self._begun(ids)

        tokenize = partial(self.tokenize, begin=True)
        limit = self.context_tokens
        return prepare_ids(prompt, render, tokenize, vocabulary=self._words, context_tokens=limit)

    def submit(self, prompt: PreparedPrompt, sampling: Sampling, on_event: OnEvent) -> RequestHandle:
        """Answer a prompt in a slot of the server, see `Engine.submit`."""
        on_event = guarded(on_event)
        if prompt.messages is not None:
            sampling = settled(sampling)
            on_event = split_parts(on_event, sampling, jinja=self.chat.jinja, begun=self.chat.opens_reasoning)
        ids = list(prompt.ids or ())
        return self._pool.submit(read_pieces(lambda: self._answer(lambda: ids, sampling)), on_event)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, on_reply: OnReply | None = None
    ) -> list[Reply]:
        """Answer each conversation, as many at once as there are places; see `Engine.generate`."""
        for messages in prompts:
            room_for_answer(len(self._ids(messages, ())), sampling.max_new_tokens, self.context_tokens)
        replies: dict[int, Reply] = {}

        def tell(index: int, reply: Reply) -> None:
            replies[index] = reply
            if on_reply is not None:
                on_reply(index, reply)

        self._at_once([partial(self.stream, messages, sampling) for messages in prompts], tell)
        return [replies[index] for index in range(len(prompts))]

    def stream(self, messages: Prompt, sampling: Sampling) -> Generator[Piece, None, Reply]:
        """Yield the answer as it comes; see `Engine.stream`."""
        sampling = settled(sampling)
        answer = self._answer(lambda: self._ids(messages, sampling.tools), sampling)
        return told_apart(answer, sampling, jinja=self.chat.jinja, begun=self.chat.opens_reasoning)

    def continue_text(self, text: str | Sequence[int], sampling: Sampling) -> Generator[Piece, None, Reply]:
        """Continue a text, see `Engine.continue_text`."""

        def encode() -> list[int]:
            return self.tokenize(text, begin=True) if isinstance(text, str) else check_token_ids(text, self._words)

        return self._answer(encode, sampling)

    def logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """For each prompt the log-probability of each choice; see `Engine.logprobs`.

        llama.cpp tells the likeliest tokens only. Where a choice is not among them, all of the vocabulary is asked for,
        from the cache of the same pass.
        """
        first = [(self.tokenize(choice) or [0])[0] for choice in choices]
        found: dict[int, list[float]] = {}

        def ask(messages: Prompt) -> Generator[Piece, None, list[float]]:
            ids = self._ids(messages, ())
            room_for_answer(len(ids), 1, self.context_tokens)
            for count in (LIKELIEST, self._words):
                known = yield from self._next_token(ids, count)
                if all(token in known for token in first):
                    break
            return [known.get(token, float("-inf")) for token in first]

        self._at_once([partial(ask, messages) for messages in prompts], found.__setitem__)
        return [found[index] for index in range(len(prompts))]

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of the model without adapters; a server of its own makes them, started at the first call."""
        limit = min(EMBED_TOKENS, self.context_tokens)
        encoded = [self._begun(self.tokenize(text)) for text in texts]
        for ids in encoded:
            if not 0 < len(ids) <= limit:
                raise UserError(f"a text of {len(ids):,} tokens has no vector: give 1 to {limit:,} tokens")
        if not encoded:
            return []
        with self._lock:
            if self._embedder is None:
                alone = replace(self._settings, context_tokens=limit, parallel=1, adapters=(), embedding=True)
                self._embedder = Server(alone)
            return self._embedder.embed(encoded)

    def count_tokens(self, messages: Prompt, tools: Sequence[Tool] = ()) -> int:
        """Return the number of tokens that an answer starts from."""
        return len(self._ids(messages, tools))

    def tokenize(self, text: str, *, begin: bool = False, marks: bool = False) -> list[int]:
        """Return the tokens of a text, see `Engine.tokenize`."""
        parts = [text] if marks else self.chat.cut_marks(text)
        ids = [token for part in parts for token in self._server.tokenize(part, marks=marks)]
        return self._begun(ids) if begin else ids

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self._server.text_of(check_token_ids(ids, self._words))

    def prompt_logprobs(self, ids: Sequence[int], count: int, adapter: str = "") -> Generator[Piece, None, Scored]:
        """Return each token of a prompt with its log-probability; see `Engine.prompt_logprobs`. A request a token."""
        check_adapter(adapter, self.adapters)
        known = check_token_ids(ids, self._words)
        if not known:
            raise UserError("the prompt has no token")
        if len(known) > self.context_tokens:
            raise PromptTooLong(len(known), self.context_tokens)
        place = yield from self._turn(Piece())
        try:
            fields = {"lora": self._lora(adapter)}
            scores = Scores(self._server, plain=self._plain, words=self._words, fields=fields)
            return (yield from scores.of_prompt(known, count))
        finally:
            self._places.leave(place)

    def render(self, messages: Prompt, tools: Sequence[Tool] = ()) -> str:
        """Return the text that an answer starts from, by the chat template."""
        return self.chat.render(messages, tools)

    def close(self) -> None:
        """End the calls under way and give the memory back."""
        self._server.close()
        with self._lock:
            if self._embedder is not None:
                self._embedder.close()

    def _ids(self, messages: Prompt, tools: Sequence[Tool]) -> list[int]:
        """The tokens that an answer starts from; of the beginning of a sequence there is one, if the model wants it."""
        pieces = self.chat.pieces(messages, tools)
        return self._begun([token for text in pieces for token in self._server.tokenize(text, marks=True)])

    def _begun(self, ids: list[int]) -> list[int]:
        return ids if ids[:1] == self._begin else [*self._begin, *ids]

    def _answer(self, ids_of: Callable[[], list[int]], sampling: Sampling) -> Generator[Piece, None, Reply]:
        """Yield the answer to a prompt."""
        if sampling.num_beams > 1:
            raise Unsupported("the llamacpp engine has no beam search: give --num_beams 1, or --engine transformers")
        check_adapter(sampling.adapter, self.adapters)
        ids = ids_of()
        room = room_for_answer(len(ids), sampling.max_new_tokens, self.context_tokens)
        if sampling.presence_penalty or sampling.min_tokens or sampling.stop_token_ids:
            return (yield from self._by_steps(ids, room, sampling))
        text, finish, tokens = "", None, 0
        logprobs: list[TokenLogprob] = []
        with closing(self._events(self._body(ids, room, sampling))) as events:
            for event in events:
                if event is None:
                    yield Piece()
                    continue
                choice = event["choices"][0]
                told = _logprobs((choice["logprobs"] or {}).get("content", ()), sampling.top_logprobs)
                finish = choice["finish_reason"] or finish
                tokens = event.get("usage", {}).get("completion_tokens", tokens)
                text += choice["text"]
                logprobs += told
                yield Piece(choice["text"], logprobs=told)
        if finish is None:
            raise Unavailable("the engine was closed while it answered")
        return Reply(text, "stop" if finish == "stop" else "length", len(ids), tokens, logprobs=tuple(logprobs))

    def _by_steps(self, ids: list[int], room: int, sampling: Sampling) -> Generator[Piece, None, Reply]:
        """Yield an answer that is asked for token by token, in one place from its first token to its last."""
        if sampling.constrained:
            raise Unsupported(
                "the llamacpp engine has no presence_penalty, min_tokens or stop_token_ids for an answer by a schema "
                "or grammar, such as of required tools; leave them out, or use --engine transformers",
                next(name for name in ("presence_penalty", "min_tokens", "stop_token_ids") if getattr(sampling, name)),
            )
        told = partial(_logprobs, count=sampling.top_logprobs)
        steps = Steps(self._server, self._body, told, [*self.chat.stops, *sampling.stop])
        place = yield from self._turn(Piece())
        prompt = None
        try:
            prompt = Completion(self._server, self._body(ids, 0, sampling))
            with closing(prompt.events(HEARTBEAT)) as events:
                for _ in events:
                    yield Piece()
            return (yield from steps.answer(ids, room, sampling))
        finally:
            if prompt is not None:
                prompt.end()
            self._places.leave(place)

    def _events(self, body: dict[str, Any]) -> Generator[dict[str, Any] | None, None, None]:
        """What llama.cpp says of a request as it comes, and None at least every `HEARTBEAT` seconds."""
        place = yield from self._turn(None)
        try:
            completion = Completion(self._server, body, on_end=lambda: self._places.leave(place))
        except BaseException:
            self._places.leave(place)
            raise
        with closing(completion.events(HEARTBEAT)) as events:
            yield from events

    def _turn(self, silence: Any) -> Generator[Any, None, threading.Event]:
        """Wait for a place, yielding `silence` every `HEARTBEAT` seconds."""
        place = self._places.ask()
        try:
            while not place.wait(HEARTBEAT):
                yield silence
        except BaseException:  # it did not come to its turn
            self._places.leave(place)
            raise
        return place

    def _body(self, ids: list[int], room: int, sampling: Sampling) -> dict[str, Any]:
        """A request for an answer, but for a presence penalty (llama.cpp, tools/server/README.md, POST /completion)."""
        biases = dict(sampling.logit_bias)
        if strange := [token for token in sampling.stop_token_ids if not 0 <= token < self._words]:
            raise UserError(f"stop_token_ids names token {strange[0]}; this model has tokens 0 to {self._words - 1:,}")
        if strange := [token for token in biases if not 0 <= token < self._words]:
            raise UserError(f"logit_bias names token {strange[0]}; this model has tokens 0 to {self._words - 1:,}")
        if sampling.frequency_penalty:
            for token, count in Counter(ids).items():
                biases[token] = biases.get(token, 0.0) + count * sampling.frequency_penalty
        body: dict[str, Any] = {
            "prompt": ids,
            "stream": True,
            "return_progress": True,
            # the same draw needs the same sums, and those depend on how much of a prompt is computed at once
            "cache_prompt": sampling.seed is None,
            "n_predict": room,
            "samplers": SAMPLERS,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "repeat_last_n": self.context_tokens,
            "seed": -1 if sampling.seed is None else sampling.seed % 0xFFFFFFFF,  # the last one asks for chance
            "stop": [*self.chat.stops, *sampling.stop],
            # a stop string that is a token is said, and found; marks of calls are read
            "preserved_tokens": [*self.chat.stops, *kept_marks(self.chat.jinja, sampling)],
            "logit_bias": list(biases.items()),
            "lora": self._lora(sampling.adapter),
        }
        if sampling.ignore_eos:
            body["ignore_eos"] = True
        if (grammar := lark_of(sampling)) is not None:
            body["grammar"] = grammar
        if sampling.top_logprobs is not None:
            body["n_probs"] = max(1, sampling.top_logprobs)
        return body

    def _lora(self, adapter: str) -> list[dict[str, Any]]:
        return [{"id": index, "scale": float(name == adapter)} for index, name in enumerate(self.adapters)]

    def _next_token(self, ids: list[int], count: int) -> Generator[Piece, None, dict[int, float]]:
        """The log-probabilities of so many likeliest tokens after a prompt.

        Another token is forced: llama.cpp tells nothing where it says part of a character.
        """
        body = {"prompt": ids, "stream": True, "n_predict": 1, "temperature": 0, "n_probs": count, "cache_prompt": True}
        body["logit_bias"] = [[self._plain, FORCED]]
        found: dict[int, float] = {}
        with closing(self._events(body)) as events:
            for event in events:
                told = (event["choices"][0]["logprobs"] or {}) if event else {}
                for token in told.get("content", ()):
                    found |= {one["id"]: one["logprob"] for one in token["top_logprobs"]}
                yield Piece()
        return found

    def _at_once(
        self, starts: Sequence[Callable[[], Generator[Piece, None, Any]]], on_end: Callable[[int, Any], None]
    ) -> None:
        """Read streams to their ends, `parallel` at once; tell index and value of each in this thread.

        The first error ends the others and is raised.
        """
        failed = threading.Event()

        def read(start: Callable[[], Generator[Piece, None, Any]]) -> Any:
            stream = start()
            try:
                while not failed.is_set():
                    next(stream)
            except StopIteration as end:
                return end.value
            finally:
                stream.close()

        with ThreadPoolExecutor(self.parallel, thread_name_prefix="carellama-answer") as pool:
            asked = {pool.submit(read, start): index for index, start in enumerate(starts)}
            try:
                for done in as_completed(asked):
                    on_end(asked[done], done.result())
            except BaseException:
                failed.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def context_of(header: Header, asked: int | None, parallel: int) -> int:
    """The context of each slot, in tokens: what is asked for, else the model's, at most 8192 and what memory allows.

    Raises `UserError` for more than the model was trained for.
    """
    own = header.of_architecture("context_length")
    if asked is not None:
        if own is not None and asked > own:
            raise UserError(f"--context_tokens is {asked:,}; this model takes at most {own:,}")
        return asked
    most = min(int(own or MOST_CONTEXT), MOST_CONTEXT)
    free, each = free_memory_bytes(), cache_bytes(header)
    if free is None or not each:
        return most
    fits = int(free * CACHE_SHARE) // (each * parallel) // 256 * 256
    if fits >= most:
        return most
    context = min(most, max(fits, LEAST_CONTEXT))
    say(
        f"a context of {context:,} tokens for each of {parallel} requests, for want of memory; "
        "a smaller --parallel leaves more"
    )
    return context


def cache_bytes(header: Header) -> int:
    """Bytes of keys and values in 16 bits that a token of context takes; 0: the header does not tell."""
    heads = header.of_architecture("attention.head_count") or 0
    of_values = header.of_architecture("attention.head_count_kv") or heads
    width = (header.of_architecture("embedding_length") or 0) // max(1, heads)
    key = header.of_architecture("attention.key_length") or width
    value = header.of_architecture("attention.value_length") or width
    return int(2 * (header.of_architecture("block_count") or 0) * of_values * (key + value))


def _logprobs(tokens: Iterable[dict[str, Any]], count: int | None) -> tuple[TokenLogprob, ...]:
    """The log-probabilities of tokens, with the `count` likeliest ones at each place; None: they are not asked for."""
    return tuple(
        TokenLogprob(
            token["token"],
            token["logprob"],
            tuple((one["token"], one["logprob"]) for one in token["top_logprobs"][:count]),
        )
        for token in (tokens if count is not None else ())
    )
