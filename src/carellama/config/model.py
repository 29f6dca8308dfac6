"""The options that name a model: which one, in which precision, with which checkpoints on top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from carellama.config.options import Options, option, split_commas


@dataclass(frozen=True)
class ModelOptions(Options):
    """Which model, in which precision, with which checkpoints on top."""

    model_name_or_path: str = option(
        "Model folder, hub id, .gguf file, or a name of `carellama models list` (smollm2-135m)."
    )
    checkpoint_dir: str | None = option(
        "Folder(s) of earlier training, adapters in GGUF or named ones, comma separated; merged in this order.",
        None,
        commas=True,
    )
    model_revision: str = option("Branch, tag or commit of a hub model.", "main")
    hub: Literal["huggingface", "modelscope"] = option("Which hub names and ids are fetched from.", "huggingface")
    cache_dir: str | None = option("Where hub downloads are kept.", None)
    hf_auth_token: str | None = option("Token for gated hub models.", None)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "Precision of the weights; auto takes the best this machine computes in.", "auto"
    )
    quantization_bit: int | None = option("Load the base in 4 or 8 bit (QLoRA).", None, choices=(4, 8))
    quantization_type: Literal["nf4", "fp4"] = option("4-bit number format.", "nf4")
    double_quantization: bool = option("Quantise the 4-bit scales as well.", default=True)
    rope_scaling: str | None = option("Stretch the position encoding.", None, choices=("linear", "dynamic", "yarn"))
    rope_factor: float = option("By how much --rope_scaling stretches.", 2.0, at_least=1)
    trust_remote_code: bool = option("Run Python code that comes with the model.", default=False)
    allow_pickle: bool = option(
        "Read .bin weights, which can run code; default: safetensors and GGUF only.", default=False
    )
    allow_other_base: bool = option(
        "Put an adapter on other weights than its run.json names: the same ones merged, or quantised.", default=False
    )
    accept_licence: bool = option("Accept the terms of an embedded model that has any (gemma3-270m).", default=False)

    @property
    def checkpoints(self) -> list[str]:
        """The folders of `checkpoint_dir`, in order."""
        return split_commas(self.checkpoint_dir)


@dataclass(frozen=True)
class TrainedModelOptions(ModelOptions):
    """Which model, in which precision, with which checkpoints on top, and its attention in training."""

    attention: Literal["auto", "packed", "padded", "eager", "sdpa", "flash_attention_2", "flex_attention"] = option(
        "Attention in training; auto: packed on CPU, flash on GPU; padded: no padding-free rows.", "auto"
    )
