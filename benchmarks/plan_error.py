"""The memory that `carellama plan` predicts against the most that the training held, each in a process of its own.

    python benchmarks/plan_error.py
    python benchmarks/plan_error.py --only full "4 bit" --steps 4

What is measured is ru_maxrss of the process of `carellama train --skip_plan`. The predicted is of the same options.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

COMMON = {
    "model_name_or_path": "smollm2-135m", "dataset": "consult_en", "per_device_train_batch_size": 8, "max_samples": 32,
    "cutoff_len": 512, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "bf16": True,
    "lora_target": "all",
}  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, object]] = {
    "lora q,v": {"lora_target": "q_proj,v_proj"},
    "lora all": {},
    "lora all, checkpointing": {"gradient_checkpointing": True},
    "full": {"finetuning_type": "full"},
    "full, checkpointing": {"finetuning_type": "full", "gradient_checkpointing": True},
    "4 bit": {"quantization_bit": 4},
    "dpo": {"stage": "dpo", "dataset": "preference_en", "per_device_train_batch_size": 4},
    "pt": {"stage": "pt", "dataset": "pretrain_en", "per_device_train_batch_size": 4},
    "padded": {"attention": "padded"},
    "float32": {"bf16": False, "lora_target": "q_proj,v_proj", "per_device_train_batch_size": 4},
}


def flags(options: dict[str, object]) -> list[str]:
    """Options as words."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value).lower())]


def peak_of(command: list[str]) -> int:
    """Run a command and return the bytes that its process held at the most."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    said = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)}\n{said}")
    return usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=list(CONFIGURATIONS))
    options = parser.parse_args()
    program = [sys.executable, "-m", "carellama"]
    print(f"{'':<24} {'predicted':>10} {'measured':>10} {'error':>7}")
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            given = COMMON | CONFIGURATIONS[name] | {"output_dir": f"{folder}/out", "max_steps": options.steps}
            report = Path(folder) / "plan.json"
            subprocess.run(
                [*program, "plan", *flags(given), "--plan_steps", "0", "--report", str(report)],
                check=True,
                capture_output=True,
            )
            predicted = json.loads(report.read_text(encoding="utf-8"))["total"]
            measured = peak_of([*program, "train", *flags(given), "--skip_plan"])
        print(
            f"{name:<24} {predicted / 1e9:>7.2f} GB {measured / 1e9:>7.2f} GB {predicted / measured - 1:>+7.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
