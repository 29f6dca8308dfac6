"""Stage grpo: what is asked, what is rewarded, what is learned; its rewards by themselves are in test_verifiable."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from carellama.config.run import RunOptions
from carellama.data.convert import BadRecord
from carellama.data.encoding.prompts import exam_prompt, numbered_passages, prepare_tasks, prompt_ids
from carellama.engine.transformers.engine import TransformersEngine
from carellama.errors import UserError
from carellama.model.tokenizer import load_tokenizer
from carellama.records import Message, Question
from carellama.templates.template import get_template
from carellama.templates.tokenize import GroupEncoder
from carellama.train import run as runs
from carellama.train.grpo import GRPOTrainer
from carellama.train.options import run_options
from carellama.train.session import Session
from conftest import REPOSITORY, make_model

SHORT = {"A": "yes", "B": "no", "C": "it depends"}


def exam_file(folder: Path, count: int = 12) -> Path:
    path = folder / "exam.jsonl"
    rows = [
        {"id": str(n), "question": f"Is {n} odd?", "options": SHORT, "answer": "AB"[n % 2 == 0]} for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config_of(folder: Path, model: Path, data: Path | str, name: str = "out", **options: Any) -> RunOptions:
    given = {
        "model_name_or_path": model, "dataset": data, "stage": "grpo", "output_dir": folder / name,
        "do_train": True, "learning_rate": 1e-2, "max_steps": 2, "per_device_train_batch_size": 8,
        "num_generations": 4, "max_new_tokens": 6, "logging_steps": 1, "lora_dropout": 0, "lora_target": "all",
        "bf16": False, "lr_scheduler_type": "constant", "save_strategy": "no", "disable_tqdm": True,
        "rewards": "rewards_of_mine:short_words",
    }  # fmt: skip
    given |= options
    words = [word for key, value in given.items() if value is not None for word in (f"--{key}", str(value))]
    return run_options(words)


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    """A module of rewards in the current folder."""
    code = (
        "def short_words(prompts, completions, **columns):\n"
        "    return [-len(max(one[0]['content'].split(), key=len, default='')) for one in completions]\n"
        "def lower(prompts, completions, letters, reference, place, **columns):\n"
        "    assert len(letters) == len(completions) and all(':' in one for one in place)\n"
        "    texts = [one[0]['content'] for one in completions]\n"
        "    return [sum(c in 'aeiou ' for c in text) / max(len(text), 1) for text in texts]\n"
        "def endless(prompts, completions, **columns):\n"
        "    return [float('inf')] * len(prompts)\n"
    )
    (tmp_path / "rewards_of_mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "rewards_of_mine", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def lively_folder(tmp_path_factory, tiny_tokenizer) -> Path:
    """The tiny model with larger weights: an adapter can move its answers."""
    folder = tmp_path_factory.mktemp("lively")
    make_model(initializer_range=0.15, tie_word_embeddings=False).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def logged(folder: Path, key: str, name: str = "out") -> list[float]:
    lines = [json.loads(line) for line in (folder / name / "trainer_log.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def test_the_mean_reward_rises(mine, lively_folder):
    options: dict[str, Any] = {
        "rewards": "rewards_of_mine:lower", "max_steps": 30, "per_device_train_batch_size": 32, "num_generations": 8,
        "val_size": 6, "do_eval": True, "grpo_beta": 0.01, "per_device_eval_batch_size": 6, "eval_strategy": "steps",
        "eval_steps": 10, "save_strategy": "steps", "save_steps": 10, "load_best_model_at_end": True,
    }  # fmt: skip
    results = runs.run(config_of(mine, lively_folder, exam_file(mine), **options))
    rewards = logged(mine, "reward")
    first, last = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
    assert last > first + 0.1, rewards
    held_out = logged(mine, "eval_reward")
    assert len(held_out) == 4 and results["eval_reward"] == max(held_out)  # the best checkpoint, by its reward
    assert results["eval_reward_low"] <= results["eval_reward"] <= results["eval_reward_high"]


@pytest.mark.parametrize("kind", ["lora", "full", "freeze"])
def test_what_is_trained_moves_and_nothing_else(mine, tiny_folder, kind, monkeypatch):
    seen = {}
    trainer_of = Session.make_trainer

    def make_trainer(self, model):
        seen["model"] = model
        seen["before"] = {name: (one.detach().clone(), one.requires_grad) for name, one in model.named_parameters()}
        return trainer_of(self, model)

    monkeypatch.setattr(Session, "make_trainer", make_trainer)
    options = {"finetuning_type": kind, "max_steps": 3, "num_layer_trainable": 1, "rewards": "rewards_of_mine:lower"}
    runs.run(config_of(mine, tiny_folder, exam_file(mine), **options))
    after = dict(seen["model"].named_parameters())
    assert after.keys() == seen["before"].keys()  # no second adapter as reference
    moved = {name: not torch.equal(after[name], before) for name, (before, _) in seen["before"].items()}
    assert moved == {name: learns for name, (_, learns) in seen["before"].items()}
    assert any(moved.values()) and (kind == "full" or not all(moved.values()))
    assert {path.name for path in (mine / "out").iterdir() if path.is_dir()} == {"runs"}  # of TensorBoard
    kl = logged(mine, "kl")
    assert kl[0] == pytest.approx(0, abs=1e-6) and kl[-1] > 1e-6


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def test_a_resumed_run_is_the_whole_run(mine, tiny_folder, monkeypatch):
    """Also in its second epoch, whose order TRL's own sampler does not know after a restart."""
    data = exam_file(mine, 6)
    options = {"max_steps": 5, "rewards": "rewards_of_mine:lower", "lora_dropout": 0.1}
    runs.run(config_of(mine, tiny_folder, data, "whole", **options))

    step = GRPOTrainer.training_step

    def killed(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "training_step", killed)
    saving = {**options, "save_strategy": "steps", "save_steps": 2}
    with pytest.raises(KeyboardInterrupt):
        runs.run(config_of(mine, tiny_folder, data, "parts", **saving))
    assert {path.name for path in (mine / "parts").glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    monkeypatch.setattr(GRPOTrainer, "training_step", step)
    runs.run(config_of(mine, tiny_folder, data, "parts", **saving))
    assert logged(mine, "reward", "parts") == logged(mine, "reward", "whole")
    whole, parts = weights(mine / "whole"), weights(mine / "parts")
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_stop_signal_leaves_a_checkpoint_and_evaluation_changes_nothing(mine, tiny_folder, monkeypatch):
    data = exam_file(mine)
    measured = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": data, "per_device_eval_batch_size": 5}
    step = GRPOTrainer.training_step

    def stopped(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "training_step", stopped)
    with pytest.raises(SystemExit) as end:
        runs.run(config_of(mine, tiny_folder, data, "parts", max_steps=3, **measured))
    assert end.value.code == 130 and (mine / "parts/checkpoint-1/trainer_state.json").is_file()
    monkeypatch.setattr(GRPOTrainer, "training_step", step)
    runs.run(config_of(mine, tiny_folder, data, "parts", max_steps=3, **measured))
    runs.run(config_of(mine, tiny_folder, data, "whole", max_steps=3))
    assert logged(mine, "reward", "parts") == logged(mine, "reward", "whole")
    assert len(logged(mine, "eval_reward", "parts")) >= 3
    assert all(torch.equal(one, weights(mine / "whole")[name]) for name, one in weights(mine / "parts").items())


def test_a_reward_that_can_not_be_given_ends_the_run_with_a_checkpoint(mine, tiny_folder, monkeypatch, caplog):
    calls = []

    def flaky(name: str):
        def reward(prompts, completions, **columns):
            calls.append(name)
            return [float("inf") if len(calls) > 2 else float(len(one[0]["content"])) for one in completions]

        return reward

    monkeypatch.setattr("carellama.train.reward.verifiable.import_function", flaky)
    with pytest.raises(SystemExit) as end:
        runs.run(config_of(mine, tiny_folder, exam_file(mine), max_steps=4))
    assert end.value.code == 2 and (mine / "out/checkpoint-2/trainer_state.json").is_file()
    assert "gave a reward without end; stopped at step 2" in caplog.text


def test_evaluation_alone_gives_the_letters_and_how_many_could_not_be_read(mine, tiny_folder):
    options: dict[str, Any] = {
        "rewards": "letter,length",
        "length_target": "1-3",
        "reward_weights": "1,0.5",
        "do_train": False,
    }
    results = runs.run(config_of(mine, tiny_folder, exam_file(mine, 5), **options, do_eval=True))
    assert results["eval_samples"] == 5 and results["eval_unscored"] == 0
    assert 0 <= results["eval_rewards_letter_unparsed"] <= 1
    whole = results["eval_rewards_letter"] + 0.5 * results["eval_rewards_length"]
    assert results["eval_reward"] == pytest.approx(whole)
    again = runs.run(config_of(mine, tiny_folder, exam_file(mine, 5), "again", **options, do_eval=True))
    assert again["eval_reward"] == results["eval_reward"]


def test_a_reward_model_of_stage_rm_judges(mine, lively_folder):
    rows = [{"instruction": f"Is {n} odd?", "input": "", "output": ["Yes.", "No, never."]} for n in range(16)]
    pairs = mine / "pairs.json"
    pairs.write_text(json.dumps(rows))
    runs.run(config_of(mine, lively_folder, pairs, "rm", stage="rm", rewards=None))
    options = {"rewards": "model", "reward_model": mine / "rm"}
    runs.run(config_of(mine, lively_folder, pairs, **options))
    assert len(logged(mine, "rewards/model/mean")) == 2


def test_the_prompts_are_those_of_the_engine(tiny_model, tiny_tokenizer):
    template = get_template(None, tiny_tokenizer)
    prompts = [(Message("system", "Be brief."), Message("user", "发烧 <|im_end|> 怎么办？")), (Message("user", "Hm?"),)]
    engine = TransformersEngine(tiny_model, tiny_tokenizer, template)
    assert prompt_ids(GroupEncoder(tiny_tokenizer), template, prompts) == engine._encode(prompts)


def test_exam_questions_say_how_to_answer_in_their_language():
    asked = exam_prompt(Question("1", "Is 1 odd?", SHORT, ("A",)))
    assert asked.splitlines()[:3] == ["Is 1 odd?", "A. yes", "B. no"] and "the one right option" in asked
    assert "全部字母" in exam_prompt(Question("2", "哪些对？", SHORT, ("A", "B")))


def tasks_of(folder: Path, model: Path, data: Path | str, **given: Any):
    options = config_of(folder, model, data, **given)
    tokenizer = load_tokenizer(options.model)
    return prepare_tasks(options, tokenizer, get_template(None, tokenizer))


def test_conversations_and_pairs_are_asked_without_their_answers(mine, tiny_folder):
    rows = [
        {"messages": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."},
                      {"role": "user", "content": "Three?"}, {"role": "assistant", "content": "Four."}]},
    ]  # fmt: skip
    data = mine / "chats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = mine / "pairs.jsonl"
    pairs.write_text(json.dumps({"instruction": "Hm?", "input": "", "output": ["Good.", "Bad."]}) + "\n")
    tasks = tasks_of(mine, tiny_folder, f"{data},{pairs}")
    assert [(task.prompt[-1].content, task.reference) for task in tasks.train] == [
        ("Three?", "Four."),
        ("Hm?", "Good."),
    ]
    short = tasks_of(mine, tiny_folder, data, max_source_length=25)
    assert [message.content for message in short.train[0].prompt] == ["Three?"]
    assert "earlier turns left out" in "".join(short.report.lines())
    with pytest.raises(BadRecord, match=r"chats\.jsonl:1: the prompt is too long"):
        tasks_of(mine, tiny_folder, data, max_source_length=5)


