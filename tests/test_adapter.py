"""Adapters: merged models answer as adapters do, in any order of training, and wrong ones are refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from carellama.config.finetuning import FinetuningOptions
from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.model import adapters
from carellama.model.adapter_plan import check_adapter_options, plan_adapters
from carellama.model.adapters import apply_adapters, describe_trainable, merge_adapters
from carellama.model.lora import linear_layers
from conftest import make_model

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits  # (1, T, V)


def lora(**changes) -> FinetuningOptions:
    options: dict[str, Any] = {"lora_dropout": 0.0, "lora_target": "q_proj,v_proj"} | changes
    return FinetuningOptions(**options)


def base(*checkpoints: Path, **changes) -> ModelOptions:
    joined = ",".join(map(str, checkpoints)) or None
    return ModelOptions(model_name_or_path="tiny", checkpoint_dir=joined, **changes)


def shake(model, seed: int):
    """Give the trained weights values, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def trained(model, folder: Path, *before: Path, seed: int = 1, **changes) -> Path:
    """Save an adapter that was trained on the model with the adapters `before` merged."""
    settings = lora(resume_lora_training=False, **changes)
    shake(apply_adapters(model, plan_adapters(base(*before), settings)), seed).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}, {"use_dora": True}, {"lora_target": "all"}])
def test_merged_logits_are_the_adapter_logits(tmp_path, changes):
    folder = trained(make_model(), tmp_path / "a", **changes)
    adapted = apply_adapters(make_model(), plan_adapters(base(folder)))
    before, plain = logits(adapted), logits(make_model())
    merged = merge_adapters(adapted)
    assert type(merged).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(logits(merged), before, atol=1e-5, rtol=1e-5)
    assert (before - plain).abs().max() > 0.01


def test_two_adapters_merged_in_order_equal_both_active(tmp_path):
    first = trained(make_model(), tmp_path / "a", seed=1)
    second = trained(make_model(), tmp_path / "b", first, seed=2, lora_target="q_proj,o_proj")
    adapted = apply_adapters(make_model(), plan_adapters(base(first, second)))

    from peft import PeftModel

    both = PeftModel.from_pretrained(make_model(), str(first), adapter_name="one")
    both.load_adapter(str(second), "two")
    both.base_model.set_adapter(["one", "two"])  # type: ignore[operator]
    torch.testing.assert_close(logits(adapted), logits(both), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(merge_adapters(adapted)), logits(both), atol=1e-5, rtol=1e-5)


