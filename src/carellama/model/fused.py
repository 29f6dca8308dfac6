"""Parts of Llama-like layers with fewer passes over memory, for training adapters on a CPU.

    fuse(model)   # before the first step

Beside its matrix products a small model spends most of its time on what lies between them: normalisation, rotation,
gates and low-rank updates, each made of several operations that read and write everything again. Here each is one
step of autograd with its derivative written out, and keeps less for the way back.

A part is replaced where its code is that of Llama (transformers' Qwen, Mistral, Granite and more share it to the
byte), and it goes on as it was wherever a condition does not hold: a weight that is learned, another precision,
another precision than the weights' own under mixed precision, several adapters at once, another kind of adapter.
"""

from __future__ import annotations

import sys
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F

from carellama.hardware import has_gpu


class Norm(torch.autograd.Function):
    """y = w x / sqrt(mean(x^2) + eps), with w not learned (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4).

    With s = 1 / sqrt(...) and g = w dy: dx = s g - x s^3 mean(g x). Inside in float32, like the original.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Take x (..., D) and weight (D,)."""
        wide = torch.promote_types(x.dtype, torch.float32)
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        made: torch.Tensor = (x * scale).to(x.dtype).mul_(weight)
        return made

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient of x."""
        x, weight, scale = ctx.saved_tensors
        grad = (grads[0] * weight).to(scale.dtype)
        share = torch.linalg.vecdot(grad, x.to(scale.dtype), dim=-1)[..., None] * scale**3 / x.shape[-1]
        return grad.mul_(scale).addcmul_(x, share, value=-1).to(x.dtype), None, None


class Gate(torch.autograd.Function):
    """silu(g) * u (Shazeer 2020, arXiv:2002.05202); silu(g) is computed again on the way back and not kept."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Take gate and up, both (..., M)."""
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of gate and up."""
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grads[0] * up, gate), F.silu(gate).mul_(grads[0])


class Rotation(torch.autograd.Function):
    """(x1 cos1 - x2 sin1, x2 cos2 + x1 sin2) of the halves of each head (Su et al. 2021, arXiv:2104.09864, eq. 34)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Take x (..., T, D), cos and sin that broadcast to it."""
        ctx.save_for_backward(cos, sin)
        made = x * cos
        half = x.shape[-1] // 2
        made[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
        made[..., half:].addcmul_(x[..., :half], sin[..., half:])
        return made

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient of x."""
        cos, sin = ctx.saved_tensors
        grad, half = grads[0], grads[0].shape[-1] // 2
        made = grad * cos
        made[..., :half].addcmul_(grad[..., half:], sin[..., half:])
        made[..., half:].addcmul_(grad[..., :half], sin[..., :half], value=-1)
        return made, None, None


class LowRank(torch.autograd.Function):
    """x W^T + bias + s (x' A^T) B^T with W and bias not learned (Hu et al. 2021, arXiv:2106.09685, eq. 3).

    x' is x after dropout (Srivastava et al. 2014, JMLR 15, section 4): of it a byte a value is kept, and not x' itself.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
        dropped: float,
    ) -> torch.Tensor:
        """Take x (..., I), weight (O, I), bias (O,), down A (r, I), up B (O, r) and the share that is dropped."""
        rows = x.flatten(0, -2)
        low, high = down.to(x.dtype), up.to(x.dtype)
        chosen = kept(rows.shape, dropped) if dropped else None
        scale /= 1 - dropped
        inner = (rows if chosen is None else rows * chosen) @ low.T
        made = F.linear(rows, weight, bias).addmm_(inner, high.T, alpha=scale)
        ctx.save_for_backward(rows, weight, low, high, inner, chosen)
        ctx.scale, ctx.learned = scale, down.dtype
        output: torch.Tensor = made.unflatten(0, x.shape[:-1])
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, A and B."""
        rows, weight, low, high, inner, chosen = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        grad_inner = (grad @ high).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            if chosen is None:
                grad_x.addmm_(grad_inner, low)
            else:
                grad_x.add_((grad_inner @ low).mul_(chosen))
            grad_x = grad_x.unflatten(0, grads[0].shape[:-1])
        grad_up = (grad.T @ inner).mul_(ctx.scale)
        grad_down = grad_inner.T @ (rows if chosen is None else rows * chosen)
        return grad_x, None, None, grad_down.to(ctx.learned), grad_up.to(ctx.learned), None, None


