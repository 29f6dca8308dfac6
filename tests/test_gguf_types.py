"""Every number format of a .gguf answers through llama.cpp as its weights say, and so does an adapter in a .gguf.

One tiny model is converted once for all of them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from broken_gguf import BROKEN
from carellama.config.data import PromptOptions
from carellama.config.engine import EngineOptions
from carellama.config.model import ModelOptions
from carellama.engine.base import Sampling
from carellama.engine.generate import generate
from carellama.engine.load import choose
from carellama.export.parity import readers
from carellama.export.parity.compare import compare, perplexity
from carellama.export.parity.texts import PROMPT
from carellama.export.parity.tolerance import past_tolerance, tolerance_of
from carellama.export.parity.trained import Trained, measure
from carellama.model.gguf import write as to_gguf
from carellama.model.gguf.converter import run_converter
from carellama.model.gguf.layout import read_layout
from carellama.model.gguf.read import read_header
from carellama.model.gguf.tensor_types import FILE_TYPES
from carellama.model.gguf.write import convert_folder
from carellama.templates.template import get_template
from conftest import make_model
from exporting import export
from hub_bases import write_base
from test_adapter import trained
from test_to_gguf import tokens_of

BEHIND = 0.01  # of the logits' spread: which of two tokens is taken depends on the order of sums
BEHIND_ROUNDED = 0.3  # llama.cpp multiplies rounded weights with inputs that it rounds to 8 bits


PARTS = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
NAMES = re.compile("|".join(sorted(PARTS, key=len, reverse=True)))


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp's threads wait for each other by spinning: beside other tests they take the time from all."""
    monkeypatch.setattr("carellama.engine.llamacpp.server.physical_cores", lambda: 1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers, whose rows 256 divides, with a small tokenizer that llama.cpp can take."""
    pytest.importorskip("xllamacpp")
    folder = tmp_path_factory.mktemp("base")
    tokenizer = AutoTokenizer.from_pretrained(write_base("mistral", tmp_path_factory.mktemp("of") / "mistral"))
    network = make_model(len(tokenizer), hidden_size=256, intermediate_size=256, tie_word_embeddings=True)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)  # else every token is about as likely as any other
    for name in ("bos_token_id", "eos_token_id"):
        setattr(network.config, name, getattr(tokenizer, name))
        setattr(network.generation_config, name, getattr(tokenizer, name))
    network.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def network(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


ABOUT = {"name": "med", "license": "llama2", "base_model": "acme/tiny-llama", "language": ["zh"]}


@pytest.fixture(scope="module")
def files(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each type, from one run of the converter."""
    place, runs = tmp_path_factory.mktemp("files"), list[str]()
    found = {kind: place / f"model.{kind}.gguf" for kind in FILE_TYPES}

    def counted(code: str, words: Sequence[str], what: str) -> None:
        runs.append(what)
        run_converter(code, words, what)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_gguf, "run_converter", counted)
        types = convert_folder(base, found, about=ABOUT)
    assert runs == [str(base)] and sorted(types) == sorted(FILE_TYPES)
    assert {path.name for path in place.iterdir()} == {path.name for path in found.values()}
    return found


