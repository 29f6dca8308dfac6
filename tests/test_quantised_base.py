"""A LoRA of a 4-bit base: both merges are measured against what was trained, and the nearer one is kept and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from carellama.config.model import ModelOptions
from carellama.export import quantised_base
from carellama.export.quantised_base import better_base
from carellama.model.load import load_model
from carellama.model.tokenizer import load_tokenizer
from conftest import make_model
from exporting import export
from test_adapter_merge import make_adapter

pytest.importorskip("bitsandbytes")


def trained(folder: Path, base: Path, bits: int | None) -> ModelOptions:
    make_adapter(folder, 1, 4, ["q_proj", "v_proj"])
    record = {"base_model": base.name, "settings": {"model": {"quantization_bit": bits}, "data": {}}, "data": []}
    (folder / "run.json").write_text(json.dumps(record))
    return ModelOptions(str(base), checkpoint_dir=str(folder), dtype="float32")


def test_the_rounded_base_is_kept_where_the_adapter_was_trained_on_it(tiny_folder, tmp_path, capsys) -> None:
    model = trained(tmp_path / "adapter", tiny_folder, 4)
    base = load_model(model, dtype="float32", attention=None)
    chosen, note = better_base(model, base, load_tokenizer(model))
    assert note is not None and "merged into the base rounded to 4 bits: KL divergence" in str(note)
    assert str(note) in capsys.readouterr().err
    layer = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(chosen.state_dict()[layer], base.state_dict()[layer])
    assert torch.equal(base.state_dict()[layer], make_model().state_dict()[layer])  # which stays as it was


def test_the_original_base_is_kept_where_it_is_nearer(tiny_folder, tmp_path, monkeypatch) -> None:
    model = trained(tmp_path / "adapter", tiny_folder, 4)
    figures = iter([0.1, 0.2])
    monkeypatch.setattr(quantised_base, "_divergence", lambda *_: next(figures))
    base = load_model(model, dtype="float32", attention=None)
    chosen, note = better_base(model, base, load_tokenizer(model))
    assert chosen is base and note is not None and "merged into the original base" in str(note)


@pytest.mark.parametrize("bits", [None, 8])
def test_other_trainings_keep_their_base(tiny_folder, tmp_path, bits) -> None:
    model = trained(tmp_path / "adapter", tiny_folder, bits)
    base = load_model(model, dtype="float32", attention=None)
    assert better_base(model, base, load_tokenizer(model)) == (base, None)


def test_the_card_names_the_base_that_was_kept(tiny_folder, tmp_path) -> None:
    done = export(trained(tmp_path / "adapter", tiny_folder, 4), "vicuna", tmp_path / "out")
    assert done.rows[0].greedy_equal == 32
    assert "merged into the base rounded to 4 bits" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
