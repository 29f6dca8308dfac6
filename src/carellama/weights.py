"""Files of weights: what tells an adapter from a whole model, and fingerprints by which other weights are known.

    is_adapter(Path("output"))          # whether the folder holds an adapter
    fingerprint("models/base")          # "3f0c...": other digits for other weights; None: no files of a known kind
    base_fingerprint(Path("models/base")).tensors     # {"model.layers.0.self_attn.k_proj.weight": "9b1d...", ...}

`fingerprint` is that of the files: it reads some KB of each, its size, its header and a piece of each tensor.
`base_fingerprint` is that of the model: its tokenizer and matrices of three layers, whole. It stays the same where the
same weights lie in other files, in other shards or under another name.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from carellama.errors import UserError

ADAPTER = "adapter_config.json"  # marks the folder of an adapter
WHOLE = tuple(name + end for end in ("", ".index.json") for name in ("model.safetensors", "pytorch_model.bin"))
UNPACKING = 4  # raised when the same .gguf becomes another folder: those of the cache are made again
PIECE_BYTES = 512
MOST_PIECES = 512  # of a file; of more tensors some are read, evenly
LARGEST_HEADER = 100_000_000  # bytes, as safetensors itself allows


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, rather than a whole model."""
    return (folder / ADAPTER).is_file()


def adapter_as_model(place: Path | str) -> UserError:
    """The error for an adapter, a folder, a .gguf or a hub id, that was given in the place of a model."""
    return UserError(
        f"{place} is an adapter: give it as --checkpoint_dir, and the model that it was trained on as "
        "--model_name_or_path"
    )


def check_one_kind(folder: Path) -> None:
    """Raise `UserError` for a folder with a whole model and an adapter: transformers would put one on the other."""
    if is_adapter(folder) and (whole := next((name for name in WHOLE if (folder / name).exists()), None)):
        raise UserError(
            f"{folder} holds a whole model ({whole}) and an adapter ({ADAPTER}), and either could be meant: move the "
            "files adapter_* to a folder of their own, and give that as --checkpoint_dir if the adapter is wanted"
        )


def weight_files(folder: Path, *, pickles: bool = False) -> list[Path]:
    """The files that transformers reads, in its order of names; others that lie beside them are of other weights.

    In a folder without those names they are all safetensors, or all pickles. Raises `UserError` for a damaged index.
    """
    for name in ("model.safetensors", *(("pytorch_model.bin",) if pickles else ())):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            return [folder / shard for shard in shard_names(index)]
    return sorted(folder.glob("*.safetensors")) or (sorted(folder.glob("pytorch_model*.bin")) if pickles else [])


def shard_names(index: Path) -> list[str]:
    """Return the names of the files in an index of weights. Raises `UserError` for a damaged one."""
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is no index of weights ({error}): fetch it again") from error


def fingerprint(place: str | Path) -> str | None:
    """The fingerprint of a folder's safetensors, or of a .gguf file; None: there are none (the name of a hub's model).

    Raises nothing: a file that cannot be read is refused where its weights are loaded.
    """
    path = Path(place).expanduser()
    digest = hashlib.sha256()
    try:
        files = weight_files(path) if path.is_dir() else [path] * (path.suffix == ".gguf")
        for file in files:
            for piece in _pieces(file):
                digest.update(piece)
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None
    return digest.hexdigest()[:32] if files else None


