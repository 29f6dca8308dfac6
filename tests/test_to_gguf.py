"""A folder as a .gguf: the same answers as transformers gives, adapters merged or apart, no code of the model's run."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from carellama.config.model import ModelOptions
from carellama.engine.base import Sampling
from carellama.errors import UserError
from carellama.model.card_head import card_head
from carellama.model.gguf import converter
from carellama.model.gguf import write as to_gguf
from carellama.model.gguf.converter import ConverterRefuses, NotConvertible
from carellama.model.gguf.read import read_header
from carellama.model.gguf.tensor_types import FILE_TYPES
from carellama.model.gguf.write import gguf_of, lora_gguf_of
from carellama.model.readers import make_readable
from carellama.model.zoo.resolve import model_folder
from carellama.records import Message
from carellama.weights import weight_files

ASKED = [
    "What is asthma?", "发烧三天了怎么办？", "List 3 signs of a stroke.", "请用中文介绍一下糖尿病。", "12345 + 678 = ?",
]  # fmt: skip
TOKENS = 24
TIE = 0.02  # of two logits: which of them is taken depends on the order of sums


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Conversions go here; converter and embedded models are those of the user's cache."""
    monkeypatch.setattr(to_gguf, "model_home", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", FILE_TYPES)
def test_a_file_is_taken_as_it_is(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert gguf_of(ModelOptions(str(file)), kind) == file


@pytest.mark.parametrize(("option", "value"), [("quantization_bit", 4), ("rope_scaling", "linear")])
def test_options_of_transformers_are_refused(option: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"--{option}.*transformers"):
        gguf_of(replace(ModelOptions("smollm2-135m"), **{option: value}), "f16")


def test_code_beside_a_model_is_kept_from_the_converter(tiny_folder: Path, tmp_path: Path) -> None:
    for file in tiny_folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "modeling_tiny.py").write_text("raise SystemExit")
    with to_gguf._without_code(tmp_path, pickles=False) as safe:
        names = {file.name for file in safe.iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
        assert not any(name.endswith(".py") for name in names)


def test_the_converter_reads_the_names_that_it_knows(tmp_path: Path) -> None:
    """Of a config.json of transformers 5 llama.cpp took a softmax for the experts of DeepSeek-V3."""
    written = json.dumps({"model_type": "deepseek_v3"})
    (tmp_path / "config.json").write_text(written)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with to_gguf._without_code(tmp_path, pickles=False) as safe:
        assert json.loads((safe / "config.json").read_text())["scoring_func"] == "sigmoid"
    assert (tmp_path / "config.json").read_text() == written


def test_what_the_converter_does_not_find_is_named() -> None:
    """GLM-4.5 with another tokenizer: `KeyError: '[gMASK]'`."""
    said = converter._last(["Traceback", "KeyError: '[gMASK]'"])
    assert said == "its converter asks for '[gMASK]', which config.json or tokenizer lacks"
    assert converter._last(["ERROR:hf-to-gguf:Model is not supported", "end"]) == "Model is not supported"


@pytest.mark.parametrize(("strips", "name"), [(False, "my-Phi-3-mini"), (True, "my-Phi3-mini")], ids=["no", "phi3"])
def test_a_name_that_llama_cpp_takes_for_a_tokenizer_is_kept_for_that_tokenizer(
    strips: bool, name: str, tmp_path: Path
) -> None:
    """Another tokenizer in a folder called phi3 made a .gguf that llama.cpp could not load: it asked for `</s>`."""
    folder = tmp_path / "my-Phi3-mini"
    folder.mkdir()
    tokenizer = {"model": {"type": "BPE"}, "added_tokens": [{"content": "<|end|>", "rstrip": strips}]}
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with to_gguf._without_code(folder, pickles=False) as safe:
        assert safe.name == name
    with to_gguf._without_code(tmp_path / "my-Phi3-mini", pickles=False, about={"name": "Phi3-med"}) as safe:
        assert card_head(safe) == {"name": "Phi3-med" if strips else "Phi-3-med"}


def test_weights_that_transformers_does_not_read_are_kept_from_the_converter(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "model_ema.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"{}")
    assert weight_files(tmp_path, pickles=True) == [tmp_path / "model.safetensors"]
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    shards = [tmp_path / f"model-0000{at}-of-00002.safetensors" for at in (1, 2)]
    assert weight_files(tmp_path, pickles=True) == shards


def test_pickled_weights_have_to_be_allowed(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="allow_pickle"), to_gguf._without_code(tmp_path, pickles=False):
        pass
    with to_gguf._without_code(tmp_path, pickles=True) as safe:
        assert [file.name for file in safe.iterdir()] == ["pytorch_model.bin"]


def test_another_content_is_another_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes.md").write_text("a")
    before = to_gguf._key([tmp_path], "f16")
    (tmp_path / "notes.md").write_text("b")
    assert to_gguf._key([tmp_path], "f16") == before != to_gguf._key([tmp_path], "q8_0")
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert to_gguf._key([tmp_path], "f16") != before


def test_what_was_refused_is_not_tried_again(cache: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def convert(*args: object, **kwargs: object) -> None:
        asked.append(args)
        raise ConverterRefuses("no such architecture")

    monkeypatch.setattr(to_gguf, "_convert", convert)
    for _ in range(2):
        with pytest.raises(NotConvertible, match="no such architecture"):
            gguf_of(ModelOptions(str(tiny_folder)), "f16")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ('{"peft_type": "VERA"}', "VERA"),
        ('{"peft_type": "LORA", "use_dora": true}', "use_dora"),
        ('{"peft_type": "LORA", "trainable_token_indices": {"embed_tokens": [1]}}', "trainable_token_indices"),
        ('{"peft_type": "LORA", "bias": "all"}', "biases"),
    ],
)
def test_adapters_that_llama_cpp_does_not_know_are_refused(settings: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(settings)
    with pytest.raises(NotConvertible, match=f"{reason}.*--checkpoint_dir"):
        lora_gguf_of(ModelOptions("smollm2-135m"), tmp_path)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory):
    """The embedded model in float32 with a random adapter on it, its tokenizer, and the folders of both."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, adapter = model_folder("smollm2-135m"), tmp_path_factory.mktemp("adapter")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "k_proj", "v_proj", "down_proj"], init_lora_weights=False,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.mul_(0.5)  # the model still speaks
    model.save_pretrained(str(adapter))
    return model, AutoTokenizer.from_pretrained(folder), str(folder), adapter


def same_answer(model, prompt: list[int], ours: list[int]) -> None:
    """Each token is the likeliest after those before it, or one that ties with it."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([prompt + ours])).logits[0, len(prompt) - 1 : -1]
    best = logits.max(-1).values
    behind = best - logits[range(len(ours)), ours]
    assert behind.max() < TIE, f"token {int(behind.argmax())} of {len(ours)} is {float(behind.max()):.3f} behind"


def tokens_of(engine, prompt: list[int], adapter: str) -> list[int]:
    """The tokens of a greedy answer: the engine itself gives text alone."""
    body = engine._request_body(prompt, TOKENS, Sampling(temperature=0, adapter=adapter))
    said: list[Any] = []
    engine._server.complete(body | {"stream": False, "verbose": True, "return_tokens": True}, said.append)
    return said[0]["__verbose"]["tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["glm4", "hunyuan_v1_dense", "phi3"])
def test_families_that_the_converter_stumbled_over_are_written(family: str, tmp_path: Path) -> None:
    """Its wheel lacks names that its modules ask for at import; Phi-4 was known by its tokenizer's class alone."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder("smollm2-135m"))
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|user|>"]})  # which GLM-4 ends its answers with
    settings: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16,
        "num_key_value_heads": 1, "vocab_size": len(tokenizer), "pad_token_id": 0, "max_position_embeddings": 128,
    }  # fmt: skip
    config = CONFIG_MAPPING[family](**settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    make_readable(tmp_path / "model")
    to_gguf.convert_folder(tmp_path / "model", {"f16": tmp_path / "model.gguf"})
    facts = read_header(tmp_path / "model.gguf").facts
    assert facts["general.architecture"] in (family, "hunyuan-dense") and facts["tokenizer.ggml.pre"] == "smollm"


@pytest.mark.slow
def test_answers_are_those_of_transformers(cache: Path, adapted) -> None:
    """In 16 bits, token by token, without and with a LoRA adapter chosen at the request; prompts are equal too."""
    pytest.importorskip("xllamacpp")
    from carellama.engine.llamacpp.engine import LlamaCppEngine

    model, tokenizer, folder, adapter = adapted
    arguments = ModelOptions(folder)
    path, lora = gguf_of(arguments, "f16"), lora_gguf_of(arguments, adapter)
    engine = LlamaCppEngine(path, adapters={"ours": lora}, parallel=2, context_tokens=256, threads=1)
    answers: dict[str, list[list[int]]] = {"": [], "ours": []}
    try:
        for name, said in answers.items():
            for question in ASKED:
                prompt = [Message("user", question)]
                ids = tokenizer.apply_chat_template(
                    [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
                )
                assert engine.prepare(prompt).ids == list(ids)
                said.append(tokens_of(engine, list(ids), name))
                with nullcontext() if name else model.disable_adapter():
                    same_answer(model, list(ids), said[-1])
    finally:
        engine.close()
    assert answers[""] != answers["ours"]
