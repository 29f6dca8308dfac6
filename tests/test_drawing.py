"""Drawing: each row as transformers does it alone, penalties as OpenAI defines them, draws of their share."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from carellama.engine.base import Sampling
from carellama.engine.detokenizer import Detokenizer
from carellama.engine.transformers import sampling as drawing
from carellama.engine.transformers.request import Request, sample_step

WIDTH = 400  # more than are ranked at first
ROW = st.tuples(
    st.floats(0.2, 3.0),  # temperature
    st.sampled_from([0, 1, 7, 300, 400, 1000]),  # top_k
    st.sampled_from([1.0, 0.05, 0.5, 0.9, 0.999]),  # top_p
    st.sampled_from([0.0, 0.02, 0.3, 1.0]),  # min_p
)


def scores_of(rows: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


def column(values) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.float32)


@given(st.lists(ROW, min_size=1, max_size=5), st.integers(0, 1000), st.sampled_from([0.01, 1.0, 4.0]))
@settings(max_examples=80)
def test_rows_are_cut_as_transformers_cuts_each_alone(rows, seed, spread) -> None:
    scores = scores_of(len(rows), seed, spread)
    temperature, top_k, top_p, min_p = (list(column) for column in zip(*rows, strict=True))
    found = drawing.filter_logits(scores, column(temperature), torch.tensor(top_k), column(top_p), column(min_p))
    assert len(found) == len(rows) > 0
    for at, (heat, k, p, least) in enumerate(rows):
        warpers: list[Any] = [TemperatureLogitsWarper(heat)]
        warpers += [TopKLogitsWarper(k)] if k else []
        warpers += [TopPLogitsWarper(p)] if p < 1 else []
        warpers += [MinPLogitsWarper(least)] if least else []
        expected = scores[at : at + 1]
        for warper in warpers:
            expected = warper(None, expected)
        torch.testing.assert_close(found[at], expected[0])


@given(st.lists(st.tuples(st.floats(0.5, 2.0), st.lists(st.integers(0, 9), min_size=1)), min_size=1, max_size=4))
@settings(max_examples=50)
def test_repetition_is_penalised_as_in_transformers(rows) -> None:
    scores = scores_of(len(rows), 0)
    longest = max(len(ids) for _, ids in rows)
    ids = torch.tensor([ids + ids[:1] * (longest - len(ids)) for _, ids in rows])
    found = drawing.apply_repetition_penalty(scores, ids, column(penalty for penalty, _ in rows))
    assert len(found) == len(rows) > 0
    for at, (penalty, row) in enumerate(rows):
        expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([row]), scores[at : at + 1])
        torch.testing.assert_close(found[at], expected[0])


@given(st.lists(st.integers(0, 5), max_size=12), st.floats(-2, 2), st.floats(-2, 2))
@settings(max_examples=50)
def test_presence_and_frequency_are_those_of_openai(said, presence, frequency) -> None:
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, with c[j] how often the answer has j."""
    scores = scores_of(1, 1)
    ids, times = torch.tensor([[*said, 0, 0]]), column([*([1] * len(said)), 0, 0])[None]
    (found,) = drawing.apply_presence_and_frequency_penalty(
        scores, ids, times, column([presence]), column([frequency])
    ).tolist()
    assert len(found) == scores.shape[-1] > 0
    for token, before in enumerate(scores[0].tolist()):
        count = said.count(token)
        assert found[token] == pytest.approx(before - count * frequency - (count > 0) * presence, abs=1e-4)


def test_draws_have_their_shares() -> None:
    """Pearson's chi-square of 20,000 draws; 5 degrees of freedom, 25.7 has a chance of 1 in 10,000."""
    scores = torch.tensor([1.0, 0.0, -1.0, 2.0, -torch.inf, 0.5, -0.5])
    draw = random.Random(0)
    count = 20_000
    uniforms = torch.tensor([draw.random() for _ in range(count)], dtype=torch.float64)
    seen = torch.bincount(drawing.sample(scores.expand(count, -1), uniforms), minlength=7)
    expected = count * scores.softmax(-1)
    assert int(seen[4]) == 0 and int(seen.sum()) == count
    left = expected > 0
    assert float(((seen - expected)[left] ** 2 / expected[left]).sum()) < 25.7


@pytest.mark.parametrize("uniform", [0.0, 0.5, math.nextafter(1, 0)])
def test_a_token_that_was_cut_is_never_drawn(uniform: float) -> None:
    scores = torch.full((1, 9), -torch.inf)
    scores[0, 4] = -7.0
    assert drawing.sample(scores, torch.tensor([uniform], dtype=torch.float64)).tolist() == [4]


def test_equal_scores_stay_or_go_together() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]])
    left = drawing.filter_logits(scores, column([1]), torch.tensor([2]), column([0.1]), column([0]))
    assert torch.isfinite(left[0]).tolist() == [False, True, True, True, False]


def test_a_presence_penalty_does_not_count_the_prompt() -> None:
    """Token 3 stands in the prompt and 5 in the answer: only 5 loses, as in OpenAI's API."""
    scores = torch.zeros(1, WIDTH)
    scores[0, 3], scores[0, 5], scores[0, 7] = 4.0, 5.0, 3.0
    answer = Detokenizer(lambda ids: "x" * len(ids), (), ())
    sampling = Sampling(temperature=0, presence_penalty=1.5)
    request = Request([3, 3, 3, 7], 9, sampling, answer, lambda event: None, token_text=str)
    for _ in range(3):
        sample_step(scores, [request])
    assert request.output_ids == [5, 3, 5]
