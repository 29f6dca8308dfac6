"""Which format a model was trained with, by what it says of given answers; "cannot tell" where it is unsure."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from carellama.evaluate.chat_formats.check import OWN, Score, candidates, check_formats, decide, load_answers
from carellama.evaluate.chat_formats.command import check
from conftest import make_model, make_tokenizer


class Trained:
    """Stands for a model that expects an answer and its end behind the prompts of one format, and less elsewhere."""

    device = torch.device("cpu")

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.size = len(tokenizer)
        (own,) = (one for one in candidates(tokenizer)[0] if name in one.names)
        self.prompts = set(own.prompts)

    def __call__(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        ids = input_ids[0].tolist()
        own = any(tuple(ids[: len(prompt)]) == prompt for prompt in self.prompts)
        sure = torch.linspace(4, 5, len(ids)) + (2.0 if own else 0.0)  # not the same for each token
        logits = torch.zeros(1, len(ids), self.size)
        logits[0, torch.arange(len(ids) - 1), torch.tensor(ids[1:])] = sure[:-1]
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize("name", ["alpaca", "vicuna", "bentsao_med"])
def test_the_format_whose_prompts_a_model_knows_is_named(name: str) -> None:
    tokenizer = make_tokenizer()
    verdict = check_formats(cast("Any", Trained(tokenizer, name)), tokenizer)
    assert name in verdict.names and verdict.scores[0].names == verdict.names
    assert verdict.margin > 2 and "llama3" in verdict.left_out  # whose tokens the tokenizer does not have
    assert verdict.as_json()["sure"] is True


def test_of_an_untrained_model_it_can_not_tell(tiny_folder, capsys: pytest.CaptureFixture[str]) -> None:
    verdict = check_formats(make_model(), make_tokenizer())
    assert verdict.names == () and "no format makes the model end its answers" in verdict.reason
    check([str(tiny_folder), "--rows", "2"])
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("cannot tell: ") and len(said) == 5
    check([str(tiny_folder), "--json"])
    assert json.loads(capsys.readouterr().out)["formats"] == []


def test_two_formats_that_are_near_are_not_told_apart() -> None:
    def score(name: str, *values: float, end: float = -0.1) -> Score:
        return Score((name,), -1.0, -1.0, end, values)

    near = [score("a", -1.0, -1.2, -1.1), score("b", -1.1, -1.0, -1.2)]
    assert decide(near, [], ()).names == () and "too near" in decide(near, [], ()).reason
    apart = [near[0], score("c", -2.0, -2.1, -2.2)]
    assert decide(apart, [], ()).names == ("a",)
    endless = [score("a", -1.0, -1.2, -1.1, end=-5.0), apart[1]]
    assert decide(endless, [], ()).names == ()


def test_formats_that_render_alike_are_one_candidate() -> None:
    tokenizer = make_tokenizer()
    made, left_out = candidates(tokenizer)
    alike = next(one.names for one in made if OWN in one.names)
    assert len({(one.prompts, one.answers) for one in made}) == len(made) > 30 and len(left_out) > 10
    assert len(alike) >= 1 and sum(len(one.names) for one in made) > len(made)
    assert all(len(one.prompts) == len(load_answers()) for one in made)
