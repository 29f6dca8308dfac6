"""Two processes on a CPU over gloo: what they learn is what one process learns, and nothing of it is lost or doubled.

One launch takes ten seconds before its first step, so each does many runs, and every test looks at one of them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from carellama import run as runs
from carellama.config import engine as engines
from carellama.config.parse import as_flags
from carellama.config.run import run_config
from carellama.errors import UserError
from carellama.model.shards import SHARDS, is_sharded, read_shards
from conftest import REPOSITORY

PROGRAMS = Path(sys.executable).parent
FILES = sorted((REPOSITORY / "examples/accelerate").glob("*.yaml"))
SAME = 1e-5  # relative, of a loss in float32: sums are made in another order
# runs of `runs.json` in turn, in this process; what rank 1 opens for writing, encodes and says is noted
DRIVE = """
import json, os, random, sys
from pathlib import Path
from carellama.cli import call
from carellama.data import prepare
from carellama.train.grpo import RolloutTrainer
from carellama.train.trainer import RowTrainer

rank = os.environ.get("RANK", "0")
notes = {"encoded": 0, "written": [], "sharded": {}, "left": {}}
asked = {key: value for key, value in os.environ.items() if key.startswith(("FSDP_", "ACCELERATE_"))}


def opened(event, words):
    if event == "open" and isinstance(words[0], str) and isinstance(words[1], str) and set(words[1]) & set("wax+"):
        notes["written"].append(words[0])


def encoded(*words, original=prepare.encode_rows, **options):
    notes["encoded"] += 1
    return original(*words, **options)


def answers(self, prompts, *words):
    # drawn by what is asked and by the place among its siblings, in whichever process that is
    first, made = self.accelerator.process_index * len(prompts), []
    for at, ids in enumerate(prompts):
        draw = random.Random(repr((self.state.global_step, list(ids), (first + at) % self.num_generations)))
        made.append([draw.randrange(5, 300) for _ in range(draw.randrange(2, 6))] + [2])
    return made, None


def saved(self, *words, original=RowTrainer.save_model, **options):
    notes["sharded"][folder] = any(hasattr(one, "placements") for one in self.model.parameters())
    return original(self, *words, **options)


sys.addaudithook(opened)
prepare.encode_rows, RolloutTrainer._generate_single_turn, RowTrainer.save_model = encoded, answers, saved
for words in json.loads(Path(sys.argv[1]).read_text()):
    for key in [key for key in os.environ if key.startswith(("FSDP_", "ACCELERATE_"))]:
        del os.environ[key]
    os.environ |= asked
    folder = words[words.index("--output_dir") + 1]
    try:
        call("train", words)
    except SystemExit as left:
        notes["left"][folder] = left.code
Path(f"notes_{rank}.json").write_text(json.dumps(notes))
"""
REWARDS = """
def short(prompts, completions, **columns):
    return [-len(max(one[0]["content"].split(), key=len, default="")) for one in completions]
"""
SHARDED = {"fsdp": True, "fsdp_config": "sharded.json"}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with a model, conversations, pairs and texts, none of which divides by the batch."""
    folder = tmp_path_factory.mktemp("several")
    chats = [
        {"instruction": f"Question {n}: what helps?", "output": f"Rest and tea, {n} times." + " Drink." * (n % 5)}
        for n in range(27)
    ]
    pairs = [
        {"instruction": f"Question {n}?", "output": [f"Rest {n}" + " well" * (n % 4), f"Work {n}" + " hard" * (n % 3)]}
        for n in range(27)
    ]
    texts = [{"text": f"Asthma {n} may cause wheezing and cough. " * (1 + n % 4)} for n in range(40)]
    for name, rows in (("chats.json", chats), ("pairs.json", pairs), ("texts.json", texts)):
        (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    (folder / "sharded.json").write_text('{"state_dict_type": "SHARDED_STATE_DICT"}')
    (folder / "drive.py").write_text(DRIVE)
    (folder / "rewards_of_mine.py").write_text(REWARDS)
    (folder / "model").symlink_to(tiny_folder)
    return folder


def words(processes: int, name: str, **options: object) -> list[str]:
    """The flags of a run of so many processes: eight records a step in all."""
    stage = str(options.get("stage", "sft"))
    given = {
        "model_name_or_path": "model", "dataset": "chats.json" if stage == "sft" else "pairs.json", "max_steps": 3,
        "logging_steps": 1, "bf16": False, "learning_rate": 1e-3, "lora_dropout": 0, "report_to": "none",
        "save_steps": 2, "data_cache_dir": f"cache{processes}", "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 2, "val_size": 3, "do_train": True, "do_eval": True, "output_dir": name,
    } | options  # fmt: skip
    given["per_device_train_batch_size"] //= processes
    return as_flags(given)


def environment(folder: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(REPOSITORY / "src"), str(folder)])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CARELLAMA_CACHE": str(folder / "cache")}


