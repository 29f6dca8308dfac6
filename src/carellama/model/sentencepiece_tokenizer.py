"""A tokenizer of which only SentencePiece's tokenizer.model is there, or this and Python code, which is not run.

    tokenizer = tokenizer_of(Path("tokenizer.model"), config, code="")      # config: its tokenizer_config.json

ChatGLM2 and 3, Baichuan 1 and 2 and InternLM were released with code, the first Llamas without. The model file has all
that the ids depend on: pieces with scores and kinds, how texts are normalised, what becomes of unknown characters. It
is written as a tokenizer of the package tokenizers, which has to give SentencePiece's own ids for `PROBES`, or it is
refused. What their code adds is known here: the tokens that ChatGLM numbers behind the pieces, and bos in front.

carellama.model.sentencepiece_file goes the other way.
"""

from __future__ import annotations

import json
import logging
import re
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from carellama.errors import UserError
from carellama.model.sentencepiece_file import (
    BPE,
    CONTROL,
    NORMAL,
    NORMALIZER,
    PIECES,
    PROBE,
    TRAINER,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)

UNIGRAM = 1  # sentencepiece_model.proto, TrainerSpec.ModelType
MARK = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")  # a user-defined piece that stands for markup, as <reserved_102>
CHATGLM = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")  # numbered behind the pieces by tokenization_chatglm.py
CHATGLM3 = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
# Classes of transformers for any tokenizer.model; transformers 5 would give it Llama's rules, whatever the file says.
PLAIN_CLASSES = ("", "LlamaTokenizer", "LlamaTokenizerFast")
# where bos stands first if tokenizer_config.json says nothing
BEGINS = dict.fromkeys((*PLAIN_CLASSES, "InternLMTokenizer", "InternLM2Tokenizer"), True)
PROBES = (
    *PROBE.split("\n"),
    PROBE,
    "  two  spaces  ",
    "\t\n a\u3000b\r\n\n",
    "2023年10月1日，体温38.5℃，血压120/80mmHg。",
    "[INST] x ▁ ▁▁",
    "𠮷野家 🙂 ﬁ ① é",
)
RARE = ("ｶﾞ", "e\u0301")  # half-width kana and letters with a mark of their own, which the two normalise one by one


@dataclass(frozen=True)
class SentencePieceModel:
    """What a tokenizer.model says."""

    pieces: tuple[tuple[str, float, int], ...]  # text, score, kind
    kind: int  # BPE or UNIGRAM
    byte_fallback: bool
    named: Mapping[str, int]  # ids of unk, bos, eos, pad; -1: none
    charsmap: bytes  # how characters are normalised
    dummy_prefix: bool
    removes_spaces: bool


def read_model(path: Path) -> SentencePieceModel:
    """Return what a tokenizer.model says. Raises `UserError` for a file that is none, or of another kind."""
    try:
        fields = list(_fields(path.read_bytes()))
        trainer = dict(_fields(b"".join(cast("bytes", value) for number, value in fields if number == TRAINER)))
        normalizer = dict(_fields(b"".join(cast("bytes", value) for number, value in fields if number == NORMALIZER)))
        pieces = tuple(_piece(dict(_fields(cast("bytes", value)))) for number, value in fields if number == PIECES)
    except (IndexError, struct.error, ValueError, TypeError) as error:
        raise UserError(f"{path} is no tokenizer.model of SentencePiece, or it is damaged") from error
    kind = int(cast("int", trainer.get(3, UNIGRAM)))
    if kind not in (BPE, UNIGRAM) or not pieces:
        raise UserError(f"{path}: only BPE and unigram models of SentencePiece are read")
    if trainer.get(24):
        raise UserError(f"{path} puts spaces behind words, which is not read here")
    defaults = {"unk": 0, "bos": 1, "eos": 2, "pad": -1}
    named = {name: _signed(trainer.get(40 + at, default)) for at, (name, default) in enumerate(defaults.items())}
    return SentencePieceModel(
        pieces,
        kind,
        bool(trainer.get(35, 0)),
        named,
        cast("bytes", normalizer.get(2, b"")),
        bool(normalizer.get(3, 1)),
        bool(normalizer.get(4, 1)),
    )


