"""Stage grpo: what is asked, what is rewarded, what is learned; its rewards by themselves are in test_verifiable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from carellama import run as runs
from carellama.config.run import RunConfig, run_config
from carellama.data.convert import BadRecord
from carellama.data.prompts import exam_prompt, numbered_passages, prepare_tasks, prompt_ids
from carellama.engine.transformers import TransformersEngine
from carellama.errors import UserError
from carellama.model.load import load_tokenizer
from carellama.records import Message, Question
from carellama.template import get_template
from carellama.tokenise import GroupEncoder
from carellama.train.grpo import RolloutTrainer
from conftest import REPOSITORY, make_model

SHORT = {"A": "yes", "B": "no", "C": "it depends"}


def exam_file(folder: Path, count: int = 12) -> Path:
    path = folder / "exam.jsonl"
    rows = [{"id": str(n), "question": f"Is {n} odd?", "options": SHORT, "answer": "AB"[n % 2 == 0]} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config_of(folder: Path, model: Path, data: Path, name: str = "out", **options: object) -> RunConfig:
    given = {
        "model_name_or_path": model, "dataset": data, "stage": "grpo", "output_dir": folder / name,
        "do_train": True, "learning_rate": 1e-2, "max_steps": 2, "per_device_train_batch_size": 8,
        "num_generations": 4, "max_new_tokens": 6, "logging_steps": 1, "lora_dropout": 0, "lora_target": "all",
        "bf16": False, "lr_scheduler_type": "constant", "save_strategy": "no", "disable_tqdm": True,
        "rewards": "rewards_of_mine:short_words",
    }  # fmt: skip
    given |= options
    return run_config([word for key, value in given.items() for word in (f"--{key}", str(value))])


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
    options = {
        "rewards": "rewards_of_mine:lower", "max_steps": 30, "per_device_train_batch_size": 32, "num_generations": 8,
        "val_size": 6, "do_eval": True, "grpo_beta": 0.01, "per_device_eval_batch_size": 6,
    }  # fmt: skip
    results = runs.run(config_of(mine, lively_folder, exam_file(mine), **options))
    rewards = logged(mine, "reward")
    first, last = sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5
    print(rewards, results)
    assert last > first + 0.1
    assert results["eval_reward_low"] <= results["eval_reward"] <= results["eval_reward_high"]
