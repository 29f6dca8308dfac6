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
from carellama.train.guard import FEWEST, Diverged, LossGuard, Term


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_never_taken(loss):
    problem = LossGuard().problem(loss, 2, ["a row 1", "a row 7"])
    assert problem and "in step 3" in problem and "its batch: a row 1, a row 7." in problem


def test_a_loss_far_above_the_usual_is_not_taken():
    guard = LossGuard()
    assert guard.problem(1e6, 0, []) is None  # nothing is known yet
    for step in range(FEWEST):
        assert guard.problem(2.0 + step / 10, step + 1, []) is None
    assert guard.problem(12.0, 20, []) is None  # high, and possible
    problem = guard.problem(40.0, 21, [f"a row {number}" for number in range(20)])
    assert problem and "is 40, after 2.55 in the batches before" in problem
    assert guard.problem(2.0, 22, []) is None


def test_small_losses_may_jump():
    """Of rewards, losses are near 0 and change their sign."""
    guard = LossGuard()
    problems = [guard.problem((-1) ** step * 1e-3, step, []) for step in range(2 * FEWEST)]
    assert problems == [None] * (2 * FEWEST) and guard.problem(5.0, 30, []) is None
    assert "after " in (guard.problem(11.0, 31, []) or ""), "10 more than the usual is too much"


def test_the_term_that_jumped_is_named_and_not_the_records():
    """Fault T29: grpo's records were blamed where the KL term had jumped."""
    guard = LossGuard()
    assert [guard.problem(0.1, step, []) for step in range(FEWEST)] == [None] * FEWEST
    term = Term("the KL term (--grpo_beta 0.04 x 1000)", 40.0, "lower --learning_rate")
    problem = guard.problem(41.0, 12, ["a row 1"], [term])
    assert (
        problem and "40 of it is the KL term (--grpo_beta 0.04 x 1000): lower" in problem and "a row 1" not in problem
    )
    small = Term("the KL term", 1.0, "")
    assert "a row 1" in (guard.problem(41.0, 12, ["a row 1"], [small]) or "")
    endless = Term("the KL term", math.nan, "")
    assert "nan of it is the KL term" in (guard.problem(math.nan, 12, ["a row 1"], [endless]) or "")


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
