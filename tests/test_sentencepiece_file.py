"""tokenizer.model beside a tokenizer.json of SentencePiece's kind, and what llama.cpp's converter needs besides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from carellama.model.gguf.converter import NotConvertible
from carellama.model.gguf.read import Header
from carellama.model.gguf.write import _without_code
from carellama.model.readers import make_readable, readable_config
from carellama.model.sentencepiece_file import PROBE, llamacpp_reason, space_before
from hub_bases import write_base


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: write_base(family, folder / family) for family in ("mistral", "gemma3", "gpt2")}


def change(folder: Path, edit: Any) -> None:
    """Change the tokenizer.json of a folder."""
    path = folder / "tokenizer.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    edit(state)
    path.write_text(json.dumps(state), encoding="utf-8")


def copy(base: Path, folder: Path) -> Path:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((base / name).read_bytes())
    return folder


@pytest.mark.parametrize(("family", "space"), [("mistral", True), ("gemma3", False)])
def test_it_gives_the_ids_of_tokenizer_json(family: str, space: bool, bases: dict[str, Path], tmp_path: Path) -> None:
    """llama.cpp's converter gave all pieces of a Mistral one score, and refused a Gemma."""
    folder = copy(bases[family], tmp_path)
    make_readable(folder)
    written = folder / "tokenizer.model"
    pieces, tokenizer = SentencePieceProcessor(str(written)), Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert len(pieces) == tokenizer.get_vocab_size()
    for text in (PROBE, "asthma  cough", " 好\n"):
        assert pieces.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["add_prefix_space"] is space
    assert [pieces.eos_id(), pieces.bos_id()] == [tokenizer.token_to_id(config[f"{n}_token"]) for n in ("eos", "bos")]
    before = written.stat().st_mtime_ns
    make_readable(folder)
    assert written.stat().st_mtime_ns == before


def test_an_older_file_gets_the_added_tokens(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(bases["gemma3"], tmp_path)
    make_readable(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["糖尿病"])
    tokenizer.save(str(folder / "tokenizer.json"))
    make_readable(folder)
    pieces = SentencePieceProcessor(str(folder / "tokenizer.model"))
    assert pieces.id_to_piece(len(pieces) - 1) == "糖尿病"
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["added_tokens_decoder"][str(len(pieces) - 1)]["content"] == "糖尿病"


def test_a_byte_level_tokenizer_needs_no_such_file(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(bases["gpt2"], tmp_path)
    make_readable(folder)
    assert not (folder / "tokenizer.model").exists() and llamacpp_reason(folder) == ""


def test_words_that_sentencepiece_splits_in_another_way_are_refused(
    bases: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A .gguf with other ids was written without a word."""
    folder = copy(bases["mistral"], tmp_path)
    change(folder, lambda state: state["model"].update(merges=state["model"]["merges"][:10]))
    make_readable(folder)
    assert not (folder / "tokenizer.model").exists() and "another way" in caplog.text
    with (
        pytest.raises(NotConvertible, match=r"another way than SentencePiece.*--engine"),
        _without_code(folder, pickles=False),
    ):
        pass


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_the_converter_is_told_what_transformers_5_left_out(
    family: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    """Words that were added were no tokens in a .gguf, and each text of a Llama without it got a space in front."""
    folder = copy(bases[family], tmp_path)
    path = folder / "tokenizer_config.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    bare = {key: before[key] for key in before if key not in ("added_tokens_decoder", "add_prefix_space")}
    path.write_text(json.dumps(bare), encoding="utf-8")
    token = {"id": 900, "content": "糖尿病", "special": False, "normalized": False}
    token |= {"single_word": False, "lstrip": False, "rstrip": False}
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    change(folder, lambda state: (state["added_tokens"].append(token), state.update(truncation=cut)))
    with _without_code(folder, pickles=False) as safe:
        told = json.loads((safe / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert json.loads((safe / "tokenizer.json").read_text(encoding="utf-8"))["truncation"] is None
    assert told["added_tokens_decoder"]["900"]["content"] == "糖尿病"
    assert told["add_prefix_space"] is (family == "mistral")
    assert json.loads(path.read_text(encoding="utf-8")) == bare


@pytest.mark.parametrize("special", [True, False])
def test_added_tokens_with_a_space_at_the_start_of_a_text_only(
    special: bool, bases: dict[str, Path], tmp_path: Path
) -> None:
    """llama.cpp puts a space behind each added token, special ones included, where the training had none."""
    folder = copy(bases["mistral"], tmp_path)

    def edit(state: dict[str, Any]) -> None:
        metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
        token = {"id": len(state["model"]["vocab"]), "content": "糖尿病", "special": special, "normalized": False}
        state.update(normalizer=None, pre_tokenizer=metaspace)
        state["added_tokens"].append({"single_word": False, "lstrip": False, "rstrip": False} | token)

    change(folder, edit)
    assert space_before(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))) == "first"
    assert "space behind each of its 4 added tokens (糖尿病, ...)" in llamacpp_reason(folder)


@pytest.mark.parametrize(
    ("config", "added"),
    [
        ({"model_type": "gpt2", "n_positions": 512}, {"n_ctx": 512}),
        ({"model_type": "bloom", "hidden_size": 32}, {"seq_length": 2048}),
        ({"model_type": "bloom", "seq_length": 4096}, {}),
        ({"model_type": "llama"}, {}),
    ],
)
def test_the_longest_context_has_the_name_that_llama_cpp_reads(config: dict[str, Any], added: dict[str, Any]) -> None:
    """The .gguf of a BLOOM had hidden_size as its context, that of a GPT-2 without n_ctx was not written."""
    assert readable_config(config) == config | added


@pytest.mark.parametrize(
    ("facts", "tensors", "scales"),
    [
        ({}, ["token_embd.weight"], False),
        ({}, ["rope_freqs.weight"], True),
        ({}, ["rope_factors_long.weight"], True),
        ({"llama.rope.scaling.type": "linear"}, [], True),
        ({"llama.rope.scaling.type": "none"}, [], False),
    ],
)
def test_a_header_tells_scaled_positions(facts: dict[str, Any], tensors: list[str], scales: bool) -> None:
    """OpenVINO read Llama 3.1's .gguf without its scaling."""
    header = Header({"general.architecture": "llama", **facts}, 0, frozenset(tensors))
    assert header.scales_positions is scales
