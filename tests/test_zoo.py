"""Models by name: the entries, the commands that list them, and the released weights from a double of the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from carellama.config.data import DataOptions
from carellama.config.model import ModelOptions
from carellama.data import mixture as recipe
from carellama.data import view
from carellama.data import vocabulary as pieces
from carellama.errors import UserError
from carellama.model.adapter_plan import plan_adapters
from carellama.model.adapters import apply_adapters, merge_adapters
from carellama.model.zoo import pull
from carellama.model.zoo.entries import find_entry, load_entries
from carellama.model.zoo.pull import to_safetensors, with_named_weights
from carellama.model.zoo.resolve import EMBEDDED
from carellama.model.zoo.show import list_models, show
from conftest import make_model, make_tokenizer
from hub_answers import Hub, Repository
from hub_double import hub_double
from test_adapter import logits, trained

RELEASED = ("CareLlama2-7b-chat-sft-multi", "CareLlama2-7b-chat-sft-med", "CareLlama1-7b-merge")


def test_the_released_weights_are_in_the_list() -> None:
    assert {entry.name for entry in load_entries()} >= {*RELEASED, *EMBEDDED}
    assert find_entry("carellama1-7B-merge") is find_entry("wangrongsheng/CareLlama1-7b-merge") is not None


def test_models_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    list_models([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "kind", "size", "languages", "licence", "base"]
    assert len(lines) == len(load_entries()) + 1
    list_models(["--json", "true"])
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} >= set(RELEASED)
    show(["CareLlama2-7b-chat-sft-med"])
    text = capsys.readouterr().out
    assert "meta-llama/Llama-2-7b-chat-hf" in text and "QLoRA" in text and "llama2" in text and "academic" in text
    with pytest.raises(UserError, match=r"Did you mean 'CareLlama1-7b-merge'"):
        show(["CareLlama1-7b-merg"])


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pull, "pull_adapter", lambda entry, model: tmp_path / "fetched")
    model, data = with_named_weights(ModelOptions(RELEASED[0]), DataOptions())
    assert model.model_name_or_path == "meta-llama/Llama-2-7b-chat-hf" and data.template == "llama2"
    assert model.checkpoints == [str(tmp_path / "fetched")]
    model, data = with_named_weights(ModelOptions("base", RELEASED[2]), DataOptions(template="vicuna"))
    assert (model.model_name_or_path, data.template) == ("base", "vicuna")
    assert model.checkpoints == [str(tmp_path / "fetched")]
    (tmp_path / RELEASED[0]).mkdir()
    model, data = with_named_weights(ModelOptions(RELEASED[0]), DataOptions())
    assert (model.model_name_or_path, model.checkpoints, data.template) == (RELEASED[0], [], None)


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("trapped",)


def test_pickled_adapters_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in ({"a": Trap()}, [1, 2], {"a": 1}):
        torch.save(content, tmp_path / "adapter_model.bin")
        with pytest.raises(UserError, match=r"adapter_model.bin"):
            to_safetensors(tmp_path / "adapter_model.bin", tmp_path / "adapter_model.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_model.bin"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A double of the hub with a small base and two adapters on it: one pickled, as in 2023, one as safetensors."""
    base, adapter = tmp_path / "base", trained(make_model(), tmp_path / "adapter")
    make_model().save_pretrained(base)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(base)
    config = json.loads((adapter / "adapter_config.json").read_text())
    kept = {key: config[key] for key in ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "target_modules")}
    about = json.dumps(kept | {"base_model_name_or_path": "x"}).encode()
    torch.save(load_file(adapter / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    with hub_double() as made:
        for repository in ("meta-llama/Llama-2-7b-chat-hf", "huggyllama/llama-7b"):
            made.add(repository, base)
        pickled = {"adapter_config.json": about, "adapter_model.bin": (tmp_path / "adapter_model.bin").read_bytes()}
        made.repositories[f"wangrongsheng/{RELEASED[0]}"] = Repository(pickled)
        safe = {
            "adapter_config.json": about,
            "adapter_model.safetensors": (adapter / "adapter_model.safetensors").read_bytes(),
        }
        made.repositories[f"wangrongsheng/{RELEASED[2]}"] = Repository(safe)
        yield made


def of_hub(hub: Hub, folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], env=hub.environment(folder), cwd=folder, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_released_weights_by_name_bring_their_base(hub: Hub, tmp_path: Path) -> None:
    """export, ask (as chat and api load models) and train, all by name; the third weights on a base that is given."""
    rows = [{"instruction": "What is asthma?", "input": "", "output": "A disease of the airways."}] * 8
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    short = ["--max_steps", "1", "--per_device_train_batch_size", "2", "--use_cpu", "true", "--save_strategy", "no"]
    program = f"""
from carellama.cli import call
name = {RELEASED[0]!r}
call("export", ["--model_name_or_path", name, "--output_dir", "out"])
call("ask", ["What is asthma?", "--model_name_or_path", name, "--engine", "transformers", "--max_new_tokens", "4"])
call("train", ["--model_name_or_path", name, "--dataset", "rows.json", "--output_dir", "more", *{short!r}])
call("export", ["--model_name_or_path", "base", "--checkpoint_dir", {RELEASED[2]!r}, "--output_dir", "third"])
"""
    done = of_hub(hub, tmp_path, program)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("fetching CareLlama2-7b-chat-sft-multi") == 1 and "academic use only" in done.stderr
    # of the third alone, which is put on a folder: the list says on what the first belongs
    assert done.stderr.count("could not be checked") == 1 and "names huggyllama/llama-7b, and it is" in done.stderr
    adapted = apply_adapters(make_model(), plan_adapters(ModelOptions("x", checkpoint_dir=str(tmp_path / "adapter"))))
    expected = logits(merge_adapters(adapted))
    for output in ("out", "third"):
        written = AutoModelForCausalLM.from_pretrained(tmp_path / output)
        torch.testing.assert_close(logits(written), expected, atol=1e-4, rtol=1e-4)
    assert "<<SYS>>" in (tmp_path / "out" / "chat_template.jinja").read_text()
    assert "Human: " in (tmp_path / "third" / "chat_template.jinja").read_text()
    record = json.loads((tmp_path / "more" / "run.json").read_text())
    assert record["settings"]["data"]["template"] == "llama2"
    assert record["base_model"] == "meta-llama/Llama-2-7b-chat-hf"
    missing = of_hub(
        hub, tmp_path, f"from carellama.cli import call; call('ask', ['x', '--model_name_or_path', {RELEASED[1]!r}])"
    )
    assert missing.returncode == 2 and "wangrongsheng/CareLlama2-7b-chat-sft-med" in missing.stderr.splitlines()[-1]


def test_a_released_name_is_resolved_wherever_a_model_is_named(tmp_path, tiny_folder, monkeypatch, capsys) -> None:
    """Only training and the engines knew the names: here the adapter's base is a folder."""
    entry = replace(next(one for one in load_entries() if one.kind == "adapter"), base=str(tiny_folder), template="")
    monkeypatch.setattr(pull, "find_entry", lambda name: entry if name == entry.name else None)
    monkeypatch.setattr(pull, "pull_adapter", lambda entry, model: tmp_path)
    path = tmp_path / "a.jsonl"
    row = {"question": "头痛怎么办？", "answer": "头痛时注意休息，头痛加重请就医。"}
    path.write_text(json.dumps(row) + "\n")
    view.run([str(path), "--tokenizer", entry.name])
    assert "of them learned" in capsys.readouterr().out
    assert recipe._sizes([], [], recipe._tokenizer(entry.name))["tokens"] == 0
    options = ["--model_name_or_path", entry.name, "--output", str(tmp_path / "p.txt"), "--min_count", "2"]
    pieces.run(["train", str(path), *options])
    assert "头痛" in (tmp_path / "p.txt").read_text(encoding="utf-8")
