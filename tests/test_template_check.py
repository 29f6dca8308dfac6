"""Which format a model was trained with, by what it says of given answers; "cannot tell" where it is unsure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model

from carellama.evaluate.chat_formats import lora_check, progress
from carellama.evaluate.chat_formats.answer_scores import AnswerScore, answer_logprobs, score_answers
from carellama.evaluate.chat_formats.candidates import Pair, candidates, load_answers
from carellama.evaluate.chat_formats.check import check_formats, decide
from carellama.evaluate.chat_formats.command import _print, check
from carellama.evaluate.chat_formats.lora_check import decide_lora
from carellama.evaluate.chat_formats.lora_gradients import LoraGradients, lora_b_weights, untrained
from carellama.evaluate.chat_formats.progress import with_progress
from carellama.evaluate.chat_formats.verdict import Score
from carellama.templates.format import OWN
from conftest import make_model, make_tokenizer


class Trained:
    """Stands for a model that expects an answer and its end behind the prompts of one format, and less elsewhere."""

    device = torch.device("cpu")

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.size = len(tokenizer)
        (own,) = (one for one in candidates(tokenizer)[0] if name in one.names)
        self.prompts = {prompt for prompt, _ in own.pairs}

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
    assert "look for the format in the model's card" in verdict.reason
    check([str(tiny_folder), "--rows", "2"])
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith("cannot tell: ") and len(said) == 5
    check([str(tiny_folder), "--json"])
    assert json.loads(capsys.readouterr().out)["formats"] == []


def test_two_formats_that_are_near_are_not_told_apart() -> None:
    def score(name: str, *starts: float, end: float = -0.1) -> Score:
        return Score((name,), tuple(AnswerScore(start, -1.0, end) for start in starts))

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


def lora(**settings: Any) -> Any:
    """A LoRA on a small random model that is sensitive to its prompt."""
    torch.manual_seed(0)
    base = make_model(num_hidden_layers=4, initializer_range=0.1)
    return get_peft_model(base, LoraConfig(target_modules="all-linear", **settings)).eval()


def loss_of(network: Any, pairs: Sequence[Pair]) -> torch.Tensor:
    return torch.stack([-said.mean() for said in answer_logprobs(network, pairs)]).mean()


@pytest.mark.parametrize("name", ["alpaca", "bentsao_med", "belle", "mistral"])
def test_the_format_that_moved_the_weights_of_a_lora_matches_best(name: str) -> None:
    network, made = lora(), candidates(make_tokenizer())[0]
    own = next(row for row, one in enumerate(made) if name in one.names)
    weights = lora_b_weights(network)
    by_length = [sorted(one.pairs, key=lambda pair: sum(map(len, pair))) for one in made]
    with untrained(network):  # a step down the gradient of answers that are not those that are compared
        loss_of(network, by_length[own][-8:]).backward()
        steps = [weight.grad.clone() for weight in weights if weight.grad is not None]
    assert len(steps) == len(weights) > 20
    for weight, step in zip(weights, steps, strict=True):
        weight.data.copy_(-0.01 * step.sign())
    gradients = LoraGradients(network, len(made))
    gradients.add({row: pairs[:4] for row, pairs in enumerate(by_length)})
    matches = gradients.matches()
    assert matches[own] == max(matches) > 3
    others = [row for row, one in enumerate(made) if one.bare != made[own].bare]
    leads = [gradients.lead(own, row) for row in others]
    assert len(leads) > 20 and min(leads) > 0 and gradients.lead(others[0], own) == pytest.approx(-leads[0])


def test_the_format_that_a_lora_learned_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where another is so near that the two are compared directly."""
    monkeypatch.setattr(lora_check, "LEAD", 100.0)
    monkeypatch.setattr(lora_check, "MOST_RIVALS", 100)
    all_rivals = lora_check.rivals_of_best
    monkeypatch.setattr(lora_check, "rivals_of_best", lambda fits: all_rivals(fits)[:1])
    network, tokenizer = lora(), make_tokenizer()
    (own,) = (one for one in candidates(tokenizer)[0] if "bentsao_med" in one.names)
    optimizer = torch.optim.AdamW((weight for weight in network.parameters() if weight.requires_grad), lr=3e-3)
    for _ in range(10):
        loss_of(network, own.pairs).backward()
        optimizer.step()
        optimizer.zero_grad()
    verdict = check_formats(network, tokenizer)
    assert "bentsao_med" in verdict.names and "compared directly" in verdict.reason
    steps = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert [step[:11] for step in steps] == [f"step {at} of 6" for at in range(1, 7)]
    assert verdict.scores[0].fit == max(one.fit or 0.0 for one in verdict.scores)
    assert verdict.as_json()["scores"][0]["near_match"] == verdict.scores[0].near_match


