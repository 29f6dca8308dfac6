"""How much memory there is for a training: of the GPU, or of the machine and what a container may take of it.

gigabytes(available())   # 19.8 GB
"""

from __future__ import annotations

import os
from pathlib import Path

from carellama.model.machine import has_gpu, memory_bytes

LIMITS = (  # of a container: (limit, use, statistics), cgroup v2 and v1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def available(root: Path = Path("/")) -> int | None:
    """Bytes that this process may hold in all, what it holds already included; None where the system does not say."""
    if has_gpu():
        import torch

        return int(torch.cuda.mem_get_info()[0]) + int(torch.cuda.memory_reserved())
    return machine_memory(root, memory_bytes())


def machine_memory(root: Path, held: int) -> int | None:
    """`available` of a Linux machine: what is free, or can be made free, and what this process has `held`."""
    found = []
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 + held for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError):
            return None
    for names in LIMITS:
        try:
            limit, used, stat = ((root / "sys/fs/cgroup" / name).read_text(encoding="ascii") for name in names)
            files = sum(int(line.split()[1]) for line in stat.splitlines() if line.startswith("inactive_file "))
            found.append(int(limit) - int(used) + files + held)
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
    return min(found, default=None)


def gigabytes(size: float) -> str:
    """`2.1 GB`, or `12 MB` below a tenth of one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
