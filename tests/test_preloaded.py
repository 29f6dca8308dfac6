"""The Python that forks for each command ends as one that is started; each command can be the first import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import preloaded

PROGRAM = """
import os, sys, time
print(sys.argv[1:], os.environ["GIVEN"], os.getcwd(), sys.stdin.readline(), end="", flush=True)
if sys.argv[1] == "waits":
    time.sleep(60)
sys.exit({"ends": None, "fails": 3, "says": "a reason"}[sys.argv[1]])
"""


@pytest.mark.parametrize("started", [["program.py"], ["-c", PROGRAM]], ids=["file", "words"])
@pytest.mark.parametrize("word", ["ends", "fails", "says", "breaks"])
def test_a_fork_ends_as_a_process_does(tmp_path, word, started):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    ends = [
        subprocess.run(
            [python, *started, word, "two words"], input="a line\n", capture_output=True, text=True,
            cwd=tmp_path, env=os.environ | {"GIVEN": "é"}, timeout=120,
        )
        for python in (sys.executable, preloaded.python())
    ]  # fmt: skip
    assert (ends[0].returncode, ends[0].stdout) == (ends[1].returncode, ends[1].stdout)
    assert ends[0].stderr.splitlines()[-1:] == ends[1].stderr.splitlines()[-1:]
    assert ends[0].stdout == f"{[word, 'two words']} é {tmp_path} a line\n"
    assert ends[0].returncode == {"ends": 0, "fails": 3, "says": 1, "breaks": 1}[word]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_fork(tmp_path, sent):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    process = subprocess.Popen(
        [preloaded.python(), str(tmp_path / "program.py"), "waits"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ | {"GIVEN": ""},
    )  # fmt: skip
    process.stdin.write("a line\n")
    process.stdin.flush()
    assert "a line" in process.stdout.readline()
    process.send_signal(sent)
    _, said = process.communicate(timeout=30)
    assert process.returncode == -sent and ("KeyboardInterrupt" in said) == (sent == signal.SIGINT)


ALONE = """
import importlib, os
import datasets, peft, torch, transformers, transformers.trainer
from carellama.cli import GROUPS, VERBS

for module in sorted({place.partition(":")[0] for table in (VERBS, *GROUPS.values()) for place, _ in table.values()}):
    process = os.fork()
    if not process:
        importlib.import_module(module)
        os._exit(0)
    print(module, os.waitpid(process, 0)[1])
"""


def test_the_module_of_each_command_can_be_the_first():
    """What the server has loaded already would hide a module that needs another one to be imported before it."""
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert len(lines) > 20, done.stderr
    assert [line for line in lines if not line.endswith(" 0")] == [], done.stderr
