"""The commands as people type them, through subprocess, those of 2023 verbatim; and their mistakes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

import preloaded
from carellama.data.catalogue.convert import run as convert
from carellama.data.clean.clean import run as clean
from carellama.errors import UserError
from conftest import REPOSITORY

SFT = (
    "--stage sft --do_train --dataset mm --finetuning_type lora --quantization_bit 4 --overwrite_cache"
    " --output_dir output --per_device_train_batch_size 8 --gradient_accumulation_steps 4 --lr_scheduler_type cosine"
    " --logging_steps 10 --save_steps 1000 --learning_rate 5e-5 --num_train_epochs 2.0 --plot_loss --fp16"
    " --template llama2 --lora_target q_proj,v_proj"
).split()
LORA = "--checkpoint_dir output --finetuning_type lora --template llama2".split()


@pytest.fixture
def workplace(tmp_path: Path, tiny_folder: Path) -> Path:
    """A folder as the seed's user has it: data/ with dataset_info.json, and a base model."""
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        {"instruction": f"Question {n}: what helps against a cough?", "input": "",
         "output": f"Rest and tea, {n} times.", "history": [["Hello", "How can I help?"]] if n % 2 else []}
        for n in range(24)
    ]  # fmt: skip
    (data / "mm.json").write_text(json.dumps(rows), encoding="utf-8")
    columns = {"prompt": "instruction", "query": "", "response": "output", "history": "history"}
    (data / "dataset_info.json").write_text(json.dumps({"mm": {"file_name": "mm.json", "columns": columns}}))
    (tmp_path / "model").symlink_to(tiny_folder)
    return tmp_path


