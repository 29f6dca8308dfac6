"""Answers with OpenVINO GenAI on a CPU: requests join a running batch at any step, over one paged cache.

    engine = load(ModelOptions("smollm2-135m"), PromptOptions(), EngineOptions("openvino"))

It takes a .gguf, the folder of a model that OpenVINO's tools converted, or any other model by way of a .gguf. The
library runs in a process of its own (`worker.py` says why); prompts are rendered and tokenised here, as
in training. It cannot: bias tokens, answer with several adapters, tell the likeliest tokens beside the one said, make
vectors, and take presence and frequency penalties as OpenAI defines them. All of these are refused. A seed is
best effort: the sums for a prompt differ a little once its beginning is in the cache.
"""

from __future__ import annotations

import importlib.util
import json
import math
import secrets
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.engine.base import (
    MOST_CONTEXT,
    OnEvent,
    Piece,
    PreparedPrompt,
    Prompt,
    RequestHandle,
    Sampling,
    Scored,
    Tool,
    Unsupported,
    guarded,
    room_for_answer,
)
from carellama.engine.detokenizer import Detokenizer
from carellama.engine.generate import generate
from carellama.engine.openvino.grammar import choice_grammar, to_ebnf
from carellama.engine.openvino.worker_client import Request, WorkerClient
from carellama.engine.parts import kept_marks, split_parts
from carellama.engine.prompts import check_token_ids, prepare_ids
from carellama.engine.tokenizer import ARRAYS, Tokenizer, of_folder, of_gguf
from carellama.engine.tools import resolve_tool_choice
from carellama.errors import UserError, need
from carellama.files import print_status
from carellama.model.gguf.read import read_model_header
from carellama.records import JSONObject
from carellama.templates.jinja import check_syntax

if TYPE_CHECKING:
    from carellama.config.data import PromptOptions
    from carellama.config.engine import EngineOptions
    from carellama.config.model import ModelOptions

OPENVINO_MODEL_FILE = "openvino_model.xml"  # what OpenVINO's tools name a converted language model
BLOCK_TOKENS = 32  # of the paged cache on a CPU
# Q4_1, Q4_K_S and Q4_K_M, by general.file_type (ggml-org/llama.cpp, enum llama_ftype): a weight is scale * q + minimum
# there, and the library stores the minimum as a whole number of scales.
PRECISION_LOSS_TYPES = {3, 14, 15}


class OpenVINOEngine:
    """An `Engine` over a process of OpenVINO GenAI."""

    name = "openvino"
    adapters: tuple[str, ...] = ()

    def __init__(self, worker: WorkerClient, tokenizer: Tokenizer, *, context_tokens: int, parallel: int) -> None:
        self.worker = worker
        self.tokenizer = tokenizer
        self.context_tokens = context_tokens
        self.parallel = parallel

    @property
    def knows_tools(self) -> bool:
        """Whether the chat template writes tools itself, and calls that are read; see `Engine.knows_tools`."""
        return self.tokenizer.chat.knows_tools

    def prepare(
        self, prompt: Prompt | str | Sequence[int], tools: Sequence[Tool] = (), *, exact: bool = True
    ) -> PreparedPrompt:
        """Render, tokenise and count a prompt, see `Engine.prepare`."""

        def render(messages: Prompt) -> tuple[str, list[int]]:
            pieces = self.tokenizer.chat.pieces(messages, tools)
            return "".join(pieces), self.tokenizer.encode_pieces(pieces)

        tokenize = partial(self.tokenize, begin=True)
        words, limit = self.tokenizer.backend.get_vocab_size(), self.context_tokens
        return prepare_ids(prompt, render, tokenize, vocabulary=words, context_tokens=limit)

    def submit(self, prompt: PreparedPrompt, sampling: Sampling, on_event: OnEvent) -> RequestHandle:
        """Answer a prompt in the process, see `Engine.submit`."""
        on_event = guarded(on_event)
        if prompt.messages is not None:
            sampling, chat = resolve_tool_choice(sampling), self.tokenizer.chat
            on_event = split_parts(on_event, sampling, jinja=chat.jinja, begun=chat.opens_reasoning)
        return self.worker.submit(self._request(list(prompt.ids or ()), sampling, on_event))

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
        prepared = [self.prepare(messages) for messages in prompts]
        columns = []
        for text in texts:
            forced = Sampling(1, temperature=0, top_logprobs=0, choice=(text,))
            columns.append([reply.logprobs[0].logprob for reply in generate(self, prepared, forced)])
        return [[column[row] for column in columns] for row in range(len(prepared))]

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """The pipeline gives no states: always `Unsupported`."""
        raise Unsupported("the openvino engine makes no vectors; take llamacpp, or an endpoint of embeddings")

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
        self.worker.close()

    def _request(self, ids: list[int], sampling: Sampling, on_event: OnEvent) -> Request:
        check_supported(sampling)
        room = room_for_answer(len(ids), sampling.max_new_tokens, self.context_tokens)
        decode = self.tokenizer.decode_keeping(kept_marks(self.tokenizer.chat.jinja, sampling))
        detokenizer = Detokenizer(decode, self.tokenizer.stop_ids, [*self.tokenizer.stops, *sampling.stop])
        config = generation_config(sampling, room, self.tokenizer.stop_ids)
        return Request(ids, detokenizer, sampling, config, on_event, self.tokenizer.backend.id_to_token)


