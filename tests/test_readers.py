"""What we write is opened by programs that are not ours, each in a process without this package.

transformers 4.57 gets a folder of packages beside this environment's torch, made once in the user's cache; without a
package index its test is skipped. One process of a program reads all folders. Compared with base and adapter as this
package loads them: ids of a Chinese and English text with special tokens, logits, greedy answers, end tokens,
vocabulary rows, scores of a reward model. The spelling of the files is tested in test_export_files.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from carellama import run as runs
from carellama.config.environment import cache_home
from carellama.config.finetuning import FinetuningArguments
from carellama.config.model import ModelArguments
from carellama.disk import made_once
from carellama.export.merge import export_model
from carellama.export.parity import conversations
from carellama.model import to_gguf
from carellama.model.adapter import prepare
from carellama.model.gguf import read_header
from carellama.model.hub import EMBEDDED, model_folder
from carellama.model.load import bind, extended_tokenizer, load_model, load_tokenizer
from carellama.records import Message
from carellama.template import get_template
from carellama.tokenise import GroupEncoder
from hub_bases import BASES, write_base
from test_to_gguf import same_answer, tokens_of
from test_variants import config_of

pytestmark = pytest.mark.slow

OLD = ("transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2", "requests==2.34.2", "urllib3==2.8.0",
       "idna==3.20", "charset-normalizer==3.5.3", "certifi")  # fmt: skip
GOLDEN = "患者发烧三天，体温 38.5℃，BP 120/80 mmHg。\n\nTake 500 mg of paracetamol  (2×); any allergies?  无😷"
MESSAGES = [{"role": "user", "content": "发烧三天了怎么办？ What helps?"}]
IDS = [5, 6, 7, 8, 9, 10, 11, 12] * 10  # longer than the window of the sliding layers
TERMS = ("糖尿病", "高血压", "胰岛素")


# In a process that has multiplied other matrices, oneDNN takes other kernels, which round SmolLM2's logits by 2e-4.
LOGITS = """
import json, sys, torch
from carellama.config.model import ModelArguments
from carellama.model.load import load_model
network = load_model(ModelArguments(sys.argv[1]), dtype="float32", attention=None, kind="causal").eval()
with torch.no_grad():
    print(json.dumps(network(input_ids=torch.tensor([json.loads(sys.argv[2])])).logits[0, -1].tolist()))
