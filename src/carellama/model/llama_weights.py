"""`carellama convert llama`: original LLaMA and Llama 2 weights to a Hugging Face model folder.

    carellama convert llama --input_dir LLaMA --model_size 7B --output_dir Llama-7b-hf

Meta's download has `tokenizer.model`, `params.json` and `consolidated.00.pth`. Larger models have several shards, each
with a part of the rows or of the columns of every matrix. They are mapped into memory, not read, and one layer at a
time is joined and written, so the memory needed is that of one layer. The pickles are read by torch's loader that runs
no code (`weights_only`). Adapters, quantised weights and other architectures are not converted here.

Rotary positions: the original pairs neighbouring components (2i, 2i + 1) of a head (Touvron et al. 2023,
arXiv:2302.13971, section 2.2; the released model.py), transformers pairs i and i + d/2. The rows of the query and key
matrices are put into that order.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from carellama.config.commands import LlamaOptions
from carellama.config.reader import parse_options
from carellama.errors import UserError
from carellama.files import disk_full_message, is_disk_full, write_json
from carellama.model.paths import check_output, check_space, filled_folder

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

SHARDS = {"7B": 1, "13B": 2, "30B": 4, "34B": 4, "65B": 8, "70B": 8}  # files of the download
SHAPES = {(4096, 32): "7B", (5120, 40): "13B", (6656, 60): "30B", (8192, 48): "34B", (8192, 80): "65B or 70B"}
SECOND_ONLY, FIRST_ONLY = {"34B", "70B"}, {"30B", "65B"}  # sizes of Llama 2 and of LLaMA alone
POSITIONS = {1: 2048, 2: 4096}
PROBE = "发烧三天了怎么办？  What helps at 38.5 °C?\n"
ROWS, COLUMNS, SAME = 0, 1, None  # how a matrix is divided among the shards
PARTS = {
    "attention.wq": ("self_attn.q_proj", ROWS), "attention.wk": ("self_attn.k_proj", ROWS),
    "attention.wv": ("self_attn.v_proj", ROWS), "attention.wo": ("self_attn.o_proj", COLUMNS),
    "feed_forward.w1": ("mlp.gate_proj", ROWS), "feed_forward.w2": ("mlp.down_proj", COLUMNS),
    "feed_forward.w3": ("mlp.up_proj", ROWS), "attention_norm": ("input_layernorm", SAME),
    "ffn_norm": ("post_attention_layernorm", SAME),
}  # fmt: skip
ENDS = {
    "tok_embeddings": ("model.embed_tokens", COLUMNS), "norm": ("model.norm", SAME), "output": ("lm_head", ROWS),
}  # fmt: skip


@dataclass(frozen=True)
class Params:
    """What params.json says."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    norm_eps: float
    rope_theta: float
    vocab_size: int  # -1: as many as the tokenizer has


def main(argv: Sequence[str]) -> None:
    """`carellama convert llama`."""
    (options,) = parse_options((LlamaOptions,), argv, "carellama convert llama")
    output = Path(options.output_dir).expanduser()
    convert(
        Path(options.input_dir).expanduser(),
        options.model_size,
        output,
        version=options.llama_version,
        overwrite=options.overwrite_output_dir,
    )
    print(f"converted to {output}; next: carellama chat --model_name_or_path {output}")


def convert(source: Path, size: str, output: Path, *, version: int | None = None, overwrite: bool = False) -> None:
    """Write the model folder `output`, which appears whole or not at all.

    Raises `UserError` for files that are missing, broken or of another size, and for a disk without room.
    """
    base = size.removesuffix("f")
    folder = find_weights(source, size)
    params = read_params(folder / "params.json")
    _check_size(params, base, folder)
    shards = find_shards(folder, base)
    near = (place / "tokenizer.model" for place in (source, folder, source.parent))
    tokenizer = next((path for path in near if path.is_file()), None)
    if tokenizer is None:
        raise UserError(f"{source} has no tokenizer.model; it comes with the download, beside the folders of the sizes")
    check_output(output, (source, folder), overwrite=overwrite)
    weights = [open_shard(path) for path in shards]
    version = version or guess_version(params, size)
    check_space(output, int(sum(path.stat().st_size for path in shards) * 1.02) + (16 << 20))
    with filled_folder(output, overwrite=overwrite) as made:
        try:
            vocabulary, hidden, dtype = _write_weights(weights, params, made)
            _write_configs(made, params, vocabulary, hidden, dtype, version)
            _write_tokenizer(tokenizer, made, vocabulary)
            _write_source_card(made, size, version)
        except Exception as error:
            if is_disk_full(error):
                raise UserError(disk_full_message(error, output.parent)) from error
            raise


