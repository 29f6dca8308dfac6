"""What this machine computes in. Imports torch late, so that reading it costs nothing until asked."""

from __future__ import annotations

import functools


@functools.cache
def has_gpu() -> bool:
    """Whether torch sees a CUDA (or ROCm) device."""
    import torch

    return torch.cuda.is_available()


@functools.cache
def best_dtype() -> str:
    """Name of the fastest safe precision: bfloat16 where the hardware multiplies it, else float32.

    On CPU that needs AVX-512 BF16 or AMX: without them torch emulates bfloat16, slower than float32.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"
