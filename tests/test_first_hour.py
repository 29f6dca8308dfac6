"""What a newcomer meets in the first hour: options that do nothing, errors that come late or name the wrong thing."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from carellama import demo
from carellama.config.finetuning import FinetuningOptions
from carellama.config.help import training_help
from carellama.config.model import ModelOptions
from carellama.config.run import OUTPUT, RUN_OPTIONS, UNREAD
from carellama.errors import UserError
from carellama.model import load
from carellama.model.adapter_plan import plan_adapters
from carellama.model.load import load_model
from carellama.model.lora import TRAINED_ADAPTER
from carellama.model.meta import apply_adapters_meta, meta_model
from carellama.model.tokenizer import load_tokenizer
from carellama.model.zoo import resolve
from carellama.package_data import package_yaml
from carellama.records import Chat, Pair, Question, Text
from carellama.stages import STAGES, other_records
from carellama.train import run as runs
from carellama.train.arguments import build_arguments
from carellama.train.options import run_options

HERE = Path(__file__).resolve().parent.parent
TRAIN = "--do_train --model_name_or_path m --dataset d --bf16 false --report_to none".split()


def small(folder: Path, out: Path, *words: object) -> list[str]:
    data = ["--dataset_dir", str(HERE / "data"), "--max_samples", "4", "--bf16", "false", "--report_to", "none"]
    return ["--model_name_or_path", str(folder), "--output_dir", str(out), *data, *map(str, words)]


def test_a_training_at_a_rate_of_0_is_refused() -> None:
    """It was accepted with a line, though the page says that such a number is refused."""
    with pytest.raises(UserError, match=r"--learning_rate is 0.*above 0"):
        run_options([*TRAIN, "--learning_rate", "0"])
    run_options(["--do_eval", *TRAIN[1:], "--learning_rate", "0"])  # nothing is learned anyway


def test_flash_attention_without_its_package_is_answered_before_the_data(monkeypatch) -> None:
    """The data were read, and then an error named a cached copy of the model."""
    monkeypatch.setattr("carellama.train.checks.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"flash-attn.*not installed.*--attention auto"):
        run_options([*TRAIN, "--flash_attn", "fa2"])


def test_a_message_names_the_model_as_it_was_given(monkeypatch, tiny_folder: Path, tmp_path: Path) -> None:
    """cannot load the model of a cache folder: the copy of a model that was given as a name."""
    copy = tmp_path / "cached"
    copy.mkdir()
    for file in tiny_folder.iterdir():
        if file.suffix != ".safetensors":
            (copy / file.name).write_bytes(file.read_bytes())
    (copy / "model.safetensors").write_bytes(b"damaged")
    (copy / "tokenizer.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(load, "model_folder", lambda *_, **__: copy)
    model = ModelOptions(model_name_or_path="smollm2-135m")
    for act in (lambda: load_tokenizer(model), lambda: load_model(model, dtype="float32", attention=None)):
        with pytest.raises(UserError, match="of smollm2-135m: ") as found:
            act()
        assert "Did you mean" not in str(found.value)
        assert str(copy) not in str(found.value).replace(str(copy / "model.safetensors"), "")  # the file to fetch again


def test_the_base_of_a_resumed_adapter_has_its_name_in_the_estimate(monkeypatch, tiny_folder: Path, tmp_path) -> None:
    """peft warned that the base "was renamed" from its id to the folder of the cached copy."""
    monkeypatch.setattr(load, "model_folder", lambda *_, **__: tiny_folder)
    model = ModelOptions(model_name_or_path="smollm2-135m")
    first = apply_adapters_meta(
        meta_model(model, dtype="float32", attention=None), plan_adapters(model, FinetuningOptions())
    )
    config = first.peft_config[TRAINED_ADAPTER]
    assert config.base_model_name_or_path == "HuggingFaceTB/SmolLM2-135M-Instruct"
    config.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = ModelOptions(model_name_or_path="smollm2-135m", checkpoint_dir=str(tmp_path))
        network = meta_model(resumed, dtype="float32", attention=None)
        apply_adapters_meta(network, plan_adapters(resumed, FinetuningOptions()))


@pytest.mark.parametrize("command", [runs.evaluate, runs.predict])
def test_eval_dataset_is_the_data_of_eval_and_predict(command, tiny_folder: Path, tmp_path: Path) -> None:
    """The settings of LLaMA-Factory's predict have eval_dataset alone: no data: give --dataset NAME."""
    words = ("--eval_dataset", "consult_en_heldout", "--max_eval_samples", "2", "--max_new_tokens", "2")
    command(small(tiny_folder, tmp_path / "out", *words))
    made = (tmp_path / "out/generated_predictions.jsonl", tmp_path / "out/eval_results.json")
    assert any(file.exists() for file in made)
    with pytest.raises(UserError, match="no data: give --dataset"):
        runs.train(small(tiny_folder, tmp_path / "other", *words))


