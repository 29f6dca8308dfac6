"""Adapters whose tokenizer lies beside them: its ids are those of the training, and its rows come from the adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from carellama.config.data import DataOptions
from carellama.config.engine import EngineOptions
from carellama.config.model import ModelOptions
from carellama.engine.openai.vllm import _weights
from carellama.engine.transformers.load import load as load_engine
from carellama.errors import UserError
from carellama.export.adapters import AdapterMerge, merge_weighted
from carellama.export.merge import load as load_source
from carellama.export.merge import write_folder
from carellama.model.adapters import load_adapter
from carellama.model.gguf import write as to_gguf
from carellama.model.gguf.write import lora_gguf_of
from carellama.model.tokenizer import load_tokenizer, tokenizer_checkpoint
from conftest import make_model
from test_adapter import logits, shake

TURN = "<|turn|>"


def make(
    base: Path, folder: Path, tokens: Sequence[str] = (TURN,), *, rows: int = 0, special: bool = True, **settings: Any
) -> PeftModel:
    """An adapter as a training with tokens added to the base's writes it, its tokenizer beside it."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(list(tokens), special_tokens=special)
    network = AutoModelForCausalLM.from_pretrained(base)
    network.resize_token_embeddings(max(rows, len(tokenizer), network.config.vocab_size), mean_resizing=False)
    chosen: dict[str, Any] = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj"]} | settings
    made = shake(get_peft_model(network, LoraConfig(**chosen)), 1)
    made.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return made


@pytest.fixture(params=[False, True], ids=["own head", "tied"])
def base(request, tiny_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    make_model(tie_word_embeddings=request.param, vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def options(base: Path, *adapters: Path) -> ModelOptions:
    return ModelOptions(str(base), checkpoint_dir=",".join(map(str, adapters)), dtype="float32")


@pytest.mark.parametrize("rows", [0, 512])
@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}], ids=["resized", "saved"])
def test_rows_of_new_tokens_come_from_the_adapter(base: Path, tmp_path: Path, settings, rows: int) -> None:
    """The shape of adapters with a Chinese vocabulary: they were refused, as of another model."""
    made = make(base, tmp_path / "a", rows=rows, **settings)
    source = load_source(options(base, tmp_path / "a"), "vanilla")
    assert source.tokenizer.convert_tokens_to_ids(TURN) == len(AutoTokenizer.from_pretrained(base))
    write_folder(source, tmp_path / "merged", "5GB")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(read), logits(made), atol=1e-5, rtol=1e-5)
    assert read.get_input_embeddings().num_embeddings == made.get_input_embeddings().weight.shape[0]


def test_tokens_in_spare_rows_are_those_of_the_training(tmp_path: Path, tiny_folder: Path) -> None:
    """The base's tokenizer cut such a token into letters, and nothing was said."""
    shutil.copytree(tiny_folder, tmp_path / "base")
    make_model(vocab_size=512).save_pretrained(tmp_path / "base")
    make(tmp_path / "base", tmp_path / "a")
    given = options(tmp_path / "base", tmp_path / "a")
    assert load_tokenizer(given)(TURN, add_special_tokens=False)["input_ids"] == [
        len(AutoTokenizer.from_pretrained(tiny_folder))
    ]
    make(tmp_path / "base", tmp_path / "same", ())
    assert tokenizer_checkpoint(options(tmp_path / "base", tmp_path / "same")) is None
    shutil.rmtree(tmp_path / "same")
    shutil.copytree(tmp_path / "a", tmp_path / "same")  # on top of the first, with the same tokens
    assert tokenizer_checkpoint(options(tmp_path / "base", tmp_path / "a", tmp_path / "same")) == tmp_path / "a"


