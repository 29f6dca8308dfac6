"""A hidden layer over the features of a text: what they mean together, beside what each weighs by itself.

    weights, bias, hidden = fit_hidden(found, labels, names, scales, least_length=40, units=16)
    hidden.log_odds(hidden.rows(names), counts, lengths)     # of windows

A window's features have a row of small numbers each; the sum of the rows over the square root of their number goes
through rectified units, whose weighted sum is added to the log-odds of `safety.classifier`. So a word can count for
more beside one word than beside another ("black" with "tar" or with "iron tablets"), which no single weight can say. In
the table a row is a word of letters, one a unit, from A (the least) to / (the largest) in the order of base64; a letter
that is so many places from the middle stands for the square of it, so that small numbers are told apart as well.

Learned by Adam (Kingma and Ba 2015) with features left out by chance (Srivastava et al. 2014), a step that falls to 0,
and a part of the units after the other, from seeds of their own: their mean is steadier than one larger layer. What
the units are to learn is the label, beside a linear part of their own that is dropped into the weights of the features.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from carellama.errors import UserError

if TYPE_CHECKING:
    import torch

LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
ZERO = 32  # the place of the letter that stands for 0
UNIT_BIAS, UNIT_OUT, STEP = (
    "#unit_bias",
    "#unit_out",
    "#unit_step",
)  # names of lines of the table, with the unit's number
UNITS_OF_A_PART = 8  # that learn together; the next ones learn by themselves
EPOCHS, BATCH = 5, 64  # times that all texts are learned from, and texts of a step
RATE = 0.01  # of the first step; it falls to 0
LEFT_OUT = 0.5  # of the features of a text, in each step
_VALUES = np.zeros(128, dtype=np.float32)
_VALUES[np.frombuffer(LETTERS.encode(), dtype=np.uint8)] = [place * abs(place) for place in range(-ZERO, ZERO)]


@dataclass(frozen=True)
class Hidden:
    """The rows of the features as letters, what the letter beside the middle is worth, and the units."""

    letters: Mapping[str, str]
    step: float
    bias: tuple[float, ...]
    out: tuple[float, ...]

    def rows(self, names: Iterable[str]) -> NDArray[np.float32]:
        """Return the rows of these features, (F, U); of one without letters, zeros."""
        zeros = LETTERS[ZERO] * len(self.bias)
        joined = "".join(self.letters.get(name, zeros) for name in names).encode()
        values = _VALUES * np.float32(self.step)
        return values[np.frombuffer(joined, dtype=np.uint8)].reshape(-1, len(self.bias))

    def log_odds(
        self, rows: NDArray[np.float32], counts: NDArray[np.int64], lengths: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return what the units add to the log-odds of each window.

        `rows`: of the features of all windows, in the order of the windows. `counts`: features of each window.
        """
        sums = np.zeros((len(counts), len(self.bias)))
        some = np.flatnonzero(counts)
        if len(some):
            sums[some] = np.add.reduceat(rows, (np.cumsum(counts) - counts)[some], axis=0)
        units: NDArray[np.float64] = np.maximum(sums / lengths[:, None] + np.array(self.bias), 0)
        return np.asarray(units @ np.array(self.out), dtype=np.float64)

    def times(self, factor: float) -> Hidden:
        """Return a layer that adds so much of what this one does."""
        return replace(self, out=tuple(_short(one * factor) for one in self.out))

    def lines(self) -> dict[str, float]:
        """Return the numbers of the units, by the names of their lines in the table."""
        named = {STEP: self.step}
        named |= {f"{UNIT_BIAS} {unit}": value for unit, value in enumerate(self.bias)}
        return named | {f"{UNIT_OUT} {unit}": value for unit, value in enumerate(self.out)}


def read_hidden(letters: Mapping[str, str], numbers: dict[str, float], name: str) -> Hidden | None:
    """Return the layer of a table, whose lines are taken out of `numbers`; None: it has none. Raises `UserError`."""
    if not letters:
        return None
    units = len(next(iter(letters.values())))
    wanted = [STEP, *(f"{kind} {unit}" for kind in (UNIT_BIAS, UNIT_OUT) for unit in range(units))]
    missing = [one for one in wanted if one not in numbers]
    if missing:
        raise UserError(f"{name} has no line {missing[0]}; carellama safety train writes it")
    for feature, row in letters.items():
        if len(row) != units or not set(row) <= set(LETTERS):
            raise UserError(f"{name}: the row of {feature} is {row!r}; {units} letters or digits are expected")
    step, *values = (numbers.pop(one) for one in wanted)
    return Hidden(dict(letters), step, tuple(values[:units]), tuple(values[units:]))