def asked(tasks) -> list[str]:
    return [task.prompt[-1].content for task in tasks]


def prompts_file(folder: Path, name: str, count: int) -> Path:
    rows = [{"instruction": f"{name}{number}?", "input": "", "output": "Good."} for number in range(count)]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_equal_prompts_fall_on_one_side_and_are_counted(mine, tiny_folder):
    """D17, T23: prompts that are twice in the data were trained on and held out."""
    one, other = prompts_file(mine, "a", 8), mine / "again.jsonl"
    other.write_text(one.read_text())
    tasks = tasks_of(mine, tiny_folder, f"{one},{other}", val_size=3, mix_strategy="interleave_over")
    held, train = asked(tasks.held_out), asked(tasks.train)
    assert len(held) == len(set(held)) == 3 and not set(held) & set(train) and len(set(train)) == 5
    said = [line for entry in tasks.report.datasets.values() for line in entry.said]
    assert "3 prompts held out for evaluation" in said and "3 copies of held-out prompts left out of training" in said


def test_evaluated_prompts_are_counted_once_and_whole(mine, tiny_folder):
    """T13, T24, T26, T27 for prompts."""
    one, other = prompts_file(mine, "a", 6), prompts_file(mine, "b", 5)
    tasks = tasks_of(mine, tiny_folder, one, eval_dataset=f"{one},{other}", max_samples=4)
    assert len(tasks.train) == 4 and asked(tasks.held_out) == [
        *(f"a{n}?" for n in range(6)),
        *(f"b{n}?" for n in range(5)),
    ]
    assert {name: len(tasks.held_out[where]) for name, where in tasks.parts.items()} == {"a": 6, "b": 5}
    same = tasks_of(mine, tiny_folder, one, eval_dataset=one)
    assert [(entry.rows, entry.said) for entry in same.report.datasets.values()] == [
        (6, ["6 of 6 prompts of --eval_dataset are also in the training data"])
    ]
    mixed = tasks_of(mine, tiny_folder, f"{prompts_file(mine, 'c', 2)},{one}", mix_strategy="interleave_under")
    assert mixed.report.datasets[str(one)].said == ["1 of 6 prompts in an epoch (interleave_under), the same in each"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewards": "leter"}, "Did you mean 'letter'"),
        ({"rewards": "letter", "num_generations": 1}, "at least 2"),
        ({"rewards": "letter", "num_generations": 3}, "does not divide the answers of a step"),
        ({"rewards": "format"}, "needs --format_pattern or --format_sections"),
        ({"rewards": "letter", "length_target": "3-9"}, "belongs to the reward length"),
        ({"rewards": "length", "length_target": "9-3"}, "fewest and most"),
        ({"rewards": "model"}, "belong together"),
        ({"rewards": "constitution"}, "needs --judge_endpoint or --judge_model_name_or_path"),
        ({"rewards": "letter", "reward_weights": "1,2"}, "give one each"),
        ({"rewards": "letter", "streaming": True, "max_steps": 2}, "leave --streaming out"),
        ({"rewards": "letter", "stage": "sft"}, "belongs to --stage grpo"),
        ({"rewards": "no_such_module:reward"}, "there is no module 'no_such_module'"),
        ({"rewards": "rewards_of_mine:shortwords"}, "Did you mean 'short_words'"),
        ({"rewards": "letter", "per_device_train_batch_size": 128}, "a step takes the answers to 32 prompts"),
        ({"rewards": "letter", "max_new_tokens": 512}, "leaves no room for a prompt"),
    ],
)
def test_what_can_not_work_is_refused_before_the_model_is_loaded(mine, tiny_folder, options, message, monkeypatch):
    monkeypatch.setattr(
        "carellama.train.session.load_model", lambda *args, **kwargs: pytest.fail("the model was loaded")
    )
    with pytest.raises(UserError, match=message):
        runs.run(config_of(mine, tiny_folder, exam_file(mine), **options))


