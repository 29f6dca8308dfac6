"""Answers with OpenVINO GenAI on a CPU: requests join a running batch at any step, over one paged cache.

    engine = load(ModelArguments("smollm2-135m"), PromptArguments(), EngineArguments("openvino"))

It takes a .gguf, the folder of a model that OpenVINO's tools converted, or any other model by way of a .gguf. The
library runs in a process of its own (`worker.py` says why); prompts are rendered and tokenised here, as
in training. It cannot: bias tokens, answer with several adapters, tell the likeliest tokens beside the one said, make
vectors, and take presence and frequency penalties as OpenAI defines them. All of these are refused. A seed is
best effort: the sums for a prompt differ a little once its beginning is in the cache.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import queue
import secrets
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carellama.disk import say
from carellama.engine.base import (
    HEARTBEAT,
    MOST_CONTEXT,
    FinishReason,
    OnEvent,
    OnReply,
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
    check_token_ids,
    drain,
    guarded,
    prepare_ids,
    room_for_answer,
)
from carellama.engine.detokenizer import Answer
from carellama.engine.openvino.grammar import choice_grammar, grammar_of
from carellama.engine.parts import kept_marks, split_parts, told_apart
from carellama.engine.tokenizer import ARRAYS, Tokenizer, of_folder, of_gguf
from carellama.engine.tools import settled
from carellama.engine.worker_pool import WorkerPool, read_pieces
from carellama.errors import UserError, need
from carellama.model.gguf.read import read_header

if TYPE_CHECKING:
    from carellama.config.data import PromptArguments
    from carellama.config.engine import EngineArguments
    from carellama.config.model import ModelArguments

PROCESS = Path(__file__).with_name("worker.py")
IR = "openvino_model.xml"  # what OpenVINO's tools name a converted language model
BLOCK_TOKENS = 32  # of the paged cache on a CPU
# Q4_1, Q4_K_S and Q4_K_M, by general.file_type (ggml-org/llama.cpp, enum llama_ftype): a weight is scale * q + minimum
# there, and the library stores the minimum as a whole number of scales.
ROUNDED = {3, 14, 15}
PATIENCE = 5.0  # seconds that the process has to end
PROPERTIES: dict[str, Any] = {}  # of the CPU plug-in

Event = tuple[list[int], list[float], str] | UserError  # tokens, their log-probabilities, why it ended; or why not
News = queue.SimpleQueue[tuple["Request", Event]]


class Request:
    """One answer in the making, and where news of it is put."""

    def __init__(self, number: int, prompt_tokens: int, answer: Answer, sampling: Sampling, news: News) -> None:
        self.number = number
        self.prompt_tokens = prompt_tokens
        self.answer = answer
        self.sampling = sampling
        self.news = news
        self.logprobs: list[TokenLogprob] = []
        self.reason: FinishReason | None = None  # None: it goes on

    def take(self, event: Event) -> Piece:
        """Take what the process told; return what it adds to the answer. Raises what went wrong."""
        if isinstance(event, UserError):
            raise event
        tokens, logprobs, reason = event
        text, found = "", []
        for token, logprob in zip(tokens, logprobs, strict=True):
            text += self.answer.add(token)
            if self.answer.stopped:
                break
            if self.sampling.top_logprobs is not None:
                found.append(TokenLogprob(self.answer.decode([token]), min(logprob, 0.0)))
        if self.answer.stopped or reason:
            text += self.answer.end()
            self.reason = "stop" if self.answer.stopped or reason == "stop" else "length"
        self.logprobs += found
        return Piece(text, logprobs=tuple(found))

    @property
    def reply(self) -> Reply:
        """The answer, when it has ended."""
        assert self.reason is not None
        return Reply(
            self.answer.text, self.reason, self.prompt_tokens, self.answer.tokens, logprobs=tuple(self.logprobs)
        )


class Process:
    """The process that computes, and the requests that it has."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._numbers = itertools.count()
        self._requests: dict[int, Request] = {}
        self._lock = threading.Lock()  # of the requests
        self._writing = threading.Lock()
        self._ended: UserError | None = None
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(PROCESS)],  # -P: the modules beside that file have names of libraries
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process
        )
        assert self._child.stdin and self._child.stdout
        self._input, self._output = self._child.stdin, self._child.stdout
        self._send(settings)
        line = json.loads(self._output.readline() or b"{}")
        if "ready" not in line:
            self.close()
            why = line.get("failed") or f"its process ended with code {self._child.returncode}"
            raise UserError(f"OpenVINO cannot load {settings['model']} ({why}); take --engine llamacpp or transformers")
        threading.Thread(target=self._read, name="carellama-openvino", daemon=True).start()

    def begin(self, ids: list[int], answer: Answer, sampling: Sampling, news: News, config: dict[str, Any]) -> Request:
        """Hand over a prompt; what comes of it is put into `news`."""
        request = Request(next(self._numbers), len(ids), answer, sampling, news)
        with self._lock:
            if self._ended:
                raise self._ended
            self._requests[request.number] = request
        self._send({"add": request.number, "ids": ids, "config": config})
        return request

    def drop(self, request: Request) -> None:
        """End a request before its time; nothing, if it has ended."""
        with self._lock:
            known = self._requests.pop(request.number, None)
        if known:
            self._send({"drop": request.number})

    def close(self) -> None:
        """End the process; requests under way end with an error."""
        self._fail(Unavailable("the openvino engine was closed"))
        with suppress(BrokenPipeError):
            self._input.close()
        try:
            self._child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _send(self, line: dict[str, Any]) -> None:
        with self._writing, suppress(BrokenPipeError, ValueError):  # gone or closed: the reader of its output tells
            self._input.write(json.dumps(line).encode() + b"\n")
            self._input.flush()

    def _read(self) -> None:
        """Hand on what the process tells, until it ends."""
        for text in self._output:
            line = json.loads(text)
            for number, *event in line.get("out", ()):
                self._tell(number, (event[0], event[1], event[2]), ended=bool(event[2]))
            if "refused" in line:
                error = Unavailable(f"OpenVINO could not answer: {line['why']}")
                self._tell(line["refused"], error, ended=True)
        self._output.close()
        code = self._child.wait()
        self._fail(Unavailable(f"the process of the openvino engine ended with code {code}; start it anew"))

    def _tell(self, number: int, event: Event, *, ended: bool) -> None:
        with self._lock:
            request = self._requests.pop(number, None) if ended else self._requests.get(number)
        if request is not None:
            request.news.put((request, event))

    def _fail(self, error: UserError) -> None:
        with self._lock:
            self._ended = self._ended or error
            requests = [*self._requests.values()]
            self._requests.clear()
        for request in requests:
            request.news.put((request, error))


