"""The options of commands that answer: the engine, and how answers are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from carellama.config.data import PromptOptions
from carellama.config.model import ModelOptions
from carellama.config.options import Options, option, split_commas
from carellama.errors import UserError

LEAST_CONTEXT = 64  # tokens: a chat format alone takes some thirty


@dataclass(frozen=True)
class GenerationOptions(Options):
    """How answers are sampled."""

    do_sample: bool = option("Sample; false: always the likeliest token.", default=True)
    temperature: float = option("0: always the likeliest token.", 0.95, at_least=0, at_most=2)
    top_p: float = option("Sample from the likeliest tokens of this total probability.", 0.7, above=0, at_most=1)
    top_k: int = option("Sample from this many likeliest tokens; 0: from all.", 50, at_least=0)
    num_beams: int = option("Beam search; 1: none.", 1, at_least=1)
    max_new_tokens: int = option("Maximum length of an answer in tokens.", 512, at_least=1)
    repetition_penalty: float = option("Above 1: repeat less.", 1.0, above=0)
    length_penalty: float = option("Beam search: above 0 favours long answers.", 1.0)


@dataclass(frozen=True)
class EngineOptions(Options):
    """What runs the model."""

    engine: Literal["auto", "transformers", "llamacpp", "openvino", "openai", "vllm"] = option(
        "What runs the model; auto: by what is installed, the files given and the hardware.", "auto"
    )
    adapters: str | None = option(
        "Adapters beside each other, chosen by the model's name: cardiology=FOLDER,tcm=FOLDER.", None, commas=True
    )
    parallel: int = option("Requests that are answered at once; more wait.", 8, at_least=1)
    context_tokens: int | None = option(
        "Tokens of prompt and answer together; default: the model's, at most 8192 on a CPU.",
        None,
        at_least=LEAST_CONTEXT,
    )
    gguf_type: Literal["f16", "q8_0", "q6_K", "q5_K_M", "q4_K_M", "iq4_xs", "q4_0"] = option(
        "llamacpp, openvino: number format that a model folder is converted to, from large to small.", "f16"
    )
    gguf_pre: str | None = option(
        "llamacpp, openvino: llama.cpp's pre-tokenizer of a model folder, for a tokenizer that its converter does not "
        "know; refused where ids differ.",
        None,
    )
    gpu_layers: int | None = option("llamacpp: layers on the GPU; default: all that fit.", None, at_least=0)
    endpoint: str | None = option(
        "openai: address(es) of OpenAI-compatible servers, comma separated.", None, commas=True
    )
    endpoint_model: str | None = option("openai: the model's name there; default: the first one that it lists.", None)
    mask_identifiers: bool = option(
        "openai: names, numbers and addresses of persons are masked in what is sent, and put back in the answers "
        "(extra clean).",
        default=False,
    )
    endpoint_timeout: float = option("openai, vllm: seconds without a token.", 120.0, above=0)
    tensor_parallel_size: int = option("vllm: GPUs that share each layer.", 1, at_least=1)
    pipeline_parallel_size: int = option("vllm: groups of layers on GPUs of their own.", 1, at_least=1)
    vllm_args: str | None = option("vllm: further words of `vllm serve`, in one string.", None)

    @property
    def adapter_folders(self) -> dict[str, str]:
        """Name to folder, in the order given."""
        pairs = [part.partition("=") for part in split_commas(self.adapters)]
        return {name.strip(): folder.strip() for name, _, folder in pairs}

    @property
    def endpoints(self) -> list[str]:
        """The addresses of `endpoint`."""
        return split_commas(self.endpoint)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, folder in self.adapter_folders.items():
            if not (name.replace("-", "").replace("_", "").isalnum() and folder):
                raise UserError(f"--adapters: {name!r}={folder!r}; write NAME=FOLDER, NAME of letters, digits, - and _")
        if self.mask_identifiers and not self.endpoints:
            raise UserError(
                "--mask_identifiers is for what is sent to an --endpoint; a model here sees the text as it is"
            )
        if self.engine == "openai" and not self.endpoints:
            raise UserError("--engine openai needs --endpoint, as in http://localhost:8000/v1")


ANSWER_OPTIONS = (ModelOptions, PromptOptions, GenerationOptions, EngineOptions)
