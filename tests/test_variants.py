"""Kinds of adapters: each learns, comes back from its files on the base as it was, and merges; LoRA+ and NEFTune."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from carellama.config.finetuning import FinetuningOptions
from carellama.config.model import ModelOptions
from carellama.config.reader import to_flags
from carellama.config.run import RunOptions
from carellama.data.encoding.collate import collate_padded, collate_row
from carellama.data.encoding.prepare import prepare as prepare_data
from carellama.errors import UserError
from carellama.export import command as exporting
from carellama.model.adapter_plan import plan_adapters
from carellama.model.adapters import apply_adapters, merge_adapters
from carellama.model.load import load_model
from carellama.model.tokenizer import load_tokenizer
from carellama.templates.template import get_template
from carellama.train import run as runs
from carellama.train.causal import CausalTrainer
from carellama.train.neftune import neftune_noise, record_lengths
from carellama.train.options import run_options
from conftest import make_model
from test_attention import records

VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "loraplus": {"loraplus_lr_ratio": 4},
    "pissa": {"pissa_init": True},
    "pissa_exact_rslora": {"pissa_init": True, "pissa_iter": -1, "use_rslora": True},
    "vera": {"peft_type": "vera", "lora_rank": 32, "learning_rate": 0.1},
    "loha": {"peft_type": "loha"},
    "lokr": {"peft_type": "lokr"},
    "oft": {"peft_type": "oft"},
    "hra": {"peft_type": "hra"},
    "ia3": {"peft_type": "ia3", "learning_rate": 0.1},
}
ANSWERS = ("See a doctor today.", "Rest and drink water.", "Call the emergency number.")
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


def rows_file(folder: Path) -> Path:
    rows = [{"instruction": f"Case {n % 3}, day {n}?", "input": "", "output": ANSWERS[n % 3]} for n in range(24)]
    path = folder / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def config_of(folder: Path, model: Path, output: str = "out", **options: object) -> RunOptions:
    given = {
        "model_name_or_path": model, "dataset": rows_file(folder), "output_dir": folder / output,
        "data_cache_dir": folder / "cache", "do_train": True, "learning_rate": 1e-2, "max_steps": 6,
        "per_device_train_batch_size": 8, "logging_steps": 1, "lora_dropout": 0, "lora_target": "all", "bf16": False,
        "lr_scheduler_type": "constant", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True,
    } | options  # fmt: skip
    return run_options(to_flags(given))


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("name", VARIANTS)
def test_a_kind_of_adapter_learns_comes_back_and_merges(name, tmp_path, tiny_folder):
    data = rows_file(tmp_path)
    settings = VARIANTS[name]
    trained = runs.run(config_of(tmp_path, tiny_folder, do_eval=True, eval_dataset=data, **settings))
    found = losses(tmp_path / "out")
    assert found[-1] < found[0] - 0.02, found
    again = runs.run(
        config_of(tmp_path, tiny_folder, "again", checkpoint_dir=tmp_path / "out", do_train=False, do_eval=True)
    )
    assert again["eval_loss"] == pytest.approx(trained["eval_loss"], abs=2e-4)
    arguments = ModelOptions(str(tiny_folder), checkpoint_dir=str(tmp_path / "out"))
    base = load_model(arguments, dtype="float32", attention=None)
    plain = logits(base)
    adapted = apply_adapters(base, plan_adapters(arguments))
    expected = logits(adapted)
    assert (expected - plain).abs().max() > 1e-3
    torch.testing.assert_close(logits(merge_adapters(adapted)), expected, atol=1e-4, rtol=1e-3)
    whole_model = (tiny_folder / "model.safetensors").stat().st_size
    assert (tmp_path / "out/adapter_model.safetensors").stat().st_size < whole_model


@pytest.mark.parametrize("name", VARIANTS)
def test_a_new_adapter_changes_nothing_yet_and_leaves_the_base_frozen(name):
    settings = {key: value for key, value in VARIANTS[name].items() if key != "learning_rate"}
    finetuning = FinetuningOptions(lora_target="all", lora_dropout=0.0, **settings)
    model = apply_adapters(make_model(), plan_adapters(ModelOptions("tiny"), finetuning))
    torch.testing.assert_close(logits(model), logits(make_model()), atol=1e-4, rtol=1e-3)
    learned = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    assert learned and all(model.base_model.prefix in key for key in learned)  # type: ignore[operator]


def test_pissa_goes_on_as_if_it_had_not_stopped(tmp_path, tiny_folder):
    settings = {"pissa_init": True, "save_strategy": "steps", "save_steps": 3, "lora_target": "q_proj,v_proj"}
    runs.run(config_of(tmp_path, tiny_folder, "whole", **settings))
    checkpoint = tmp_path / "whole/checkpoint-3"
    runs.run(config_of(tmp_path, tiny_folder, "resumed", resume_from_checkpoint=checkpoint, **settings))
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "resumed" / file).read_bytes()
    assert not (tmp_path / "whole/pissa.safetensors").exists()
    options = json.loads((checkpoint / "adapter_config.json").read_text())
    assert options["r"] == 16 and options["init_lora_weights"] is True and options["peft_type"] == "LORA"


def test_lora_plus_gives_the_b_matrices_a_higher_rate(tmp_path, tiny_folder):
    options = config_of(tmp_path, tiny_folder, loraplus_lr_ratio=16, weight_decay=0.01)
    tokenizer = load_tokenizer(options.model)
    model = apply_adapters(make_model(), plan_adapters(options.model, options.finetuning))
    data = prepare_data(options, tokenizer, get_template(None, tokenizer))
    trainer = CausalTrainer(options, model, tokenizer, data)
    trainer.create_optimizer()
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    rates = {
        names[id(parameter)]: group["lr"] for group in trainer.optimizer.param_groups for parameter in group["params"]
    }
    assert len(rates) == sum(parameter.requires_grad for parameter in model.parameters())
    assert {rate for key, rate in rates.items() if ".lora_A." in key} == {1e-2}
    assert {rate for key, rate in rates.items() if ".lora_B." in key} == {0.16}


@pytest.mark.parametrize("padded", [False, True])
def test_noise_is_of_the_records_own_length(padded):
    made = [[tokens] for tokens in records((50, 3, 17))]
    batch = collate_padded(made, 0) if padded else collate_row(made)
    model = make_model().train()
    clean = model.model.embed_tokens(batch["input_ids"])
    with neftune_noise(model, 5.0, batch):
        noise = model.model.embed_tokens(batch["input_ids"]) - clean  # (B, T, D)
        model.eval()
        assert torch.equal(model.model.embed_tokens(batch["input_ids"]), clean)
    assert torch.equal(model.train().model.embed_tokens(batch["input_ids"]), clean)
    lengths = record_lengths(batch)
    for length in (50, 3, 17):
        bound = 5 / (length * clean.shape[-1]) ** 0.5
        largest = noise[lengths == length].abs().max()
        assert 0.9 * bound < largest <= bound * 1.001
    assert not noise[torch.isinf(lengths)].any()


def test_noise_is_in_training_only(tmp_path, tiny_folder):
    data = rows_file(tmp_path)
    plain = runs.run(config_of(tmp_path, tiny_folder, "plain", max_steps=2, learning_rate=1e-30))
    noisy = runs.run(
        config_of(
            tmp_path, tiny_folder, "noisy", max_steps=2, learning_rate=1e-30, neftune_noise_alpha=50, do_eval=True,
            eval_dataset=data,
        )
    )  # fmt: skip
    first, second = losses(tmp_path / "plain"), losses(tmp_path / "noisy")
    assert all(abs(one - other) > 1e-3 for one, other in zip(first, second, strict=True))
    again = runs.run(config_of(tmp_path, tiny_folder, "again", do_train=False, do_eval=True))
    assert noisy["eval_loss"] == pytest.approx(again["eval_loss"], abs=1e-6)
    assert plain["train_loss"] != noisy["train_loss"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"peft_type": "vera", "use_dora": True}, "--use_dora is for --peft_type lora"),
        ({"peft_type": "oft", "pissa_init": True}, "--pissa_init is for --peft_type lora"),
        ({"pissa_init": True, "use_dora": True}, "does not go with --use_dora"),
        ({"pissa_init": True, "stage": "dpo"}, "--stage dpo"),
        ({"pissa_init": True, "quantization_bit": 4}, "--quantization_bit"),
        ({"peft_type": "loha", "quantization_bit": 4}, "--quantization_bit"),
        ({"loraplus_lr_ratio": 16, "finetuning_type": "full"}, "is for --finetuning_type lora"),
        ({"loraplus_lr_ratio": 0}, "must be above 0"),
        ({"peft_type": "ia3", "add_tokens": "x.txt"}, "--add_tokens works with --peft_type lora"),
        ({"peft_type": "lily"}, "lily"),
    ],
)
def test_what_does_not_go_together_is_refused_at_once(given, said, tmp_path, tiny_folder):
    with pytest.raises(UserError, match=said):
        config_of(tmp_path, tiny_folder, **given)


def test_weights_that_a_last_step_has_ruined_are_not_saved(tmp_path: Path, tiny_folder: Path) -> None:
    """The losses were finite, and the run ended well with weights that are no numbers; so did the export of them."""
    ruined = config_of(tmp_path, tiny_folder, learning_rate=1e38, max_steps=1)
    with pytest.raises(UserError, match=r"lora_.* is not a finite number after step 1: .*not saved"):
        runs.run(ruined)
    assert not [*(tmp_path / "out").rglob("*.safetensors")]
    each: dict[str, object] = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}
    ruined = config_of(tmp_path, tiny_folder, "each", learning_rate=1e38, **each)
    with pytest.raises(UserError, match="after step 1"):
        runs.run(ruined)
    assert not [*(tmp_path / "each").glob("checkpoint-*")]


@pytest.mark.parametrize("command", ["eval", "export"])
def test_damaged_weights_are_named_wherever_they_are_read(tmp_path: Path, tiny_folder: Path, command: str) -> None:
    """An evaluation ended with the error of a library; an export said that all choices are the same."""
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_folder, damaged)
    model = make_model()
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = math.nan
    model.save_pretrained(damaged)
    if command == "eval":
        options = config_of(tmp_path, damaged, do_train=False, do_eval=True)
        with pytest.raises(UserError, match=r"is not a number.*the weights are damaged"):
            runs.run(options)
    else:
        with pytest.raises(UserError, match=r"weights are damaged.*nothing was written"):
            exporting.main(["--model_name_or_path", str(damaged), "--output_dir", str(tmp_path / "merged")])
        assert not (tmp_path / "merged").exists()
