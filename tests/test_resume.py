"""A run that is killed again and again, at any moment, ends as one that never was: same losses, same weights."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

import preloaded
from carellama.config.reader import to_flags

KILLS = 6
DRIVER = """
import json, os, random, signal, sys, time, traceback
import peft, torch, transformers  # once: each run is a fork of this process
from carellama.train import run as runs
from carellama.train.options import run_options

torch.set_num_threads(1)
argv, output, kills = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
moments = random.Random(7)

def written(folder):
    "When the log of a folder was last written to."
    path = folder + "/trainer_log.jsonl"
    return os.stat(path).st_mtime_ns if os.path.isfile(path) else 0

def reached(folder, since=0):
    "The last step in the log of a folder, if it was written to since."
    try:
        if written(folder) <= since:
            return 0
        with open(folder + "/trainer_log.jsonl") as file:
            return max((json.loads(line)["current_steps"] for line in file if line.endswith("\\n")), default=0)
    except FileNotFoundError:
        return 0

def saved(folder):
    "The step of the last checkpoint, all of which are whole, or not there."
    names = [name for name in os.listdir(folder) if name.startswith("checkpoint-")] if os.path.isdir(folder) else []
    for name in names:
        for part in ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
            assert os.path.isfile(f"{folder}/{name}/{part}"), f"{name} lacks {part}"
    return max((int(name[len("checkpoint-"):]) for name in names), default=0)

def once(folder, until=None, moment=0.0):
    "Run in a fork; kill it so many seconds after a step. Whether it came to its end."
    since = written(folder)  # what an earlier life has logged after its last checkpoint does not count
    child = os.fork()
    if not child:
        code = 1
        try:
            runs.run(run_options([*argv, "--output_dir", folder]))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = None
    if until is not None:
        while reached(folder, since) < until:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            status = None
            time.sleep(0.002)
        else:
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
    if status is None:
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"ended with {code}"
    return code == 0

whole, folder = output + "/whole", output + "/killed"
began = time.monotonic()
assert once(whole)
step = (time.monotonic() - began) / 40  # with what goes before the first one: more than a step and its checkpoint
killed, gone_on, ended = 0, 0, False
while killed < kills and not ended:
    start = saved(folder)
    early = killed % 5 == 2  # one of five before it trains, the others within a step or while they save
    until = 0 if early else start + moments.randint(1, 9)
    ended = once(folder, until, moments.uniform(0, 20 if early else 2) * step)
    if not ended:
        killed += 1
        gone_on += start > 0
        print(f"kill {killed}: began at step {start}, killed after step {reached(folder)}, saved {saved(folder)}")
if not ended:
    print("last: began at step", saved(folder))
    ended = once(folder)
print(json.dumps({"killed": killed, "gone_on": gone_on, "ended": ended}))
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
        "stage": stage, "model_name_or_path": tiny_folder, "dataset": data, "do_train": True, "max_steps": 40,
        "save_steps": 4, "save_total_limit": 2, "learning_rate": 1e-2, "logging_steps": 1, "disable_tqdm": True,
        "per_device_train_batch_size": 4, "data_cache_dir": tmp_path / "cache", "bf16": False, "lora_dropout": 0.1,
    }  # fmt: skip
    argv = to_flags(given)
    done = subprocess.run(
        [preloaded.python(), "-c", DRIVER, json.dumps(argv), str(tmp_path), str(KILLS)],
        capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    print(f"\n{stage}\n{done.stdout}", end="")  # with pytest -s
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["ended"] and outcome["killed"] >= 3 and outcome["gone_on"] >= 3, outcome
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert lines(killed) == lines(whole)
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (whole, killed))
    assert first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)
    print(f"{len(lines(whole))} lines of the log and {len(first)} weight tensors are the same, bit by bit")
    assert not (killed / ".saving").exists()
