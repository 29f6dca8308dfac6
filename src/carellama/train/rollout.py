"""A rollout: answers of the policy with what their tokens were worth, in memory and in a checkpoint.

A checkpoint may fall between the passes over a rollout; the answers and their numbers go with it, so that a resumed
training does not answer again with a policy that has moved on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from carellama.errors import UserError
from carellama.records import IGNORED, Tokens
from carellama.train.chunked_loss import Batch, Collator

TOKEN_VALUES = ("logps", "values", "advantages", "returns")  # of each token of an answer, float32


@dataclass(frozen=True)
class Rollout:
    """Answers: `tokens` have the answer as labels, `numbers` by name one tensor (T,) for each answer's tokens."""

    tokens: list[Tokens]
    numbers: dict[str, list[torch.Tensor]]

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, chosen: Sequence[int], collate: Collator) -> Batch:
        """A batch of these answers, with the numbers of their tokens end to end under `old_...`."""
        row: Batch = collate([[self.tokens[at]] for at in chosen])
        return row | {f"old_{name}": torch.cat([self.numbers[name][at] for at in chosen]) for name in TOKEN_VALUES}

    def minibatches(self, size: int, passes: int, draw: np.random.Generator, collate: Collator) -> Iterator[Batch]:
        """Batches of `size` answers in random order, in each pass another."""
        for _ in range(passes):
            order = draw.permutation(len(self))
            for start in range(0, len(order), size):
                yield self.batch(order[start : start + size].tolist(), collate)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it as flat tensors."""
        lengths = [[len(one), int((one.labels != IGNORED).sum())] for one in self.tokens]
        found = {
            "ids": torch.from_numpy(np.concatenate([one.input_ids for one in self.tokens])),
            "lengths": torch.tensor(lengths, dtype=torch.int64),  # (answers, 2): all tokens, those of the answer
            "sources": torch.tensor(list("\n".join(one.source for one in self.tokens).encode()), dtype=torch.uint8),
        }
        return found | {name: torch.cat(self.numbers[name]) for name in TOKEN_VALUES}

    @classmethod
    def of(cls, tensors: dict[str, torch.Tensor]) -> Rollout:
        """The rollout that `tensors` gave."""
        lengths = tensors["lengths"].tolist()
        ids = tensors["ids"].split([whole for whole, _ in lengths])
        sources = bytes(tensors["sources"].tolist()).decode().split("\n")
        tokens = [
            make_example(one.tolist(), whole - own, source)
            for one, (whole, own), source in zip(ids, lengths, sources, strict=True)
        ]
        sizes = [own for _, own in lengths]
        return cls(tokens, {name: list(tensors[name].split(sizes)) for name in TOKEN_VALUES})


def make_example(ids: Sequence[int], prompt: int, source: str = "") -> Tokens:
    """Tokens whose labels are the ids from `prompt` on; `source`: the row that the prompt is from."""
    row = np.array(ids, dtype=np.int32)
    labels = row.copy()
    labels[:prompt] = IGNORED
    return Tokens(row, labels, source=source)


def save_state(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Write what a resumed training needs beside weights and optimiser."""
    from safetensors.torch import save_file

    save_file({name: one.contiguous() for name, one in state.items()}, str(path))


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """Read it. Raises `UserError` where it is not there: the checkpoint is of another number of processes."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{path} is not there: the checkpoint was not made by --stage ppo in as many processes")
    return load_file(str(path))


def index_batch(numbers: Sequence[int]) -> dict[str, torch.Tensor]:
    """A batch for evaluation: the numbers of tasks, which any loader can carry between processes."""
    return {"numbers": torch.tensor(numbers)}


class RolloutLoader(DataLoader):
    """Gives batches as they come: one that reads ahead would make a rollout with the policy of a step before."""

    def __init__(self, length: int, batches: Callable[[], Iterator[Batch | None]]) -> None:
        super().__init__(_Batches(length, batches), batch_size=None, collate_fn=lambda batch: batch)


class _Batches(IterableDataset[Batch | None]):
    def __init__(self, length: int, batches: Callable[[], Iterator[Batch | None]]) -> None:
        self.length, self.batches = length, batches

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch | None]:
        return self.batches()
