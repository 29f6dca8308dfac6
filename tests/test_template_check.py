"""Which format a model was trained with, by what it says of given answers; "cannot tell" where it is unsure."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model

from carellama.evaluate.chat_formats.check import (
    OWN,
    AnswerScore,
    Score,
    candidates,
    check_formats,
    decide,
    load_answers,
    score_answers,
)
from carellama.evaluate.chat_formats.command import check
from conftest import make_model, make_tokenizer


class Trained:
    """Stands for a model that expects an answer and its end behind the prompts of one format, and less elsewhere."""

    device = torch.device("cpu")

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.size = len(tokenizer)
        (own,) = (one for one in candidates(tokenizer)[0] if name in one.names)
        self.prompts = set(own.prompts)

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: object) -> SimpleNamespace:
        logits = torch.zeros(*input_ids.shape, self.size)
        for row, (ids, length) in enumerate(zip(input_ids.tolist(), attention_mask.sum(1).tolist(), strict=True)):
            own = any(tuple(ids[: len(prompt)]) == prompt for prompt in self.prompts)
            sure = torch.linspace(4, 5, length) + (2.0 if own else 0.0)  # not the same for each token
            logits[row, torch.arange(length - 1), torch.tensor(ids[1:length])] = sure[:-1]
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
    def score(name: str, *starts: float, end: float = -0.1) -> Score:
        return Score((name,), tuple(AnswerScore(start, -1.0, end, 0.0) for start in starts))

    near = [score("a", -1.0, -1.2, -1.1), score("b", -1.1, -1.0, -1.2)]
    assert decide(near, [], ()).names == () and "too near" in decide(near, [], ()).reason
    apart = [near[0], score("c", -2.0, -2.1, -2.2)]
    assert decide(apart, [], ()).names == ("a",)
    endless = [score(name, first, first - 0.2, first - 0.1, end=-5.0) for name, first in (("a", -1.0), ("c", -2.0))]
    assert decide(endless, [], ()).names == ()


def test_answers_of_several_lengths_in_a_batch_are_scored_as_alone() -> None:
    network = make_model()
    pairs = [((5, 6, 7), (8, 9, 10, 2)), ((5,), (9, 2)), (tuple(range(5, 25)), tuple(range(30, 50)))]
    together, alone = score_answers(network, pairs), [score_answers(network, [pair])[0] for pair in pairs]
    assert len(together) == 3
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    with torch.inference_mode():
        logprobs = network(torch.tensor([[5, 6, 7, 8, 9, 10, 2]])).logits[0].log_softmax(-1)
    assert together[0].end == pytest.approx(logprobs[5, 2].item(), abs=1e-4)
    assert together[0].start == pytest.approx(sum(logprobs[at - 1, at + 5].item() for at in (3, 4, 5)) / 3, abs=1e-4)


def test_the_change_is_the_divergence_from_the_model_without_its_adapter() -> None:
    torch.manual_seed(0)
    network = get_peft_model(make_model(), LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    pair = ((5, 6, 7), (8, 9, 10, 11, 2))
    (said,) = score_answers(network.eval(), [pair])
    ids = torch.tensor([[*pair[0], *pair[1]]])
    with torch.inference_mode():
        after = network(ids).logits[0, 2:5].log_softmax(-1)
        with network.disable_adapter():
            before = network(ids).logits[0, 2:5].log_softmax(-1)
    wanted = torch.nn.functional.kl_div(before, after, log_target=True, reduction="none").sum(-1).mean().item()
    assert said.change == pytest.approx(wanted, rel=1e-4) and wanted > 1e-4
    assert said.score == pytest.approx(said._replace(change=0.0).score + 1.5 * wanted)


def test_formats_that_render_alike_are_one_candidate() -> None:
    tokenizer = make_tokenizer()
    made, left_out = candidates(tokenizer)
    alike = next(one.names for one in made if OWN in one.names)
    assert len({(one.prompts, one.answers) for one in made}) == len(made) > 30 and len(left_out) > 10
    assert len(alike) >= 1 and sum(len(one.names) for one in made) > len(made)
    assert all(len(one.prompts) == len(load_answers()) for one in made)
