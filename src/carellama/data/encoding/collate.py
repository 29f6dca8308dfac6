"""Examples to batches: padding-free rows, or padded ones for attention that needs them.

    row:  input_ids     a a a b b c c c c      (1, T)
          position_ids  0 1 2 0 1 0 1 2 3
          cu_seq_lens   0     3   5       9    where each record begins, and the end
          good          T     F   T            of each record: whether its answer is one to become likelier

An example is a list of `Tokens`: one record, or all records of one packed window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from carellama.records import IGNORED, Tokens


def collate_row(examples: Sequence[Sequence[Tokens]]) -> dict[str, Any]:
    """Lay the records of a batch in one row, with the names that transformers' flash attention reads."""
    records = [tokens for example in examples for tokens in example]
    lengths = np.array([len(tokens) for tokens in records])
    borders = torch.from_numpy(np.concatenate([[0], lengths.cumsum()]).astype(np.int32))
    longest = int(lengths.max())
    good = torch.tensor([tokens.good for tokens in records])
    positions = np.concatenate([np.arange(length) for length in lengths])
    return {
        "input_ids": _row([tokens.input_ids for tokens in records]),
        "labels": _row([tokens.labels for tokens in records]),
        "position_ids": torch.from_numpy(positions)[None],
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": longest,
        "max_length_k": longest,
        "good": good,
        "sources": [tokens.source for tokens in records],
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
    own = borders[first : last + 1] - borders[first]
    longest = int(own.diff().max())
    return {
        "input_ids": row["input_ids"][:, start:end],
        "labels": row["labels"][:, start:end],
        "position_ids": row["position_ids"][:, start:end],
        "cu_seq_lens_q": own,
        "cu_seq_lens_k": own,
        "max_length_q": longest,
        "max_length_k": longest,
        "good": row["good"][first:last],
        "sources": row["sources"][first:last],
    }


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
