"""What this machine computes in. Imports torch late, so that reading it costs nothing until asked."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

MUCH_FASTER = 1.5  # and not less, as float32 takes twice the memory


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


@functools.cache
def training_dtype() -> str:
    """Name of the precision that a training is computed in unless somebody says otherwise.

    `best_dtype`, but for a CPU alone it is tried: there are some with instructions for bfloat16 (and without AMX) that
    multiply float32 much faster. Several processes do not try, as they have to agree.
    """
    dtype = best_dtype()
    if has_gpu() or dtype != "bfloat16":
        return dtype
    return "float32" if matrix_rate("float32", 0.05) > MUCH_FASTER * matrix_rate("bfloat16", 0.05) else dtype


def matrix_rate(dtype: str, seconds: float = 0.2) -> float:
    """Multiplications and additions a second (FLOP/s) of a matrix product of this machine, measured for so long.

    The sizes are those of a small model's widest layer, so that it is what a training could reach, not a peak of the
    data sheet.
    """
    import time

    import torch

    device = "cuda" if has_gpu() else "cpu"
    side = 4096 if has_gpu() else 1024
    one = torch.ones(side, side, dtype=getattr(torch, dtype), device=device)
    best, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < seconds or not best:
        started = time.perf_counter()
        torch.mm(one, one)
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def memory_bytes() -> int:
    """The memory that this process holds: of the GPU, at the most so far, or else of the machine, now."""
    import torch

    if has_gpu():
        return int(torch.cuda.max_memory_allocated())
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # not Linux: the most so far
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
