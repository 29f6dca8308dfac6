"""What this package writes for other programs to read, and what it expects them to find there.

    written = write_all(folder)          # exports, a checkpoint and an adapter, by name

Bases are the tiny random ones of hub_bases.py and SmolLM2. llama.cpp's converter knows a byte-level tokenizer by its
vocabulary, so that bases called "known" have that of SmolLM2 or Qwen2.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

import preloaded
from carellama.config.model import ModelOptions
from carellama.export.parity.rewards import conversations
from carellama.model.adapter_plan import plan_adapters
from carellama.model.adapters import apply_adapters
from carellama.model.load import load_model
from carellama.model.tokenizer import load_tokenizer, match_tokenizer, tokenizer_checkpoint
from carellama.model.zoo.resolve import EMBEDDED, model_folder
from carellama.templates.template import get_template
from carellama.templates.tokenize import GroupEncoder
from carellama.train import run as runs
from exporting import FEW, export
from hub_bases import BASES, write_base
from reader_environments import qwen2_tokenizer
from test_variants import config_of

GOLDEN = (
    "患者发烧三天，体温 38.5℃，BP 120/80 mmHg。糖尿病、高血压。\n\nTake 500 mg of paracetamol  (2×); any "
    "allergies?  无😷 What are the symptoms of asthma? See a doctor at once if breathing is hard. "
    "Sweating, a tired heart: these differ where all merges have one score"
)
MESSAGES = [{"role": "user", "content": "发烧三天了怎么办？ What helps?"}]
IDS = [5, 6, 7, 8, 9, 10, 11, 12] * 10  # longer than the window of the sliding layers
TOKENS = 6  # of an answer
TERMS = ("糖尿病", "高血压", "胰岛素")
SMOLLM2_KNOWS = ("llama3", "qwen3", "bloom", "gpt2")  # families that can have its tokenizer


# In a process that has multiplied other matrices, oneDNN takes other kernels, which round SmolLM2's logits by 2e-4;
# the server of forks has multiplied none.
LOGITS = """
import json, sys, torch
from carellama.config.model import ModelOptions
from carellama.model.load import load_model
network = load_model(ModelOptions(sys.argv[1]), dtype="float32", attention=None, kind="causal").eval()
with torch.no_grad():
    print(json.dumps(network(input_ids=torch.tensor([json.loads(sys.argv[2])])).logits[0, -1].tolist()))
