"""The losses that `train` logs in three steps are those of the papers, worked out without it; and so are the masks."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import set_seed

import paper_losses as paper
from carellama.config.model import ModelOptions
from carellama.config.reader import to_flags
from carellama.data.encoding.encode import Encoder
from carellama.data.encoding.preference import AnswerEncoder
from carellama.model.load import load_model
from carellama.records import IGNORED, Chat, Message, Pair
from carellama.templates.format import formats
from carellama.templates.template import get_template
from carellama.train import run as runs
from carellama.train.options import run_options
from carellama.train.ppo import PPOTrainer
from conftest import REPOSITORY
from test_template import tokenizer_for

RATE = 2e-3  # large: a wrong gradient shows in the second loss
STEPS = 3
WIDE = (400, 400, 500)
GOOD, BAD = "Please see a doctor.", "Ignore it."
QUESTIONS = ("My ear hurts.", "I cough at night and am tired.")


def logged(folder: Path, model: Path, stage: str, rows: list[dict], **options: object) -> list[float]:
    """The losses of three steps over all rows at once, as `trainer_log.jsonl` has them."""
    (folder / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    given = {
        "model_name_or_path": model, "dataset": folder / "data.json", "stage": stage, "output_dir": folder / "out",
        "data_cache_dir": folder / "cache", "do_train": True, "learning_rate": RATE, "max_steps": STEPS,
        "per_device_train_batch_size": len(rows), "logging_steps": 1, "finetuning_type": "full", "bf16": False,
        "lr_scheduler_type": "constant", "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    runs.run(run_options(to_flags(given | options)))
    lines = [json.loads(line) for line in (folder / "out/trainer_log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture
def model(tiny_folder):
    """The tiny model as `train` loads it."""
    return load_model(ModelOptions(str(tiny_folder)), dtype="float32", attention="eager").train()


def pair_rows() -> list[dict]:
    return [{"instruction": question, "input": "", "output": [GOOD, BAD]} for question in QUESTIONS]


def pairs_of(tokenizer) -> list[paper.Record]:
    encoder = AnswerEncoder(Encoder(tokenizer, get_template(None, tokenizer), WIDE))
    pairs = [Pair((Message("user", question),), GOOD, BAD) for question in QUESTIONS]
    return [
        (tokens.input_ids.tolist(), tokens.labels.tolist())
        for encoded in encoder.encode(pairs)
        for tokens in encoded.tokens
    ]


def test_sft(tmp_path, tiny_folder, tiny_tokenizer, model):
    """Against the paper's sum, and against a number: the mean over 3 steps of different batching is one."""
    rows = [{"instruction": question, "input": "", "output": GOOD * (n + 1)} for n, question in enumerate(QUESTIONS)]
    encoder = Encoder(tiny_tokenizer, get_template(None, tiny_tokenizer), WIDE)
    chats = [Chat((Message("user", row["instruction"]), Message("assistant", row["output"]))) for row in rows]
    records = [(t.input_ids.tolist(), t.labels.tolist()) for one in encoder.encode(chats) for t in one.tokens]
    wanted = paper.trained(model, lambda: paper.sft(model, records), STEPS, RATE)
    found = logged(tmp_path, tiny_folder, "sft", rows)
    assert found == pytest.approx(wanted, abs=1e-5) and len(found) == STEPS
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "overwrite_output_dir": True}
    assert logged(tmp_path, tiny_folder, "sft", rows, **options) == pytest.approx(wanted, abs=1e-5)


def test_rm(tmp_path, tiny_folder, tiny_tokenizer):
    set_seed(42)  # the head is drawn as the run draws it
    model = load_model(ModelOptions(str(tiny_folder)), dtype="float32", attention="eager", kind="reward").train()
    records = pairs_of(tiny_tokenizer)
    wanted = paper.trained(model, lambda: paper.rm(model, records), STEPS, RATE)
    assert logged(tmp_path, tiny_folder, "rm", pair_rows()) == pytest.approx(wanted, abs=1e-5)