def _signed(value: object) -> int:
    number = int(cast("int", value))
    return number - (1 << 64) if number >> 63 else number


def _piece(fields: Mapping[int, object]) -> tuple[str, float, int]:
    (score,) = struct.unpack("<f", cast("bytes", fields.get(2, bytes(4))))
    return cast("bytes", fields[1]).decode("utf-8"), score, int(cast("int", fields.get(3, NORMAL)))


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer (protobuf.dev, "Encoding"): number and value."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = content[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while at < len(content):
        tag = varint()
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(wire)
        if size is None:
            if wire != 2:
                raise ValueError(f"wire type {wire}")
            size = varint()
        if at + size > len(content):
            raise IndexError
        yield number, content[at : at + size]
        at += size


def find_tokenizer(file_of: Callable[[str], Path | None]) -> PreTrainedTokenizerFast | None:
    """Return the tokenizer of a model that has SentencePiece's file and no tokenizer.json; None for other models.

    `file_of` returns a file of the model by its name.
    """
    settings = file_of("tokenizer_config.json")
    config = json.loads(settings.read_text(encoding="utf-8")) if settings else {}
    own_code = (config.get("auto_map") or {}).get("AutoTokenizer")
    if not own_code and config.get("tokenizer_class", "") not in PLAIN_CLASSES:
        return None
    if file_of("tokenizer.json") is not None or (path := file_of("tokenizer.model")) is None:
        return None
    try:
        model = read_model(path)
    except UserError:
        if own_code:
            raise
        return None  # Llama 3's first release has a file of tiktoken by this name
    for name in ("special_tokens_map.json", "added_tokens.json"):
        if found := file_of(name):
            config[name] = json.loads(found.read_text(encoding="utf-8"))
    module = str(own_code[0] if isinstance(own_code, list) else own_code).rpartition("--")[2].partition(".")[0]
    code, jinja = file_of(f"{module}.py") if own_code else None, file_of("chat_template.jinja")
    config |= {"chat_template": jinja.read_text(encoding="utf-8")} if jinja else {}  # it counts before the entry
    return _tokenizer_of(model, path, config, code.read_text(encoding="utf-8") if code else "")


def tokenizer_of(path: Path, config: Mapping[str, Any], code: str = "") -> PreTrainedTokenizerFast:
    """Return the tokenizer of a tokenizer.model with its tokenizer_config.json; `code`: the text of its Python file.

    The code is not run: it only tells ChatGLM3, which has tokens for roles, from ChatGLM2. Raises `UserError` for a
    model whose ids would not be SentencePiece's own.
    """
    return _tokenizer_of(read_model(path), path, config, code)


def _tokenizer_of(
    model: SentencePieceModel, path: Path, config: Mapping[str, Any], code: str
) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    owner = str(config.get("tokenizer_class", ""))
    extra = _added_by_code(owner, code, len(model.pieces))
    extra |= {number: text for text, number in config.get("added_tokens.json", {}).items()}
    listed = config.get("added_tokens_decoder", {})
    extra |= {int(number): _content(token) for number, token in listed.items()}
    words = {int(number) for number, token in listed.items() if isinstance(token, Mapping) and not token.get("special")}
    backend, names = _backend(model, extra, words if owner in PLAIN_CLASSES else ())
    names |= _named_tokens(config, backend)
    _compare(backend, path, model)
    _begin(backend, owner, config, names)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        padding_side="left",
        model_max_length=config.get("model_max_length") or int(1e30),
        chat_template=config.get("chat_template"),
        **{f"{name}_token": token for name, token in names.items() if token},
    )