def find_weights(source: Path, size: str) -> Path:
    """Return the folder with params.json: `source`, or the one in it that the download made for this size."""
    if not source.is_dir():
        raise UserError(f"--input_dir {source}: there is no such folder")
    base, chat = size.removesuffix("f"), "-chat" * size.endswith("f")
    places = [source / size, source / base, source / f"llama-2-{base.lower()}{chat}", source]
    found = next((place for place in places if (place / "params.json").is_file()), None)
    if found is None:
        others = sorted(path.parent.name for path in source.glob("*/params.json"))
        hint = f"; there is {', '.join(others)}: is --model_size right?" if others else ""
        raise UserError(f"{source} has no params.json for --model_size {size}, in it or in its folder {size}{hint}")
    return found


def read_params(path: Path) -> Params:
    """Read params.json. Raises `UserError` that names what is wrong."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); download it again") from error
    numbers = {"dim": None, "n_layers": None, "n_heads": None, "n_kv_heads": None, "vocab_size": -1}
    if not isinstance(stated, dict):
        raise UserError(f"{path} is not a JSON object; download it again")
    stated.setdefault("n_kv_heads", stated.get("n_heads"))
    stated.setdefault("vocab_size", -1)
    for name in numbers:
        value = stated.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or (value <= 0 and name != "vocab_size"):
            raise UserError(f"{path}: {name} is {value!r}, not a positive whole number; download it again")
    epsilon, theta = stated.get("norm_eps", 1e-5), stated.get("rope_theta", 10000.0)
    if not all(isinstance(value, (int, float)) and value > 0 for value in (epsilon, theta)):
        raise UserError(f"{path}: norm_eps or rope_theta is not a positive number; download it again")
    params = Params(**{name: stated[name] for name in numbers}, norm_eps=float(epsilon), rope_theta=float(theta))
    if params.dim % params.n_heads or params.n_heads % params.n_kv_heads:
        raise UserError(
            f"{path}: {params.n_heads} heads do not divide {params.dim}, or its key heads; download it again"
        )
    return params


def _check_size(params: Params, base: str, folder: Path) -> None:
    """Refuse weights that are of another size than the one asked for."""
    shape = SHAPES.get((params.dim, params.n_layers))
    if shape and base not in shape.split(" or "):
        raise UserError(f"{folder / 'params.json'} is of {shape}, not of {base}: give --model_size {shape.split()[0]}")


def find_shards(folder: Path, base: str) -> list[Path]:
    """Return consolidated.*.pth in order. Raises `UserError` that names those that are missing."""
    expected = [folder / f"consolidated.{number:02d}.pth" for number in range(SHARDS[base])]
    there = sorted(path for path in folder.glob("consolidated.*.pth") if re.fullmatch(r"\d+", path.suffixes[0][1:]))
    if missing := [path.name for path in expected if not path.is_file()]:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}: {base} has {len(expected)} shards; "
            "download the missing ones, or give the right --model_size"
        )
    if len(there) > len(expected):
        raise UserError(f"{folder} has {len(there)} shards, and {base} has {len(expected)}: is --model_size right?")
    return expected


def open_shard(path: Path) -> Mapping[str, torch.Tensor]:
    """Map a shard into memory, without running any code that a pickle may hold."""
    import torch

    try:
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            log.warning("%s is in torch's old format and is read into memory as a whole", path.name)
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than weights, and could run code; take the file from Meta's download"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"{path} is damaged or cut short; download it again") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{path} is not a shard of LLaMA weights: it holds no table of tensors")
    return weights


def join(weights: Sequence[Mapping[str, torch.Tensor]], name: str, axis: int | None) -> torch.Tensor:
    """Return one matrix, joined from all shards."""
    import torch

    missing = [number for number, shard in enumerate(weights) if name not in shard]
    if missing:
        raise UserError(f"consolidated.{missing[0]:02d}.pth lacks {name}: it is damaged, or not LLaMA or Llama 2")
    parts = [shard[name] for shard in weights]
    return parts[0].clone() if axis is None or len(parts) == 1 else torch.cat(parts, dim=axis)


def halves_apart(matrix: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the rows (heads * d, D) of a query or key matrix: pairs (2i, 2i + 1) become (i, i + d/2)."""
    rows, columns = matrix.shape
    return matrix.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def _layers(weights: Sequence[Mapping[str, torch.Tensor]], params: Params) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the tensors of one layer after the other, by transformers' names; the last has what is in no layer."""
    head = params.dim // params.n_heads
    for number in range(params.n_layers):
        layer = {}
        for name, (written, axis) in PARTS.items():
            matrix = join(weights, f"layers.{number}.{name}.weight", axis)
            if name in ("attention.wq", "attention.wk"):
                heads = params.n_heads if name.endswith("q") else params.n_kv_heads
                _check_shape(f"layers.{number}.{name}", matrix, (heads * head, params.dim))
                matrix = halves_apart(matrix, heads)
            layer[f"model.layers.{number}.{written}.weight"] = matrix.contiguous()
        yield layer
    yield {
        f"{written}.weight": join(weights, f"{name}.weight", axis).contiguous()
        for name, (written, axis) in ENDS.items()
    }


