"""A .gguf made smaller: llama.cpp's arithmetic, its choice of number formats, and nothing half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carellama.errors import UserError
from carellama.model.gguf import quantize as quantizer
from carellama.model.gguf.importance import Importance, load_importance
from carellama.model.gguf.layout import GGML_TYPES, TensorPlace, read_layout
from carellama.model.gguf.quantize import quantize, quantize_rows, type_counts
from carellama.model.gguf.read import read_header
from carellama.model.gguf.tensor_types import FILE_TYPES, ModelShape, tensor_types

pytest.importorskip("xllamacpp")

LAYERS = 16
COLUMNS = 512


def rows_of(rows: int, columns: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)


def write_gguf(path: Path, tensors: dict[str, Any]) -> Path:
    """A file of a Llama with these tensors, and metadata of several kinds."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_string("tokenizer.chat_template", "你好 {{ messages }}")
    writer.add_array("tokenizer.ggml.tokens", ["a", "好"])
    writer.add_array("tokenizer.ggml.token_type", [1, 3])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, weight in tensors.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {
        "token_embd.weight": rows_of(12, COLUMNS),
        "output.weight": rows_of(12, COLUMNS, 1),
        "blk.0.attn_v.weight": rows_of(40, COLUMNS, 2),
        "blk.0.attn_q.weight": rows_of(40, COLUMNS, 3),
        "blk.0.attn_k.weight": rows_of(40, 96, 4),  # 32 divides the rows, 256 does not
        "blk.0.odd.weight": rows_of(40, 30, 5),
        "blk.0.attn_norm.weight": rows_of(1, COLUMNS, 6)[0],
    }
    return write_gguf(tmp_path_factory.mktemp("source") / "source.gguf", tensors)


