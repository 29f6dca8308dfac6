"""LoRA adapters in GGUF: read as folders of peft's that change a model as they did, and refused on other models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carellama.config.data import PromptOptions
from carellama.config.engine import EngineOptions
from carellama.config.model import ModelOptions
from carellama.engine.transformers.load import load
from carellama.errors import UserError
from carellama.model.gguf import write as to_gguf
from carellama.model.gguf.converter import NotConvertible
from carellama.model.gguf.read import folder_of_gguf
from carellama.model.gguf.write import lora_folder_of_gguf, lora_gguf_of
from carellama.model.paths import check_model
from carellama.model.zoo.pull import with_named_folders, with_named_weights
from conftest import make_model

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_gguf, "model_home", lambda: tmp_path / "cache")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A Llama, whose queries and keys have their rows in another order in a .gguf."""
    folder = tmp_path_factory.mktemp("base")
    make_model().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def adapter_of(base: Path, folder: Path, **changes: Any) -> Path:
    """A random adapter: of one layer's queries another rank, of the last layer no feed forward."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "r": 4, "lora_alpha": 12, "rank_pattern": {"layers.0.self_attn.q_proj": 2}, "init_lora_weights": False,
        "target_modules": ["q_proj", "k_proj", "o_proj", "model.layers.0.mlp.down_proj"], "task_type": "CAUSAL_LM",
    }  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    get_peft_model(model, LoraConfig(**settings | changes)).save_pretrained(str(folder))
    return folder


def logits_of(base: Path, adapter: Path) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(adapter))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


def numbers(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}], ids=["plain", "rslora"])
def test_there_and_back_is_the_same_adapter(base: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    adapter, model = adapter_of(base, tmp_path / "adapter", **changes), ModelOptions(str(base))
    file = lora_gguf_of(model, adapter)
    read = lora_folder_of_gguf(model, file)
    assert torch.allclose(logits_of(base, adapter), logits_of(base, read), atol=1e-5)
    settings = json.loads((read / "adapter_config.json").read_text())
    assert settings["lora_alpha"] == 12 and settings["r"] == 4
    assert settings["rank_pattern"] == {"model.layers.0.self_attn.q_proj": 2}
    before, after = numbers(adapter), numbers(read)
    assert before.keys() == after.keys()
    if not changes:
        assert all(np.array_equal(before[name], after[name]) for name in before)
    again = lora_gguf_of(model, read)
    assert again != file and again.read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_an_adapter_file_is_taken_where_a_folder_is(base: Path, tmp_path: Path) -> None:
    model = ModelOptions(str(base))
    file = lora_gguf_of(model, adapter_of(base, tmp_path / "adapter"))
    given = ModelOptions(str(base), checkpoint_dir=str(file))
    check_model(given, {"own": str(file)})
    resolved, _ = with_named_weights(given, PromptOptions())
    (folder,) = resolved.checkpoints
    assert (Path(folder) / "adapter_config.json").is_file()
    assert with_named_folders({"own": str(file)}, model) == {"own": folder}
    with pytest.raises(UserError, match=r"\.gguf is an adapter: give it as --checkpoint_dir, and the model"):
        folder_of_gguf(file)


@pytest.mark.slow
def test_the_adapter_of_another_model_is_refused(base: Path, tmp_path: Path, tiny_tokenizer: Any) -> None:
    file = lora_gguf_of(ModelOptions(str(base)), adapter_of(base, tmp_path / "adapter"))
    wider = tmp_path / "wider"
    make_model(hidden_size=96).save_pretrained(wider)
    tiny_tokenizer.save_pretrained(wider)
    with pytest.raises(UserError, match="numbers, where this model has") as error:
        lora_folder_of_gguf(ModelOptions(str(wider)), file)
    assert "\n" not in str(error.value)
    config = json.loads((wider / "config.json").read_text()) | {"architectures": ["Qwen2ForCausalLM"]}
    (wider / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))
    with pytest.raises(UserError, match="architecture llama, not qwen2"):
        lora_folder_of_gguf(ModelOptions(str(wider)), file)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir() and "folder" in path.name]


@pytest.mark.slow
def test_what_llama_cpp_would_drop_is_refused(base: Path, tmp_path: Path) -> None:
    """A change of the embedding was left out without a word."""
    adapter = adapter_of(base, tmp_path / "adapter", target_modules=["q_proj", "embed_tokens"], rank_pattern={})
    with pytest.raises(UserError, match=r"embed_tokens.*--checkpoint_dir"):
        lora_gguf_of(ModelOptions(str(base)), adapter)


def test_other_files_are_no_adapters(tmp_path: Path) -> None:
    import gguf

    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(UserError, match="neither a folder nor a GGUF file"):
        check_model(ModelOptions("smollm2-135m", checkpoint_dir=str(tmp_path / "notes.txt")))
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("output.weight", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="a whole model"):
        check_model(ModelOptions("smollm2-135m"), {"own": str(tmp_path / "model.gguf")})


@pytest.mark.parametrize("changes", [{"init_lora_weights": "pissa"}, {"alora_invocation_tokens": [7, 8]}], ids=str)
def test_an_adapter_that_is_more_than_factors_beside_the_base_is_refused(
    changes: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    """llama.cpp would add the factors to the base as it was: other answers, without a word."""
    adapter = adapter_of(base, tmp_path / "adapter", **changes)
    with pytest.raises(NotConvertible, match=r"which llama\.cpp does not know: give it as --checkpoint_dir"):
        lora_gguf_of(ModelOptions(str(base)), adapter)
    beside = EngineOptions(adapters=f"one={adapter}")
    with pytest.raises(UserError, match=f"--adapters one={adapter} .*: give it as --checkpoint_dir"):
        load(ModelOptions(str(base)), PromptOptions(), beside)