@pytest.mark.parametrize("settings", [{}, {"init_lora_weights": False}], ids=["untrained", "random"])
def test_of_a_lora_that_learned_nothing_it_cannot_tell(settings: dict[str, Any]) -> None:
    network = lora(**settings)
    verdict = check_formats(network, make_tokenizer())
    assert verdict.names == () and "does not make the answers" in verdict.reason


def test_gradients_are_those_of_the_untrained_lora_and_leave_it_as_it_was() -> None:
    network = lora(init_lora_weights=False)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    pairs: list[list[Pair]] = [[((5, 6, 7), (8, 9, 2))], [((7, 8), (8, 9, 2))]]
    gradients = LoraGradients(network, formats=2)
    gradients.add(dict(enumerate(pairs)))
    assert all(torch.equal(weight, before[name]) for name, weight in network.named_parameters())
    assert len(before) > 20 and len(gradients.matches()) == 2
    with network.disable_adapter():
        bare = answer_logprobs(network, pairs[0])[0]
    with untrained(network):
        assert torch.allclose(answer_logprobs(network, pairs[0])[0], bare, atol=1e-6)
        (-answer_logprobs(network, pairs[1])[0].mean()).backward()
        wanted = lora_b_weights(network)[3].grad
        assert wanted is not None and torch.allclose(gradients.sums[3][1], wanted.flatten(), atol=1e-7)


def test_a_layer_that_no_token_goes_through_says_nothing() -> None:
    """As an expert of a mixture, or the encoder of images: it ended in an error of autograd."""
    found: list[list[float]] = []
    for unused in (False, True):
        base = make_model(initializer_range=0.1)
        if unused:
            base.model.unused = torch.nn.Linear(64, 64)
        torch.manual_seed(0)
        network = get_peft_model(base, LoraConfig(target_modules="all-linear", init_lora_weights=False)).eval()
        torch.manual_seed(1)
        for name, weight in network.named_parameters():
            if "lora_" in name and "unused" not in name:
                torch.nn.init.normal_(weight, std=0.05)
        gradients = LoraGradients(network, formats=3)
        gradients.add(dict(enumerate([[((5, 6, 7), (8, 9, 2))], [((7, 8), (8, 9, 2))], [((3, 4), (8, 9, 2))]])))
        found.append(gradients.matches())
    assert found[1] == pytest.approx(found[0], abs=1e-4)


def said(name: str, match: float, *starts: float, before: float = -5.0, end: float = -0.1, bare: str = "") -> Score:
    """A format that is near, with the log-probabilities of its answers' beginnings with a LoRA, and without it."""
    answers = tuple(AnswerScore(start, -1.0, end) for start in starts)
    base = (AnswerScore(before, -1.0, -0.1),) * len(answers)
    return Score((name,), answers, 2.0, match, before=base, bare=bare or name)


def test_a_lora_is_named_by_its_fit_and_its_lead() -> None:
    same = (-1.0, -1.1, -1.3)
    assert decide_lora([said("b", 1.2, *same), said("a", 2.5, *same)], ()).names == ("a",)
    near = decide_lora([said("a", 2.5, *same), said("b", 1.9, *same)], ())
    assert near.names == () and "too near" in near.reason
    for lead, names in ((1.9, ()), (2.1, ("a",))):
        direct = decide_lora([said("a", 2.5, *same), said("b", 1.9, *same)], (), lead)
        assert direct.names == names and f"compared directly, its lead is {lead}" in direct.reason
    weak = decide_lora([said("a", 1.3, *same), said("b", 0.1, *same)], ())
    assert weak.names == () and "no format fits" in weak.reason
    unmoved = decide_lora([said("a", 2.5, *same, before=-1.2), said("b", 0.1, *same)], ())
    assert unmoved.names == () and "does not make the answers" in unmoved.reason
    endless = decide_lora([said("a", 2.5, *same, end=-2.5), said("b", -1.0, *same, end=-2.5)], ())
    assert endless.names == ("a",) and "has learned little" in endless.reason


def test_rivals_fit_nearly_as_well_and_are_no_twins() -> None:
    rows = (("a", 2.5, "t"), ("b", 2.4, "t"), ("c", 2.0, "u"), ("d", 1.9, "u"), ("e", 1.8, "v"), ("f", 1.4, "w"))
    fits = [replace(said(name, fit, -1.0, bare=bare), fit=fit) for name, fit, bare in rows]
    assert [one.names[0] for one in lora_check.rivals_of_best(fits)] == ["c", "e"]