def _named_tokens(config: Mapping[str, Any], backend: Tokenizer) -> dict[str, str]:
    """The tokens that tokenizer_config.json, or else special_tokens_map.json, names for unk, bos, eos and pad."""
    stated = {**config.get("special_tokens_map.json", {}), **{key: one for key, one in config.items() if one}}
    named = {name: stated.get(f"{name}_token") for name in ("unk", "bos", "eos", "pad")}
    found = {name: _content(token) for name, token in named.items() if token}
    return {name: token for name, token in found.items() if backend.token_to_id(token) is not None}


def _content(token: object) -> str:
    return str(token["content"] if isinstance(token, Mapping) else token)


def _added_by_code(owner: str, code: str, size: int) -> dict[int, str]:
    """The tokens that a project's code numbers behind the pieces."""
    if owner != "ChatGLMTokenizer":
        return {}
    names = (*CHATGLM, *(CHATGLM3 if "<|observation|>" in code else ()))
    return {size + at: name for at, name in enumerate(names)}


def backend_of(model: SentencePieceModel) -> Tokenizer:
    """Return a tokenizer of these pieces; it begins and ends no text."""
    return _backend(model, {})[0]


def has_user_words(model: SentencePieceModel) -> bool:
    """Whether there are user-defined pieces that stand within words: what follows them would get a space in front."""
    return any(kind == USER_DEFINED and len(text) > 1 and not MARK.fullmatch(text) for text, _, kind in model.pieces)


def _backend(
    model: SentencePieceModel, extra: Mapping[int, str], extra_words: Collection[int] = ()
) -> tuple[Tokenizer, dict[str, str]]:
    """The tokenizer, and its unk, bos, eos and pad tokens. `extra_words`: those of `extra` that are not special."""
    from tokenizers import AddedToken, Tokenizer

    texts = [extra.get(number, text) for number, (text, _, _) in enumerate(model.pieces)]
    last = max(extra, default=-1)
    texts += [extra.get(number, f"[unused{number}]") for number in range(len(texts), last + 1)]
    unknown = model.named["unk"]
    backend = Tokenizer(_bpe(model, texts, unknown) if model.kind == BPE else _unigram(model, texts, unknown))
    backend.normalizer, backend.decoder = _normalizer(model), _decoder(model)
    special, words = [], []
    for number, text in enumerate(texts):
        kind = model.pieces[number][2] if number < len(model.pieces) else CONTROL
        if number in extra_words:
            words.append(AddedToken(text, normalized=False, special=False))
        elif number in extra or kind in (CONTROL, UNKNOWN) or (kind == USER_DEFINED and MARK.fullmatch(text)):
            special.append(AddedToken(text, normalized=False, special=True))
        elif kind == USER_DEFINED and len(text) > 1:  # one character is never part of a merge: it needs no cutting out
            words.append(AddedToken(text, normalized=False, special=False))
    backend.add_tokens(words)
    backend.add_special_tokens(special)
    names = {name: texts[number] for name, number in model.named.items() if 0 <= number < len(texts)}
    return backend, names