def _pieces(path: Path) -> Iterator[bytes]:
    """The size, the header and a piece from the middle of each tensor; of a .gguf file pieces at even distances."""
    size = path.stat().st_size
    yield str(size).encode()
    with path.open("rb") as file:
        if path.suffix == ".gguf":
            middles = [size * number // MOST_PIECES for number in range(MOST_PIECES)]
        else:
            header = file.read(min(int.from_bytes(file.read(8), "little"), LARGEST_HEADER))
            yield header
            tensors = [one["data_offsets"] for name, one in json.loads(header).items() if name != "__metadata__"]
            middles = [8 + len(header) + (start + end) // 2 for start, end in sorted(tensors)]
            middles = middles[:: -(-len(middles) // MOST_PIECES) or 1]
        for middle in middles:
            file.seek(middle)
            yield file.read(PIECE_BYTES)


# How a number of a tensor is stored: bytes, and how float32 is made of them.
NUMBERS = {"F32": 4, "F16": 2, "BF16": 2}
ROUNDING = 2**-7  # relative: what bfloat16 keeps of a number, the least precise of the three
SAMPLED = 16  # numbers of each tensor, from its beginning
ATTENTION = re.compile(r"attn|attention")
BIG_BYTES = 1 << 30  # larger files are told apart by size and time, not by content


@dataclass(frozen=True)
class Fingerprint:
    """What a model is known by: its tokenizer, and matrices of three layers.

    tokenizer: digest of its vocabulary, merges and added tokens; "" where the folder has no tokenizer. tensors: name to
    the type and the digest of type, shape and bytes. sample: the first numbers of each, by which the same weights in
    another precision are known.
    """

    tokenizer: str
    tensors: Mapping[str, str]
    sample: Mapping[str, tuple[float, ...]]

    def same_weights(self, other: Fingerprint) -> bool:
        """Whether both are the same weights, if in another precision (float32, float16, bfloat16).

        In one precision the digests decide; in two the first numbers do, as far as the rounding goes. An older
        fingerprint has fewer matrices.
        """
        fewer, more = sorted((self, other), key=lambda one: len(one.tensors))
        if fewer.tensors.items() <= more.tensors.items():
            return True
        return fewer.tensors.keys() <= more.tensors.keys() and all(
            digest.split()[0] != more.tensors[name].split()[0]
            and _close(fewer.sample.get(name, ()), more.sample.get(name, ()))
            for name, digest in fewer.tensors.items()
        )

    def as_json(self) -> dict[str, Any]:
        """The same as JSON, for run.json."""
        sample = {name: list(numbers) for name, numbers in self.sample.items()}
        return {"tokenizer": self.tokenizer, "tensors": dict(self.tensors), "sample": sample}

    @staticmethod
    def of_json(value: Any) -> Fingerprint | None:
        """The fingerprint that `as_json` gave; None for what is none."""
        if not isinstance(value, dict) or not isinstance(value.get("tensors"), dict):
            return None
        sample = {name: tuple(numbers) for name, numbers in (value.get("sample") or {}).items()}
        return Fingerprint(str(value.get("tokenizer") or ""), value["tensors"], sample)


def _close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    if not one or len(one) != len(other):
        return False
    return all(
        abs(left - right) <= ROUNDING * max(abs(left), abs(right)) for left, right in zip(one, other, strict=True)
    )


def base_fingerprint(folder: Path) -> Fingerprint | None:
    """The fingerprint of the model in a folder; None where it has no safetensors, or they cannot be read.

    They are the smallest matrices of attention in the first, the middle and the last layer: of keys and of values,
    since most adapters change the values alone. Of a model without layers they are its smallest matrices. Only their
    bytes are read.
    """
    try:
        tensors = _tensors_of(folder)
        chosen = _chosen(tensors)
        digests = {name: _digest(*tensors[name]) for name in chosen}
        sample = {name: _sample(*tensors[name]) for name in chosen}
        return Fingerprint(tokenizer_digest(folder), digests, sample) if chosen else None
    except (UserError, OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def tokenizer_digest(folder: Path) -> str:
    """Digest of what a tokenizer knows; the same however its file is laid out. "" where the folder has none."""
    file = folder / "tokenizer.json"
    if file.is_file():
        state = json.loads(file.read_text(encoding="utf-8"))
        model = state.get("model") or {}
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges") or []]
        added = sorted((one["id"], one["content"]) for one in state.get("added_tokens") or [])
        known = json.dumps([model.get("vocab"), merges, added], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(known.encode()).hexdigest()[:32]
    digest = hashlib.sha256()
    files = [folder / name for name in ("tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")]
    there = [path for path in files if path.is_file()]
    for path in there:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32] if there else ""


def _tensors_of(folder: Path) -> dict[str, tuple[Path, int, dict[str, Any]]]:
    """Each tensor of a folder's safetensors: its file, where the bytes begin, and what the header says of it."""
    found: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for path in weight_files(folder):
        begins, header = safetensors_header(path)
        found |= {name: (path, begins, about) for name, about in header.items() if name != "__metadata__"}
    return found


def safetensors_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Return where the bytes of the tensors begin, and what a safetensors file says of them (its own documentation).

    Raises `ValueError` for a header that is cut off, too large or no JSON.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("its header is cut off")
        if length > LARGEST_HEADER:
            raise ValueError(f"its header is of {length:,} bytes")
        return 8 + length, json.loads(file.read(length))


def _chosen(tensors: Mapping[str, tuple[Path, int, dict[str, Any]]]) -> list[str]:
    matrices = [name for name, (_, _, about) in tensors.items() if len(about["shape"]) > 1]
    layers: dict[int, list[str]] = {}
    for name in matrices:
        if number := re.search(r"\.(\d+)\.", name):
            layers.setdefault(int(number[1]), []).append(name)

    def smallest(names: list[str]) -> list[str]:
        own = [name for name in names if ATTENTION.search(name)] or names
        return sorted(own, key=lambda name: (_size(tensors[name][2]), name))

    if not layers:
        return sorted(smallest(matrices)[:3])
    numbers = sorted(layers)
    places = dict.fromkeys((numbers[0], numbers[len(numbers) // 2], numbers[-1]))
    return [name for number in places for name in _ends(smallest(layers[number]), tensors)]


def _ends(names: list[str], tensors: Mapping[str, tuple[Path, int, dict[str, Any]]]) -> list[str]:
    """The first and the last of the names with the size of the first: `k_proj` and `v_proj`."""
    same = [name for name in names if _size(tensors[name][2]) == _size(tensors[names[0]][2])]
    return list(dict.fromkeys((same[0], same[-1])))


def _size(about: Mapping[str, Any]) -> int:
    start, end = about["data_offsets"]
    return int(end - start)


def _digest(path: Path, begins: int, about: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(f"{about['dtype']} {list(about['shape'])} ".encode())
    with path.open("rb") as file:
        file.seek(begins + about["data_offsets"][0])
        left = _size(about)
        while left:
            if not (piece := file.read(min(left, 1 << 20))):
                raise ValueError(f"{path} ends within a tensor")
            digest.update(piece)
            left -= len(piece)
    return f"{about['dtype']} {digest.hexdigest()[:32]}"


def _sample(path: Path, begins: int, about: Mapping[str, Any]) -> tuple[float, ...]:
    width = NUMBERS.get(about["dtype"])
    if width is None:
        return ()
    count = min(SAMPLED, _size(about) // width)
    with path.open("rb") as file:
        file.seek(begins + about["data_offsets"][0])
        raw = file.read(count * width)
    if about["dtype"] == "BF16":  # the upper half of a float32
        raw = b"".join(b"\0\0" + raw[at : at + 2] for at in range(0, len(raw), 2))
    form = f"<{count}{'e' if about['dtype'] == 'F16' else 'f'}"
    return tuple(float(f"{number:.6g}") for number in struct.unpack(form, raw))


def unpacked_name(path: Path) -> str:
    """The name of the folder of the cache that a .gguf file is unpacked to."""
    return f"{path.stem}-{content_key(path)}-{UNPACKING}"


def content_key(path: Path) -> str:
    """12 hex digits that change with a file."""
    about = path.stat()
    return _key_of(path, about.st_size, about.st_mtime_ns)


@lru_cache  # a run asks for its model several times
def _key_of(path: Path, size: int, changed: int) -> str:
    if size > BIG_BYTES:
        return hashlib.sha256(f"{path.name} {size} {changed}".encode()).hexdigest()[:12]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