class OpenVINOEngine:
    """An `Engine` over a process of OpenVINO GenAI."""

    name = "openvino"
    adapters: tuple[str, ...] = ()

    def __init__(self, process: Process, tokenizer: Tokenizer, *, context_tokens: int, parallel: int) -> None:
        self.process = process
        self.tokenizer = tokenizer
        self.context_tokens = context_tokens
        self.parallel = parallel
        self._pool = WorkerPool(parallel, "carellama-openvino")

    @property
    def knows_tools(self) -> bool:
        """Whether the chat template writes tools itself, and calls that are read; see `Engine.knows_tools`."""
        return self.tokenizer.chat.knows_tools

    def prepare(self, prompt: Prompt | str | Sequence[int], tools: Sequence[Tool] = ()) -> PreparedPrompt:
        """Render, tokenise and count a prompt, see `Engine.prepare`."""

        def render(messages: Prompt) -> tuple[str, list[int]]:
            pieces = self.tokenizer.chat.pieces(messages, tools)
            return "".join(pieces), [token for piece in pieces for token in self.tokenizer.encode(piece)]

        tokenize = partial(self.tokenize, begin=True)
        words, limit = self.tokenizer.backend.get_vocab_size(), self.context_tokens
        return prepare_ids(prompt, render, tokenize, vocabulary=words, context_tokens=limit)

    def submit(self, prompt: PreparedPrompt, sampling: Sampling, on_event: OnEvent) -> RequestHandle:
        """Answer a prompt in the process, see `Engine.submit`."""
        on_event = guarded(on_event)
        if prompt.messages is not None:
            sampling, chat = settled(sampling), self.tokenizer.chat
            on_event = split_parts(on_event, sampling, jinja=chat.jinja, begun=chat.opens_reasoning)
        ids = list(prompt.ids or ())
        return self._pool.submit(read_pieces(lambda: self._answer(ids, sampling)), on_event)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, on_reply: OnReply | None = None
    ) -> list[Reply]:
        """Answer the conversations all at once; see `Engine.generate`."""
        sampling = settled(sampling)
        encoded = [self.tokenizer.encode_chat(messages, sampling.tools) for messages in prompts]
        replies: dict[int, Reply] = {}
        for index, request in self._ended(encoded, sampling):
            replies[index] = drain(self._told_apart(_whole(request), sampling))
            if on_reply is not None:
                on_reply(index, replies[index])
        return [replies[index] for index in range(len(prompts))]

    def stream(self, messages: Prompt, sampling: Sampling) -> Generator[Piece, None, Reply]:
        """Yield the answer as the process computes it; see `Engine.stream`."""
        sampling = settled(sampling)
        return self._told_apart(self._answer(self.tokenizer.encode_chat(messages, sampling.tools), sampling), sampling)

    def continue_text(self, text: str | Sequence[int], sampling: Sampling) -> Generator[Piece, None, Reply]:
        """Continue a text, see `Engine.continue_text`."""
        if isinstance(text, str):
            return self._answer(self.tokenize(text, begin=True), sampling)
        return self._answer(check_token_ids(text, self.tokenizer.backend.get_vocab_size()), sampling)

    def _told_apart(self, stream: Generator[Piece, None, Reply], sampling: Sampling) -> Generator[Piece, None, Reply]:
        """A stream with its reasoning and its calls apart from the answer."""
        chat = self.tokenizer.chat
        return told_apart(stream, sampling, jinja=chat.jinja, begun=chat.opens_reasoning)

    def logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """See `Engine.logprobs`. A request a choice, which has to say it: prompts are read once, by way of the cache.

        Raises `Unsupported` for a choice that begins with a token that this cannot force.
        """
        firsts = [self.tokenize(choice)[:1] for choice in choices]
        texts = [self.tokenizer.decode(ids) for ids in firsts]
        for choice, text in zip(choices, texts, strict=True):
            if len(text) != 1 or not text.isascii():
                raise Unsupported(
                    f"openvino judges choices that begin with a token of one ASCII letter, not {choice!r}"
                )
        encoded = [self.tokenizer.encode_chat(messages) for messages in prompts]
        found = [[0.0] * len(choices) for _ in prompts]
        for column, text in enumerate(texts):
            sampling = Sampling(1, temperature=0, top_logprobs=0)
            for row, request in self._ended(encoded, sampling, grammar=f"root ::= {json.dumps(text)}"):
                found[row][column] = request.logprobs[0].logprob
        return found

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """The pipeline gives no states: always `Unsupported`."""
        raise Unsupported("the openvino engine makes no vectors; take llamacpp, or an endpoint of embeddings")

    def count_tokens(self, messages: Prompt, tools: Sequence[Tool] = ()) -> int:
        """Return the number of tokens that an answer starts from."""
        return len(self.tokenizer.encode_chat(messages, tools))

    def tokenize(self, text: str, *, begin: bool = False, marks: bool = False) -> list[int]:
        """Return the tokens of a text, see `Engine.tokenize`."""
        return self.tokenizer.encode(text, begin=begin) if marks else self.tokenizer.encode_text(text, begin=begin)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        backend = self.tokenizer.backend
        text: str = backend.decode(check_token_ids(ids, backend.get_vocab_size()), skip_special_tokens=False)
        return text

    def prompt_logprobs(self, ids: Sequence[int], count: int, adapter: str = "") -> Generator[Piece, None, Scored]:
        """Raises `Unsupported`: its pipelines tell those of the answer only."""
        raise Unsupported(
            "the openvino engine does not compute the log-probabilities of a prompt (echo with logprobs): "
            "start the server with --engine transformers or llamacpp"
        )

    def render(self, messages: Prompt, tools: Sequence[Tool] = ()) -> str:
        """Return the text that an answer starts from, special tokens included."""
        return self.tokenizer.chat.render(messages, tools)

    def close(self) -> None:
        """End the process."""
        self.process.close()

    def _answer(self, ids: list[int], sampling: Sampling) -> Generator[Piece, None, Reply]:
        news: News = queue.SimpleQueue()
        request = self._begin(ids, sampling, news)
        try:
            while not request.reason:
                try:
                    event = news.get(timeout=HEARTBEAT)[1]
                except queue.Empty:
                    yield Piece()
                else:
                    yield request.take(event)
        finally:
            self.process.drop(request)
        return request.reply

    def _ended(
        self, encoded: Sequence[list[int]], sampling: Sampling, grammar: str | None = None
    ) -> Iterator[tuple[int, Request]]:
        """Yield the requests of prompts in the order in which they end, with the index of the prompt."""
        for ids in encoded:
            room_for_answer(len(ids), sampling.max_new_tokens, self.context_tokens)
        news: News = queue.SimpleQueue()
        requests = [self._begin(ids, sampling, news, grammar) for ids in encoded]
        indices = {request.number: index for index, request in enumerate(requests)}
        try:
            while indices:
                request, event = news.get()
                if request.number not in indices:
                    continue  # it was stopped by a string, and had gone on until this was known
                request.take(event)
                if request.reason:
                    self.process.drop(request)
                    yield indices.pop(request.number), request
        finally:
            for request in requests:
                self.process.drop(request)

    def _begin(self, ids: list[int], sampling: Sampling, news: News, grammar: str | None = None) -> Request:
        refuse(sampling)
        room = room_for_answer(len(ids), sampling.max_new_tokens, self.context_tokens)
        decode = self.tokenizer.decode_keeping(kept_marks(self.tokenizer.chat.jinja, sampling))
        answer = Answer(decode, self.tokenizer.stop_ids, [*self.tokenizer.stops, *sampling.stop])
        return self.process.begin(
            ids, answer, sampling, news, config_of(sampling, room, self.tokenizer.stop_ids, grammar)
        )


