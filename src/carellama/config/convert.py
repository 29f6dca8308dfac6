"""The options of `carellama convert llama`. Light: nothing of a model is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from carellama.config.option import about

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045

MODEL_SIZES = ("7B", "7Bf", "13B", "13Bf", "30B", "34B", "65B", "70B", "70Bf")


@dataclass(frozen=True)
class LlamaArguments:
    """Where the original weights are, and where the model folder goes."""

    input_dir: str = field(
        metadata=about(
            "Folder of the download: tokenizer.model, and params.json with consolidated.*.pth in it or below."
        )
    )
    output_dir: str = field(metadata=about("Folder to write."))
    model_size: str = field(
        default="7B",
        metadata=about("Size as the download names it; f is for the chat models.", choices=list(MODEL_SIZES)),
    )
    llama_version: Optional[int] = field(
        default=None,
        metadata=about("1 (2,048 positions) or 2 (4,096); default: by size and params.json.", choices=[1, 2]),
    )
    overwrite_output_dir: bool = field(default=False, metadata=about("Replace an older model in the output folder."))
