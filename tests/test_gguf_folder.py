"""A .gguf becomes the model folder of the same model: positions scaled as it says, every weight, or an error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM

from carellama.errors import UserError
from carellama.model.card_head import card_head, stated_licence
from carellama.model.gguf import read
from carellama.model.gguf.converter import CONVERT_AS, run_converter
from carellama.model.gguf.read import folder_of_gguf
from conftest import make_model, make_tokenizer
from test_readers import CONVERT_ALL
from tiny_gguf import write_tiny_gguf

IDS = torch.tensor([[(7 * at + 3) % 400 for at in range(400)]])
SCALINGS: dict[str, dict[str, Any]] = {
    "none": {"rope_type": "default"},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(read, "model_home", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def whole(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    return write_tiny_gguf(tmp_path / "whole.gguf", make_model(), tiny_tokenizer)


def logits_of(folder: Path) -> torch.Tensor:
    """Of a long text, as transformers reads the folder."""
    with torch.no_grad():
        logits: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")(IDS).logits
    return logits


def copy(
    source: Path,
    target: Path,
    *,
    without: str = "-",
    facts: dict[str, Any] | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Write a .gguf again with the `gguf` package, without some tensors and with other facts and tensors."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(str(target), "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            if field.types[0] == gguf.GGUFValueType.ARRAY:
                writer.add_array(key, field.contents())
            else:
                writer.add_key_value(key, field.contents(), field.types[0])
    for key, value in (facts or {}).items():
        kind = {str: gguf.GGUFValueType.STRING, float: gguf.GGUFValueType.FLOAT32, int: gguf.GGUFValueType.UINT16}
        writer.add_key_value(key, value, kind[type(value)])
    for tensor in reader.tensors:
        if not tensor.name.startswith(without):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for name, weights in (tensors or {}).items():
        writer.add_tensor(f"{name}.weight", weights.numpy())
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return target


@pytest.mark.slow
def test_positions_are_scaled_as_the_converter_wrote_them(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """transformers reads no scaling of a .gguf: the folder of a Llama 3.1 was that of another model, without a word."""
    theirs = {}
    for name, settings in SCALINGS.items():
        network = make_model(rope_parameters=settings | {"rope_theta": 10000.0}, initializer_range=0.2)
        network.to(torch.bfloat16).save_pretrained(tmp_path / name)
        tiny_tokenizer.save_pretrained(tmp_path / name)
        theirs[name] = logits_of(tmp_path / name)
    words = [[str(tmp_path / name), "--outfile", str(tmp_path / f"{name}.gguf"), "--outtype", "f32"] for name in theirs]
    run_converter(CONVERT_AS + CONVERT_ALL, ["gpt-2", json.dumps(words)], "the models of this test")
    for name in SCALINGS:
        logits = theirs[name]
        ours = logits_of(folder_of_gguf(tmp_path / f"{name}.gguf"))
        torch.testing.assert_close(ours, logits, atol=1e-4, rtol=1e-4)
        if name != "none":
            assert (logits - theirs["none"]).abs().max() > 0.01


def test_what_lies_beside_a_file_is_not_read(whole: Path, cache: Path, tmp_path: Path) -> None:
    """transformers took the tokenizer.json beside it, of whatever model: other tokens, or no end of an answer."""
    beside = tmp_path / "models"
    beside.mkdir()
    other = make_tokenizer()
    other.add_tokens(["hello"])
    other.save_pretrained(beside)
    make_model(num_hidden_layers=1).config.save_pretrained(beside)
    (beside / "generation_config.json").write_text('{"eos_token_id": 7}')
    (beside / "chat_template.jinja").write_text("another format")
    (beside / "added_tokens.json").write_text('{"<another>": 3}')
    expected = {path.name: path.read_bytes() for path in folder_of_gguf(whole).iterdir()}
    shutil.rmtree(cache)
    copied = Path(shutil.copy(whole, beside))
    assert {path.name: path.read_bytes() for path in folder_of_gguf(copied).iterdir()} == expected


@pytest.mark.parametrize("lost", ["blk.1.", "blk.1.ffn_down", "output_norm", "blk.0.attn_q", "token_embd"])
def test_a_file_without_some_weights_is_refused(lost: str, whole: Path, cache: Path) -> None:
    """transformers made them up, and the folder with these random weights was kept in the cache."""
    part = copy(whole, whole.with_name("part.gguf"), without=lost)
    with pytest.raises(UserError, match=r"part.gguf lacks \d+ of the weights of its model \(the first: .*incomplete"):
        folder_of_gguf(part)
    assert not list(cache.glob("part*"))


def test_a_part_of_a_model_and_weights_without_use_are_refused(whole: Path) -> None:
    part = copy(whole, whole.with_name("a-00001-of-00002.gguf"), facts={"split.no": 0, "split.count": 2})
    with pytest.raises(UserError, match="is one of 2 parts of a model: join them"):
        folder_of_gguf(part)
    more = copy(whole, whole.with_name("more.gguf"), tensors={"blk.0.attn_sub_norm": torch.ones(64)})
    with pytest.raises(UserError, match="has 64 weights that transformers does not read"):
        folder_of_gguf(more)


@pytest.mark.parametrize(
    ("facts", "factors", "how"),
    [
        ({"type": "longrope", "factor": 2.0}, {}, "by longrope"),
        ({"type": "yarn", "factor": 2.0}, {}, "by yarn without original_context_length"),
        ({"type": "linear"}, {}, "by linear without a factor"),
        ({"type": "linear", "factor": 2.0, "attn_factor": 1.5}, {}, "by linear with attn_factor"),
        ({}, {"rope_freqs": torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])}, "by factors"),
        ({}, {"rope_factors_long": torch.ones(8)}, "by rope_factors_long.weight"),
    ],
)
def test_other_scalings_are_refused(
    facts: dict[str, Any], factors: dict[str, torch.Tensor], how: str, whole: Path
) -> None:
    facts = {f"llama.rope.scaling.{name}": value for name, value in facts.items()}
    scaled = copy(whole, whole.with_name("scaled.gguf"), facts=facts, tensors=factors)
    with pytest.raises(UserError, match=f"scaled.gguf scales its positions {how}"):
        folder_of_gguf(scaled)


@pytest.mark.parametrize(
    ("facts", "head", "licence"),
    [
        (
            {
                "license": "other", "license.name": "acme: research #1", "license.link": "https://acme.example/terms",
                "base_model.0.repo_url": "https://huggingface.co/acme/base", "languages": ["zh", "no"],
            },
            {
                "license": "other", "license_name": "acme: research #1", "license_link": "https://acme.example/terms",
                "base_model": ["acme/base"], "language": ["zh", "no"],
            },
            "acme: research #1",
        ),
        ({"license": "mit\nbase_model: evil/x"}, {"license": "mit base_model: evil/x"}, "mit base_model: evil/x"),
        ({"license": "other: research only"}, {"license": "other: research only"}, "other: research only"),
        ({"license": ["mit", "gpl-3.0"]}, {"license": ["mit", "gpl-3.0"]}, "mit, gpl-3.0"),
        ({"license": 5, "languages": 3, "base_model.0.repo_url": "evil"}, {"license": "unknown"}, None),
    ],
)  # fmt: skip
def test_the_card_states_what_the_file_does(tmp_path: Path, facts: Any, head: Any, licence: str | None) -> None:
    """A licence with a line break wrote other keys of the head, a list became its length, and the rest was lost."""
    header = read.Header({f"general.{name}": value for name, value in facts.items()}, 0)
    (tmp_path / "README.md").write_text(read._card(Path("x.gguf"), header), encoding="utf-8")
    assert card_head(tmp_path) == head and stated_licence(head) == licence
