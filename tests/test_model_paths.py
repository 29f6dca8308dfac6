"""What options name is looked for before anything is loaded or converted (A13: it was told after 27 s)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import preloaded
from carellama.config.data import DataOptions
from carellama.config.engine import EngineOptions
from carellama.config.model import ModelOptions
from carellama.engine import load as choose
from carellama.errors import UserError
from carellama.model.paths import check_model, check_output, check_reward_model, check_space, filled_folder


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


@pytest.mark.parametrize("overwrite", [True, False])
def test_the_root_of_a_disk_is_no_output(overwrite: bool) -> None:
    """A StopIteration."""
    with pytest.raises(UserError, match="--output_dir / is the current folder or a mounted disk"):
        check_output(Path("/"), (), overwrite=overwrite)


def test_of_two_runs_at_once_the_later_replaces_nothing(tmp_path: Path) -> None:
    """Both began with a new --output_dir, and the second took the place of what the first had written."""
    with pytest.raises(UserError, match="another run has filled it meanwhile"), filled_folder(tmp_path / "out") as made:
        (made / "config.json").write_text("second")
        with filled_folder(tmp_path / "out") as first:
            (first / "config.json").write_text("first")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "config.json").read_text() == "first"
    (tmp_path / "empty").mkdir()
    with filled_folder(tmp_path / "empty") as made:
        (made / "config.json").write_text("{}")
    assert (tmp_path / "empty" / "config.json").is_file()


def test_of_a_link_the_folder_behind_it_is_replaced(tmp_path: Path) -> None:
    """The link became a folder, and the real one kept the older model."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "config.json").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "new").symlink_to(tmp_path / "later")  # of a folder that is not there yet
    for name, behind in (("link", "real"), ("new", "later")):
        check_output(tmp_path / name, (), overwrite=True)
        with filled_folder(tmp_path / name, overwrite=True) as made:
            (made / "config.json").write_text("new")
        assert (tmp_path / name).is_symlink() and (tmp_path / behind / "config.json").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["later", "link", "new", "real"]
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(UserError, match="a link that leads to itself"):
        check_output(tmp_path / "round", (), overwrite=True)


def test_what_is_read_is_not_replaced_through_links(tmp_path: Path) -> None:
    """A folder of links to the weights of an older export lost them when that was replaced."""
    out, model = tmp_path / "out", tmp_path / "model"
    for folder in (out, model, out / "inner"):
        folder.mkdir()
    (out / "config.json").write_text("{}")
    (model / "config.json").symlink_to(out / "config.json")
    (tmp_path / "link").symlink_to(out)
    for target, source in ((out, model), (tmp_path / "link", out), (out, tmp_path / "link" / "inner"), (out, out)):
        with pytest.raises(UserError, match="which is read"):
            check_output(target, [source], overwrite=True)
    (model / "out").mkdir()
    (model / "out" / "config.json").write_text("{}")
    (model / "config.json").unlink()
    check_output(model / "out", [model], overwrite=True)  # within it, which takes nothing of the model


def test_the_room_is_looked_for_on_the_disk_behind_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "big" / "disk").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "big" / "disk")
    asked: list[Path] = []
    usage = shutil.disk_usage(tmp_path)

    def disk_usage(path: Path) -> object:
        asked.append(path)
        return usage._replace(free=10)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    with pytest.raises(UserError, match=r"the export takes 1\.00 GB"):
        check_space(tmp_path / "out", 1_000_000_000, "the export takes")
    assert asked == [tmp_path / "big"]
