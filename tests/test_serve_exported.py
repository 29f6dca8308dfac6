"""What an export wrote answers as transformers does when it is served: the folder, each .gguf, OpenVINO's folder."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from carellama.config.data import PromptOptions
from carellama.config.engine import EngineOptions
from carellama.config.model import ModelOptions
from carellama.engine.base import Sampling
from carellama.engine.generate import generate
from carellama.engine.load import choose
from carellama.export.parity.texts import PROMPT
from carellama.model.gguf import write as to_gguf
from carellama.model.zoo.resolve import model_folder
from exporting import FEW, export
from hub_bases import write_base
from test_adapter import trained
from test_to_gguf import same_answer, tokens_of

NEW_TOKENS = 16


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp's threads wait for each other by spinning: beside other tests they take the time from all."""
    monkeypatch.setattr("carellama.engine.llamacpp.server.physical_cores", lambda: 1)


def exported(family: str, to: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an export in 16 bits: a small base of a family with an adapter."""
    base, folder = place / "base", place / "out"
    write_base(family, base, tokenizer_of=Path(model_folder("smollm2-135m")))
    AutoModelForCausalLM.from_pretrained(base).half().save_pretrained(base)
    adapter = trained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), place / "adapter")
    monkeypatch.setattr(to_gguf, "model_home", lambda: place / "cache")
    export(ModelOptions(str(base), checkpoint_dir=str(adapter)), None, folder, tokens=FEW, to=to, gguf_type="f16")
    return folder


@pytest.mark.slow
def test_the_folder_and_its_gguf_answer_as_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Token by token in 16 bits, but for ties."""
    pytest.importorskip("xllamacpp")
    folder = exported("llama3", "hf,gguf", tmp_path, monkeypatch)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers = []
    for place in (folder, folder / "out.f16.gguf"):
        with closing(engine_of("llamacpp", place)) as engine:
            ids = list(engine.prepare(PROMPT).ids or ())
            answers.append(tokens_of(engine, ids, ""))
        same_answer(model, ids, answers[-1])
    assert answers[0] == answers[1] and len(answers[0]) > 10


@pytest.mark.slow
def test_an_export_answers_the_same_in_every_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers, llama.cpp and OpenVINO say the same words."""
    pytest.importorskip("xllamacpp")
    pytest.importorskip("openvino_genai")
    folder = exported("qwen3", "hf,gguf,openvino", tmp_path, monkeypatch)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = [{"role": one.role, "content": one.content} for one in PROMPT]
    text = tokenizer.apply_chat_template(rows, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    made = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)[0, ids.shape[1] :]
    expected = tokenizer.decode(made, skip_special_tokens=True)
    said = {}
    for name, place in (("llamacpp", "out.f16.gguf"), ("openvino", "openvino"), ("openvino", "out.f16.gguf")):
        with closing(engine_of(name, folder / place)) as engine:
            (reply,) = generate(engine, [PROMPT], Sampling(temperature=0.0, max_new_tokens=NEW_TOKENS))
        said[f"{name} {place}"] = reply.text
    assert said == dict.fromkeys(said, expected) and len(said) == 3


def engine_of(name: str, place: Path) -> Any:
    """An engine for one answer at a time."""
    options = EngineOptions(name, parallel=1, context_tokens=256)  # type: ignore[arg-type]
    return choose(ModelOptions(str(place)), PromptOptions(), options)