def test_a_pad_token_without_a_row_is_left_out(base: Path, tmp_path: Path) -> None:
    """Trainings of 2023 added one; it stands in no text."""
    make(base, tmp_path / "a", ())
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path / "a")
    assert tokenizer_checkpoint(options(base, tmp_path / "a")) is None
    tokenizer.add_tokens([TURN])
    tokenizer.save_pretrained(tmp_path / "a")
    with pytest.raises(UserError, match=r"has 2 tokens \(the first: '\[PAD\]'\) for which neither"):
        load_tokenizer(options(base, tmp_path / "a"))


def test_the_rows_of_a_head_of_its_own_have_to_be_there(tiny_folder: Path, tmp_path: Path) -> None:
    make(tiny_folder, tmp_path / "a", modules_to_save=["embed_tokens", "lm_head"])
    file = tmp_path / "a" / "adapter_model.safetensors"
    save_file({key: one for key, one in load_file(file).items() if "lm_head" not in key}, file)
    with pytest.raises(UserError, match="has 1 tokens"):
        load_tokenizer(options(tiny_folder, tmp_path / "a"))


def test_a_tokenizer_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    make(base, tmp_path / "a", ())
    path = tmp_path / "a" / "tokenizer.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = state["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(UserError, match="trained on another base"):
        load_tokenizer(options(base, tmp_path / "a"))


def test_more_rows_without_a_tokenizer_are_refused(base: Path, tmp_path: Path) -> None:
    make(base, tmp_path / "a")
    (tmp_path / "a" / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="no tokenizer with more tokens lies beside it"):
        load_source(options(base, tmp_path / "a"), "vanilla")


@pytest.mark.parametrize("kind", ["tokens", "embedding"])
def test_an_adapter_with_tokens_of_its_own_answers_beside_no_other(
    kind: str, tmp_path: Path, tiny_folder: Path, monkeypatch
) -> None:
    """peft writes its embedding over the base's, for every other adapter too."""
    monkeypatch.setattr(to_gguf, "model_home", lambda: tmp_path / "cache")
    shutil.copytree(tiny_folder, tmp_path / "base")
    make_model(vocab_size=512).save_pretrained(tmp_path / "base")
    make(tmp_path / "base", tmp_path / "a", rows=0 if kind == "tokens" else 520)
    model = ModelOptions(str(tmp_path / "base"), dtype="float32")
    named = EngineOptions(adapters=f"a={tmp_path / 'a'}")
    said = "has tokens of its own" if kind == "tokens" else "has lm_head whole"
    with pytest.raises(UserError, match=said):
        load_engine(model, DataOptions(template="vanilla"), named)
    with pytest.raises(UserError, match=said):
        lora_gguf_of(model, tmp_path / "a")
    with pytest.raises(UserError, match=said):
        _weights(model, named)
    if kind == "embedding":
        with pytest.raises(UserError, match="lm_head whole, of which there can be only one"):
            merge_weighted(make_model(vocab_size=520), [tmp_path / "a", tmp_path / "a"], AdapterMerge("linear"))


def test_adapters_with_different_tokens_are_not_merged_as_equals(tmp_path: Path, tiny_folder: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "base")
    make_model(vocab_size=512).save_pretrained(tmp_path / "base")
    make(tmp_path / "base", tmp_path / "a")
    make(tmp_path / "base", tmp_path / "b", ("<|other|>",))
    same = load_source(options(tmp_path / "base", tmp_path / "a", tmp_path / "a"), "vanilla", AdapterMerge("linear"))
    assert TURN in same.tokenizer.get_vocab()
    with pytest.raises(UserError, match="were trained with different tokens"):
        load_source(options(tmp_path / "base", tmp_path / "a", tmp_path / "b"), "vanilla", AdapterMerge("linear"))


def test_an_adapter_that_replaces_the_embedding_is_not_trained_further(base: Path, tmp_path: Path) -> None:
    """The next checkpoint would lack the embedding: peft does not save it with an adapter that is resumed."""
    made = make(base, tmp_path / "a")
    assert made.peft_config
    with pytest.raises(UserError, match="neither trained further nor put on other adapters"):
        load_adapter(make_model(vocab_size=300), tmp_path / "a", "default", trained=True)
