"""Everything that needs a GPU, on one GPU, in one table: training, memory against the plan, losses, export, serving.

    python benchmarks/gpu_check.py                     # about six minutes; ends by itself after --seconds
    python benchmarks/gpu_check.py --device cpu        # the same steps on a tiny model, to try the script itself

Nothing is fetched: without --model a Llama with random weights (1.1 B parameters; tiny with --device cpu) and a
tokenizer learned from the bundled data are made in the output folder. Each row runs in a process, and its log is kept
there. A row fails when its command fails, or when a number is outside the bound that stands in its last column; a row
for which no time is left is skipped and named. The exit code is 1 if a row failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
GPU_SHAPE = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
             "num_key_value_heads": 8, "vocab_size": 32000}  # fmt: skip
TINY_SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "vocab_size": 2048}  # fmt: skip
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
COMMON = {"report_to": "none", "save_strategy": "no", "logging_steps": 1, "overwrite_output_dir": True, "seed": 7}
TRAININGS: dict[str, dict[str, object]] = {
    "sft LoRA": {"dataset": "consult_en", "lora_target": "all"},
    "sft full": {"dataset": "consult_en", "finetuning_type": "full", "learning_rate": 1e-5},
    "sft QLoRA 4 bit": {"dataset": "consult_en", "lora_target": "all", "quantization_bit": 4},
    "dpo LoRA": {"stage": "dpo", "dataset": "preference_en", "lora_target": "all"},
    "grpo LoRA": {"stage": "grpo", "dataset": "data/exam_en.jsonl", "lora_target": "all", "rewards": "length",
                  "length_target": "2-8", "num_generations": 4, "max_new_tokens": 32, "lora_dropout": 0},
}  # fmt: skip
LOSS_BOUND = 1e-3  # between GPU and CPU in float32, of each of three steps
PLAN_BOUND = 0.25  # of the measured peak
LOGIT_BOUND = 0.1  # of bfloat16 logits after merging an adapter


class Failed(Exception):
    """A row did not hold; its text is the last column."""


@dataclass
class Check:
    """What all rows share: where things are, and what was found so far."""

    options: argparse.Namespace
    folder: Path
    began: float = field(default_factory=time.monotonic)
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds until the script has to end."""
        return float(self.options.seconds) - (time.monotonic() - self.began)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a child: offline, and without a GPU where the CPU is asked for."""
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self.options.device == "cpu" else {}
        return {**os.environ, "HF_HUB_OFFLINE": "1", **hidden}

    def row(self, name: str, seconds: float, work: Callable[[], str]) -> None:
        """Run one row if so many seconds are left, and print it."""
        started = time.monotonic()
        if self.left < seconds:
            status, found = "skipped", f"{self.left:.0f} s are left, it needs about {seconds:.0f}"
        else:
            try:
                status, found = "ok", work()
            except (Failed, OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
                status, found = "FAILED", str(error) or type(error).__name__
        self.rows.append((name, status, found))
        print(f"{name:<26} {status:<8} {found}  ({time.monotonic() - started:.0f} s)", flush=True)

    def run(self, name: str, *words: str, environment: dict[str, str] | None = None) -> str:
        """Run a command within the time that is left; return what it printed. Its log stays in the folder."""
        done = subprocess.run(
            words, cwd=REPOSITORY, env=environment or self.environment, capture_output=True, text=True,
            timeout=max(self.left, 1),
        )  # fmt: skip
        log = self.folder / f"{name}.log"
        log.write_text(f"{' '.join(words)}\n{done.stdout}\n{done.stderr}", encoding="utf-8")
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Failed(f"exit {done.returncode}: {last[:160]} (see {log})")
        return done.stdout

    def carellama(self, name: str, *words: str, environment: dict[str, str] | None = None) -> str:
        """Run a command of CareLlama."""
        return self.run(name, sys.executable, "-m", "carellama", *words, environment=environment)


def flags(options: dict[str, object]) -> list[str]:
    """Options as words."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def make_model(folder: Path, shape: dict[str, int], dtype: str) -> Path:
    """Write a Llama with random weights and a byte-level tokenizer learned from the bundled data."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    texts = [path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "data").glob("consult_*.json"))]
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )
    torch.manual_seed(0)
    config = LlamaConfig(**shape, max_position_embeddings=2048, eos_token_id=2, pad_token_id=0, bos_token_id=1)
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def machine(check: Check) -> str:
    """The device, the matrix rate in bfloat16, and which faster parts are installed."""
    code = (
        "import importlib.util as u, torch; from carellama.hardware import measure_matmul_flops, has_gpu\n"
        "name = torch.cuda.get_device_name() if has_gpu() else 'CPU'\n"
        "known = ('flash_attn', 'liger_kernel', 'vllm', 'bitsandbytes', 'trl')\n"
        "parts = [part for part in known if u.find_spec(part)]\n"
        "rate = measure_matmul_flops('bfloat16' if has_gpu() else 'float32')\n"
        "print(f'{name}, torch {torch.__version__}, {rate / 1e12:.3g} TFLOP/s, installed: {\" \".join(parts)}')"
    )
    found = check.run("machine", sys.executable, "-c", code).strip()
    if check.options.device == "cuda" and found.startswith("CPU"):
        raise Failed(f"torch sees no GPU: {found}")
    return found


def losses_agree(check: Check, tiny: Path) -> str:
    """Three losses of the tiny model in float32, on the device and on the CPU."""
    given = {**COMMON, "model_name_or_path": tiny, "dataset": "consult_en", "lora_dropout": 0, "max_steps": 3,
             "bf16": "false", "dtype": "float32", "per_device_train_batch_size": 4, "learning_rate": 1e-3}  # fmt: skip
    found = {}
    on_cpu = {**check.environment, "CUDA_VISIBLE_DEVICES": ""}
    for device, environment in (("device", check.environment), ("cpu", on_cpu)):
        output = check.folder / f"losses-{device}"
        check.carellama(f"losses-{device}", "train", "--do_train", *flags({**given, "output_dir": output}),
                        environment=environment)  # fmt: skip
        found[device] = [one["loss"] for one in log_of(output)]
    apart = max(abs(one - two) for one, two in zip(found["device"], found["cpu"], strict=True))
    text = f"{len(found['cpu'])} losses differ by at most {apart:.1e}, bound {LOSS_BOUND:.0e}"
    if len(found["cpu"]) != 3 or apart > LOSS_BOUND:
        raise Failed(text)
    return text


def log_of(output: Path) -> list[dict[str, Any]]:
    """The steps of trainer_log.jsonl that have a loss."""
    lines = (output / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [one for one in map(json.loads, lines) if one.get("loss") is not None]


def training(check: Check, name: str, model: Path) -> str:
    """Tokens a second, share of the matrix rate, and the peak of memory against that of `carellama plan`."""
    label = name.replace(" ", "-")
    output, report = check.folder / label, check.folder / f"{label}.plan.json"
    steps = 2 if name.startswith("grpo") else check.options.steps
    given = {**COMMON, "model_name_or_path": model, "max_steps": steps, "output_dir": output,
             "per_device_train_batch_size": check.options.batch, **TRAININGS[name]}  # fmt: skip
    check.carellama(f"{label}-plan", "plan", *flags(given), "--plan_steps", "0", "--report", str(report))
    predicted = json.loads(report.read_text(encoding="utf-8"))["total"]
    check.carellama(label, "train", "--do_train", *flags(given))
    log = log_of(output)
    later = [one for one in log[1:] if one.get("tokens_per_second")] or log
    rates = [sorted(float(one.get(key) or 0) for one in later)[len(later) // 2]
             for key in ("tokens_per_second", "matrix_share")]  # fmt: skip
    losses = f"loss {log[0]['loss']:.3f} to {log[-1]['loss']:.3f}"
    peak = max(float(one.get("memory_gb") or 0) for one in log) * 1e9
    if not peak:  # grpo: TRL's trainer logs neither memory nor rate
        return f"{len(log)} steps, {losses}, planned {predicted / 1e9:.2f} GB (the peak is not logged)"
    error = predicted / peak - 1
    text = (
        f"{rates[0]:,.0f} tokens/s, {rates[1]:.0%} of the matrix rate, {losses}, "
        f"peak {peak / 1e9:.2f} GB, planned {predicted / 1e9:.2f} ({error:+.0%})"
    )
    # a CPU reports what the process holds now, not the peak of a step
    if check.options.device == "cuda" and abs(error) > PLAN_BOUND:
        raise Failed(f"{text}, bound {PLAN_BOUND:.0%}")
    return text


def exported(check: Check, model: Path) -> str:
    """Export the LoRA run, and compare plain transformers on it with plain peft on its parts."""
    target = check.folder / "export"
    adapter = check.folder / "sft-LoRA"
    check.carellama("export", "export", "--model_name_or_path", str(model), "--checkpoint_dir", str(adapter),
                    "--output_dir", str(target))  # fmt: skip
    code = (
        "import sys, torch\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM as Model, AutoTokenizer\n"
        "base, adapter, merged = sys.argv[1:]\n"
        "device = 'cuda' if torch.cuda.is_available() else 'cpu'\n"
        "tokenizer = AutoTokenizer.from_pretrained(merged)\n"
        "ids = tokenizer('What helps against a cough? 咳嗽怎么办？', return_tensors='pt').input_ids.to(device)\n"
        "with torch.no_grad():\n"
        "    one = Model.from_pretrained(merged, dtype=torch.float32).to(device)(ids).logits\n"
        "    parts = PeftModel.from_pretrained(Model.from_pretrained(base, dtype=torch.float32), adapter)\n"
        "    two = parts.to(device)(ids).logits\n"
        "print((one - two).abs().max().item())"
    )
    apart = float(check.run("readers", sys.executable, "-c", code, str(model), str(adapter), str(target)))
    text = f"logits of the merged folder differ by at most {apart:.1e}, bound {LOGIT_BOUND}"
    if not apart <= LOGIT_BOUND:
        raise Failed(text)
    return text


def served(check: Check, model: Path, engine: str) -> str:
    """`carellama api` under 8 clients, by benchmarks/serve_speed.py."""
    tokens = str(check.options.tokens)
    ours = f"--model_name_or_path {model} --engine {engine} --max_new_tokens {tokens}"
    given = {"ours": ours, "clients": 8, "rounds": 1, "tokens": tokens, "device": check.options.device}
    found = check.run(f"api-{engine}", sys.executable, "benchmarks/serve_speed.py", *flags(given))
    return " ".join(found.split("CareLlama", 1)[-1].split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--model", help="a model folder in place of the random one")
    parser.add_argument("--output", help="folder of logs, runs and gpu_check.json; default: a temporary one, kept")
    parser.add_argument("--seconds", type=float, default=450, help="after which no further row begins")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--only", nargs="*", help="names of rows, or their beginnings")
    options = parser.parse_args()
    folder = Path(options.output or tempfile.mkdtemp(prefix="gpu-check-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    check = Check(options, folder)
    print(f"logs: {folder}", flush=True)
    tiny = make_model(folder / "tiny", TINY_SHAPE, "float32")
    large = Path(options.model).resolve() if options.model else tiny
    if not options.model and options.device == "cuda":
        large = make_model(folder / "model", GPU_SHAPE, "bfloat16")
    work: dict[str, tuple[float, Callable[[], str]]] = {
        "machine": (10, lambda: machine(check)),
        "losses, GPU against CPU": (40, lambda: losses_agree(check, tiny)),
        **{name: (40, lambda name=name: training(check, name, large)) for name in TRAININGS},  # type: ignore[misc]
        "export, read by strangers": (30, lambda: exported(check, large)),
        "api transformers": (40, lambda: served(check, large, "transformers")),
    }
    if options.device == "cuda" and subprocess.run(["which", "vllm"], capture_output=True).returncode == 0:
        work["api vllm"] = (90, lambda: served(check, large, "vllm"))
    for name, (seconds, row) in work.items():
        if not options.only or name.startswith(tuple(options.only)):
            check.row(name, seconds if options.device == "cuda" else 1, row)
    report = [dict(zip(("row", "status", "result"), row, strict=True)) for row in check.rows]
    (folder / "gpu_check.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    failed = [name for name, status, _ in check.rows if status == "FAILED"]
    skipped = [name for name, status, _ in check.rows if status == "skipped"]
    print(f"{len(check.rows) - len(failed) - len(skipped)} ok, {len(failed)} failed, {len(skipped)} skipped; {folder}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