def test_answers_decide_between_formats_that_the_weights_match() -> None:
    near = [said("a", 2.5, -2.0, -2.1, -2.3), said("b", 2.4, -1.0, -1.2, -1.1), said("c", 1.0, -1.0, -1.3, -1.2)]
    verdict = decide_lora([*near, Score(("d",), (), 0.5)], ())
    assert verdict.names == ("b",) and [one.names[0] for one in verdict.scores] == ["b", "a", "c", "d"]
    assert verdict.scores[0].fit == 2.4 + 0.5 and verdict.scores[1].fit == pytest.approx(2.5 + 0.5 - 0.4 * 4)
    assert decide_lora([near[0], said("b", 2.4, -2.2, -2.0, -2.2)], ()).names == ()


def test_twins_are_one_for_the_weights_and_told_apart_by_answers() -> None:
    """Which of two texts that differ by a bos token the weights match better is almost chance."""
    first, other = said("a", 3.0, -2.0, -2.1, -2.3, bare="t"), said("c", 0.5, -1.9, -2.1, -2.2, bare="u")
    for match in (3.0, 1.0):
        second = said("b", match, -1.0, -1.2, -1.1, bare="t")
        decided = decide_lora([first, second, other], ())
        assert decided.names == decided.scores[0].names == ("b",)
        alike = said("b", match, -2.1, -2.0, -2.2, bare="t")
        assert {*decide_lora([first, alike, other], ()).names} == {"a", "b"}
        habit = said("b", match, -1.0, -1.2, -1.1, before=-4.0, bare="t")  # as much better as it was without the LoRA
        both = decide_lora([first, habit, other], ())
        assert {*both.names} == {"a", "b"} and "white space, bos or eos" in both.reason


def test_the_last_line_says_which_template_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    """`the next` was not the next line of the table, and the tokenizer's own template was not told by its name."""
    best = said("ming", 0.1, -1.0, -1.1, -1.3, bare="t")
    own = replace(said("", 3.9, -1.1, -1.3, -1.2, bare="t"), names=(OWN, "vicuna"))
    beaten = said("baichuan", 0.1, -3.0, -3.2, -3.1, before=-6.0, bare="t")
    other = said("alpaca", -0.2, -1.0, -1.2, -1.1)
    verdict = decide_lora([best, own, beaten, other], ())
    _print(verdict, 8, "adapter")
    table, last = capsys.readouterr().out.splitlines()[1:5], verdict.reason
    assert [line.split()[-1] for line in table] == ["ming", "own", "baichuan", "alpaca"]
    assert last.index("baichuan, which differs by white space") < last.index("other text, alpaca, by")
    _print(verdict, 2, "adapter")
    said_last = capsys.readouterr().out.splitlines()
    assert f"({OWN}: the chat template of adapter)" in said_last
    assert said_last[-1].startswith(f"use --template ming or --template vicuna (the default, {OWN}: the same text): ")
    _print(decide_lora([replace(own, names=(OWN,)), other], ()), 2, "adapter")
    assert capsys.readouterr().out.splitlines()[-1].startswith("use no --template (the tokenizer's own ")


def test_each_step_of_a_check_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was printed for twenty minutes."""
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    assert list(with_progress("step 1 of 2: some answers", "abcd")) == list("abcd")
    assert list(with_progress("", "ab")) == ["a", "b"]
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["step 1 of 2: some answers", "  0%", "  25%", "  50%", "  75%"]


def test_formats_that_differ_by_white_space_bos_or_eos_are_twins() -> None:
    bare = {name: one.bare for one in candidates(make_tokenizer())[0] for name in one.names}
    assert bare["vicuna"] == bare["ming_bloom"] and bare["billa"] == bare["xverse"]
    assert bare["alpaca"] != bare["vicuna"] != bare["default"]


def test_formats_that_render_alike_are_one_candidate() -> None:
    tokenizer = make_tokenizer()
    made, left_out = candidates(tokenizer)
    alike = next(one.names for one in made if OWN in one.names)
    assert len({one.pairs for one in made}) == len(made) > 30 and len(left_out) > 10
    assert len(alike) >= 1 and sum(len(one.names) for one in made) > len(made)
    assert all(len(one.pairs) == len(load_answers()) for one in made)


def test_a_format_of_its_own_that_refuses_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """It was left out of the comparison in silence."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ 1/0 }}"
    made, _ = candidates(tokenizer)
    assert not any(OWN in one.names for one in made)
    assert f"{OWN} format is not among those that are compared" in caplog.text and "division by zero" in caplog.text
