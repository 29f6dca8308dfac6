"""LoRA fine-tuning against LLaMA-Factory, in turn in one run: samples/s, loss, peak memory.

    python benchmarks/sft_speed.py --peer ENV --model FOLDER --file records.json [--rounds 2]

ENV is a virtual environment with LLaMA-Factory (benchmarks/peers.md says how it is made), FOLDER a Hugging Face model
folder, the file a list of {"instruction", "input", "output"}. Both take the same ids and labels (records without markup
that neither has to cut; the peer's format without markup writes no begin and end token, so they stand in its rows),
batch, optimiser, LoRA shape and precision (bf16, the peer's fastest on CPU, or with --fp32 a comparison of the losses
beyond rounding), and start their adapters at random. The machine may be shared: only the ratios of neighbouring runs
count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SAME = (
    "--stage sft --do_train true --finetuning_type lora --lora_target q_proj,v_proj --lora_rank 8 --lora_alpha 16"
    " --lora_dropout 0 --cutoff_len 512 --per_device_train_batch_size 8 --gradient_accumulation_steps 1"
    " --learning_rate 5e-5 --lr_scheduler_type cosine --logging_steps 1 --save_steps 1000 --report_to none"
    " --overwrite_cache true --overwrite_output_dir true --seed 42"
).split()
OWN = {"LLaMA-Factory": ["--template", "empty", "--use_cpu", "true"], "CareLlama": ["--template", "vanilla"]}
LONGEST = 250  # words of a record: fewer than --cutoff_len tokens, so that nobody cuts


def uncut(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows with an answer that are short enough."""
    return [row for row in rows if row["output"].strip() and len(" ".join(row.values()).split()) <= LONGEST]


def framed(rows: list[dict[str, str]], model: str) -> list[dict[str, str]]:
    """The same rows with the model's begin and end token written around each."""
    tokens = json.loads(Path(model, "tokenizer_config.json").read_text(encoding="utf-8"))
    begin, end = tokens["bos_token"], tokens["eos_token"]
    return [{**row, "instruction": begin + row["instruction"], "output": row["output"] + end} for row in rows]


def timed(command: list[str], folder: Path) -> dict[str, float]:
    """Run a training command; its samples/s, mean loss, and peak memory in MB."""
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "DISABLE_VERSION_CHECK": "1",
    }
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}\n{(folder / 'log.txt').read_text()[-3000:]}")
    results = json.loads((folder / "out/train_results.json").read_text())
    steps = [json.loads(line) for line in (folder / "out/trainer_log.jsonl").read_text().splitlines()]
    print("  losses", *(f"{step['loss']:.4f}" for step in steps if "loss" in step))
    return {
        "samples/s": results["train_samples_per_second"],
        "loss": results["train_loss"],
        "MB": usage.ru_maxrss / 1024,
    }


def main() -> None:
    """Alternate the two and print each run, then the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--max_steps", type=int, default=20)
    parser.add_argument("--fp32", action="store_true")
    options = parser.parse_args()
    rows = uncut(json.loads(options.file.read_text(encoding="utf-8")))[: 8 * options.max_steps]  # one pass
    ratios, kept = [], []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory() as temporary:
            found = {}
            for name, program in (
                ("LLaMA-Factory", [str(options.peer / "bin/llamafactory-cli"), "train"]),
                ("CareLlama", [sys.executable, "-m", "carellama", "train"]),
            ):
                folder = Path(temporary, name)
                folder.mkdir()
                own = [*OWN[name], "--bf16", str(not options.fp32).lower()]
                if name == "CareLlama":
                    own += ["--data_cache_dir", str(folder / "cache")]
                (folder / "rows.json").write_text(
                    json.dumps(rows if name == "CareLlama" else framed(rows, options.model))
                )
                (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
                command = [
                    *program, *SAME, *own, "--model_name_or_path", options.model, "--dataset", "rows",
                    "--dataset_dir", str(folder), "--output_dir", str(folder / "out"),
                    "--max_steps", str(options.max_steps),
                ]  # fmt: skip
                found[name] = timed(command, folder)
                shown = ", ".join(f"{key} {value:.4g}" for key, value in found[name].items())
                print(f"round {number + 1} {name:14} {shown}", flush=True)
            kept.append(found)
            ratios.append(found["CareLlama"]["samples/s"] / found["LLaMA-Factory"]["samples/s"])
    print(f"median ratio of samples/s: {statistics.median(ratios):.2f}")
    losses = [found["CareLlama"]["loss"] / found["LLaMA-Factory"]["loss"] - 1 for found in kept]
    print(f"median difference of the mean loss: {statistics.median(losses):+.2%}")
    memory = [found["CareLlama"]["MB"] / found["LLaMA-Factory"]["MB"] for found in kept]
    print(f"median ratio of peak memory: {statistics.median(memory):.2f}")


if __name__ == "__main__":
    main()
