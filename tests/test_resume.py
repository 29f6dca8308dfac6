"""A run that is killed again and again, at any moment, ends as one that never was: same losses, same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from carellama.config.parse import as_flags

KILLS = 10
DRIVER = """
import json, os, random, signal, sys, time, traceback
import peft, torch, transformers  # once: each run is a fork of this process
from carellama import run as runs
from carellama.config.run import run_config

torch.set_num_threads(1)
argv, output, kills = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
moments = random.Random(7)

def once(folder, seconds=None):
    "Run in a fork; kill it after so long. Whether it came to its end, and how long that took."
    began = time.monotonic()
    child = os.fork()
    if not child:
        code = 1
        try:
            runs.run(run_config([*argv, "--output_dir", folder]))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"ended with {code}"
    return code == 0, time.monotonic() - began

ended, whole = once(output + "/whole")
assert ended
killed = 0
while killed < kills:
    ended, _ = once(output + "/killed", moments.uniform(0.1, 0.5) * whole)
    if ended:
        break
    killed += 1
    folders = os.listdir(output + "/killed") if os.path.isdir(output + "/killed") else []
    for folder in folders:
        if folder.startswith("checkpoint-"):  # whole, or not there
            for name in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
                assert os.path.isfile(f"{output}/killed/{folder}/{name}"), f"{folder} lacks {name}"
if not ended:
    ended, _ = once(output + "/killed")
print(json.dumps({"killed": killed, "ended": ended}))
"""
TIMES = {
    "elapsed_seconds", "remaining_seconds", "train_runtime", "train_samples_per_second", "train_steps_per_second",
    "train_loss", "total_flos", "tokens_per_second", "matrix_share", "memory_gb",
}  # fmt: skip


def lines(folder: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if key not in (*TIMES, "train_loss", "total_flos")} for row in rows
    ]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_killed_run_ends_as_one_that_never_stopped(tmp_path, tiny_folder, stage):
    answer = "Rest, and tea." if stage == "sft" else ["See a doctor.", "No."]
    rows = [{"instruction": f"What helps {number}?", "input": "", "output": answer} for number in range(40)]
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    given = {
        "stage": stage, "model_name_or_path": tiny_folder, "dataset": data, "do_train": True, "max_steps": 60,
        "save_steps": 4, "save_total_limit": 2, "learning_rate": 1e-2, "logging_steps": 1, "disable_tqdm": True,
        "per_device_train_batch_size": 4, "data_cache_dir": tmp_path / "cache", "bf16": False, "lora_dropout": 0.1,
    }  # fmt: skip
    argv = as_flags(given)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(argv), str(tmp_path), str(KILLS)],
        capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["ended"] and outcome["killed"] >= 3, outcome
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert lines(killed) == lines(whole)
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (whole, killed))
    assert first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)
    assert not (killed / ".saving").exists()
