"""What options name is looked for before anything is loaded or converted (A13: it was told after 27 s)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import preloaded
from carellama.config.data import DataOptions
from carellama.config.engine import EngineOptions
from carellama.config.model import ModelOptions
from carellama.engine import load as choose
from carellama.errors import UserError
from carellama.model.paths import check_model, check_reward_model, filled_folder


def test_folders_that_are_not_there(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    model = str(tmp_path)
    check_model(ModelOptions(model, checkpoint_dir=model))
    for name, says in ((f"{model}/x", "no such folder"), (f"{model},{model}/x", "no such folder")):
        with pytest.raises(UserError, match=f"--checkpoint_dir {tmp_path}/x: there is {says}"):
            check_model(ModelOptions(model, checkpoint_dir=name))
    (tmp_path / "empty" / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds neither an adapter .* its last checkpoint is .*checkpoint-5"):
        check_model(ModelOptions(model, checkpoint_dir=f"{model}/empty"))
    with pytest.raises(UserError, match=r"--adapters a=.*holds no adapter"):
        check_model(ModelOptions(model), {"a": model})
    with pytest.raises(UserError, match="--reward_model /nope: there is no such folder"):
        check_reward_model("/nope")
    check_reward_model("someone/a-reward-model")


@pytest.mark.parametrize("engine", ["auto", "llamacpp", "transformers", "openvino", "vllm"])
def test_no_engine_is_loaded_for_a_checkpoint_that_is_not_there(tmp_path, monkeypatch, engine) -> None:
    def never(*arguments):
        raise AssertionError("an engine was loaded")

    monkeypatch.setattr(choose, "load", never)
    (tmp_path / "config.json").write_text("{}")
    model = ModelOptions(str(tmp_path), checkpoint_dir="/nope")
    with pytest.raises(UserError, match="--checkpoint_dir /nope: there is no such folder"):
        choose.choose(model, DataOptions(), EngineOptions(engine=engine))


@pytest.mark.slow
@pytest.mark.parametrize("words", ["api", "chat", "ask Hi", "web", "export --output_dir o", "predict --dataset d"])
def test_every_command_says_so_in_one_line(tmp_path, words) -> None:
    done = subprocess.run(
        [preloaded.python(), "-m", "carellama", *words.split(), "--model_name_or_path", "smollm2-135m",
         "--checkpoint_dir", "/nope"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"CARELLAMA_CACHE": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr == "error: --checkpoint_dir /nope: there is no such folder\n"


def test_what_a_killed_run_left_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = tmp_path / ".out[1].making-killed"
    left.mkdir()
    with filled_folder(tmp_path / "out[1]") as made:
        (made / "config.json").write_text("{}")
    assert (tmp_path / "out[1]" / "config.json").is_file() and left.is_dir()
    said = capsys.readouterr()
    assert str(left) in said.err + said.out and "delete it" in said.err + said.out
