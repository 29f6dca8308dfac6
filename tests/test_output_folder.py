"""The output folder of a training: what is refused leaves it as it was, and one training at a time writes into it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from carellama.config.reader import to_flags
from carellama.errors import UserError
from carellama.run_record import read_run
from carellama.train import run as runs
from carellama.train.options import run_options
from carellama.train.output_folder import LOCK, check_sources, checkpoints_of, locked, remove_previous_run

HOLD = """
import sys
from pathlib import Path
from carellama.train.output_folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def flags(folder: Path, model: Path, **options: Any) -> list[str]:
    rows = [{"instruction": f"Question {n}?", "output": f"Answer {n}."} for n in range(6)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    given = {
        "model_name_or_path": model, "dataset": folder / "rows.json", "output_dir": folder / "out", "max_steps": 2,
        "data_cache_dir": folder / "cache", "save_steps": 1, "bf16": False, "per_device_train_batch_size": 2,
        "report_to": "none", "skip_plan": True,
    }  # fmt: skip
    return to_flags(given | options)


def train(folder: Path, model: Path, **options: Any) -> None:
    runs.run(run_options(flags(folder, model, do_train=True, **options)))


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def finished(tmp_path: Path, tiny_folder: Path) -> Path:
    train(tmp_path, tiny_folder)
    return tmp_path / "out"


def unfinished(finished: Path) -> Path:
    """The folder as a run leaves it that is killed after its first checkpoint."""
    (finished / "train_results.json").unlink()
    return finished


@pytest.mark.parametrize("given", ["", " "])
def test_an_empty_output_dir_is_refused(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """--output_dir "" --overwrite_output_dir removed runs/ and checkpoint-old/ of the working folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--output_dir is (empty|an empty text)"):
        train(tmp_path, tiny_folder, output_dir=given, overwrite_output_dir=True)


def test_only_what_a_training_wrote_is_removed(finished: Path, tmp_path: Path) -> None:
    """All of checkpoint-* and adapter_* and the whole of runs/ went, in folders of no run as well."""
    for home in (finished, tmp_path / "no_run"):
        (home / "runs" / "july").mkdir(parents=True)
        (home / "checkpoint-old").mkdir()
        (home / "adapter_notes.txt").touch()
        (home / "runs" / "july" / "notes.txt").touch()
    (finished / "runs" / "june").mkdir()
    (finished / "runs" / "june" / "events.out.tfevents.1.host").touch()
    kept = files_in(tmp_path / "no_run")
    for home in (finished, tmp_path / "no_run"):
        remove_previous_run(home)
    assert files_in(tmp_path / "no_run") == kept and (tmp_path / "no_run" / "checkpoint-old").is_dir()
    left = files_in(finished)
    assert set(kept) <= set(left) and (finished / "checkpoint-old").is_dir() and not (finished / "runs/june").exists()
    assert not checkpoints_of(finished) and not any(finished.glob("*.safetensors")) and "run.json" not in left


def test_an_evaluation_does_not_make_a_model_ours(tmp_path: Path, tiny_folder: Path) -> None:
    """run.json of an evaluation in the folder of a model made its weights those of an earlier training."""
    home = tmp_path / "model"
    home.mkdir()
    (home / "model.safetensors").write_bytes(b"weights")
    (home / "run.json").write_text(json.dumps({"settings": {"training": {"do_train": False}}}), encoding="utf-8")
    with pytest.raises(UserError, match="holds weights and no run of a training"):
        train(tmp_path, tiny_folder, output_dir=home, overwrite_output_dir=True)
    remove_previous_run(home)
    assert set(files_in(home)) == {"model.safetensors"}


@pytest.mark.parametrize("refused", [{"template": "nosuch"}, {"lora_target": "no_proj"}, {"optim": "galore_adamw"}])
def test_a_refused_training_leaves_the_earlier_run(
    finished: Path, tmp_path: Path, tiny_folder: Path, refused: dict[str, str]
) -> None:
    """--overwrite_output_dir removed the adapter and all checkpoints, then the template was refused."""
    before = files_in(finished)
    with pytest.raises(UserError):
        train(tmp_path, tiny_folder, overwrite_output_dir=True, **refused)
    assert files_in(finished) == before
    train(tmp_path, tiny_folder, overwrite_output_dir=True, max_steps=1)
    assert [path.name for path in checkpoints_of(finished)] == ["checkpoint-1"]


def test_resuming_and_replacing_contradict_each_other(finished: Path, tmp_path: Path, tiny_folder: Path) -> None:
    """The checkpoints were removed and the run began at step 0, without a word."""
    before = files_in(unfinished(finished))
    for asked in ("true", str(finished / "checkpoint-1")):
        with pytest.raises(UserError, match="--overwrite_output_dir"):
            train(tmp_path, tiny_folder, resume_from_checkpoint=asked, overwrite_output_dir=True)
    with pytest.raises(UserError, match=r"false, and --output_dir .* unfinished run .checkpoint-2"):
        train(tmp_path, tiny_folder, resume_from_checkpoint="false")
    with pytest.raises(UserError, match=r"true: --output_dir .* holds no checkpoint"):
        train(tmp_path, tiny_folder, resume_from_checkpoint="true", output_dir=tmp_path / "new")
    assert files_in(finished) == before


@pytest.mark.parametrize(("command", "results"), [(runs.evaluate, "eval_results.json"), (runs.predict, "")])
def test_an_evaluation_with_the_settings_of_a_training_does_not_train(
    finished: Path, tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture, command: Any, results: str
) -> None:
    """carellama eval with do_train and overwrite_output_dir in its file trained, and replaced the model."""
    weights = {name: data for name, data in files_in(finished).items() if name.endswith(".safetensors")}
    settings = {"do_train": True, "overwrite_output_dir": True, "seed": 5, "max_new_tokens": 1, "max_samples": 1}
    command(flags(tmp_path, tiny_folder, **settings))
    assert "do_train is left out" in caplog.text
    after = files_in(finished)
    assert all(after[name] == data for name, data in weights.items()) and (not results or results in after)


def test_do_eval_false_leaves_the_training(tmp_path: Path, tiny_folder: Path) -> None:
    """carellama train --do_eval false said that there is nothing to do."""
    runs.train(flags(tmp_path, tiny_folder, do_eval=False, max_steps=1))
    assert (tmp_path / "out" / "train_results.json").is_file()


def test_two_trainings_do_not_write_into_one_folder(tmp_path: Path, tiny_folder: Path) -> None:
    """They mixed their checkpoints, and one of them ended with a traceback."""
    output = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"another training writes into it .process {other.pid} on "):
            train(tmp_path, tiny_folder)
        other.kill()  # which leaves the file, but not the lock
    assert (output / LOCK).is_file()
    with locked(output):
        pass
    assert not (output / LOCK).exists()


def test_run_json_is_that_of_the_folder_or_of_its_checkpoint(finished: Path, tmp_path: Path, tiny_folder: Path) -> None:
    """That of any folder above was taken: an evaluation in out/eval had none, an adapter in out/other was out's."""
    (finished / "checkpoint-1" / "run.json").unlink()
    assert read_run(finished / "checkpoint-1") == read_run(finished) is not None
    for name in ("eval", "checkpoint-old"):
        (finished / name).mkdir()
        assert read_run(finished / name) is None
    runs.evaluate(flags(tmp_path, tiny_folder, checkpoint_dir=finished, output_dir=finished / "eval"))
    record = read_run(finished / "eval")
    assert record is not None and not record["settings"]["training"]["do_train"]


def test_a_random_score_head_is_not_evaluated(tmp_path: Path, tiny_folder: Path) -> None:
    """carellama eval --stage rm without a checkpoint gave the accuracy of a head at random."""
    with pytest.raises(UserError, match="has no score head, so its scores would be random"):
        runs.evaluate(flags(tmp_path, tiny_folder, stage="rm"))


@pytest.mark.parametrize("below", [False, True])
def test_a_file_is_no_output_folder(tmp_path: Path, tiny_folder: Path, below: bool) -> None:
    """It was a traceback."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=r"--output_dir .* (is a file|cannot be made)"):
        train(tmp_path, tiny_folder, output_dir=file / "x" if below else file)


@pytest.mark.parametrize("kind", ["checkpoint", "inner", "links", "data"])
def test_what_the_run_reads_is_not_removed(kind: str, tmp_path: Path, tiny_folder: Path) -> None:
    """A model deep in a checkpoint, links to an older run's weights and its predictions as data went with that run."""
    out, model = tmp_path / "out", tmp_path / "model"
    inner = out / "checkpoint-1" / "export"
    for folder in (inner, model):
        folder.mkdir(parents=True)
    (out / "model.safetensors").write_text("old")
    (model / "model.safetensors").symlink_to(out / "model.safetensors")
    (out / "generated_predictions.jsonl").write_text("{}")
    given: dict[str, Any] = {
        "checkpoint": {"checkpoint_dir": out / "checkpoint-1"}, "inner": {"model_name_or_path": inner},
        "links": {"model_name_or_path": model}, "data": {"dataset": out / "generated_predictions.jsonl"},
    }[kind]  # fmt: skip
    options = run_options(flags(tmp_path, tiny_folder, do_train=True, overwrite_output_dir=True, **given))
    with pytest.raises(UserError, match=r"which this run reads and would write over"):
        check_sources(out, options)


def test_an_evaluation_may_lie_beside_its_model_but_not_on_its_data(tmp_path: Path, tiny_folder: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "predict_results.json").write_text("{}")
    given = {"do_predict": True, "predict_with_generate": True, "max_steps": None}
    beside = flags(tmp_path, tiny_folder, output_dir=tiny_folder, **given)
    check_sources(tiny_folder, run_options(beside))
    on_data = flags(tmp_path, tiny_folder, dataset=out / "predict_results.json", **given)
    with pytest.raises(UserError, match="would write over"):
        check_sources(out, run_options(on_data))
