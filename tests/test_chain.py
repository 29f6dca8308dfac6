"""`carellama recipe`: stages in turn from each other's checkpoints, gone on with, done again, measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

import preloaded
from carellama.errors import UserError
from carellama.files import write_json
from carellama.train.recipe import (
    Step,
    _again,
    _forget_measures,
    _measured_so,
    _refuse_other_settings,
    data_of,
    read_chain,
)

SHORT = {"max_new_tokens": 8, "temperature": 1, "top_p": 1, "top_k": 0}


def recipe(folder: Path, model: Path, **changes: object) -> Path:
    pairs = [{"instruction": f"Does it hurt {n}?", "input": "", "output": ["See a doctor.", "No."]} for n in range(12)]
    chats = [{"instruction": f"What helps {n}?", "input": "", "output": "Rest, and tea."} for n in range(12)]
    (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
    (folder / "chats.json").write_text(json.dumps(chats), encoding="utf-8")
    pairs_file, chats_file = str(folder / "pairs.json"), str(folder / "chats.json")
    content = {
        "output_dir": str(folder / "chain"),
        "settings": {
            "model_name_or_path": str(model), "max_steps": 2, "learning_rate": 1e-2, "disable_tqdm": True,
            "data_cache_dir": str(folder / "cache"), "per_device_train_batch_size": 4,
        },
        "stages": {
            "sft": {"stage": "sft", "dataset": chats_file},
            "rm": {"stage": "rm", "dataset": pairs_file},
            "ppo": {"stage": "ppo", "after": "sft", "reward_model": "rm", "dataset": chats_file, **SHORT},
            "dpo": {"stage": "dpo", "after": "sft", "dataset": pairs_file},
        },
        "measure": {
            "answers": {"dataset": chats_file},
            "pairs": {"stage": "rm", "dataset": pairs_file},
            "scores": {"stage": "ppo", "reward_model": "rm", "dataset": chats_file, **SHORT},
        },
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False), encoding="utf-8")
    return path


def command(path: Path, *words: str) -> list[str]:
    return [preloaded.python(), "-m", "carellama", "recipe", str(path), *words]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(path: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(command(path, *words), capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def checkpoints(steps: list[Step]) -> dict[str, list[str]]:
    return {step.name: [folder.name for folder in step.checkpoints] for step in steps}


@pytest.mark.parametrize("again", [{"create_new_adapter": True}, {"resume_lora_training": 0}])
def test_a_new_adapter_is_measured_on_the_one_that_it_was_trained_on(tmp_path, tiny_folder, again):
    """Only `resume_lora_training: false` was known: by another name or value the adapter was measured on the base."""
    chats = {"stage": "sft", "dataset": str(tmp_path / "chats.json")}
    stages = {"a": chats, "b": chats | again, "c": chats | {"after": "a"}, "d": chats | {"finetuning_type": "full"}}
    found = checkpoints(read_chain(str(recipe(tmp_path, tiny_folder, stages=stages)))[1])
    assert found == {"a": ["a"], "b": ["a", "b"], "c": ["c"], "d": ["d"]}


def test_checkpoints_that_a_recipe_begins_from_are_measured_as_well(tmp_path, tiny_folder):
    """The first stage was trained on checkpoint_dir, and measured without it."""
    begun, path = tmp_path / "begun", recipe(tmp_path, tiny_folder)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    begun.mkdir()
    (begun / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    content["settings"] |= {"checkpoint_dir": str(begun), "resume_lora_training": False}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    assert checkpoints(read_chain(str(path))[1])["dpo"] == ["begun", "sft", "dpo"]
    content["stages"]["dpo"]["checkpoint_dir"] = str(begun)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    with pytest.raises(UserError, match="stage dpo comes after sft, whose checkpoints it begins from"):
        read_chain(str(path))


def test_each_stage_begins_from_the_right_checkpoints(tmp_path, tiny_folder):
    _, steps, _ = read_chain(str(recipe(tmp_path, tiny_folder)))
    assert checkpoints(steps) == {"sft": ["sft"], "rm": ["sft", "rm"], "ppo": ["sft", "ppo"], "dpo": ["sft", "dpo"]}
    scored = steps[2].options
    assert scored["reward_model"] == ",".join(str(tmp_path / "chain" / name) for name in ("sft", "rm"))
    assert scored["checkpoint_dir"] == str(tmp_path / "chain/sft")
    stages = yaml.safe_load((tmp_path / "recipe.yaml").read_text())["stages"]
    first = {"pt": {"stage": "pt", "dataset": stages["sft"]["dataset"]}}
    full = {**first, **stages, "sft": {**stages["sft"], "finetuning_type": "full"}}
    last = {"more": {"stage": "sft", "dataset": stages["sft"]["dataset"], "after": "dpo"}}
    _, steps, _ = read_chain(str(recipe(tmp_path, tiny_folder, stages={**first, **stages, **last})))
    assert checkpoints(steps) == {
        "pt": ["pt"], "sft": ["sft"], "rm": ["sft", "rm"], "ppo": ["sft", "ppo"], "dpo": ["sft", "dpo"],
        "more": ["sft", "more"],
    }  # fmt: skip
    _, steps, _ = read_chain(str(recipe(tmp_path, tiny_folder, stages=full)))
    assert checkpoints(steps)["sft"] == ["sft"] and checkpoints(steps)["dpo"] == ["sft", "dpo"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": {"sft": {"stage": "sftt", "dataset": "a"}}}, "sft"),
        ({"stages": {"sft": {"dataset": "a", "after": "pt"}}}, "does not stand before it"),
        ({"stages": {"../x": {"dataset": "a"}}}, "cannot be a stage's name"),
        ({"stages": {}}, "has no stages"),
        ({"stages": {"sft": {"dataset": "a", "learning_rat": 1}}}, "--learning_rate"),
        (
            {"stages": {"sft": {"dataset": "a"}, "ppo": {"dataset": "a", "reward_model": "sft"}}},
            "not rm",
        ),
        ({"output_dir": None}, "names no output_dir"),
        ({"mesure": {}}, "measure"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_runs(tmp_path, tiny_folder, changes, said):
    with pytest.raises(UserError, match=said):
        read_chain(str(recipe(tmp_path, tiny_folder, **changes)))


def test_a_recipe_runs_goes_on_and_ends_in_a_table(tmp_path, tiny_folder):
    """Stopped in its first stage, gone on with to the end, then not done again; other settings are refused."""
    path = recipe(tmp_path, tiny_folder)
    settings = yaml.safe_load(path.read_text())
    settings["stages"]["sft"] |= {"max_steps": 400, "save_steps": 1000}
    slow = tmp_path / "slow.yaml"
    slow.write_text(yaml.safe_dump(settings, sort_keys=False))
    process = subprocess.Popen(
        command(slow), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
    )
    log = tmp_path / "chain/sft/run.json"
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and not (tmp_path / "chain/rm").exists(), said
    assert "made with other settings (max_steps" in run(path, status=2)
    said = run(path, "--redo", "sft")
    table = (tmp_path / "chain/table.md").read_text()
    header = table.splitlines()[0].split("|")
    assert [cell.strip() for cell in header[1:-1]] == ["metric", "base", "sft", "rm", "ppo", "dpo", "n"]
    rows = {line.split("|")[1].strip(): line for line in table.splitlines()[2:]}
    measured = {
        name: [cell.strip() != "-" for cell in rows[name].split("|")[2:-2]]
        for name in ("answers: loss (lower is better)", "pairs: accuracy", "scores: score")
    }
    language, reward = [True, True, False, True, True], [False, False, True, False, False]
    assert list(measured.values()) == [language, reward, language]
    files = sorted((tmp_path / "chain").rglob("*.safetensors"))
    times = [file.stat().st_mtime_ns for file in files]
    assert run(path).count("done before") == 4
    assert times == [file.stat().st_mtime_ns for file in files]


def test_what_a_reward_model_has_scored_is_done_again_with_it(tmp_path, tiny_folder):
    _, steps, measures = read_chain(str(recipe(tmp_path, tiny_folder)))
    assert _again(steps, ["rm"]) == {"rm", "ppo"} and _again(steps, ["dpo"]) == {"dpo"}
    homes = [tmp_path / "chain/measured" / name for name in ("base/answers", "base/scores", "rm/pairs")]
    for home in homes:
        home.mkdir(parents=True)
    _forget_measures(tmp_path / "chain", steps[1], measures)
    assert [home.exists() for home in homes] == [True, False, False]
    stages = yaml.safe_load((tmp_path / "recipe.yaml").read_text())["stages"]
    before = steps[2].made
    stages["rm"]["max_steps"] = 3
    _, steps, _ = read_chain(str(recipe(tmp_path, tiny_folder, stages=stages)))
    assert steps[2].made != before


def test_a_stage_is_not_done_before_with_other_data(tmp_path, tiny_folder):
    """Records were added to a dataset, and the stage that had learned the old ones counted as done."""
    _, (step, *_), _ = read_chain(str(recipe(tmp_path, tiny_folder)))
    step.account.parent.mkdir(parents=True)
    write_json(step.account, step.made | {"data": data_of(step.flags)})
    _refuse_other_settings(step, set(), data_of(step.flags))
    (tmp_path / "chats.json").write_text(json.dumps([{"instruction": "a", "output": "b"}]), encoding="utf-8")
    with pytest.raises(UserError, match=r"other contents of .*chats.json: give --redo sft"):
        _refuse_other_settings(step, set(), data_of(step.flags))
    _refuse_other_settings(step, {"sft"}, data_of(step.flags))


def test_what_was_measured_on_other_data_is_measured_again(tmp_path):
    write_json(tmp_path / "measure.json", {"dataset": "a", "data": {"a": "1"}})
    assert _measured_so(tmp_path, {"dataset": "a"}, {"a": "1"})
    assert not _measured_so(tmp_path, {"dataset": "a"}, {"a": "2"})
    assert not _measured_so(tmp_path, {"dataset": "b"}, {"a": "1"})
    write_json(tmp_path / "measure.json", {"dataset": "a"})  # as an earlier version wrote it
    assert _measured_so(tmp_path, {"dataset": "a"}, {"a": "2"})


def test_options_of_all_stages_are_those_that_a_stage_uses(tmp_path, tiny_folder, caplog):
    path = recipe(tmp_path, tiny_folder)
    content = yaml.safe_load(path.read_text())
    content["settings"] |= {"pref_beta": 0.2, "lora_rank": 4}
    content["stages"]["rm"]["simpo_gamma"] = 1
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with caplog.at_level("WARNING", "carellama"):
        _, steps, measures = read_chain(str(path))
    assert ["--pref_beta" in step.flags for step in steps] == [False, False, False, True]
    assert all("--lora_rank" in step.flags for step in steps)
    assert "learning_rate" not in measures["answers"] and "model_name_or_path" in measures["answers"]
    assert [line.partition(":")[0] for line in caplog.messages if "no effect" in line] == [
        "--simpo_gamma has no effect"
    ]