def read_tensors(path: Path) -> dict[str, tuple[str, Any]]:
    """Type and weights of each tensor, as the package gguf reads them."""
    import gguf

    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        found[tensor.name] = (tensor.tensor_type.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    return found


def test_sizes_of_number_formats_are_those_of_ggml() -> None:
    import gguf

    assert GGML_TYPES
    for name, one in GGML_TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        assert (kind.value, *gguf.GGML_QUANT_SIZES[kind]) == (one.number, one.block, one.block_bytes)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_rows_equal_those_of_the_package_gguf(kind: str) -> None:
    import gguf

    values = rows_of(64, COLUMNS)
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    assert np.array_equal(quantize_rows(values, kind).reshape(expected.shape), expected)


def test_fewer_bits_lose_more() -> None:
    import gguf

    values = rows_of(64, COLUMNS)
    lost = []
    for kind in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"):
        made = quantize_rows(values, kind).reshape(len(values), -1)
        read = gguf.quants.dequantize(made, gguf.GGMLQuantizationType[kind])
        lost.append(float(np.square(read - values).mean()))
    assert lost == sorted(lost) and lost[0] > 0
    for kind in ("IQ4_XS", "IQ4_NL", "Q5_0", "Q5_1"):
        made = quantize_rows(values, kind).reshape(len(values), -1)
        read = gguf.quants.dequantize(made, gguf.GGMLQuantizationType[kind])
        assert lost[0] < float(np.square(read - values).mean()) < lost[4]


EXPECTED = {
    "f16": {"F16": 6, "F32": 1},
    "q8_0": {"Q8_0": 5, "F16": 1, "F32": 1},
    "q4_0": {"Q4_0": 4, "Q6_K": 1, "F16": 1, "F32": 1},
    "q4_K_M": {"Q4_K": 2, "Q6_K": 2, "Q5_0": 1, "F16": 1, "F32": 1},
    "q5_K_M": {"Q5_K": 2, "Q6_K": 2, "Q5_1": 1, "F16": 1, "F32": 1},
    "q6_K": {"Q6_K": 4, "Q8_0": 1, "F16": 1, "F32": 1},
    "iq4_xs": {"IQ4_XS": 3, "Q6_K": 1, "IQ4_NL": 1, "F16": 1, "F32": 1},
}


@pytest.mark.parametrize("gguf_type", FILE_TYPES)
def test_every_format_keeps_what_the_file_says(gguf_type: str, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "made.gguf"
    assert quantize(source, target, gguf_type) == type_counts(target) == EXPECTED[gguf_type]
    arrays = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type")
    before, after = read_header(source, arrays), read_header(target, arrays)
    assert after.facts.pop("general.file_type") == FILE_TYPES[gguf_type].number
    after.facts.pop("general.quantization_version", None)
    before.facts.pop("general.file_type")
    assert before.facts == after.facts and before.weights == after.weights
    kept, made = read_tensors(source), read_tensors(target)
    assert kept.keys() == made.keys()
    for name, (kind, read) in made.items():
        step = np.abs(kept[name][1]).max() / {"F32": np.inf, "F16": 1000, "Q8_0": 126}.get(kind, 6)
        assert np.abs(read - kept[name][1]).max() <= step


def test_a_source_of_bfloat16_gives_the_same(source: Path, tmp_path: Path) -> None:
    """The upper half of a float32 is read as such."""
    import gguf

    rows = rows_of(8, COLUMNS)
    half = (rows.view(np.uint32) >> 16).astype(np.uint16)
    whole = (half.astype(np.uint32) << 16).view(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "half.gguf", "llama")
    writer.add_block_count(1)
    writer.add_tensor("output.weight", half.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    quantize(tmp_path / "half.gguf", tmp_path / "made.gguf", "q8_0")
    quantize(write_gguf(tmp_path / "whole.gguf", {"output.weight": whole}), tmp_path / "same.gguf", "q8_0")
    one, other = read_tensors(tmp_path / "made.gguf"), read_tensors(tmp_path / "same.gguf")
    assert np.array_equal(one["output.weight"][1], other["output.weight"][1])


def test_threads_and_pieces_change_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize(source, tmp_path / "one.gguf", "q4_K_M", threads=1)
    monkeypatch.setattr(quantizer, "PIECE_WEIGHTS", 3 * COLUMNS)
    quantize(source, tmp_path / "many.gguf", "q4_K_M", threads=4)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "many.gguf").read_bytes()


def test_columns_that_matter_lose_less(tmp_path: Path) -> None:
    """Experts have columns of their own; one that read nothing is quantised as if all columns were alike."""
    tensor = np.stack([rows_of(16, COLUMNS), rows_of(16, COLUMNS, 1), rows_of(16, COLUMNS, 2)])
    path = write_gguf(tmp_path / "experts.gguf", {"blk.9.ffn_up_exps.weight": tensor})
    squares = np.ones((3, COLUMNS), np.float32)
    squares[0, ::8], squares[1, 1::8], squares[2] = 1000, 1000, 0
    name = "blk.9.ffn_up_exps.weight"
    importance = Importance({name: squares * 7}, {name: np.array([7, 7, 0], np.float32)})
    quantize(path, tmp_path / "plain.gguf", "q4_K_M")
    quantize(path, tmp_path / "weighted.gguf", "q4_K_M", importance)
    plain, weighted = read_tensors(tmp_path / "plain.gguf")[name][1], read_tensors(tmp_path / "weighted.gguf")[name][1]

    def lost(made: Any, expert: int, first: int) -> float:
        return float(np.square(made - tensor)[expert][:, first::8].mean())

    for expert, first in ((0, 0), (1, 1)):
        assert lost(weighted, expert, first) < 0.9 * lost(plain, expert, first)
        assert lost(weighted, expert, 2) > lost(plain, expert, 2)
    assert np.isfinite(weighted).all()


def test_an_importance_matrix_of_a_part_of_the_tensors_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """llama-imatrix measures no output, which is not counted."""
    name, other = "blk.0.attn_q.weight", "blk.1.attn_q.weight"
    path = write_gguf(tmp_path / "two.gguf", dict.fromkeys((name, other, "output.weight"), rows_of(4, COLUMNS)))
    importance = Importance({name: np.ones((1, COLUMNS), np.float32)}, {name: np.ones(1, np.float32)})
    quantize(path, tmp_path / "made.gguf", "q4_K_M", importance)
    assert f"does not know 1 of 2 tensors (the first: {other})" in capsys.readouterr().err


def test_an_importance_matrix_is_read_as_it_was_saved(tmp_path: Path) -> None:
    """Read back here and by the package gguf, with the names that llama.cpp asks for."""
    import gguf

    sums = {"blk.0.attn_q.weight": np.full((1, 8), 4, np.float32), "blk.0.ffn_up_exps.weight": rows_of(2, 8) ** 2}
    counts = {
        "blk.0.attn_q.weight": np.array([2], np.float32),
        "blk.0.ffn_up_exps.weight": np.array([3, 0], np.float32),
    }
    Importance(sums, counts, ("texts, 医学",), 5).save(tmp_path / "imatrix.gguf")
    read = load_importance(tmp_path / "imatrix.gguf")
    assert read.datasets == ("texts, 医学",) and read.chunks == 5
    assert {name: part.tolist() for name, part in read.sums.items()} == {n: p.tolist() for n, p in sums.items()}
    assert {name: part.tolist() for name, part in read.counts.items()} == {n: p.tolist() for n, p in counts.items()}
    file = gguf.GGUFReader(tmp_path / "imatrix.gguf")
    assert file.fields["general.type"].contents() == "imatrix"
    assert file.fields["imatrix.chunk_count"].contents() == 5
    shapes = {tensor.name: tensor.data.shape for tensor in file.tensors}
    assert shapes["blk.0.ffn_up_exps.weight.in_sum2"] == (2, 8)
    assert shapes["blk.0.ffn_up_exps.weight.counts"] == (2, 1)
    tensor = TensorPlace("blk.0.ffn_up_exps.weight", (8, 4, 2), "F16", 0)
    means = read.of(tensor)
    assert means is not None and np.allclose(means[0], sums[tensor.name][0] / 3) and (means[1] == 1).all()


def place(name: str, columns: int = COLUMNS, matrices: int = 1) -> TensorPlace:
    dimensions = (columns, 512) if matrices == 1 else (columns, 512, matrices)
    return TensorPlace(name, dimensions, "BF16", 0)


@pytest.mark.parametrize(
    ("shape", "gguf_type", "importance", "name", "expected"),
    [
        (ModelShape("llama", 16, 0, 32, 32), "q4_K_M", False, "blk.0.ffn_down.weight", "Q6_K"),
        (ModelShape("llama", 16, 0, 32, 32), "q4_K_M", False, "blk.3.ffn_down.weight", "Q4_K"),
        (ModelShape("llama", 16, 0, 32, 32), "q4_K_M", False, "blk.4.ffn_down.weight", "Q6_K"),
        (ModelShape("llama", 16, 0, 32, 32), "q5_K_M", False, "blk.3.attn_v.weight", "Q5_K"),
        (ModelShape("llama", 16, 0, 32, 32), "q5_K_M", False, "blk.15.attn_v.weight", "Q6_K"),
        (ModelShape("llama", 80, 0, 64, 8), "q4_K_M", False, "blk.11.attn_v.weight", "Q5_K"),
        (ModelShape("qwen2", 16, 0, 32, 8), "iq4_xs", True, "blk.3.attn_v.weight", "Q5_K"),
        (ModelShape("qwen2", 16, 0, 32, 16), "iq4_xs", True, "blk.3.attn_v.weight", "IQ4_XS"),
        (ModelShape("qwen2", 16, 0, 32, 16), "iq4_xs", False, "blk.0.ffn_down.weight", "Q5_K"),
        (ModelShape("qwen2", 16, 0, 32, 16), "iq4_xs", True, "blk.0.ffn_down.weight", "IQ4_XS"),
        (ModelShape("qwen2", 16, 0, 32, 16), "q4_0", True, "blk.0.ffn_down.weight", "Q4_1"),
        (ModelShape("qwen2", 16, 0, 32, 16), "q4_0", False, "blk.0.ffn_down.weight", "Q4_0"),
        (ModelShape("llama", 16, 8, 32, 8), "q4_K_M", False, "blk.3.attn_v.weight", "Q8_0"),
        (ModelShape("llama", 16, 8, 32, 8), "q4_K_M", False, "blk.3.attn_k.weight", "Q8_0"),
        (ModelShape("llama", 16, 8, 32, 8), "q4_K_M", False, "blk.3.attn_output.weight", "Q5_K"),
        (ModelShape("llama", 16, 8, 32, 8), "q6_K", False, "blk.3.attn_output.weight", "Q6_K"),
        (ModelShape("falcon", 32, 0, 64, 1), "q4_K_M", False, "blk.1.ffn_down.weight", "Q6_K"),
        (ModelShape("falcon", 32, 0, 64, 1), "q4_K_M", False, "blk.3.ffn_down.weight", "Q5_K"),
        (ModelShape("falcon", 32, 0, 64, 1), "q4_K_M", False, "output.weight", "Q8_0"),
        (ModelShape("llama", 16, 8, 32, 8), "q4_K_M", False, "blk.0.ffn_gate_inp.weight", "BF16"),
    ],
)  # fmt: skip
def test_the_mix_is_that_of_llama_cpp(
    shape: ModelShape, gguf_type: str, importance: bool, name: str, expected: str
) -> None:
    layers = [f"blk.{layer}.{part}.weight" for layer in range(shape.layers) for part in ("attn_v", "ffn_down")]
    tensors = [place(one) for one in dict.fromkeys([*layers, name, "token_embd.weight", "output.weight"])]
    assert tensor_types(tensors, shape, gguf_type, importance=importance)[name] == expected


def test_tied_embeddings_have_the_format_of_the_output() -> None:
    shape = ModelShape("llama", 16, 0, 32, 32)
    tied = tensor_types([place("token_embd.weight")], shape, "q4_K_M", importance=False)
    apart = tensor_types([place("token_embd.weight"), place("output.weight")], shape, "q4_K_M", importance=False)
    assert tied == {"token_embd.weight": "Q6_K"}
    assert apart == {"token_embd.weight": "Q4_K", "output.weight": "Q6_K"}


def refused(source: Path, target: Path, gguf_type: str, importance: Importance | None = None) -> str:
    """What is said, in one line; nothing lies where the file should be."""
    with pytest.raises(UserError) as error:
        quantize(source, target, gguf_type, importance)
    assert "\n" not in str(error.value) and not list(target.parent.glob("*made*")) + list(target.parent.glob(".*made*"))
    return str(error.value)


def test_a_file_that_is_cut_short_is_refused(source: Path, tmp_path: Path) -> None:
    content = source.read_bytes()
    for kept in (len(content) - 1000, 300, 30, 10):
        (tmp_path / "cut.gguf").write_bytes(content[:kept])
        assert "cut" in refused(tmp_path / "cut.gguf", tmp_path / "made.gguf", "q4_0")
        with pytest.raises(UserError, match="cut short"):
            read_header(tmp_path / "cut.gguf")


def test_what_cannot_be_quantised_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made.gguf"
    quantize(source, tmp_path / "small.gguf", "q8_0")
    assert "quantised already" in refused(tmp_path / "small.gguf", made, "q4_0")
    assert "q4_K_M" in refused(source, made, "q4_K_L")
    broken = rows_of(4, COLUMNS)
    broken[2, 5] = np.nan
    write_gguf(tmp_path / "nan.gguf", {"output.weight": broken})
    assert "output.weight" in refused(tmp_path / "nan.gguf", made, "q4_0")
    write_gguf(tmp_path / "large.gguf", {"output.weight": np.full((4, COLUMNS), 1e5, np.float32)})
    assert "65,504" in refused(tmp_path / "large.gguf", made, "f16")
    other = Importance(
        {"blk.0.attn_v.weight": np.ones((1, 8), np.float32)}, {"blk.0.attn_v.weight": np.ones(1, np.float32)}
    )
    assert "another model" in refused(source, made, "q4_0", other)
    with pytest.raises(UserError, match="no importance matrix"):
        load_importance(source)
    monkeypatch.setattr(quantizer, "FUNCTION", "ggml_no_such_function")
    quantizer.library.cache_clear()
    assert "does not give out" in refused(source, made, "q4_0")
    assert quantize(source, made, "f16") == EXPECTED["f16"]  # needs no library
    monkeypatch.undo()
    quantizer.library.cache_clear()


def test_a_full_disk_is_said_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    total, used, _ = shutil.disk_usage(tmp_path)
    full = shutil.disk_usage(tmp_path)._replace(total=total, used=used, free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert "make room" in refused(source, tmp_path / "made.gguf", "q4_0")


def test_the_layout_says_where_tensors_lie(source: Path) -> None:
    import gguf

    expected = {tensor.name: (tensor.data_offset, tensor.n_bytes) for tensor in gguf.GGUFReader(source).tensors}
    assert {one.name: (one.start, one.size) for one in read_layout(source).tensors} == expected
