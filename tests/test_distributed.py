"""Two processes on a CPU over gloo: what they learn is what one process learns, and nothing of it is lost or doubled.

A launch takes seconds before its first step, so each does many runs, and every test looks at one of them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import preloaded
from carellama.config.reader import to_flags
from carellama.errors import UserError
from carellama.model.sharded import SHARDS, is_sharded, read_shards
from carellama.train import distributed as engines
from carellama.train import run as runs
from carellama.train.grpo import GRPOTrainer
from carellama.train.options import run_options
from conftest import REPOSITORY

PROGRAMS = Path(sys.executable).parent
FILES = sorted((REPOSITORY / "examples/accelerate").glob("*.yaml"))
SAME = 1e-5  # relative, of a loss in float32: sums are made in another order
# runs of `runs.json` in turn, in this process; what rank 1 opens for writing, encodes and says is noted
DRIVE = """
import json, os, sys
from pathlib import Path
from carellama.cli import call
from carellama.data.encoding import prepare
from carellama.train.grpo import GRPOTrainer
from carellama.train.trainer import PackedTrainer
from test_distributed import answers

rank = os.environ.get("RANK", "0")
notes = {"encoded": 0, "written": [], "sharded": {}, "left": {}}
asked = {key: value for key, value in os.environ.items() if key.startswith(("FSDP_", "ACCELERATE_"))}


def opened(event, words):
    if event == "open" and isinstance(words[0], str) and isinstance(words[1], str) and set(words[1]) & set("wax+"):
        notes["written"].append(words[0])


def encoded(*words, original=prepare.encode_rows, **options):
    notes["encoded"] += 1
    return original(*words, **options)


def saved(self, *words, original=PackedTrainer.save_model, **options):
    notes["sharded"][folder] = any(hasattr(one, "placements") for one in self.model.parameters())
    return original(self, *words, **options)


sys.addaudithook(opened)
prepare.encode_rows, GRPOTrainer._generate_single_turn, PackedTrainer.save_model = encoded, answers, saved
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


def answers(self, prompts, *words):
    """Answers of grpo that depend on what is asked and on the place among its siblings, in whichever process it is."""
    first, made = self.accelerator.process_index * len(prompts), []
    for at, ids in enumerate(prompts):
        place = (first + at) % self.num_generations if self.model.training else 0
        draw = random.Random(repr((self.state.global_step, list(ids), place)))
        made.append([draw.randrange(5, 300) for _ in range(draw.randrange(2, 6))] + [2])
    return made, None


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
    (folder / "rewards_of_processes.py").write_text(REWARDS)
    (folder / "model").symlink_to(tiny_folder)
    return folder


def words(processes: int, name: str, **options: Any) -> list[str]:
    """The flags of a run of so many processes: eight records a step in all."""
    stage = str(options.get("stage", "sft"))
    given: dict[str, Any] = {
        "model_name_or_path": "model", "dataset": "chats.json" if stage == "sft" else "pairs.json", "max_steps": 3,
        "logging_steps": 1, "bf16": False, "learning_rate": 1e-3, "lora_dropout": 0, "report_to": "none",
        "save_steps": 2, "data_cache_dir": f"cache{processes}", "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 2, "val_size": 3, "do_train": True, "do_eval": True, "output_dir": name,
    } | options  # fmt: skip
    given["per_device_train_batch_size"] //= processes
    return to_flags(given)


def environment(folder: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY / "tests"), str(folder)])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CARELLAMA_CACHE": str(folder / "cache")}


def several(folder: Path, port: int, planned: list[list[str]], launch: list[str] | None = None) -> SimpleNamespace:
    """Run these one after the other in two processes; return the notes of both and what was said."""
    (folder / f"runs_{port}.json").write_text(json.dumps(planned))
    command = [*(launch or preloaded.torchrun(2, port)), "drive.py", f"runs_{port}.json"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    notes = [json.loads((folder / f"notes_{rank}.json").read_text()) for rank in (0, 1)]
    return SimpleNamespace(folder=folder, notes=notes, said=done.stderr)


def alone(folder: Path, name: str, again: bool = False, **options: Any) -> Path:
    """The run of one process, here."""
    if again or not (folder / name).exists():
        here = Path.cwd()
        os.chdir(folder)
        try:
            runs.run(run_options(words(1, name, **options)))
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
    return {name: value for name, value in found.items() if name != "eval_dataset" and "runtime" not in name}


def assert_same(one: Path, two: Path, near: float = SAME) -> None:
    """Losses of every step, weights at the end, and what was measured, are those of one process."""
    assert losses(two) == pytest.approx(losses(one), rel=near, abs=1e-7) and len(losses(one)) == 3
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys() and first
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=0, atol=2e-5)
    assert results(two) == pytest.approx(results(one), rel=near, abs=5e-6)  # margins are differences


