"""Stage ppo: its arithmetic by the plain formulas, its effect, what moves, and that a resumed run is the same run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import preloaded
from carellama.config.objectives import PPOOptions
from carellama.config.reader import to_flags
from carellama.data.encoding.collate import collate_padded, collate_row
from carellama.engine.base import Sampling
from carellama.engine.generate import generate
from carellama.engine.transformers.engine import TransformersEngine
from carellama.errors import UserError
from carellama.model import packed_attention as attention
from carellama.records import Message
from carellama.templates.template import get_template
from carellama.train import run as runs
from carellama.train.chunked_loss import token_logps
from carellama.train.options import run_options
from carellama.train.policy_gradient import (
    RunningMoments,
    adapt_kl_coefficient,
    gae,
    ppo_losses,
    token_rewards,
)  # fmt: skip
from carellama.train.ppo import PPOTrainer
from carellama.train.rollout import Rollout, make_example
from carellama.train.session import Session
from conftest import REPOSITORY, make_model

GOOD, BAD = "See a doctor.", "Ignore it."
COMPLAINTS = ("My ear hurts", "I cough at night", "My knee is stiff", "I feel dizzy", "My eyes itch", "I sleep badly")


def configured(folder: Path, stage: str, **options: object):
    given = {
        "stage": stage, "output_dir": folder / "out", "data_cache_dir": folder / "cache", "do_train": True,
        "per_device_train_batch_size": 8, "logging_steps": 1, "lora_target": "all", "bf16": False,
        "lr_scheduler_type": "constant", "save_strategy": "no", "disable_tqdm": True, "learning_rate": 1e-2,
        "lora_dropout": 0,
    }  # fmt: skip
    if stage == "ppo":
        given |= {"max_new_tokens": 16, "temperature": 1, "top_p": 1, "top_k": 0, "learning_rate": 1e-3,
                  "per_device_eval_batch_size": 16}  # fmt: skip
    given |= options
    return run_options(to_flags(given))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_folder) -> Path:
    """A folder with a `policy` that answers well or badly by chance, a reward model `rm` that tells which, `pairs`."""
    folder = tmp_path_factory.mktemp("chain")
    questions = [f"{COMPLAINTS[number % 6]} since {number} days." for number in range(48)]
    pairs = [{"instruction": question, "input": "", "output": [GOOD, BAD]} for question in questions]
    chats = [row | {"output": answer} for row in pairs for answer in row["output"]]
    (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
    (folder / "chats.json").write_text(json.dumps(chats), encoding="utf-8")
    runs.run(configured(folder, "sft", model_name_or_path=tiny_folder, dataset=folder / "chats.json",
                        finetuning_type="full", num_train_epochs=4, output_dir=folder / "policy"))  # fmt: skip
    runs.run(configured(folder, "rm", model_name_or_path=folder / "policy", dataset=folder / "pairs.json",
                        num_train_epochs=2, output_dir=folder / "rm"))  # fmt: skip
    return folder


def ppo(folder: Path, trained: Path, **options: object):
    given = {
        "model_name_or_path": trained / "policy",
        "reward_model": trained / "rm",
        "dataset": trained / "pairs.json",
    }
    return configured(folder, "ppo", **(given | options))


def logged(folder: Path, name: str, step: str = "current_steps") -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text().splitlines()]
    return {line[step]: line[name] for line in lines if name in line}


def test_advantages_are_the_decayed_sum_of_errors():
    draw = np.random.default_rng(0)
    rewards, values = draw.normal(size=(2, 7))
    gamma, decay = 0.9, 0.8
    ahead = np.append(values[1:], 0.0)
    errors = rewards + gamma * ahead - values
    wanted = [sum((gamma * decay) ** (k - t) * errors[k] for k in range(t, 7)) for t in range(7)]
    found, returns = gae(torch.tensor(rewards), torch.tensor(values), gamma, decay)
    assert found.tolist() == pytest.approx(wanted)
    assert returns.tolist() == pytest.approx(wanted + values)
    undiscounted, _ = gae(torch.tensor(rewards), torch.zeros(7).double(), 1.0, 1.0)
    assert undiscounted.tolist() == pytest.approx(rewards[::-1].cumsum()[::-1])


def test_rewards_hold_the_cost_of_kl_and_the_score_at_the_end():
    own, other = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.5, -2.0, -2.0])
    assert token_rewards(own, other, 4.0, 0.1).tolist() == pytest.approx([-0.05, 0.0, 4.1])


def test_the_gradient_is_the_policy_gradient_until_the_ratio_leaves_its_bounds():
    how = PPOOptions(ppo_value_coef=0.5)
    old = {name: torch.zeros(4) for name in ("logps", "values", "returns")}
    old["advantages"] = torch.tensor([1.0, -2.0, 1.0, -1.0])
    logps = torch.log(torch.tensor([1.0, 1.0, 1.3, 1.3])).requires_grad_()  # the ratios
    values = torch.tensor([0.0, 0.1, 3.0, 0.0], requires_grad=True)
    losses = ppo_losses(logps, values, old, how)
    losses.each.sum().backward()
    assert logps.grad.tolist() == pytest.approx([-1.0, 2.0, 0.0, 1.3], abs=1e-6)
    assert losses.clipped == 0.5
    assert values.grad.tolist() == pytest.approx([0.0, 0.05, 1.5, 0.0])  # half of V - R; the larger of the two losses
    assert losses.value == pytest.approx((0.1**2 + 3**2) / 2 / 4)


def test_a_value_that_left_its_bounds_is_learned_from_the_bound():
    """Without the clip, a value that reached its return in one step would cost nothing."""
    how = PPOOptions(ppo_value_clip=0.2)
    old = {name: torch.zeros(1) for name in ("logps", "values", "advantages")} | {"returns": torch.ones(1)}
    losses = ppo_losses(torch.zeros(1), torch.ones(1), old, how)
    assert losses.value == pytest.approx((0.2 - 1) ** 2 / 2)


def test_moments_are_those_of_all_batches():
    numbers, moments = np.random.default_rng(0).normal(3, 2, 50), RunningMoments()
    for batch in np.split(numbers, [7, 20, 20, 41]):
        moments.add(len(batch), batch.sum(), (batch**2).sum())
    assert (moments.mean, moments.deviation) == pytest.approx((numbers.mean(), numbers.std(ddof=1)))
    equal = RunningMoments()
    equal.add(3, 3.0, 3.0)
    assert equal.deviation == 1


def test_the_cost_of_kl_is_adapted_to_its_target():
    assert adapt_kl_coefficient(0.1, 5.0, None) == 0.1
    assert adapt_kl_coefficient(0.1, 6.0, 6.0) == 0.1
    assert adapt_kl_coefficient(0.1, 6.6, 6.0) == pytest.approx(0.101)
    assert (adapt_kl_coefficient(0.1, 60.0, 6.0), adapt_kl_coefficient(0.1, 0.0, 6.0)) == pytest.approx((0.102, 0.098))


def some_rollout(sizes: tuple[int, ...] = (3, 1, 5, 2)) -> Rollout:
    tokens = [make_example(list(range(3, 9 + size)), 6, f"data/a.json:{size}") for size in sizes]
    names = ("logps", "values", "advantages", "returns")
    return Rollout(tokens, {name: [torch.randn(size) for size in sizes] for name in names})


def test_a_rollout_survives_its_checkpoint_and_each_pass_sees_every_answer():
    rollout = some_rollout()
    again = Rollout.of(rollout.tensors())
    for one, other in zip(rollout.tokens, again.tokens, strict=True):
        assert np.array_equal(one.input_ids, other.input_ids) and np.array_equal(one.labels, other.labels)
        assert one.source == other.source
    for name, parts in rollout.numbers.items():
        assert all(torch.equal(one, other) for one, other in zip(parts, again.numbers[name], strict=True))
    batches = list(again.minibatches(2, 3, np.random.default_rng(0), collate_row))
    assert len(batches) == 6
    whole = sorted(torch.cat(rollout.numbers["logps"]).tolist())
    for start in (0, 2, 4):
        assert sorted(torch.cat([one["old_logps"] for one in batches[start : start + 2]]).tolist()) == whole


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("collate", [collate_row, lambda rows: collate_padded(rows, 0)])
def test_log_probabilities_of_tokens_are_those_of_the_warmed_softmax(collate, chunked):
    model = make_model(attn_implementation=attention.register())
    tokens = some_rollout().tokens
    logs, hidden, record, count = token_logps(
        model, collate([[one] for one in tokens]), chunked=chunked, temperature=0.7
    )
    wanted = []
    for one in tokens:
        ids = torch.tensor(one.input_ids.tolist())
        each = (model(ids[None]).logits[0, :-1] / 0.7).log_softmax(-1)
        wanted += each[torch.arange(5, len(ids) - 1), ids[6:]].tolist()
    assert logs.tolist() == pytest.approx(wanted, rel=1e-4)
    assert torch.bincount(record, minlength=count).tolist() == [3, 1, 5, 2]
    torch.testing.assert_close(model.lm_head(hidden).shape, torch.Size([11, 400]))


def test_answers_to_ids_are_those_to_messages(tiny_tokenizer):
    template = get_template(None, tiny_tokenizer)
    engine = TransformersEngine(make_model(), tiny_tokenizer, template, batch_size=2)
    prompts = [(Message("user", text),) for text in ("Hello?", "What is asthma?")]
    sampling = Sampling(12, seed=5)
    replies = generate(engine, prompts, sampling)
    found = engine.complete_ids(engine._encode(prompts), sampling)
    assert [one.text for one in found] == [reply.text for reply in replies]
    assert [len(one.ids) for one in found] == [reply.completion_tokens for reply in replies]
    same = engine.complete_ids(engine._encode([prompts[0]] * 4), sampling)
    assert len({tuple(one.ids) for one in same}) == 4, "two batches drew the same numbers"


def test_ppo_raises_the_score_over_thirty_updates(tmp_path, trained):
    # so fast a learning rate breaks the policy from some seeds, whichever way the answers are drawn
    options = {"eval_dataset": trained / "pairs.json", "do_eval": True, "per_device_eval_batch_size": 48, "seed": 2}
    before = runs.run(ppo(tmp_path, trained, do_train=False, output_dir=tmp_path / "before", **options))
    options |= {"per_device_train_batch_size": 32, "ppo_epochs": 2, "ppo_score_norm": True, "max_steps": 30}
    after = runs.run(ppo(tmp_path, trained, learning_rate=5e-3, ppo_kl_coef=0.01, **options))
    scores = list(logged(tmp_path / "out", "ppo/score").values())
    assert len(scores) == 15
    assert np.mean(scores[-5:]) > np.mean(scores[:5]) + 1
    assert after["eval_score_low"] > before["eval_score_high"]
    assert before["eval_kl"] == 0 < after["eval_kl"]


def test_each_rollout_comes_from_the_policy_of_its_step(tmp_path, trained, monkeypatch):
    """Nothing reads ahead: the first ratio of a rollout is 1, and the answers of a step are made at that step."""
    steps = []
    rollout = PPOTrainer.rollout

    def noted(self, epoch, number):
        steps.append(self.state.global_step)
        return rollout(self, epoch, number)

    monkeypatch.setattr(PPOTrainer, "rollout", noted)
    options = {"gradient_accumulation_steps": 2, "ppo_buffer_size": 2, "ppo_epochs": 2, "lora_dropout": 0.3}
    runs.run(ppo(tmp_path, trained, per_device_train_batch_size=4, max_steps=12, learning_rate=1e-2, **options))
    assert steps == [0, 4, 8]
    apart = logged(tmp_path / "out", "ppo/approx_kl")
    assert all(abs(apart[step]) < 1e-6 for step in (1, 5, 9))
    assert apart[4] > 1e-5


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_what_is_trained_moves_and_nothing_else(tmp_path, trained, kind, monkeypatch):
    seen = {}
    made = Session.make_trainer

    def make_trainer(self, model):
        found = made(self, model)
        seen["model"] = model
        seen["before"] = {name: (one.detach().clone(), one.requires_grad) for name, one in model.named_parameters()}
        return found

    monkeypatch.setattr(Session, "make_trainer", make_trainer)
    runs.run(ppo(tmp_path, trained, finetuning_type=kind, max_steps=3, ppo_epochs=1))
    after = dict(seen["model"].named_parameters())
    moved = {name: not torch.equal(after[name], before) for name, (before, _) in seen["before"].items()}
    assert moved == {name: learns for name, (_, learns) in seen["before"].items()}
    assert moved["value_head.weight"] and (kind == "full" or not all(moved.values()))
    saved = load_file(tmp_path / "out" / ("adapter_model.safetensors" if kind == "lora" else "model.safetensors"))
    assert not any("value_head" in name for name in saved)
    assert torch.equal(load_file(tmp_path / "out/value_head.safetensors")["weight"], after["value_head.weight"])


@pytest.mark.parametrize("kind, at", [("lora", 3), ("lora", 4), ("full", 3)])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, trained, kind, at):
    """From within a rollout (3 of 4 steps), and from its end; the KL cost and the moments of scores go along."""
    options = {"finetuning_type": kind, "max_steps": 7, "ppo_epochs": 2, "ppo_buffer_size": 2, "save_strategy": "steps",
               "save_steps": at, "per_device_train_batch_size": 4, "ppo_score_norm": True, "ppo_target": 0.5,
               "lora_dropout": 0.1, "num_train_epochs": 1}  # fmt: skip
    runs.run(ppo(tmp_path, trained, output_dir=tmp_path / "whole", **options))
    checkpoint = tmp_path / "whole" / f"checkpoint-{at}"
    kept = load_file(checkpoint / "rollout_0.safetensors")
    assert ("ids" in kept) == (at == 3)
    runs.run(ppo(tmp_path, trained, output_dir=tmp_path / "parts", resume_from_checkpoint=checkpoint, **options))
    for name in ("ppo/score", "ppo/kl_coef", "loss", "ppo/value_loss"):
        whole, parts = logged(tmp_path / "whole", name), logged(tmp_path / "parts", name)
        assert parts and parts == {step: number for step, number in whole.items() if step > at}
    for path in sorted((tmp_path / "whole").glob("*.safetensors")):
        one, other = load_file(path), load_file(tmp_path / "parts" / path.name)
        assert all(torch.equal(one[name], other[name]) for name in one), path.name


def test_a_checkpoint_within_a_rollout_of_another_size_is_refused(tmp_path, trained):
    options = {"max_steps": 4, "ppo_epochs": 2, "ppo_buffer_size": 2, "save_strategy": "steps", "save_steps": 3}
    runs.run(ppo(tmp_path, trained, per_device_train_batch_size=4, **options))
    again = {"resume_from_checkpoint": tmp_path / "out/checkpoint-3", "output_dir": tmp_path / "again"}
    with pytest.raises(UserError, match=r"--per_device_train_batch_size \(4, now 2\)"):
        runs.run(ppo(tmp_path, trained, per_device_train_batch_size=2, **options, **again))
    again["resume_changed"] = "per_device_train_batch_size"  # the rollout that was begun has its own size all the same
    with pytest.raises(SystemExit):
        runs.run(ppo(tmp_path, trained, per_device_train_batch_size=2, **options, **again))


def test_a_reward_that_fails_ends_the_training_with_a_checkpoint(tmp_path, trained, monkeypatch, caplog):
    calls = []

    def failing(*words):
        def score(prompts, answers):
            calls.append(len(answers))
            if len(calls) > 1:
                raise UserError("nobody scores any more")
            return [float(len(answer)) for answer in answers]

        return score

    monkeypatch.setattr("carellama.train.ppo.load_reward", failing)
    with pytest.raises(SystemExit) as left:
        runs.run(ppo(tmp_path, trained, max_steps=4, ppo_epochs=2))
    assert left.value.code == 2 and "nobody scores any more; stopped at step 2" in caplog.text
    assert (tmp_path / "out/checkpoint-2/value_head.safetensors").is_file()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"finetuning_type": "freeze"}, "not freeze"),
        ({"packing": True}, "--packing is for"),
        ({"streaming": True, "max_steps": 2}, "leave --streaming out"),
        ({"do_predict": True, "predict_with_generate": True}, "--do_predict answers conversations"),
        ({"temperature": 0}, "--temperature above 0"),
        ({"num_beams": 2}, "--num_beams 1"),
        ({"repetition_penalty": 1.2}, "leave --repetition_penalty at 1"),
        ({"ppo_lambda": 1.5}, "--ppo_lambda is 1.5"),
        ({"ppo_target": 0}, "--ppo_target is 0"),
        ({"ppo_epochs": 0}, "must be at least 1"),
        ({"resume_lora_training": True}, "compares with the model it begins from"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_can_not_work_is_refused_before_anything_is_loaded(tmp_path, options, said):
    paths = {"model_name_or_path": "nowhere", "reward_model": "nowhere", "dataset": "nowhere"}
    with pytest.raises(UserError, match=said):
        configured(tmp_path, "ppo", **(paths | options))


def test_a_reward_model_belongs_to_the_stages_that_answer(tmp_path):
    with pytest.raises(UserError, match="--stage ppo needs --reward_model"):
        configured(tmp_path, "ppo", model_name_or_path="nowhere", dataset="nowhere")
    with pytest.raises(UserError, match="of --stage ppo and grpo, not of sft"):
        configured(tmp_path, "sft", model_name_or_path="nowhere", dataset="nowhere", reward_model="rm")


IN_TWO = """
import hashlib, os, sys
from pathlib import Path
from carellama.cli import call
from carellama.train.ppo import PPOTrainer

