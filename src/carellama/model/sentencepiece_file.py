"""Write the tokenizer.model of a SentencePiece tokenizer whose tokenizer.json is all there is.

    write_tokenizer_model(folder)      # False: SentencePiece would give other ids than tokenizer.json

transformers 5 saves tokenizer.json alone. llama.cpp's converter takes vocabulary and order of merges from
tokenizer.model: without that file it gives all pieces of Llama and Mistral the same score, so that the .gguf splits
words at other places without an error, and it refuses Gemma, Phi-3 and others. Unigram models and byte-level BPE have
no such file here: the converter reads their tokenizer.json.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "tokenizer.model"
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTES = (
    1,
    2,
    3,
    4,
    5,
    6,
)  # sentencepiece_model.proto, SentencePiece.Type
BPE = 2
PIECES, TRAINER, NORMALIZER = 1, 2, 3
# Where merges meet: words, spaces, numbers, Chinese, bytes of characters that no vocabulary has.
PROBE = (
    "Patients with asthma should see a doctor at once if breathing is hard.  Take 500 mg (2×), 38.5℃\n\n"
    "患者发烧三天，应及时就医。 The 患者 is unresponsive\tinternationally 𒀀"
)


def is_sentencepiece(state: Mapping[str, Any]) -> bool:
    """Return whether a tokenizer.json is a BPE of SentencePiece's kind: unknown characters become bytes."""
    model = state["model"]
    return model.get("type") == "BPE" and bool(model.get("byte_fallback")) and "merges" in model


def space_before(state: Mapping[str, Any]) -> str:
    """Return where the tokenizer puts a space: "always" (before each part between added tokens), "first" or "never"."""
    steps = [state.get("normalizer") or {}, state.get("pre_tokenizer") or {}]
    for step in steps:
        steps += [*step.get("normalizers", ()), *step.get("pretokenizers", ())]
        if step.get("type") == "Prepend":  # Llama 2; Gemma has neither
            return "always"
        if step.get("type") == "Metaspace":
            return str(step.get("prepend_scheme", "always"))
    return "never"


def llamacpp_reason(folder: Path) -> str:
    """Return why llama.cpp would split texts in another way than the tokenizer.json of `folder`, or "".

    Writes `tokenizer.model`, see `write_tokenizer_model`.
    """
    if not write_tokenizer_model(folder):
        return "its tokenizer.json splits words in another way than SentencePiece"
    source = folder / "tokenizer.json"
    state = json.loads(source.read_text(encoding="utf-8")) if source.is_file() else None
    if state is None or not is_sentencepiece(state) or space_before(state) != "first":
        return ""
    added = [token["content"] for token in state["added_tokens"]]  # special ones as well: the <s> before a question
    return f"llama.cpp puts a space behind each of its {len(added)} added tokens ({added[-1]}, ...)" if added else ""


def write_tokenizer_model(folder: Path) -> bool:
    """Write `tokenizer.model` beside a tokenizer.json of SentencePiece's kind; return whether both have the same ids.

    A file with the same pieces is kept. If SentencePiece would give other ids than tokenizer.json, nothing is written
    and an older file is removed. Other kinds of tokenizer.json need no such file. Raises `OSError` if it cannot be
    written.
    """
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

    path, source = folder / FILE, folder / "tokenizer.json"
    if not source.is_file():
        return True
    state = json.loads(source.read_text(encoding="utf-8"))
    if not is_sentencepiece(state):
        return True
    content = _model(state, _named(folder))
    if path.is_file() and _pieces(path.read_bytes()) == _pieces(content):
        return True
    path.unlink(missing_ok=True)  # not written through a link
    try:
        ids = SentencePieceProcessor(model_proto=content).encode(PROBE)
    except RuntimeError:  # a vocabulary without a token for unknown characters
        return False
    if ids != Tokenizer.from_file(str(source)).encode(PROBE, add_special_tokens=False).ids:
        return False
    path.write_bytes(content)
    return True


def added_tokens(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the added tokens of a tokenizer.json as tokenizer_config.json of transformers 4 lists them, by id."""
    return {str(token["id"]): {key: token[key] for key in token if key != "id"} for token in state["added_tokens"]}


def _model(state: Mapping[str, Any], named: Mapping[str, str]) -> bytes:
    """Return the bytes of a SentencePiece model: pieces by id, scored by the rank of the merge that makes them."""
    vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
    added = {token["id"]: token for token in state["added_tokens"]}
    pieces = {number: piece for piece, number in vocabulary.items()}
    pieces |= {number: token["content"] for number, token in added.items()}
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge.split(" ", 1) if isinstance(merge, str) else merge), rank)
    unknown = state["model"].get("unk_token")
    written = bytearray()
    for number in range(max(pieces) + 1):
        piece = pieces.get(number, f"[PAD{number}]")
        kind = NORMAL if number in pieces else UNUSED
        if piece == unknown:
            kind = UNKNOWN
        elif number in added:
            kind = CONTROL if added[number]["special"] else USER_DEFINED
        elif BYTE.fullmatch(piece):
            kind = BYTES
        score = -float(ranks.get(piece, len(merges) + number)) if kind == NORMAL else 0.0
        piece = piece.replace(" ", "▁")
        written += _field(PIECES, _field(1, piece) + _varint(2 << 3 | 5) + struct.pack("<f", score) + _field(3, kind))
    numbers = {piece: number for number, piece in pieces.items()}
    trainer = _field(3, BPE) + _field(4, max(pieces) + 1) + _field(35, 1)  # model_type, vocab_size, byte_fallback
    for place, token in enumerate((unknown, *(named[name] for name in ("bos", "eos", "pad")))):
        trainer += _field(40 + place, numbers.get(token, -1)) + (_field(45 + place, token) if token else b"")
    # name, add_dummy_prefix, remove_extra_whitespaces
    normalizer = _field(1, "identity") + _field(3, space_before(state) != "never") + _field(4, 0)
    return bytes(written) + _field(TRAINER, trainer) + _field(NORMALIZER, normalizer)


def _field(number: int, value: str | bytes | int) -> bytes:
    """Return a field of a protocol buffer (protobuf.dev, "Encoding"): a number, or a length and bytes."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode("utf-8") if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Return a whole number in groups of 7 bits, the lowest first; a negative one as its 64-bit complement."""
    value &= (1 << 64) - 1
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def _named(folder: Path) -> dict[str, str]:
    """Return the tokens that begin and end a text and that pad it, by tokenizer_config.json."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    tokens = {name: config.get(f"{name}_token") for name in ("bos", "eos", "pad")}
    return {name: (token["content"] if isinstance(token, dict) else token) or "" for name, token in tokens.items()}


def _pieces(content: bytes) -> list[tuple[str, bool]] | None:
    """Return the pieces of a SentencePiece model and which of them are control tokens; None for a damaged file."""
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(model_proto=content)
    except RuntimeError:
        return None
    return [(model.id_to_piece(number), model.is_control(number)) for number in range(len(model))]
