"""Tokenizer of a model: that of the base, or of a checkpoint that brings tokens of its own.

    tokenizer = load_tokenizer(model)
    match_tokenizer(network, tokenizer, extended=tokenizer_checkpoint(model) is not None)

An adapter may have been trained with tokens that its base has not: `<|im_start|>`, or thousands of Chinese pieces.
Its tokenizer lies beside it, and the base's would cut the same text into other ids.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from carellama.adapter_json import read_adapter_json
from carellama.config.model import ModelOptions
from carellama.errors import UserError
from carellama.model.adapter_files import EMBEDDINGS, HEADS, whole_modules
from carellama.model.load import adapter_kind, given_name, hub_kwargs, load_config, model_source
from carellama.model.load_errors import as_user_error
from carellama.model.readers import PAD_TOKENS
from carellama.model.sentencepiece_tokenizer import find_tokenizer
from carellama.model.vocabulary import grow, tying_configs
from carellama.weights import ADAPTER

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}  # Unicode's forms of these, which NFKC undoes
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def load_tokenizer(model: ModelOptions) -> PreTrainedTokenizerBase:
    """Return the tokenizer, padding on the left and with a pad token. Raises `UserError` if there is none.

    It is that of the last checkpoint which brings tokens of its own, else that of the base; its chat template is that
    of the last checkpoint, which may ask for answers without reasoning.
    """
    own_place = tokenizer_checkpoint(model)
    shown = own_place or given_name(model)
    tokenizer = _read(own_place or model_source(model), shown, model)
    if own := _chat_template(model):
        tokenizer.chat_template = own
    if tokenizer.eos_token is None:
        raise UserError(f"the tokenizer of {shown} has no end token (eos_token): no answer could ever end")
    if tokenizer.pad_token is None:
        vocabulary = tokenizer.get_vocab()
        tokenizer.pad_token = next((pad for pad in PAD_TOKENS if pad in vocabulary), tokenizer.eos_token)
    return tokenizer


def tokenizer_checkpoint(model: ModelOptions) -> Path | None:
    """The last checkpoint whose tokenizer counts: a whole model, or an adapter with other tokens than those below it.

    Raises `UserError` for an adapter whose tokenizer is that of another base, or has tokens without rows.
    """
    for index, name in reversed(list(enumerate(model.checkpoints))):
        folder = Path(name).expanduser()
        if not (folder / "tokenizer_config.json").is_file():
            continue
        if not (folder / ADAPTER).is_file():
            return folder
        try:
            settings = read_adapter_json(folder)
        except UserError:
            continue  # refused with its reason where the adapter is put on
        below = replace(model, checkpoint_dir=",".join(model.checkpoints[:index]) or None)
        if settings.get("trainable_token_indices") or _has_other_tokens(folder, below):
            return folder
    return None


def check_base_tokens(model: ModelOptions, adapter: Path) -> None:
    """Raise `UserError` for an adapter that has other tokens or another embedding than its base.

    It cannot answer beside the base, nor beside other adapters: they share one tokenizer and one embedding.
    """
    whole = [module.name for module in whole_modules(adapter, allow_pickle=model.allow_pickle).values()]
    alone = replace(model, checkpoint_dir=str(adapter))
    if whole or tokenizer_checkpoint(alone) is not None:
        reason = f"has {whole[0]} whole" if whole else "has tokens of its own"
        raise UserError(f"{adapter} {reason}: carellama export --checkpoint_dir {adapter} writes a model with it")


def check_same_tokens(model: ModelOptions) -> None:
    """Raise `UserError` for adapters to be merged as equals that were trained with different tokens."""
    alone = [replace(model, checkpoint_dir=name) for name in model.checkpoints]
    first, *others = [load_tokenizer(one).get_vocab() for one in alone]
    for name, tokens in zip(model.checkpoints[1:], others, strict=True):
        if tokens != first:
            raise UserError(f"--merge: {model.checkpoints[0]} and {name} were trained with different tokens")


def match_tokenizer(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, extended: bool = False) -> None:
    """Check that the model knows every token of the tokenizer, and tell it the pad token.

    One whose tokenizer was `extended` gets rows for the new tokens. Raises `UserError` for another tokenizer that is
    larger than the model's vocabulary.
    """
    highest = max(tokenizer.get_vocab().values())
    if extended:
        grow(network, highest + 1)
    embeddings = cast("torch.nn.Embedding", network.get_input_embeddings())
    rows = embeddings.num_embeddings
    if highest >= rows:
        raise UserError(
            f"the tokenizer has token {highest}, but the model {network.config.name_or_path} knows only "
            f"{rows} tokens: they do not belong together"
        )
    network.config.pad_token_id = tokenizer.pad_token_id
    if getattr(network, "generation_config", None) is not None:
        network.generation_config.pad_token_id = tokenizer.pad_token_id


def _read(place: Path | str, shown: Path | str, model: ModelOptions) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    with as_user_error(shown, "tokenizer"):
        file_of = partial(_file_of, place, model)
        if found := find_tokenizer(file_of):
            return found
        tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left", **hub_kwargs(model))
        if getattr(tokenizer, "is_fast", False):
            by_file = type(tokenizer) is PreTrainedTokenizerFast  # which takes a tokenizer.json as it is
            if not by_file and (file := file_of("tokenizer.json")):
                _follow_file(tokenizer, file)
            make_exact(tokenizer.backend_tokenizer)
        return tokenizer


def _follow_file(tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Have the tokenizer cut text as its tokenizer.json says.

    Classes of transformers 5 (Llama's, Qwen2's, Gemma's) take the vocabulary of the file and rules of their own: a text
    of Llama 2 begins with another token then. transformers 4, the trainers of the field and vLLM follow the file.
    """
    from tokenizers import Tokenizer

    own, stated = tokenizer.backend_tokenizer, Tokenizer.from_file(str(file))
    if _rules(own) == _rules(stated):
        return
    for number, token in sorted(own.get_added_tokens_decoder().items()):
        if stated.token_to_id(token.content) not in (number, None):
            raise ValueError(f"{token.content!r} is token {number} of its configuration, and another of {file.name}")
        (stated.add_special_tokens if token.special else stated.add_tokens)([token])
    stated.post_processor = own.post_processor  # it begins and ends texts as the configuration asks
    tokenizer._tokenizer = stated  # noqa: SLF001 - transformers has no setter


