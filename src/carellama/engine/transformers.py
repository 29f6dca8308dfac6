"""Answers with a transformers model, in batches or streamed; CPU and GPU alike.

    engine = load(ModelArguments("smollm2-135m"), DataArguments(), FinetuningArguments())

Batches are padded on the left and hold prompts of similar length. One generation runs at a time: calls from
several threads wait for each other. Not for a model whose weights are sharded over processes (FSDP, ZeRO-3).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from carellama.engine.answer import Answer
from carellama.engine.base import OnReply, Prompt, Reply, Sampling, room_for_answer
from carellama.errors import UserError
from carellama.model.machine import has_gpu
from carellama.template import Template, get_template
from carellama.tokenise import GroupEncoder

if TYPE_CHECKING:
    from carellama.config.answering import EngineArguments
    from carellama.config.data import DataArguments
    from carellama.config.finetuning import FinetuningArguments
    from carellama.config.model import ModelArguments

GENERATES_WITH = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")  # others are for training
BATCH = 8  # prompts answered together, unless told


@dataclass(frozen=True, slots=True)
class Continuation:
    """The tokens of an answer, with the one that ended it, and what they say; `ended`: it came to its own end."""

    ids: list[int]
    text: str
    ended: bool


class TransformersEngine:
    """An `Engine` of a model, its tokenizer and a template."""

    def __init__(self, model: Any, tokenizer: Any, template: Template, batch_size: int = BATCH) -> None:
        # LoRA layers sit inside the base model; peft's own generate would overwrite its generation config.
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.tokenizer = tokenizer
        self.template = template
        self.batch_size = batch_size
        self._encoder = GroupEncoder(tokenizer)
        self._one_at_a_time = threading.Lock()

    @property
    def context_tokens(self) -> int | None:
        """The model's `max_position_embeddings`."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return None if found is None else int(found)

    def render(self, messages: Prompt) -> str:
        """Return the text that an answer starts from, special tokens included."""
        return self.template.render(messages, add_generation_prompt=True)

    def count_tokens(self, messages: Prompt) -> int:
        """Return the number of tokens that an answer starts from."""
        return len(self._encode([messages])[0])

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, on_reply: OnReply | None = None
    ) -> list[Reply]:
        """Answer each conversation, the longest prompts first; see `Engine.generate`."""
        encoded = self._encode(prompts)
        for ids in encoded:
            room_for_answer(len(ids), sampling.max_new_tokens, self.context_tokens)
        replies: dict[int, Reply] = {}
        for batch in self._batches(encoded, sampling.max_new_tokens):
            found = self._answer([encoded[index] for index in batch], sampling)
            for index, reply in zip(batch, found, strict=True):
                replies[index] = reply
                if on_reply is not None:
                    on_reply(index, reply)
        return [replies[index] for index in range(len(prompts))]

    def stream(self, messages: Prompt, sampling: Sampling) -> Generator[str, None, Reply]:
        """Yield the answer as it is computed by a thread; see `Engine.stream`.

        An exception in the thread is raised here. Beam search has no answer before its end: one piece then.
        """
        if sampling.num_beams > 1:
            whole = self.generate([messages], sampling)[0]
            yield whole.text
            return whole
        ids = self._encode([messages])[0]
        room_for_answer(len(ids), sampling.max_new_tokens, self.context_tokens)
        answer = self._new_answer(sampling)
        closed = threading.Event()
        tokens: queue.SimpleQueue[int | Exception | None] = queue.SimpleQueue()

        def compute() -> None:
            try:
                self._run([ids], sampling, _Feed(tokens), closed)
            except Exception as error:  # raised again by the reader
                tokens.put(error)
            tokens.put(None)

        thread = threading.Thread(target=compute, name="carellama-stream", daemon=True)
        thread.start()
        try:
            while not answer.stopped and (token := tokens.get()) is not None:
                if isinstance(token, Exception):
                    raise token
                if piece := answer.add(token):
                    yield piece
            if rest := answer.end():
                yield rest
        finally:
            closed.set()
            thread.join()
        return _reply(answer, len(ids))

    def continue_ids(self, encoded: Sequence[list[int]], sampling: Sampling) -> list[Continuation]:
        """Answer conversations that are given as the ids an answer starts from, for training: ids in, ids out.

        All are drawn from one state of `sampling.seed`, so that equal prompts in two batches get different answers.
        """
        found: dict[int, Continuation] = {}
        with seeded(sampling.seed, self.model.device):
            for batch in self._batches(list(encoded), sampling.max_new_tokens):
                rows = self._run([encoded[index] for index in batch], replace(sampling, seed=None)).tolist()
                for index, row in zip(batch, rows, strict=True):
                    answer = self._read(row, sampling)
                    found[index] = Continuation(row[: answer.tokens], answer.text, answer.stopped)
        return [found[index] for index in range(len(encoded))]

    def _answer(self, encoded: list[list[int]], sampling: Sampling) -> list[Reply]:
        """Answer one batch."""
        rows = self._run(encoded, sampling).tolist()
        replies = []
        for ids, row in zip(encoded, rows, strict=True):
            replies.append(_reply(self._read(row, sampling), len(ids)))
        return replies

    def _read(self, row: list[int], sampling: Sampling) -> Answer:
        """The answer that ids stand for, up to where it stops."""
        answer = self._new_answer(sampling)
        for token in row:
            answer.add(token)
            if answer.stopped:
                break
        answer.end()
        return answer

    def _run(
        self,
        encoded: list[list[int]],
        sampling: Sampling,
        feed: _Feed | None = None,
        closed: threading.Event | None = None,
    ) -> torch.Tensor:
        """Return the new tokens (B, T) of a batch; a row is padded after its end."""
        longest = max(map(len, encoded))
        pad = self.tokenizer.pad_token_id or 0
        padded = [[pad] * (longest - len(ids)) + ids for ids in encoded]
        seen = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in encoded]
        device = self.model.device
        criteria = [_Stops(self._decode, self._stops(sampling), longest)] if self._stops(sampling) else []
        if closed is not None:
            criteria.append(_Closed(closed))
        try:
            with self._one_at_a_time, _answering(self.model), seeded(sampling.seed, device):
                output: torch.Tensor = self.model.generate(  # (B, longest + T)
                    input_ids=torch.tensor(padded, device=device),
                    attention_mask=torch.tensor(seen, device=device),
                    generation_config=self._settings(sampling, longest, pad),
                    stopping_criteria=StoppingCriteriaList(criteria),
                    streamer=feed,
                )
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"out of memory with {len(encoded)} prompts of up to {longest:,} tokens together; "
                "give a smaller --per_device_eval_batch_size or --max_new_tokens"
            ) from error
        return output[:, longest:].cpu()

    def _settings(self, sampling: Sampling, prompt_tokens: int, pad: int) -> GenerationConfig:
        settings: dict[str, Any] = {
            "max_new_tokens": room_for_answer(prompt_tokens, sampling.max_new_tokens, self.context_tokens),
            "num_beams": sampling.num_beams,
            "repetition_penalty": sampling.repetition_penalty,
            "do_sample": sampling.temperature > 0,
            "pad_token_id": pad,
            "eos_token_id": self.template.stop_ids or None,
        }
        if sampling.temperature > 0:
            settings |= {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
            }
        if sampling.num_beams > 1:
            settings["length_penalty"] = sampling.length_penalty
        return GenerationConfig(**settings)

    def _batches(self, encoded: list[list[int]], max_new_tokens: int) -> Iterator[list[int]]:
        """Yield the indices of prompts to answer together; one near the end of the context goes alone."""
        context = self.context_tokens
        batch: list[int] = []
        for index in sorted(range(len(encoded)), key=lambda index: -len(encoded[index])):
            if context is not None and len(encoded[index]) + max_new_tokens > context:
                yield [index]
                continue
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the ids that each answer starts from: the very ids of training."""
        groups = [[self.template.prompt_group(messages)] for messages in prompts]
        return [ids.tolist() for (ids,) in self._encoder.encode(groups)]

    def _decode(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _stops(self, sampling: Sampling) -> list[str]:
        return [*self.template.stops, *sampling.stop]

    def _new_answer(self, sampling: Sampling) -> Answer:
        return Answer(self._decode, self.template.stop_ids, self._stops(sampling))


def load(
    model: ModelArguments,
    data: DataArguments,
    finetuning: FinetuningArguments,
    arguments: EngineArguments | None = None,
    *,
    batch_size: int = BATCH,
) -> TransformersEngine:
    """Load a model with its checkpoints and template. Raises `UserError` for what can not be loaded."""
    from carellama.model.adapter import prepare
    from carellama.model.load import bind, extended_tokenizer, load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    template = get_template(data.template, tokenizer)  # a wrong one shows before the weights are read
    network = load_model(model, dtype=model.dtype, attention=None)
    bind(network, tokenizer, extended=extended_tokenizer(model) is not None)
    prepared = prepare(network, model, finetuning, trainable=False)
    if has_gpu() and not model.quantization_bit:  # bitsandbytes has put a quantised model there already
        prepared = prepared.to("cuda")
    return TransformersEngine(prepared, tokenizer, template, batch_size)


class _Feed(BaseStreamer):
    """Passes each token on to the reader.

    transformers' own text streamer loses the space after a new line with SentencePiece tokenizers, holds
    back words until the next space, and shows stop strings.
    """

    def __init__(self, tokens: queue.SimpleQueue[int | Exception | None]) -> None:
        self.tokens = tokens
        self.prompt = True  # the first call brings the prompt

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt (1, T), then one token (1,) a call."""
        if not self.prompt:
            self.tokens.put(int(value.item()))
        self.prompt = False

    def end(self) -> None:
        """The thread tells the end itself, after an error too."""


