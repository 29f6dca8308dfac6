"""`carellama plan`: the parts of the memory behave as they do in a training, and what cannot fit is refused early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from carellama import hardware
from carellama.config.finetuning import FinetuningOptions
from carellama.config.model import ModelOptions
from carellama.config.run import RunOptions
from carellama.errors import UserError
from carellama.model.adapter_plan import plan_adapters
from carellama.model.adapters import apply_adapters
from carellama.model.load import load_model
from carellama.model.meta import apply_adapters_meta, meta_model
from carellama.stages import STAGES
from carellama.train import plan as plans
from carellama.train import run as runs
from carellama.train.memory import check as memory_check
from carellama.train.memory.trace import (
    AllocationTracker,
    BatchShape,
    LayerSample,
    StepConfig,
    sample_layers,
    trace_step,
)
from carellama.train.options import run_options
from carellama.train.session import Session
from conftest import make_model


def rows_file(folder: Path, count: int = 24) -> Path:
    rows = [
        {
            "instruction": f"My ear hurts since {number} days." + " It is worse at night." * (number % 4),
            "output": "See a doctor.",
        }
        for number in range(count)
    ]
    path = folder / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def words(folder: Path, model: Path, **options: Any) -> list[str]:
    given = {
        "model_name_or_path": model, "dataset": rows_file(folder), "output_dir": folder / "out",
        "data_cache_dir": folder / "cache", "bf16": False, "save_strategy": "no", "report_to": "none",
        "per_device_train_batch_size": 4, "disable_tqdm": True, "lora_target": "all",
    }  # fmt: skip
    return [word for key, value in (given | options).items() for word in (f"--{key}", str(value))]


def config_of(folder: Path, model: Path, **options: Any) -> RunOptions:
    return run_options(words(folder, model, do_train=True, **options))


def step(
    folder: Path, batch: BatchShape, *, kind: Any = "lora", bits: int | None = None, short: bool = True, **how: Any
) -> dict[str, int]:
    arguments = ModelOptions(str(folder), quantization_bit=bits)
    finetuning = FinetuningOptions(finetuning_type=kind, lora_target="all", num_layer_trainable=2)
    model: Any = meta_model(arguments, dtype="float32", attention="sdpa")
    if kind != "lora":
        model = apply_adapters_meta(model, plan_adapters(arguments, finetuning))
    layers = list(model.model.layers)
    stack = sample_layers(model) if short else LayerSample(layers, [0] * len(layers))
    if kind == "lora":
        model = apply_adapters_meta(model, plan_adapters(arguments, finetuning))
    return trace_step(model, stack, batch, StepConfig(**how)).parts


def test_batches_that_are_left_out_are_no_steps(tmp_path: Path, tiny_folder: Path) -> None:
    """A plan counted the last batch, which --dataloader_drop_last leaves out, and took a batch that is never full."""
    given = {"max_samples": 9, "per_device_train_batch_size": 2, "num_train_epochs": 3, "dataloader_drop_last": True}
    made = plans.training_length(Session.open(config_of(tmp_path, tiny_folder, **given)))
    assert (made["steps_per_epoch"], made["steps"]) == (4, 12)
    with pytest.raises(UserError, match="all 9 examples are fewer than the 50 of a batch"):
        Session.open(config_of(tmp_path, tiny_folder, **given | {"per_device_train_batch_size": 50}))


def test_a_tracker_counts_what_is_alive() -> None:
    with AllocationTracker() as tracker, tracker.of("activations"):
        one = torch.zeros(1000)
        view = one[:10]
        other = torch.zeros(500)
        assert tracker.live["activations"] == 6000
        del one, other
        assert tracker.live["activations"] == 4000, "the view holds the storage"
        del view
    assert tracker.live["activations"] == 0
    assert tracker.peak["activations"] == 6000


@pytest.mark.parametrize("kind", ["lora", "full", "freeze"])
def test_a_blank_model_has_the_sizes_of_the_real_one(tiny_folder: Path, kind: Any) -> None:
    arguments = ModelOptions(str(tiny_folder))
    finetuning = FinetuningOptions(finetuning_type=kind, lora_target="all", num_layer_trainable=1)
    real = apply_adapters(load_model(arguments, dtype="float32", attention=None), plan_adapters(arguments, finetuning))
    blank = apply_adapters_meta(
        meta_model(arguments, dtype="float32", attention=None), plan_adapters(arguments, finetuning)
    )

    def sizes(model: torch.nn.Module) -> dict[str, object]:
        return {name: (one.shape, one.dtype, one.requires_grad) for name, one in model.named_parameters()}

    assert sizes(blank) == sizes(real)
    assert all(one.is_meta for one in blank.parameters())


PLANS = [
    (stage, kind, adapters, bits)
    for stage in ("pt", "sft", "rm", "dpo", "ppo")
    for kind in ("lora", "freeze", "full")
    for adapters in ((), ("sft",), ("sft", "sft2"), ("sft", "rm"))
    for bits in (None, 4)
    if not (bits and kind != "lora") and ("rm" not in adapters or stage == "rm")
]


@pytest.fixture(scope="module")
def adapter_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny base, two adapters of it as a language model, and one as a reward model."""
    folder = tmp_path_factory.mktemp("plans")
    make_model().save_pretrained(folder / "base")
    arguments = ModelOptions(str(folder / "base"))
    for name, stage, rank in (("sft", "sft", 2), ("sft2", "sft", 3), ("rm", "rm", 2)):
        model = load_model(arguments, dtype="float32", attention=None, kind=STAGES[stage].model_kind)
        plan = plan_adapters(arguments, FinetuningOptions(stage=stage, lora_rank=rank))  # type: ignore[arg-type]
        apply_adapters(model, plan).save_pretrained(folder / name)  # type: ignore[arg-type]
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(("stage", "kind", "adapters", "bits"), PLANS)
def test_the_model_without_weights_trains_what_the_real_one_does(
    adapter_folders: dict[str, Path], stage: str, kind: str, adapters: tuple[str, ...], bits: int | None
) -> None:
    """The estimate had a rule of its own for earlier adapters, and forgot those beside a quantised base."""
    if bits:
        pytest.importorskip("bitsandbytes")
    joined = ",".join(str(adapter_folders[name]) for name in adapters) or None
    arguments = ModelOptions(str(adapter_folders["base"]), checkpoint_dir=joined, quantization_bit=bits)
    plan = plan_adapters(arguments, FinetuningOptions(stage=stage, finetuning_type=kind, num_layer_trainable=1))  # type: ignore[arg-type, arg-type]
    continues = stage == "rm" if "rm" in adapters else stage in ("pt", "sft")
    resumes = kind == "lora" and bool(adapters) and continues
    assert (plan.resumed is not None, plan.new) == (resumes, kind == "lora" and not resumes)
    before = len(adapters) - resumes
    assert (len(plan.merged), len(plan.unmerged)) == ((0, before) if bits else (before, 0))
    options = {"dtype": "float32", "attention": None, "kind": STAGES[stage].model_kind}
    real = apply_adapters(load_model(arguments, **options), plan)  # type: ignore[arg-type, arg-type]
    meta = apply_adapters_meta(meta_model(arguments, **options), plan)  # type: ignore[arg-type, arg-type, arg-type]

    def trained(model: torch.nn.Module) -> dict[str, object]:
        return {name: (one.shape, one.dtype) for name, one in model.named_parameters() if one.requires_grad}

    assert trained(meta) == trained(real) != {}
    assert {name for name, _ in meta.named_parameters()} == {name for name, _ in real.named_parameters()}
    assert all(one.is_meta for one in meta.parameters())