def make_exact(backend: Tokenizer) -> None:
    """Undo what an earlier training may have left in tokenizer.json: a length of texts, merges by chance; exact markup.

    Markup matches its own string alone, where a normaliser would make it of other characters in a person's words.
    NFKC makes `<|im_end|>` of full-width letters, a lower-case normaliser of `<|IM_END|>`. A token of one character
    cannot be told from the character; a warning names it.
    """
    from tokenizers import AddedToken

    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None):  # (Provilkov et al. 2020): a text would have other ids each time
        backend.model.dropout = None
    for _, token in sorted(backend.get_added_tokens_decoder().items()):
        text = token.content
        if token.special and len(text) == 1:
            log.warning("the special token %r is one character: it is a token in a person's words, too", text)
        if not (token.normalized and backend.normalizer and (token.special or text.startswith(("<", "[")))):
            continue
        same = backend.normalizer.normalize_str(text)
        others = {text.translate(FULL_WIDTH), text.upper(), text.lower(), text.title()} - {text}
        if any(backend.normalizer.normalize_str(other) == same for other in others):
            flags = {"single_word": token.single_word, "lstrip": token.lstrip, "rstrip": token.rstrip}
            exact = AddedToken(text, **flags, normalized=False)
            (backend.add_special_tokens if token.special else backend.add_tokens)([exact])


