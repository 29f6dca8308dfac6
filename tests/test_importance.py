"""Which columns matter, measured: the mean squares of inputs, under the names that llama.cpp has for the matrices."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carellama.errors import UserError
from carellama.model.gguf.importance import MOST, Importance, _checked, load_importance
from carellama.model.gguf.layout import TensorPlace
from carellama.model.gguf.measure import measure_importance, medical_texts
from carellama.model.gguf.quantize import quantize_rows
from conftest import make_model, make_tokenizer

TEXTS = ["What are the symptoms of asthma? See a doctor.", "发烧三天了怎么办？多喝水，注意休息。"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def means(importance: Importance, name: str) -> Any:
    return importance.sums[name] / importance.counts[name][:, None]


def inputs_of(network: Any, tokenizer: Any, module: Any) -> torch.Tensor:
    """What a module is given while the network reads the texts, (tokens, columns)."""
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().flatten(0, -2)))
    with torch.no_grad():
        for text in TEXTS:
            network(input_ids=torch.tensor([tokenizer(text)["input_ids"]]))
    handle.remove()
    return torch.cat(seen)


@pytest.mark.slow
def test_a_llama_has_the_squares_of_its_inputs(tokenizer: Any) -> None:
    """Its output is the embedding, and is called so in a .gguf."""
    network = make_model(tie_word_embeddings=True)
    importance = measure_importance(network, tokenizer, TEXTS)
    layer = network.model.layers[1]
    names = {
        "blk.1.attn_q.weight": layer.self_attn.q_proj,
        "blk.1.attn_v.weight": layer.self_attn.v_proj,
        "blk.1.attn_output.weight": layer.self_attn.o_proj,
        "blk.1.ffn_gate.weight": layer.mlp.gate_proj,
        "blk.1.ffn_down.weight": layer.mlp.down_proj,
        "token_embd.weight": network.lm_head,
    }
    for name, module in names.items():
        inputs = inputs_of(network, tokenizer, module)
        assert importance.counts[name].tolist() == [len(inputs)]
        assert np.allclose(means(importance, name)[0], inputs.square().mean(0), rtol=1e-4)
    assert len(importance.sums) == 2 * 7 + 1 and importance.chunks == len(TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2_moe", "mixtral"])
def test_experts_are_measured_each(kind: str, tokenizer: Any) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
        "max_position_embeddings": 128,
    }  # fmt: skip
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).eval()
    before = network.config._experts_implementation
    importance = measure_importance(network, tokenizer, TEXTS)
    assert network.config._experts_implementation == before
    experts = network.model.layers[0].mlp.experts
    hidden = inputs_of(network, tokenizer, experts)
    chosen: list[torch.Tensor] = []
    handle = experts.register_forward_pre_hook(lambda _, args: chosen.append(args[1].detach()))
    inputs_of(network, tokenizer, experts)
    handle.remove()
    index = torch.cat(chosen)  # (tokens, 2)
    counts = [int((index == number).sum()) for number in range(4)]
    for name in ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight", "blk.0.ffn_down_exps.weight"):
        assert importance.counts[name].tolist() == counts
    for number in range(4):
        expected = hidden[(index == number).any(-1)].square().sum(0)
        assert np.allclose(importance.sums["blk.0.ffn_up_exps.weight"][number], expected, rtol=1e-4)
    assert importance.sums["blk.0.ffn_down_exps.weight"].shape == (4, experts.down_proj.shape[-1])
    assert ("blk.0.ffn_down_shexp.weight" in importance.sums) == (kind == "qwen2_moe")


@pytest.mark.slow
def test_matrices_that_are_stored_the_other_way_round_have_their_columns(tokenizer: Any) -> None:
    """GPT-2 multiplies from the other side, and has queries, keys and values in one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    network = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=1, n_head=2, n_positions=128, n_inner=48))
    importance = measure_importance(network.eval(), tokenizer, TEXTS)
    block = network.transformer.h[0]
    for name, module in {
        "blk.0.attn_qkv.weight": block.attn.c_attn,
        "blk.0.ffn_down.weight": block.mlp.c_proj,
    }.items():
        inputs = inputs_of(network, tokenizer, module)
        assert np.allclose(means(importance, name)[0], inputs.square().mean(0), rtol=1e-4)


def test_texts_of_both_languages_come_with_the_package() -> None:
    english, chinese = medical_texts()
    assert english.count(" ") > 1500 and sum("\u4e00" <= letter <= "\u9fff" for letter in chinese) > 2500


def test_texts_without_words_are_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="empty"):
        measure_importance(make_model(), tokenizer, [""])


def unusable(sums: Any, counts: Any) -> bytes:
    """An importance matrix of one tensor as it lies on the disk, with sums and counts that nothing was measured for."""
    name = "blk.0.attn_q.weight"
    with tempfile.TemporaryDirectory() as folder:
        Importance({name: np.array(sums, np.float32)}, {name: np.array(counts, np.float32)}).save(Path(folder, "i"))
        return Path(folder, "i").read_bytes()


OLDER = struct.pack("<ii", 1, 19) + b"blk.0.attn_q.weight" + struct.pack("<ii4f", 1, 4, *[1.0] * 4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (unusable([[4, -1]], [1]), "negative or not numbers"),
        (unusable([[4, 1]], [-1]), "negative or not numbers"),
        (unusable([[4, np.nan]], [1]), "negative or not numbers"),
        (unusable([[4, np.inf]], [1]), "mean square of inf"),
        (unusable([[1e38, 1]], [1]), "at most 1e\\+15"),
        (OLDER, "older format.*llama-imatrix --in-file"),
        (OLDER[:6], "cut short"),
    ],
)
def test_a_file_that_no_inputs_were_measured_for_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    """Matrices came out as noise, and the export passed."""
    (tmp_path / "imatrix").write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        load_importance(tmp_path / "imatrix")
    assert "\n" not in str(error.value)


def test_counts_that_do_not_divide_the_sums_are_refused(tmp_path: Path) -> None:
    """They were a traceback, or one matrix was taken for two."""
    (tmp_path / "imatrix").write_bytes(unusable([[1, 1], [1, 1], [1, 1]], [1, 1, 1]))
    matrix = TensorPlace("blk.0.attn_q.weight", (6, 4), "F32", 0)
    with pytest.raises(UserError, match=r"has 3 x 2 columns for blk\.0\.attn_q\.weight, and the model 1 x 6"):
        load_importance(tmp_path / "imatrix").check([matrix])
    with pytest.raises(UserError, match="4 sums for 3 matrices"):
        _checked(np.ones(4, np.float32), np.ones(3, np.float32), "it")


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"])
@pytest.mark.parametrize("inputs", [0, 1e-30, MOST])
def test_columns_without_inputs_keep_their_weights(kind: str, inputs: float) -> None:
    """A block of columns that count nothing lost all its weights."""
    pytest.importorskip("xllamacpp")
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    matrix = TensorPlace("blk.0.attn_q.weight", (512, 4), "F32", 0)
    weights = np.random.default_rng(0).normal(size=(4, 512)).astype(np.float32)
    squares = np.ones((1, 512), np.float32)
    squares[:, :256] = inputs

    def lost(means: Any) -> float:
        made = quantize_rows(weights, kind, means)
        return float(np.abs(dequantize(made, GGMLQuantizationType[kind]).reshape(weights.shape) - weights).max())

    means = Importance({matrix.name: squares}, {matrix.name: np.ones(1, np.float32)}).of(matrix)
    assert means is not None and lost(means[0]) < 1.2 * lost(np.ones(512, np.float32))
