"""What this machine has: GPUs, cores, memory, the precision that it computes in fastest.

    fastest_dtype(), format_bytes(available_memory_bytes())    # "bfloat16", "19.8 GB"

torch is imported late, so that reading this module costs nothing until asked.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

CGROUP_FILES = (  # of a container: (limit, use, statistics), cgroup v2 and v1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


@functools.cache
def has_gpu() -> bool:
    """Whether torch sees a CUDA (or ROCm) device."""
    import torch

    return torch.cuda.is_available()


def gpu_device_file_exists() -> bool:
    """Whether the system has the device file of an NVIDIA or AMD GPU: without one, torch need not be asked."""
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))


def physical_cores() -> int:
    """Processor cores that this process may use; two threads of one core count once."""
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    shared = set()
    for cpu in mine:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            shared.add(siblings.read_text(encoding="ascii").strip())
        except OSError:  # not Linux, or it does not tell
            shared.add(str(cpu))
    return max(1, len(shared))


def free_memory_bytes() -> int | None:
    """Memory of the machine that is free or can be made free; None: the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


@functools.cache
def gpu_count() -> int:
    """How many CUDA (or ROCm) devices torch sees."""
    import torch

    return torch.cuda.device_count()


@functools.cache
def fastest_dtype() -> str:
    """Name of the fastest safe precision: bfloat16 where the hardware multiplies it, else float32.

    On CPU that needs AVX-512 BF16 or AMX: without them torch emulates bfloat16, slower than float32.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"


@functools.cache
def default_training_dtype() -> str:
    """Name of the precision that a training is computed in unless somebody says otherwise.

    `fastest_dtype`, but for Intel's processors with AVX-512 BF16 and without AMX: they have one unit for bfloat16 and
    two for float32, and torch multiplies float32 nearly twice as fast there (`measure_matmul_flops`). By name and not
    by trial, as a resumed run and the processes of one run have to agree.
    """
    dtype = fastest_dtype()
    if dtype != "bfloat16" or has_gpu():
        return dtype
    import torch

    cpu: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not say
    return "float32" if "Intel" in str(cpu.get("cpu_name")) and not cpu.get("amx_bf16") else dtype


def measure_matmul_flops(dtype: str, seconds: float = 0.2) -> float:
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


def process_memory_bytes() -> int:
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


def available_memory_bytes() -> int | None:
    """Bytes that this process may hold in all, what it holds already included; None where the system does not say."""
    if has_gpu():
        import torch

        return int(torch.cuda.mem_get_info()[0]) + int(torch.cuda.memory_reserved())
    return linux_available_bytes(Path("/"), process_memory_bytes())


def linux_available_bytes(root: Path, held: int) -> int | None:
    """`available_memory_bytes` of a Linux machine: what is free or can be made free, and what this process `held`."""
    found = []
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 + held for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError):
            return None
    for names in CGROUP_FILES:
        try:
            limit, used, stat = ((root / "sys/fs/cgroup" / name).read_text(encoding="ascii") for name in names)
            files = sum(int(line.split()[1]) for line in stat.splitlines() if line.startswith("inactive_file "))
            found.append(int(limit) - int(used) + files + held)
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
    return min(found, default=None)


def format_bytes(size: float) -> str:
    """`2.1 GB`, or `12 MB` below a tenth of one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