"""


@cache
def logits_in_a_fresh_process(name: str) -> list[float]:
    """The last logits of an embedded model, as this package loads it."""
    done = subprocess.run(
        [preloaded.python(), "-c", LOGITS, name, json.dumps(IDS)], capture_output=True, text=True, check=True
    )
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


@dataclass
class Written:
    """A folder to be read, and where the same model comes from."""

    folder: Path
    source: ModelOptions
    adapter: Path | None = None  # plain peft puts it on the folder
    reward: bool = False
    expected: dict[str, Any] = field(default_factory=dict)

    def expect(self) -> None:
        """Ask base and adapters, as this package loads them."""
        tokenizer = load_tokenizer(self.source)
        text = GOLDEN + "".join(token.content for token in tokenizer.added_tokens_decoder.values()) + " 好"
        network = load_model(self.source, dtype="float32", attention=None, kind="reward" if self.reward else "causal")
        match_tokenizer(network, tokenizer, extended=tokenizer_checkpoint(self.source) is not None)
        network = apply_adapters(network, plan_adapters(self.source)).eval()  # type: ignore[assignment]
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        template = get_template(None, tokenizer)
        self.expected = {
            "text": text, "ids": ids, "with_special_tokens": tokenizer(text)["input_ids"],
            "decoded": tokenizer.decode(ids), "plain": tokenizer.decode(ids, skip_special_tokens=True),
            "ends": [*template.stop_ids, tokenizer.eos_token_id],
            "prompt": tokenizer.apply_chat_template(
                MESSAGES, chat_template=template.jinja, tokenize=False, add_generation_prompt=True),
        }  # fmt: skip
        with torch.no_grad():
            if self.reward:
                network.config.pad_token_id = None
                encoded = GroupEncoder(tokenizer).encode([template.groups(turns) for turns in conversations()])
                rows = [[int(token) for part in parts for token in part] for parts in encoded]
                self.expected["scores"] = [network(input_ids=torch.tensor([row])).logits[0, 0].item() for row in rows]
            elif self.source.model_name_or_path in EMBEDDED:
                self.expected["logits"] = logits_in_a_fresh_process(self.source.model_name_or_path)
            else:
                self.expected["logits"] = network(input_ids=torch.tensor([IDS])).logits[0, -1].tolist()
            if not self.reward:
                prompt = tokenizer(self.expected["prompt"], add_special_tokens=False)["input_ids"]
                self.expected |= {"prompt_ids": prompt, "answer": greedy(network, prompt, self.expected["ends"])[0]}
                self.expected["continued"], self.expected["score"] = greedy(network, IDS, [])

    def job(self, name: str) -> dict[str, Any]:
        job: dict[str, Any] = {"name": name, "folder": str(self.folder), "text": self.expected["text"], "ids": IDS}
        if self.adapter:
            return job | {"adapter": str(self.adapter)}
        if self.reward:
            rows = [[{"role": turn.role, "content": turn.content} for turn in turns] for turns in conversations()]
            return job | {"conversations": rows}
        return job | {"messages": MESSAGES}


def greedy(network: Any, prompt: list[int], ends: list[int]) -> tuple[list[int], float]:
    """Return the likeliest tokens after a prompt, up to one of `ends`, and the sum of their log-probabilities."""
    ids, score, read, cache = [*prompt], 0.0, 0, None
    while len(ids) < len(prompt) + TOKENS and not set(ids[len(prompt) :]) & {*ends}:
        said = network(input_ids=torch.tensor([ids[read:]]), past_key_values=cache, use_cache=True)
        scores, read, cache = torch.log_softmax(said.logits[0, -1], -1), len(ids), said.past_key_values
        ids.append(int(scores.argmax()))
        score += float(scores.max())
    return ids[len(prompt) :], score


def write_all(root: Path) -> dict[str, Written]:
    """Write exports, a whole checkpoint and an adapter; skip without an index, where Qwen2's tokenizer comes from."""
    smollm2 = Path(model_folder("smollm2-135m"))
    bases = {family: write_base(family, root / family) for family in BASES}
    for family in SMOLLM2_KNOWS:
        bases[f"{family} known"] = write_base(family, root / f"{family} known", tokenizer_of=smollm2)
    bases["qwen2 known"] = write_base("qwen2", root / "qwen2 known", tokenizer_of=qwen2_tokenizer())
    found: dict[str, Written] = {}

    def exported(name: str, source: ModelOptions, **options: Any) -> None:
        export(source, None, root / "exports" / name, tokens=FEW)
        found[name] = Written(root / "exports" / name, source, **options)

    for name, base in bases.items():
        exported(name, ModelOptions(str(base)))
    exported("smollm2", ModelOptions("smollm2-135m"))
    for one in found.values():  # before anything is trained, which changes how this process multiplies
        one.expect()
    found["unpacked gguf"] = replace(found["smollm2"], folder=smollm2)
    data, terms, pairs = training_files(root)
    short = {"max_steps": 2, "per_device_train_batch_size": 4, "overwrite_output_dir": True}
    runs.run(config_of(root, bases["llama3"], "whole", dataset=data, finetuning_type="full", **short))
    found["checkpoint"] = Written(root / "whole", ModelOptions(str(root / "whole")))
    for family in ("qwen2", "qwen3 known", "gemma3", "mistral"):  # every second one has a head of its own
        extended = f"{family} added"
        options = {"dataset": data, "add_tokens": terms, "lora_target": "q_proj"} | short
        runs.run(config_of(root, bases[family], extended, **options))
        exported(extended, ModelOptions(str(bases[family]), checkpoint_dir=str(root / extended)))
    found["adapter"] = Written(bases["qwen2"], found["qwen2 added"].source, adapter=root / "qwen2 added")
    for family in ("llama3", "qwen2"):  # one has a token to pad with, one gets a new one
        runs.run(config_of(root, bases[family], f"rm {family}", dataset=pairs, stage="rm", **short))
        source = ModelOptions(str(bases[family]), checkpoint_dir=str(root / f"rm {family}"))
        exported(f"reward {family}", source, reward=True)
    for one in found.values():
        if not one.expected:
            one.expect()
    return found


def training_files(root: Path) -> tuple[Path, Path, Path]:
    """Write records to train on, terms that become tokens, and pairs of a better and a worse answer."""
    data, terms, pairs = root / "rows.jsonl", root / "terms.txt", root / "pairs.jsonl"
    rows = [{"instruction": f"{term}怎么办？", "input": "", "output": f"{term}要控制。"} for term in TERMS * 4]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    terms.write_text("\n".join(TERMS), encoding="utf-8")
    both = [{"instruction": "我咳嗽。", "input": "", "output": [f"多喝水 {n}。", "忍着。"]} for n in range(4)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in both), encoding="utf-8")
    return data, terms, pairs
