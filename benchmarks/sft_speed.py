"""LoRA fine-tuning against LLaMA-Factory, in turn in one run: samples/s, loss, peak memory.

    python benchmarks/sft_speed.py --peer ENV --model FOLDER --file records.json [--rounds 3] [--peer_setting NAME]

ENV is a virtual environment with LLaMA-Factory (benchmarks/peers.md says how it is made), FOLDER a Hugging Face model
folder, the file a list (or JSON lines) of {"instruction", "input", "output"}. Both take the same ids and labels
(records without markup that neither has to cut; the peer's format without markup writes no begin and end token, so they
stand in its rows), batch, optimiser and LoRA shape, and start their adapters at random; one pass. Which of the peer's
settings is its fastest depends on the processor: --peer_only finds it. `packed` and `bf16-packed` fill rows of
--cutoff_len tokens, as many as hold about one of our batches, so that its losses are those of other batches. CareLlama
decides on its precision itself. The machine may be shared: only the ratios of neighbouring runs count.
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

from tokenizers import Tokenizer

SAME = (
    "--stage sft --do_train true --finetuning_type lora --lora_target q_proj,v_proj --lora_rank 8 --lora_alpha 16"
    " --lora_dropout 0 --cutoff_len 512 --gradient_accumulation_steps 1 --num_train_epochs 1"
    " --learning_rate 5e-5 --lr_scheduler_type cosine --logging_steps 1 --save_steps 1000 --report_to none"
    " --overwrite_cache true --overwrite_output_dir true --seed 42"
).split()
BATCH = 8
LONGEST = 500  # tokens of a record with its marks: under --cutoff_len, so that nobody cuts
PLAIN = "--disable_gradient_checkpointing true"
SETTINGS = {  # of LLaMA-Factory, which recomputes activations unless told otherwise
    "bf16": "--bf16 true",
    "bf16-kept": f"--bf16 true {PLAIN}",
    "fp32": "--bf16 false",
    "fp32-kept": f"--bf16 false {PLAIN}",
    "packed": f"--bf16 false {PLAIN} --packing true --neat_packing true",
    "bf16-packed": f"--bf16 true {PLAIN} --packing true --neat_packing true",
}


def read(file: Path) -> list[dict[str, str]]:
    """The rows of a JSON list or of JSON lines."""
    text = file.read_text(encoding="utf-8")
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]


def uncut(rows: list[dict[str, str]], model: str, count: int) -> tuple[list[dict[str, str]], float]:
    """The first `count` rows with an answer that are short enough, and the mean number of their tokens."""
    tokenizer = Tokenizer.from_file(str(Path(model, "tokenizer.json")))
    kept, tokens = [], 0
    for found in rows:
        row = {name: found.get(name, "") for name in ("instruction", "input", "output")}
        length = len(tokenizer.encode("\n".join(row.values())).ids)
        if row["output"].strip() and length <= LONGEST and len(kept) < count:
            kept.append(row)
            tokens += length
    if len(kept) < count:
        sys.exit(f"only {len(kept)} records of the file have an answer and up to {LONGEST} tokens: take fewer --steps")
    return kept, tokens / count


def framed(rows: list[dict[str, str]], model: str) -> list[dict[str, str]]:
    """The same rows with the model's begin and end token written around each."""
    tokens = json.loads(Path(model, "tokenizer_config.json").read_text(encoding="utf-8"))
    begin, end = tokens["bos_token"], tokens["eos_token"]
    return [{**row, "instruction": begin + row["instruction"], "output": row["output"] + end} for row in rows]


def timed(command: list[str], folder: Path, records: int) -> dict[str, float]:
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
    found = {
        "samples/s": records / results["train_runtime"],
        "loss": results["train_loss"],
        "MB": usage.ru_maxrss / 1024,
    }
    shares = [step["matrix_share"] for step in steps if "matrix_share" in step]
    return found | ({"matrix share": statistics.median(shares)} if shares else {})


def run(name: str, options: argparse.Namespace, rows: list[dict[str, str]], tokens: float) -> dict[str, float]:
    """One training by one of the two, in a folder of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size = BATCH
        if name == "CareLlama":
            own = ["--template", "vanilla", "--data_cache_dir", str(folder / "cache")]
            program = [sys.executable, "-m", "carellama", "train"]
        else:
            own = ["--template", "empty", "--use_cpu", "true", *SETTINGS[options.peer_setting].split()]
            program = [str(options.peer / "bin/llamafactory-cli"), "train"]
            if options.peer_setting.endswith("packed"):
                size = max(1, round(BATCH * tokens / 512))
        given = rows if name == "CareLlama" else framed(rows, options.model)
        (folder / "rows.json").write_text(json.dumps(given))
        (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
        command = [
            *program, *SAME, *own, "--per_device_train_batch_size", str(size), "--dataset", "rows",
            "--model_name_or_path", options.model, "--dataset_dir", str(folder), "--output_dir", str(folder / "out"),
        ]  # fmt: skip
        return timed(command, folder, len(rows))


def medians(kept: list[dict[str, dict[str, float]]], peer: str) -> None:
    """Print the median of our values over the peer's, of each round."""
    for key, words in {"samples/s": "samples/s", "loss": "the mean loss", "MB": "peak memory"}.items():
        ratio = statistics.median(found["CareLlama"][key] / found[peer][key] for found in kept)
        print(f"median ratio of {words}: {ratio:.4f}")


def main() -> None:
    """Alternate the two and print each run, then the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help=f"of {BATCH} records each")
    parser.add_argument("--peer_setting", choices=SETTINGS, default="fp32-kept")
    parser.add_argument("--peer_only", action="store_true", help="no runs of ours: to find the peer's fastest setting")
    options = parser.parse_args()
    rows, tokens = uncut(read(options.file), options.model, BATCH * options.steps)
    print(f"{len(rows)} records of {tokens:.0f} tokens in the mean")
    kept = []
    for number in range(options.rounds):
        kept.append({})
        for name in ("LLaMA-Factory",) if options.peer_only else ("LLaMA-Factory", "CareLlama"):
            found = kept[-1][name] = run(name, options, rows, tokens)
            shown = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
            setting = options.peer_setting if name == "LLaMA-Factory" else ""
            print(f"round {number + 1} {name:14} {setting:10} {shown}", flush=True)
    if not options.peer_only:
        medians(kept, "LLaMA-Factory")


if __name__ == "__main__":
    main()