def test_rows_that_a_reward_can_not_judge_are_refused_with_their_line(mine, tiny_folder):
    data = mine / "chat.jsonl"
    row = {"messages": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}]}
    data.write_text(json.dumps(row) + "\n")
    for reward in ("letter", "citation"):
        with pytest.raises(BadRecord, match=rf"chat\.jsonl:1: --rewards {reward} needs"):
            tasks_of(mine, tiny_folder, data, rewards=reward)
    with pytest.raises(UserError, match="no row could be used"):
        tasks_of(mine, tiny_folder, data, rewards="letter", on_bad_record="skip")


def test_passages_end_with_the_next_number_or_an_empty_line():
    text = "Use these:\n[1] A cold\nlasts a week.\n【2】发烧。\n\nWhat is [3] good for?"
    assert numbered_passages(text) == {1: "A cold\nlasts a week.", 2: "发烧。"}


def test_the_bundled_questions_fit_the_stage(tiny_folder, tmp_path):
    for name in ("exam_en", "exam_zh"):
        data = REPOSITORY / f"data/{name}.jsonl"
        tasks = tasks_of(tmp_path, tiny_folder, data, rewards="letter", on_bad_record="skip")
        assert all(task.letters and set(task.letters) <= set(task.options) for task in tasks.train)


