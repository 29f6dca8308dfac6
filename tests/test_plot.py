"""The loss curve: a PNG of what was logged, and a smoothing that keeps a level."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carellama.train.plot import plot_loss, smooth


def test_smoothing_keeps_a_level_and_stays_within_the_values() -> None:
    assert smooth([2.0] * 5) == pytest.approx([2.0] * 5)
    found = smooth([4.0, 2.0, 3.0])
    assert found[0] == pytest.approx(4.0) and all(2 <= value <= 4 for value in found)
    assert smooth([]) == []


def test_the_picture_shows_what_was_logged(tmp_path: Path) -> None:
    log = tmp_path / "trainer_log.jsonl"
    log.write_text(json.dumps({"current_steps": 1, "train_runtime": 1.0}) + "\n")
    assert plot_loss(tmp_path) is None
    entries = [
        {"current_steps": 1, "loss": 3.0},
        {"current_steps": 2, "loss": 2.5},
        {"current_steps": 2, "eval_loss": 2.6},
    ]
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert plot_loss(tmp_path) == tmp_path / "training_loss.png"
    assert (tmp_path / "training_loss.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.glob("*.tmp*")] == []