def refuse(sampling: Sampling) -> None:
    """Raise `Unsupported` for what the pipeline cannot do, or does otherwise than `Sampling` says."""
    ends = next((name for name in ("min_tokens", "ignore_eos", "stop_token_ids") if getattr(sampling, name)), None)
    for field, what, asked in (
        ("logit_bias", "has no logit_bias", sampling.logit_bias),
        (
            sampling.constraint,
            "takes a JSON schema or a choice, no regex and no grammar",
            sampling.regex or sampling.grammar,
        ),
        (ends, f"has no {ends}", ends),
        ("model", "takes no adapters beside each other", sampling.adapter),
        ("top_logprobs", "knows the log-probability of the token said only: top_logprobs 0", sampling.top_logprobs),
        # It takes them off scores above 0 and adds them to those below: not OpenAI's definition.
        (
            "presence_penalty" if sampling.presence_penalty else "frequency_penalty",
            "has no presence and frequency penalty",
            sampling.presence_penalty or sampling.frequency_penalty,
        ),
        (
            "num_beams",
            "searches beams without log-probabilities",
            sampling.num_beams > 1 and sampling.top_logprobs is not None,
        ),
    ):
        if asked:
            raise Unsupported(
                f"the openvino engine {what}; leave it out, or take --engine llamacpp or transformers", field
            )


