"""Which tensor of a .gguf gets which number format, as llama.cpp's own quantiser chooses.

    tensor_types(layout.tensors, shape, "q4_K_M", importance=True)     # {"output.weight": "Q6_K", ...}

A format such as q4_K_M is a mix: what a rounding error harms most (values of attention, second matrices of the feed
forward in some layers, the output) gets more bits. The rules are those of llama.cpp (src/llama-quant.cpp, functions
`tensor_allows_quantization`, `llama_tensor_get_type_impl`, `tensor_type_fallback`) for the formats offered here.
benchmarks/quantization.py compares the result with llama.cpp's function itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from carellama.model.gguf.layout import GGML_TYPES, Layout, TensorPlace

FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class FileType:
    """A format of `--gguf_type`: the number format of most tensors, and llama.cpp's number of the file type."""

    base: str
    number: int  # llama.h, enum llama_ftype


FILE_TYPES = {
    "f16": FileType("F16", 1),
    "q8_0": FileType("Q8_0", 7),
    "q4_0": FileType("Q4_0", 2),
    "q4_K_M": FileType("Q4_K", 15),
    "q5_K_M": FileType("Q5_K", 17),
    "q6_K": FileType("Q6_K", 18),
    "iq4_xs": FileType("IQ4_XS", 30),
}

# Rows that a block of 256 does not divide take the format with blocks of 32; rows that 32 does not divide, F16.
FALLBACKS = {"IQ4_XS": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}