def test_merging_rounds_bfloat16_once(tmp_path):
    folder = trained(make_model(), tmp_path / "a")
    exact = merge_adapters(apply_adapters(make_model(), plan_adapters(base(folder))))
    merged = merge_adapters(
        apply_adapters(make_model().to(torch.bfloat16).float().to(torch.bfloat16), plan_adapters(base(folder)))
    )
    assert {one.dtype for one in merged.parameters()} == {torch.bfloat16}
    for one, other in zip(merged.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(one.float(), other, atol=1e-3, rtol=1e-2)


def test_the_last_adapter_is_resumed_in_float32(tmp_path):
    first = trained(make_model(), tmp_path / "a", seed=1)
    second = trained(make_model(), tmp_path / "b", first, seed=2)
    answering = apply_adapters(make_model(), plan_adapters(base(first, second)))
    resumed = apply_adapters(make_model().to(torch.bfloat16), plan_adapters(base(first, second), lora()))
    learned = {name: p for name, p in resumed.named_parameters() if p.requires_grad}
    assert learned and all("lora_" in name and p.dtype == torch.float32 for name, p in learned.items())
    stored = dict(answering.named_parameters())
    assert all(torch.equal(p, stored[name]) for name, p in learned.items())
    assert not any(p.requires_grad for p in answering.parameters())


def test_not_resuming_starts_a_fresh_adapter_on_the_merged_model(tmp_path):
    first = trained(make_model(), tmp_path / "a")
    fresh = apply_adapters(make_model(), plan_adapters(base(first), lora(resume_lora_training=False)))
    adapted = apply_adapters(make_model(), plan_adapters(base(first)))
    torch.testing.assert_close(logits(fresh), logits(adapted), atol=1e-5, rtol=1e-5)
    assert any(p.requires_grad and not p.any() for p in fresh.parameters())  # B begins at zero


def test_freeze_trains_one_part_of_the_last_or_first_layers():
    def learned(**changes) -> set[str]:
        settings = FinetuningOptions(finetuning_type="freeze", **changes)
        model = apply_adapters(make_model(), plan_adapters(base(), settings))
        return {name for name, p in model.named_parameters() if p.requires_grad}

    last = learned(num_layer_trainable=1)
    assert last and all(name.startswith("model.layers.1.mlp") for name in last)
    first = learned(num_layer_trainable=-1, name_module_trainable="all")
    assert first == {name for name, _ in make_model().named_parameters() if name.startswith("model.layers.0.")}
    with pytest.raises(UserError, match="Did you mean 'mlp'"):
        learned(num_layer_trainable=1, name_module_trainable="mpl")
    with pytest.raises(UserError, match="2 layers"):
        learned(num_layer_trainable=3)


def test_full_trains_everything_and_none_nothing():
    full = apply_adapters(make_model(), plan_adapters(base(), FinetuningOptions(finetuning_type="full")))
    assert all(p.requires_grad for p in full.parameters())
    none = apply_adapters(make_model(), plan_adapters(base()))
    assert not any(p.requires_grad for p in none.parameters())


def test_the_line_counts_the_trained_weights():
    model = apply_adapters(make_model(), plan_adapters(base(), lora(lora_rank=4)))
    lora_size = 2 * (4 * (64 + 64) + 4 * (64 + 32))  # layers x (q + v)
    total = sum(p.numel() for p in make_model().parameters()) + lora_size
    assert describe_trainable(model) == f"trainable {lora_size:,} of {total:,} ({lora_size / total:.2%})"


def test_unknown_targets_are_named_with_those_that_exist():
    assert linear_layers(make_model()) == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    with pytest.raises(UserError, match=r"q_prj.*Did you mean 'q_proj'.*down_proj"):
        apply_adapters(make_model(), plan_adapters(base(), lora(lora_target="q_prj")))
    with pytest.raises(UserError, match="lm_head"):
        apply_adapters(make_model(), plan_adapters(base(), lora(lora_target="lm_head")))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"hidden_size": 32, "intermediate_size": 64}, "takes 64 values in the adapter, 32 here"),
        ({"num_hidden_layers": 1}, "there is no layer"),
        ({"num_hidden_layers": 3}, "it adapts 4 layers, where this model has 6"),
    ],
)
def test_an_adapter_of_another_base_is_refused(tmp_path, other, said):
    folder = trained(make_model(), tmp_path / "a")
    with pytest.raises(UserError, match=said) as refused:
        apply_adapters(make_model(**other), plan_adapters(base(folder)))
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize("half", ["lora_A", "lora_B", "lora_magnitude_vector"])
def test_an_adapter_that_lacks_a_part_of_a_layer_is_refused(tmp_path, half):
    """peft fills a missing lora_A with random numbers, and the export of that model equalled it."""
    from safetensors.torch import load_file, save_file

    path = trained(make_model(), tmp_path / "a", use_dora=True) / "adapter_model.safetensors"
    weights = load_file(path)
    lost = next(key for key in weights if half in key)
    save_file({key: weight for key, weight in weights.items() if key != lost}, path)
    with pytest.raises(UserError, match=f"its file lacks .*{half}"):
        apply_adapters(make_model(), plan_adapters(base(tmp_path / "a")))


def test_an_adapter_file_that_is_cut_short_is_refused(tmp_path):
    path = trained(make_model(), tmp_path / "a") / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is damaged or cut short"):
        apply_adapters(make_model(), plan_adapters(base(tmp_path / "a")))


