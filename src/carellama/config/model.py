"""The options that name a model: which one, in which precision, with which checkpoints on top. Loads no library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Optional

from carellama.config.option import about, at_least

# HfArgumentParser reads the types at run time, and takes Optional[...] in all Python versions.
# ruff: noqa: UP045


@dataclass(frozen=True)
class ModelArguments:
    """Which model, in which precision, with which checkpoints on top."""

    model_name_or_path: str = field(
        metadata=about("Model folder, hub id, .gguf file, or a name of `carellama models list` (smollm2-135m).")
    )
    checkpoint_dir: Optional[str] = field(
        default=None,
        metadata=about("Folder(s) of earlier training or named adapters, comma separated; merged in this order."),
    )
    model_revision: str = field(default="main", metadata=about("Branch, tag or commit of a hub model."))
    cache_dir: Optional[str] = field(default=None, metadata=about("Where hub downloads are kept."))
    hf_auth_token: Optional[str] = field(default=None, metadata=about("Token for gated hub models."))
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto",
        metadata=about("Precision of the weights; auto takes the best this machine computes in."),
    )
    quantization_bit: Optional[int] = field(
        default=None, metadata=about("Load the base in 4 or 8 bit (QLoRA).", choices=[4, 8])
    )
    quantization_type: Literal["nf4", "fp4"] = field(default="nf4", metadata=about("4-bit number format."))
    double_quantization: bool = field(default=True, metadata=about("Quantise the 4-bit scales as well."))
    rope_scaling: Optional[str] = field(
        default=None,
        metadata=about("Stretch the position encoding.", choices=["linear", "dynamic", "yarn"]),
    )
    rope_factor: float = field(default=2.0, metadata=about("By how much --rope_scaling stretches."))
    attention: Literal["auto", "packed", "padded", "eager", "sdpa", "flash_attention_2", "flex_attention"] = field(
        default="auto",
        metadata=about("Attention in training; auto: packed on CPU, flash on GPU; padded: no padding-free rows."),
    )
    trust_remote_code: bool = field(default=False, metadata=about("Run Python code that comes with the model."))
    allow_pickle: bool = field(
        default=False,
        metadata=about("Read .bin weights, which can run code; default: safetensors and GGUF only."),
    )
    accept_licence: bool = field(
        default=False, metadata=about("Accept the terms of an embedded model that has any (gemma3-270m).")
    )

    @property
    def checkpoints(self) -> list[str]:
        """The folders of `checkpoint_dir`, in order."""
        return [part.strip() for part in (self.checkpoint_dir or "").split(",") if part.strip()]

    def __post_init__(self) -> None:
        at_least(self, rope_factor=1)
