"""A model's tokenizer without transformers: from the .gguf itself, or from the tokenizer.json of a folder.

    tokenizer = of_gguf(Path("model.gguf"), template=None)
    ids = tokenizer.encode_chat([Message("user", "What is asthma?")])

A prompt gets the ids that training gave it. Only byte-level vocabularies are read from a .gguf, and only ways of
splitting words that are known: one that is nearly right would go unnoticed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from carellama.engine.base import Tool
from carellama.engine.chat import ADDS_BOS, Chat, chat_of
from carellama.engine.detokenizer import DecodeFn, keeping
from carellama.errors import UserError
from carellama.model.gguf.facts import KINDS, TOKENS
from carellama.model.gguf.read import AS_GPT2, DIGITS_APART, Header
from carellama.model.sentencepiece_file import CONTROL, USER_DEFINED
from carellama.model.tokenizer import make_exact
from carellama.records import Message
from carellama.templates.jinja import turn_ends
from carellama.templates.tokenize import find_anchor

MERGES = "tokenizer.ggml.merges"
ARRAYS = (TOKENS, KINDS, MERGES)  # of a header that are read here
# How words are split, by llama.cpp's name for it: the patterns of the tokenizer.json of Llama 3 and of Qwen 2.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"llama-bpe": _WORDS % "{1,3}", "qwen2": _WORDS % "", "deepseek-r1-qwen": _WORDS % ""}


class Tokenizer:
    """A `tokenizers.Tokenizer` and the chat format that goes with it; `stop_ids` are the tokens that end an answer."""

    def __init__(self, backend: Backend, chat: Chat) -> None:
        self.backend = backend
        self.chat = chat
        ends = [chat.eos, *chat.stops, *turn_ends(chat.jinja)]
        tokens = {end: backend.token_to_id(end) for end in ends if end}
        self.stop_ids = [number for number in tokens.values() if number is not None]
        self.stops = [end for end, number in tokens.items() if number is None and end in chat.stops]
        self._anchor, self._anchor_ids = find_anchor(backend)

    def encode(self, text: str, *, begin: bool = False) -> list[int]:
        """Return the ids of a text; with `begin` behind the token that begins a sequence, where the model has one."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=begin).ids
        return ids

    def encode_text(self, text: str, *, begin: bool = False) -> list[int]:
        """Return the ids of a text in which marks stay text; `begin` as in `encode`."""
        first, *others = self.chat.cut_marks(text)
        return [*self.encode(first, begin=begin), *self._continued(others)]

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Return the ids that an answer starts from. Marks in a person's words are cut, so that they stay text."""
        return self.encode_pieces(self.chat.pieces(messages, tools))

    def encode_pieces(self, pieces: Sequence[str]) -> list[int]:
        """Return the ids of what `Chat.pieces` gives."""
        return [*self.encode("".join(pieces[:1])), *self._continued(pieces[1:])]

    def _continued(self, parts: Sequence[str]) -> Iterator[int]:
        """The ids of parts that follow another one, without the space that a SentencePiece tokenizer puts in front."""
        for part in parts:
            yield from self.encode(self._anchor + part)[len(self._anchor_ids) :]

    def decode_keeping(self, marks: Sequence[str]) -> DecodeFn:
        """Return `decode` that keeps these of the special tokens."""
        numbers = {self.backend.token_to_id(mark): mark for mark in marks}
        return keeping(self.decode, {number: mark for number, mark in numbers.items() if number is not None})

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without special tokens."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=True)
        return text


def of_gguf(path: Path, header: Header, template: str | None) -> Tokenizer:
    """Return the tokenizer of a .gguf, from its header with `ARRAYS`, and its chat format or the named one.

    Raises `UserError` for a vocabulary that cannot be read faithfully, and as `chat_of` does.
    """
    facts = header.facts
    tokens, kinds = facts.get(TOKENS) or [], facts.get(KINDS) or []
    if facts.get("tokenizer.ggml.model") != "gpt2" or not tokens or len(kinds) != len(tokens):
        raise UserError(
            f"{path}: its vocabulary is of the kind {facts.get('tokenizer.ggml.model')!r}; --engine openvino reads "
            "'gpt2' (byte-level), as Llama 3, Qwen and SmolLM have it; take --engine llamacpp or transformers"
        )
    split = facts.get("tokenizer.ggml.pre", "")
    merges = [tuple(merge.split(" ", 1)) for merge in facts.get(MERGES) or []]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Backend(BPE(vocabulary, merges, ignore_merges=split == "llama-bpe"))
    _split_words(backend, split, path)
    backend.decoder = decoders.ByteLevel()
    marks = [(token, kind) for token, kind in zip(tokens, kinds, strict=True) if kind in (CONTROL, USER_DEFINED)]
    backend.add_tokens([AddedToken(token, special=kind == CONTROL, normalized=False) for token, kind in marks])
    chat = chat_of(header, template)
    if chat.bos and facts.get(ADDS_BOS):
        backend.post_processor = processors.TemplateProcessing(
            f"{chat.bos} $A", special_tokens=[(chat.bos, vocabulary[chat.bos])]
        )
    return Tokenizer(backend, chat)


def _split_words(backend: Backend, split: str, path: Path) -> None:
    """Split words as the vocabulary was learned. Raises `UserError` for a way that is not known."""
    words: pre_tokenizers.PreTokenizer
    if split in PATTERNS:
        words = pre_tokenizers.Split(Regex(PATTERNS[split]), behavior="isolated")
        if split != "llama-bpe":
            backend.normalizer = normalizers.NFC()
    elif split in DIGITS_APART:
        words = pre_tokenizers.Digits(individual_digits=True)
    elif split not in AS_GPT2:
        raise UserError(
            f"{path}: its tokenizer splits words as {split!r}, which is not known here; "
            "take --engine llamacpp, or the model's folder with --engine transformers"
        )
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split not in PATTERNS)
    backend.pre_tokenizer = bytes_of if split in AS_GPT2 else pre_tokenizers.Sequence([words, bytes_of])


def _kind(mark: AddedToken | None) -> int:
    return 1 if mark is None else CONTROL if mark.special else USER_DEFINED


def of_folder(folder: Path, template: str | None) -> Tokenizer:
    """Return the tokenizer of a folder: tokenizer.json, tokenizer_config.json and chat_template.jinja.

    Raises `UserError` where the first is missing, and as `chat_of` does.
    """
    file, settings, jinja = (
        folder / name for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    )
    if not file.is_file():
        raise UserError(f"{folder} has no tokenizer.json; copy it there from the model that was converted")
    backend = Backend.from_file(str(file))
    make_exact(backend)
    config = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    own = jinja.read_text(encoding="utf-8") if jinja.is_file() else config.get("chat_template")
    added = backend.get_added_tokens_decoder()
    vocabulary = backend.get_vocab(with_added_tokens=True)
    ordered = sorted(vocabulary, key=lambda token: vocabulary[token])
    facts: dict[str, Any] = {
        TOKENS: ordered,
        KINDS: [_kind(added.get(vocabulary[token])) for token in ordered],
        "tokenizer.chat_template": own,
    }
    for name in ("bos", "eos"):
        found = config.get(f"{name}_token")
        content = found["content"] if isinstance(found, dict) else found
        facts[f"tokenizer.ggml.{name}_token_id"] = ordered.index(content) if content in vocabulary else None
    facts[ADDS_BOS] = backend.encode("a").ids[:1] == [facts["tokenizer.ggml.bos_token_id"]]
    return Tokenizer(backend, chat_of(Header(facts, 0), template))
