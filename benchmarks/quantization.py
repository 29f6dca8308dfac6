"""What quantising loses, with and without an importance matrix: KL divergence to f16 on held-out text.

    python benchmarks/quantization.py [--only smollm2|tiny] [--peer FOLDER]

The weights of each .gguf are unpacked and computed in float32, so that the rounding of weights is all that differs.
The text is that of the export's parity, zh and en, which the importance matrix has not seen. The tiny model of hidden
size 512 is trained here for some steps. --peer: a folder with libllama.so and its ggml libraries (npm pack
@node-llama-cpp/linux-x64): its llama_model_quantize writes the same file, and all types and bytes are compared.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaConfig, LlamaForCausalLM

from carellama.model.gguf.importance import Importance, load_importance
from carellama.model.gguf.layout import read_layout
from carellama.model.gguf.measure import measure_importance, medical_texts
from carellama.model.gguf.quantize import quantize
from carellama.model.gguf.tensor_types import FILE_TYPES
from carellama.model.gguf.write import convert_folder
from carellama.model.zoo.resolve import model_folder
from carellama.package_data import package_text

REPOSITORY = Path(__file__).resolve().parent.parent
HELD_OUT = ("export/parity/held_out_en.txt", "export/parity/held_out_zh.txt")
TOKENS = 512  # of each text
STEPS, BATCH_TOKENS = 80, 256


def tiny(folder: Path) -> Path:
    """A Llama of hidden size 512 with two layers and the tokenizer of SmolLM2, trained on the bundled texts."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(str(model_folder("smollm2-135m")))
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=512, intermediate_size=1536, num_hidden_layers=2,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    texts = [(REPOSITORY / "data" / f"pretrain_{language}.txt").read_text() for language in ("en", "zh")]
    ids = torch.tensor([token for text in texts for token in tokenizer(text)["input_ids"]])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(STEPS):
        begin = int(torch.randint(len(ids) - BATCH_TOKENS, (1,)))
        batch = ids[None, begin : begin + BATCH_TOKENS]
        loss = network(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"tiny: loss {loss.item():.2f} after {STEPS} steps")
    network.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logits_of(file: Path, rows: list[torch.Tensor]) -> torch.Tensor:
    """Log-probabilities, (tokens, vocabulary), of the weights of a .gguf."""
    config = GgufConfig(dequantize=True)
    network = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32, quantization_config=config
    ).eval()
    with torch.no_grad():
        return torch.cat([network(input_ids=row).logits[0].log_softmax(-1) for row in rows])


def files(source: Path, importance: Importance) -> Iterator[tuple[str, Path, dict[str, int], Importance | None]]:
    """Each format, of the 4-bit ones also with the matrix: name, file, tensors by type, matrix."""
    for kind in ("q8_0", "q6_K", "q5_K_M", "q4_K_M", "iq4_xs", "q4_0"):
        for one in (None, importance) if kind in ("q4_K_M", "iq4_xs", "q4_0") else (None,):
            name = f"{kind}{' with matrix' if one else ''}"
            target = source.parent / f"{name.replace(' ', '-')}.gguf"
            begin = time.monotonic()
            types = quantize(source, target, kind, one)
            print(f"{name}: {time.monotonic() - begin:.1f} s", flush=True)
            yield name, target, types, one


