"""The fused parts of layers: the same values and gradients as those that they stand for, and fewer things kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers.models.llama import modeling_llama

from carellama.errors import UserError
from carellama.model import fused
from carellama.model.fused import fuse
from carellama.train import arguments
from conftest import make_model

IDS = torch.arange(2, 34)[None]


@pytest.fixture(autouse=True)
def _rotation_of_transformers() -> Iterator[None]:
    own = modeling_llama.apply_rotary_pos_emb
    yield
    modeling_llama.apply_rotary_pos_emb = own


def adapted(**options: Any) -> Any:
    torch.manual_seed(0)
    model = make_model()
    targets = ["q_proj", "v_proj", "down_proj"]
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets, **options)
    model = get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.train()


def learned(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return float(loss), {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def replaced(model: Any) -> set[str]:
    return {module.forward.__func__.__name__ for module in model.modules() if "forward" in vars(module)}


def test_a_step_is_the_same() -> None:
    model = adapted()
    loss, gradients = learned(model)
    fuse(model)
    assert replaced(model) == {"_norm", "_gated", "_adapted"}
    assert modeling_llama.apply_rotary_pos_emb is fused._rotated
    own, ours = learned(model)
    assert own == pytest.approx(loss, rel=1e-6)
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)


def test_what_is_learned_goes_the_way_it_went() -> None:
    model = make_model().train()
    loss, gradients = learned(model)
    fuse(model)
    own, ours = learned(model)
    assert own == pytest.approx(loss, rel=1e-6) and ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)


def test_an_adapter_that_is_off_or_merged_adds_nothing_twice() -> None:
    model = adapted()
    with torch.no_grad():
        on, off = model(input_ids=IDS).logits, None
        with model.disable_adapter():
            off = model(input_ids=IDS).logits
        fuse(model)
        torch.testing.assert_close(model(input_ids=IDS).logits, on, rtol=1e-4, atol=1e-5)
        with model.disable_adapter():
            torch.testing.assert_close(model(input_ids=IDS).logits, off, rtol=1e-4, atol=1e-5)
        model.merge_adapter()
        torch.testing.assert_close(model(input_ids=IDS).logits, on, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(on, off)


def test_less_is_kept_for_the_way_back() -> None:
    def kept(model: Any) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = model(input_ids=IDS, labels=IDS).loss
        weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
        del loss
        return sum(size for place, size in sizes.items() if place not in weights)

    model = adapted()
    before = kept(model)
    fuse(model)
    assert kept(model) < 0.9 * before


@pytest.mark.parametrize("part", [fused.Norm, fused.Gate, fused.Rotation, fused.LowRank])
def test_each_derivative_is_that_of_its_function(part: Any) -> None:
    torch.manual_seed(1)

    def random(*shape: int, learns: bool = True) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=learns)

    x, weight, bias = random(2, 5, 6), random(7, 6, learns=False), random(7, learns=False)
    angles = [random(1, 1, 5, 6, learns=False) for _ in range(2)]
    given = {
        fused.Norm: (x, random(6, learns=False), 1e-6),
        fused.Gate: (x, random(2, 5, 6)),
        fused.Rotation: (random(2, 3, 5, 6), *angles),
        fused.LowRank: (x, weight, bias, random(3, 6), random(7, 3), 2.0, 0.0),
    }[part]
    assert torch.autograd.gradcheck(part.apply, given)  # type: ignore[arg-type]


def test_dropout_is_that_of_the_plain_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    x, weight, down, up = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 5, 6), (7, 6), (3, 6), (7, 3)))
    for one in (x, down, up):
        one.requires_grad_()
    chosen = fused.kept(torch.Size([10, 6]), 0.25)
    monkeypatch.setattr(fused, "kept", lambda shape, dropped: chosen)
    made = fused.LowRank.apply(x, weight, None, down, up, 2.0, 0.25)
    plain = F.linear(x, weight) + 2.0 * (x * chosen.view(2, 5, 6) / 0.75) @ down.T @ up.T
    torch.testing.assert_close(made, plain)

    def layer(x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> Any:
        return fused.LowRank.apply(x, weight, None, down, up, 2.0, 0.25)

    assert torch.autograd.gradcheck(layer, (x, down, up))


@pytest.mark.parametrize("dropped", [0.001, 0.1, 0.5, 0.9, 0.999999])
def test_so_many_values_are_dropped_and_the_seed_says_which(dropped: float) -> None:
    torch.manual_seed(3)
    first, second = (fused.kept(torch.Size([1000, 1001]), dropped) for _ in range(2))
    assert set(first.unique().tolist()) <= {0, 1}
    count = first.numel()
    deviation = (dropped * (1 - dropped) / count) ** 0.5 + 2**-16
    assert abs(float((first == 0).double().mean()) - dropped) < 5 * deviation
    assert dropped > 0.99 or not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(fused.kept(torch.Size([1000, 1001]), dropped), first)


def test_a_model_drops_while_it_learns_and_not_otherwise() -> None:
    model = adapted(lora_dropout=0.5)
    torch.manual_seed(0)
    before = [model(input_ids=IDS).logits.std() for _ in range(2)]
    plain = model.eval()(input_ids=IDS).logits
    fuse(model)
    torch.testing.assert_close(model(input_ids=IDS).logits, plain, rtol=1e-4, atol=1e-5)
    first, second = (model.train()(input_ids=IDS).logits for _ in range(2))
    assert not torch.equal(first, second) and before[0] != before[1]
    torch.testing.assert_close(first.std(), before[0], rtol=0.1, atol=0)


def test_mixed_precision_learns_as_before() -> None:
    model = make_model().train()  # float32 weights that learn, products in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients = learned(model)
        fuse(model)
        own, ours = learned(model)
    assert own == pytest.approx(loss, rel=1e-3)
    for name, gradient in gradients.items():
        assert ours[name].dtype == gradient.dtype
        torch.testing.assert_close(ours[name], gradient, rtol=0.1, atol=1e-2 * float(gradient.abs().max()))


@pytest.mark.parametrize("mixed", [None, torch.bfloat16, torch.float16], ids=["plain", "mixed bf16", "mixed fp16"])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_each_pair_of_precisions_learns_as_the_plain_layers(
    weights: torch.dtype, mixed: torch.dtype | None, dropout: float
) -> None:
    """Fault T5: adapters on float32 weights under bfloat16 mixed precision ended in a RuntimeError."""
    model = adapted(lora_dropout=dropout)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(weights)
    with torch.autocast("cpu", mixed or torch.bfloat16, enabled=mixed is not None):
        plain = model.eval()(input_ids=IDS).logits
        _, gradients = learned(model)
        fuse(model)
        assert replaced(model) == {"_norm", "_gated", "_adapted"}
        torch.testing.assert_close(model(input_ids=IDS).logits, plain, rtol=0.05, atol=0.02)
        _, ours = learned(model)
        learned(model.train())  # with dropout, values differ from one pass to the next
    assert gradients and ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert ours[name].dtype == gradient.dtype
        torch.testing.assert_close(ours[name], gradient, rtol=0.1, atol=2e-2 * float(gradient.abs().max()))


def test_ligers_kernels_are_for_a_gpu_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def settled(asked: bool | None) -> dict[str, Any]:
        values: dict[str, Any] = {}
        arguments._set_liger(values, wanted=asked)
        return values

    assert settled(None) == {"use_liger_kernel": False}
    with pytest.raises(UserError, match="needs a GPU"):
        settled(True)
    monkeypatch.setattr(arguments, "has_gpu", lambda: True)
    monkeypatch.setattr("transformers.utils.is_liger_kernel_available", lambda: True)
    assert settled(None) == {"use_liger_kernel": True, "liger_kernel_config": arguments.LIGER}
    assert settled(False) == {"use_liger_kernel": False}