"""


@cache
def logits_in_a_fresh_process(name: str) -> list[float]:
    """The last logits of an embedded model, as this package loads it."""
    done = subprocess.run(
        [sys.executable, "-c", LOGITS, name, json.dumps(IDS)], capture_output=True, text=True, check=True
    )
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


@dataclass
class Written:
    """A folder to be read, and where the same model comes from."""

    folder: Path
    source: ModelArguments
    adapter: Path | None = None  # plain peft puts it on the folder
    reward: bool = False
    expected: dict[str, Any] = field(default_factory=dict)

    def expect(self) -> None:
        """Ask base and adapters, as this package loads them."""
        tokenizer = load_tokenizer(self.source)
        text = GOLDEN + "".join(token.content for token in tokenizer.added_tokens_decoder.values()) + " 好"
        network = load_model(self.source, dtype="float32", attention=None, kind="reward" if self.reward else "causal")
        bind(network, tokenizer, extended=extended_tokenizer(self.source) is not None)
        network = prepare(network, self.source, FinetuningArguments(), trainable=False).eval()
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

    def job(self, name: str) -> dict[str, Any]:
        job: dict[str, Any] = {"name": name, "folder": str(self.folder), "text": self.expected["text"], "ids": IDS}
        if self.adapter:
            return job | {"adapter": str(self.adapter)}
        if self.reward:
            rows = [[{"role": turn.role, "content": turn.content} for turn in turns] for turns in conversations()]
            return job | {"conversations": rows}
        return job | {"messages": MESSAGES}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    """Exports, a whole checkpoint and an adapter, of bases of seven families and of SmolLM2."""
    root = tmp_path_factory.mktemp("written")
    bases = {family: write_base(family, root / family) for family in BASES}
    found: dict[str, Written] = {}

    def exported(name: str, source: ModelArguments, **options: Any) -> None:
        export_model(source, None, FinetuningArguments(), root / "exports" / name)
        found[name] = Written(root / "exports" / name, source, **options)

    for family, base in bases.items():
        exported(family, ModelArguments(str(base)))
    exported("smollm2", ModelArguments("smollm2-135m"))
    found["unpacked gguf"] = Written(Path(model_folder("smollm2-135m")), ModelArguments("smollm2-135m"))
    for one in found.values():  # before anything is trained, which changes how this process multiplies
        one.expect()
    data, terms = root / "rows.jsonl", root / "terms.txt"
    rows = [{"instruction": f"{term}怎么办？", "input": "", "output": f"{term}要控制。"} for term in TERMS * 4]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    terms.write_text("\n".join(TERMS), encoding="utf-8")
    pairs = root / "pairs.jsonl"
    both = [{"instruction": "我咳嗽。", "input": "", "output": [f"多喝水 {n}。", "忍着。"]} for n in range(4)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in both), encoding="utf-8")
    short = {"max_steps": 2, "per_device_train_batch_size": 4, "overwrite_output_dir": True}
    runs.run(config_of(root, bases["llama3"], "whole", dataset=data, finetuning_type="full", **short))
    found["checkpoint"] = Written(root / "whole", ModelArguments(str(root / "whole")))
    runs.run(config_of(root, bases["qwen2"], "terms", dataset=data, add_tokens=terms, lora_target="q_proj", **short))
    extended = ModelArguments(str(bases["qwen2"]), checkpoint_dir=str(root / "terms"))
    exported("added tokens", extended)
    found["adapter"] = Written(bases["qwen2"], extended, adapter=root / "terms")
    for family in ("llama3", "qwen2"):  # one has a token to pad with, one gets a new one
        runs.run(config_of(root, bases[family], f"rm {family}", dataset=pairs, stage="rm", **short))
        source = ModelArguments(str(bases[family]), checkpoint_dir=str(root / f"rm {family}"))
        exported(f"reward {family}", source, reward=True)
    for one in found.values():
        if not one.expected:
            one.expect()
    return found


def packages_of_transformers_4() -> Path:
    """The folder of transformers 4.57 and what it needs besides torch, made once; skips without an index."""
    folder = cache_home() / "tests" / OLD[0]
    with made_once(folder) as making:
        if making:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
                       "--target", str(making), *OLD]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if done.returncode:
                pytest.skip(f"transformers 4.57 cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    return folder


def read_all(written: dict[str, Written], folder: Path, packages: Path | None) -> dict[str, Any]:
    """Let one process read every folder; `packages` come before those of this environment."""
    jobs, answers = folder / "jobs.json", folder / "answers.json"
    jobs.write_text(json.dumps([one.job(name) for name, one in written.items()]))
    environment = dict(os.environ) | ({"PYTHONPATH": str(packages)} if packages else {})
    program = Path(__file__).with_name("stranger.py")
    done = subprocess.run(
        [sys.executable, str(program), str(jobs), str(answers)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(answers.read_text())


@pytest.fixture(scope="module")
def answers(written: dict[str, Written], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What transformers 5 or 4.57 reads, each in one process; the test that asks for it skips without an index."""

    @cache
    def read(version: str) -> dict[str, Any]:
        packages = packages_of_transformers_4() if version == "4.57" else None
        return read_all(written, tmp_path_factory.mktemp("read"), packages)

    return read


@pytest.mark.parametrize("version", ["5", "4.57"])
def test_transformers_reads_the_same_models(version: str, written: dict[str, Written], answers: Any) -> None:
    """T1, T2, T3, T22: other positions, a class that does not exist, a list that has no keys, another token scored."""
    result = answers(version)
    assert result["version"].startswith(version) and result["answers"].keys() == written.keys()
    errors = {name: answer["error"] for name, answer in result["answers"].items() if "error" in answer}
    assert not errors
    for name, one in written.items():
        answer, expected = result["answers"][name], one.expected
        same = ("ids", "with_special_tokens", "decoded", "plain")
        assert {key: answer[key] for key in same} == {key: expected[key] for key in same}, name
        assert answer["ids_of_tokenizers"] == expected["ids"], name
        assert answer["inputs"] == ["attention_mask", "input_ids"], name
        assert answer["length"] <= answer["rows"], name
        assert answer["eos"] in expected["ends"], name
        key = "scores" if one.reward else "logits"
        assert answer[key] == pytest.approx(expected[key], abs=1e-4), name