def torchrun(processes: int, port: int) -> list[str]:
    return [str(PROGRAMS / "torchrun"), "--nproc_per_node", str(processes), "--master_port", str(port)]


def several(folder: Path, port: int, planned: list[list[str]], launch: list[str] | None = None) -> SimpleNamespace:
    """Run these one after the other in two processes; return the notes of both and what was said."""
    (folder / f"runs_{port}.json").write_text(json.dumps(planned))
    command = [*(launch or torchrun(2, port)), "drive.py", f"runs_{port}.json"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    notes = [json.loads((folder / f"notes_{rank}.json").read_text()) for rank in (0, 1)]
    return SimpleNamespace(folder=folder, notes=notes, said=done.stderr)


def alone(folder: Path, name: str, **options: object) -> Path:
    """The run of one process, here."""
    if not (folder / name).exists():
        here = Path.cwd()
        os.chdir(folder)
        try:
            runs.run(run_config(words(1, name, **options)))
        finally:
            os.chdir(here)
    return folder / name


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*model*.safetensors"):
        found |= load_file(path)
    return found


def results(folder: Path) -> dict[str, float]:
    found = json.loads((folder / "eval_results.json").read_text())
    return {name: value for name, value in found.items() if "runtime" not in name}


def same(one: Path, two: Path, near: float = SAME) -> None:
    """Losses of every step, weights at the end, and what was measured, are those of one process."""
    assert losses(two) == pytest.approx(losses(one), rel=near, abs=1e-7) and len(losses(one)) == 3
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys() and first
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=0, atol=2e-5)
    assert results(two) == pytest.approx(results(one), rel=near, abs=5e-6)  # margins are differences


RUNS = {
    "lora": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    "full": {"finetuning_type": "full"},
    "rm": {"stage": "rm"},
    "dpo": {"stage": "dpo"},
}
ANSWERING = {
    "ppo": {"stage": "ppo", "reward_model": "one_rm", "top_k": 1, "temperature": 1, "max_new_tokens": 6,
            "ppo_epochs": 2, "max_steps": 3},
    "grpo": {"stage": "grpo", "rewards": "rewards_of_mine:short", "num_generations": 4, "grpo_beta": 0.1,
             "max_new_tokens": 6, "per_device_train_batch_size": 16},
}  # fmt: skip


@pytest.fixture(scope="module")
def ddp(workplace: Path) -> SimpleNamespace:
    """All of DDP in one launch; `alone` are the same runs by one process."""
    for name, options in (RUNS | ANSWERING).items():
        alone(workplace, f"one_{name}", **options)
    planned = [words(2, f"ddp_{name}", **options) for name, options in (RUNS | ANSWERING).items()]
    planned.append(words(2, "ddp_kto", stage="kto"))
    return several(workplace, 29541, planned)


@pytest.fixture(scope="module")
def fsdp(workplace: Path) -> SimpleNamespace:
    """All of FSDP2 in one launch: checkpoints in shards, and whole (`whole_`)."""
    for name, options in RUNS.items():
        alone(workplace, f"one_{name}", **options)
    planned = [words(2, f"fsdp_{name}", **options | SHARDED) for name, options in RUNS.items()]
    planned.append(words(2, "whole_full", **RUNS["full"], fsdp=True))
    planned.append(words(2, "refused", stage="kto", finetuning_type="full", fsdp=True))
    return several(workplace, 29542, planned)


