"""An impossible loss ends a run before it spoils the weights, and names the records."""

from __future__ import annotations

import json
import math

import pytest
from safetensors.torch import load_file

from carellama import run as runs
from carellama.config.parse import as_flags
from carellama.config.run import run_config
from carellama.train.causal import CausalTrainer
from carellama.train.guard import FEWEST, Diverged, LossGuard


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_never_taken(loss):
    with pytest.raises(Diverged, match=r"in step 3.*its batch: a row 1, a row 7"):
        LossGuard().check(loss, 2, ["a row 1", "a row 7"])


def test_a_loss_far_above_the_usual_is_not_taken():
    guard = LossGuard()
    guard.check(1e6, 0, [])  # nothing is known yet
    for step in range(FEWEST):
        guard.check(2.0 + step / 10, step + 1, [])
    guard.check(12.0, 20, [])  # high, and possible
    with pytest.raises(Diverged, match=r"is 40, after 2\.55 in the batches before"):
        guard.check(40.0, 21, [f"a row {number}" for number in range(20)])
    guard.check(2.0, 22, [])


def test_small_losses_may_jump():
    """Of rewards, losses are near 0 and change their sign."""
    guard = LossGuard()
    for step in range(2 * FEWEST):
        guard.check((-1) ** step * 1e-3, step, [])
    guard.check(5.0, 30, [])
    with pytest.raises(Diverged, match="after "):  # 10 more than the usual is too much
        guard.check(11.0, 31, [])


def test_a_run_that_diverges_ends_with_its_last_good_checkpoint(tmp_path, tiny_folder, monkeypatch):
    rows = [{"instruction": f"Question {number}?", "input": "", "output": "Rest."} for number in range(8)]
    data = tmp_path / "chats.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    given = {
        "model_name_or_path": tiny_folder, "dataset": data, "output_dir": tmp_path / "out", "do_train": True,
        "data_cache_dir": tmp_path / "cache", "max_steps": 6, "save_steps": 1, "disable_tqdm": True, "bf16": False,
        "per_device_train_batch_size": 2,
    }  # fmt: skip
    config = run_config(as_flags(given))
    batch_loss = CausalTrainer.batch_loss

    def poisoned(trainer, model, batch):
        total, count = batch_loss(trainer, model, batch)
        return (total * math.nan if trainer.state.global_step == 3 else total), count

    monkeypatch.setattr(CausalTrainer, "batch_loss", poisoned)
    with pytest.raises(Diverged, match=r"the loss is .* in step \d.*chats\.json row \d"):
        runs.run(config)
    steps = sorted(int(path.name.partition("-")[2]) for path in (tmp_path / "out").glob("checkpoint-*"))
    assert steps[-1] == 3 and not (tmp_path / "out/train_results.json").exists()
    weights = load_file(tmp_path / "out/checkpoint-3/adapter_model.safetensors")
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