def config_of(sampling: Sampling, room: int, stop_ids: Sequence[int], grammar: str | None) -> dict[str, Any]:
    """The fields of OpenVINO's `GenerationConfig`."""
    config: dict[str, Any] = {
        "max_new_tokens": room,
        "repetition_penalty": sampling.repetition_penalty,
        "stop_token_ids": list(stop_ids),
        "logprobs": int(sampling.top_logprobs is not None),
        "apply_chat_template": False,
    }
    if sampling.num_beams > 1:
        config |= {"num_beams": sampling.num_beams, "length_penalty": sampling.length_penalty}
    elif sampling.temperature > 0:
        config |= {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "rng_seed": secrets.randbits(31) if sampling.seed is None else sampling.seed,
        }
        if sampling.top_k:
            config["top_k"] = sampling.top_k
    if sampling.json_schema is not None:
        grammar = grammar_of(sampling.json_schema)
    elif sampling.choice:
        grammar = choice_grammar(sampling.choice)
    if grammar is not None:
        config["grammar"] = grammar
    return config


def _whole(request: Request) -> Generator[Piece, None, Reply]:
    """The answer of a request that has ended, as a stream of one piece."""
    yield Piece(request.reply.text, logprobs=request.reply.logprobs)
    return request.reply


def load(
    model: ModelArguments,
    data: PromptArguments,
    arguments: EngineArguments,
) -> OpenVINOEngine:
    """Load a model into a process of OpenVINO GenAI. Raises `UserError` for what cannot be loaded."""
    if importlib.util.find_spec("openvino_genai") is None:
        need("openvino_genai", extra="openvino", why="--engine openvino")  # raises
    if arguments.adapter_folders:
        raise UserError("--engine openvino answers with one adapter only: give it as --checkpoint_dir, which is merged")
    place = _place(model, arguments)
    if place.is_dir():
        tokenizer, limit = of_folder(place, data.template), _context_of(place)
    else:
        header = read_header(place, ARRAYS)
        if header.scales_positions:
            raise UserError(
                f"{place.name} scales its positions (rope scaling, as Llama 3.1), which OpenVINO ignores in a .gguf: "
                "its answers would be wrong; use --engine llamacpp or transformers, or convert the model with "
                "optimum-intel and give that folder"
            )
        if header.facts.get("general.file_type") in ROUNDED:
            say(
                f"{place.name} has 4-bit blocks with a minimum, which OpenVINO rounds: its answers are worse than the "
                "file's own; take --engine llamacpp, or the model's folder with --gguf_type q8_0"
            )
        tokenizer, limit = of_gguf(place, header, data.template), header.of_architecture("context_length")
    context_tokens = min(arguments.context_tokens or MOST_CONTEXT, int(limit or MOST_CONTEXT))
    process = Process(
        {
            "model": str(place),
            "blocks": arguments.parallel * math.ceil(context_tokens / BLOCK_TOKENS),
            "parallel": arguments.parallel,
            "properties": PROPERTIES,
        }
    )
    return OpenVINOEngine(process, tokenizer, context_tokens=context_tokens, parallel=arguments.parallel)


def _place(model: ModelArguments, arguments: EngineArguments) -> Path:
    """Where the model lies: a .gguf, made if need be, or a folder of OpenVINO's own format."""
    folder = Path(model.model_name_or_path).expanduser()
    if (folder / IR).is_file():
        if model.checkpoints:
            raise UserError(f"{folder} is converted already: merge --checkpoint_dir into the model it was made from")
        return folder
    from carellama.model.gguf.write import gguf_of

    return gguf_of(model, arguments.gguf_type)


def _context_of(folder: Path) -> int:
    """Tokens that the model in a folder takes, 0 if it does not say."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return int(config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings", 0))