def _check_shape(name: str, matrix: torch.Tensor, expected: tuple[int, int]) -> None:
    if tuple(matrix.shape) != expected:
        raise UserError(
            f"{name} is {tuple(matrix.shape)} where params.json asks for {expected}: "
            "the files are of different models, or a shard is missing"
        )


def _write_weights(weights: Sequence[Mapping[str, torch.Tensor]], params: Params, folder: Path) -> tuple[int, int, str]:
    """Write one safetensors file a layer, and their index; return (vocabulary, width of the feed-forward, dtype)."""
    from safetensors.torch import save_file

    from carellama.model.readers import share_weights

    files, total, count = dict[str, str](), 0, params.n_layers + 1
    vocabulary = hidden = 0
    dtype = ""
    for number, layer in enumerate(_layers(weights, params), 1):
        name = f"model-{number:05d}-of-{count:05d}.safetensors"
        save_file(layer, folder / name, metadata={"format": "pt"})
        files |= dict.fromkeys(layer, name)
        total += sum(tensor.numel() * tensor.element_size() for tensor in layer.values())
        for key, tensor in layer.items():
            hidden = tensor.shape[0] if key.endswith("gate_proj.weight") else hidden
            vocabulary = tensor.shape[0] if key == "model.embed_tokens.weight" else vocabulary
        dtype = str(next(iter(layer.values())).dtype).removeprefix("torch.")
        log.info("wrote %d of %d files", number, count)
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": files})
    share_weights(folder, "model.safetensors.index.json")
    return vocabulary, hidden, dtype


def guess_version(params: Params, size: str) -> int:
    """Return 1 for LLaMA, 2 for Llama 2: by the size, else by norm_eps, which LLaMA 7B and 13B have at 1e-6."""
    base = size.removesuffix("f")
    if base in FIRST_ONLY:
        return 1
    return 2 if base in SECOND_ONLY or size.endswith("f") or params.norm_eps > 5e-6 else 1


def _write_configs(folder: Path, params: Params, vocabulary: int, hidden: int, dtype: str, version: int) -> None:
    """Write config.json and generation_config.json."""
    from transformers import GenerationConfig, LlamaConfig

    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=vocabulary,
        hidden_size=params.dim,
        intermediate_size=hidden,
        num_hidden_layers=params.n_layers,
        num_attention_heads=params.n_heads,
        num_key_value_heads=params.n_kv_heads,
        rms_norm_eps=params.norm_eps,
        max_position_embeddings=POSITIONS[version],
        rope_parameters={"rope_type": "default", "rope_theta": params.rope_theta},
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        dtype=dtype,
    )
    config.save_pretrained(folder)
    GenerationConfig(bos_token_id=1, eos_token_id=2).save_pretrained(folder)


def _write_tokenizer(path: Path, folder: Path, vocabulary: int) -> None:
    """Write tokenizer.json from tokenizer.model, which is kept beside it for programs that read that one."""
    from sentencepiece import SentencePieceProcessor
    from transformers import LlamaTokenizer

    from carellama.model.readers import make_readable

    shutil.copy(path, folder / "tokenizer.model")
    try:
        tokenizer = LlamaTokenizer.from_pretrained(folder, add_bos_token=True)
    except Exception as error:  # sentencepiece and protobuf raise several kinds for a file that is none of theirs
        raise UserError(f"{path} is not a SentencePiece model, or is damaged; download it again") from error
    if tokenizer(PROBE, add_special_tokens=False)["input_ids"] != SentencePieceProcessor(model_file=str(path)).encode(
        PROBE
    ):
        log.warning("%s gives other ids than the tokenizer.json made of it: its kind is not LLaMA's (BPE)", path)
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"{path} has {len(tokenizer)} pieces and the weights {vocabulary} rows: they do not belong together"
        )
    tokenizer.save_pretrained(folder)
    make_readable(folder)


def _write_source_card(folder: Path, size: str, version: int) -> None:
    """Say where the folder comes from, as front matter that later model cards read."""
    name = f"{'Llama 2' if version == 2 else 'LLaMA'} {size}"
    licence = "llama2" if version == 2 else "other"
    head = f"---\nlicense: {licence}\nlanguage:\n- en\n---\n# {name}\n\n"
    (folder / "README.md").write_text(f"{head}Converted by CareLlama from the original weights.\n", encoding="utf-8")