def test_broken_checkpoints_are_refused_in_one_line(tmp_path):
    folder = trained(make_model(), tmp_path / "a")

    def refused(change, said: str, **arguments) -> None:
        copied = tmp_path / said.replace(" ", "_").replace("/", "_")[:20]
        import shutil

        shutil.copytree(folder, copied)
        change(copied)
        with pytest.raises(UserError, match=said) as error:
            apply_adapters(make_model(), plan_adapters(base(copied, **arguments)))
        assert "\n" not in str(error.value)

    refused(lambda path: (path / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors")
    refused(
        lambda path: (path / "adapter_model.safetensors").rename(path / "adapter_model.bin"),
        "allow_pickle true",
    )
    refused(lambda path: (path / "adapter_config.json").write_text("{"), "cannot read")
    refused(lambda path: (path / "adapter_config.json").write_text('{"peft_type": "LILY"}'), "has peft_type LILY")
    refused(lambda path: (path / "adapter_config.json").unlink(), "neither an adapter")
    with pytest.raises(UserError, match="no such folder"):
        apply_adapters(make_model(), plan_adapters(base(tmp_path / "nowhere")))


@pytest.mark.slow
def test_a_quantised_base_keeps_all_adapters_and_trains_the_last(tmp_path, tiny_folder):
    pytest.importorskip("bitsandbytes")
    from carellama.model.load import load_model

    def quantised(*checkpoints: Path) -> tuple[Any, ModelOptions]:
        arguments = ModelOptions(
            model_name_or_path=str(tiny_folder),
            quantization_bit=4,
            checkpoint_dir=",".join(map(str, checkpoints)) or None,
        )
        return load_model(arguments, dtype="float32", attention=None), arguments

    def apply_quantised(finetuning, *checkpoints: Path):
        model, arguments = quantised(*checkpoints)
        return apply_adapters(model, plan_adapters(arguments, finetuning))

    model, arguments = quantised()
    shake(apply_adapters(model, plan_adapters(arguments, lora())), 1).save_pretrained(tmp_path / "a")
    model, arguments = quantised(tmp_path / "a")
    fresh = apply_adapters(model, plan_adapters(arguments, lora(resume_lora_training=False)))
    assert {n.split(".")[-2] for n, p in fresh.named_parameters() if p.requires_grad} == {"default"}
    shake(fresh, 2)
    expected = logits(fresh)
    fresh.save_pretrained(tmp_path / "b")
    model, arguments = quantised(tmp_path / "a", tmp_path / "b")
    both = apply_adapters(model, plan_adapters(arguments))
    adapters._disable_bnb_repacking(both)  # else a CPU with bfloat16 computes in that
    torch.testing.assert_close(logits(both), expected, atol=1e-5, rtol=1e-5)
    resumed = apply_quantised(lora(), tmp_path / "a", tmp_path / "b")
    loss = resumed.train()(input_ids=IDS, labels=IDS).loss
    loss.backward()
    moved = {n.split(".")[-2] for n, p in resumed.named_parameters() if p.grad is not None}
    assert moved == {"default"}
    with pytest.raises(UserError, match="quantised"):
        merge_adapters(copy.copy(both))
    learning = apply_quantised(lora(lora_target="all"))
    with torch.no_grad():
        learning.eval()(input_ids=IDS)
    shake(learning, 3).train()(input_ids=IDS, labels=IDS).loss.backward()
    silent = [n for n, p in learning.named_parameters() if p.requires_grad and not p.grad.any()]
    assert not silent, "an evaluation must not end the learning"


OTHER = {  # options of an adapter -> what the one that is trained further has
    "lora_rank=16": "--lora_rank 16: the adapter .* has 8",
    "lora_alpha=5.0": "has 32",
    "lora_dropout=0.3": "has 0",
    "lora_target=q_proj": "has q_proj,v_proj",
    "use_dora=True": "has False",
    "use_rslora=True": "has False",
    "peft_type=ia3": "has lora",
    "pissa_init=True": "--resume_lora_training false",
}


@pytest.mark.parametrize("given", OTHER)
def test_an_adapter_that_is_trained_further_keeps_its_kind_and_rank(tmp_path, given):
    """Another --lora_rank was accepted, and run.json had it, while the adapter was trained with its own."""
    first = trained(make_model(), tmp_path / "first")
    name, _, value = given.partition("=")
    wanted = {"lora_target": "q_proj,v_proj", name: type(getattr(lora(), name))(value if value != "True" else 1)}
    options = FinetuningOptions(**wanted)
    with pytest.raises(UserError, match=OTHER[given]):
        check_adapter_options(plan_adapters(base(first), options), [name])
    check_adapter_options(plan_adapters(base(first), options), [])  # a default is no wish
    fresh = plan_adapters(base(first), FinetuningOptions(**wanted, resume_lora_training=False))
    check_adapter_options(fresh, [name])
    check_adapter_options(plan_adapters(base(), options), [name])


def test_an_adapter_may_be_given_its_own_options_again(tmp_path):
    first = trained(make_model(), tmp_path / "first", lora_rank=4)
    plan = plan_adapters(base(first), lora(lora_rank=4, lora_target="v_proj,q_proj"))
    check_adapter_options(plan, ["lora_rank", "lora_target"])


def test_all_layers_are_not_those_of_an_adapter_of_two(tmp_path):
    first = trained(make_model(), tmp_path / "first")
    with pytest.raises(UserError, match=r"--lora_target all: .* has q_proj,v_proj"):
        apply_adapters(make_model(), plan_adapters(base(first), lora(lora_target="all")))
    every = trained(make_model(), tmp_path / "every", lora_target="all")
    assert apply_adapters(make_model(), plan_adapters(base(every), lora(lora_target="all"))).peft_config


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "changes",
    [{"target_modules": ["embed_tokens"]}, {"target_modules": ["q_proj", "lm_head"]},
     {"target_modules": ["embed_tokens", "lm_head"]}, {"modules_to_save": ["lm_head"]}],
    ids=["embedding", "head", "both", "whole head"],
)  # fmt: skip
def test_an_adapter_of_embedding_or_head_is_merged_into_its_own_weights(tmp_path, tied, changes):
    """peft keeps the weights of the base with such an adapter; what embedding and head share, it would change twice."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    settings: dict[str, Any] = {"target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "r": 4} | changes
    made = get_peft_model(make_model(tie_word_embeddings=tied), LoraConfig(**settings))
    shake(made, 1).save_pretrained(str(tmp_path / "a"))
    expected = logits(PeftModel.from_pretrained(make_model(tie_word_embeddings=tied), str(tmp_path / "a")))
    assert (expected - logits(make_model(tie_word_embeddings=tied))).abs().max() > 0.01
    adapted = apply_adapters(make_model(tie_word_embeddings=tied), plan_adapters(base(tmp_path / "a")))
    merged = merge_adapters(adapted)
    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-5)
    assert not merged.config.tie_word_embeddings  # else transformers 4 reads one weight for both
    merged.save_pretrained(tmp_path / "merged")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(read), expected, atol=1e-5, rtol=1e-5)


def test_tied_weights_stay_tied_where_both_change_alike(tmp_path):
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], trainable_token_indices=[5, 6])
    made = shake(get_peft_model(make_model(tie_word_embeddings=True), settings), 1)
    made.save_pretrained(str(tmp_path / "a"))
    merged = merge_adapters(apply_adapters(make_model(tie_word_embeddings=True), plan_adapters(base(tmp_path / "a"))))
    torch.testing.assert_close(logits(merged), logits(made), atol=1e-5, rtol=1e-5)
    assert merged.config.tie_word_embeddings and merged.lm_head.weight is merged.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"alora_invocation_tokens": [7, 8]}, "an activated LoRA"), ({"lora_bias": True}, "has a bias for model")],
    ids=["alora", "bias"],
)  # fmt: skip
def test_an_adapter_that_no_weights_can_hold_is_not_merged(tmp_path, changes, said):
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], **changes)
    get_peft_model(make_model(), settings).save_pretrained(str(tmp_path / "a"))
    adapted = apply_adapters(make_model(), plan_adapters(base(tmp_path / "a")))
    with pytest.raises(UserError, match=said):
        merge_adapters(adapted)
