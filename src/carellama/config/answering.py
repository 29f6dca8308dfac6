"""The options of verbs that answer: a model, its template, the engine that runs it, and how answers are drawn.

Nothing here loads torch: a server that has a .gguf at hand is ready in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from carellama.config.consultation import ConsultArguments
from carellama.config.data import DataArguments
from carellama.config.finetuning import FinetuningArguments
from carellama.config.generating import GeneratingArguments
from carellama.config.model import ModelArguments
from carellama.config.option import about, at_least
from carellama.config.safety import SafetyArguments
from carellama.errors import UserError

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045


LEAST_CONTEXT = 64  # tokens: a chat format alone takes some thirty


@dataclass(frozen=True)
class EngineArguments:
    """What runs the model."""

    engine: Literal["auto", "transformers", "llamacpp", "openvino", "openai", "vllm"] = field(
        default="auto",
        metadata=about("What runs the model; auto: by what is installed, the files given and the hardware."),
    )
    adapters: Optional[str] = field(
        default=None,
        metadata=about("Adapters beside each other, chosen by the model's name: cardiology=FOLDER,tcm=FOLDER."),
    )
    parallel: int = field(default=8, metadata=about("Requests that are answered at once; more wait."))
    context_tokens: Optional[int] = field(
        default=None,
        metadata=about("Tokens of prompt and answer together; default: the model's, at most 8192 on a CPU."),
    )
    gguf_type: Literal["f16", "q8_0", "q4_0"] = field(
        default="f16", metadata=about("llamacpp, openvino: number format that a model folder is converted to.")
    )
    gpu_layers: Optional[int] = field(
        default=None, metadata=about("llamacpp: layers on the GPU; default: all that fit.")
    )
    endpoint: Optional[str] = field(
        default=None, metadata=about("openai: address(es) of OpenAI-compatible servers, comma separated.")
    )
    endpoint_model: Optional[str] = field(
        default=None, metadata=about("openai: the model's name there; default: the first one that it lists.")
    )
    mask_identifiers: bool = field(
        default=False,
        metadata=about(
            "openai: names, numbers and addresses of persons are masked in what is sent, and put back in the answers "
            "(extra clean)."
        ),
    )
    endpoint_timeout: float = field(default=120.0, metadata=about("openai, vllm: seconds without a token."))
    tensor_parallel_size: int = field(default=1, metadata=about("vllm: GPUs that share each layer."))
    pipeline_parallel_size: int = field(default=1, metadata=about("vllm: groups of layers on GPUs of their own."))
    vllm_args: Optional[str] = field(
        default=None, metadata=about("vllm: further words of `vllm serve`, in one string.")
    )

    @property
    def adapter_folders(self) -> dict[str, str]:
        """Name to folder, in the order given."""
        pairs = [part.partition("=") for part in (self.adapters or "").split(",") if part.strip()]
        return {name.strip(): folder.strip() for name, _, folder in pairs}

    @property
    def endpoints(self) -> list[str]:
        """The addresses of `endpoint`."""
        return [part.strip() for part in (self.endpoint or "").split(",") if part.strip()]

    def __post_init__(self) -> None:
        at_least(self, parallel=1, context_tokens=LEAST_CONTEXT, tensor_parallel_size=1, pipeline_parallel_size=1)
        for name, folder in self.adapter_folders.items():
            if not (name.replace("-", "").replace("_", "").isalnum() and folder):
                raise UserError(f"--adapters: {name!r}={folder!r}; write NAME=FOLDER, NAME of letters, digits, - and _")
        if self.mask_identifiers and not self.endpoints:
            raise UserError(
                "--mask_identifiers is for what is sent to an --endpoint; a model here sees the text as it is"
            )
        if self.engine == "openai" and not self.endpoints:
            raise UserError("--engine openai needs --endpoint, as in http://localhost:8000/v1")


ANSWER_GROUPS = (ModelArguments, DataArguments, FinetuningArguments, GeneratingArguments, EngineArguments)
TALK_GROUPS = (*ANSWER_GROUPS, SafetyArguments, ConsultArguments)