class _Closed(StoppingCriteria):
    """Ends the generation when its reader has gone."""

    def __init__(self, closed: threading.Event) -> None:
        self.closed = closed

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return (B,) flags."""
        return torch.full((len(input_ids),), self.closed.is_set(), device=input_ids.device)


class _Stops(StoppingCriteria):
    """Ends a row whose last tokens hold a stop string.

    It looks at the last tokens alone and keeps no state: beam search swaps rows. transformers'
    `StopStringCriteria` first computes a table over the whole vocabulary, which takes seconds.
    """

    def __init__(self, decode: Any, stops: list[str], prompt_tokens: int) -> None:
        self.decode = decode
        self.stops = stops
        self.prompt_tokens = prompt_tokens
        # A token has at least one byte, and a character at most four.
        self.tail = max(len(stop.encode()) for stop in stops) + 4

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return (B,) flags."""
        start = max(self.prompt_tokens, input_ids.shape[1] - self.tail)
        texts = [self.decode(row) for row in input_ids[:, start:].tolist()]
        found = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(found, device=input_ids.device)


@contextmanager
def _answering(model: Any) -> Iterator[None]:
    """Make a model ready to answer, also in the middle of its training; all is as before afterwards.

    Its own generation config is set aside, so that only `Sampling` decides, and attention that is made for
    packed rows gives way to one that knows padding.
    """
    training, own, attention = model.training, model.generation_config, model.config._attn_implementation
    model.eval()
    model.generation_config = GenerationConfig()
    if attention not in GENERATES_WITH:
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    try:
        yield
    finally:
        model.generation_config = own
        model.train(training)
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from `seed`, and leave torch's own random state as it was."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _reply(answer: Answer, prompt_tokens: int) -> Reply:
    return Reply(answer.text, "stop" if answer.stopped else "length", prompt_tokens, answer.tokens)
