"""How far each written form is from the trained model: SmolLM2 with a LoRA, and a tiny model of hidden size 512.

    python benchmarks/export_parity.py [--safety false] [--only tiny|smollm2]

Rows: the adapter itself in peft, the merged folder in transformers 5 and 4.57, .gguf files of every type in llama.cpp
(q4_K_M with and without the importance matrix), the adapter as a .gguf, OpenVINO, the page without a network, and files
with a fault (tests/broken_gguf.py), which have to be past the tolerance of q4_K_M. A row is printed when it is there.
The LoRAs are trained here for a few steps. Environments of other programs are made once in the user's cache
(tests/reader_environments.py).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from carellama.config.commands import ExportOptions
from carellama.config.model import ModelOptions
from carellama.export.command import _compare, _measure
from carellama.export.merge import load
from carellama.export.parity.compare import perplexity
from carellama.export.parity.table import ParityRow
from carellama.export.parity.trained import Trained
from carellama.export.targets import FOLDER_READER, GGUF_READER, TARGETS, ExportContext, Form
from carellama.model.gguf.write import base_folder
from carellama.model.zoo.resolve import model_folder

REPOSITORY = Path(__file__).resolve().parent.parent
TARGETS_ASKED = ("gguf", "lora-gguf", "web", "openvino")
TYPES = ("q4_K_M", "q8_0", "f16", "q6_K", "q5_K_M", "iq4_xs", "q4_0")  # the first is that of the page
HEAD = "| form | reader | logits | greedy | KL mean | KL 99.9% | top-1 | perplexity | urgency changed | formats |"


def train(base: str, folder: Path, *words: str) -> Path:
    """Train a LoRA for a few steps on the bundled consultations."""
    output = folder / "adapter"
    command = [sys.executable, "-m", "carellama", "train", "--stage", "sft", "--do_train", "--model_name_or_path", base]
    command += ["--dataset", "consult_en,consult_zh", "--output_dir", str(output), "--max_steps", "10"]
    command += "--per_device_train_batch_size 4 --gradient_accumulation_steps 1 --learning_rate 1e-3".split()
    command += ["--finetuning_type", "lora", "--template", "chatml", *words]
    subprocess.run(command, check=True, cwd=REPOSITORY)
    return output


def tiny(folder: Path) -> Path:
    """A random Llama of hidden size 512 and four layers with the tokenizer of SmolLM2, in 16 bits."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(str(model_folder("smollm2-135m")))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=512, intermediate_size=1024, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, initializer_range=0.05,
    )  # fmt: skip
    LlamaForCausalLM(config).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows_of(model: ModelOptions, folder: Path, *, safety: bool) -> Iterator[ParityRow]:
    """Write every form of a model, and read it back."""
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from broken_gguf import BROKEN
    from reader_environments import environment

    made, scratch = folder / "made", folder / "scratch"
    made.mkdir()
    scratch.mkdir()
    options = ExportOptions(str(made), to="hf," + ",".join(TARGETS_ASKED), gguf_type=",".join(TYPES))
    source = load(model, None)
    trained = _measure(source, scratch, safety=safety)
    assert isinstance(trained, Trained)
    print(f"perplexity of the trained model: {perplexity(trained):.4g}", flush=True)
    context = ExportContext(options, source, made, scratch, "model")
    forms = TARGETS["hf"](context)
    source.network = None  # type: ignore[assignment]
    forms.append(replace(forms[0], python=environment("transformers 4.57")))
    adapter = {"folder": str(base_folder(model)), "adapter": model.checkpoints[0]}
    forms.append(Form("adapter", model.checkpoints[0], FOLDER_READER, adapter))
    plain = ExportContext(replace(options, importance="none", gguf_type="q4_K_M"), source, made, scratch, "plain")
    plain.__dict__["merged"] = context.merged  # which is written
    forms += [form for name in TARGETS_ASKED for form in TARGETS[name](context)]
    forms += [replace(form, name="q4_K_M, no matrix") for form in plain.gguf_files]
    read = dict[int, ParityRow]()
    for form in forms:
        read[id(form)] = read[id(form.same_as)] if form.same_as else _compare(form, trained, context)
        yield replace(read[id(form)], form=form.name)
    without = replace(trained, cases=(), drafts=(), answers=())
    for name, breaking in BROKEN.items():
        breaking(made / "model.f16.gguf", file := scratch / "broken.gguf")
        yield _compare(Form(f"f16, {name}", file.name, GGUF_READER, {"file": str(file)}), without, context)


def line(row: ParityRow) -> str:
    """A row of the Markdown table."""
    safety = f"{row.safety.changed} of {row.safety.cases}" if row.safety else "-"
    formats = ", ".join(f"{name} {count}" for name, count in row.tensor_types.items())
    cells = [row.form, row.reader, f"{row.max_logit_difference:.2g}", f"{row.greedy_equal} of 32", f"{row.kl_mean:.2g}",
             f"{row.kl_999:.2g}", f"{row.top1_agreement:.1%}", f"{row.perplexity:.4g}", safety, formats]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--safety", choices=("true", "false"), default="true")
    parser.add_argument("--only", choices=("tiny", "smollm2"))
    given = parser.parse_args()
    for name in ("tiny", "smollm2"):
        if given.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            base = str(tiny(folder / "base")) if name == "tiny" else "smollm2-135m"
            adapter = train(base, folder)
            started = time.monotonic()
            print(f"\n{name} + LoRA\n\n{HEAD}\n|" + " --- |" * HEAD.count(" |"), flush=True)
            for row in rows_of(ModelOptions(base, checkpoint_dir=str(adapter)), folder, safety=given.safety == "true"):
                print(line(row), flush=True)
            print(f"{time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
