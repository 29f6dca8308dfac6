"""Whether the facts of a .gguf that are used here have the type and the range that ggml-org/ggml, docs/gguf.md gives.

    check_facts(path, read_layout(path))    # UserError: model.gguf: llama.context_length is '512'; a whole number ...

A wrong one stopped a command with a traceback, llama.cpp with an abort, or was read as another value.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from carellama.errors import UserError
from carellama.model.gguf.layout import ARRAY, STRING, Layout

TOKENS, KINDS = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
WHOLE, FLOATS, FLAG = frozenset((0, 1, 2, 3, 4, 5, 10, 11)), frozenset((6, 12)), 7  # numbers of value types


@dataclass(frozen=True)
class Expected:
    """What a fact has to be: value types, in words for messages, and the least number."""

    words: str
    kinds: Collection[int]
    least: int | None = None
    listed: Collection[int] = ()  # value types in a list, which a fact with a number for each layer may be


TEXT = Expected("a text", {STRING})
YES_NO = Expected("true or false", {FLAG})
SIZE = Expected("a whole number from 1 on", WHOLE, 1)
COUNT = Expected("a whole number from 0 on", WHOLE, 0)
COUNTS = Expected("a whole number from 0 on, or one for each layer", WHOLE, 0, WHOLE)
AMOUNT = Expected("a number from 0 on", WHOLE | FLOATS, 0)
TEXTS = Expected("a list of texts", (), None, {STRING})
NUMBERS = Expected("a list of whole numbers", (), None, WHOLE)
OF_ARCHITECTURE = {
    **dict.fromkeys(("context_length", "embedding_length", "block_count"), SIZE),
    **dict.fromkeys(("attention.head_count", "attention.head_count_kv", "feed_forward_length"), COUNTS),
    **dict.fromkeys(("attention.key_length", "attention.value_length", "expert_count", "expert_used_count"), COUNTS),
    "vocab_size": COUNT,
    **dict.fromkeys(("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon"), AMOUNT),
    **dict.fromkeys(("rope.freq_base", "rope.scaling.factor"), AMOUNT),
    "rope.scaling.type": TEXT,
}
OTHERS = {
    **dict.fromkeys(("general.architecture", "general.type", "tokenizer.chat_template"), TEXT),
    **dict.fromkeys(("tokenizer.ggml.model", "tokenizer.ggml.pre"), TEXT),
    **dict.fromkeys((f"tokenizer.ggml.add_{name}_token" for name in ("bos", "eos")), YES_NO),
    **dict.fromkeys((f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "unknown", "padding")), COUNT),
    TOKENS: TEXTS,
    "tokenizer.ggml.merges": TEXTS,
    KINDS: NUMBERS,
}
OF_VOCABULARY = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos"))  # llama.cpp takes others instead


def check_facts(path: Path, layout: Layout) -> None:
    """Raise `UserError` that names the first fact of a wrong type or out of its range."""
    architecture = layout.fact("general.architecture")
    known = OTHERS | {f"{architecture}.{name}": one for name, one in OF_ARCHITECTURE.items()}
    for name, wanted in known.items():
        if name in layout.metadata and not _fits(layout, name, wanted):
            raise _refusal(path, layout, name, wanted.words)
    tokens = layout.fact(TOKENS)
    if not tokens:
        return
    for name in OF_VOCABULARY:
        if (layout.fact(name) or 0) >= tokens:
            raise _refusal(path, layout, name, f"the number of one of its {tokens:,} tokens")
    if layout.fact(KINDS) not in (None, tokens):
        raise UserError(f"{path}: {KINDS} has {layout.fact(KINDS):,} numbers for {tokens:,} tokens: it is damaged")


def _fits(layout: Layout, name: str, wanted: Expected) -> bool:
    kind, of = struct.unpack("<II", layout.metadata[name][:8].ljust(8, b"\0"))
    if kind == ARRAY:
        return of in wanted.listed
    if kind not in wanted.kinds:
        return False
    value = layout.fact(name)
    return wanted.least is None or (math.isfinite(value) and value >= wanted.least)


def _refusal(path: Path, layout: Layout, name: str, words: str) -> UserError:
    value = layout.fact(name)
    is_list = layout.metadata[name][:4] == struct.pack("<I", ARRAY)
    shown = f"a list of {value}" if is_list else repr(value)[:60]
    return UserError(f"{path}: {name} is {shown}; it has to be {words}: the file is damaged, or written wrongly")
