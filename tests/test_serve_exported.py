"""What an export wrote answers as transformers does when it is served: the folder, each .gguf, OpenVINO's folder."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, Literal

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


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp's threads wait for each other by spinning: beside other tests they take the time from all."""
    monkeypatch.setattr("carellama.engine.llamacpp.server.physical_cores", lambda: 1)


@pytest.mark.slow
def test_what_is_exported_answers_as_transformers_in_every_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 16 bits llama.cpp says the same tokens, but for ties, and OpenVINO the same words."""
    pytest.importorskip("xllamacpp")
    pytest.importorskip("openvino_genai")
    base, folder = tmp_path / "base", tmp_path / "out"
    write_base("qwen3", base, tokenizer_of=Path(model_folder("smollm2-135m")))
    AutoModelForCausalLM.from_pretrained(base).half().save_pretrained(base)
    adapter = trained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path / "adapter")
    monkeypatch.setattr(to_gguf, "model_home", lambda: tmp_path / "cache")
    source = ModelOptions(str(base), checkpoint_dir=str(adapter))
    export(source, None, folder, tokens=FEW, to="hf,gguf,openvino", gguf_type="f16")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers, texts = [], []
    for place in (folder, folder / "out.f16.gguf"):
        with closing(engine_of("llamacpp", place)) as engine:
            ids = list(engine.prepare(PROMPT).ids or ())
            answers.append(tokens_of(engine, ids, ""))
        same_answer(model, ids, answers[-1])
    assert answers[0] == answers[1] and len(answers[0]) > 10
    for place in (folder / "openvino", folder / "out.f16.gguf"):
        with closing(engine_of("openvino", place)) as engine:
            (reply,) = generate(engine, [PROMPT], Sampling(temperature=0.0, max_new_tokens=len(answers[0])))
            texts.append(reply.text)
    assert texts == [tokenizer.decode(answers[0], skip_special_tokens=True)] * 2


def engine_of(name: Literal["llamacpp", "openvino"], place: Path) -> Any:
    """An engine for one answer at a time."""
    return choose(ModelOptions(str(place)), PromptOptions(), EngineOptions(name, parallel=1, context_tokens=256))