def test_a_reward_model_begins_on_the_merged_language_model(adapter_folders: dict[str, Path]) -> None:
    finetuning = FinetuningOptions(stage="rm")
    language = plan_adapters(ModelOptions("x", checkpoint_dir=str(adapter_folders["sft"])), finetuning)
    assert (language.merged, language.resumed, language.new) == ((adapter_folders["sft"],), None, True)
    reward = plan_adapters(ModelOptions("x", checkpoint_dir=str(adapter_folders["rm"])), finetuning)
    assert (reward.merged, reward.resumed, reward.new) == ((), adapter_folders["rm"], False)


@pytest.mark.parametrize("kind", ["lora", "full", "freeze"])
@pytest.mark.parametrize("checkpointing", [None, {}])
@pytest.mark.parametrize("mixed", [None, torch.bfloat16])
def test_two_layers_tell_what_all_need(tmp_path: Path, kind: Any, checkpointing: dict | None, mixed: object) -> None:
    make_model(num_hidden_layers=8, vocab_size=200).save_pretrained(tmp_path)
    how: dict[str, Any] = {"checkpointing": checkpointing, "compute": mixed}
    batch = BatchShape((100,) * 12, 500, padded=True)
    short, whole = (step(tmp_path, batch, kind=kind, short=short, **how) for short in (True, False))
    assert sum(short.values()) == pytest.approx(sum(whole.values()), rel=0.05)
    for part in ("weights", "adapters", "optimiser", "logits"):
        assert short[part] == pytest.approx(whole[part], rel=0.03), part


