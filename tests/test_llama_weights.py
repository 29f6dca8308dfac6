"""`carellama convert llama`: sharded originals give the logits of the original; what is broken is named."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

import preloaded
from carellama.errors import UserError
from carellama.model import llama_weights
from carellama.model.llama_weights import convert, main
from conftest import CORPUS

GOLDEN = "发烧三天了怎么办？  What helps?\n\n  No 120/80😷 pH<pKa"
IDS = torch.tensor([[1, 300, 5, 77, 12, 260, 9, 9, 41, 2]])


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.model with the settings of LLaMA's."""
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "corpus.txt").write_text("\n".join(CORPUS * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=420, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, minloglevel=2,
    )  # fmt: skip
    return folder / "tokenizer.model"


def whole(params: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights by their original names."""
    torch.manual_seed(seed)
    dim, hidden, keys = params["dim"], 96, params["dim"] // params["n_heads"] * params["n_kv_heads"]
    sizes = {
        "attention.wq": (dim, dim), "attention.wk": (keys, dim), "attention.wv": (keys, dim),
        "attention.wo": (dim, dim),
        "feed_forward.w1": (hidden, dim), "feed_forward.w2": (dim, hidden), "feed_forward.w3": (hidden, dim),
        "attention_norm": (dim,), "ffn_norm": (dim,),
    }  # fmt: skip
    found = {"tok_embeddings.weight": torch.randn(420, dim), "output.weight": torch.randn(420, dim) / 8}
    found |= {"norm.weight": torch.rand(dim) + 0.5, "rope.freqs": torch.ones(4)}
    for layer in range(params["n_layers"]):
        for name, size in sizes.items():
            weight = torch.randn(size) / 8 if len(size) > 1 else torch.rand(size) + 0.5
            found[f"layers.{layer}.{name}.weight"] = weight
    return found


def write_original(folder: Path, pieces: Path, shards: int, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a download of so many shards, as fairscale's parallel layers divide it; return params and weights."""
    params = {"dim": 64, "n_layers": 2, "n_heads": 8, "n_kv_heads": 8, "norm_eps": 1e-5, "vocab_size": -1} | changes
    weights = whole(params)
    inner = folder / "weights"
    inner.mkdir(parents=True)
    by_columns = ("wo.weight", "w2.weight", "tok_embeddings.weight")
    for number in range(shards):
        part = {}
        for name, weight in weights.items():
            divided = weight.dim() > 1
            axis = 1 if name.endswith(by_columns) else 0
            part[name] = weight.chunk(shards, axis)[number].clone().half() if divided else weight.half()
        torch.save(part, inner / f"consolidated.{number:02d}.pth")
    stated = {key: value for key, value in params.items() if key != "n_kv_heads" or value != params["n_heads"]}
    (inner / "params.json").write_text(json.dumps(stated))
    (folder / "tokenizer.model").write_bytes(pieces.read_bytes())
    return params, {name: weight.half().float() for name, weight in weights.items()}


def original_logits(params: dict[str, Any], weights: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """The forward pass as the released model defines it, with complex rotary positions: (1, T) -> (T, V)."""
    heads, keys = params["n_heads"], params["n_kv_heads"]
    head, length = params["dim"] // heads, ids.shape[1]

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + params["norm_eps"]) * weight

    angles = torch.outer(
        torch.arange(length).float(), params.get("rope_theta", 1e4) ** -(torch.arange(0, head, 2).float() / head)
    )
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]  # (T, 1, d/2)

    def rotate(x: torch.Tensor) -> torch.Tensor:  # (T, heads, d)
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns).flatten(2)

    h = weights["tok_embeddings.weight"][ids[0]]
    mask = torch.full((length, length), float("-inf")).triu(1)
    for layer in range(params["n_layers"]):
        w = {name.split(".", 2)[2]: value for name, value in weights.items() if name.startswith(f"layers.{layer}.")}
        x = norm(h, w["attention_norm.weight"])
        q = rotate((x @ w["attention.wq.weight"].T).view(length, heads, head))
        k = rotate((x @ w["attention.wk.weight"].T).view(length, keys, head)).repeat_interleave(heads // keys, 1)
        v = (x @ w["attention.wv.weight"].T).view(length, keys, head).repeat_interleave(heads // keys, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / head**0.5 + mask
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(length, -1)
        h = h + mixed @ w["attention.wo.weight"].T
        x = norm(h, w["ffn_norm.weight"])
        gate = functional.silu(x @ w["feed_forward.w1.weight"].T) * (x @ w["feed_forward.w3.weight"].T)
        h = h + gate @ w["feed_forward.w2.weight"].T
    return norm(h, weights["norm.weight"]) @ weights["output.weight"].T


@pytest.mark.parametrize(
    ("size", "shards", "changes"),
    [
        ("7B", 1, {"norm_eps": 1e-6}),
        ("13B", 2, {}),
        ("70B", 8, {"n_kv_heads": 8, "n_heads": 16}),
        ("65B", 8, {"n_heads": 8}),
        ("34B", 4, {"n_kv_heads": 4, "rope_theta": 1000000}),
    ],
)
def test_the_logits_are_those_of_the_original(size, shards, changes, pieces, tmp_path) -> None:
    params, weights = write_original(tmp_path / "in", pieces, shards, **changes)
    (tmp_path / "in" / "weights").rename(tmp_path / "in" / size)
    convert(tmp_path / "in", size, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=IDS).logits[0], original_logits(params, weights, IDS), atol=2e-4, rtol=1e-4
        )
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == "float16" and config["rope_theta"] == changes.get("rope_theta", 10000.0)
    assert config["max_position_embeddings"] == (2048 if size in ("7B", "65B") else 4096)
    assert config["num_key_value_heads"] == params["n_kv_heads"] and config["eos_token_id"] == 2
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == params["n_layers"] + 1  # one layer at a time
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_the_tokenizer_is_that_of_the_original(pieces, tmp_path) -> None:
    write_original(tmp_path / "in", pieces, 1)
    convert(tmp_path / "in" / "weights", "7B", tmp_path / "out")  # tokenizer.model stands beside the folder
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    plain = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    assert tokenizer(GOLDEN)["input_ids"] == [plain.bos_id(), *plain.encode(GOLDEN)]
    assert tokenizer.decode(tokenizer(GOLDEN)["input_ids"], skip_special_tokens=True) == GOLDEN
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


def test_what_is_missing_or_broken_is_named(pieces, tmp_path) -> None:
    source = tmp_path / "in"
    write_original(source, pieces, 2)
    (source / "weights").rename(source / "13B")
    inner = source / "13B"

    def refused(match: str, size: str = "13B") -> None:
        with pytest.raises(UserError, match=match):
            convert(source, size, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    refused(r"no params.json for --model_size 7B.*there is 13B", "7B")
    (inner / "consolidated.01.pth").rename(inner / "aside")
    refused(r"lacks consolidated.01.pth: 13B has 2 shards")
    (inner / "aside").rename(inner / "consolidated.01.pth")
    tokenizer = (source / "tokenizer.model").read_bytes()
    (source / "tokenizer.model").unlink()
    refused("no tokenizer.model")
    (source / "tokenizer.model").write_bytes(b"<html>404</html>")
    refused("not a SentencePiece model")
    (source / "tokenizer.model").write_bytes(tokenizer)
    stated = (inner / "params.json").read_text()
    for text, match in (
        (stated[:20], "cannot be read"),
        ("[]", "not a JSON object"),
        (json.dumps(json.loads(stated) | {"n_layers": "2"}), "n_layers is '2'"),
        (json.dumps(json.loads(stated) | {"n_heads": 7}), "do not divide"),
        (json.dumps(json.loads(stated) | {"dim": 4096, "n_layers": 32}), "is of 7B, not of 13B"),
        (json.dumps(json.loads(stated) | {"n_layers": 3}), r"lacks layers.2.attention.wq.weight"),
        (json.dumps(json.loads(stated) | {"n_heads": 4, "n_kv_heads": 2}), r"layers.0.attention.wk is \(64, 64\)"),
    ):
        (inner / "params.json").write_text(text)
        refused(match)
    (inner / "params.json").write_text(stated)
    second = (inner / "consolidated.01.pth").read_bytes()
    (inner / "consolidated.01.pth").write_bytes(second[: len(second) // 2])
    refused("damaged or cut short")
    (inner / "consolidated.01.pth").write_bytes(second)
    for number in (2, 3):
        (inner / f"consolidated.{number:02d}.pth").write_bytes(second)
    refused("has 4 shards, and 13B has 2")


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def test_no_code_of_a_pickle_runs(pieces, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_original(tmp_path / "in", pieces, 1)
    torch.save({"tok_embeddings.weight": Trap()}, tmp_path / "in/weights/consolidated.00.pth")
    with pytest.raises(UserError, match="could run code"):
        convert(tmp_path / "in/weights", "7B", tmp_path / "out")
    (tmp_path / "in/weights/consolidated.00.pth").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match=r"could run code|damaged"):
        convert(tmp_path / "in/weights", "7B", tmp_path / "out")
    assert not (tmp_path / "trapped").exists() and not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing(pieces, tmp_path, monkeypatch) -> None:
    write_original(tmp_path / "in", pieces, 1)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(UserError, match="GB free"):
            convert(tmp_path / "in/weights", "7B", tmp_path / "out")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(llama_weights, "_write_tokenizer", fail)
    with pytest.raises(UserError, match="No space left"):
        convert(tmp_path / "in/weights", "7B", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_only_an_older_model_is_written_over(pieces, tmp_path, capsys) -> None:
    write_original(tmp_path / "in", pieces, 1)
    words = ["--input_dir", str(tmp_path / "in/weights"), "--model_size", "7B", "--output_dir", str(tmp_path / "out")]
    main(words)
    assert "converted to" in capsys.readouterr().out
    with pytest.raises(UserError, match="--overwrite_output_dir"):
        main(words)
    main([*words, "--overwrite_output_dir", "true"])
    (tmp_path / "in/config.json").write_text("{}")
    with pytest.raises(UserError, match="which is read"):
        main([*words[:-1], str(tmp_path / "in"), "--overwrite_output_dir", "true"])


@pytest.mark.slow
def test_the_command_line_answers_in_one_line(tmp_path) -> None:
    command = [preloaded.python(), "-m", "carellama", "convert", "llama"]
    done = subprocess.run(
        [*command, "--input_dir", str(tmp_path / "none"), "--model_size", "7B", "--output_dir", str(tmp_path / "out")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "there is no such folder" in done.stderr
    asked = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert "--model_size" in asked.stdout and "7B" in asked.stdout
