"""Starts the programs that read what was written, each in a process without this package.

    reading = read("read_gguf.py", job, folder)           # what it found; logits lie in the folder

A program fails in one line, which is the `UserError`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from carellama.config.environment import no_debugger
from carellama.errors import UserError
from carellama.records import JSONObject

PROGRAMS = Path(__file__).parent
LLAMACPP_CAUSE = "error loading model: "


def read(program: str, job: Mapping[str, object], folder: Path, *, what: str, python: Path | None = None) -> JSONObject:
    """Let a program of this folder do a job. `python`: the interpreter, of another environment; `what`: for errors."""
    done = folder / "reading.json"
    done.unlink(missing_ok=True)
    given = json.dumps({**job, "output": str(folder)})
    own = str(python or sys.executable)
    command = [own, "-P", str(PROGRAMS / program)]  # -P: the modules beside a program are not on its path
    with no_debugger():
        ended = subprocess.run(command, input=given, capture_output=True, text=True, errors="replace", check=False)
    if ended.returncode or not done.is_file():
        raise UserError(f"{what} cannot be read back: {_reason(ended)}")
    reading: JSONObject = json.loads(done.read_text(encoding="utf-8"))
    return reading


def _reason(ended: subprocess.CompletedProcess[str]) -> str:
    """What a program said last; of llama.cpp also why it did not load a file."""
    lines = ended.stderr.strip().splitlines() or [f"it ended with {ended.returncode}"]
    if ended.returncode < 0:
        return f"its reader crashed ({lines[-1]})"
    causes = [line.partition(LLAMACPP_CAUSE)[2] for line in lines if LLAMACPP_CAUSE in line]
    return ": ".join([lines[-1], *causes[-1:]])