def check_supported(sampling: Sampling) -> None:
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


def generation_config(sampling: Sampling, room: int, stop_ids: Sequence[int]) -> JSONObject:
    """The fields of OpenVINO's `GenerationConfig`."""
    config: JSONObject = {
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
        config["grammar"] = to_ebnf(sampling.json_schema)
    elif sampling.choice:
        config["grammar"] = choice_grammar(sampling.choice)
    return config


def load(
    model: ModelOptions,
    data: PromptOptions,
    arguments: EngineOptions,
) -> OpenVINOEngine:
    """Load a model into a process of OpenVINO GenAI. Raises `UserError` for what cannot be loaded."""
    if importlib.util.find_spec("openvino_genai") is None:
        need("openvino_genai", extra="openvino", why="--engine openvino")  # raises
    if arguments.adapter_folders:
        raise UserError("--engine openvino answers with one adapter only: give it as --checkpoint_dir, which is merged")
    path = _model_path(model, arguments)
    if path.is_dir():
        tokenizer, limit = of_folder(path, data.template), _context_of(path)
    else:
        header = read_model_header(path, ARRAYS)
        if header.scales_positions:
            raise UserError(
                f"{path.name} scales its positions (rope scaling, as Llama 3.1), which OpenVINO ignores in a .gguf: "
                "its answers would be wrong; use --engine llamacpp or transformers, or convert the model with "
                "optimum-intel and give that folder"
            )
        if header.facts.get("general.file_type") in PRECISION_LOSS_TYPES:
            print_status(
                f"{path.name} has 4-bit blocks with a minimum, which OpenVINO rounds: its answers are worse than the "
                "file's own; take --engine llamacpp, or the model's folder with --gguf_type q8_0"
            )
        tokenizer, limit = of_gguf(path, header, data.template), header.of_architecture("context_length")
    check_syntax(tokenizer.chat.jinja)
    context_tokens = min(arguments.context_tokens or MOST_CONTEXT, int(limit or MOST_CONTEXT))
    worker = WorkerClient(
        {
            "model": str(path),
            "blocks": arguments.parallel * math.ceil(context_tokens / BLOCK_TOKENS),
            "parallel": arguments.parallel,
        }
    )
    return OpenVINOEngine(worker, tokenizer, context_tokens=context_tokens, parallel=arguments.parallel)


def _model_path(model: ModelOptions, arguments: EngineOptions) -> Path:
    """Where the model lies: a .gguf, made if need be, or a folder of OpenVINO's own format."""
    folder = Path(model.model_name_or_path).expanduser()
    if (folder / OPENVINO_MODEL_FILE).is_file():
        if model.checkpoints:
            raise UserError(f"{folder} is converted already: merge --checkpoint_dir into the model it was made from")
        return folder
    from carellama.model.gguf.write import gguf_of

    return gguf_of(model, arguments.gguf_type, arguments.gguf_pre)


def _context_of(folder: Path) -> int:
    """Tokens that the model in a folder takes, 0 if it does not say."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return int(config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings", 0))
