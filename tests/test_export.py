"""Export: the written folder answers as base and adapters do, and says where it comes from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.export import command as exporting
from carellama.model.adapter_plan import plan_adapters
from carellama.model.adapters import apply_adapters
from conftest import make_model, make_tokenizer
from exporting import export
from test_adapter import logits, trained


@pytest.fixture
def adapter(tmp_path) -> Path:
    folder = trained(make_model(), tmp_path / "adapter")
    record = {
        "base_model": "tiny",
        "settings": {
            "data": {"template": "vicuna"},
            "finetuning": {"lora_rank": 8},
            "training": {"seed": 42},
        },
        "data": [{"name": "consult", "digest": "abc123", "rows": 120, "problems": {}}],
        "results": {"eval_loss": 1.25, "predict_bleu-4": 12.5},
        "versions": {"torch": "2"},
        "git_commit": "f00",
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def arguments(folder: Path, *checkpoints: Path, **changes) -> ModelOptions:
    joined = ",".join(map(str, checkpoints)) or None
    return ModelOptions(model_name_or_path=str(folder), checkpoint_dir=joined, **changes)


def test_the_export_answers_as_base_and_adapter(tiny_folder, adapter, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = tmp_path / "out" / "model"
    model = arguments(tiny_folder, adapter)
    (parity,) = export(model, "vicuna", target).rows
    assert parity.max_logit_difference < 1e-4 and parity.top1_agreement == 1.0 and parity.dtype == "float32"
    adapted = apply_adapters(make_model(), plan_adapters(model))
    written = AutoModelForCausalLM.from_pretrained(target)
    torch.testing.assert_close(logits(written), logits(adapted), atol=1e-4, rtol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(target)
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert "USER: hi" in rendered and written.generation_config.eos_token_id == [2]
    assert [path.name for path in target.parent.iterdir()] == ["model"]  # nothing temporary stays
    assert len({path.stat().st_mode for path in target.iterdir()}) == 1  # as readable as any new file


def test_the_card_says_how_the_model_was_made(tiny_folder, adapter, tmp_path):
    export(arguments(tiny_folder, adapter), "vicuna", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for said in (
        "consult | abc123 | 120",
        "| lora_rank | 8 |",
        "| eval_loss | 1.25 |",
        "f00",
        "32 / 32",
        "Files, compared with the trained model",
        "vicuna",
    ):
        assert said in card
    assert "license: unknown" in card and str(tmp_path) not in card


def test_the_licence_of_the_base_goes_along(adapter, tmp_path):
    base = tmp_path / "base"
    make_model().save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    (base / "README.md").write_text("---\nlicense: llama2\n---\n")
    (base / "LICENSE.txt").write_text("terms")
    export(arguments(base, adapter), None, tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == "terms"
    assert "license: llama2" in (tmp_path / "out" / "README.md").read_text()


def test_weights_are_cut_into_shards(tiny_folder, tmp_path):
    export(arguments(tiny_folder), None, tmp_path / "out", max_shard_size="100KB")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    for size in ("much", "0GB", "0.0KB"):
        with pytest.raises(UserError, match="like 5GB"):
            export(arguments(tiny_folder), None, tmp_path / "no", max_shard_size=size)


def test_only_an_older_model_is_written_over_and_only_if_told(tiny_folder, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "letter.txt").write_text("dear")
    model = arguments(tiny_folder)
    for told in (False, True):  # the first message advised what the second refused
        with pytest.raises(UserError, match=r"holds no model .* give another folder$"):
            export(model, None, target, overwrite_output_dir=told)
    with pytest.raises(UserError, match="which is read"):
        export(model, None, tiny_folder, overwrite_output_dir=True)
    shutil.copytree(tiny_folder, tmp_path / "base")
    with pytest.raises(UserError, match="--overwrite_output_dir true to replace it"):
        export(model, None, tmp_path / "base")
    with pytest.raises(UserError, match="which is read"):
        export(model, None, tmp_path / "base", overwrite_output_dir=True, to="lora", lora_base=str(tmp_path / "base"))
    shutil.rmtree(tmp_path / "base")
    assert (target / "letter.txt").read_text() == "dear"
    (target / "letter.txt").unlink()
    export(model, None, target)
    (target / "old.txt").write_text("old")
    export(model, None, target, overwrite_output_dir=True)
    assert not (target / "old.txt").exists() and (target / "config.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_full_disk_is_said_before_anything_is_written(tiny_folder, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"GB free"):
        export(arguments(tiny_folder), None, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing(tiny_folder, tmp_path, monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_card", fail)
    with pytest.raises(UserError, match="No space left"):
        export(arguments(tiny_folder), None, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_other_settings_than_in_training_are_warned_of(tiny_folder, adapter, tmp_path, caplog):
    export(arguments(tiny_folder, adapter), "default", tmp_path / "out")
    assert "was trained with --template vicuna and is used with --template default" in caplog.text


def test_a_quantised_run_is_exported_from_the_whole_base(tiny_folder, adapter, tmp_path):
    model = arguments(tiny_folder, adapter, quantization_bit=4)
    (parity,) = export(model, "vicuna", tmp_path / "out").rows
    assert parity.max_logit_difference < 1e-4
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config


def test_an_export_prints_no_bars_of_transformers(tiny_folder, tmp_path, capfd):
    export(arguments(tiny_folder), "vicuna", tmp_path / "out")
    assert "%|" not in capfd.readouterr().err


def test_the_verb_reads_the_seed_flags(tiny_folder, adapter, tmp_path, capsys):
    flags = {
        "model_name_or_path": tiny_folder,
        "checkpoint_dir": adapter,
        "finetuning_type": "lora",
        "template": "vicuna",
        "output_dir": tmp_path / "out",
    }
    exporting.main([word for name, value in flags.items() for word in (f"--{name}", str(value))])
    assert "largest difference of logits" in capsys.readouterr().out


def front_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_the_front_matter_is_what_the_hub_reads(tmp_path, adapter):
    """T4: base_model, its relation, datasets, languages and task were missing."""
    base = tmp_path / "base"
    make_model().save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    (base / "README.md").write_text("---\nlicense: apache-2.0\nbase_model: acme/tiny-llama\nlanguage: en\n---\ntext\n")
    record = json.loads((adapter / "run.json").read_text())
    record["data"] = [
        {"name": "consult_zh", "hub": None, "languages": ["zh"]},
        {"name": str(tmp_path / "my.jsonl"), "hub": None, "languages": ["zh", "en"]},
        {"name": "mm", "hub": "acme/medical", "languages": []},
    ]
    record["settings"]["finetuning"] |= {"stage": "sft", "finetuning_type": "lora"}
    (adapter / "run.json").write_text(json.dumps(record))
    export(arguments(base, adapter), "vicuna", tmp_path / "out")
    assert front_of(tmp_path / "out") == {
        "license": "apache-2.0",
        "base_model": "acme/tiny-llama",
        "base_model_relation": "finetune",
        "datasets": ["acme/medical"],
        "language": ["zh", "en"],
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "tags": ["medical", "carellama", "sft", "lora"],
    }


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_output_of_a_training_has_a_card_without_paths(kind, tmp_path, tiny_folder):
    """T4: peft's page named a folder of this machine and said [More Information Needed] everywhere."""
    from carellama.train import run as runs
    from test_variants import config_of

    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    (base / "README.md").write_text("---\nlicense: mit\nbase_model:\n- acme/tiny-llama\n---\n")
    runs.run(config_of(tmp_path, base, finetuning_type=kind, max_steps=2, save_steps=1,
        save_strategy="steps", template="vicuna"))  # fmt: skip
    front, text = front_of(tmp_path / "out"), (tmp_path / "out" / "README.md").read_text()
    assert front["base_model"] == "acme/tiny-llama" and front["license"] == "mit" and front["language"] == ["en"]
    relation, library = ("adapter", "peft") if kind == "lora" else ("finetune", "transformers")
    assert (front["base_model_relation"], front["library_name"]) == (relation, library)
    assert "## Training" in text and str(tmp_path) not in text and "More Information" not in text
    checkpoint = tmp_path / "out" / "checkpoint-1"
    assert not (checkpoint / "README.md").exists()
    written = json.loads((checkpoint / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast" and "is_local" not in written
    assert "USER: " in written["chat_template"]  # that of --template, not the base's ChatML
    if kind == "full":
        assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [2]