@pytest.fixture
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA on the base."""
    return trained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path_factory.mktemp("lora"))


def answer(model: Path, adapters: str | None = None) -> tuple[list[int], list[int]]:
    """The ids of a prompt and of its greedy answer, as `carellama chat` and `api` ask llama.cpp."""
    options = EngineOptions("llamacpp", parallel=1, context_tokens=128, adapters=adapters)
    engine = choose(ModelOptions(str(model)), PromptOptions(), options)
    try:
        ids = list(engine.prepare(PROMPT).ids or ())
        name = adapters.partition("=")[0] if adapters else ""
        (said,) = generate(engine, [PROMPT], Sampling(temperature=0.0, max_new_tokens=8, adapter=name))
        assert said.text
        return ids, tokens_of(engine, ids, name)
    finally:
        engine.close()


def behind(network: Any, prompt: list[int], ours: list[int]) -> float:
    """How far a token is behind the likeliest one at most, in standard deviations of the logits."""
    with torch.no_grad():
        logits = network(torch.tensor([prompt + ours])).logits[0, len(prompt) - 1 : -1]  # (T, V)
    chosen = logits[range(len(ours)), ours]
    return float(((logits.max(-1).values - chosen) / logits.std(-1)).max())


def with_weights_of(file: Path, network: Any) -> Any:
    """The network with the weights of a .gguf, unpacked by the package gguf."""
    from gguf import GGMLQuantizationType, quants

    data, config, weights = np.memmap(file, np.uint8, "r"), network.config, {}
    for one in read_layout(file).tensors:
        rows = data[one.start : one.start + one.size].reshape(one.rows, -1)
        found = torch.from_numpy(quants.dequantize(rows, GGMLQuantizationType[one.type]).copy())
        for part, heads in (("attn_q", config.num_attention_heads), ("attn_k", config.num_key_value_heads)):
            if part in one.name:  # llama.cpp turns neighbouring rows together, transformers those of both halves
                found = found.reshape(heads, -1, 2, one.columns).swapaxes(1, 2)
        weights[one.name] = found.reshape(one.dimensions[::-1])
    own = copy.deepcopy(network)
    state = {NAMES.sub(lambda part: PARTS[part[0]], name).replace("blk.", "model.layers."): value
             for name, value in weights.items()}  # fmt: skip
    missing, unexpected = own.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # which is the embedding
    return own


@pytest.mark.slow
def test_a_file_says_its_name_licence_and_base(files: dict[str, Path]) -> None:
    """Or a model under a licence of its own looks free in LM Studio and Ollama, where it was called Model."""
    names = ("name", "license", "languages", "base_model.0.repo_url")
    facts = [read_header(path, ("general.languages",)).facts for path in files.values()]
    said = [[one[f"general.{name}"] for name in names] for one in facts]
    assert said == [["med", "llama2", ["zh"], "https://huggingface.co/acme/tiny-llama"]] * len(FILE_TYPES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILE_TYPES)
def test_each_type_answers_as_its_weights_in_transformers(kind: str, files: dict[str, Path], network: Any) -> None:
    """Token by token but for ties: f16 as the folder, the others as their unpacked weights."""
    base_type = FILE_TYPES[kind].base
    assert sum(one.type == base_type for one in read_layout(files[kind]).tensors) > 5
    prompt, ours = answer(files[kind])
    own = network if kind == "f16" else with_weights_of(files[kind], network)
    assert len(ours) > 10 and behind(own, prompt, ours) < (BEHIND if kind == "f16" else BEHIND_ROUNDED)
    assert behind(own, prompt, ours[::-1]) > 2  # the bound tells an answer from other tokens
    if kind == "f16":
        given = torch.tensor([prompt])
        made = network.generate(given, max_new_tokens=len(ours), do_sample=False)[0, len(prompt) :].tolist()
        assert made == ours


@pytest.mark.slow
def test_an_adapter_in_a_gguf_is_used_again(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chat and API beside its base, and by export and train as the folder that it was made from."""
    from peft import PeftModel

    from carellama.model.zoo.pull import with_named_weights

    monkeypatch.setattr(to_gguf, "model_home", lambda: tmp_path / "cache")
    export(ModelOptions(str(base), checkpoint_dir=str(adapter)), None, tmp_path / "out", to="lora-gguf")
    file = tmp_path / "out" / "out-lora.gguf"
    adapted: Any = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(adapter)
    ).eval()
    prompt, ours = answer(base, f"own={file}")
    assert len(ours) > 10 and behind(adapted, prompt, ours) < BEHIND
    assert answer(base)[1] != ours
    given = ModelOptions(str(base), checkpoint_dir=str(file))
    (folder,) = with_named_weights(given, PromptOptions())[0].checkpoints  # what `carellama train` goes on from
    assert (Path(folder) / "adapter_model.safetensors").is_file()
    export(given, None, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    with torch.no_grad():
        one, other = (each(torch.tensor([prompt])).logits for each in (merged, adapted))
    assert torch.allclose(one, other, atol=0.05, rtol=0.01)


def figures(trained: Trained, file: Path, scratch: Path, form: str) -> list[str]:
    """What of a file is past the tolerance of q4_K_M."""
    job = {**trained.job(), "threads": 1, "file": str(file)}
    reading = readers.read("read_gguf.py", job, scratch, what=form)
    row = compare(trained, reading, scratch, form=form, file=file.name)
    return past_tolerance(row, tolerance_of("q4_K_M", trained.stored), perplexity(trained))


@pytest.mark.slow
def test_a_file_with_a_fault_is_past_the_tolerance_and_one_of_four_bits_is_not(
    base: Path, network: Any, files: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer, scratch = AutoTokenizer.from_pretrained(base), tmp_path / "scratch"
    scratch.mkdir()
    template = get_template(None, tokenizer)
    asked = measure(network, tokenizer, template, scratch, stored="float16", dtype="float32", safety=False)
    asked = replace(asked, windows=asked.windows[:3])  # 500 held-out tokens
    assert figures(asked, files["q4_K_M"], tmp_path, "q4_K_M") == []
    found = {}
    for name, break_file in BROKEN.items():
        break_file(files["f16"], file := tmp_path / "broken.gguf")
        found[name] = figures(asked, file, tmp_path, name)
    assert len(found) >= 4 and all(any("KL divergence" in one for one in past) for past in found.values()), found
    longer = replace(asked, ends=(*asked.ends, 5))  # the training also ended answers at a token that the file does not
    (end,) = figures(longer, files["f16"], tmp_path, "lost end")
    assert end == "a token that ended an answer in training does not end one there"