@pytest.mark.parametrize(
    ("stage", "kind", "takes"), [("dpo", Chat, "sft"), ("sft", Pair, "dpo"), ("pt", Question, "grpo")]
)
def test_data_of_another_kind_name_data_and_stages_that_fit(stage: str, kind: type, takes: str) -> None:
    said = other_records(STAGES[stage], kind, "rows")
    assert STAGES[stage].record_label in said and STAGES[stage].example in said and takes in said
    assert all(issubclass(kind, STAGES[name].records) for name in re.split(", | or ", said.rpartition("--stage ")[2]))
    assert all(other_records(one, other, "") for one in STAGES.values() for other in (Text, Chat, Pair, Question))


def test_conversations_are_no_pairs_and_skipping_them_is_no_advice(tiny_folder: Path, tmp_path: Path) -> None:
    """The hint was --on_bad_record skip, which leaves all rows out."""
    with pytest.raises(UserError, match="these rows are conversations: give data such as preference_en") as found:
        runs.train(small(tiny_folder, tmp_path, "--stage", "dpo", "--dataset", "consult_en", "--max_steps", 1))
    assert "on_bad_record" not in str(found.value)


@pytest.mark.parametrize("verb", ["eval", "predict"])
def test_help_of_a_command_that_trains_nothing_has_no_options_of_training(verb: str) -> None:
    """It had 179 lines, with --learning_rate and --neftune_noise_alpha."""
    shown = set(re.findall(r"^  --(\w+)", training_help(RUN_OPTIONS, f"carellama {verb}", "sft"), re.MULTILINE))
    assert not shown & UNREAD[verb] and {"dataset", "eval_dataset", "per_device_eval_batch_size"} <= shown
    assert ("max_new_tokens" in shown) == (verb == "predict")
    assert "--learning_rate" in training_help(RUN_OPTIONS, f"carellama {verb}", "sft", every=True)
    assert "--max_new_tokens" in training_help(RUN_OPTIONS, "carellama eval", "ppo")


def test_help_names_the_default_of_the_output_folder() -> None:
    """A training without --output_dir wrote into trainer_output, which no help named."""
    for verb, folder in OUTPUT.items():
        assert f"Default: {folder}." in " ".join(training_help(RUN_OPTIONS, f"carellama {verb}", "sft").split())
        assert f"/{folder}/" in (HERE / ".gitignore").read_text(encoding="utf-8")
    assert build_arguments(RUN_OPTIONS[-1](), {}).output_dir == OUTPUT["train"]


def test_the_demo_asks_for_nothing_without_effect_and_for_the_terms_first(monkeypatch, tmp_path: Path) -> None:
    """It warned of options that it had written itself, and named the terms after the first step."""
    steps = {step["verb"]: step["options"] for step in package_yaml("demo.yaml")["steps"]}
    assert "overwrite_output_dir" not in steps["eval"]
    monkeypatch.setattr(resolve, "model_home", lambda: tmp_path / "none")
    with pytest.raises(UserError, match="terms of its own"):
        demo.run(["--language", "zh", "--output_dir", str(tmp_path / "demo")])
    assert not (tmp_path / "demo").exists()


def test_an_example_in_a_pipe_has_no_colours(tiny_folder: Path, tmp_path: Path, capsys) -> None:
    words = ("--dataset", "consult_en", "--max_steps", 1, "--show_example", "--finetuning_type", "full", "--skip_plan")
    runs.train(small(tiny_folder, tmp_path / "out", *words))
    shown = capsys.readouterr().err
    assert "\033" not in shown and "[[" in shown and "]]" in shown
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert card.count("- base:") == 1, "two lines said base:"