def _bpe(model: SentencePieceModel, texts: list[str], unknown: int) -> Any:
    """BPE with the merges in the order of the scores of what they make."""
    from tokenizers.models import BPE as Bpe

    known = {text: number for number, (text, _, kind) in enumerate(model.pieces) if kind in (NORMAL, UNUSED)}
    merges: list[tuple[float, int, str, str]] = []
    for text, number in known.items():
        score = model.pieces[number][1]
        pairs = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        merges += [(-score, known[left], left, right) for left, right in pairs if left in known and right in known]
    merges.sort(key=lambda merge: merge[:2])
    return Bpe(
        vocab={text: number for number, text in enumerate(texts)},
        merges=[(left, right) for _, _, left, right in merges],
        unk_token=texts[unknown],
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _unigram(model: SentencePieceModel, texts: list[str], unknown: int) -> Any:
    from tokenizers.models import Unigram

    scores = [score for _, score, _ in model.pieces] + [0.0] * (len(texts) - len(model.pieces))
    return Unigram(list(zip(texts, scores, strict=True)), unk_id=unknown, byte_fallback=model.byte_fallback)


def _normalizer(model: SentencePieceModel) -> Any:
    """SentencePiece's steps: characters, extra spaces, a space in front, spaces as ▁ (src/normalizer.cc)."""
    from tokenizers import Regex
    from tokenizers.normalizers import Precompiled, Prepend, Replace, Sequence

    steps: list[Any] = [Precompiled(model.charsmap)] if model.charsmap else []
    if model.removes_spaces:
        steps += [Replace(Regex(r"\A +|[ ▁]+\z"), ""), Replace(Regex(" {2,}"), " ")]
    steps += [Prepend("▁")] if model.dummy_prefix else []
    return Sequence([*steps, Replace(" ", "▁")])


def _decoder(model: SentencePieceModel) -> Any:
    from tokenizers.decoders import ByteFallback, Fuse, Replace, Sequence, Strip

    steps: list[Any] = [Replace("▁", " "), ByteFallback(), Fuse()]
    return Sequence([*steps, Strip(" ", 1, 0)] if model.dummy_prefix else steps)


def _begin(backend: Tokenizer, owner: str, config: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Put in front of a text what the project's code does."""
    from tokenizers.processors import TemplateProcessing

    front = ["[gMASK]", "sop"] if owner == "ChatGLMTokenizer" else []
    if not front and config.get("add_bos_token", BEGINS.get(owner, False)) and names.get("bos"):
        front = [names["bos"]]
    if front:
        numbered = [(token, backend.token_to_id(token)) for token in front]
        backend.post_processor = TemplateProcessing(single=" ".join([*front, "$A"]), special_tokens=numbered)


def _compare(backend: Tokenizer, path: Path, model: SentencePieceModel) -> None:
    """Refuse a tokenizer that does not give SentencePiece's ids.

    Vocabularies that were put together, as Chinese ones on Llama's, have thousands of pieces of one score. Of these
    SentencePiece joins the first in a text; a tokenizer.json has an order of all. A warning says how often it matters.
    """
    from sentencepiece import SentencePieceProcessor

    theirs = SentencePieceProcessor(model_file=str(path))
    # The strings of control pieces are cut before they are tokenised, so that what a unigram makes of them counts less.
    if different := [text for text in RARE if plain_ids(backend, text) != theirs.encode(text)]:
        log.warning("%s: rare characters (%s) get other ids than SentencePiece gives", path, " ".join(different))
    crossing = list(_crossing_pieces(model))
    if different := [text for text in crossing if plain_ids(backend, text) != theirs.encode(text)]:
        log.warning(
            "%s: pieces of one score are joined in another order than SentencePiece's in %d of %d texts that were made "
            "to show it (the first: %s); ordinary text differs less often",
            path, len(different), len(crossing), different[0],
        )  # fmt: skip
    for text in (*PROBES, *(["<s> x </s> <unk> <0x41>"] if model.kind == BPE else [])):
        ids = plain_ids(backend, text)
        if ids != theirs.encode(text) and not different:
            raise UserError(
                f"{path} cannot be read: {text!r} would get other ids than SentencePiece gives; "
                "put a tokenizer.json beside it that gives these ids"
            )


def _crossing_pieces(model: SentencePieceModel, most: int = 1000) -> Iterator[str]:
    """Texts in which two pieces of one score overlap by a character, as 糖尿 and 尿病 in 糖尿病."""
    if model.kind != BPE:
        return
    by_score = Counter(score for _, score, kind in model.pieces if kind == NORMAL)
    tied = [text for text, score, kind in model.pieces if kind == NORMAL and len(text) > 1 and by_score[score] > 1]
    begins: dict[str, list[str]] = {}
    for text in tied:
        begins.setdefault(text[0], []).append(text)
    pairs = (first + second[1:] for first in tied for second in begins.get(first[-1], ())[:3])
    yield from islice(pairs, most)


def plain_ids(backend: Tokenizer, text: str) -> list[int]:
    """The ids of a text in which the strings of special tokens stay text, as SentencePiece takes them."""
    backend.encode_special_tokens = True
    try:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
    finally:
        backend.encode_special_tokens = False
    return ids
