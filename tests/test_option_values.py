"""What options take: texts as they are written, numbers within bounds, nothing empty, nothing that contradicts."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from carellama.config.commands import EXPORT_OPTIONS, AskOptions
from carellama.config.data_commands import CleanOptions
from carellama.config.engine import EngineOptions, GenerationOptions
from carellama.config.options import option_types
from carellama.config.reader import parse_options
from carellama.config.serve import CHAT_OPTIONS
from carellama.config.yaml_file import read_yaml
from carellama.errors import UserError
from carellama.train.options import parse_run
from carellama.train.recipe import _comparable as comparable

MODEL = ["--model_name_or_path", "m"]


def values_of(argv: list[str]) -> dict[str, Any]:
    """All options of a training by name, those of transformers as words."""
    parsed = parse_run(argv)
    ours = {name: value for group in parsed.groups for name, value in dataclasses.asdict(group).items()}
    return ours | {name: " ".join(words) for name, words in parsed.training.items()}


def written(folder: Path, text: str) -> str:
    """A file of settings."""
    path = folder / "run.yaml"
    path.write_text(f"model_name_or_path: m\n{text}", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("settings", "words", "name", "value"),
    [
        ("load_in_4bit: true", "--load_in_4bit false", "quantization_bit", None),
        ("quantization_bit: 4", "--bits 16", "quantization_bit", None),
        ("bits: 16", "--load_in_4bit", "quantization_bit", 4),
        ("load_in_8bit: true\nload_in_4bit: false", "", "quantization_bit", 8),
        ("load_in_8bit: true", "--load_in_4bit false", "quantization_bit", 8),
        ("optim: adafactor", "--adafactor false", "optim", None),
        ("adapter: lora", "--finetuning_type full", "finetuning_type", "full"),
        ("adapter: lora\nload_in_8bit: true", "", "quantization_bit", 8),
        ("adapter: qlora\nload_in_4bit: true\nload_in_8bit: false", "", "quantization_bit", 4),
    ],
)
def test_a_flag_takes_back_what_a_foreign_key_of_the_file_says(
    settings: str, words: str, name: str, value: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """YAML load_in_4bit: true with the flag --load_in_4bit false loaded in 4 bit, and said that it was not needed."""
    with caplog.at_level(logging.WARNING):
        assert values_of([written(tmp_path, settings), *words.split()]).get(name) == value
    assert ("of the settings is left out" in caplog.text) == (value is None)


@pytest.mark.parametrize(
    "words",
    [
        "--load_in_4bit --bits 16",
        "--load_in_4bit --load_in_4bit false",
        "--quantization_bit 8 --load_in_8bit false",
        "--adapter lora --finetuning_type full",
        "--adafactor false --optim adafactor",
        "--use_swanlab false --report_to tensorboard,swanlab",
    ],
)
def test_options_that_contradict_each_other_are_refused(words: str) -> None:
    """--adafactor false --optim adafactor trained with adafactor, --load_in_4bit --bits 16 in 4 bit."""
    with pytest.raises(UserError, match="give one of them"):
        values_of([*MODEL, *words.split()])


@pytest.mark.parametrize("value", ["", " ", ",", "a,,b", ",a", "a,"])
def test_an_empty_checkpoint_is_not_the_base(value: str, tmp_path: Path) -> None:
    """--checkpoint_dir "$UNSET" measured the base, and exported it, as if it were what was trained."""
    for argv in ([*MODEL, "--checkpoint_dir", value], [written(tmp_path, f"checkpoint_dir: '{value}'")]):
        with pytest.raises(UserError, match=r"--checkpoint_dir .* shell variable"):
            parse_run(argv)
    with pytest.raises(UserError, match=r"--checkpoint_dir .* shell variable"):
        parse_options(EXPORT_OPTIONS, [*MODEL, "--output_dir", "o", "--checkpoint_dir", value], "carellama export")


def test_an_empty_text_is_refused_where_it_means_nothing() -> None:
    for words in (["--run_name", ""], ["--template", ""], ["--dataset", "a,,b"], ["--rewards", ","]):
        with pytest.raises(UserError, match=f"{words[0]} .*shell variable"):
            values_of([*MODEL, *words])
    assert values_of([*MODEL, "--system_prompt", ""])["system_prompt"] == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lora_rank: 8\nseed: 1\nlora_rank: 16\n", "'lora_rank' in line 2 and 'lora_rank' in line 4"),
        ("lora_rank: 8\nlora-rank: 16\n", "'lora_rank' in line 2 and 'lora-rank' in line 3"),
        ("bf16: true\nno_bf16: true\n", "give one of them"),
        ("accelerator_config: {a: 1, a: 2}\n", "'a' in line 2 and 'a' in line 2"),
    ],
)
def test_a_key_that_stands_there_twice_is_refused(text: str, says: str, tmp_path: Path) -> None:
    """The last one was taken without a word."""
    with pytest.raises(UserError, match=says):
        parse_run([written(tmp_path, text)])


def test_a_value_in_a_file_is_what_is_written(tmp_path: Path) -> None:
    """1:30 was read as 90, 010 as 8, 0123456 as 42798, 1.10 as 1.1, yes as True and off as false."""
    text = (
        "lora_rank: 010\nmodel_revision: 0123456\nrun_name: 1.10\nsystem_prompt: yes\nflash_attn: off\n"
        "lora_target: [q_proj, v_proj]\nuse_dora: on\nstreaming: no\nbf16: Yes\neval_strategy: no\ncutoff_len:\n"
        "hub_revision: 2024-01-01\nlr_scheduler_kwargs: {num_cycles: 2, power: 1e-1, last: off, text: '2'}\n"
    )
    found = values_of([written(tmp_path, text)])
    assert (found["lora_rank"], found["model_revision"], found["run_name"]) == (10, "0123456", "1.10")
    assert (found["system_prompt"], found["attention"], found["lora_target"]) == ("yes", "eager", "q_proj,v_proj")
    assert (found["use_dora"], found["streaming"], found["bf16"], found["cutoff_len"]) == (True, False, True, None)
    assert (found["eval_strategy"], found["hub_revision"]) == ("no", "2024-01-01")
    assert found["lr_scheduler_kwargs"] == '{"num_cycles": 2, "power": 0.1, "last": false, "text": "2"}'
    with pytest.raises(UserError, match="--max_steps takes a whole number, not '1:30'"):
        parse_run([written(tmp_path, "max_steps: 1:30\n")])


def test_the_options_of_a_recipe_are_what_is_written_as_well(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("settings: {run_name: 1.10}\nstages: {sft: {lora_rank: 010, after: null}}\nseed: 3\n")
    found = read_yaml(str(path), {"settings": 2, "stages": 3})
    assert found == {
        "settings": {"run_name": "1.10"},
        "stages": {"sft": {"lora_rank": "010", "after": None}},
        "seed": 3,
    }
    old: dict[str, object] = {"lora_rank": 8, "bf16": True, "learning_rate": "1e-3", "run_name": None}
    new: dict[str, object] = {"lora_rank": "8", "bf16": "yes", "learning_rate": "0.001", "run_name": None}
    assert comparable(old) == comparable(new) != comparable(new | {"lora_rank": "16"})


def test_a_file_that_holds_itself_or_a_tag_is_an_error(tmp_path: Path) -> None:
    for text, says in (("a: &x [*x]\n", "holds itself"), ("a: !env X\n", "is not YAML")):
        with pytest.raises(UserError, match=says):
            parse_run([written(tmp_path, text)])


@pytest.mark.parametrize(
    "words",
    [
        "--num_beams 0", "--num_beams -1", "--repetition_penalty -1", "--repetition_penalty 0",
        "--repetition_penalty inf", "--length_penalty nan", "--val_size inf", "--val_size nan", "--rope_factor inf",
        "--pref_beta inf", "--simpo_gamma nan", "--simpo_gamma -1", "--loraplus_lr_ratio inf", "--ppo_clip inf",
        "--rollout_temperature inf", "--learning_rate nan", "--weight_decay inf", "--num_train_epochs inf",
        "--lora_alpha 1e999", "--num_layer_trainable 0", "--preprocessing_num_workers 0", "--max_grad_norm nan",
        "--interleave_probs nan,1 --mix_strategy interleave_under", "--val_size -1",
    ],
)  # fmt: skip
def test_a_number_without_sense_is_refused(words: str) -> None:
    """--num_beams 0 and --repetition_penalty inf ended in a traceback, --pref_beta inf trained."""
    with pytest.raises(UserError, match=words.split()[0]):
        parse_run([*MODEL, *words.split()])


def test_the_bounds_of_other_commands() -> None:
    """`data clean --longest_question -1` skipped every row."""
    assert values_of([*MODEL, "--max_grad_norm", "inf"])["max_grad_norm"] == "inf"
    for words in ("--longest_question -1", "--shortest_answer -1", "--threshold 2", "--exam_characters 7"):
        with pytest.raises(UserError, match=words.split()[0]):
            parse_options((CleanOptions,), ["x", *words.split()], "carellama data clean FILE", positional="names")
    with pytest.raises(UserError, match="--length_penalty is nan; it must be a finite number"):
        GenerationOptions(length_penalty=float("nan"))


def test_the_no_form_of_a_switch_takes_no_question(tmp_path: Path) -> None:
    """`ask --no_do_sample "hello"` was an unknown option, and no_bf16: true an unknown key."""
    for argv, sampled in (
        (["--no_do_sample", "hello"], False),
        (["--no-do-sample", "true", "hello"], False),
        (["--no_do_sample=false", "hello"], True),
    ):
        _, _, generating, *_, asked = parse_options(
            (*CHAT_OPTIONS, AskOptions), [*MODEL, *argv], "carellama ask QUESTION", positional="question"
        )
        assert (generating.do_sample, asked.question) == (sampled, ["hello"])
    for text, value in (("no_bf16: true\n", False), ("no-bf16: off\n", True), ("no_bf16:\n", None)):
        assert values_of([written(tmp_path, text)])["bf16"] is value
    assert values_of([*MODEL, "--no_load_best_model_at_end"])["load_best_model_at_end"] == "false"


def test_resume_changed_takes_names_of_options() -> None:
    """Any word was accepted."""
    with pytest.raises(UserError, match="takes names of options, as in max_steps; 'foo' is none"):
        values_of([*MODEL, "--resume_changed", "foo"])
    assert values_of([*MODEL, "--resume_changed", "--max-steps,dataset"])["resume_changed"] == "--max-steps,dataset"


def test_a_word_of_a_choice_is_taken_in_other_letters() -> None:
    """llama.cpp and the pages of models spell it Q4_K_M."""
    kind = option_types(EngineOptions)["gguf_type"]
    assert (kind.value("gguf_type", ["Q4_k_m"]), kind.value("gguf_type", ["q4_0"])) == ("q4_K_M", "q4_0")
    with pytest.raises(UserError, match="'Q4_K_L' is not one of"):
        kind.value("gguf_type", ["Q4_K_L"])