def test_an_answer_ends_with_a_stop_string_of_its_template(tiny_tokenizer):
    template = SimpleNamespace(stops=["Human:"], stop_ids=[2])
    trainer = SimpleNamespace(template=template, processing_class=tiny_tokenizer)
    ids = tiny_tokenizer.encode("Rest well.\nHuman: And then? Human: Go on.", add_special_tokens=False)
    ended = GRPOTrainer._finish_reasons(trainer, ids)  # type: ignore[arg-type]
    assert tiny_tokenizer.decode(ended) == "Rest well.\nHuman:"
    assert GRPOTrainer._finish_reasons(trainer, ended[:-1]) == ended[:-1]  # type: ignore[arg-type]
    for text in ("Rest well.\nHuman: Hm", "Rest well.\n<|im_end|>Human:", "Rest well.\n"):
        assert GRPOTrainer._decode_completions(trainer, text) == "Rest well.\n"  # type: ignore[arg-type]


@pytest.fixture
def judge():
    """An endpoint that judges by two rules, and after `limit` requests refuses the key."""
    numbers = itertools.count(1)

    class Judge(BaseHTTPRequestHandler):
        asked: ClassVar[list[str]] = []
        limit = 1000

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            Judge.asked.append(body["messages"][-1]["content"])
            number = next(numbers)
            reply = "1: yes\n2: no" if number % 2 else "1: yes\n2: n/a"
            answer = {"choices": [{"message": {"content": reply}, "finish_reason": "stop"}], "usage": {"a": 1}}
            self.send_response(200 if number <= Judge.limit else 401)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", Judge
    server.shutdown()
    server.server_close()