@pytest.mark.parametrize("name", [*RUNS, "grpo"])
def test_ddp_learns_what_one_process_learns(ddp: SimpleNamespace, name: str) -> None:
    same(ddp.folder / f"one_{name}", ddp.folder / f"ddp_{name}")


def test_ddp_learns_from_scores_as_one_process_does(ddp: SimpleNamespace) -> None:
    """Losses of ppo are differences near zero: they agree to the rounding of what is subtracted."""
    one, two = (ddp.folder / f"{who}_ppo" for who in ("one", "ddp"))
    assert losses(two) == pytest.approx(losses(one), abs=1e-6) and max(map(abs, losses(one))) > 1e-3
    assert results(two) == pytest.approx(results(one), rel=1e-4)


def test_ddp_learns_from_judged_answers(ddp: SimpleNamespace) -> None:
    """Each process pairs the answers of its own records for z, so kto is near what one process learns, not equal."""
    one, two = alone(ddp.folder, "one_kto", stage="kto"), ddp.folder / "ddp_kto"
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    assert results(two)["eval_samples"] == results(one)["eval_samples"] == 6


@pytest.mark.parametrize("name", RUNS)
def test_fsdp_learns_what_one_process_learns(fsdp: SimpleNamespace, name: str) -> None:
    assert [note["sharded"][f"fsdp_{name}"] for note in fsdp.notes] == [True, True]
    same(fsdp.folder / f"one_{name}", fsdp.folder / f"fsdp_{name}")


def test_whole_checkpoints_of_fsdp_hold_the_model(fsdp: SimpleNamespace) -> None:
    same(fsdp.folder / "one_full", fsdp.folder / "whole_full")
    assert weights(fsdp.folder / "whole_full/checkpoint-3").keys() == weights(fsdp.folder / "one_full").keys()


def test_the_first_process_alone_prepares_writes_and_speaks(ddp: SimpleNamespace, fsdp: SimpleNamespace) -> None:
    for several in (ddp, fsdp):
        assert several.notes[1]["encoded"] == 0
        shards = {path for path in several.notes[1]["written"] if path.endswith(".distcp")}
        others = {path for path in several.notes[1]["written"] if "ddp_" in path or "fsdp_" in path} - shards
        assert not {path for path in others if not path.endswith(("rng_state_1.pth", "rollout_1.safetensors"))}
    assert ddp.notes[0]["encoded"] == 4  # conversations; pairs as rm and dpo, and as kto take them
    assert ddp.said.count("step 1/3") == 6  # not of grpo, whose log is TRL's
    assert "find_unused_parameters" not in ddp.said


def test_what_shards_can_not_do_is_refused_before_loading(fsdp: SimpleNamespace) -> None:
    assert [note["left"] for note in fsdp.notes] == [{"refused": 2}, {"refused": 2}]
    assert "compares with a copy of the whole weights, which FSDP2 does not keep" in fsdp.said
    assert not (fsdp.folder / "refused").exists()


def test_a_sharded_checkpoint_is_exported(fsdp: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from carellama.cli import call

    monkeypatch.chdir(fsdp.folder)
    for name in ("full", "lora"):
        checkpoint = f"fsdp_{name}/checkpoint-3"
        assert is_sharded(Path(checkpoint)) and (Path(checkpoint, "adapter_model.safetensors").exists()) == (name == "lora")
        options = {"model_name_or_path": "model", "checkpoint_dir": checkpoint, "output_dir": f"out_{name}"}
        call("export", as_flags(options))
        call("export", as_flags(options | {"checkpoint_dir": f"one_{name}", "output_dir": f"out_one_{name}"}))
        one, two = weights(Path(f"out_one_{name}")), weights(Path(f"out_{name}"))
        assert one.keys() == two.keys()
        for key, weight in one.items():
            torch.testing.assert_close(two[key], weight, rtol=0, atol=2e-5)