def environment(where: Path) -> dict[str, str]:
    return {**os.environ, "CARELLAMA_CACHE": str(where / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(where: Path, *words: str, status: int = 0, stdin: str | None = None, seconds: int = 240):
    """Run a command in a folder and check how it ends."""
    done = subprocess.run(
        words, cwd=where, env=environment(where), input=stdin, capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == status, f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert status == 0 or "Traceback" not in done.stderr
    return done


def seed(where: Path, script: str, *words: str, **kwargs):
    return command(where, preloaded.python(), str(REPOSITORY / "src" / script), *words, **kwargs)


def carellama(where: Path, *words: str, **kwargs):
    return command(where, preloaded.python(), "-m", "carellama", *words, **kwargs)


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_seeds_chain_runs_verbatim(workplace: Path) -> None:
    """Train in 4 bit through accelerate, predict, evaluate, export, talk: as the README of 2023 has them."""
    model = ["--model_name_or_path", "./model"]
    accelerate = str(Path(sys.executable).parent / "accelerate")
    trained = command(workplace, accelerate, "launch", str(REPOSITORY / "src/train_bash.py"), *SFT, *model)
    assert "--fp16 needs a GPU" in trained.stderr or "cuda" in trained.stderr.lower()
    output = workplace / "output"
    for name in ("adapter_model.safetensors", "trainer_log.jsonl", "train_results.json", "training_loss.png",
                 "run.json", "data_report.json"):  # fmt: skip
        assert (output / name).stat().st_size > 0, name
    assert (output / "adapter_model.safetensors").stat().st_mode == (output / "run.json").stat().st_mode
    assert read(output / "data_report.json")["mm"]["used"] == 24
    assert read(output / "run.json")["settings"]["model"]["quantization_bit"] == 4

    predict = [*model, "--stage", "sft", "--do_predict", "--dataset", "mm", "--output_dir", "predict_output",
               "--per_device_eval_batch_size", "8", "--max_samples", "100", "--predict_with_generate",
               *LORA, "--max_new_tokens", "6"]  # fmt: skip
    seed(workplace, "train_bash.py", *predict)
    lines = (workplace / "predict_output/generated_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 24 and set(json.loads(lines[0])) == {"prompt", "label", "predict"}
    assert "predict_bleu-4" in read(workplace / "predict_output/predict_results.json")

    evaluate = [*model, "--stage", "sft", "--do_eval", "--dataset", "mm", "--output_dir", "eval_output",
                "--per_device_eval_batch_size", "8", "--max_samples", "100", "--predict_with_generate",
                *LORA]  # fmt: skip
    seed(workplace, "train_bash.py", *evaluate)
    evaluated = read(workplace / "eval_output/eval_results.json")
    assert evaluated["eval_loss"] > 0 and evaluated["eval_dataset"] == "mm"

    seed(workplace, "export_model.py", *model, *LORA, "--output_dir", "output_export")
    assert (workplace / "output_export/model.safetensors").exists()
    assert (workplace / "output_export/chat_template.jinja").exists()

    for base in ([*model, *LORA], ["--model_name_or_path", "output_export"]):
        talked = seed(workplace, "cli_demo.py", *base, "--max_new_tokens", "4", stdin="hello\nclear\nhi\nexit\n")
        assert talked.stdout.strip()
    serves_a_page(workplace, str(REPOSITORY / "src/web_demo.py"), *model, *LORA, ends=0)
    shutil.copytree(REPOSITORY / "Gradio", workplace / "Gradio")
    serves_a_page(workplace / "Gradio", "app.py", ends=-signal.SIGTERM)


def serves_a_page(where: Path, *words: str, ends: int) -> None:
    """Start the page (at any free port), open it, end it."""
    process = subprocess.Popen(
        [preloaded.python(), *words, "--port", "0"], cwd=where, env=environment(where), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        told = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", told)
        assert address, told + process.stderr.read()
        with urllib.request.urlopen(address[0], timeout=60) as page:
            assert page.status == 200 and "CareLlama" in page.read().decode()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == ends
    finally:
        process.kill()


@pytest.mark.slow
def test_two_processes_of_accelerate_learn_what_one_learns(workplace: Path) -> None:
    """By the seed's script; torchrun and the other engines are in test_distributed."""
    one = ["--stage", "sft", "--do_train", "--dataset", "mm", "--model_name_or_path", "./model", "--max_steps", "3",
           "--logging_steps", "1", "--lora_dropout", "0", "--bf16", "false", "--learning_rate", "1e-3"]  # fmt: skip
    script = str(REPOSITORY / "src/train_bash.py")
    seed(workplace, "train_bash.py", *one, "--per_device_train_batch_size", "8", "--output_dir", "one")
    start = preloaded.accelerate(REPOSITORY / "examples/accelerate/ddp_cpu.yaml", 29512)
    command(workplace, *start, script, *one, "--per_device_train_batch_size", "4", "--output_dir", "two")

    def losses(folder: str) -> list[float]:
        lines = (workplace / folder / "trainer_log.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines if "grad_norm" in json.loads(line)]

    assert len(losses("one")) == 3
    assert losses("two") == pytest.approx(losses("one"), rel=1e-5)


STREAMED_IN_TWO = """
import os, signal, sys
from pathlib import Path
from carellama.cli import call
from carellama.data.encoding import token_stream as stream
from carellama.train.trainer import PackedTrainer

stream.ENCODED_ROWS = 4
step, rank = PackedTrainer.training_step, os.environ["RANK"]


def stopped(self, *words):
    if rank == "1" and self.state.global_step == 6:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *words)


def run(folder, on_bad_record, workers):
    words = ["--output_dir", folder, "--on_bad_record", on_bad_record, "--dataloader_num_workers", workers]
    try:
        call("train", sys.argv[1:] + words)
    except SystemExit as left:
        Path(folder, f"{left.code} of {rank}").touch()


run("whole", "skip", "0")
run("parts", "error", "1")
PackedTrainer.training_step = stopped
run("parts", "skip", "1")
PackedTrainer.training_step = step
run("parts", "skip", "0")
"""


@pytest.mark.slow
def test_two_processes_that_stream_stop_together_and_go_on(workplace: Path) -> None:
    """A bad record, then a signal, that only the second process meets: both save and leave, and lose nothing."""
    rows = [{"instruction": f"Question {n}?", "input": "", "output": f"Answer {n}." * (n != 31)} for n in range(40)]
    (workplace / "data/mm.json").write_text(json.dumps(rows, indent=0), encoding="utf-8")
    (workplace / "run.py").write_text(STREAMED_IN_TWO)
    done = command(
        workplace, *preloaded.torchrun(2, 29513), "run.py", "--dataset", "mm", "--model_name_or_path", "./model",
        "--streaming", "--max_steps", "12", "--buffer_size", "2",
        "--per_device_train_batch_size", "2", "--logging_steps", "1", "--save_steps", "100", "--bf16", "false",
    )  # fmt: skip
    left = sorted(path.name for path in workplace.glob("*/* of ?"))
    assert left == ["130 of 0", "130 of 1", "2 of 0", "2 of 1"]
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "data/mm.json:" in said and said.endswith("the same command goes on from parts/checkpoint-5")
    assert "stopped at step 7; the same command goes on from parts/checkpoint-7" in done.stderr

    def losses(folder: str) -> list[float]:
        lines = (workplace / folder / "trainer_log.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines if "grad_norm" in json.loads(line)]

    assert losses("parts") == losses("whole") and len(losses("whole")) == 12
    report = read(workplace / "parts/data_report.json")
    assert report == read(workplace / "whole/data_report.json")
    assert (report["mm"]["rows"], report["mm"]["used"]) == (40, 39)


DIVERGES_IN_ONE = """
import os, sys
from carellama.cli import call
from carellama.train.causal import CausalTrainer

batch_loss = CausalTrainer.batch_loss


def poisoned(self, model, batch):
    total, count = batch_loss(self, model, batch)
    return total * (float("nan") if os.environ["RANK"] == "1" and self.state.global_step == 2 else 1), count


CausalTrainer.batch_loss = poisoned
try:
    call("train", sys.argv[1:])
except SystemExit as left:
    open(f"{left.code} of {os.environ['RANK']}", "w").close()
"""


@pytest.mark.slow
def test_an_impossible_loss_in_one_of_two_processes_ends_both(workplace: Path) -> None:
    """Fault T17: the others waited in their next collective operation until it timed out."""
    (workplace / "run.py").write_text(DIVERGES_IN_ONE)
    began = time.monotonic()
    done = command(
        workplace, *preloaded.torchrun(2, 29514), "run.py", "--dataset", "mm", "--model_name_or_path", "./model",
        "--max_steps", "6", "--bf16", "false", "--per_device_train_batch_size", "2",
        "--gradient_accumulation_steps", "2", "--output_dir", "two", "--save_steps", "1", seconds=120,
    )  # fmt: skip
    assert sorted(path.name for path in workplace.glob("* of ?")) == ["2 of 0", "2 of 1"]
    assert "error: the loss is not a number, in step 3, which was not taken; its batch: " in done.stderr
    assert (workplace / "two/checkpoint-2").is_dir() and not (workplace / "two/checkpoint-3").exists()
    assert time.monotonic() - began < 90


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_losses(workplace: Path) -> None:
    run = ["train", "--dataset", "mm", "--model_name_or_path", "./model", "--max_steps", "16", "--logging_steps", "1",
           "--save_steps", "2", "--per_device_train_batch_size", "2", "--bf16", "false", "--learning_rate", "1e-3",
           "--output_dir"]  # fmt: skip

    def losses(folder: str) -> list[tuple[int, float]]:
        lines = [json.loads(line) for line in (workplace / folder / "trainer_log.jsonl").read_text().splitlines()]
        return [(line["current_steps"], line["loss"]) for line in lines if "grad_norm" in line]

    carellama(workplace, *run, "whole")
    killed = subprocess.Popen(
        [sys.executable, "-m", "carellama", *run, "parts"], cwd=workplace, env=environment(workplace),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not list((workplace / "parts").glob("checkpoint-*")) and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    resumed = carellama(workplace, *run, "parts")
    assert "going on from" in resumed.stderr or (workplace / "parts/train_results.json").exists()
    assert losses("parts") == losses("whole")


@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint(workplace: Path) -> None:
    run = ["--dataset", "mm", "--model_name_or_path", "./model", "--max_steps", "4000", "--logging_steps", "1",
           "--save_strategy", "no", "--output_dir", "output"]  # fmt: skip
    process = subprocess.Popen(
        [preloaded.python(), "-m", "carellama", "train", *run], cwd=workplace, env=environment(workplace),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = workplace / "output/trainer_log.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    (checkpoint,) = (workplace / "output").glob("checkpoint-*")
    assert (checkpoint / "trainer_state.json").exists()
    assert "the same command goes on from" in said


MISTAKES = {
    "unknown option": (["train", "--leraning_rate", "1"], "Did you mean '--learning_rate'"),
    "unknown command": (["trian"], "unknown command 'trian'. Did you mean 'train'"),
    "unknown before missing": (["train", "--lora_rnk", "8"], "Did you mean '--lora_rank'"),
    "wrong value": (
        ["train", "--stage", "sfft"],
        "'sfft' is not one of pt, sft, rm, dpo, kto, ppo, grpo. Did you mean 'sft'?",
    ),
    "wrong type": (["train", "--lora_rank", "eight"], "--lora_rank takes a whole number, not 'eight'"),
    "no model": (["train", "--model_name_or_path", "./nowhere"], "nowhere"),
    "no dataset": (["train", "--dataset", "nn"], "unknown dataset"),
    "template": (["train", "--template", "llama3"], "needs the tokens"),
    "unknown template": (["train", "--template", "lama2"], "Did you mean 'llama2'"),
    "held out": (["train", "--do_train", "--do_eval"], "needs held-out data"),
    "quantised full": (["train", "--finetuning_type", "full", "--quantization_bit", "4"], "cannot be trained"),
    "checkpoint": (["train", "--checkpoint_dir", "nowhere"], "nowhere"),
    "output": (["train", "--output_dir", "data"], "and no run; give --overwrite_output_dir"),
    "yaml": (["train", "bad.yaml"], "Did you mean 'lora_rank'"),
    "nothing to export": (["export", "--output_dir", "data"], "not empty"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_one_line(workplace: Path, name: str) -> None:
    words, expected = MISTAKES[name]
    (workplace / "bad.yaml").write_text("lora_rnak: 4\n")
    options = {"--model_name_or_path": "./model", "--output_dir": "output"}
    if words[0] == "train":
        options["--dataset"] = "mm"
    filled = [*words, *(word for key, value in options.items() if key not in words for word in (key, value))]
    before = sorted(path.name for path in workplace.iterdir())
    done = carellama(workplace, *filled, status=2)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert expected in line
    assert done.stderr.strip().splitlines()[-1] == line
    assert {path.name for path in workplace.iterdir()} - set(before) <= {"output", "cache"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["web"], "carellama web needs --model_name_or_path (such as --model_name_or_path smollm2-135m)"),
        (["keys", "add"], "carellama keys add needs --name; see carellama keys add --help"),
        (["data", "convert", "FILE"], "FILE: there is no such file or folder"),
    ],
)
def test_what_is_missing_is_named_with_the_next_step(tmp_path: Path, words: list[str], expected: str) -> None:
    done = subprocess.run(
        [preloaded.python(), "-m", "carellama", *words], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: {expected}")


@pytest.mark.parametrize("run", [convert, clean])
def test_a_source_is_not_replaced_by_what_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[[list[str]], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = Path("clinic.csv")
    source.write_text("question,answer\nIs it flu?,It may be.\n")
    before = source.read_text()
    with pytest.raises(UserError, match="the original stays"):
        run([str(source), "--output", str(source), "--overwrite"])
    assert source.read_text() == before


def test_yaml_and_flags_are_one_thing(workplace: Path) -> None:
    (workplace / "sft.yaml").write_text(
        "model_name_or_path: ./model\ndataset: mm\noutput_dir: output\nmax_steps: 1\nlora_rank: 4\nval_size: 4\n"
        "do_train: true\ndo_eval: true\n"
    )
    carellama(workplace, "train", "sft.yaml", "--lora_rank", "2", "--show_example")
    settings = read(workplace / "output/run.json")["settings"]["finetuning"]
    assert settings["lora_rank"] == 2
    assert read(workplace / "output/adapter_config.json")["r"] == 2
    again = carellama(workplace, "train", "sft.yaml", status=2)
    assert "holds a finished run" in again.stderr


def test_help_names_every_option() -> None:
    done = subprocess.run(
        [preloaded.python(), "-m", "carellama", "train", "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "--quantization_bit" in done.stdout and "--learning_rate" in done.stdout


@pytest.mark.parametrize("words", ["--help", "train --help", "task list", "models list", "data list", "keys list"])
def test_output_that_nobody_reads_ends_the_command_without_a_word(words: str, tmp_path: Path) -> None:
    """`carellama train --help | head -1` ended with a traceback."""
    environment = os.environ | {"CARELLAMA_DATABASE": str(tmp_path / "keys.db")}
    command = [sys.executable, "-m", "carellama"]
    if words == "keys list":
        subprocess.run([*command, "keys", "add", "--name", "a"], env=environment, check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, *words.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    said = process.stderr.read()
    assert (process.wait(60), said) == (141, b"")


def test_a_failure_keeps_its_exit_code_where_nobody_reads_the_output() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "carellama", "nothing"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read().startswith(b"error: unknown command 'nothing'") and process.wait(60) == 2
