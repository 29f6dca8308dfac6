"""What a training says of itself while it goes."""

from __future__ import annotations

import io
import json
import types
from typing import Any

import pytest
import torch
from transformers import TrainerControl

from carellama import hardware
from carellama.config.reader import to_flags
from carellama.config.run import TrainingOptions
from carellama.errors import UserError
from carellama.train.arguments import build_arguments
from carellama.train.progress import Progress, ThroughputCounter
from conftest import make_model


def test_work_is_that_of_the_matrix_products():
    model = make_model(tie_word_embeddings=False)
    head = model.get_output_embeddings().weight.numel()
    body = sum(one.numel() for name, one in model.named_parameters() if "proj" in name)
    work = ThroughputCounter(model)
    work.add(10, 3)
    assert (work.tokens, work.operations) == (10, 6 * (10 * body + 3 * head))
    model.requires_grad_(False)
    frozen = ThroughputCounter(model, passes=1)
    frozen.add(10, 3)
    assert frozen.operations == pytest.approx(6 * (10 * body + 3 * head))  # 4 for itself, 2 for the reference


def test_the_matrix_rate_is_measured():
    rate = hardware.measure_matmul_flops("float32", seconds=0.02)
    assert 1e8 < rate < 1e16
    assert hardware.process_memory_bytes() > 1e7


def test_the_log_has_the_rates_and_a_line_is_printed(capsys):
    model = make_model()
    progress = Progress(ThroughputCounter(model), "float32")
    state: Any = types.SimpleNamespace(global_step=0, max_steps=4, epoch=0.0, is_world_process_zero=True)
    arguments: Any = types.SimpleNamespace(disable_tqdm=False)
    progress.on_train_begin(arguments, state, TrainerControl())
    progress.work.add(1000, 500)
    state.global_step, state.epoch = 2, 0.5
    logs = {"loss": 1.25, **progress.rates()}
    assert logs["tokens_per_second"] > 0 and logs["matrix_share"] > 0 and logs["memory_gb"] > 0
    progress.on_log(arguments, state, TrainerControl(), logs)
    line = capsys.readouterr().err
    assert line.startswith("step 2/4  epoch 0.50  loss 1.25") and "of the matrix rate" in line and "left" in line
    assert progress.rates()["tokens_per_second"] == 0  # since the last time
    progress.on_log(arguments, state, TrainerControl(), {"eval_loss": 1.0})
    assert not capsys.readouterr().err


def test_a_terminal_gets_one_live_line(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    progress = Progress(ThroughputCounter(make_model()), "float32")
    state: Any = types.SimpleNamespace(global_step=1, max_steps=4, epoch=0.25, is_world_process_zero=True)
    arguments: Any = types.SimpleNamespace(disable_tqdm=False)
    progress.on_train_begin(arguments, state, TrainerControl())
    progress.on_step_end(arguments, state, TrainerControl())
    progress.close()
    progress.close()
    assert "step 1/4" in screen.getvalue()


def test_trackers_are_checked_before_anything_is_loaded(tmp_path):
    def trackers(named: str | None, *, train: bool = True) -> object:
        words = {"output_dir": [str(tmp_path)], "do_train": [str(train)]}
        return build_arguments(TrainingOptions(report_to=named), words).report_to

    with pytest.raises(UserError, match=r"tensorbord.*tensorboard"):
        trackers("tensorbord")
    with pytest.raises(UserError, match="pip install neptune"):
        trackers("none,neptune")
    assert trackers("none") == trackers(None, train=False) == []
    assert trackers(None) == ["tensorboard"]


def test_tensorboard_reads_what_a_run_wrote(tmp_path, tiny_folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from carellama.train import run as runs
    from carellama.train.options import run_options

    rows = [{"instruction": f"Question {number}?", "input": "", "output": "Rest."} for number in range(8)]
    (tmp_path / "chats.json").write_text(json.dumps(rows), encoding="utf-8")
    given = {
        "model_name_or_path": tiny_folder, "dataset": tmp_path / "chats.json", "output_dir": tmp_path / "out",
        "data_cache_dir": tmp_path / "cache", "do_train": True, "max_steps": 2, "logging_steps": 1,
    }  # fmt: skip
    runs.run(run_options(to_flags(given)))
    (folder,) = {file.parent for file in (tmp_path / "out/runs").rglob("events.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"train/loss", "train/tokens_per_second", "train/matrix_share"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize(
    ("best", "gpu", "cpu", "taken"),
    [
        ("bfloat16", False, {"cpu_name": "Intel Xeon", "amx_bf16": False}, "float32"),
        ("bfloat16", False, {"cpu_name": "Intel Xeon", "amx_bf16": True}, "bfloat16"),
        ("bfloat16", False, {"cpu_name": "AMD EPYC"}, "bfloat16"),
        ("bfloat16", False, {}, "bfloat16"),  # a name that torch does not know
        ("bfloat16", True, {"cpu_name": "Intel Xeon", "amx_bf16": False}, "bfloat16"),
        ("float32", False, {"cpu_name": "AMD EPYC"}, "float32"),
    ],
)
def test_a_training_takes_float32_where_a_cpu_multiplies_it_faster(monkeypatch, best, gpu, cpu, taken):
    monkeypatch.setattr(hardware, "has_gpu", lambda: gpu)
    monkeypatch.setattr(hardware, "fastest_dtype", lambda: best)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert hardware.default_training_dtype.__wrapped__() == taken


def test_attention_counts_the_pairs_of_tokens_within_a_record():
    model = make_model()
    work = ThroughputCounter(model)
    work.add(0, 0, pairs=9 + 16)
    config = model.config
    width = config.hidden_size // config.num_attention_heads
    assert work.operations == 3 * 4 * config.num_hidden_layers * config.num_attention_heads * width * 25