# Tensors that stay as they are: norms, routers of experts, positions, and small ones of single architectures.
KEPT = (
    *("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj"),
    *("ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "attn_rel_b.weight"),
    *("time_mix_first.weight", "time_mix_lerp_fused.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight"),
    *(f"time_mix_{name}.weight" for name in ("w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2")),
    *(".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger"),
    *("a.rvq.codebook", "mm.a.code_embd"),
)
KEPT_NAMES = ("position_embd.weight", "token_types.weight")

OUTPUT, EMBEDDINGS = "output.weight", ("token_embd.weight", "per_layer_token_embd.weight")
# What a tensor does, by a part of its name; the first that fits.
ROLES = {
    "attn_qkv.weight": "value",  # has the values in it
    "attn_kv_b.weight": "value",
    "attn_v.weight": "value",
    "attn_k.weight": "key",
    "attn_output.weight": "attention output",
    "ffn_down": "down",
}


@dataclass(frozen=True)
class ModelShape:
    """What the rules ask of a model."""

    architecture: str
    layers: int
    experts: int
    heads: int  # of the first layer
    kv_heads: int

    @property
    def heads_sharing(self) -> int:
        """Heads that share keys and values; 0: none has any."""
        return self.heads // self.kv_heads if self.kv_heads else 0

    @property
    def is_llama_70b(self) -> bool:
        """Whether it is a Llama of 80 layers whose heads share values."""
        return self.architecture == "llama" and self.layers == 80 and self.heads != self.kv_heads


def shape_of(layout: Layout) -> ModelShape:
    """Return the shape by a .gguf's metadata, of facts that have a number for each layer the first. Missing: 0."""
    architecture = str(layout.fact("general.architecture"))

    def number(name: str) -> int:
        found = layout.fact(f"{architecture}.{name}", whole=True) or 0
        return int(found[0] if isinstance(found, list) else found)

    heads = number("attention.head_count")
    return ModelShape(
        architecture,
        number("block_count"),
        number("expert_count"),
        heads,
        number("attention.head_count_kv") if f"{architecture}.attention.head_count_kv" in layout.metadata else heads,
    )


def tensor_types(
    tensors: Sequence[TensorPlace], shape: ModelShape, gguf_type: str, *, importance: bool
) -> dict[str, str]:
    """Return the number format of each tensor by name; `importance`: whether an importance matrix is used."""
    if gguf_type == "f16":
        return {one.name: _half(one) for one in tensors}
    tied = all(one.name != OUTPUT for one in tensors)
    names = {one.name: _role(one.name) for one in tensors}
    values = sum(role == "value" for role in names.values())
    chosen, seen = dict[str, str](), {"value": 0, "down": 0}
    for one in sorted(tensors, key=lambda one: (block_of(one.name), one.name)):
        if not may_be_quantized(one):
            chosen[one.name] = one.type
            continue
        role = names[one.name]
        at = seen.get(role, 0)
        if role == "down" and shape.experts > 1:
            at = block_of(one.name)
        if one.name == OUTPUT or (tied and one.name in EMBEDDINGS):
            kind = _output_type(one, shape, gguf_type)
        else:
            count = values if role == "value" else shape.layers
            kind = _mixed(role, at, count, shape, gguf_type, importance=importance)
        if role in seen:
            seen[role] += 1
        chosen[one.name] = _fitting(one, kind)
    return chosen


def may_be_quantized(tensor: TensorPlace) -> bool:
    """Whether a tensor may lose precision: matrices, but for the ones that `KEPT` names."""
    name = tensor.name
    matrix = sum(size > 1 for size in tensor.dimensions[1:]) > 0
    return matrix and name.endswith("weight") and name not in KEPT_NAMES and not any(part in name for part in KEPT)


def block_of(name: str) -> int:
    """The number of a tensor's layer; -1: it is in none."""
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _half(tensor: TensorPlace) -> str:
    return "F16" if may_be_quantized(tensor) else tensor.type


def _role(name: str) -> str:
    return next((role for part, role in ROLES.items() if part in name), "") if name != OUTPUT else ""


def _output_type(tensor: TensorPlace, shape: ModelShape, gguf_type: str) -> str:
    """The format of the matrix that gives the logits."""
    base = FILE_TYPES[gguf_type].base
    if shape.architecture == "falcon" or tensor.columns % GGML_TYPES[base].block:
        return "Q8_0"
    return base if base == "Q8_0" else "Q6_K"


def _mixed(role: str, at: int, count: int, shape: ModelShape, gguf_type: str, *, importance: bool) -> str:
    """The format of the tensor number `at` of `count` that do the same."""
    base = FILE_TYPES[gguf_type].base
    wider = gguf_type in ("q4_K_M", "q5_K_M") and _gets_more_bits(at, count)
    eight = shape.experts == 8  # of Mixtral: its attention is small beside its experts
    if role == "value":
        kind = "Q6_K" if wider else "Q5_K" if gguf_type == "iq4_xs" and shape.heads_sharing >= 4 else base
        if shape.is_llama_70b and kind == "Q4_K":
            kind = "Q5_K"
        return "Q8_0" if eight else kind
    if role == "key" and eight:
        return "Q8_0"
    if role == "attention output" and eight and shape.architecture != "falcon":
        return "Q5_K" if gguf_type in ("q4_K_M", "iq4_xs") else base
    if role != "down":
        return base
    if gguf_type == "q4_K_M" and shape.architecture == "falcon":
        return "Q6_K" if at < count // 16 else "Q5_K" if wider else base
    if wider:
        return "Q6_K"
    if at < count // 8 and gguf_type == "iq4_xs" and not importance:
        return "Q5_K"
    if at < count // 8 and gguf_type == "q4_0" and importance:
        return "Q4_1"
    return base


def _gets_more_bits(at: int, count: int) -> bool:
    """Whether a layer is one of the first or last eighth, or each third between them."""
    return at < count // 8 or at >= 7 * count // 8 or (at - count // 8) % 3 == 2


def _fitting(tensor: TensorPlace, kind: str) -> str:
    """The format, or the one in its place where its blocks do not divide the rows."""
    if tensor.columns % GGML_TYPES[kind].block:
        kind = FALLBACKS.get(kind, "F16")
    return "F16" if tensor.columns % GGML_TYPES[kind].block else kind