def test_an_endpoint_judges_by_rules_of_the_user_until_it_is_gone(mine, tiny_folder, judge, caplog):
    address, asked = judge
    asked.limit = 8 + 3
    rules = mine / "rules.yaml"
    rules.write_text(
        "version: '7'\nrules:\n- {name: short, en: Short., zh: 短。}\n- {name: kind, en: Kind., zh: 友善。}\n"
    )
    options = {"rewards": "constitution", "judge_endpoint": address, "judge_model": "judge", "constitution": rules}
    with pytest.raises(SystemExit) as end:
        runs.run(config_of(mine, tiny_folder, exam_file(mine), **options, max_steps=3))
    assert end.value.code == 2 and (mine / "out/checkpoint-1/trainer_state.json").is_file()
    assert "refuses the key (401)" in caplog.text and "stopped at step 1" in caplog.text
    assert logged(mine, "rewards/constitution/kind") == [0] and logged(mine, "reward") == [0.75]
    asked.limit = 1000
    runs.run(config_of(mine, tiny_folder, exam_file(mine), **options, max_steps=3))
    assert logged(mine, "reward") == [0.75] * 3 and "Is " in asked.asked[0]
    said = json.loads((mine / "out/run.json").read_text())["data"]
    assert [(entry["name"], entry["used"]) for entry in said][-1] == ("constitution 7", 2)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_rows(mine, tiny_folder, monkeypatch):
    plain = GRPOTrainer._compute_loss
    monkeypatch.setattr(GRPOTrainer, "_compute_loss", lambda *args: plain(*args) * float("nan"))
    with pytest.raises(UserError, match=r"the loss is not a number, in step 1.*exam\.jsonl:\d+, .*exam\.jsonl:\d+\."):
        runs.run(config_of(mine, tiny_folder, exam_file(mine)))