def kept(shape: torch.Size, dropped: float) -> torch.Tensor:
    """Ones, and with this probability zeros: uint8.

    By comparing 16 random bits each, so that the probability is exact to 1/65536: torch's Bernoulli on a CPU draws one
    number after the other, and takes longer than the product that follows.
    """
    count = shape.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    return (bits >= min(round(dropped * 2**16), 2**16 - 1) - 2**15).view(torch.uint8).view(shape)


def fuses(training: Any, *, sharded: bool) -> bool:
    """Whether a run takes these forms: on a CPU, with whole weights, and where nothing is compiled instead."""
    return not has_gpu() and not sharded and not training.torch_compile


def fuse(model: torch.nn.Module) -> None:
    """Give the parts of a model that are known here their fused form, in place.

    The rotation is a function of transformers' module of the architecture, so that it is replaced for all its models.
    """
    from peft.tuners.lora import Linear
    from transformers.activations import SiLUActivation
    from transformers.models.llama import modeling_llama as llama

    for module in model.modules():
        kind = type(module)
        if _same(kind.forward, llama.LlamaRMSNorm.forward):
            module.forward = MethodType(_norm, module)
        elif _same(kind.forward, llama.LlamaMLP.forward) and isinstance(module.act_fn, (torch.nn.SiLU, SiLUActivation)):
            module.forward = MethodType(_gated, module)
        elif kind is Linear:
            module.forward = MethodType(_adapted, module)
        home = sys.modules[kind.__module__]
        if _same(getattr(home, "apply_rotary_pos_emb", None), llama.apply_rotary_pos_emb):
            home.apply_rotary_pos_emb = _rotated  # type: ignore[attr-defined]


def _same(one: Any, other: Any) -> bool:
    """Whether two functions have the same code, whatever wraps them."""
    codes = [getattr(getattr(function, "__wrapped__", function), "__code__", None) for function in (one, other)]
    kept = [(code.co_code, code.co_consts, code.co_names) for code in codes if code is not None]
    return len(kept) == 2 and kept[0] == kept[1]


def _norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    if self.weight.requires_grad or self.weight.dtype != hidden_states.dtype:
        original: torch.Tensor = type(self).forward(self, hidden_states)
        return original
    made: torch.Tensor = Norm.apply(hidden_states, self.weight, self.variance_epsilon)
    return made


def _autocast_dtype(x: torch.Tensor) -> torch.dtype | None:
    """Return the precision of mixed precision on the device of `x`; None where it is off."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _gated(self: Any, x: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = self.down_proj(Gate.apply(self.gate_proj(x), self.up_proj(x)))
    return made


def _rotated(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return Rotation.apply(q, cos, sin), Rotation.apply(k, cos, sin)


def _adapted(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    names = [name for name in self.active_adapters if name in self.lora_A]
    base = self.base_layer
    if (
        args
        or kwargs
        or self.disable_adapters
        or self.merged
        or len(names) != 1
        or names[0] in self.lora_variant
        or type(self.lora_dropout[names[0]]) not in (torch.nn.Identity, torch.nn.Dropout)
        or type(base) is not torch.nn.Linear
        or base.weight.requires_grad
        or base.weight.dtype != x.dtype
        or _autocast_dtype(x) not in (None, x.dtype)  # the product has its precision, and `addmm_` takes no two
        or getattr(self.lora_B[names[0]], "bias", None) is not None
    ):
        original: torch.Tensor = type(self).forward(self, x, *args, **kwargs)
        return original
    down, up = self.lora_A[names[0]].weight, self.lora_B[names[0]].weight
    dropped = getattr(self.lora_dropout[names[0]], "p", 0.0) if self.training else 0.0
    made: torch.Tensor = LowRank.apply(x, base.weight, base.bias, down, up, self.scaling[names[0]], dropped)
    return made
