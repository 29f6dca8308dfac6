"""Answers with llama.cpp, from a .gguf: the engine for a CPU, and for GPUs and Macs without torch.

    engine = LlamaCppEngine(Path("model.gguf"), parallel=4)
    drain(stream(engine, [Message("user", "What is asthma?")], Sampling(64)))

llama.cpp's server runs within this process (`carellama.engine.llamacpp.server`): requests are batched together, each
has a slot with the whole context, and a slot keeps the beginning of a conversation that goes on. Neither torch nor
transformers is loaded.

llama.cpp takes presence and frequency penalties off what the prompt has, too: what it takes too much by frequency is
given back as a bias, and with a presence penalty each token is asked for alone (`carellama.engine.llamacpp.stepwise`).
Where it differs from what `Sampling` says: together with a repetition penalty these two come before it and not after.
Of a character that takes several tokens, only the last one's log-probability is told.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.engine.base import (
    MOST_CONTEXT,
    OnEvent,
    Piece,
    PreparedPrompt,
    Prompt,
    Reply,
    RequestHandle,
    Sampling,
    Scored,
    TokenLogprob,
    Tool,
    Unavailable,
    Unsupported,
    check_adapter,
    guarded,
    room_for_answer,
)
from carellama.engine.chat import VOCABULARY, chat_of
from carellama.engine.generate import follow
from carellama.engine.llamacpp.scores import Scores, likeliest
from carellama.engine.llamacpp.server import Server, ServerOptions, import_xllamacpp
from carellama.engine.llamacpp.stepwise import StepwiseCompletion
from carellama.engine.parts import kept_marks, split_parts
from carellama.engine.prompts import check_sampled_tokens, check_scored_ids, check_token_ids, prepare_ids
from carellama.engine.token_text import told_text
from carellama.engine.tools import resolve_tool_choice
from carellama.engine.transformers.grammar import lark_of
from carellama.engine.worker_pool import Job, Work, WorkerPool, read_pieces
from carellama.errors import UserError
from carellama.files import print_status
from carellama.hardware import free_memory_bytes
from carellama.model.gguf.facts import TOKENS
from carellama.model.gguf.read import Header, read_model_header
from carellama.records import JSONObject
from carellama.templates.jinja import check_syntax
from carellama.templates.tokenize import ANCHORS

if TYPE_CHECKING:
    from carellama.config.data import PromptOptions
    from carellama.config.engine import EngineOptions
    from carellama.config.model import ModelOptions

MIN_CONTEXT = 2048  # tokens; it is not made smaller than this for want of memory
KV_MEMORY_SHARE = 0.5  # of the free memory, that the caches of all slots may take
EMBED_TOKENS = 2048  # of a text that a vector is made of
SENTENCEPIECE = ("llama", "t5")  # llama.cpp's names of vocabularies that put a space before a text
SAMPLERS = ("penalties", "temperature", "top_k", "top_p", "min_p")  # in the order of transformers


def load(
    model: ModelOptions,
    data: PromptOptions,
    arguments: EngineOptions,
) -> LlamaCppEngine:
    """Make the engine of a model; a folder is converted to a .gguf first (`carellama.model.gguf.write`).

    Raises `UserError` for what cannot be loaded or converted, and for options that are not llama.cpp's.
    """
    from carellama.model.gguf.write import gguf_of, lora_gguf_of

    import_xllamacpp()  # before a folder is converted in vain
    path = gguf_of(model, arguments.gguf_type, arguments.gguf_pre)
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
        header = read_model_header(path, VOCABULARY)
        self.context_tokens = context_per_slot(header, context_tokens, parallel)
        self.parallel = parallel
        self.adapters = tuple(adapters or ())
        self.chat = chat_of(header, template)
        check_syntax(self.chat.jinja)
        self._words = len(header.facts.get(TOKENS) or ())
        pieces = header.facts.get("tokenizer.ggml.model") in SENTENCEPIECE
        self._prefixes = pieces and header.facts.get("tokenizer.ggml.add_space_prefix", True)
        self._pool = WorkerPool(parallel, "carellama-llamacpp")
        files = tuple((adapters or {}).values())
        self._options = ServerOptions(path, self.context_tokens, parallel, files, gpu_layers, threads=threads)
        self._server = Server(self._options)
        self._embedder: Server | None = None
        self._lock = threading.Lock()  # of the embedder, which is started when it is first asked
        begin, known = self._server.tokenize("", begin=True)[:1], header.facts.get("tokenizer.ggml.bos_token_id")
        self._plain = self._server.tokenize("a")[0]  # a token of whole characters
        self._begin = begin if begin == [known] or known is None else []  # the token that begins a sequence, if any

    @property
    def knows_tools(self) -> bool:
        """Whether the chat template writes tools itself, and calls that are read; see `Engine.knows_tools`."""
        return self.chat.knows_tools

    def prepare(
        self, prompt: Prompt | str | Sequence[int], tools: Sequence[Tool] = (), *, exact: bool = True
    ) -> PreparedPrompt:
        """Render, tokenise and count a prompt, see `Engine.prepare`."""

        def render(messages: Prompt) -> tuple[str, list[int]]:
            pieces = self.chat.pieces(messages, tools)  # begun as the format begins it, which training did as well
            return "".join(pieces), self._joined(pieces, marks=True)

        tokenize = partial(self.tokenize, begin=True)
        limit = self.context_tokens
        return prepare_ids(prompt, render, tokenize, vocabulary=self._words, context_tokens=limit)

    def submit(self, prompt: PreparedPrompt, sampling: Sampling, on_event: OnEvent) -> RequestHandle:
        """Answer a prompt in a slot of the server, see `Engine.submit`."""
        on_event = guarded(on_event)
        if prompt.messages is not None:
            sampling = resolve_tool_choice(sampling)
            on_event = split_parts(on_event, sampling, jinja=self.chat.jinja, begun=self.chat.opens_reasoning)
        return self._pool.submit(self._work(list(prompt.ids or ()), sampling), on_event)

    def logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """For each prompt the log-probability of each choice; see `Engine.logprobs`.

        llama.cpp tells the likeliest tokens only. Where a choice is not among them, all of the vocabulary is asked for,
        from the cache of the same pass.
        """
        first, scores = [(self.tokenize(choice) or [0])[0] for choice in choices], self._scores("")
        prepared = [self.prepare(messages) for messages in prompts]
        events: queue.SimpleQueue[tuple[int, list[float] | Exception]] = queue.SimpleQueue()

        def submit(index: int, ids: list[int]) -> Job:
            return self._pool.submit(
                lambda job: scores.of_choices(ids, first), lambda event: events.put((index, event))
            )

        jobs = [submit(index, list(prompt.ids or ())) for index, prompt in enumerate(prepared)]
        found: dict[int, list[float]] = {}
        try:
            while len(found) < len(jobs):
                index, event = events.get()
                if isinstance(event, Exception):
                    raise event
                found[index] = event
        finally:
            for job in jobs:
                job.cancel()
        return [found[index] for index in range(len(jobs))]

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of the model without adapters; a server of its own makes them, started at the first call."""
        limit = min(EMBED_TOKENS, self.context_tokens)
        encoded = [self._start(self.tokenize(text)) for text in texts]
        for ids in encoded:
            if not 0 < len(ids) <= limit:
                raise UserError(f"a text of {len(ids):,} tokens has no vector: give 1 to {limit:,} tokens")
        if not encoded:
            return []
        with self._lock:
            if self._embedder is None:
                alone = replace(self._options, context_tokens=limit, parallel=1, adapters=(), embedding=True)
                self._embedder = Server(alone)
            return self._embedder.embed(encoded)

    def tokenize(self, text: str, *, begin: bool = False, marks: bool = False) -> list[int]:
        """Return the tokens of a text, see `Engine.tokenize`."""
        parts = [text] if marks else self.chat.cut_marks(text)
        ids = self._joined(parts, marks=marks)
        return self._start(ids) if begin else ids

    def _joined(self, parts: Sequence[str], *, marks: bool) -> list[int]:
        """Return the tokens of a text in parts, all but the first without SentencePiece's space in front."""
        ids = self._server.tokenize(parts[0], marks=marks) if parts else []
        for part in parts[1:]:
            ids += self._continued(part, marks=marks)
        return ids

    def _continued(self, part: str, *, marks: bool) -> list[int]:
        for anchor in ANCHORS if self._prefixes else ():
            before, ids = self._server.tokenize(anchor), self._server.tokenize(anchor + part, marks=marks)
            if ids[: len(before)] == before:
                return ids[len(before) :]
        return self._server.tokenize(part, marks=marks)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self._server.text_of(check_token_ids(ids, self._words))

    def prompt_logprobs(self, ids: Sequence[int], count: int, adapter: str = "") -> Generator[Piece, None, Scored]:
        """Return each token of a prompt with its log-probability; see `Engine.prompt_logprobs`. A request a token."""
        check_adapter(adapter, self.adapters)
        known = check_scored_ids(ids, self._words, self.context_tokens)
        scores = self._scores(adapter)
        events: queue.SimpleQueue[Piece | Scored | Exception] = queue.SimpleQueue()
        job = self._pool.submit(read_pieces(lambda: scores.of_prompt(known, count)), events.put)
        scored: Scored = yield from follow(job, events)
        return scored

    def render(self, messages: Prompt, tools: Sequence[Tool] = ()) -> str:
        """Return the text that an answer starts from, by the chat template."""
        return self.chat.render(messages, tools)

    def close(self) -> None:
        """End the calls under way and give the memory back."""
        self._server.close()
        with self._lock:
            if self._embedder is not None:
                self._embedder.close()

    def _start(self, ids: list[int]) -> list[int]:
        return ids if ids[:1] == self._begin else [*self._begin, *ids]

    def _work(self, ids: list[int], sampling: Sampling) -> Work:
        """What computes the answer to a prompt."""
        if sampling.num_beams > 1:
            raise Unsupported("the llamacpp engine has no beam search: give --num_beams 1, or --engine transformers")
        check_adapter(sampling.adapter, self.adapters)
        room = room_for_answer(len(ids), sampling.max_new_tokens, self.context_tokens)
        if sampling.presence_penalty or sampling.min_tokens or sampling.stop_token_ids:
            return self._stepwise(ids, room, sampling)
        return partial(self._complete, self._request_body(ids, room, sampling), len(ids), sampling)

    def _complete(self, body: JSONObject, prompt_tokens: int, sampling: Sampling, job: Job) -> Reply:
        """Answer a request within the server, which holds this thread until its end."""
        text, finish, tokens = "", None, 0
        logprobs: list[TokenLogprob] = []

        def take(event: JSONObject) -> bool:
            nonlocal text, finish, tokens
            choice = event["choices"][0]
            found = _logprobs((choice["logprobs"] or {}).get("content", ()), sampling.top_logprobs)
            finish = choice["finish_reason"] or finish
            tokens = event.get("usage", {}).get("completion_tokens", tokens)
            text += choice["text"]
            logprobs.extend(found)
            if choice["text"] or found:
                job.emit(Piece(choice["text"], logprobs=found))
            return job.cancelled

        self._server.complete(body, take)
        if finish is None:
            raise Unavailable("the engine was closed while it answered")
        return Reply(text, "stop" if finish == "stop" else "length", prompt_tokens, tokens, logprobs=tuple(logprobs))

    def _stepwise(self, ids: list[int], room: int, sampling: Sampling) -> Work:
        """What asks for an answer token by token."""
        if sampling.constrained:
            raise Unsupported(
                "the llamacpp engine has no presence_penalty, min_tokens or stop_token_ids for an answer by a schema "
                "or grammar, such as of required tools; leave them out, or use --engine transformers",
                next(name for name in ("presence_penalty", "min_tokens", "stop_token_ids") if getattr(sampling, name)),
            )
        logprobs_of, stops = partial(_logprobs, count=sampling.top_logprobs), [*self.chat.stops, *sampling.stop]
        steps = StepwiseCompletion(self._server, self._request_body, logprobs_of, stops)
        body = self._request_body(ids, 0, sampling)

        def work(job: Job) -> object:
            self._server.complete(body, lambda event: job.cancelled)  # the prompt, into a slot
            return read_pieces(lambda: steps.stream(ids, room, sampling))(job)

        return work

    def _scores(self, adapter: str) -> Scores:
        return Scores(self._server, plain=self._plain, words=self._words, fields={"lora": self._lora(adapter)})

    def _request_body(self, ids: list[int], room: int, sampling: Sampling) -> JSONObject:
        """A request for an answer, but for a presence penalty (llama.cpp, tools/server/README.md, POST /completion)."""
        check_sampled_tokens(sampling, self._words)
        biases = dict(sampling.logit_bias)
        if sampling.frequency_penalty:
            for token, count in Counter(ids).items():
                biases[token] = biases.get(token, 0.0) + count * sampling.frequency_penalty
        body: JSONObject = {
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

    def _lora(self, adapter: str) -> list[JSONObject]:
        return [{"id": index, "scale": float(name == adapter)} for index, name in enumerate(self.adapters)]


def context_per_slot(header: Header, asked: int | None, parallel: int) -> int:
    """The context of each slot, in tokens: what is asked for, else the model's, at most 8192 and what memory allows.

    Raises `UserError` for more than the model was trained for.
    """
    own = header.of_architecture("context_length")
    if asked is not None:
        if own is not None and asked > own:
            raise UserError(f"--context_tokens is {asked:,}; this model takes at most {own:,}")
        return asked
    most = min(int(own or MOST_CONTEXT), MOST_CONTEXT)
    free, each = free_memory_bytes(), kv_bytes_per_token(header)
    if free is None or not each:
        return most
    fits = int(free * KV_MEMORY_SHARE) // (each * parallel) // 256 * 256
    if fits >= most:
        return most
    context = min(most, max(fits, MIN_CONTEXT))
    print_status(
        f"a context of {context:,} tokens for each of {parallel} requests, for want of memory; "
        "a smaller --parallel leaves more"
    )
    return context


def kv_bytes_per_token(header: Header) -> int:
    """Bytes of keys and values in 16 bits that a token of context takes; 0: the header does not tell."""
    heads = header.of_architecture("attention.head_count") or 0
    of_values = header.of_architecture("attention.head_count_kv") or heads
    width = (header.of_architecture("embedding_length") or 0) // max(1, heads)
    key = header.of_architecture("attention.key_length") or width
    value = header.of_architecture("attention.value_length") or width
    return int(2 * (header.of_architecture("block_count") or 0) * of_values * (key + value))


def _logprobs(tokens: Iterable[JSONObject], count: int | None) -> tuple[TokenLogprob, ...]:
    """The log-probabilities of tokens, with the `count` likeliest ones at each place; None: they are not asked for."""
    return tuple(
        TokenLogprob(
            told_text(token["token"], token.get("bytes")),
            token["logprob"],
            likeliest(token["top_logprobs"], count or 0),
        )
        for token in (tokens if count is not None else ())
    )