def test_end_tokens_and_answers_are_the_same_in_both_versions(written: dict[str, Written], answers: Any) -> None:
    """T2: greedy answers differed as soon as positions did."""
    names = [name for name, one in written.items() if not one.reward and not one.adapter]
    assert len(names) == len(BASES) + 4
    both = {version: answers(version)["answers"] for version in ("4.57", "5")}
    for name in names:
        old, new = both["4.57"][name], both["5"][name]
        keys = ("answer", "prompt", "dtype", "config_eos", "generation_eos")
        assert {key: old[key] for key in keys} == {key: new[key] for key in keys}
        expected = written[name].expected
        if name not in ("checkpoint", "unpacked gguf"):  # the export adds the ends of the template
            assert set(expected["ends"]) == set(new["generation_eos"]), name
            assert new["prompt"] == expected["prompt"], name


@pytest.fixture(scope="module")
def gguf_file(written: dict[str, Written], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of SmolLM2 as llama.cpp's own converter writes it, in 16 bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_gguf, "model_home", lambda: tmp_path_factory.mktemp("gguf"))
        return to_gguf.gguf_of(ModelArguments(str(written["smollm2"].folder)), "f16")


@pytest.fixture(scope="module")
def smollm2(written: dict[str, Written]) -> Any:
    """Model and tokenizer of the export."""
    folder = written["smollm2"].folder
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(
        folder
    )


def test_llama_cpp_reads_the_export(written: dict[str, Written], gguf_file: Path, smollm2: Any) -> None:
    """T2: positions, end token, template and ids arrive; the answer is that of transformers, token by token."""
    pytest.importorskip("xllamacpp")
    from carellama.engine.llamacpp import LlamaCppEngine

    model, tokenizer = smollm2
    header = read_header(gguf_file, ("tokenizer.ggml.tokens",))
    assert header.of_architecture("rope.freq_base") == 100000.0
    assert header.facts["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert header.facts["tokenizer.chat_template"] == tokenizer.chat_template
    assert len(header.facts["tokenizer.ggml.tokens"]) == model.get_input_embeddings().num_embeddings
    engine = LlamaCppEngine(gguf_file, adapters={}, parallel=1, context_tokens=256, threads=1)
    try:
        ids = tokenizer(written["smollm2"].expected["prompt"], add_special_tokens=False)["input_ids"]
        assert engine._ids([Message("user", MESSAGES[0]["content"])], ()) == ids
        same_answer(model, ids, tokens_of(engine, ids, ""))
    finally:
        engine.close()


def test_openvino_reads_the_export(written: dict[str, Written], gguf_file: Path, smollm2: Any) -> None:
    """T2: the same answer from OpenVINO GenAI, which reads the .gguf by itself."""
    pytest.importorskip("openvino_genai")
    model, tokenizer = smollm2
    program = (
        "import json, sys, openvino_genai as genai\n"
        "model = genai.LLMPipeline(sys.argv[1], 'CPU', INFERENCE_PRECISION_HINT='f32')\n"
        "ids = model.get_tokenizer().encode(sys.argv[2], add_special_tokens=False).input_ids\n"
        "config = genai.GenerationConfig(max_new_tokens=12, apply_chat_template=False)\n"
        "made = model.generate(ids, config).tokens[0]\n"
        "print(json.dumps([ids.data[0].tolist(), list(made)]))\n"
    )
    prompt = written["smollm2"].expected["prompt"]
    done = subprocess.run(
        [sys.executable, "-c", program, str(gguf_file), prompt], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ids, made = json.loads(done.stdout.strip().splitlines()[-1])
    assert ids == tokenizer(prompt, add_special_tokens=False)["input_ids"]
    same_answer(model, ids, made)
