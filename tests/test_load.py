"""Loading of models: precisions, stretched positions, and one line for what cannot be loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.hardware import fastest_dtype
from carellama.model.load import load_model
from carellama.model.tokenizer import load_tokenizer, match_tokenizer
from conftest import make_model, make_tokenizer

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def arguments(folder: Path, **changes) -> ModelOptions:
    return ModelOptions(model_name_or_path=str(folder), **changes)


def load(folder: Path, dtype: str = "float32", **changes):
    return load_model(arguments(folder, **changes), dtype=dtype, attention=None)


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny model's folder, to be broken."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def test_the_model_is_the_one_that_was_saved(tiny_folder):
    model = load(tiny_folder)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, make_model()(IDS).logits)
    assert not model.training
    assert load(tiny_folder, "bfloat16").dtype == torch.bfloat16
    assert load_model(arguments(tiny_folder), dtype="float32", attention="eager").config._attn_implementation == "eager"


def test_the_tokenizer_pads_left_and_has_a_pad_token(folder):
    assert load_tokenizer(arguments(folder)).padding_side == "left"
    assert load_tokenizer(arguments(folder)).pad_token == "<|endoftext|>"
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["pad_token"]
    path.write_text(json.dumps(settings))
    assert load_tokenizer(arguments(folder)).pad_token == "<|endoftext|>"


def test_a_tokenizer_larger_than_the_model_is_refused(tiny_folder):
    model = load(tiny_folder)
    match_tokenizer(model, make_tokenizer())
    assert model.generation_config.pad_token_id == 0
    with pytest.raises(UserError, match="do not belong together"):
        match_tokenizer(make_model(vocabulary=100), make_tokenizer())


def test_positions_are_stretched(folder):
    length = 512
    linear = load(folder, rope_scaling="linear", rope_factor=4)
    assert linear.config.max_position_embeddings == 4 * length
    with torch.no_grad():
        near = load(folder).model(IDS, position_ids=torch.arange(6)[None]).last_hidden_state
        far = linear.model(IDS, position_ids=4 * torch.arange(6)[None]).last_hidden_state
    torch.testing.assert_close(near, far, atol=1e-5, rtol=1e-5)
    dynamic = load(folder, rope_scaling="dynamic")
    with torch.no_grad():
        torch.testing.assert_close(dynamic(IDS).logits, load(folder)(IDS).logits)  # short texts stay as they were
    yarn = load(folder, rope_scaling="yarn").config
    assert yarn.rope_parameters["original_max_position_embeddings"] == length
    linear.save_pretrained(folder)
    with pytest.raises(UserError, match=r"stretched already \(linear\)"):
        load(folder, rope_scaling="yarn")


def test_a_whole_checkpoint_takes_the_place_of_the_weights(tiny_folder, tmp_path):
    make_model(seed=7).save_pretrained(tmp_path / "full")
    model = load(tiny_folder, checkpoint_dir=str(tmp_path / "full"))
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, make_model(seed=7)(IDS).logits)
    stretched = load(tiny_folder, rope_scaling="linear", rope_factor=4)
    stretched.save_pretrained(tmp_path / "stretched")  # as a training with these options writes it
    asked: tuple[dict[str, Any], ...] = ({}, {"rope_scaling": "linear", "rope_factor": 4.0})
    for options in asked:
        read = load(tiny_folder, checkpoint_dir=str(tmp_path / "stretched"), **options)
        assert read.config.rope_parameters == stretched.config.rope_parameters  # they were the base's
    make_model(num_hidden_layers=3).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="num_hidden_layers is 3, not 2"):
        load(tiny_folder, checkpoint_dir=str(tmp_path / "other"))


def assert_refused(folder: Path, said: str, **changes) -> None:
    with pytest.raises(UserError, match=said) as error:
        load_tokenizer(arguments(folder, **changes))
        load(folder, **changes)
    assert "\n" not in str(error.value)


def test_pickled_weights_need_a_flag(folder):
    (folder / "model.safetensors").unlink()
    assert_refused(folder, "no weights")
    torch.save(make_model().state_dict(), folder / "pytorch_model.bin")
    assert_refused(folder, "--allow_pickle true")
    assert load(folder, allow_pickle=True).num_parameters() == make_model().num_parameters()


def test_what_can_not_be_loaded_is_said_in_one_line(folder, tmp_path):
    (folder / "config.json").write_text('{"model_type": "unheard-of"}')
    assert_refused(folder, "unheard-of")
    (folder / "config.json").write_text('{"model_type": ')
    assert_refused(folder, "cannot load the")
    assert_refused(tmp_path / "none", "no such folder")
    with pytest.raises(UserError, match="hub"):
        load_tokenizer(ModelOptions(model_name_or_path="nobody/no-such-model"))
    with pytest.raises(UserError, match=r"no such folder.* carellama models list has the names"):
        load_tokenizer(ModelOptions(model_name_or_path="no-such-model"))
    with pytest.raises(UserError, match=r"Did you mean 'smollm2-135m'"):
        load_tokenizer(ModelOptions(model_name_or_path="smolm2-135m"))


def test_incomplete_and_damaged_weights_are_refused(folder):
    make_model(num_hidden_layers=1).save_pretrained(folder / "less")
    shutil.copy(folder / "less" / "model.safetensors", folder)
    assert_refused(folder, r"lacks 9 of the weights .*model\.layers\.1\.")
    make_model(intermediate_size=96).save_pretrained(folder / "less")
    shutil.copy(folder / "less" / "model.safetensors", folder)
    assert_refused(folder, "has in other sizes 6 of the weights")
    path = folder / "model.safetensors"
    body = path.read_bytes()
    for size in (1000, len(body) - 1):
        path.write_bytes(body[:size])
        assert_refused(folder, "cut short|header tells of")
    make_model().save_pretrained(folder, max_shard_size="100KB")
    path.unlink()
    (folder / "model-00002-of-00006.safetensors").unlink()
    assert_refused(folder, "lacks 1 of 6 files of weights .the first: model-00002-of-00006")


def test_code_of_the_model_runs_only_if_it_is_trusted(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise AssertionError('it ran')")
    assert_refused(folder, "--trust_remote_code true")


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_weights_answer_nearly_as_whole_ones(tiny_folder, bits):
    pytest.importorskip("bitsandbytes")
    whole, quantised = load(tiny_folder), load(tiny_folder, quantization_bit=bits)
    assert quantised.get_memory_footprint() < whole.get_memory_footprint()
    with torch.no_grad():
        one, other = whole(IDS).logits, quantised(IDS).logits.float()
    assert torch.nn.functional.cosine_similarity(one, other, dim=-1).min() > 0.9


PRODUCTS = """
import sys
from pathlib import Path

import torch

from carellama.config.model import ModelOptions
from carellama.model.load import load_model


def held() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon"))


load_model(ModelOptions(sys.argv[1]), dtype="float32", attention=None)
weight = torch.ones(1536, 576, dtype=torch.bfloat16)
for count in range(1, 1001):
    torch.ones(count * 617 % 1009, 576, dtype=torch.bfloat16) @ weight.T  # each size once
    if count == 300:
        before = held()
print(held() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells the memory of a process by /proc")
@pytest.mark.skipif(fastest_dtype() != "bfloat16", reason="oneDNN compiles kernels for bfloat16 on CPUs that have it")
def test_products_of_ever_new_sizes_do_not_fill_the_memory(tiny_folder: Path) -> None:
    command = [sys.executable, "-c", PRODUCTS, str(tiny_folder)]
    grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 250, "MB; torch and oneDNN keep a kernel of each size, see few_kernels"
