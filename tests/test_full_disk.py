"""A disk that is full while a run writes: one line, the checkpoints before it whole, and the same command goes on."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

import preloaded
from carellama.config.reader import to_flags
from carellama.errors import UserError
from carellama.files import is_disk_full

LIMITED = """
import json, resource, signal, sys
from carellama import cli
from carellama.train.checkpoints import AtomicCheckpointMixin

save = AtomicCheckpointMixin._save_checkpoint

def with_limit(self, *args):
    "From the second checkpoint on no file may be larger."
    if self.state.global_step > 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    save(self, *args)

AtomicCheckpointMixin._save_checkpoint = with_limit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
cli.call("train", json.loads(sys.argv[1]))
"""


def train(argv: list[str], limit: int = 0) -> tuple[int, str]:
    """Run a training in a process of its own; its exit code and what it said."""
    limited = [preloaded.python(), "-c", LIMITED, json.dumps(argv), str(limit)]
    done = subprocess.run(
        limited if limit else [preloaded.python(), "-m", "carellama", "train", *argv],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return done.returncode, done.stderr


def flags(folder: Path, model: Path, output: Path) -> list[str]:
    rows = [{"instruction": f"What helps {number}?", "input": "", "output": "Rest, and tea."} for number in range(40)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    given = {
        "model_name_or_path": model, "dataset": folder / "rows.json", "do_train": True, "max_steps": 9,
        "save_steps": 3, "learning_rate": 1e-2, "logging_steps": 1, "disable_tqdm": True, "plot_loss": True,
        "per_device_train_batch_size": 4, "data_cache_dir": folder / "cache", "bf16": False, "output_dir": output,
    }  # fmt: skip
    return to_flags(given)


def files(checkpoint: Path) -> set[str]:
    return {path.name for path in checkpoint.iterdir()}


def check(output: Path, whole: Path, code: int, said: str) -> None:
    """It ended in one line that says where it goes on, and what it left is whole."""
    errors = [line for line in said.splitlines() if "error" in line.lower()]
    assert code == 2 and len(errors) == 1 and "Traceback" not in said, said
    assert "make room there" in errors[0] and str(output) in errors[0]
    saved = sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for checkpoint in saved:
        assert files(checkpoint) == files(whole / checkpoint.name)
        same_weights(checkpoint, whole / checkpoint.name)
    assert errors[0].endswith(f"goes on from {saved[-1]}" if saved else "the same command starts from the beginning")
    assert not (output / ".saving").exists() and not list(output.glob(".*.tmp"))
    assert not (output / "adapter_model.safetensors").exists()


def same_weights(*folders: Path) -> None:
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    assert first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["current_steps"] for line in (folder / "trainer_log.jsonl").read_text().splitlines()]


def check_same(output: Path, whole: Path) -> None:
    same_weights(whole, output)
    assert logged(whole) == logged(output)
    assert files(whole) - {"runs"} == files(output) - {"runs"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_folder):
    """The output folder of a run that never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    code, said = train(flags(folder, tiny_folder, folder / "out"))
    assert code == 0, said
    return folder / "out"


@pytest.mark.slow
@pytest.mark.parametrize("limit", [5_000])
def test_a_file_that_can_not_be_finished_leaves_the_checkpoint_before_it(tmp_path, tiny_folder, whole, limit):
    output = tmp_path / "out"
    argv = flags(tmp_path, tiny_folder, output)
    code, said = train(argv, limit)
    check(output, whole, code, said)
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-3"]
    code, said = train(argv)
    assert code == 0, said
    check_same(output, whole)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 MB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if made.returncode:
        pytest.skip("may not mount a disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints", [1.5, 3.1])
def test_a_full_disk_leaves_what_was_saved_and_is_gone_on_with(small_disk, tmp_path, tiny_folder, whole, checkpoints):
    """With room for so many checkpoints, and for more after that."""
    size = sum(-(-path.stat().st_size // 4096) * 4096 for path in (whole / "checkpoint-3").iterdir())
    room = int(checkpoints * size)
    (small_disk / "filler").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096 - room))
    output = small_disk / "out"
    argv = flags(tmp_path, tiny_folder, output)
    code, said = train(argv)
    check(output, whole, code, said)
    (small_disk / "filler").unlink()
    code, said = train(argv)
    assert code == 0, said
    check_same(output, whole)


SAVES = """
import resource, signal, sys, torch
from carellama.files import is_disk_full

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for numbers in (1, 5000):
    for limit in (1, 500, 1000, 10_000, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            torch.save(torch.zeros(numbers), sys.argv[1])
        except RuntimeError as error:
            print(numbers, limit, is_disk_full(error))
"""


def test_what_torch_says_of_a_full_disk_is_known(tmp_path):
    """Of a small file, as that of a learning rate's schedule, it says other words than of a large one."""
    argv = [preloaded.python(), "-c", SAVES, str(tmp_path / "file.pt")]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == 8 and all(line.endswith("True") for line in said), said


def test_a_full_disk_is_told_from_other_failures(tmp_path):
    from safetensors import SafetensorError

    assert is_disk_full(OSError(28, "No space left on device")) and not is_disk_full(OSError(13, "Permission denied"))
    assert is_disk_full(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert is_disk_full(Exception("No space left on device (os error 28)")), "as the tokenizers library says it"
    assert is_disk_full(OSError("100 requested and 12 written")), "as numpy says it, without a number"
    assert is_disk_full(UserError("f16 cannot be read back: OSError: 100 requested and 12 written"))
    assert not is_disk_full(SafetensorError("invalid header")) and not is_disk_full(RuntimeError("shapes differ"))
