"""A program by itself: a model folder in 4 bits by AutoRound, as GPTQ or AWQ. It imports nothing of ours.

    python write_gptq.py < job.json

job.json has `folder`, `target`, `format` (auto_gptq or auto_awq), `windows` (lists of ids to calibrate on), `dtype`,
`group_size`. It prints how many matrices have 4 bits, and how many steps each layer was tuned, as JSON.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

STEPS = {"cuda": 200, "cpu": 50}  # of tuning a layer: AutoRound's own number, and what a processor has time for


def quantise(job: Any) -> int:
    """Write the folder; return the steps."""
    import torch
    from auto_round import AutoRound  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=getattr(torch, job["dtype"]))
    rows: Any = [{"input_ids": torch.tensor(ids)} for ids in job["windows"]]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rounding = AutoRound(
        model, tokenizer=tokenizer, scheme="W4A16", group_size=job["group_size"], sym=True,
        dataset=torch.utils.data.DataLoader(rows, batch_size=1), nsamples=len(rows), seqlen=len(job["windows"][0]),
        iters=STEPS[device], batch_size=1, device_map=device,
        enable_torch_compile=False, low_cpu_mem_usage=False, seed=42,
    )  # fmt: skip
    place = Path(job["target"]).with_name("auto-round")
    rounding.quantize_and_save(output_dir=str(place), format=job["format"])
    (found,) = [path.parent for path in place.rglob("config.json")]
    found.rename(job["target"])
    shutil.rmtree(place, ignore_errors=True)
    return STEPS[device]


def kept(job: Any) -> dict[str, Any]:
    """Which matrices have 4 bits in the file, and which not."""
    from safetensors import safe_open

    names = []
    for path in sorted(Path(job["target"]).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names += list(file.keys())
    quantised = sum(name.endswith(".qweight") for name in names)
    others = sum(name.endswith(".weight") for name in names)
    return {"4 bits": quantised, job["dtype"]: others}


def main() -> None:
    """Do the job that comes in; what libraries print goes to stderr."""
    out, sys.stdout = sys.stdout, sys.stderr
    job = json.load(sys.stdin)
    steps = quantise(job)
    print(json.dumps({"types": kept(job), "steps": steps}), file=out)


if __name__ == "__main__":
    main()