LOSSES = [
    {"pref_loss": "sigmoid"},
    {"pref_loss": "sigmoid", "dpo_label_smoothing": 0.2, "pref_beta": 0.5},
    {"pref_loss": "ipo", "pref_beta": 0.5},
    {"pref_loss": "hinge", "pref_ftx": 0.3},
    {"pref_loss": "orpo"},
    {"pref_loss": "simpo", "pref_beta": 2.0, "simpo_gamma": 0.7},
]


@pytest.mark.parametrize("options", LOSSES, ids=lambda one: "-".join(map(str, one.values())))
def test_dpo(tmp_path, tiny_folder, tiny_tokenizer, model, options):
    records, ref = pairs_of(tiny_tokenizer), copy.deepcopy(model)
    how = {"smooth": options.get("dpo_label_smoothing", 0.0), "gamma": options.get("simpo_gamma", 0.5),
           "ftx": options.get("pref_ftx", 0.0)}  # fmt: skip
    kind, beta = options["pref_loss"], options.get("pref_beta", 0.1)
    wanted = paper.trained(model, lambda: paper.dpo(model, ref, records, kind, beta, **how), STEPS, RATE)
    assert logged(tmp_path, tiny_folder, "dpo", pair_rows(), **options) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("w_good", "w_bad"), [(2.0, 0.7), (0.1, 5.0)])
def test_kto(tmp_path, tiny_folder, tiny_tokenizer, model, w_good, w_bad):
    """E: swapped weights, no baseline and no clamp each change one of the losses.

    The mean of the mismatched answers rises with the first weights; with the second it falls below 0.
    """
    answers = [(GOOD, True), (BAD, False)]
    rows = [
        {"instruction": question, "input": "", "output": answer, "good": good}
        for question, (answer, good) in zip(QUESTIONS, answers, strict=True)
    ]
    encoder = AnswerEncoder(Encoder(tiny_tokenizer, get_template(None, tiny_tokenizer), WIDE))
    chats = [
        Chat((Message("user", question), Message("assistant", answer)), good=good)
        for question, (answer, good) in zip(QUESTIONS, answers, strict=True)
    ]
    records = [(t.input_ids.tolist(), t.labels.tolist()) for one in encoder.encode(chats) for t in one.tokens]
    ref, drifts = copy.deepcopy(model), []

    def loss() -> torch.Tensor:
        found, drift = paper.kto(model, ref, records, [True, False], 0.5, w_good=w_good, w_bad=w_bad)
        drifts.append(float(drift))
        return found

    wanted = paper.trained(model, loss, STEPS, RATE)
    options = {"pref_beta": 0.5, "kto_chosen_weight": w_good, "kto_rejected_weight": w_bad}
    assert logged(tmp_path, tiny_folder, "kto", rows, **options) == pytest.approx(wanted, abs=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "out/trainer_log.jsonl").read_text().splitlines()]
    assert [line["kl"] for line in lines if "kl" in line] == pytest.approx(
        [max(drift, 0) / 0.5 for drift in drifts], abs=1e-5, rel=1e-5
    ), "in nats, without beta"
    assert drifts[0] == 0 and (max(drifts) > 1e-3 if w_good > w_bad else min(drifts) < -1e-3)


