"""New tokens of a model: added to its tokenizer, given a place in its embedding and head, and a first meaning.

    added = add_tokens(tokenizer, Path("pieces.txt"))   # one token a line; those it has already are counted
    grow(network, len(tokenizer))
    begin(network, added)                               # each new row: the mean of the rows of its pieces

A new token is taken before the tokenizer looks for its own pieces, the longest first, wherever its characters stand:
good for Chinese terms, which no spaces part, and wrong for words that are parts of other words. It does not train the
rows (`carellama.model.adapters` does) and learns no tokens (`carellama.data.vocabulary` does).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

from carellama.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

LONGEST = 64  # characters of a token; what is longer is a sentence, and a mistake
Added = dict[int, list[int]]  # the new ids, each with the ids that its text was made of before


def read_tokens(path: Path) -> list[str]:
    """Read a file with one token a line; empty lines and repetitions are left out.

    Raises `UserError` for a file that cannot be read or has no tokens, and for a line with white space or that is
    too long to be a token.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the tokens of {path}: {error}") from error
    tokens = []
    for number, line in enumerate(lines, 1):
        token = line.strip()
        if len(token) > LONGEST or token.split() != [token] * bool(token):
            raise UserError(f"{path}:{number} is no token: one a line, without spaces, at most {LONGEST} characters")
        tokens += [token] * bool(token)
    if not tokens:
        raise UserError(f"{path} has no tokens: one a line")
    return list(dict.fromkeys(tokens))


def add_tokens(tokenizer: PreTrainedTokenizerBase, path: Path) -> Added:
    """Add the tokens of a file to the tokenizer; those that are one token already stay what they are.

    Raises `UserError` for a tokenizer that would not give the same text back with them.
    """
    tokens = read_tokens(path)
    before = {token: pieces_of(tokenizer, token) for token in tokens}
    new = [token for token in tokens if len(before[token]) > 1]
    put(tokenizer, new)
    log.info("%s: %d new tokens, %d that the tokenizer has already", path, len(new), len(tokens) - len(new))
    return {cast("int", tokenizer.convert_tokens_to_ids(token)): before[token] for token in new}


def put(tokenizer: PreTrainedTokenizerBase, tokens: list[str]) -> None:
    """Add tokens to a tokenizer, as they are written.

    The tokenizers of Llama 1 and 2 put a space behind every added token, so that text would come back changed; they
    are set to put one at the start of a text only, as those of later models do. Raises `UserError` where text would
    still come back changed.
    """
    from tokenizers import AddedToken

    if not tokens:
        return
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])
    if not _keeps_text(tokenizer, tokens):
        _space_at_start_only(tokenizer)
        if not _keeps_text(tokenizer, tokens):
            raise UserError("this tokenizer changes the text around added tokens; its vocabulary cannot be extended")
        log.info("the tokenizer puts its space at the start of a text only now, not behind every added token")


def _keeps_text(tokenizer: PreTrainedTokenizerBase, tokens: list[str]) -> bool:
    probe = f"患者{tokens[0]}患者{tokens[-1]}a {tokens[0]}"
    text = cast("str", tokenizer.decode(tokenizer(probe, add_special_tokens=False)["input_ids"]))
    return text.strip() == probe


def _space_at_start_only(tokenizer: PreTrainedTokenizerBase) -> None:
    """Set a tokenizer of the SentencePiece kind to its newer manner (`legacy` off)."""
    from tokenizers import normalizers, pre_tokenizers

    backend = tokenizer.backend_tokenizer
    prefixed = isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace)
    if backend.normalizer is not None and "Prepend" in str(backend.normalizer):  # of files before transformers 4.40
        backend.normalizer = normalizers.Sequence([])
        prefixed = True
    if prefixed:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    if hasattr(tokenizer, "legacy"):
        tokenizer.legacy = False
        tokenizer.init_kwargs["legacy"] = False


def pieces_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text within a sentence: without a bare mark of a beginning word, which SentencePiece puts first."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    bare = len(ids) > 1 and tokenizer.convert_ids_to_tokens(ids[0]) == "▁"
    return ids[1:] if bare else ids


def grow(network: PreTrainedModel, size: int) -> None:
    """Give the embedding and the head of a network rows for `size` tokens, if they have fewer."""
    if size > cast("torch.nn.Embedding", network.get_input_embeddings()).num_embeddings:
        network.resize_token_embeddings(size, mean_resizing=False)


def tying_configs(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    """The configurations of a model, its own and that of its text part, that say embedding and head are one weight."""
    both = {id(one): one for one in (config, config.get_text_config())}
    return [one for one in both.values() if getattr(one, "tie_word_embeddings", False)]


def state_own_head(network: PreTrainedModel) -> bool:
    """Have the configuration say so where embedding and head are two weights; return whether it said otherwise.

    transformers 5 ties them only where a file does not have both, or has them equal. transformers 4, vLLM and
    llama.cpp's converter obey the configuration, and would read another model.
    """
    entry, head = network.get_input_embeddings(), network.get_output_embeddings()
    first, second = getattr(entry, "weight", None), getattr(head, "weight", None)
    configs = tying_configs(network.config)
    if not configs or first is None or second is None or first is second:
        return False
    for config in configs:
        config.tie_word_embeddings = False
    return True


def begin(network: PreTrainedModel, added: Added) -> None:
    """Set the new rows of the embedding and the head to the means of the rows of their pieces."""
    import torch

    entry = cast("torch.nn.Embedding", network.get_input_embeddings())
    head = cast("torch.nn.Linear | None", network.get_output_embeddings())
    weights = [entry.weight]
    if head is not None and head.weight is not entry.weight:
        weights += [head.weight, *([head.bias] if getattr(head, "bias", None) is not None else [])]
    with torch.no_grad():
        for weight in weights:
            for row, pieces in added.items():
                weight[row] = weight[pieces].float().mean(0).to(weight.dtype)
