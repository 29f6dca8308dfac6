"""Configuration and tokenizer files, spelled so that other programs read the same model.

    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    make_readable(folder)

transformers 5 renames what transformers 4, vLLM, llama.cpp and others still read by its old name, and writes how a
tokenizer was loaded. Every folder that CareLlama writes (checkpoint, adapter, export, unpacked GGUF) goes through
`make_readable`. Weights and `tokenizer.json` are the same for all readers and stay as they are; llama.cpp's converter
gets a `tokenizer.model` besides, which transformers 5 no longer writes (`carellama.model.sentencepiece_file`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carellama.files import write_json
from carellama.model.sentencepiece_file import (
    FILE,
    added_tokens,
    is_sentencepiece,
    space_before,
    write_tokenizer_model,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

CONFIG, TOKENIZER, GENERATION = "config.json", "tokenizer_config.json", "generation_config.json"
VOCABULARY = "tokenizer.json"
LENGTHS = ("truncation", "padding")  # which an earlier training may have left in tokenizer.json
# What says how and from where our process loaded the files, or which file the author of a .gguf began with.
LOADING_KEYS = (
    *("is_local", "local_files_only", "files_loaded", "backend", "name_or_path", "tokenizer_file", "vocab_file"),
    *("special_tokens_map_file", "cache_dir", "token", "use_auth_token", "revision", "trust_remote_code"),
    *("_name_or_path", "_model_name_or_path", "_commit_hash"),
)
PAD_TOKENS = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|endoftext|>")
UNUSED_TOKEN = re.compile(r"pad|reserved|unused", re.IGNORECASE)
# transformers 4 writes these of GPT-NeoX by other names (GPTNeoXConfig of both versions).
NEOX_NAMES = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
# Their routers are sigmoids in transformers, whatever config.json says. If it says nothing, llama.cpp takes a softmax,
# crashes (dots1) or loads nothing (exaone_moe), and vLLM takes a softmax; vLLM and SGLang read the routers' biases by
# the second name.
SIGMOID_ROUTERS = (
    "deepseek_v3", "deepseek_v32", "dots1", "exaone_moe", "glm4_moe_lite", "glm_moe_dsa", "mimo_v2_flash", "minimax_m2",
)  # fmt: skip
ROUTER = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
# tokens; BLOOM was trained on texts of this length (Le Scao et al. 2022, table 3), and ALiBi sets no limit.
BLOOM_TOKENS = 2048


def share_weights(folder: Path, like: str) -> None:
    """Let who may read a file of the folder read its weights; safetensors writes them for the owner's eyes only."""
    for weights in folder.glob("*.safetensors"):
        weights.chmod((folder / like).stat().st_mode)


def make_readable(folder: Path) -> None:
    """Rewrite config.json, generation_config.json and tokenizer_config.json of `folder`; a missing one is skipped.

    `tokenizer.model` is written for a tokenizer of SentencePiece's kind. A second call changes nothing.
    Raises `OSError` if a file cannot be written.
    """
    spell_papers(folder)
    if not write_tokenizer_model(folder):
        log.warning("SentencePiece splits words in another way than %s; no %s is written", folder / VOCABULARY, FILE)


def spell_papers(folder: Path) -> None:
    """Do what `make_readable` does, but for `tokenizer.model`; a link becomes a file, and what it leads to stays."""
    _rewrite(folder / CONFIG, readable_config)
    _rewrite(folder / GENERATION, readable_generation_config)
    _rewrite(folder / VOCABULARY, lambda state: {key: state[key] if key not in LENGTHS else None for key in state})
    if (folder / VOCABULARY).is_file():
        _rewrite(folder / TOKENIZER, lambda config: readable_tokenizer_config(config, folder))


def readable_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config.json with the old names beside the new ones, and without traces of loading and training."""
    config = {key: value for key, value in config.items() if key not in LOADING_KEYS}
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        part |= _old_rope_names(part)
        if "dtype" in part:
            part["torch_dtype"] = part["dtype"]
        if "num_local_experts" in part:  # Qwen3-MoE of transformers 4 has no other name for it
            part.setdefault("num_experts", part["num_local_experts"])
        if part.get("model_type") == "gpt2" and "n_positions" in part:  # llama.cpp's converter knows the old name only
            part.setdefault("n_ctx", part["n_positions"])
        if part.get("model_type") == "bloom":  # else llama.cpp's converter takes hidden_size for the longest context
            part.setdefault("seq_length", BLOOM_TOKENS)
        if part.get("model_type") in SIGMOID_ROUTERS:
            part |= ROUTER
        if part.get("use_cache") is False:  # gradient checkpointing switches it off
            part["use_cache"] = True
    return config


def readable_generation_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a generation_config.json without the mark that lets transformers 4 derive it from config.json again."""
    return {key: value for key, value in config.items() if key != "_from_model_config"}