chosen, train, rank = PPOTrainer._select_prompts, PPOTrainer.train, os.environ["RANK"]


def noted(self, epoch, number):
    tasks = chosen(self, epoch, number)
    with Path(f"asked_{rank}.txt").open("a") as file:
        file.write("".join(f"{number} {task.text}\\n" for task in tasks))
    return tasks


def trained(self, **words):
    result = train(self, **words)
    learned = [one.detach().numpy().tobytes() for one in self.model.parameters() if one.requires_grad]
    Path(f"weights_{rank}.txt").write_text(hashlib.sha256(b"".join(learned)).hexdigest() + f" {self.coefficient}")
    return result


PPOTrainer._select_prompts, PPOTrainer.train = noted, trained
call("train", sys.argv[1:])
"""


@pytest.mark.slow
def test_two_processes_ask_different_prompts_and_end_with_the_same_weights(tmp_path, trained):
    (tmp_path / "run.py").write_text(IN_TWO)
    words = [
        "--stage", "ppo", "--model_name_or_path", str(trained / "policy"), "--reward_model", str(trained / "rm"),
        "--dataset", str(trained / "pairs.json"), "--max_new_tokens", "8", "--top_p", "1", "--top_k", "0",
        "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2", "--ppo_epochs", "2",
        "--ppo_target", "0.1", "--max_steps", "4", "--bf16", "false", "--logging_steps", "1", "--save_steps", "3",
        "--val_size", "4", "--do_train", "--do_eval", "--learning_rate", "1e-3",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1",
                                "CARELLAMA_CACHE": str(tmp_path / "cache")}  # fmt: skip
    done = subprocess.run([*preloaded.torchrun(2, 29517), "run.py", *words, "--output_dir", "out"], cwd=tmp_path,
                          env=environment, capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    asked = [set((tmp_path / f"asked_{rank}.txt").read_text().splitlines()) for rank in (0, 1)]
    assert [len(each) for each in asked] == [16, 16] and not asked[0] & asked[1]
    first, second = ((tmp_path / f"weights_{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    assert {path.name for path in (tmp_path / "out/checkpoint-3").glob("rollout_*")} == {
        "rollout_0.safetensors", "rollout_1.safetensors",
    }  # fmt: skip
    assert json.loads((tmp_path / "out/eval_results.json").read_text())["eval_samples"] == 4
    shutil.rmtree(tmp_path / "out")


def test_each_epoch_draws_other_answers_to_the_same_prompts(tmp_path, trained, monkeypatch):
    """E: with the epoch left out of a rollout's seeds, a second epoch repeats the answers of the first.

    All prompts are the same, so that the order of an epoch does not hide it.
    """
    drawn = []
    rollout = PPOTrainer.rollout

    def remembered(self, epoch, number):
        made = rollout(self, epoch, number)
        drawn.append((epoch, [one.input_ids.tolist() for one in made.tokens]))
        return made

    monkeypatch.setattr(PPOTrainer, "rollout", remembered)
    rows = json.loads((trained / "pairs.json").read_text(encoding="utf-8"))[:1] * 8
    (tmp_path / "same.json").write_text(json.dumps(rows), encoding="utf-8")
    options = {"num_train_epochs": 2, "ppo_epochs": 1, "learning_rate": 1e-30, "max_new_tokens": 12, "temperature": 2}
    runs.run(ppo(tmp_path, trained, dataset=tmp_path / "same.json", **options))
    (_, first), (_, second) = drawn
    assert [epoch for epoch, _ in drawn] == [0, 1] and len(first) == len(second) == 8
    assert sum(one == other for one, other in zip(first, second, strict=True)) <= 2, "the policy is the same"
