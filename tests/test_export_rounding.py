"""`--to gptq,awq`: AutoRound in an environment of its own writes them; GPTQ is read back, of AWQ nothing is claimed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.export.environments import tool_environment
from carellama.export.rounding import calibration_windows, group_size
from conftest import make_model
from exporting import export
from reader_environments import linked_tools


def test_calibration_is_medical_text_in_pieces_of_one_length(tiny_tokenizer) -> None:
    windows = calibration_windows(tiny_tokenizer)
    assert 8 <= len(windows) <= 128 and {len(one) for one in windows} == {256}
    text = tiny_tokenizer.decode([token for one in windows for token in one])
    assert "皮疹" in text and "High blood pressure" in text


@pytest.mark.parametrize(("hidden", "size"), [(256, 128), (192, 64), (96, 32)])
def test_groups_divide_every_row(tmp_path, hidden, size) -> None:
    make_model(hidden_size=hidden, intermediate_size=2 * hidden).save_pretrained(tmp_path)
    assert group_size(tmp_path) == size


def test_rows_that_no_group_divides_are_refused(tmp_path) -> None:
    make_model(hidden_size=80, intermediate_size=160).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="rows of 80, 160 weights do not divide into groups of 32"):
        group_size(tmp_path)


@pytest.mark.slow
def test_gptq_is_read_back_and_awq_says_that_it_is_not(tiny_tokenizer, tmp_path, capsys) -> None:
    try:
        with linked_tools():
            tool_environment("auto-round")
    except UserError as error:
        pytest.skip(str(error))
    base = tmp_path / "base"
    make_model(hidden_size=128, intermediate_size=256, num_hidden_layers=1).save_pretrained(base)
    tiny_tokenizer.save_pretrained(base)
    done = export(ModelOptions(str(base), dtype="float32"), "vicuna", tmp_path / "out", to="gptq,awq")
    (row,) = done.rows
    assert row.form == "gptq" and "transformers" in row.reader and row.end_tokens_equal and row.ids_equal
    assert row.kl_mean is not None and 0 < row.kl_mean < 0.01  # other weights, nearly the same answers
    said, out = capsys.readouterr().err, tmp_path / "out"
    assert "awq: not read back and not compared" in said
    for name, method in (("gptq", "gptq"), ("awq", "awq")):
        config = json.loads((out / name / "config.json").read_text())
        assert config["quantization_config"]["quant_method"] == method
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "awq: not read back" in card and "gptq: 4 bits × 7, float32 × 5; groups of 128, 50 steps" in card
    assert str(tmp_path) not in card + Path(out / "gptq" / "config.json").read_text()
