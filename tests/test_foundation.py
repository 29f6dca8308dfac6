"""An adapter belongs to the weights that it was trained on: run.json names them, and other ones are refused or said."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from carellama.config.data import DataOptions, PromptOptions
from carellama.config.engine import EngineOptions
from carellama.config.model import ModelOptions
from carellama.config.reader import to_flags
from carellama.engine.load import choose
from carellama.errors import UserError
from carellama.run_record import as_trained, read_run
from carellama.train import run as runs
from carellama.train.options import run_options
from carellama.train.reward.model import adapter_chain
from carellama.weights import base_fingerprint, fingerprint
from conftest import make_model
from exporting import export


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder with models: base, adapter `first`, `second` on first, whole weights `full` and `upper` on them."""
    home = tmp_path_factory.mktemp("trained")
    rows = [{"instruction": f"Question {n}?", "output": f"Answer {n}."} for n in range(6)]
    (home / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    shutil.copytree(tiny_folder, home / "base")
    shutil.copytree(tiny_folder, home / "other")
    make_model(seed=5).save_pretrained(home / "other")
    train(home, "first")
    train(home, "second", checkpoint_dir=home / "first", resume_lora_training=False)
    train(home, "full", finetuning_type="full", learning_rate=1e-2)
    train(home, "upper", checkpoint_dir=home / "full")
    return home


def train(home: Path, name: str, **options: object) -> None:
    given = {
        "model_name_or_path": home / "base", "dataset": home / "rows.json", "output_dir": home / name, "max_steps": 1,
        "data_cache_dir": home / "cache", "do_train": True, "bf16": False, "report_to": "none", "skip_plan": True,
        "save_steps": 1,
    }  # fmt: skip
    runs.run(run_options(to_flags(given | options)))


def model(home: Path, base: str, *checkpoints: str) -> ModelOptions:
    folders = ",".join(str(home / name) for name in checkpoints)
    return ModelOptions(str(home / base), checkpoint_dir=folders or None)


def test_a_training_records_what_it_began_from(trained: Path) -> None:
    record = read_run(trained / "second")
    assert record is not None
    names = [Path(one["name"]).name for one in record["used"]["foundation"]]
    digests = [one["weights"] for one in record["used"]["foundation"]]
    assert names == ["base", "first"] and digests == [fingerprint(trained / name) for name in names]


@pytest.mark.parametrize(("adapter", "below"), [("second", "first"), ("upper", "full")])
def test_an_adapter_without_the_checkpoints_below_it_is_refused(trained: Path, adapter: str, below: str) -> None:
    """It was put on the base alone: perplexity 408 instead of 194, without a word."""
    alone = model(trained, "base", adapter)
    needed = f"alone: give --checkpoint_dir {trained / below},{trained / adapter}"
    with pytest.raises(UserError, match=needed):
        as_trained(alone, PromptOptions())
    with pytest.raises(UserError, match=needed):
        export(alone, None, trained / "exported")
    with pytest.raises(UserError, match=needed):
        choose(alone, PromptOptions(), EngineOptions(engine="transformers"))
    with pytest.raises(UserError, match=needed):
        train(trained, "third", checkpoint_dir=trained / adapter)


@pytest.mark.parametrize(
    "names", [("base", "first"), ("base", "first", "second"), ("base", "full", "upper"), ("other", "full", "upper")]
)
def test_adapters_in_their_place_are_taken_silently(
    trained: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...]
) -> None:
    """Whole weights stand in the place of the base, whichever it is."""
    with caplog.at_level(logging.WARNING, "carellama"):
        as_trained(model(trained, *names), DataOptions())
        as_trained(model(trained, "base", "first/checkpoint-1"), DataOptions())
    assert not caplog.messages


@pytest.mark.parametrize("names", [("other", "first"), ("base", "first", "upper"), ("full", "first")])
def test_another_base_is_refused_with_both_names_unless_it_is_allowed(
    trained: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...]
) -> None:
    """An adapter was put on a model of the same shape and other weights without a word, then with a warning."""
    options = model(trained, *names)
    own = trained / ("full" if names[-1] == "upper" else "base")
    said = f"{trained / names[-1]} was trained on {own}, and {trained / names[0]} has other weights"
    with pytest.raises(UserError, match=f"{said}.*--allow_other_base true"):
        as_trained(options, DataOptions())
    with pytest.raises(UserError, match="has other weights"):
        as_trained(model(trained, "other"), DataOptions(), [str(trained / "first")])
    with caplog.at_level(logging.WARNING, "carellama"):
        as_trained(dataclasses.replace(options, allow_other_base=True), DataOptions())
    assert f"{trained / names[-1]} was trained on {trained / 'base'}" in caplog.text
    assert "which are other weights" in caplog.text and len(caplog.messages) == 1