def fit_hidden(
    found: Sequence[Sequence[int]],
    labels: Sequence[bool],
    names: Sequence[str],
    scales: Sequence[float],
    *,
    least_length: int,
    units: int,
) -> tuple[list[float], float, Hidden]:
    """Return weights of the features, a bias and the layer that were learned together.

    `found`: features of each text, as places in `names`. `scales`: what each feature counts for while it learns.
    `least_length`: a text counts as if it had so many features at least.
    """
    parts = [
        _Part(found, labels, scales, least_length, min(UNITS_OF_A_PART, units - begin), seed)
        for seed, begin in enumerate(range(0, units, UNITS_OF_A_PART))
    ]
    for part in parts:
        part.learn()
    rows = np.concatenate([part.rows for part in parts], axis=1)
    bias = np.concatenate([part.bias.detach().numpy() for part in parts])
    out = np.concatenate([part.out.detach().numpy() for part in parts]) / len(parts)
    largest = np.maximum(np.abs(rows).max(axis=0), 1e-9)  # of a unit
    step = _short(1 / (ZERO - 1) ** 2)
    steps = np.rint(np.sign(rows) * np.sqrt(np.abs(rows) / largest / step)).clip(-ZERO, ZERO - 1).astype(int) + ZERO
    letters = {
        name: "".join(LETTERS[one] for one in row) for name, row in zip(names, steps, strict=True) if set(row) != {ZERO}
    }
    # a rectified unit may be measured in any unit of length: what its rows lose, its output gains
    hidden = Hidden(letters, step, tuple(map(_short, bias / largest)), tuple(map(_short, out * largest)))
    weights = np.mean([part.weights for part in parts], axis=0)
    return weights.tolist(), float(np.mean([part.shift.item() for part in parts])), hidden


def _short(value: float) -> float:
    """A number as the table has it."""
    return float(f"{value:.5f}")


class _Part:
    """Some of the units, and a linear part of their own, that learn by themselves."""

    def __init__(
        self,
        found: Sequence[Sequence[int]],
        labels: Sequence[bool],
        scales: Sequence[float],
        least_length: int,
        units: int,
        seed: int,
    ) -> None:
        import torch

        self._chance = np.random.default_rng(seed)
        lengths = np.array([len(one) for one in found])
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._flat = np.fromiter((place for one in found for place in one), dtype=np.int64, count=int(lengths.sum()))
        self._roots = torch.from_numpy(np.sqrt(np.maximum(lengths, least_length)))  # (N,)
        self._labels = torch.tensor(labels, dtype=torch.float64)
        self._scales = torch.tensor(scales, dtype=torch.float64)
        start = self._chance.normal(scale=0.1, size=(len(scales), 1 + units))
        start[:, 0] = 0
        self._table = torch.from_numpy(start).requires_grad_()  # (F, 1 + U): the weight, and the row
        self.bias = torch.zeros(units, dtype=torch.float64, requires_grad=True)
        self.out = torch.from_numpy(self._chance.normal(scale=0.3, size=units)).requires_grad_()
        self.shift = torch.zeros(1, dtype=torch.float64, requires_grad=True)

    @property
    def weights(self) -> NDArray[np.float64]:
        """The weights of the features, (F,)."""
        return (self._table[:, 0] * self._scales).detach().numpy()

    @property
    def rows(self) -> NDArray[np.float64]:
        """The rows of the features, (F, U)."""
        return (self._table[:, 1:] * self._scales[:, None]).detach().numpy()

    def learn(self) -> None:
        """Learn from all texts, `EPOCHS` times."""
        import torch

        sparse = torch.optim.SparseAdam([self._table], lr=RATE)
        dense = torch.optim.Adam([self.bias, self.out, self.shift], lr=RATE)
        size = len(self._labels)
        batches = EPOCHS * -(-size // BATCH)
        done = 0
        for _ in range(EPOCHS):
            order = self._chance.permutation(size)
            for begin in range(0, size, BATCH):
                for one in (sparse, dense):
                    one.param_groups[0]["lr"] = RATE * (1 - done / batches)
                    one.zero_grad()
                batch = order[begin : begin + BATCH]
                loss = torch.nn.functional.binary_cross_entropy_with_logits(self._log_odds(batch), self._labels[batch])
                loss.backward()
                sparse.step()
                dense.step()
                done += 1

    def _log_odds(self, batch: NDArray[np.int64]) -> torch.Tensor:
        """The log-odds of some texts, with features left out by chance."""
        import torch

        own = [self._flat[self._starts[row] : self._starts[row + 1]] for row in batch]
        places = torch.from_numpy(np.concatenate(own))
        kept = torch.from_numpy((self._chance.random(len(places)) >= LEFT_OUT) / (1 - LEFT_OUT))
        begins = torch.from_numpy(np.cumsum([0, *map(len, own[:-1])]))
        sums = torch.nn.functional.embedding_bag(
            places, self._table, begins, mode="sum", sparse=True, per_sample_weights=kept * self._scales[places]
        )
        sums = sums / self._roots[batch][:, None]
        return sums[:, 0] + torch.relu(sums[:, 1:] + self.bias) @ self.out + self.shift