def test_ppo(tmp_path, tiny_folder, model, monkeypatch):
    """Two passes over one rollout and one over the next: the answers are the run's, all else is worked out again."""
    rollouts = []
    answered = PPOTrainer._generate

    def remembered(self, tasks, seeds):
        answers, tokens, scores = answered(self, tasks, seeds)
        scores[:] = [0.25 * len(one.ids) - 1 for one in answers]  # a score that needs no model
        rollouts.append((tokens, list(scores)))
        return answers, tokens, scores

    monkeypatch.setattr(PPOTrainer, "_generate", remembered)
    monkeypatch.setattr("carellama.train.ppo.check_reward", lambda *_: None)
    monkeypatch.setattr("carellama.train.ppo.load_reward", lambda *_: lambda prompts, answers: [0.0] * len(answers))
    options = {
        "ppo_epochs": 2, "ppo_kl_coef": 0.3, "ppo_gamma": 0.9, "ppo_lambda": 0.8, "ppo_clip": 0.1,
        "ppo_value_clip": 0.05, "ppo_value_coef": 0.4, "reward_model": "none", "max_new_tokens": 9,
        "temperature": 1, "top_p": 1, "top_k": 0,
    }  # fmt: skip
    found = logged(tmp_path, tiny_folder, "ppo", pair_rows(), **options)
    assert len(rollouts) == 2
    head, ref = torch.nn.Linear(64, 1), copy.deepcopy(model)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    losses, drawn = [], []

    def loss() -> torch.Tensor:
        tokens, scores = rollouts[len(losses) // 2]
        records = [(one.input_ids.tolist(), one.labels.tolist()) for one in tokens]
        if len(losses) % 2 == 0:
            drawn.append(paper.ppo_rollout(model, head, ref, records, scores, 0.3, 0.9, 0.8))
        losses.append(paper.ppo(model, head, records, drawn[-1], 0.1, 0.05, 0.4))
        return losses[-1]

    wanted = paper.trained(model, loss, STEPS, RATE, head.parameters())
    assert found == pytest.approx(wanted, abs=1e-5)
    assert len(set(found)) == STEPS


def test_the_loop_of_the_examples_is_train(tmp_path, tiny_folder):
    history = [["Hello.", "Yes?"]]
    rows = [
        {"instruction": QUESTIONS[n % 2], "input": "", "output": GOOD * (n + 1), "history": history * (n % 2)}
        for n in range(4)
    ]
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "lr_scheduler_type": "linear"}
    found = logged(tmp_path, tiny_folder, "sft", rows, **options)
    path = REPOSITORY / "examples/sft_loop.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 150
    spec = importlib.util.spec_from_file_location("sft_loop", path)
    script = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(script)
    words = [tiny_folder, tmp_path / "data.json", "--steps", STEPS, "--batch_size", 2, "--accumulate", 2,
             "--learning_rate", RATE]  # fmt: skip
    losses = script.main([str(word) for word in words])
    assert losses == pytest.approx(found, abs=1e-5) and len(losses) == STEPS


TURNS = (("What is asthma?", "A disease."), ("And flu?", "Another."), ("发烧怎么办？", "多喝水。"))


@pytest.mark.parametrize("name", [name for name, form in formats().items() if not form.same_as])
def test_the_mask_of_three_turns_is_the_answers_with_their_ends(name):
    """Written out by hand from the format's own parts, and not by its Jinja."""
    tokenizer, form = tokenizer_for(name, "bytes"), formats()[name]
    messages = [(Message("user", question), Message("assistant", answer)) for question, answer in TURNS]
    encoder = Encoder(tokenizer, get_template(name, tokenizer), (1000, 1000, 2000))
    (encoded,) = encoder.encode([Chat(tuple(message for turn in messages for message in turn))])
    runs_of, before = [], False
    for tokens in encoded.tokens:  # one, or one an answer where only the last one is ended
        for token, label in zip(tokens.input_ids.tolist(), tokens.labels.tolist(), strict=True):
            if label != IGNORED:
                runs_of += [] if before else [[]]
                runs_of[-1].append(token)
            before = label != IGNORED
        before = False
    assert len(encoded.tokens) == (1 if form.assistant_suffix else 3)
    end = form.assistant_suffix.rstrip().replace("{eos}", tokenizer.eos_token)  # what follows the end is not learned
    lead = "" if form.history_lead.strip() else form.history_lead  # a space is learned, markup is not
    assert [tokenizer.decode(run, skip_special_tokens=False) for run in runs_of] == [
        lead + answer + (end or tokenizer.eos_token) for _, answer in TURNS
    ]
