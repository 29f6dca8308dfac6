"""The loss curve: a PNG of what was logged, and a smoothing that keeps a level."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from carellama.train.plot import exponential_moving_average, plot_loss


def test_smoothing_keeps_a_level_and_stays_within_the_values() -> None:
    assert exponential_moving_average([2.0] * 5) == pytest.approx([2.0] * 5)
    found = exponential_moving_average([4.0, 2.0, 3.0])
    assert found[0] == pytest.approx(4.0) and all(2 <= value <= 4 for value in found)
    assert exponential_moving_average([]) == []


def drawn(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """The axes of the picture of a folder."""
    figures = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: (figures.append(self), savefig(self, *args)))  # type: ignore[func-returns-value]
    assert plot_loss(folder, **options) == folder / "training_loss.png"
    assert (folder / "training_loss.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in folder.glob("*.tmp*")] == []
    return figures[0].axes[0]


def log_of(folder: Path, *entries: dict[str, object], **record: object) -> None:
    (folder / "trainer_log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    if record:
        (folder / "run.json").write_text(json.dumps(record))


def test_the_picture_shows_what_was_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault T15: ticks at step 1.25, no point for the evaluation after the training, a folder's name as title."""
    log_of(tmp_path, {"current_steps": 1, "train_runtime": 1.0})
    assert plot_loss(tmp_path) is None
    log_of(
        tmp_path, {"current_steps": 1, "loss": 3.0}, {"current_steps": 3, "loss": 2.5},
        {"current_steps": 3, "train_runtime": 1.0}, {"current_steps": 3, "eval_loss": 2.6},
        stage="sft", base_model="models/smollm2-135m", settings={"data": {"dataset": "consult_en"}},
    )  # fmt: skip
    axes = drawn(tmp_path, monkeypatch)
    assert axes.get_title() == "smollm2-135m, sft on consult_en" and axes.get_ylabel() == "loss per token (nats)"
    assert [tick for tick in axes.get_xticks() if tick != int(tick)] == []
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert lines["held-out loss"] == [[3, 2.6]] and lines["training loss"] == [[1, 3], [3, 2.5]]


def test_the_last_evaluation_is_of_the_weights_that_were_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_of(
        tmp_path, {"current_steps": 2, "eval_loss": 2.6}, {"current_steps": 4, "eval_loss": 2.8},
        {"current_steps": 4, "train_runtime": 1.0}, {"current_steps": 4, "eval_loss": 2.6}, stage="dpo",
    )  # fmt: skip
    axes = drawn(tmp_path, monkeypatch, kept=2)
    (line,) = axes.get_lines()
    assert line.get_xydata().tolist() == [[2, 2.6], [4, 2.8]] and axes.get_ylabel() == "loss per pair"


def test_ppo_is_drawn_by_its_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_of(tmp_path, {"current_steps": 1, "loss": 0.1, "ppo/score": 2.0}, {"current_steps": 1, "eval_score": 2.5},
           stage="ppo")  # fmt: skip
    lines = {line.get_label(): line.get_ydata().tolist() for line in drawn(tmp_path, monkeypatch).get_lines()}
    assert lines["training score"] == [2.0] and lines["held-out score"] == [2.5]
