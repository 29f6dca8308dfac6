"""Architectures, each made tiny at random: trained as in a padded batch, merged, saved, loaded and asked."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from carellama.config.engine import GenerationOptions
from carellama.config.finetuning import FinetuningOptions
from carellama.config.model import ModelOptions, TrainedModelOptions
from carellama.data.encoding.collate import collate_padded, collate_row
from carellama.engine.base import Sampling
from carellama.engine.generate import generate
from carellama.engine.transformers.engine import TransformersEngine
from carellama.errors import UserError
from carellama.model.adapter_plan import plan_adapters
from carellama.model.adapters import apply_adapters, merge_adapters
from carellama.model.load import load_model, model_class
from carellama.model.packed_attention import NotPacked, choose, packed_attention
from carellama.model.tokenizer import load_tokenizer, match_tokenizer
from carellama.records import Message
from carellama.templates.template import get_template
from carellama.train.batch_layout import choose_collator, no_packing_reason, padded_attention
from carellama.train.chunked_loss import has_plain_head, sum_loss
from test_attention import gradients, records

SIZES: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "attention_dropout": 0.0,
    "hidden_dropout": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SAMPLING = Sampling.of(GenerationOptions(max_new_tokens=4, do_sample=False))
WINDOW = {"sliding_window": 6}  # shorter than the records of these tests
FAST: dict[str, tuple[str, dict[str, Any]]] = {
    "llama1": ("llama", {"num_key_value_heads": 4}),
    "llama2": ("llama", {}),
    "llama3": ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
    "codellama": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2": ("qwen2", {}),
    "qwen2_window": ("qwen2", WINDOW | {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": ("qwen3", {}),
    "qwen3_moe": ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
    "mistral": ("mistral", WINDOW),
    "gemma2": ("gemma2", WINDOW | {"attn_logit_softcapping": 2.0}),
    "gemma3": ("gemma3_text", WINDOW | {"sliding_window_pattern": 2}),
    "glm": ("glm", {}),
    "glm4": ("glm4", {}),
    "phi": ("phi", {}),
    "phi3": ("phi3", WINDOW | {"head_dim": None}),
    "internlm3": ("internlm3", {}),
    "deepseek_v3": ("deepseek_v3", {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16,
        "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}),
    "gpt2": ("gpt2", {}),
}  # fmt: skip
PADDED: dict[str, tuple[str, dict[str, Any], str]] = {
    "bloom": ("bloom", {}, "it computes its attention by itself"),
    "falcon": ("falcon", {"head_dim": None}, "it computes its attention by itself"),
    "gpt_oss": ("gpt_oss", WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2}, "its attention has sinks"),
    "llama4": ("llama4_text", {"intermediate_size_mlp": 64, "num_local_experts": 2, "attention_chunk_size": 8},
        "it attends in chunks"),
    "minimax": ("minimax", {"num_local_experts": 2}, "its records see each other"),
}  # fmt: skip
ALL = {name: found[:2] for name, found in {**FAST, **PADDED}.items()}


def tiny(name: str, attention: str | None = None) -> Any:
    """A random model whose attention matters: with larger weights than those that training begins with."""
    kind, changes = cast("tuple[str, dict[str, Any]]", ALL[name])
    torch.manual_seed(0)
    settings = {key: value for key, value in (SIZES | changes).items() if value is not None}
    config = AutoConfig.for_model(kind, **settings)
    options = {"attn_implementation": attention} if attention else {}
    model = AutoModelForCausalLM.from_config(config, **options)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 4
    return model.eval()


def saved(name: str, folder: Path, tokenizer: Any) -> TrainedModelOptions:
    tiny(name).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return TrainedModelOptions(model_name_or_path=str(folder), attention="auto")


def loaded(arguments: TrainedModelOptions) -> Any:
    chosen = choose(arguments.attention, model_class(arguments))
    return load_model(arguments, dtype="float32", attention=chosen)


@pytest.mark.parametrize("name", FAST)
def test_rows_without_padding_give_the_padded_batchs_loss_and_gradients(name) -> None:
    model = tiny(name, choose("auto", type(tiny(name))))
    assert no_packing_reason(model) == "" and model.config._attn_implementation == "packed"
    chunked = has_plain_head(model)
    made = [[tokens] for tokens in records((21, 5, 14))]
    total, count = sum_loss(model, collate_row(made), chunked=chunked)
    (total / count).backward()
    packed = gradients(model)
    model.set_attn_implementation("eager")
    padded, _ = sum_loss(model, collate_padded(made, 0), chunked=chunked)
    (padded / count).backward()
    assert float(total / count) == pytest.approx(float(padded / count), abs=2e-5)
    largest = max(float(gradient.abs().max()) for gradient in packed)
    for one, other in zip(packed, gradients(model), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * largest, rtol=1e-3)


@pytest.mark.parametrize("name", PADDED)
def test_a_model_that_can_not_keep_records_apart_is_padded_with_a_line(name, caplog, tiny_tokenizer, tmp_path) -> None:
    model = loaded(saved(name, tmp_path, tiny_tokenizer))
    with caplog.at_level(logging.INFO, "carellama"):
        collate = choose_collator(model, tiny_tokenizer, packing=False, sharded=False)
    assert [PADDED[name][2] in line for line in caplog.messages if line.endswith("batches are padded")] == [True], (
        caplog.messages
    )
    assert model.config._attn_implementation == padded_attention(model)
    made = records((21, 5, 14))
    chunked = has_plain_head(model)
    total, count = sum_loss(model, collate([[tokens] for tokens in made]), chunked=chunked)
    singles = [sum_loss(model, collate([[tokens]]), chunked=chunked) for tokens in made]
    assert float(total / count) == pytest.approx(
        float(sum(loss for loss, _ in singles) / sum(number for _, number in singles)), abs=2e-4
    )
    with pytest.raises(UserError, match="--packing"):
        choose_collator(model, tiny_tokenizer, packing=True, sharded=False)


@pytest.mark.parametrize("name", ALL)
def test_one_step_moves_the_adapter_which_merges_saves_and_answers(name, tmp_path, tiny_tokenizer) -> None:
    arguments = saved(name, tmp_path / "base", tiny_tokenizer)
    tokenizer = load_tokenizer(arguments)
    network = loaded(arguments)
    match_tokenizer(network, tokenizer)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    model = apply_adapters(network, plan_adapters(arguments, FinetuningOptions(lora_dropout=0.0)))
    collate = choose_collator(model, tokenizer, packing=False, sharded=False)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=0.02)
    batch = collate([[tokens] for tokens in records((21, 5, 14))])
    losses = []
    for _ in range(3):
        total, count = sum_loss(model, batch, chunked=has_plain_head(model))
        optimiser.zero_grad()
        (total / count).backward()
        optimiser.step()
        losses.append(float(total.detach() / count))
    assert losses[-1] < losses[0]
    plain = {
        key.replace(".base_layer", "").removeprefix("base_model.model."): v for key, v in model.state_dict().items()
    }
    assert all(torch.equal(plain[key], value) for key, value in before.items())
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)

    again = ModelOptions(model_name_or_path=str(tmp_path / "base"), checkpoint_dir=str(tmp_path / "adapter"))
    adapted = apply_adapters(load_model(again, dtype="float32", attention=None), plan_adapters(again))
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
        merged = merge_adapters(adapted)
        merged.save_pretrained(tmp_path / "merged")
        whole = load_model(ModelOptions(str(tmp_path / "merged")), dtype="float32", attention=None)
        torch.testing.assert_close(whole(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-3)
    engine = TransformersEngine(whole, tokenizer, get_template(None, tokenizer))
    said = generate(engine, [[Message("user", "a")], [Message("user", "fever, cough")]], SAMPLING)
    assert all(1 <= reply.completion_tokens <= 4 for reply in said)


JOINED = set(ALL) - {"minimax"}


@pytest.mark.parametrize("name", ALL)
def test_answers_that_join_and_leave_are_those_of_model_generate(name, tiny_tokenizer, caplog) -> None:
    model = tiny(name)
    template = get_template(None, tiny_tokenizer)
    template.stop_ids.clear()
    engine = TransformersEngine(model, tiny_tokenizer, template, batch_size=2)
    prompts = engine._encode([[Message("user", text)] for text in ("a", "fever, cough", "What is asthma?")])
    samplings = [replace(SAMPLING, max_new_tokens=tokens) for tokens in (9, 3, 6)]
    with ThreadPoolExecutor(3) as pool, caplog.at_level(logging.INFO, "carellama"):
        found = [one[0].ids for one in pool.map(lambda a, b: engine.complete_ids([a], b), prompts, samplings)]
    assert ("none joins" not in caplog.text) == (name in JOINED)
    for ids, sampling, said in zip(prompts, samplings, found, strict=True):
        settings = {"max_new_tokens": sampling.max_new_tokens, "do_sample": False, "eos_token_id": None}
        expected = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), **settings)
        assert said == expected[0, len(ids) :].tolist()


def test_attention_that_wants_more_is_refused() -> None:
    query = torch.randn(1, 2, 5, 4)
    borders = torch.tensor([0, 2, 5], dtype=torch.int32)
    with pytest.raises(NotPacked, match="position_bias"):
        packed_attention(torch.nn.Module(), query, query, query, None, cu_seq_lens_q=borders, position_bias=query)
    packed_attention(torch.nn.Module(), query, query, query, None, cu_seq_lens_q=borders, position_bias=None)


def test_a_window_that_attention_is_not_told_needs_padding() -> None:
    model = tiny("mistral", choose("auto", type(tiny("mistral"))))
    model.config.layer_types = ["sliding_attention", "full_attention"]
    assert no_packing_reason(model) == ""
    for layer in model.model.layers:
        layer.self_attn.config = type(model.config)(**SIZES | {"sliding_window": None})
        layer.self_attn.config._attn_implementation = "packed_and_noted"
    assert "window" in no_packing_reason(model)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama2", "q_proj,v_proj"), ("bloom", "query_key_value"), ("gpt2", "c_attn"),
        ("phi3", "down_proj,gate_up_proj,o_proj,qkv_proj"),
    ],
)  # fmt: skip
def test_default_layers_are_those_of_the_architecture(name, expected, caplog) -> None:
    with caplog.at_level(logging.INFO, "carellama"):
        model = apply_adapters(tiny(name), plan_adapters(ModelOptions("tiny"), FinetuningOptions()))
    assert any(line.startswith(f"--lora_target {expected} (") for line in caplog.messages), caplog.messages
    adapted = {key.partition(".lora_")[0].rpartition(".")[2] for key in model.state_dict() if ".lora_" in key}
    assert adapted == set(expected.split(","))


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "internlm"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_a_model_with_code_of_its_own_runs_only_when_trusted_and_is_padded(
    tmp_path, tiny_tokenizer, caplog, monkeypatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    arguments = saved("llama1", tmp_path, tiny_tokenizer)
    (tmp_path / "modeling_own.py").write_text(OWN_CODE, encoding="utf-8")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "internlm", "architectures": ["OwnForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="internlm"):  # a name that transformers does not know, and no code
        loaded(arguments)
    config["auto_map"] = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="--trust_remote_code true"):
        loaded(arguments)
    trusted = replace(arguments, trust_remote_code=True)
    assert model_class(trusted) is None
    model = loaded(trusted)
    assert type(model).__name__ == "OwnForCausalLM"
    with caplog.at_level(logging.INFO, "carellama"):
        collate = choose_collator(model, tiny_tokenizer, packing=False, sharded=False)
    assert caplog.messages[-1].endswith("batches are padded")
    total, count = sum_loss(model, collate([[tokens] for tokens in records((9, 5))]), chunked=True)
    assert torch.isfinite(total / count)