def _rules(backend: Tokenizer) -> tuple[object, ...]:
    """What decides how a text is cut, beside the vocabulary; and how tokens are joined again."""
    parts = (backend.normalizer, backend.pre_tokenizer, backend.decoder)
    model = backend.model
    flags = [getattr(model, name, None) for name in ("byte_fallback", "ignore_merges", "fuse_unk")]
    return (*(part and part.__getstate__() for part in parts), type(model), *flags)


def _file_of(place: Path | str, model: ModelOptions, name: str) -> Path | None:
    """A file of a model folder, or of the hub; None: it has none of this name."""
    if isinstance(place, Path):
        return place / name if (place / name).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(
            hf_hub_download(
                place, name, revision=model.model_revision, cache_dir=model.cache_dir, token=model.hf_auth_token
            )
        )
    except EntryNotFoundError:  # of its kind is what is neither here nor to be asked for: transformers says so
        return None


def _chat_template(model: ModelOptions) -> str | None:
    """The chat template of the last checkpoint, where it has one."""
    for name in reversed(model.checkpoints):
        file = Path(name).expanduser() / "chat_template.jinja"
        if file.is_file():
            with as_user_error(name, "chat template"):
                return file.read_text(encoding="utf-8")
    return None


def _has_other_tokens(folder: Path, below: ModelOptions) -> bool:
    """Whether the tokenizer beside an adapter has other tokens than that of the model below the adapter."""
    files = [folder / name for name in VOCABULARIES if (folder / name).is_file()]
    return bool(files) and _compare_tokens(folder, below, *(file.stat().st_mtime_ns for file in files))


@lru_cache(maxsize=8)
def _compare_tokens(folder: Path, below: ModelOptions, *_times: int) -> bool:
    """`_has_other_tokens`, computed once for files of these times: a command asks several times."""
    try:
        own = _read(folder, folder, below)
    except UserError as error:
        log.warning("%s; the tokenizer of %s is used", error, given_name(below))
        return False
    base = load_tokenizer(below)
    tokens, base_tokens = own.get_vocab(), base.get_vocab()
    if tokens == base_tokens:
        return False
    special = own.get_added_vocab().keys() | base.get_added_vocab().keys()
    for token, number in base_tokens.items():
        if token not in special and tokens.get(token) != number:
            raise UserError(
                f"the tokenizer beside the adapter {folder} is not that of {given_name(below)} with tokens added: "
                f"{token!r} is token {number} of the base, and {tokens.get(token, 'no token')} there. "
                "The adapter was trained on another base"
            )
    without_row = sorted(_without_row(folder, tokens, base_tokens, below))
    if [number for number, _ in without_row] == [own.pad_token_id]:  # which no text has: its row is never looked up
        return {name: number for name, number in tokens.items() if number != own.pad_token_id} != base_tokens
    if without_row:
        raise UserError(
            f"the tokenizer of the adapter {folder} has {len(without_row)} tokens (the first: {without_row[0][1]!r}) "
            f"for which neither {given_name(below)} nor the adapter has weights. Give the model that the adapter was "
            "trained on, with its larger vocabulary"
        )
    log.info("the tokenizer of %s is used: its tokens are not those of %s", folder, given_name(below))
    return True


def _without_row(
    folder: Path, tokens: dict[str, int], base_tokens: dict[str, int], below: ModelOptions
) -> Iterator[tuple[int, str]]:
    """The new tokens, with their ids, that have a row neither in the embedding of the base nor in that of the adapter.

    Where the output head has weights of its own, the adapter has to bring a row of it too.
    """
    config = load_config(below)
    rows = max([config.get_text_config().vocab_size, *(number + 1 for number in base_tokens.values())])
    whole = whole_modules(folder, allow_pickle=below.allow_pickle).values()
    embedding, head = (
        max((module.rows for module in whole if module.last_name in names), default=0) for names in (EMBEDDINGS, HEADS)
    )
    no_head = tying_configs(config) or adapter_kind(folder) == "reward"
    rows = max(rows, embedding if no_head else min(embedding, head))
    for token, number in tokens.items():
        if number >= rows:
            yield number, token
