"""Adapters and bases that load without a word and are not what was trained: refused, or written as they were loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from carellama.adapter_json import read_adapter_json
from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.export.adapters import AdapterMerge, merge_weighted
from carellama.export.merge import load, write_folder
from carellama.model.adapter_plan import plan_adapters
from carellama.model.adapters import apply_adapters, load_adapter
from carellama.model.gguf import write as to_gguf
from carellama.model.gguf.converter import ConverterRefuses
from carellama.model.gguf.write import lora_gguf_of
from carellama.model.load import load_model
from conftest import make_model
from exporting import export
from test_adapter_merge import make_adapter

HEAD, ENTRY = "lm_head.weight", "model.embed_tokens.weight"


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], name: str) -> Path:
    """Rewrite the weights of a folder."""
    weights = load_file(folder / name)
    change(weights)
    save_file(weights, folder / name, metadata={"format": "pt"})
    return folder


def adapter_without(folder: Path, part: str) -> Path:
    make_adapter(folder, 1, 4, ["q_proj", "v_proj"])

    def drop(weights: dict[str, torch.Tensor]) -> None:
        del weights[next(key for key in weights if part in key)]

    return changed(folder, drop, "adapter_model.safetensors")


@pytest.fixture
def ties(tiny_folder: Path, tmp_path: Path) -> Path:
    """A base whose config.json says one weight, and whose file has two that differ."""
    folder = tmp_path / "ties"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_half_an_adapter_is_refused_by_every_reader(part: str, tiny_folder: Path, tmp_path: Path, monkeypatch) -> None:
    """As a .gguf one without lora_A lost that layer, and nothing was said."""
    monkeypatch.setattr(to_gguf, "model_home", lambda: tmp_path / "cache")
    make_adapter(tmp_path / "whole", 2, 4, ["q_proj"])
    half = adapter_without(tmp_path / "half", part)
    with pytest.raises(UserError, match=f"its file lacks .*{part}"):
        merge_weighted(make_model(), [tmp_path / "whole", half], AdapterMerge("linear"))
    with pytest.raises(UserError, match=f"its file lacks .*{part}"):
        lora_gguf_of(ModelOptions(str(tiny_folder)), half)
    path = half / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged or cut short"):
        lora_gguf_of(ModelOptions(str(tiny_folder)), half)


@pytest.mark.parametrize(
    ("key", "value"),
    [("lora_alpha", "8"), ("lora_alpha", float("nan")), ("r", None), ("r", True), ("target_modules", 5),
     ("target_modules", [5]), ("use_rslora", "false"), ("rank_pattern", {"q_proj": "4"}),
     ("modules_to_save", "lm_head"), ("peft_type", ["LORA"])],
    ids=str,
)  # fmt: skip
def test_settings_of_other_types_are_refused_in_one_line(key: str, value: object, tmp_path: Path) -> None:
    """A TypeError of peft came out for some, and "false" was taken for true."""
    make_adapter(tmp_path / "a", 1, 4, ["q_proj"])
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=f"has {key} .*; it has to be ") as told:
        plan_adapters(ModelOptions("tiny", checkpoint_dir=str(tmp_path / "a")))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "content", [b"[1]", b"null", b"\xff\xfe{", b"[" * 100_000], ids=["list", "null", "utf16", "deep"]
)
def test_what_is_no_object_of_settings_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes(content)
    with pytest.raises(UserError, match="cannot read"):
        read_adapter_json(tmp_path)


def test_settings_that_only_peft_knows_are_refused_in_one_line(tmp_path: Path) -> None:
    make_adapter(tmp_path / "a", 1, 4, ["q_proj"])
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layers_to_transform": {"a": 1}, "layers_pattern": 5}))
    with pytest.raises(UserError, match="settings that peft cannot use"):
        load_adapter(make_model(), tmp_path / "a", "a")


def test_a_head_of_its_own_is_stated_where_the_base_does_not(
    ties: Path, tiny_folder: Path, tmp_path: Path, caplog
) -> None:
    """transformers 4 read the embedding for the head of that export, transformers 5 the head."""
    model = ModelOptions(str(ties), dtype="float32")
    write_folder(load(model, "vicuna"), tmp_path / "out", "5GB")
    assert "two that differ: the head of its own is used" in caplog.text
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(
        load_file(tmp_path / "out" / "model.safetensors")[HEAD], load_file(ties / "model.safetensors")[HEAD]
    )


def test_both_configurations_of_a_nested_model_state_it(tmp_path: Path) -> None:
    """The text part has an entry of its own, which other programs read."""
    from transformers import AutoModelForCausalLM, Gemma3Config

    text = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8,
            "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    network = AutoModelForCausalLM.from_config(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    )
    head = network.get_output_embeddings()
    assert head is not None and network.config.get_text_config().tie_word_embeddings
    head.weight = torch.nn.Parameter(torch.randn(head.weight.shape))
    network.save_pretrained(tmp_path)
    assert any(name.endswith(HEAD) for name in load_file(tmp_path / "model.safetensors"))
    loaded = load_model(ModelOptions(str(tmp_path)), dtype="float32", attention=None)
    loaded.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert written["tie_word_embeddings"] is False and written["text_config"]["tie_word_embeddings"] is False


def test_one_weight_stays_one(tmp_path: Path) -> None:
    make_model(tie_word_embeddings=True).save_pretrained(tmp_path)
    assert load_model(ModelOptions(str(tmp_path)), dtype="float32", attention=None).config.tie_word_embeddings is True


def test_a_gguf_without_the_head_of_the_folder_is_refused(ties: Path, tmp_path: Path) -> None:
    """The converter leaves a head out by config.json alone (Hunyuan, Pangu) or always (Gemma)."""
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("token_embd.weight", torch.zeros(2, 2).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConverterRefuses, match="an output head of its own"):
        to_gguf._check_head(ties, tmp_path / "model.gguf", "it")
    changed(ties, lambda weights: weights.update({HEAD: weights[ENTRY].clone()}), "model.safetensors")
    to_gguf._check_head(ties, tmp_path / "model.gguf", "it")  # equal: the embedding stands for it


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_weights_that_no_text_touches_are_looked_at(value: float, tiny_folder: Path, tmp_path: Path) -> None:
    """The row of a token that the comparison's texts do not have was exported as it was."""
    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    changed(base, lambda weights: weights[ENTRY][8].fill_(value), "model.safetensors")
    with pytest.raises(UserError, match=f"{ENTRY} holds weights that are not numbers") as told:
        export(ModelOptions(str(base)), "vicuna", tmp_path / "out")
    assert "\n" not in str(told.value) and not (tmp_path / "out").exists()


def test_an_adapter_that_is_no_number_is_refused(tmp_path: Path) -> None:
    make_adapter(tmp_path / "a", 1, 4, ["q_proj"])

    def spoil(weights: dict[str, torch.Tensor]) -> None:
        next(iter(weights.values()))[0] = float("nan")

    changed(tmp_path / "a", spoil, "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"the adapter .*lora_[AB].* not numbers"):
        apply_adapters(make_model(), plan_adapters(ModelOptions("tiny", checkpoint_dir=str(tmp_path / "a"))))
