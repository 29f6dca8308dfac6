"""Mixing and holding out: every promise of the strategies, for all seeds tried, and the same over streams."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from carellama.data.encoding.mixing import held_out, mix, mix_streams
from carellama.errors import UserError

STRATEGIES = ["concat", "interleave_under", "interleave_over"]
SIZES = [[1], [3, 1], [5, 2, 9], [40, 7]]


class Stream:
    """A fresh iterator of (dataset, entry) pairs each time."""

    def __init__(self, number: int, size: int) -> None:
        self.items = [(number, entry) for entry in range(size)]

    def __iter__(self):
        return iter(self.items)


def pairs(*arguments) -> list[tuple[int, int]]:
    return [(int(dataset), int(entry)) for dataset, entry in mix(*arguments)]


def shares(sizes: list[int], seed: int) -> list[float]:
    return np.random.default_rng(seed).dirichlet(np.ones(len(sizes))).tolist()


@pytest.mark.parametrize("sizes", SIZES)
def test_streams_are_mixed_as_lists_are_and_go_on(sizes):
    """T24: a stream goes on where an epoch of `interleave_under` would begin it again."""
    for seed in range(10):
        for probabilities in (None, shares(sizes, seed)):
            over = pairs(sizes, "interleave_over", probabilities, seed)
            streams = [Stream(number, size) for number, size in enumerate(sizes)]
            found = list(itertools.islice(mix_streams(streams, probabilities, seed), 3 * len(over)))
            assert found[: len(over)] == over
            for number, size in enumerate(sizes):
                own = [entry for dataset, entry in found if dataset == number]
                assert own == [at % size for at in range(len(own))], "all of it before any of it again"


@pytest.mark.parametrize("sizes", SIZES)
def test_each_strategy_keeps_its_promise(sizes):
    everything = {(number, entry) for number, size in enumerate(sizes) for entry in range(size)}
    for seed in range(10):
        under = pairs(sizes, "interleave_under", shares(sizes, seed), seed)
        over = pairs(sizes, "interleave_over", shares(sizes, seed), seed)
        taken = [sum(dataset == number for dataset, _ in under) for number in range(len(sizes))]
        assert len(set(under)) == len(under), "nothing repeats"
        assert sum(count == size for count, size in zip(taken, sizes, strict=True)) == 1, "one is used up"
        assert set(over) == everything, "all are used up"
    assert pairs(sizes, "concat", None, 0) == sorted(everything)


def test_the_seed_decides_the_order():
    orders = {tuple(pairs([50, 50], "interleave_over", [0.5, 0.5], seed)) for seed in range(5)}
    assert len(orders) == 5


def test_shares_are_kept():
    order = np.array(pairs([10_000, 10_000], "interleave_under", [0.8, 0.2], 1))
    assert abs((order[:, 0] == 0).mean() - 0.8) < 0.02


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_an_empty_dataset_can_not_be_interleaved(strategy):
    with pytest.raises(UserError, match="empty"):
        mix([3, 0], strategy, None, 0)
    with pytest.raises(UserError, match="dataset 2 of 2 has no usable record"):
        list(mix_streams([Stream(0, 3), Stream(1, 0)], None, 0))


def test_a_share_of_nothing_would_never_end():
    with pytest.raises(UserError, match="interleave_probs"):
        mix([3, 3], "interleave_over", [1.0, 0.0], 0)


def test_held_out_is_a_share_or_a_number():
    assert len(held_out(100, 0.25, 0)) == 25
    assert len(held_out(100, 7, 0)) == 7
    assert len(held_out(100, 0, 0)) == 0
    found = held_out(100, 10, 3)
    assert (np.diff(found) > 0).all() and found.min() >= 0 and found.max() < 100
    assert (found == held_out(100, 10, 3)).all() and (found != held_out(100, 10, 4)).any()


@pytest.mark.parametrize("val_size", [100, 200, 0.001])
def test_both_sides_keep_a_record(val_size):
    with pytest.raises(UserError, match="--val_size"):
        held_out(100, val_size, 0)