@pytest.mark.parametrize("form", ["shards", "float16", "another layout of the tokenizer"])
def test_the_same_base_in_other_files_is_known(trained: Path, tmp_path: Path, form: str) -> None:
    """The fingerprint is that of the model, not of its files."""
    shutil.copytree(trained / "base", tmp_path / "base")
    network = AutoModelForCausalLM.from_pretrained(trained / "base")
    if form == "shards":
        network.save_pretrained(tmp_path / "base", max_shard_size="100KB")
        (tmp_path / "base" / "model.safetensors").unlink()
        assert len(list((tmp_path / "base").glob("*.safetensors"))) > 2
    elif form == "float16":
        network.half().save_pretrained(tmp_path / "base")
    else:
        path = tmp_path / "base" / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=7), encoding="utf-8")
    one, other = base_fingerprint(trained / "base"), base_fingerprint(tmp_path / "base")
    assert one and other and one.same_weights(other) and one.tokenizer == other.tokenizer != ""
    assert len(one.tensors) == 4 and (one.tensors == other.tensors) == (
        form != "float16"
    )  # keys and values of two layers
    as_trained(ModelOptions(str(tmp_path / "base"), checkpoint_dir=str(trained / "first")), DataOptions())


@pytest.mark.parametrize("at", [0, 1], ids=["keys", "values"])  # the default --lora_target leaves the keys as they are
def test_one_number_of_the_matrices_makes_another_base(trained: Path, tmp_path: Path, at: int) -> None:
    shutil.copytree(trained / "base", tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    one = base_fingerprint(tmp_path / "base")
    assert one is not None
    name = list(one.tensors)[at]
    weights[name].view(-1)[-1] += 1e-3
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    other = base_fingerprint(tmp_path / "base")
    assert other is not None and not one.same_weights(other)
    assert [key for key in one.tensors if one.tensors[key] != other.tensors[key]] == [name]
    older = [
        dataclasses.replace(it, tensors={key: it.tensors[key] for key in it.tensors if "k_proj" in key})
        for it in (one, other)
    ]
    assert older[0].same_weights(one) and one.same_weights(older[0]) and older[1].same_weights(one) is bool(at)
    (tmp_path / "base" / "model.safetensors").write_bytes(b"\xff" * 20)
    assert base_fingerprint(tmp_path / "base") is None


def test_a_second_reward_adapter_brings_the_first_along(trained: Path, tmp_path: Path) -> None:
    """One that was trained on a merged reward adapter (--resume_lora_training false) was loaded without it."""
    names = {"rm": ["first"], "rm2": ["first", "rm"]}
    for name, below in names.items():
        entries = [
            {"name": str(place), "weights": None, "whole": False} for place in [trained, *map(tmp_path.joinpath, below)]
        ]
        for folder in [name, *below]:
            (tmp_path / folder).mkdir(exist_ok=True)
        given = {"model": {"checkpoint_dir": ",".join(str(tmp_path / one) for one in below)}}
        record = {"settings": given, "used": {"foundation": entries}}
        (tmp_path / name / "run.json").write_text(json.dumps(record), encoding="utf-8")
        (tmp_path / name / "adapter_config.json").write_text('{"task_type": "SEQ_CLS"}', encoding="utf-8")
    assert adapter_chain(str(tmp_path / "rm2")) == [tmp_path / name for name in ("first", "rm", "rm2")]


def test_a_run_of_an_earlier_version_is_not_refused(trained: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(trained / "second", old)
    record = json.loads((old / "run.json").read_text(encoding="utf-8"))
    del record["used"]["foundation"]
    (old / "run.json").write_text(json.dumps(record), encoding="utf-8")
    data = DataOptions()
    assert as_trained(ModelOptions(str(trained / "base"), checkpoint_dir=str(old)), data) == data


def test_a_run_is_not_resumed_on_other_weights(trained: Path, tmp_path: Path) -> None:
    """Another base in the folder of the first one was taken for it."""
    home = tmp_path / "home"
    shutil.copytree(trained, home)
    train(home, "run")
    (home / "run" / "train_results.json").unlink()
    make_model(seed=5).save_pretrained(home / "base")
    with pytest.raises(UserError, match=f"cannot be resumed: weights of {home / 'base'} are not those"):
        train(home, "run")


def foreign(adapter: Path, **says: object) -> Path:
    """The adapter as another program saves it: without run.json."""
    (adapter / "run.json").unlink()
    about = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps(about | says), encoding="utf-8")
    return adapter


def test_an_adapter_without_a_record_is_compared_with_the_base_that_it_names(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another program was put on any base of that shape without a word."""
    adapter = tmp_path / "adapter"
    shutil.copytree(trained / "first", adapter, ignore=shutil.ignore_patterns("checkpoint-*"))
    foreign(adapter, base_model_name_or_path=str(trained / "base"))
    options = ModelOptions(str(trained / "other"), checkpoint_dir=str(adapter))
    said = f"{adapter} was trained on {trained / 'base'}, and {trained / 'other'} has other weights"
    with pytest.raises(UserError, match=f"{said}.*--allow_other_base true"):
        as_trained(options, PromptOptions())
    with pytest.raises(UserError, match=said):
        as_trained(ModelOptions(options.model_name_or_path), PromptOptions(), [str(adapter)])
    with pytest.raises(UserError, match=f"{adapter} was trained on .*, and {trained / 'full'} has other weights"):
        as_trained(model(trained, "base", "full", str(adapter)), PromptOptions())
    with caplog.at_level(logging.WARNING, "carellama"):
        as_trained(model(trained, "base", str(adapter)), PromptOptions())
        monkeypatch.chdir(trained)
        as_trained(ModelOptions("base", checkpoint_dir=str(adapter)), PromptOptions())
        assert not caplog.messages
        as_trained(dataclasses.replace(options, allow_other_base=True), PromptOptions())
    assert len(caplog.messages) == 1 and "which are other weights" in caplog.text


@pytest.mark.parametrize(("named", "shown"), [("lab/elsewhere", "lab/elsewhere"), (None, "none")])
def test_a_base_that_cannot_be_checked_is_said_with_both_names(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, named: str | None, shown: str
) -> None:
    shutil.copytree(trained / "first", tmp_path / "adapter")
    adapter = foreign(tmp_path / "adapter", base_model_name_or_path=named)
    with caplog.at_level(logging.WARNING, "carellama"):
        as_trained(model(trained, "base", str(adapter)), PromptOptions())
    (said,) = caplog.messages
    assert said.startswith(
        f"the base of {adapter} could not be checked: its adapter_config.json names {shown}, and it is put on "
        f"{trained / 'base'}; "
    )
    caplog.clear()  # what the list of models says of an adapter that was fetched by name counts more
    (adapter / "pulled.json").write_text(json.dumps({"base": {"repo": str(trained / "base")}}), encoding="utf-8")
    as_trained(model(trained, "base", str(adapter)), PromptOptions())
    with pytest.raises(UserError, match="has other weights"):
        as_trained(model(trained, "other", str(adapter)), PromptOptions())
    assert not caplog.messages


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("[]", r"holds \[\], not names with values"),
        ('{"settings": []}', r"settings is \[\], not names"),
        ('{"settings": {"data": "x"}}', "settings.data is 'x', not names"),
        ('{"used": null}', "used is None, not names"),
        ('{"data": {}}', "data is {}, not a list"),
        ('{"used": {"foundation": [1]}}', r"used.foundation is \[1\], not a list of entries"),
        ('{"used": {"foundation": [{}]}}', "lacks name, weights or whole"),
        ('{"stage": ["sft"]}', r"stage is \['sft'\], not one of pt, "),
    ],
)
def test_a_run_json_of_another_form_is_one_line(tmp_path: Path, record: str, said: str) -> None:
    """Each ended a command that reads checkpoints in a traceback."""
    (tmp_path / "run.json").write_text(record, encoding="utf-8")
    with pytest.raises(UserError, match=f"^{tmp_path / 'run.json'} .*{said}"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"run\.json: it is not UTF-8 text"):
        read_run(tmp_path)


def test_a_fingerprint_is_that_of_the_weights(tmp_path: Path, tiny_folder: Path) -> None:
    """One number in one of the tensors is seen where it lies in the piece that is read; copies are the same."""
    folder = tmp_path / "copy"
    shutil.copytree(tiny_folder, folder)
    assert fingerprint(folder) == fingerprint(tiny_folder) is not None
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[-1]
    weights[name].view(-1)[weights[name].numel() // 2] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(folder) != fingerprint(tiny_folder)
    assert fingerprint("someone/a-model-of-a-hub") is None
    (folder / "model.safetensors").write_bytes(b"\xff" * 20)
    assert fingerprint(folder) is None
