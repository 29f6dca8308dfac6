"""benchmarks/gpu_check.py runs on a CPU as it would on a GPU, and a row that does not hold fails it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import preloaded
from conftest import REPOSITORY

SCRIPT = ["benchmarks/gpu_check.py", "--device", "cpu", "--steps", "2", "--batch", "2"]


@pytest.mark.slow
def test_rows_run_on_a_cpu_and_one_without_its_run_fails(tmp_path: Path) -> None:
    """The export has no adapter to export, as `sft LoRA` did not run."""
    done = subprocess.run(
        [preloaded.python(), *SCRIPT, "--output", str(tmp_path), "--only", "machine", "dpo", "export"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    rows = {row["row"]: row for row in json.loads((tmp_path / "gpu_check.json").read_text(encoding="utf-8"))}
    assert {name: row["status"] for name, row in rows.items()} == {
        "machine": "ok", "dpo LoRA": "ok", "export, read by strangers": "FAILED",
    }, done.stdout  # fmt: skip
    assert "tokens/s" in rows["dpo LoRA"]["result"] and "planned" in rows["dpo LoRA"]["result"]
    assert "see " in rows["export, read by strangers"]["result"] and done.returncode == 1
