"""What a command writes replaces neither what it reads nor, without leave, another file; closed streams."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from carellama.data.check import check
from carellama.errors import UserError
from carellama.evaluate import guard, triage
from carellama.evaluate.consultation import run as consultation
from carellama.train import plan

Command = Callable[[Sequence[str]], None]
COMMANDS: dict[str, tuple[Command, Sequence[str], str]] = {
    "plan": (plan.main, ("--model_name_or_path", "{model}", "--dataset", "{file}", "--plan_steps", "0"), "--report"),
    "data check": (check.run, ("{file}",), "--report"),
    "guard eval": (guard.evaluate, ("{file}",), "--output"),
    "safety eval": (triage.evaluate, ("{file}",), "--output"),
    "consult eval": (consultation.evaluate, ("{file}",), "--transcripts"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_report_does_not_replace_data(name: str, tmp_path: Path, tiny_folder: Path) -> None:
    """plan --report in.jsonl replaced a file of data, as the outputs of other measurements did."""
    command, words, option = COMMANDS[name]
    if name == "consult eval":
        row = Path("data/consultation/cards_en.jsonl").read_text(encoding="utf-8").splitlines()[0]
    else:
        row = json.dumps({"instruction": "Q", "output": "An answer.", "text": "tea", "label": "routine",
                          "harmful": False, "topic": "x"})  # fmt: skip
    read, other = tmp_path / "read.jsonl", tmp_path / "other.jsonl"
    for file in (read, other):
        file.write_text(f"{row}\n", encoding="utf-8")
    argv = [word.format(model=tiny_folder, file=read) for word in words]
    with pytest.raises(UserError, match=r"other\.jsonl is there already: give --overwrite"):
        command([*argv, option, str(other)])
    with pytest.raises(UserError, match=r"read.jsonl is a file that this command reads"):
        command([*argv, option, str(read), "--overwrite"])
    assert read.read_text(encoding="utf-8") == other.read_text(encoding="utf-8") == f"{row}\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
def test_a_stream_that_the_shell_closed(closed: str) -> None:
    """`carellama data list >&-` ended in a traceback: 'NoneType' object has no attribute 'isatty'."""
    command = f"'{sys.executable}' -m carellama data list {closed}"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Traceback" not in done.stderr
