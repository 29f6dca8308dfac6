"""Keys and values of answers under way: rows join and leave while the others go on.

    cache = new_kv_cache()          # given to a model as past_key_values
    concat_caches(cache, other)           # the rows of another cache go under its own
    select_rows(cache, [0, 2], 17)      # only these rows stay, and of them the last 17 columns

A row is an answer. All rows end at the same column; a shorter one is padded on the left, where its mask hides what
stands there. Every layer keeps all columns, also one that attends to a window: its mask knows the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

SPARE_POSITIONS = 128  # columns of room, at least: a new token is written in place, not copied with all before it


class GrowableKVLayer(DynamicLayer):
    """Keys and values of one layer, each (rows, heads, columns, width), in buffers that have room for more."""

    keys: Tensor
    values: Tensor

    def __init__(self, **_: object) -> None:
        super().__init__()
        self.rows = self.start = self.end = 0  # what of the buffers is in use: rows from 0, columns start to end

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add columns (rows, heads, T, width); return all that are in use."""
        rows, _, new, _ = key_states.shape
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.rows = rows
            self.keys, self.values = (one.new_zeros(*one.shape[:2], new + SPARE_POSITIONS, one.shape[3])
                                      for one in (key_states, value_states))  # fmt: skip
        elif self.end + new > self.keys.shape[2]:
            self._reallocate(rows, self.get_seq_length(), new)
        self.keys[:rows, :, self.end : self.end + new] = key_states
        self.values[:rows, :, self.end : self.end + new] = value_states
        self.end += new
        return self._in_use(self.keys), self._in_use(self.values)

    def get_seq_length(self) -> int:
        """GrowableKVLayer in use."""
        return self.end - self.start

    def join(self, other: GrowableKVLayer) -> None:
        """Put the rows of `other` under these."""
        rows, width = self.rows + other.rows, max(self.get_seq_length(), other.get_seq_length())
        if rows > self.keys.shape[0] or width > self.end:
            self._reallocate(rows, width)
        self.start = self.end - width
        begin = self.end - other.get_seq_length()
        self.keys[self.rows : rows, :, begin : self.end] = other._in_use(other.keys)
        self.values[self.rows : rows, :, begin : self.end] = other._in_use(other.values)
        self.rows = rows

    def select(self, rows: Sequence[int], width: int) -> None:
        """Keep these rows (rising), and the last `width` columns."""
        self.start = self.end - width
        for to, row in enumerate(rows):
            if to != row:
                for buffer in (self.keys, self.values):
                    buffer[to, :, self.start : self.end] = buffer[row, :, self.start : self.end]
        self.rows = len(rows)

    def _in_use(self, buffer: Tensor) -> Tensor:
        return buffer[: self.rows, :, self.start : self.end]

    def _reallocate(self, rows: int, end: int, new: int = 0) -> None:
        """Move to buffers in which the columns in use end at `end`, with room for `new` more and some to spare."""
        rows, room = max(rows, self.keys.shape[0]), end + new + max(SPARE_POSITIONS, end // 4)
        start, moved = end - self.get_seq_length(), []
        for buffer in (self.keys, self.values):
            fresh = buffer.new_zeros(rows, buffer.shape[1], room, buffer.shape[3])  # zeros: a mask hides no NaN
            fresh[: self.rows, :, start:end] = self._in_use(buffer)
            moved.append(fresh)
        self.keys, self.values = moved
        self.start, self.end = start, end


def new_kv_cache() -> DynamicCache:
    """Return an empty cache; its layers come with the first columns."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = GrowableKVLayer
    return cache


def concat_caches(cache: DynamicCache, other: DynamicCache) -> None:
    """Put the rows of `other` under those of `cache`."""
    for layer, joining in zip(_layers(cache), _layers(other), strict=True):
        layer.join(joining)


def select_rows(cache: DynamicCache, rows: Sequence[int], width: int) -> None:
    """Keep these rows, and the last `width` columns."""
    for layer in _layers(cache):
        layer.select(rows, width)


def _layers(cache: DynamicCache) -> list[GrowableKVLayer]:
    return cast("list[GrowableKVLayer]", cache.layers)  # all of the class that `new_kv_cache` gave


def unbatchable_reason(model: PreTrainedModel) -> str:
    """Say why the cache of a model cannot be joined so, or nothing."""
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        return "it has an encoder"
    if getattr(model, "_is_stateful", False):
        return "it keeps a state"
    other = {type(layer) for layer in DynamicCache(config=config).layers} - {DynamicLayer, DynamicSlidingWindowLayer}
    return f"its cache has a {other.pop().__name__}" if other else ""


def probe_batching(model: PreTrainedModel) -> str:
    """Say why answers of a model do not stay the same when their rows join and leave, or nothing.

    It is tried with a few tokens, as a model with code of its own may do anything.
    """
    device = model.device
    long, short = [5, 6, 7, 8, 9], [7, 5, 6]
    try:
        alone = [model(input_ids=torch.tensor([ids], device=device)).logits[0, -1].float() for ids in (long, short)]
        cache = new_kv_cache()
        for ids, other in ((short[:2], cache), (long[:4], new_kv_cache())):
            places = torch.arange(len(ids), device=device)[None]
            given = torch.tensor([ids], device=device)
            model(input_ids=given, position_ids=places, past_key_values=other, use_cache=True)
            if other is not cache:
                concat_caches(cache, other)
        together = model(
            input_ids=torch.tensor([[short[-1]], [long[-1]]], device=device),
            attention_mask=torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], device=device),
            position_ids=torch.tensor([[2], [4]], device=device),
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1].float()  # fmt: skip
    except Exception as error:  # noqa: BLE001 - whatever its code does not take
        return f"{type(error).__name__} when it was tried"
    for expected, found in zip(reversed(alone), together, strict=True):
        if torch.cosine_similarity(expected - expected.mean(), found - found.mean(), dim=0) < 0.98:
            return "its answers change with those beside them"
    return ""