RUNS: dict[str, dict[str, Any]] = {
    "lora": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    "full": {"finetuning_type": "full"},
    "rm": {"stage": "rm"},
    "dpo": {"stage": "dpo"},
}
ANSWERING: dict[str, dict[str, Any]] = {
    "ppo": {"stage": "ppo", "reward_model": "one_rm", "top_k": 1, "temperature": 1, "max_new_tokens": 6,
            "ppo_epochs": 2, "max_steps": 3},
    "grpo": {"stage": "grpo", "rewards": "rewards_of_processes:short", "num_generations": 4, "grpo_beta": 0.1,
             "max_new_tokens": 6, "per_device_train_batch_size": 16},
}  # fmt: skip


@pytest.fixture(scope="module")
def ddp(workplace: Path) -> SimpleNamespace:
    """All of DDP in one launch; `alone` are the same runs by one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "_generate_single_turn", answers)
        patch.syspath_prepend(workplace)
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
    assert_same(ddp.folder / f"one_{name}", ddp.folder / f"ddp_{name}")


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
    assert_same(fsdp.folder / f"one_{name}", fsdp.folder / f"fsdp_{name}")


def test_whole_checkpoints_of_fsdp_hold_the_model(fsdp: SimpleNamespace) -> None:
    assert_same(fsdp.folder / "one_full", fsdp.folder / "whole_full")
    assert weights(fsdp.folder / "whole_full/checkpoint-3").keys() == weights(fsdp.folder / "one_full").keys()


def test_the_first_process_alone_prepares_writes_and_speaks(ddp: SimpleNamespace, fsdp: SimpleNamespace) -> None:
    for several in (ddp, fsdp):
        assert several.notes[1]["encoded"] == 0
        shards = {path for path in several.notes[1]["written"] if path.endswith(".distcp")}
        others = {path for path in several.notes[1]["written"] if "ddp_" in path or "fsdp_" in path} - shards
        assert not {path for path in others if not path.endswith(("rng_state_1.pth", "rollout_1.safetensors"))}
    assert ddp.notes[0]["encoded"] == 4  # conversations; pairs as rm and dpo, and as kto take them
    assert ddp.said.count("step 1/3") == 6  # not of grpo, whose log is TRL's


def test_what_shards_can_not_do_is_refused_before_loading(fsdp: SimpleNamespace) -> None:
    assert [note["left"] for note in fsdp.notes] == [{"refused": 2}, {"refused": 2}]
    assert "compares with a copy of the whole weights, which FSDP2 does not keep" in fsdp.said
    assert not (fsdp.folder / "refused").exists()


def test_a_sharded_checkpoint_is_exported(fsdp: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    from carellama.cli import call

    monkeypatch.chdir(fsdp.folder)
    for name in ("full", "lora"):
        checkpoint = f"fsdp_{name}/checkpoint-3"
        assert is_sharded(Path(checkpoint))
        assert Path(checkpoint, "adapter_model.safetensors").exists() == (name == "lora")
        options = {"model_name_or_path": "model", "checkpoint_dir": checkpoint, "output_dir": f"out_{name}"}
        call("export", to_flags(options))
        call("export", to_flags(options | {"checkpoint_dir": f"one_{name}", "output_dir": f"out_one_{name}"}))
        one, two = weights(Path(f"out_one_{name}")), weights(Path(f"out_{name}"))
        assert one.keys() == two.keys()
        for key, weight in one.items():
            torch.testing.assert_close(two[key], weight, rtol=0, atol=2e-5)


def test_shards_that_are_damaged_or_no_shards_are_refused(fsdp: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(fsdp.folder / "fsdp_full/checkpoint-3", tmp_path / "bad")
    index = tmp_path / "bad" / SHARDS / ".metadata"
    whole = index.read_bytes()
    index.write_bytes(b"cos\nsystem\n(S'touch harmed'\ntR.")
    with pytest.raises(UserError, match=r"asks for (os|posix).system, which is no description of a tensor"):
        read_shards(tmp_path / "bad")
    index.write_bytes(whole)
    next(index.parent.glob("*.distcp")).unlink()
    with pytest.raises(UserError, match="cannot read the shards"):
        read_shards(tmp_path / "bad")


def cut(folder: Path, name: str, into: str) -> str:
    """A run as it was when it was killed after its first checkpoint."""
    shutil.copytree(folder / name, folder / into)
    shutil.rmtree(folder / into / "checkpoint-3")
    for path in [*(folder / into).glob("*_results.json"), *(folder / into).glob("*.safetensors")]:
        path.unlink()
    return into


@pytest.mark.slow
def test_a_run_goes_on_from_what_several_processes_saved(ddp: SimpleNamespace, fsdp: SimpleNamespace) -> None:
    """In as many processes; in one after DDP; in four after FSDP2; and not where other records would follow."""
    folder = ddp.folder
    planned = [words(2, cut(folder, name, f"again_{name}"), **RUNS[name.partition("_")[2]] | options)
               for name, options in (("ddp_lora", {}), ("fsdp_full", SHARDED), ("fsdp_lora", SHARDED))]  # fmt: skip
    planned.append(words(2, cut(folder, "fsdp_full", "other_engine"), **RUNS["full"]))
    planned.append(words(2, cut(folder, "ddp_rm", "by_one"), **RUNS["rm"]))
    made = several(folder, 29543, planned)
    assert "was made under FSDP2 (SHARDED_STATE_DICT), this is DDP: launch it as before" in made.said
    assert made.notes[0]["left"] == {"other_engine": 2}
    for name in ("ddp_lora", "fsdp_full", "fsdp_lora"):
        assert_same(folder / f"one_{name.partition('_')[2]}", folder / f"again_{name}")
    cut(folder, "ddp_full", "one_goes_on")
    alone(folder, "one_goes_on", again=True, **RUNS["full"])
    assert_same(folder / "one_full", folder / "one_goes_on")
    cut(folder, "fsdp_full", "four")
    four = [words(4, "four", **RUNS["full"] | SHARDED), words(2, cut(folder, "ddp_rm", "larger"), **RUNS["rm"])]
    made = several(folder, 29544, four, preloaded.torchrun(4, 29544))
    assert_same(folder / "one_full", folder / "four")
    assert "with 16 records a step in place of 8" in made.said and made.notes[0]["left"] == {"larger": 2}


@pytest.mark.slow
def test_a_signal_stops_all_processes_at_one_step_with_a_checkpoint(workplace: Path) -> None:
    """To the whole group, as a terminal and SLURM send it: the launcher passes it on, so each process gets two."""
    run = words(2, "stopped", max_steps=4000, save_strategy="no", do_eval=False, val_size=0)
    torchrun = [str(PROGRAMS / "torchrun"), "--nproc_per_node", "2", "--master_port", "29545"]
    command = [*torchrun, "-m", "carellama", "train", *run]
    process = subprocess.Popen(command, cwd=workplace, env=environment(workplace), stderr=subprocess.PIPE, text=True,
                               start_new_session=True)  # fmt: skip
    log = workplace / "stopped/trainer_log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and said.count("the same command goes on from stopped/checkpoint-") == 1
    (checkpoint,) = (workplace / "stopped").glob("checkpoint-*")
    assert (checkpoint / "trainer_state.json").is_file() and (checkpoint / "rng_state_1.pth").is_file()
    assert not (workplace / "stopped/.saving").exists()


@pytest.mark.slow
def test_accelerate_shards_as_its_file_says(workplace: Path) -> None:
    """Also where one process alone reads the weights, and an adapter is merged into them first."""
    merged: dict[str, Any] = {"checkpoint_dir": "one_full", "dataset": "chats.json"}
    alone(workplace, "one_full", **RUNS["full"])
    alone(workplace, "one_merged", **merged)
    launch = preloaded.accelerate(REPOSITORY / "examples/accelerate/fsdp2_cpu.yaml", 29546)
    planned = [words(2, "launched_full", **RUNS["full"]), words(2, "launched_merged", **merged)]
    made = several(workplace, 29546, planned, launch)
    for one in ("full", "merged"):
        assert made.notes[1]["sharded"][f"launched_{one}"]
        assert_same(workplace / f"one_{one}", workplace / f"launched_{one}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_knows_every_key_of_the_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.dataclasses import DistributedType

    found = load_config_from_file(str(path))  # which raises for a key that it does not know
    text = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert found.distributed_type == DistributedType(text["distributed_type"])
    launcher = {option for action in launch_command_parser()._actions for option in action.option_strings}
    for group in ("fsdp_config", "deepspeed_config"):
        for key in text.get(group, {}):
            assert f"--{key}" in launcher, f"{path}: {key}"


REFUSED = {
    "one process": ({}, {"WORLD_SIZE": "1"}, "shards over processes and there is one"),
    "not launched": ({}, {"LOCAL_RANK": None}, "shards over processes and there is one"),
    "version 1": ({}, {"FSDP_VERSION": "1"}, "set fsdp_version: 2"),
    "no training": ({"do_train": False}, {}, "FSDP2 is for training"),
    "predict": ({"do_predict": True, "predict_with_generate": True}, {}, "carellama predict, later"),
    "ppo": ({"stage": "ppo", "reward_model": "rm", "do_eval": False, "val_size": 0}, {}, "answers with whole weights"),
    "grpo": ({"stage": "grpo", "rewards": "letter", "num_generations": 2}, {}, "answers with whole weights"),
    "dpo": ({"stage": "dpo", "finetuning_type": "full"}, {}, "take lora, or launch it with DDP"),
    "kto": ({"stage": "kto", "finetuning_type": "freeze"}, {}, "take lora, or launch it with DDP"),
    "quantised": ({"quantization_bit": 4}, {}, "--quantization_bit does not go with FSDP2"),
    "pissa": ({"pissa_init": True}, {}, "--pissa_init takes directions out of whole weights"),
    "accelerate --cpu": ({}, {"ACCELERATE_USE_FSDP": None, "ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1",
                              "WORLD_SIZE": None, "LOCAL_RANK": None}, "started one process of several"),
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """As a second process sees it that was told to use FSDP; the devices are not looked for."""
    told = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "RANK": "0"}
    for name in [name for name in os.environ if name.startswith(("FSDP_", "ACCELERATE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("transformers.TrainingArguments._setup_devices", torch.device("cpu"))
    monkeypatch.setattr("carellama.train.arguments.allow_fsdp_on_cpu", lambda training: None)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    yield monkeypatch


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_engine_can_not_do_is_refused_with_what_can(case: str, asked: pytest.MonkeyPatch) -> None:
    options, variables, reason = REFUSED[case]
    for name, value in variables.items():  # type: ignore[attr-defined]
        asked.delenv(name) if value is None else asked.setenv(name, value)
    with pytest.raises(UserError, match=reason):
        run_options(words(1, "nowhere", **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"finetuning_type": "full"}, {"stage": "rm"}, {"stage": "dpo"},
                                     {"stage": "dpo", "finetuning_type": "full", "pref_loss": "simpo"},
                                     {"stage": "kto"}, {"use_dora": True}, {"finetuning_type": "freeze"}])  # fmt: skip
def test_what_an_engine_can_do_is_not_refused(options: dict, asked: pytest.MonkeyPatch) -> None:
    engine = engines.engine_of(run_options(words(1, "nowhere", **options)).training)
    assert (engine.name, engine.processes, engine.state) == ("FSDP2", 2, "SHARDED_STATE_DICT")


def test_zero_3_needs_whole_weights_to_begin_with_and_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what DeepSpeed's plugin says; DeepSpeed itself is not needed to be told so."""

    def checked(settings: dict, **options: Any) -> None:
        config = run_options(words(1, "nowhere", **options))
        plugin = SimpleNamespace(zero_stage=3, zero3_save_16bit_model=True, deepspeed_config={})
        vars(plugin).update(settings)
        config.training.deepspeed_plugin = plugin  # type: ignore[assignment]
        engines.check_engine(config)

    monkeypatch.setattr(engines, "launched", lambda: True)
    checked({})
    checked({"zero_stage": 2, "zero3_save_16bit_model": False}, checkpoint_dir="earlier", peft_type="lokr")
    for settings, options, reason in (
        ({}, {"checkpoint_dir": "earlier"}, "export them first"),
        ({}, {"add_tokens": "tokens.txt"}, "take ZeRO-2 or FSDP2"),
        ({}, {"peft_type": "lokr"}, "begins with whole weights"),
        ({"zero3_save_16bit_model": False}, {}, "would save no weights"),
        ({"deepspeed_config": {"gradient_accumulation_steps": 4}}, {}, "set it to auto there"),
    ):
        with pytest.raises(UserError, match=reason):
            checked(settings, **options)


def test_the_records_of_all_processes_are_put_back_in_order() -> None:
    """As accelerate deals out batches: in turn, the last ones filled up from the first."""
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    from carellama.train.trainer import gather_in_order

    for records in range(1, 14):
        for size in (1, 2, 4):
            for processes in (1, 2, 3):
                batches = BatchSampler(range(records), size, drop_last=False)
                every = []
                for process in range(processes):
                    mine = BatchSamplerShard(batches, processes, process) if processes > 1 else batches
                    every += [torch.tensor(batch)[:, None] for batch in mine]
                assert gather_in_order(every, processes, records)[:, 0].tolist() == list(range(records))
