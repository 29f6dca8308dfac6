"""`carellama task` in the folder where a test is, with an engine that the test gives."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from carellama.batch import clinical_command
from carellama.engine.base import Piece, PreparedPrompt, Reply, Sampling
from carellama.engine.scripted import ScriptedEngine


class SchemaEngine(ScriptedEngine):
    """A scripted engine that takes a JSON schema, as those with a model do, and remembers each sampling."""

    def __init__(self, script: Any, **more: Any) -> None:
        super().__init__(script, **more)
        self.schemas: list[object] = []

    def answer(self, prompt: PreparedPrompt, sampling: Sampling) -> Generator[Piece, None, Reply]:
        self.schemas.append(sampling.json_schema)
        return super().answer(prompt, replace(sampling, json_schema=None))


def run_task(engine: Any, name: str, rows: list | str, *flags: str) -> tuple[int, list[dict]]:
    """Run a task on rows, or on a file that is there; return the exit code and the rows of the output."""
    file = rows if isinstance(rows, str) else "in.jsonl"
    if not isinstance(rows, str):
        lines = [row if isinstance(row, dict) else {"text": row} for row in rows]
        Path(file).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    code = 0
    with patch("carellama.engine.load.choose", lambda *_: engine):
        try:
            clinical_command.run([name, file, "--output", "out.jsonl", "--model_name_or_path", "m", *flags])
        except SystemExit as end:
            code = int(end.code or 0)
    return code, written()


def written() -> list[dict]:
    """The rows of the output in this folder, all of them whole lines."""
    text = Path("out.jsonl").read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n") if line]  # not at \u2028


def report() -> dict:
    return json.loads(Path("out.jsonl.json").read_text(encoding="utf-8"))
