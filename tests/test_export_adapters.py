"""`carellama export` with several adapters, to a LoRA, and to a hub, from the options to the card."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import LlamaConfig

from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.export import command
from carellama.export.adapters import AdapterMerge
from carellama.export.cards.facts import gather, name_of_base
from carellama.export.lora import check_base
from carellama.export.merge import load
from carellama.run_record import foundation
from exporting import export
from test_adapter_merge import make_adapter


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    make_adapter(folder / "first", 1, 4, ["q_proj", "v_proj"])
    make_adapter(folder / "second", 2, 8, ["q_proj", "gate_proj"])
    return [folder / "first", folder / "second"]


def merged(base: Path, folders: list[Path]) -> ModelOptions:
    return ModelOptions(str(base), checkpoint_dir=",".join(map(str, folders)), dtype="float32")


def test_adapters_are_merged_with_weights_and_the_card_says_how(tiny_folder, two, tmp_path) -> None:
    done = export(merged(tiny_folder, two), "vicuna", tmp_path / "out", merge="linear", merge_weights="0.7,0.3")
    assert done.rows[0].greedy_equal == 32
    for name, said in (("README.md", "adapters merged by linear:"), ("README_zh.md", "适配器按 linear 方法合并：")):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert f"{said} first × 0.7, second × 0.3".replace("： ", "：") in text and str(tmp_path) not in text


def record(base: Path, folder: Path, template: str, *below: Path) -> None:
    """Write the run.json of an adapter that was trained on a base with adapters below it."""
    begun = foundation(ModelOptions(str(base)), list(map(str, below)))
    written = {"used": {"foundation": begun}, "settings": {"data": {"template": template}}}
    (folder / "run.json").write_text(json.dumps(written), encoding="utf-8")


def copied(folders: list[Path], target: Path) -> list[Path]:
    return [shutil.copytree(one, target / one.name) for one in folders]


def test_adapters_of_one_base_are_compared_with_it_alone(tiny_folder, two, tmp_path, caplog) -> None:
    """The second was said to be used on other weights than it was trained on, so that its answers get worse."""
    first, second = copied(two, tmp_path)
    for folder in (first, second):
        record(tiny_folder, folder, "vicuna")
    load(merged(tiny_folder, [first, second]), None, AdapterMerge("linear"))
    assert "answers get worse" not in caplog.text
    record(tiny_folder, second, "vicuna", first)  # which was trained on the other one has to lie on it
    with pytest.raises(UserError, match=r"--merge puts each adapter on the base alone.*second was trained on .*first"):
        load(merged(tiny_folder, [first, second]), None, AdapterMerge("linear"))


def test_adapters_of_several_chat_formats_need_one_that_is_chosen(tiny_folder, two, tmp_path, caplog) -> None:
    """The format of the last was taken without a word."""
    first, second = copied(two, tmp_path)
    for folder, template in ((first, "vicuna"), (second, "llama2")):
        record(tiny_folder, folder, template)
    with pytest.raises(UserError, match=r"first with vicuna, .*second with llama2\): give --template"):
        load(merged(tiny_folder, [first, second]), None, AdapterMerge("ties"))
    assert load(merged(tiny_folder, [first, second]), "llama2", AdapterMerge("ties")).template.name == "llama2"
    assert f"{first} was trained with --template vicuna and is used with --template llama2" in caplog.text
    assert "give adapters of one chat format" in caplog.text  # without --template it would be refused


def test_a_whole_checkpoint_is_none_of_the_adapters_that_are_weighed(tiny_folder, two) -> None:
    assert command._adapters(merged(tiny_folder, [tiny_folder, *two])) == two


def test_whole_weights_become_an_adapter_that_a_stranger_reads(tiny_folder, two, tmp_path) -> None:
    model = merged(tiny_folder, two)
    done = export(model, "vicuna", tmp_path / "out", to="lora", merge="linear", lora_rank=12, card="chai")
    (row,) = done.rows
    assert row.form == "lora" and row.greedy_equal == 32 and row.end_tokens_equal
    out = tmp_path / "out"
    assert not (out / "model.safetensors").exists() and (out / "chai_model_card.xml").is_file()
    config = json.loads((out / "lora" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny_folder.name and config["r"] == 12
    assert "rank 12 keeps 100.00% of the squared norm of the difference" in (out / "README.md").read_text("utf-8")
    assert not (out / "lora" / "README.md").exists()
    head = yaml.safe_load((out / "README.md").read_text("utf-8").split("---\n")[1])
    assert head["library_name"] == "peft"
    assert f": {tiny_folder.name}\n" in (out / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"merge": "linear", "merge_weights": "0.7"}, "--merge_weights has 1 numbers for 2 adapters"),
        ({"merge_weights": "0.7,0.3"}, "--merge_weights needs --merge"),
        ({"push_to": "somewhere"}, "give hf:USER/NAME or modelscope:USER/NAME"),
    ],
    ids=["too few weights", "weights without merge", "no place"],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_loaded(
    tiny_folder, two, tmp_path, monkeypatch, changes, says
) -> None:
    monkeypatch.setattr(command, "load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UserError, match=says):
        export(merged(tiny_folder, two), "vicuna", tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_lora_needs_a_base(tiny_folder, tmp_path) -> None:
    with pytest.raises(UserError, match="--lora_base is missing"):
        export(ModelOptions(str(tiny_folder)), "vicuna", tmp_path / "out", to="lora")
    with pytest.raises(UserError, match="does not differ from"):
        export(ModelOptions(str(tiny_folder)), "vicuna", tmp_path / "out", to="lora", lora_base=str(tiny_folder))
    assert not (tmp_path / "out").exists()


STRETCHED: dict[str, Any] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"rope_parameters": STRETCHED}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "rope_parameters"),
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_parameters": STRETCHED, "max_position_embeddings": 64}, "max_position_embeddings"),
        ({"num_key_value_heads": 1, "head_dim": 32}, "head_dim"),
        ({"max_position_embeddings": 64, "use_cache": False, "eos_token_id": 7, "attention_dropout": 0.1}, ""),
        ({"torch_dtype": "float16", "vocab_size": 41, "architectures": ["X"], "transformers_version": "4.0.0"}, ""),
    ],
)
def test_a_lora_is_of_a_base_that_computes_alike(tmp_path, changes, name) -> None:
    """An adapter holds weights alone: a `rope_type` dynamic of the tuned model was dropped without a word."""
    base = LlamaConfig(rope_parameters=STRETCHED if name == "max_position_embeddings" else None)
    base.save_pretrained(tmp_path)
    tuned = LlamaConfig(**changes)
    if name:
        with pytest.raises(UserError, match=f"--to lora: .* has other settings than the model.*{name} is"):
            check_base(tuned, ModelOptions(str(tmp_path)))
    else:
        check_base(tuned, ModelOptions(str(tmp_path)))


def test_positions_that_an_adapter_cannot_hold_are_refused_first(tiny_folder, two, tmp_path) -> None:
    """--rope_scaling itself, too: a reader of base and adapter knows nothing of it."""
    model = replace(merged(tiny_folder, two[:1]), rope_scaling="dynamic")
    with pytest.raises(UserError, match=r"rope_parameters is .*dynamic.* in the model and .*default.* in the base"):
        export(model, "vicuna", tmp_path / "out", to="lora")
    assert not (tmp_path / "out").exists()


def test_an_adapter_names_the_base_that_was_given(tiny_folder, tmp_path) -> None:
    """It named what the base's own card says that the base was made from: other weights."""
    base = shutil.copytree(tiny_folder, tmp_path / "ftbase")
    (base / "README.md").write_text("---\nbase_model: Qwen/Qwen2-7B\n---\n")
    assert name_of_base(ModelOptions(str(base))) == "ftbase"
    assert name_of_base(ModelOptions("acme/tuned")) == "acme/tuned"


def test_a_card_of_an_adapter_has_the_licence_of_what_it_was_made_from(tiny_folder, tmp_path) -> None:
    for name, licence in (("base", "llama3"), ("tuned", "cc-by-nc-4.0"), ("plain", "")):
        folder = shutil.copytree(tiny_folder, tmp_path / name)
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    base = ModelOptions(str(tmp_path / "base"))
    for name, licence, kinds in (("tuned", "cc-by-nc-4.0", ["terms"]), ("plain", "llama3", [])):
        tuned = ModelOptions(str(tmp_path / name))
        facts = gather(tuned, kind="causal", relation="adapter", adapter=True, adapter_base=base)
        assert (facts.base.name, facts.base.licence) == ("base", licence)
        assert [one.kind for one in facts.clashes] == kinds
