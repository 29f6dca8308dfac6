"""Examples to batches: padding-free rows, or padded ones for attention that needs them.

    row:  input_ids     a a a b b c c c c      (1, T)
          position_ids  0 1 2 0 1 0 1 2 3
          cu_seq_lens   0     3   5       9    where each record begins, and the end
          good          T     F   T            of each record: whether its answer is one to become likelier

An example is a list of `Tokens`: one record, or all records of one packed window.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from carellama.records import IGNORED, Tokens


def collate_row(examples: Sequence[Sequence[Tokens]]) -> dict[str, Any]:
    """Lay the records of a batch in one row, with the names that transformers' flash attention reads."""
    records = [tokens for example in examples for tokens in example]
    lengths = [len(tokens) for tokens in records]
    return {
        "input_ids": _row([tokens.input_ids for tokens in records]),
        "labels": _row([tokens.labels for tokens in records]),
        "position_ids": _row([np.arange(length) for length in lengths]),
        "good": torch.tensor([tokens.good for tokens in records]),
        "sources": [tokens.source for tokens in records],
        **_borders(torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)),
    }


def row_parts(lengths: Sequence[int], limit: int, together: int = 1) -> list[tuple[int, int]]:
    """Divide the records of a row into parts of about as many tokens each: (first record, record after the last).

    `together` neighbours always stay in one part, and no part has more than `limit` tokens unless it is only these.
    """
    groups = [sum(lengths[at : at + together]) for at in range(0, len(lengths), together)]
    aim = sum(groups) / max(1, -(-sum(groups) // limit))
    parts, first, tokens = [], 0, 0
    for at, group in enumerate(groups):
        if tokens and (tokens + group > limit or tokens + group / 2 > aim):
            parts.append((first * together, at * together))
            first, tokens = at, 0
        tokens += group
    return [*parts, (first * together, len(lengths))]


def part_of_row(row: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    """The records of `collate_row` from `first` on, before `last`, as a row of their own."""
    borders = row["cu_seq_lens_q"]
    start, end = int(borders[first]), int(borders[last])
    part = {name: row[name][:, start:end] for name in ("input_ids", "labels", "position_ids")}
    part |= {name: row[name][first:last] for name in ("good", "sources")}
    return part | _borders(borders[first : last + 1] - borders[first])


def _borders(borders: torch.Tensor) -> dict[str, Any]:
    longest = int(borders.diff().max())
    return {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest}


def collate_padded(examples: Sequence[Sequence[Tokens]], pad_token_id: int) -> dict[str, object]:
    """One line a record, filled up on the right: (B, T) ids, labels and mask."""
    records = [tokens for example in examples for tokens in example]
    shape = (len(records), max(len(tokens) for tokens in records))
    ids = np.full(shape, pad_token_id, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    for line, tokens in enumerate(records):
        ids[line, : len(tokens)] = tokens.input_ids
        labels[line, : len(tokens)] = tokens.labels
        mask[line, : len(tokens)] = 1
    good = np.array([tokens.good for tokens in records])
    arrays = {"input_ids": ids, "labels": labels, "attention_mask": mask, "good": good}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return tensors | {"sources": [tokens.source for tokens in records]}


def _row(parts: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))[None]
