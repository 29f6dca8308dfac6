"""Every command that reads a checkpoint uses the chat format that it was trained with, or says that it does not."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from carellama.config.data import DataOptions
from carellama.config.engine import EngineOptions
from carellama.config.model import ModelOptions
from carellama.engine import load as choose
from carellama.run_record import as_trained, template_for


def adapter(folder: Path, template: str | None, stage: str = "sft", **model: object) -> str:
    folder.mkdir(parents=True)
    settings = {"data": {"template": template}, "model": {"rope_scaling": None} | model}
    (folder / "run.json").write_text(json.dumps({"stage": stage, "settings": settings}))
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "m"}')
    return str(folder)


def test_the_template_of_the_last_checkpoint_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fault P5: `web --template llama2` on an adapter of another template answered nonsense without a warning."""
    first, last = adapter(tmp_path / "a", "llama2"), adapter(tmp_path / "b", "chatml")
    model = ModelOptions("m", checkpoint_dir=f"{first},{last}")
    with caplog.at_level(logging.INFO, logger="carellama"):
        assert template_for(model, None) == "chatml" and "template chatml" in caplog.text
        caplog.clear()
        assert template_for(model, "chatml") == "chatml" and not caplog.text
        assert template_for(model, "llama2") == "llama2"
    assert f"{last} was trained with --template chatml and is used with --template llama2" in caplog.text
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_the_tokenizers_own_format_counts_as_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own, text = adapter(tmp_path / "own", None), adapter(tmp_path / "pt", "llama2", stage="pt")
    with caplog.at_level(logging.INFO, logger="carellama"):
        assert template_for(ModelOptions("m", checkpoint_dir=own), None) is None
        assert template_for(ModelOptions("m", checkpoint_dir=text), "vicuna") == "vicuna", "plain text has no format"
        assert template_for(ModelOptions("m"), "vicuna") == "vicuna"
        assert template_for(ModelOptions("m", checkpoint_dir=str(tmp_path / "none")), None) is None
        assert not caplog.text
        template_for(ModelOptions("m", checkpoint_dir=own), "vicuna")
    assert "was trained with the tokenizer's own chat format and is used with --template vicuna" in caplog.text


def test_a_checkpoint_of_a_step_and_adapters_beside_each_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output, other = adapter(tmp_path / "out", "qwen"), adapter(tmp_path / "other", "llama3")
    (tmp_path / "out/checkpoint-5").mkdir()
    with caplog.at_level(logging.INFO, logger="carellama"):
        assert template_for(ModelOptions("m", checkpoint_dir=f"{output}/checkpoint-5"), None) == "qwen"
        assert template_for(ModelOptions("m"), None, [output, other]) == "qwen"
    assert f"{other} was trained with --template llama3" in caplog.text


def test_other_positions_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The sibling of P5: a model that was trained with stretched positions and asked without them."""
    folder = adapter(tmp_path / "a", None, rope_scaling="linear", rope_factor=2.0)
    same = ModelOptions("m", checkpoint_dir=folder, rope_scaling="linear")
    as_trained(same, DataOptions())
    assert not caplog.text
    as_trained(ModelOptions("m", checkpoint_dir=folder), DataOptions())
    assert "trained with --rope_scaling linear --rope_factor 2.0, used with None None" in caplog.text


@pytest.mark.parametrize("engine", ["auto", "transformers", "llamacpp", "openvino"])
def test_every_engine_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    given: list[DataOptions] = []
    monkeypatch.setattr(choose, "load", lambda name, model, data, *rest: given.append(data))
    model = ModelOptions("m", checkpoint_dir=adapter(tmp_path / "a", "vicuna"))
    choose.choose(model, DataOptions(), EngineOptions(engine=engine))
    assert [data.template for data in given] == ["vicuna"]


def test_training_on_top_and_the_export_keep_the_template(
    tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from carellama.config.reader import to_flags
    from carellama.train import run as runs
    from carellama.train.options import run_options
    from exporting import export

    data = tmp_path / "rows.json"
    data.write_text(json.dumps([{"instruction": "I cough.", "input": "", "output": "Rest."}] * 4), encoding="utf-8")
    given = {
        "model_name_or_path": tiny_folder, "dataset": data, "do_train": True, "max_steps": 1, "bf16": False,
        "report_to": "none", "data_cache_dir": tmp_path / "cache", "skip_plan": True, "save_strategy": "no",
    }  # fmt: skip
    runs.run(run_options(to_flags(given | {"output_dir": tmp_path / "a", "template": "vicuna"})))
    below = {"checkpoint_dir": tmp_path / "a"}
    runs.run(run_options(to_flags(given | below | {"output_dir": tmp_path / "b"})))
    record = json.loads((tmp_path / "b/run.json").read_text())
    assert record["used"]["template"] == "vicuna" and "template" not in record["asked"]
    with caplog.at_level(logging.WARNING, logger="carellama"):
        runs.run(run_options(to_flags(given | below | {"output_dir": tmp_path / "c", "template": "alpaca"})))
    assert "was trained with --template vicuna and is used with --template alpaca" in caplog.text
    answered = ModelOptions(str(tiny_folder), checkpoint_dir=str(tmp_path / "b"))
    export(answered, None, tmp_path / "exported")
    assert "USER:" in (tmp_path / "exported/chat_template.jinja").read_text()
