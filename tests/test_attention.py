"""A packed row gives what its records give one by one and padded: outputs, losses and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from carellama.data.encoding.collate import collate_padded, collate_row
from carellama.data.encoding.pack import pack
from carellama.model import packed_attention as attention
from carellama.model.packed_attention import DENSE_TOKENS, register
from carellama.records import IGNORED, Tokens
from carellama.train.chunked_loss import ChunkedCrossEntropy, has_plain_head, per_record_losses, sum_loss
from conftest import make_model


def records(lengths, vocabulary=400, seed=0) -> list[Tokens]:
    numbers = np.random.default_rng(seed)
    found = []
    for length in lengths:
        ids = numbers.integers(3, vocabulary, length).astype(np.int32)
        labels = ids.copy()
        labels[: max(1, length // 3)] = IGNORED
        found.append(Tokens(ids, labels))
    return found


def gradients(model) -> list[torch.Tensor]:
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return found


MODELS = {
    "llama": lambda: make_model(attn_implementation=register()),
    "long": lambda: make_model(attn_implementation=register(), max_position_embeddings=2048),
}


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("lengths", [(7,), (5, 19, 2, 33), (DENSE_TOKENS + 9, 12)])
def test_the_rows_loss_is_the_records_and_the_padded_batchs(lengths, chunked) -> None:
    model = make_model(max_position_embeddings=2048)
    model.set_attn_implementation(register())
    made = records(lengths)
    total, count = sum_loss(model, collate_row([[tokens] for tokens in made]), chunked=chunked)
    total.backward()
    packed = gradients(model)
    singles = [sum_loss(model, collate_row([[tokens]]), chunked=chunked) for tokens in made]
    assert torch.allclose(total / count, sum(s for s, _ in singles) / sum(n for _, n in singles), atol=1e-5)  # type: ignore[arg-type]

    model.set_attn_implementation("sdpa")
    padded, padded_count = sum_loss(model, collate_padded([[tokens] for tokens in made], 0), chunked=chunked)
    padded.backward()
    assert count == padded_count == sum(int((tokens.labels != IGNORED).sum()) for tokens in made)
    assert torch.allclose(total / count, padded / count, atol=1e-5)
    for one, other in zip(packed, gradients(model), strict=True):
        assert torch.allclose(one / count, other / count, atol=1e-5)


@pytest.mark.parametrize("chunked", [True, False])
def test_each_records_loss_is_its_own(chunked) -> None:
    model = make_model()
    model.set_attn_implementation(register())
    made = records((9, 30, 4))
    each = per_record_losses(model, collate_row([[tokens] for tokens in made]), chunked=chunked)
    for (total, count), tokens in zip(each.tolist(), made, strict=True):
        alone, positions = sum_loss(model, collate_row([[tokens]]), chunked=chunked)
        assert count == positions and total == pytest.approx(float(alone.detach()), abs=1e-4)
    model.set_attn_implementation("sdpa")
    padded = per_record_losses(model, collate_padded([[tokens] for tokens in made], 0), chunked=chunked)
    assert torch.allclose(each, padded, atol=1e-4)


def test_the_loss_is_the_models_own() -> None:
    model = make_model()
    model.set_attn_implementation("sdpa")
    batch = collate_padded([[tokens] for tokens in records((9, 30))], 0)
    total, count = sum_loss(model, batch, chunked=True)
    assert torch.allclose(total / count, model(**batch).loss, atol=1e-5)


def test_mixed_precision_learns_on_float32_weights() -> None:
    """As `full` and `freeze` train: float32 weights, products in bfloat16."""
    model = make_model()
    model.set_attn_implementation(register())
    batch = collate_row([[tokens] for tokens in records((20, 11))])
    with torch.autocast("cpu", torch.bfloat16):
        total, count = sum_loss(model, batch, chunked=True, dtype=torch.bfloat16)
    (total / count).backward()
    exact, _ = sum_loss(model, batch, chunked=True)
    assert all(torch.isfinite(grad).all() for grad in gradients(model))
    assert torch.allclose(total / count, exact / count, rtol=1e-2)


@pytest.mark.parametrize("settings", [{"sliding_window": 8}, {}])
def test_other_architectures_keep_records_apart(settings) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM

    kinds = [(MistralConfig, MistralForCausalLM), (Gemma2Config, Gemma2ForCausalLM)]
    for config, kind in kinds:
        torch.manual_seed(0)
        model = kind(
            config(
                vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=8, **settings,
            )
        ).eval()  # fmt: skip
        made = records((21, 5, 14))
        model.set_attn_implementation(register())
        plain = has_plain_head(model)
        packed, count = sum_loss(model, collate_row([[tokens] for tokens in made]), chunked=plain)
        model.set_attn_implementation("eager")  # the only one that knows Gemma 2's soft cap
        padded, _ = sum_loss(model, collate_padded([[tokens] for tokens in made], 0), chunked=plain)
        assert torch.allclose(packed / count, padded / count, atol=1e-5), kind.__name__


def test_a_soft_capped_head_is_not_plain() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, final_logit_softcapping=0.05,
    )  # fmt: skip
    assert not has_plain_head(Gemma2ForCausalLM(config).eval())
    assert has_plain_head(make_model())


def test_chunked_gradients_are_autograds() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(1100, 16, requires_grad=True)
    weight = torch.randn(60, 16, requires_grad=True)
    targets = torch.randint(0, 60, (1100,))
    (ChunkedCrossEntropy.apply(hidden, weight, targets) * 0.5).backward()
    ours = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    (torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum") * 0.5).backward()
    assert torch.allclose(ours[0], hidden.grad, atol=1e-5)  # type: ignore[arg-type]
    assert torch.allclose(ours[1], weight.grad, atol=1e-3)  # type: ignore[arg-type]


def test_packing_keeps_every_record_and_fills_the_windows() -> None:
    lengths = np.random.default_rng(0).integers(1, 129, 5000).tolist()
    windows = pack(lengths, 128)
    assert sorted(index for window in windows for index in window) == list(range(5000))
    assert all(sum(lengths[index] for index in window) <= 128 for window in windows)
    assert sum(lengths) / (128 * len(windows)) > 0.99
    assert pack([], 8) == []


def test_flash_attention_is_taken_where_it_is_already_here(monkeypatch, tmp_path) -> None:
    from transformers import LlamaForCausalLM, utils

    monkeypatch.setattr(attention, "has_gpu", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(utils, "is_flash_attn_2_available", lambda: False)
    monkeypatch.setattr(utils, "is_kernels_available", lambda: True)
    assert attention.choose("auto", LlamaForCausalLM) == "packed", "nothing is fetched unasked"
    (tmp_path / "models--kernels-community--flash-attn2").mkdir()
    assert attention.choose("auto", LlamaForCausalLM) == "flash_attention_2"
    monkeypatch.setattr(utils, "is_kernels_available", lambda: False)
    assert attention.choose("auto", LlamaForCausalLM) == "packed"
    monkeypatch.setattr(utils, "is_flash_attn_2_available", lambda: True)
    assert attention.choose("auto", LlamaForCausalLM) == "flash_attention_2"
    monkeypatch.setattr(attention, "has_gpu", lambda: False)
    assert attention.choose("auto", LlamaForCausalLM) == "packed"


def test_a_compiled_model_learns_from_rows_as_it_does_otherwise() -> None:
    """--torch_compile ended in "Cannot view a tensor with shape" (aot_eager finds what inductor does, and is quick)."""
    torch.compiler.reset()
    model = make_model(attn_implementation=register())
    batch = collate_row([[tokens] for tokens in records((5, 19, 8))])
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "cu_seq_lens_q")}
    plain = model(**inputs, use_cache=False).logits
    plain.square().mean().backward()
    expected = gradients(model)
    compiled = torch.compile(model, backend="aot_eager")(**inputs, use_cache=False).logits
    compiled.square().mean().backward()
    torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