def test_of_layers_of_two_kinds_both_are_gone_through() -> None:
    model = make_model(num_hidden_layers=8)
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.sliding_window = None if number % 4 == 3 else 16
    stack = sample_layers(model)
    assert [layer.self_attn.sliding_window for layer in stack.layers] == [16, 16, None]
    assert stack.others == [0, 4, 1]


def test_activations_grow_with_the_batch_and_weights_do_not(tiny_folder: Path) -> None:
    small, double = (step(tiny_folder, BatchShape((100,) * count, 20 * count, padded=True)) for count in (3, 6))
    assert small["weights"] == double["weights"]
    assert double["activations"] == pytest.approx(2 * small["activations"], rel=0.05)


def test_the_optimiser_holds_two_moments_of_what_is_trained(tiny_folder: Path) -> None:
    batch = BatchShape((20,), 10, padded=True)
    lora, full = step(tiny_folder, batch), step(tiny_folder, batch, kind="full")
    assert lora["optimiser"] == pytest.approx(2 * lora["adapters"], rel=0.05)
    assert full["optimiser"] == pytest.approx(2 * full["weights"], rel=0.05)
    plain = step(tiny_folder, batch, kind="full", optimiser=(torch.optim.SGD, {"lr": 0.1}))
    assert plain.get("optimiser", 0) < 0.1 * full["optimiser"]


def test_checkpointing_needs_less(tiny_folder: Path) -> None:
    batch = BatchShape((100,) * 16, 1600, padded=True)
    plain = step(tiny_folder, batch)
    assert step(tiny_folder, batch, checkpointing={})["activations"] < 0.7 * plain["activations"]


def test_packed_weights_take_half_a_byte_and_learn_through(tiny_folder: Path) -> None:
    batch = BatchShape((20,), 10, padded=True)
    whole, packed = step(tiny_folder, batch), step(tiny_folder, batch, bits=4)
    linear = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128) * 4  # bytes of the linear layers in float32
    saved = whole["weights"] - packed["weights"]
    assert 0.8 * linear < saved < 0.9 * linear
    assert packed["adapters"] == whole["adapters"]


def test_a_copy_of_the_model_is_counted(tiny_folder: Path) -> None:
    batch = BatchShape((20, 20), 10, padded=True)
    parts = step(tiny_folder, batch, kind="full", objective="answers", reference=True, copied=True)
    assert parts["reference"] == pytest.approx(parts["weights"], rel=0.01)


@pytest.mark.parametrize("stage", ["sft", "pt", "rm", "dpo", "kto"])
def test_every_stage_over_rows_is_gone_through(tiny_folder: Path, tmp_path: Path, stage: str) -> None:
    rows = [
        {"instruction": f"I cough {number}.", "input": "", "output": ["See a doctor.", "No."]} for number in range(6)
    ]
    data = tmp_path / "pairs.json"
    data.write_text(json.dumps(rows), encoding="utf-8")
    given: dict[str, object] = {"dataset": data}
    if stage == "pt":
        data = tmp_path / "text.txt"
        data.write_text("A cough may have many causes.\n" * 20, encoding="utf-8")
        given = {"dataset": data, "cutoff_len": 64}
    elif stage == "sft":
        given = {}
    options = config_of(tmp_path, tiny_folder, stage=stage, **given)
    session = Session.open(options)
    found = memory_check.estimate_and_compare(session)
    assert not found["notes"], "by going through it, not by a rule of thumb"
    assert found["total"] == sum(found["parts"].values())
    assert found["parts"]["activations"] > 0