def measure(folder: Path, scratch: Path, peer: Path | None) -> None:
    """Print a row for each format."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    source = scratch / "source.gguf"
    convert_folder(folder, {"f16": source})
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    begin = time.monotonic()
    importance = measure_importance(network, tokenizer, medical_texts())
    print(f"importance matrix: {time.monotonic() - begin:.0f} s, {len(importance.sums)} matrices", flush=True)
    del network
    rows = [torch.tensor([tokenizer(package_text(text))["input_ids"][:TOKENS]]) for text in HELD_OUT]
    expected = logits_of(source, rows)
    print("| format | MB | KL mean | KL 99.9% | same choice | tensors |\n| --- | ---: | ---: | ---: | ---: | --- |")
    for name, file, types, matrix in files(source, importance):
        found = logits_of(file, rows)
        divergence = (expected.exp() * (expected - found)).sum(-1)
        same = (expected.argmax(-1) == found.argmax(-1)).float().mean()
        tail = torch.quantile(divergence, 0.999)
        size = file.stat().st_size / 1e6
        print(f"| {name} | {size:.1f} | {divergence.mean():.5f} | {tail:.4f} | {same:.1%} | {types} |", flush=True)
        if peer:
            print(compared(peer, source, file, name.split()[0], matrix), flush=True)


def compared(peer: Path, source: Path, file: Path, kind: str, importance: Importance | None) -> str:
    """Compare with llama.cpp's own file, in a process without xllamacpp, whose library has the same names in it."""
    words = [str(peer), str(source), str(file), kind]
    if importance:
        importance.save(matrix := source.with_name("imatrix.gguf"))
        words.append(str(matrix))
    done = subprocess.run([sys.executable, __file__, "--compare", *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr[-500:]


class Peer:
    """llama.cpp's own function for a whole file (llama.h, llama_model_quantize), by ctypes."""

    class Matrix(ctypes.Structure):
        """One entry of an importance matrix."""

        _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t))

    class Params(ctypes.Structure):
        """llama_model_quantize_params."""

    def __init__(self, folder: Path) -> None:
        fields: list[tuple[str, Any]] = [(name, ctypes.c_int) for name in ("threads", "ftype", "output", "embedding")]
        flags = ("requantize", "quantize_output", "only_copy", "pure", "keep_split", "dry_run")
        fields += [(name, ctypes.c_bool) for name in flags]
        fields += [
            ("imatrix", ctypes.POINTER(self.Matrix)),
            *((name, ctypes.c_void_p) for name in ("kv", "tt", "prune")),
        ]
        self.Params._fields_ = [*fields, ("most_bytes", ctypes.c_size_t)]
        for name in ("libggml-base", "libggml.", "libllama."):
            self.library = ctypes.CDLL(str(next(folder.glob(f"{name}*so*"))), mode=ctypes.RTLD_GLOBAL)
        self.library.llama_model_quantize_default_params.restype = self.Params
        self.silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        self.library.llama_log_set(self.silent, None)

    def compare(self, source: Path, ours: Path, kind: str, importance: Importance | None) -> str:
        """Quantise the source, and tell which tensors differ from ours in type or bytes."""
        theirs = ours.with_name(f"peer-{ours.name}")
        params = self.library.llama_model_quantize_default_params()
        params.ftype, params.threads, params.requantize = FILE_TYPES[kind].number, 2, True
        if importance:
            means = self.means(source, importance)
            entries = (self.Matrix * (len(means) + 1))()
            for at, (name, mean) in enumerate(means.items()):
                pointer = mean.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
                entries[at] = self.Matrix(name.encode(), pointer, mean.size)
            params.imatrix = entries
        if self.library.llama_model_quantize(str(source).encode(), str(theirs).encode(), ctypes.byref(params)):
            return f"llama.cpp could not write {kind}"
        one = {tensor.name: tensor for tensor in gguf.GGUFReader(ours).tensors}
        other = {tensor.name: tensor for tensor in gguf.GGUFReader(theirs).tensors}
        types = [name for name in other if one[name].tensor_type != other[name].tensor_type]
        data = [name for name in other if name not in types and not np.array_equal(one[name].data, other[name].data)]
        theirs.unlink()
        return (
            f"against llama.cpp's own: {len(other)} tensors, {len(types)} of another type, {len(data)} of other bytes"
        )

    @staticmethod
    def means(source: Path, importance: Importance) -> Mapping[str, np.ndarray]:  # type: ignore[type-arg]
        """The matrix as llama-quantize hands it over."""
        found = {one.name: importance.of(one) for one in read_layout(source).tensors}
        return {name: np.ascontiguousarray(mean) for name, mean in found.items() if mean is not None}


def main() -> None:
    """Measure both models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("smollm2", "tiny"))
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--compare", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compare:
        folder, source, ours, kind, *matrix = arguments.compare
        importance = load_importance(Path(matrix[0])) if matrix else None
        print(Peer(Path(folder)).compare(Path(source), Path(ours), kind, importance))
        return
    for name in ("tiny", "smollm2"):
        if arguments.only in (None, name):
            with tempfile.TemporaryDirectory(prefix="carellama-") as temporary:
                folder = tiny(Path(temporary) / "tiny") if name == "tiny" else Path(model_folder("smollm2-135m"))
                print(f"\n{name}", flush=True)
                measure(folder, Path(temporary), arguments.peer)


if __name__ == "__main__":
    main()
