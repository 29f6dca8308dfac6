"""LoRA DPO against TRL's own DPOTrainer, in turn in one run: pairs/s, loss, peak memory.

    python benchmarks/dpo_speed.py --model FOLDER --file pairs.json [--rounds 3] [--peer_setting NAME]

FOLDER is a Hugging Face model folder, the file a list (or JSON lines, as `carellama data convert` writes them) of pairs
with `instruction`, `input` and two `output`; a history is left out. TRL is the extra `rl`. Both take the same ids and
labels (ours, of pairs that nobody has to cut, given to TRL in place of its own encoding), order, batch, optimiser, LoRA
shape and loss, and start their adapters at random. Which of TRL's settings is its fastest depends on the processor:
--peer_only finds it. With `precomputed` the reference's values are made before its clock starts, so that the rate
leaves out that part of its work. CareLlama decides on its precision itself. The machine may be shared: only the ratios
of neighbouring runs count.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from sft_speed import medians, read, timed
from tokenizers import Tokenizer

PAIRS = 4  # of a batch
WINDOW = 512
LONGEST = 480  # tokens of a prompt with an answer
SAME = {
    "per_device_train_batch_size": PAIRS, "gradient_accumulation_steps": 1, "learning_rate": 5e-5,
    "lr_scheduler_type": "cosine", "optim": "adamw_torch", "logging_steps": 1, "save_steps": 1000,
    "report_to": "none", "seed": 42, "data_seed": 42,
}  # fmt: skip
OWN = (
    "--stage dpo --do_train true --finetuning_type lora --lora_target q_proj,v_proj --lora_rank 8 --lora_alpha 16"
    " --lora_dropout 0 --pref_loss sigmoid --pref_beta 0.1 --template vanilla"
    f" --max_source_length {WINDOW} --max_target_length {WINDOW} --overwrite_output_dir true"
).split()
SETTINGS = {  # of TRL: type of the frozen weights, autocast, recomputed activations, reference beforehand
    "autocast": ("float32", True, False, False),
    "bf16": ("bfloat16", True, False, False),
    "checkpointing": ("bfloat16", True, True, False),
    "precomputed": ("bfloat16", True, False, True),
    "fp32": ("float32", False, False, False),
    "fp32-precomputed": ("float32", False, False, True),
    "fp32-checkpointing": ("float32", False, True, False),
}
DEFAULT = "fp32-checkpointing"


def uncut(rows: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """The rows with two different answers that are short enough for everybody."""
    tokenizer = Tokenizer.from_file(str(Path(model, "tokenizer.json")))
    kept = []
    for row in rows:
        answers = row["output"] if "chosen" not in row else [row["chosen"], row["rejected"]]
        prompt = row["instruction"] + row.get("input", "")
        whole = max(len(tokenizer.encode(prompt + answer).ids) for answer in answers)
        if all(map(str.strip, answers)) and answers[0] != answers[1] and whole < LONGEST:
            kept.append({"instruction": row["instruction"], "input": row.get("input", ""), "output": answers})
    return kept


def write_ids(command: list[str], file: Path) -> None:
    """Write the ids that our command learns from, in its order, for the peer: prompt, chosen, rejected."""
    from carellama.data.encoding.prepare import prepare
    from carellama.model.tokenizer import load_tokenizer
    from carellama.records import IGNORED
    from carellama.templates.template import get_template
    from carellama.train.options import run_options

    config = run_options(command)
    tokenizer = load_tokenizer(config.model)
    examples = prepare(config, tokenizer, get_template(config.data.template, tokenizer)).train
    rows = []
    for number in range(len(examples)):
        chosen, rejected = examples[number]
        start = int((chosen.labels == IGNORED).sum())
        assert (chosen.input_ids[:start] == rejected.input_ids[:start]).all()
        assert (rejected.labels[start:] == rejected.input_ids[start:]).all()
        parts = (chosen.input_ids[:start], chosen.input_ids[start:], rejected.input_ids[start:])
        rows.append(
            dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), (part.tolist() for part in parts), strict=True))
        )
    file.write_text(json.dumps(rows))


def train_peer(model: str, folder: Path, setting: str, max_steps: int) -> None:
    """Train with TRL on `folder`/ids.json, leaving the same files as our command does."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class OnIds(DPOTrainer):  # type: ignore[misc]
        """Takes ids as they are."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    weights, autocast, recomputes, beforehand = SETTINGS[setting]
    arguments = DPOConfig(
        output_dir=str(folder / "out"), max_steps=max_steps, max_length=None, loss_type="sigmoid", beta=0.1,
        bf16=autocast,
        gradient_checkpointing=recomputes, precompute_ref_log_probs=beforehand, use_cpu=True, save_strategy="no",
        **{name: value for name, value in SAME.items() if name != "save_steps"},
    )  # fmt: skip
    trainer = OnIds(
        AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, weights)),
        args=arguments,
        train_dataset=Dataset.from_list(json.loads((folder / "ids.json").read_text())),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(
            r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
        ),
    )
    metrics = trainer.train().metrics
    (folder / "out").mkdir(exist_ok=True)
    (folder / "out/train_results.json").write_text(json.dumps(metrics))
    lines = [json.dumps(step) for step in trainer.state.log_history if "loss" in step]
    (folder / "out/trainer_log.jsonl").write_text("\n".join(lines))


def one_round(options: argparse.Namespace, rows: list[dict[str, Any]], temporary: Path) -> dict[str, dict[str, float]]:
    """Run both once, the peer first."""
    setting, model = options.peer_setting, options.model
    (temporary / "rows.json").write_text(json.dumps(rows))
    (temporary / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
    folders = {name: temporary / name for name in ("TRL", "CareLlama")}
    for folder in folders.values():
        folder.mkdir()
    own = [
        *OWN, *(word for name, value in SAME.items() for word in (f"--{name}", str(value))),
        "--model_name_or_path", model, "--dataset", "rows",
        "--dataset_dir", str(temporary), "--data_cache_dir", str(temporary / "cache"),
        "--output_dir", str(folders["CareLlama"] / "out"), "--max_steps", str(options.max_steps),
    ]  # fmt: skip
    write_ids(own, folders["TRL"] / "ids.json")
    peer = [
        sys.executable, __file__, "--as_peer", str(folders["TRL"]), "--model", model, "--peer_setting", setting,
        "--max_steps", str(options.max_steps),
    ]  # fmt: skip
    commands = {"TRL": peer, "CareLlama": [sys.executable, "-m", "carellama", "train", *own]}
    found = {}
    for name in ("TRL",) if options.peer_only else ("TRL", "CareLlama"):
        found[name] = timed(commands[name], folders[name], len(rows))
        shown = ", ".join(f"{key} {value:.4g}" for key, value in found[name].items())
        print(f"{name:9} {setting if name == 'TRL' else '':13} {shown}", flush=True)
    return found


def main() -> None:
    """Alternate the two and print each run, then the median ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max_steps", type=int, default=20)
    parser.add_argument("--peer_setting", choices=SETTINGS, default=DEFAULT)
    parser.add_argument("--peer_only", action="store_true", help="no runs of ours: to find the peer's fastest setting")
    parser.add_argument("--as_peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_peer:
        train_peer(options.model, options.as_peer, options.peer_setting, options.max_steps)
        return
    if options.file is None:
        parser.error("--file is needed: a list of pairs")
    rows = uncut(read(options.file), options.model)[: PAIRS * options.max_steps]  # one pass
    if len(rows) < PAIRS * options.max_steps:
        parser.error(f"{options.file} has {len(rows)} pairs that nobody cuts: take fewer --max_steps")
    kept = []
    for number in range(options.rounds):
        print(f"round {number + 1}")
        with tempfile.TemporaryDirectory() as temporary:
            kept.append(one_round(options, rows, Path(temporary)))
    if options.peer_only:
        return
    medians(kept, "TRL")


if __name__ == "__main__":
    main()