def _old_rope_names(config: dict[str, Any]) -> dict[str, Any]:
    """Return `rope_parameters` of transformers 5 under the names of transformers 4.

    There `rope_theta` and `partial_rotary_factor` are fields of the configuration and `rope_scaling` is null for plain
    positions. A model with positions by layer type has those of full attention there, and the base of the sliding
    layers in `rope_local_base_freq` (Gemma 3).
    """
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, dict) or not parameters:
        return {}
    by_layer = any(isinstance(value, dict) for value in parameters.values())
    main = (parameters.get("full_attention") or {}) if by_layer else parameters
    names = NEOX_NAMES if str(config.get("model_type")).startswith("gpt_neox") else {}
    fields = ("rope_theta", "partial_rotary_factor")
    old = {names.get(field, field): main[field] for field in fields if main.get(field) is not None}
    local = parameters.get("sliding_attention") if by_layer else None
    if isinstance(local, dict) and "rope_theta" in local:
        old["rope_local_base_freq"] = local["rope_theta"]
    scaling = {key: value for key, value in main.items() if key not in (*fields, "type")}
    kind = scaling.get("rope_type", "default")
    if kind == "longrope":  # Phi-3 of transformers 4 takes exactly these three; the length is a field beside them
        length = scaling.get("original_max_position_embeddings")
        old |= {"original_max_position_embeddings": length} if length is not None else {}
        scaling = {"type": kind, **{key: scaling[key] for key in ("short_factor", "long_factor") if key in scaling}}
    old["rope_scaling"] = None if kind == "default" else scaling
    return old


def readable_tokenizer_config(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a tokenizer_config.json whose reader uses the tokenizer.json beside it as it is.

    The class becomes `PreTrainedTokenizerFast`, which does so in every version of transformers: the named classes build
    their own rules and ignore those of the file. A tokenizer that brings its own code keeps its class.
    """
    config = {key: value for key, value in config.items() if key not in LOADING_KEYS}
    template = folder / "chat_template.jinja"
    if template.is_file():  # older readers know the entry only; newer ones prefer the file
        config["chat_template"] = template.read_text(encoding="utf-8")
    if "auto_map" in config:
        return config
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.setdefault("model_input_names", ["input_ids", "attention_mask"])  # else transformers 4 adds token_type_ids
    config["clean_up_tokenization_spaces"] = False  # transformers 4 obeys it, 5 does not: it takes spaces out of texts
    extra = config.pop("extra_special_tokens", None)
    if isinstance(extra, dict) and extra:
        config["extra_special_tokens"] = extra
    elif extra:  # transformers 4 reads a list under this name only, transformers 5 under both
        config["additional_special_tokens"] = [*extra, *config.get("additional_special_tokens", [])]
    state = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
    words = state.get("pre_tokenizer") or {}
    if "add_prefix_space" in words:  # transformers sets the file's by this one
        config["add_prefix_space"] = words["add_prefix_space"]
    if is_sentencepiece(state):  # llama.cpp's converter reads these two here, and not in tokenizer.model
        config["add_prefix_space"] = space_before(state) != "never"
        config["added_tokens_decoder"] = config.get("added_tokens_decoder", {}) | added_tokens(state)
    return config


def find_pad_token(tokenizer: PreTrainedTokenizerBase, ends: Collection[int]) -> str | None:
    """Return a token to pad with that is none of `ends` nor the end token; None: the tokenizer has none to spare."""
    vocabulary = tokenizer.get_vocab()
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    spare = [token for token in special if UNUSED_TOKEN.search(token)]
    refused = {*ends, tokenizer.eos_token_id, tokenizer.bos_token_id}
    for token in (tokenizer.pad_token, *PAD_TOKENS, *spare, tokenizer.unk_token):
        if token is not None and token in vocabulary and vocabulary[token] not in refused:
            return str(token)
    return None


def _rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Replace a JSON file by what `change` makes of its object; do nothing if there is no file or no change."""
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    after = change(before)
    if after != before:
        write_json(path, dict(sorted(after.items())))
