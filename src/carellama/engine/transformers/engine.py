"""Answers with a transformers model, all that are under way together, a token each a pass; CPU and GPU alike.

    engine = TransformersEngine(model, tokenizer, get_template(None, tokenizer))     # or `engine.transformers_load`

It may be made of a model in the middle of its training: each call answers with the weights of that moment, and leaves
the model as it was. Not for a model whose weights are sharded over processes (FSDP, ZeRO-3). How answers are computed
together is `carellama.engine.transformers.batcher`, how a token is chosen `carellama.engine.transformers.request`.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

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
from carellama.engine.detokenizer import DecodeFn, Detokenizer, keeping
from carellama.engine.generate import seeded
from carellama.engine.parts import kept_marks, reads_calls, split_parts
from carellama.engine.prompts import check_sampled_tokens, check_scored_ids, check_token_ids, prepare_ids
from carellama.engine.scoring import mean_pool, prompt_logprobs
from carellama.engine.token_text import token_text
from carellama.engine.tools import resolve_tool_choice, tools_to_system_prompt
from carellama.engine.transformers.batcher import BatchedRequest, Batcher
from carellama.engine.transformers.grammar import Grammar, Matcher
from carellama.engine.transformers.request import OnRequestEvent, Request, RequestEvent
from carellama.errors import UserError
from carellama.records import Message
from carellama.templates.jinja import as_functions, as_rows
from carellama.templates.template import Group, Template, adds_bos, markup_tokens
from carellama.templates.tokenize import GroupEncoder

if TYPE_CHECKING:
    from peft import PeftModel

GENERATION_ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")  # others are for training
DEFAULT_BATCH_SIZE = 8  # answers computed together, unless told
EMBED_BATCH_TOKENS = 2048  # tokens of texts, with padding


@dataclass(frozen=True, slots=True)
class GeneratedIds:
    """The tokens of an answer, with the one that ended it, and what they say; `reached_eos`: it came to its own end."""

    ids: list[int]
    text: str
    reached_eos: bool


def _ignore(event: RequestEvent) -> None:
    """Take an event that nobody waits for."""


class TransformersEngine:
    """An `Engine` of a model, its tokenizer and a template.

    `adapters` names the adapters that a request may choose; `switch` makes one of them answer, "" for the model as it
    was loaded. `context_tokens` lowers the model's own limit.
    """

    name = "transformers"

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        batch_size: int = DEFAULT_BATCH_SIZE,
        *,
        adapters: Sequence[str] = (),
        switch: Callable[[str], None] = lambda adapter: None,
        context_tokens: int | None = None,
    ) -> None:
        # LoRA layers sit inside the base model; peft's own generate would overwrite its generation config.
        if hasattr(model, "get_base_model"):
            self.model = cast("PreTrainedModel", cast("PeftModel", model).get_base_model())
        else:
            self.model = cast("PreTrainedModel", model)
        self.tokenizer = tokenizer
        self.template = template
        self.parallel = batch_size
        self.adapters = tuple(adapters)
        self._context = context_tokens
        self._encoder = GroupEncoder(tokenizer)
        self._marks = markup_tokens(tokenizer)
        self.knows_tools = reads_calls(template.jinja, self._render_own)
        self._bos: list[int] = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
        self._batcher = Batcher(self.model, batch_size, ready=self._ensure_ready, switch=switch)
        self._grammar: Grammar | None = None
        self._making_grammar = threading.Lock()

    @property
    def context_tokens(self) -> int | None:
        """The model's `max_position_embeddings`, or less where that was asked for."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        limits = [int(limit) for limit in (found, self._context) if limit is not None]
        return min(limits, default=None)

    def render(self, messages: Prompt, tools: Sequence[Tool] = ()) -> str:
        """Return the text that an answer starts from, special tokens included."""
        return self._prompt_segments(messages, tools).text

    def tokenize(self, text: str, *, begin: bool = False, marks: bool = False) -> list[int]:
        """Return the tokens of a text, see `Engine.tokenize`."""
        ids: list[int]
        if marks:
            ids = self._encoder.backend.encode(text, add_special_tokens=False).ids
        else:
            ids = self._encoder.encode([[Group(("", text, ""), trained=False)]])[0][0].tolist()
        return self._bos + ids if begin and ids[: len(self._bos)] != self._bos else ids

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special tokens included."""
        known = check_token_ids(ids, self._vocabulary)
        text = self.tokenizer.decode(known, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def prompt_logprobs(self, ids: Sequence[int], count: int, adapter: str = "") -> Generator[Piece, None, Scored]:
        """Return each token of a prompt with its log-probability; see `Engine.prompt_logprobs`."""
        check_adapter(adapter, self.adapters)
        known = check_scored_ids(ids, self._vocabulary, self.context_tokens)
        run = partial(self._batcher.run, adapter=adapter)
        return (yield from prompt_logprobs(self.model, known, count, self._token_text, run))

    def prepare(
        self, prompt: Prompt | str | Sequence[int], tools: Sequence[Tool] = (), *, exact: bool = True
    ) -> PreparedPrompt:
        """Render, tokenise and count a prompt, see `Engine.prepare`."""

        def render(messages: Prompt) -> tuple[str, list[int]]:
            group = self._prompt_segments(messages, tools)
            return group.text, self._encoder.encode([[group]])[0][0].tolist()

        tokenize = partial(self.tokenize, begin=True)
        limit = self.context_tokens
        return prepare_ids(prompt, render, tokenize, vocabulary=self._vocabulary, context_tokens=limit)

    def submit(self, prompt: PreparedPrompt, sampling: Sampling, on_event: OnEvent) -> RequestHandle:
        """Answer a prompt beside those under way, see `Engine.submit`. Beam search tells one piece, at its end."""
        on_event = guarded(on_event)
        if prompt.messages is not None:
            sampling = resolve_tool_choice(sampling)
            jinja, begun = self.template.jinja, self.template.opens_reasoning
            on_event = split_parts(on_event, sampling, jinja=jinja, begun=begun)
        request = self._request(list(prompt.ids or ()), sampling, on_event)
        self._batcher.submit([request])
        return BatchedRequest(self._batcher, request)

    def complete_ids(self, encoded: Sequence[list[int]], sampling: Sampling) -> list[GeneratedIds]:
        """Answer conversations that are given as the ids an answer starts from, for training: ids in, ids out.

        The answers are those of `generate` to the same prompts.
        """
        requests = [self._request(ids, seeded(sampling, index)) for index, ids in enumerate(encoded)]
        found = []
        for request, event in zip(requests, self._results(requests), strict=True):
            assert isinstance(event, Reply)
            found.append(GeneratedIds(list(request.output_ids), event.text, event.finish_reason == "stop"))
        return found

    def logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[list[float]]:
        """The log-probability of each choice as the next token; see `Engine.logprobs`."""
        if not prompts or not choices:
            return [[] for _ in prompts]
        tokens = self._choice_token_ids(prompts[0], choices)
        encoded = self._encode(prompts, direct=bool(self.template.lead))
        requests = [self._request(ids, Sampling(1), choices=tokens) for ids in encoded]
        return [event for event in self._results(requests) if isinstance(event, list)]

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector for each text; see `Engine.embed`. Of the model as it was loaded, without `adapters`."""
        encoded = [self._bos + self.tokenize(text) for text in texts]
        for ids in encoded:
            if not ids:
                raise UserError("a text without a token has no vector: leave empty texts out")
            if self.context_tokens is not None and len(ids) > self.context_tokens:
                raise PromptTooLong(len(ids), self.context_tokens)
        found: dict[int, list[float]] = {}
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        while order:
            together = 1
            while together < len(order) and (together + 1) * len(encoded[order[together]]) <= EMBED_BATCH_TOKENS:
                together += 1
            batch, order = order[:together], order[together:]
            part = [encoded[index] for index in batch]
            vectors = self._batcher.run(partial(mean_pool, self.model, part))
            found |= zip(batch, vectors, strict=True)
        return [found[index] for index in range(len(texts))]

    def close(self) -> None:
        """End what is under way; the engine answers no more."""
        self._batcher.close()

    def _results(self, requests: list[Request]) -> list[RequestEvent]:
        """Answer requests and return what each comes to; an error of one is raised, and ends the others.

        The longest prompts begin, so that like lengths are read together.
        """
        events: queue.SimpleQueue[tuple[int, RequestEvent]] = queue.SimpleQueue()
        found: dict[int, RequestEvent] = {}

        def put(index: int) -> OnRequestEvent:
            return lambda event: events.put((index, event))

        for index, request in enumerate(requests):
            request.on_event = put(index)
        try:
            if requests:
                self._batcher.submit(sorted(requests, key=lambda request: -len(request.prompt_ids)))
            while len(found) < len(requests):
                index, event = events.get()
                if isinstance(event, Exception):
                    raise event
                if not isinstance(event, Piece):
                    found[index] = event
        finally:
            self._batcher.cancel(requests)
        return [found[index] for index in range(len(requests))]

    def _request(
        self, ids: list[int], sampling: Sampling, on_event: OnRequestEvent = _ignore, choices: Sequence[int] = ()
    ) -> Request:
        """Make a request, after checking what it asks for."""
        check_adapter(sampling.adapter, self.adapters)
        if sampling.num_beams > 1:
            _check_beams(sampling)
        check_sampled_tokens(sampling, self._vocabulary)
        if sampling.min_tokens and sampling.constrained:
            raise Unsupported(
                "min_tokens does not go with a schema or grammar, which says where the answer ends", "min_tokens"
            )
        if not ids:
            raise UserError("there is nothing to go on with: the text has no token")
        room = room_for_answer(len(ids), sampling.max_new_tokens, self.context_tokens)
        stops = [*self.template.stops, *sampling.stop]
        ends = () if sampling.ignore_eos else tuple(self.template.stop_ids)
        detokenizer = Detokenizer(self._decode_for(sampling), (*ends, *sampling.stop_token_ids), stops)
        matcher = self._matcher(sampling) if sampling.constrained else None
        return Request(
            ids, room, sampling, detokenizer, on_event, token_text=self._token_text, matcher=matcher, choices=choices
        )

    def _matcher(self, sampling: Sampling) -> Matcher:
        with self._making_grammar:
            if self._grammar is None:
                self._grammar = Grammar(self.tokenizer, self._vocabulary, self.template.stop_ids)
        return self._grammar.matcher(sampling)

    @property
    def _vocabulary(self) -> int:
        return int(self.model.config.get_text_config().vocab_size)

    def _prompt_segments(self, messages: Prompt, tools: Sequence[Tool] = ()) -> Group:
        """What an answer starts from, with tools as the template writes them, or as text where it knows none.

        Also as text where a tool or a call has the mark of a special token in it: a template writes them as markup.
        """
        asks = bool(tools) or any(message.calls or message.role == "tool" for message in messages)
        if not asks:
            return self.template.prompt_group(messages)
        written = json.dumps(
            [as_functions(tools), [row.get("tool_calls") for row in as_rows(messages)]], ensure_ascii=False
        )
        if not self.knows_tools or any(mark in written for mark in self._marks):
            return self.template.prompt_group(tools_to_system_prompt(messages, tools))
        return self.template.prompt_group(messages, tools)

    def _encode(self, prompts: Sequence[Prompt], *, direct: bool = False) -> list[list[int]]:
        """Return the ids that each answer starts from: the very ids of training; `direct`: one without reasoning."""
        if direct:
            groups = [[self.template.prompt_group(messages, direct=True)] for messages in prompts]
        else:
            groups = [[self._prompt_segments(messages)] for messages in prompts]
        return [ids.tolist() for (ids,) in self._encoder.encode(groups)]

    def _choice_token_ids(self, messages: Prompt, choices: Sequence[str]) -> list[int]:
        """The token that an answer which is a choice begins with."""
        if not all(choices):
            raise UserError("a choice is empty; give each a letter or a word")
        try:
            batch = [self.template.groups([*messages, Message("assistant", choice)]) for choice in choices]
        except UserError:  # roles that the template has no answers for
            batch = []
        found = [int(groups[-1][0]) for groups in self._encoder.encode(batch)]
        if len(set(found)) == len(set(choices)):
            return found
        start = self._prompt_segments(messages)  # the template puts something before every answer
        alone = [[start, Group(("", choice, ""), trained=False)] for choice in choices]
        return [int(groups[-1][0]) for groups in self._encoder.encode(alone)]

    def _render_own(self, messages: Prompt, tools: Sequence[Tool]) -> str:
        return self.template.render(messages, add_generation_prompt=messages[-1].role != "assistant", tools=tools)

    def _decode_for(self, sampling: Sampling) -> DecodeFn:
        """What turns the tokens of an answer into text: without special tokens, but for marks of its parts."""
        marks = kept_marks(self.template.jinja, sampling)
        numbers = cast("list[int]", self.tokenizer.convert_tokens_to_ids(list(marks)) if marks else [])
        known = self.tokenizer.added_tokens_decoder
        return keeping(self._decode, {n: mark for n, mark in zip(numbers, marks, strict=True) if n in known})

    def _decode(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _token_text(self, token: int) -> str:
        text = self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        piece = self.tokenizer.convert_ids_to_tokens(token)
        assert isinstance(text, str) and (piece is None or isinstance(piece, str))
        return token_text(piece, text)

    @contextmanager
    def _ensure_ready(self) -> Iterator[None]:
        """Make the model ready to answer, also in the middle of its training; all is as before afterwards.

        Its own generation config is set aside, so that only `Sampling` decides, and attention that is made for
        packed rows gives way to one that knows padding.
        """
        model = self.model
        training, own, attention = model.training, model.generation_config, model.config._attn_implementation
        model.eval()
        model.generation_config = GenerationConfig()
        if attention not in GENERATION_ATTENTION:
            model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
        try:
            yield
        finally:
            model.generation_config = own
            model.train(training)
            if model.config._attn_implementation != attention:
                model.set_attn_implementation(attention)


def _check_beams(sampling: Sampling) -> None:
    """Raise `Unsupported` for what beam search does not know."""
    asked = {
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "min_p": sampling.min_p,
        "logit_bias": sampling.logit_bias,
        "schema or grammar": sampling.constrained,
        "min_tokens": sampling.min_tokens,
        "stop_token_ids": sampling.stop_token_ids,
        "ignore_eos": sampling.ignore_eos,
        "top_logprobs": sampling.top_logprobs is not None,
    }
    if names := [name for name, value in asked.items() if value]:
        raise Unsupported(f"beam search has no {', '.join(names)}: leave num_beams out")
