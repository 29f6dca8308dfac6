"""run.json: everything needed to know what a checkpoint is and to make it again."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import carellama
from carellama.config.run import RunConfig, settings_of
from carellama.disk import write_json

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "bitsandbytes", "trl")


def write_run(folder: Path, config: RunConfig, data: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> None:
    """Write `run.json`: settings, data (name, digest, counts), versions, code, machine, results so far."""
    record = {
        "carellama": carellama.__version__,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "stage": config.finetuning.stage,
        "base_model": config.model.model_name_or_path,
        "seed": config.training.seed,
        "settings": settings_of(config),
        "data": list(data),
        "results": dict(results),
        "versions": {"python": platform.python_version(), **library_versions()},
        "git_commit": git_commit(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    write_json(folder / "run.json", record)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str | None:
    """The commit of the code, with `+changes` when files differ; None outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5)
        if head.returncode:
            return None
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "."],
            cwd=here, capture_output=True, text=True, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")