def test_a_training_that_can_not_fit_is_refused_before_its_weights_are_read(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*args: object, **kwargs: object) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr("carellama.train.session.load_model", read)
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda: 1_000_000)
    with pytest.raises(UserError, match=r"needs about .* of memory and there are 1 MB.*--skip_plan"):
        runs.run(config_of(tmp_path, tiny_folder))
    with pytest.raises(AssertionError, match="weights were read"):
        runs.run(config_of(tmp_path, tiny_folder, skip_plan=True, overwrite_output_dir=True))


def test_advice_is_estimated_itself(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = config_of(tmp_path, tiny_folder, per_device_train_batch_size=16)
    session = Session.open(options)
    monkeypatch.setattr(memory_check, "process_memory_bytes", lambda: 0)
    whole = memory_check.estimate_and_compare(session)["total"]
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda: int(0.8 * whole))
    found = memory_check.estimate_and_compare(session)
    assert not found["fits"]
    fitting = [one["change"] for one in found["advice"] if one["fits"]]
    assert any(change.startswith("--per_device_train_batch_size") for change in fitting)
    assert all(one["total"] < whole for one in found["advice"])
    assert fitting[0] in memory_check.out_of_memory_message(found)


def test_the_verb_prints_and_writes_the_plan(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "plan.json"
    plans.main(words(tmp_path, tiny_folder, plan_steps=2, report=report, num_train_epochs=2, bf16=True))
    said = capsys.readouterr().out
    made = json.loads(report.read_text(encoding="utf-8"))
    assert made["fits"] and "it fits" in said
    assert all(plans.PART_LABELS[part] in said for part in made["parts"]) and "casts" in made["parts"]
    assert made["steps"] == 12 and made["steps_per_epoch"] == 6
    assert made["tokens_per_epoch"] > 0 and made["seconds_per_step"] > 0
    assert not (tmp_path / "out").exists(), "the output folder of the run is left alone"


def test_what_a_container_may_take_is_less_than_the_machine_has(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 2000 kB\nMemAvailable: 1000 kB\n")
    assert hardware.linux_available_bytes(tmp_path, held=500) == 1000 * 1024 + 500
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("90000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 20000\n")
    assert hardware.linux_available_bytes(tmp_path, held=500) == 1000 * 1024 + 500
    (group / "memory.max").write_text("100000\n")
    assert hardware.linux_available_bytes(tmp_path, held=500) == 100000 - 90000 + 20000 + 500


def test_several_processes_share_the_machine_and_with_fsdp_the_weights(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = config_of(tmp_path, tiny_folder, finetuning_type="full")
    session = Session.open(options)
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda: 9_000)
    monkeypatch.setattr(memory_check, "process_memory_bytes", lambda: 1_000)
    alone = memory_check.estimate_and_compare(session)
    monkeypatch.setenv("WORLD_SIZE", "4")
    ddp = memory_check.estimate_and_compare(session)
    assert alone["available"] == 9_000 and ddp["available"] == 3_000
    assert ddp["parts"]["weights"] == alone["parts"]["weights"]
    assert ddp["parts"]["gradients"] == pytest.approx(alone["parts"]["gradients"] + ddp["parts"]["weights"], rel=0.01)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    fsdp = memory_check.estimate_and_compare(session)
    for part in ("weights", "optimiser"):
        assert fsdp["parts"][part] == pytest.approx(alone["parts"][part] / 4, rel=0.01)


def test_a_model_that_can_not_be_estimated_is_trained_all_the_same(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("needs its weights")

    monkeypatch.setattr("carellama.train.memory.estimate.meta_model", broken)
    runs.run(config_of(tmp_path, tiny_folder, max_steps=1))
    assert "memory: no estimate of this model (needs its weights)" in caplog.text
    assert (tmp_path / "out/train_results.json").is_file()


def test_large_pieces_leave_no_holes_in_the_heap(tiny_folder: Path) -> None:
    def heaped(count: int) -> int:
        model = meta_model(ModelOptions(str(tiny_folder)), dtype="float32", attention="sdpa")
        return trace_step(model, sample_layers(model), BatchShape((500,) * count, 10, padded=True), StepConfig()).heaped

    assert heaped(8) == pytest.approx(2 * heaped(4), rel=0.01)
    assert heaped(4096) < 0.1 * 512 * heaped(8), "but the sums of a row, which are small"
